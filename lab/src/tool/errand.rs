//! The tools, run in places of a lab as `lab exec` runs them.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::de::DeserializeOwned;

use crate::alive::ProcessId;
use crate::dir::LabDir;
use crate::enter;
use crate::procfs::Table;

/// How long those may take that end with their standard input.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long the kernel may take to end what was killed.
const DEATH: Duration = Duration::from_secs(10);

/// All tools that somebody has at work, to be ended together. Each is a process group, as what `lab exec` runs does
/// not end with it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Crew(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    ended: bool,
    /// By the group's number, its first process.
    at_work: BTreeMap<i32, Worker>,
}

#[derive(Debug)]
struct Worker {
    first: ProcessId,
    /// Of those that end with it, and put in order first what they have changed.
    input: Option<ChildStdin>,
}

impl Crew {
    /// Starts a tool in a place.
    pub(crate) fn start(
        &self,
        dir: &LabDir,
        place: &str,
        arguments: &[impl AsRef<str>],
        input: Stdio,
    ) -> Result<Child> {
        let mut command = enter::strait_in(dir, place)?;
        command
            .arg("lab-tool")
            .args(arguments.iter().map(AsRef::as_ref))
            // Ctrl-C is for whoever starts it, which takes all down; what comes of that is no failure.
            .process_group(0)
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(!state.ended, "no command starts in {place} any more");
        let child = command
            .spawn()
            .with_context(|| format!("cannot run a command in {place}"))?;
        let number = child.id().cast_signed();
        if let Some(first) = ProcessId::of(number) {
            state.at_work.insert(number, Worker { first, input: None });
        }
        Ok(child)
    }

    /// Keeps the standard input of one that ends with it.
    pub(crate) fn hold(&self, number: u32, input: ChildStdin) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(worker) = state.at_work.get_mut(&number.cast_signed()) {
            worker.input = Some(input);
        }
    }

    /// Lets go of its standard input.
    pub(crate) fn release(&self, number: u32) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(worker) = state.at_work.get_mut(&number.cast_signed()) {
            worker.input = None;
        }
    }

    /// One has ended and was waited for.
    pub(crate) fn left(&self, number: u32) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.at_work.remove(&number.cast_signed());
    }

    /// Ends all that are at work and waits until they are gone; none starts any more.
    pub(crate) fn end(&self) -> Result<()> {
        let mut at_work = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.ended = true;
            std::mem::take(&mut state.at_work)
        };
        let mut farewell = false;
        for worker in at_work.values_mut() {
            match worker.input.take() {
                Some(_) => farewell = true,
                None => worker.kill()?,
            }
        }
        if farewell && !gone(&at_work, FAREWELL) {
            at_work.values().try_for_each(Worker::kill)?;
        }
        ensure!(gone(&at_work, DEATH), "a command in the lab does not end");
        Ok(())
    }
}

impl Worker {
    fn kill(&self) -> Result<()> {
        // The number may be another's by now, where somebody waited for it a moment ago.
        let group = Pid::from_raw(self.first.pid).filter(|_| self.first.alive());
        match group.map_or(Ok(()), |group| kill_process_group(group, Signal::KILL)) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error).context("cannot end a command in the lab"),
        }
    }
}

/// Whether all end in time.
fn gone(workers: &BTreeMap<i32, Worker>, patience: Duration) -> bool {
    let started = Instant::now();
    while !workers.is_empty() {
        let table = Table::now();
        if !workers.keys().any(|group| table.group_lives(*group)) {
            break;
        }
        if started.elapsed() > patience {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// What a tool that failed says, without this program's name before it.
pub(crate) fn complaint(stderr: &[u8]) -> String {
    let said = String::from_utf8_lossy(stderr);
    said.trim().trim_start_matches("strait: ").to_owned()
}

/// A tool at work somewhere in the lab.
pub(crate) struct Errand {
    child: Child,
    crew: Crew,
    place: String,
}

impl Errand {
    pub(crate) fn start(
        crew: &Crew,
        dir: &LabDir,
        place: &str,
        arguments: &[impl AsRef<str>],
    ) -> Result<Self> {
        Ok(Self {
            child: crew.start(dir, place, arguments, Stdio::null())?,
            crew: crew.clone(),
            place: place.to_owned(),
        })
    }

    /// What it says in the end.
    pub(crate) fn result<T: DeserializeOwned>(self) -> Result<T> {
        let number = self.child.id();
        let output = self.child.wait_with_output();
        self.crew.left(number);
        let output = output.context("cannot wait for a command")?;
        if !output.status.success() {
            bail!("{}: {}", self.place, complaint(&output.stderr));
        }
        serde_json::from_slice(&output.stdout).with_context(|| format!("{} said something else", self.place))
    }
}
