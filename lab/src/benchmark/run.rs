//! What measures, in pods and on nodes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::de::DeserializeOwned;

use super::cpu;
use crate::dir::LabDir;
use crate::tool::EngineSpec;

/// A tool at work somewhere in the lab.
pub(super) struct Tool {
    child: Child,
    place: String,
}

/// One of the lab's tools, as `lab exec` runs it.
fn command(dir: &LabDir, place: &str, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("cannot find this program's file")?);
    command
        .args([
            "lab",
            "--name",
            dir.name(),
            "exec",
            place,
            "--",
            "strait",
            "lab-tool",
        ])
        .args(arguments)
        // Ctrl-C is for the benchmark, which takes all down; what comes of that is no failure.
        .process_group(0)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Ok(command)
}

impl Tool {
    pub(super) fn start(dir: &LabDir, place: &str, arguments: &[&str]) -> Result<Self> {
        let child = command(dir, place, arguments)?
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot run a command in {place}"))?;
        Ok(Self {
            child,
            place: place.to_owned(),
        })
    }

    /// Ends it. It has nothing to say.
    pub(super) fn end(mut self) {
        // Either fails only where it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// What it says in the end.
    pub(super) fn result<T: DeserializeOwned>(self) -> Result<T> {
        let output = self
            .child
            .wait_with_output()
            .context("cannot wait for a command")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("{}: {}", self.place, said.trim().trim_start_matches("strait: "));
        }
        serde_json::from_slice(&output.stdout).with_context(|| format!("{} said something else", self.place))
    }
}

/// An end of the bare data path. It ends with its value, or with this process.
pub(super) struct Engine {
    child: Child,
    /// The end of this ends it.
    input: Option<ChildStdin>,
    /// Its process, as this machine numbers it.
    pub(super) process: i32,
}

/// How long an end may take to start, and to end.
const PATIENCE: Duration = Duration::from_secs(20);

impl Engine {
    pub(super) fn start(dir: &LabDir, place: &str, spec: &EngineSpec) -> Result<Self> {
        let mut child = command(dir, place, &["engine"])?
            .stdin(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run the data path on {place}"))?;
        let mut input = child.stdin.take().context("no standard input")?;
        let told = serde_json::to_string(spec)?;
        // Where it has ended already, its complaint says more.
        let _ = writeln!(input, "{told}");
        let mut first = String::new();
        BufReader::new(child.stdout.take().context("no standard output")?).read_line(&mut first)?;
        if first.is_empty() {
            let output = child.wait_with_output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("{place}: {}", said.trim().trim_start_matches("strait: "));
        }
        let process = cpu::descendant(child.id(), "engine");
        Ok(Self {
            process: process.with_context(|| format!("cannot find the data path's process on {place}"))?,
            child,
            input: Some(input),
        })
    }

    fn end(&mut self) -> Result<()> {
        self.input = None;
        let started = Instant::now();
        while self.child.try_wait()?.is_none() {
            ensure!(
                started.elapsed() < PATIENCE,
                "an end of the bare data path does not end"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!("{error:#}");
        }
    }
}
