//! What stands on nodes while a benchmark measures: takers of loads, and the bare data path.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::alive::ProcessId;
use crate::dir::LabDir;
use crate::procfs::Table;
use crate::tool::{Crew, EngineSpec, errand};

/// A process in the lab that ends with its value, or with this process: it is held by its standard input, as ending
/// `lab exec` would leave what that runs.
pub(super) struct Held {
    child: Child,
    crew: Crew,
}

/// How long it may take to end.
const PATIENCE: Duration = Duration::from_secs(20);

impl Held {
    /// Starts one that says nothing; with a line to read, and until it has said its first, where `told` is given.
    pub(super) fn start(
        crew: &Crew,
        dir: &LabDir,
        place: &str,
        arguments: &[&str],
        told: Option<&str>,
    ) -> Result<Self> {
        let mut held = Self {
            child: crew.start(dir, place, arguments, Stdio::piped())?,
            crew: crew.clone(),
        };
        if let (Some(input), Some(told)) = (&mut held.child.stdin, told) {
            // Where it has ended already, its complaint says more.
            let _ = writeln!(input, "{told}");
        }
        if let Some(input) = held.child.stdin.take() {
            crew.hold(held.child.id(), input);
        }
        if told.is_some() {
            let mut first = String::new();
            BufReader::new(held.child.stdout.take().context("no standard output")?).read_line(&mut first)?;
            if first.is_empty() {
                let mut said = Vec::new();
                if let Some(mut errors) = held.child.stderr.take() {
                    errors.read_to_end(&mut said)?;
                }
                bail!("{place}: {}", errand::complaint(&said));
            }
        }
        Ok(held)
    }

    fn end(&mut self) -> Result<()> {
        self.crew.release(self.child.id());
        let started = Instant::now();
        while self.child.try_wait()?.is_none() {
            ensure!(
                started.elapsed() < PATIENCE,
                "a command of the benchmark does not end"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        self.crew.left(self.child.id());
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
pub(super) fn taker(crew: &Crew, dir: &LabDir, place: &str, port: u16) -> Result<Held> {
    let arguments = ["take-loads", "--held", "--port", &port.to_string()];
    Held::start(crew, dir, place, &arguments, None)
}

/// Somebody who lets a node answer all probes.
pub(super) fn answerer(crew: &Crew, dir: &LabDir, place: &str) -> Result<Held> {
    Held::start(crew, dir, place, &["answer-probes"], Some(""))
}

/// An end of the bare data path.
pub(super) struct Engine {
    _held: Held,
    /// Its process.
    pub(super) process: ProcessId,
}

impl Engine {
    pub(super) fn start(crew: &Crew, dir: &LabDir, place: &str, spec: &EngineSpec) -> Result<Self> {
        let told = serde_json::to_string(spec)?;
        let held = Held::start(crew, dir, place, &["engine"], Some(&told))?;
        let process = Table::now().descendant(held.child.id(), "engine");
        Ok(Self {
            process: process
                .and_then(ProcessId::of)
                .with_context(|| format!("cannot find the data path's process on {place}"))?,
            _held: held,
        })
    }
}
