//! What stands on nodes while a benchmark measures: takers of loads, and the bare data path.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStdin, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::cpu;
use crate::dir::LabDir;
use crate::tool::{EngineSpec, errand};

/// A process in the lab that ends with its value, or with this process: it is held by its standard input, as ending
/// `lab exec` would leave what that runs.
struct Held {
    child: Child,
    input: Option<ChildStdin>,
}

/// How long it may take to end.
const PATIENCE: Duration = Duration::from_secs(20);

impl Held {
    fn start(dir: &LabDir, place: &str, arguments: &[&str]) -> Result<Self> {
        let mut child = errand::command(dir, place, arguments)?
            .stdin(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run a command in {place}"))?;
        Ok(Self {
            input: child.stdin.take(),
            child,
        })
    }

    fn end(&mut self) -> Result<()> {
        self.input = None;
        let started = Instant::now();
        while self.child.try_wait()?.is_none() {
            ensure!(
                started.elapsed() < PATIENCE,
                "a command of the benchmark does not end"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!("{error:#}");
        }
    }
}

/// Somebody on a node who takes loads.
pub(super) struct Taker {
    _held: Held,
}

impl Taker {
    pub(super) fn start(dir: &LabDir, place: &str, port: u16) -> Result<Self> {
        let arguments = ["take-loads", "--held", "--port", &port.to_string()];
        Ok(Self {
            _held: Held::start(dir, place, &arguments)?,
        })
    }
}

/// An end of the bare data path.
pub(super) struct Engine {
    _held: Held,
    /// Its process, as this machine numbers it.
    pub(super) process: i32,
}

impl Engine {
    pub(super) fn start(dir: &LabDir, place: &str, spec: &EngineSpec) -> Result<Self> {
        let mut held = Held::start(dir, place, &["engine"])?;
        let told = serde_json::to_string(spec)?;
        if let Some(input) = &mut held.input {
            // Where it has ended already, its complaint says more.
            let _ = writeln!(input, "{told}");
        }
        let mut first = String::new();
        BufReader::new(held.child.stdout.take().context("no standard output")?).read_line(&mut first)?;
        if first.is_empty() {
            let mut said = Vec::new();
            if let Some(mut errors) = held.child.stderr.take() {
                errors.read_to_end(&mut said)?;
            }
            bail!("{place}: {}", errand::complaint(&said));
        }
        let process = cpu::descendant(held.child.id(), "engine");
        Ok(Self {
            process: process.with_context(|| format!("cannot find the data path's process on {place}"))?,
            _held: held,
        })
    }
}
