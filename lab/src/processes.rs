//! Processes of a lab, each in its namespace, its output in a file; started again when they die, as kubelet
//! and systemd would.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use strait_linux::mounts::Mounts;
use strait_linux::netns::Netns;
use strait_linux::uts;

/// First pause before a process is started again; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A process that ran for so long starts over with the first pause.
const HEALTHY: Duration = Duration::from_secs(10);

/// How long the kernel may take to end a process that was killed.
const DEATH: Duration = Duration::from_secs(10);
/// How long a process is waited for that was asked to end.
const FAREWELL: Duration = Duration::from_secs(2);

/// What to run.
#[derive(Debug)]
pub(crate) struct Spec {
    /// `CLUSTER/NODE/DAEMON`, or `CLUSTER/POD` for a pod's process.
    pub(crate) id: String,
    /// Program and arguments.
    pub(crate) argv: Vec<OsString>,
    /// Its environment.
    pub(crate) env: BTreeMap<String, String>,
    /// Whether it gets the supervisor's environment as well.
    pub(crate) inherit: bool,
    /// Where.
    pub(crate) namespace: Netns,
    /// Its host name, where that is not the machine's.
    pub(crate) hostname: Option<String>,
    /// What its files are, where they are not the machine's.
    pub(crate) mounts: Option<Mounts>,
    /// Its output.
    pub(crate) log: PathBuf,
    /// A listening socket for its standard input.
    pub(crate) stdin: Option<OwnedFd>,
}

/// How a process is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessStatus {
    /// `CLUSTER/NODE/DAEMON`.
    pub(crate) id: String,
    /// Its number inside the lab, while it runs.
    pub(crate) pid: Option<i32>,
    /// How often it was started again.
    pub(crate) restarts: u32,
    /// How it ended last.
    pub(crate) last_end: Option<String>,
}

/// All processes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Processes(Arc<Mutex<BTreeMap<String, Arc<Process>>>>);

#[derive(Debug)]
struct Process {
    spec: Spec,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    pid: Option<Pid>,
    restarts: u32,
    last_end: Option<String>,
    stopping: bool,
    ended: bool,
}

impl Processes {
    /// Starts a process and keeps it running.
    pub(crate) fn start(&self, spec: Spec) -> Result<()> {
        let mut all = self.lock();
        if all.contains_key(&spec.id) {
            bail!("{} exists already", spec.id);
        }
        let id = spec.id.clone();
        let process = Arc::new(Process {
            spec,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        // The first start is done here, so that a program that cannot be run is the caller's error.
        let child = process.spawn()?;
        let keeper = Arc::clone(&process);
        thread::Builder::new()
            .name(id.clone())
            .spawn(move || keeper.keep(child))
            .with_context(|| format!("cannot start a thread for {id}"))?;
        all.insert(id, process);
        Ok(())
    }

    /// Sends a signal; of one that ends processes, waits for the end, if that comes soon. The process is
    /// started again if it dies of it.
    pub(crate) fn kill(&self, id: &str, signal: Signal) -> Result<()> {
        let process = self.find(id)?;
        let state = process.state();
        let Some(pid) = state.pid else {
            bail!("{id} is not running at the moment")
        };
        kill_process(pid, signal).with_context(|| format!("cannot signal {id}"))?;
        let patience = match signal {
            Signal::KILL => DEATH,
            // Whoever catches it may take its time, or go on.
            Signal::TERM | Signal::INT | Signal::QUIT | Signal::ABORT | Signal::SEGV => FAREWELL,
            _ => return Ok(()),
        };
        let (state, _) = process
            .changed
            .wait_timeout_while(state, patience, |s| s.pid == Some(pid))
            .unwrap_or_else(PoisonError::into_inner);
        if signal == Signal::KILL && state.pid == Some(pid) {
            bail!("{id} was killed and is not gone after {patience:?}");
        }
        Ok(())
    }

    /// Ends a process for good.
    pub(crate) fn stop(&self, id: &str) -> Result<()> {
        let process = self.find(id)?;
        let mut state = process.state();
        state.stopping = true;
        process.changed.notify_all();
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut signal = Signal::TERM;
        while !state.ended {
            if let Some(pid) = state.pid {
                match kill_process(pid, signal) {
                    Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                    Err(e) => return Err(e).with_context(|| format!("cannot end {id}")),
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                signal = Signal::KILL;
            }
            let patience = left.max(Duration::from_millis(200));
            state = process
                .changed
                .wait_timeout_while(state, patience, |s| !s.ended)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        drop(state);
        self.lock().remove(id);
        Ok(())
    }

    /// How they all are.
    pub(crate) fn status(&self) -> Vec<ProcessStatus> {
        self.lock().values().map(|p| p.status()).collect()
    }

    /// How one is.
    pub(crate) fn status_of(&self, id: &str) -> Option<ProcessStatus> {
        self.lock().get(id).map(|p| p.status())
    }

    fn find(&self, id: &str) -> Result<Arc<Process>> {
        let all = self.lock();
        match all.get(id) {
            Some(process) => Ok(Arc::clone(process)),
            None => {
                let known: Vec<&str> = all.keys().map(String::as_str).collect();
                bail!("there is no process {id}; there are {}", known.join(", "))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Process>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Process {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> ProcessStatus {
        let state = self.state();
        ProcessStatus {
            id: self.spec.id.clone(),
            pid: state.pid.map(|p| p.as_raw_nonzero().get()),
            restarts: state.restarts,
            last_end: state.last_end.clone(),
        }
    }

    fn spawn(&self) -> Result<Child> {
        let spec = &self.spec;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&spec.log)
            .with_context(|| format!("cannot open the log {}", spec.log.display()))?;
        let mut argv = spec.argv.iter();
        let program = argv.next().context("no command was given")?;
        let mut command = Command::new(program);
        if !spec.inherit {
            command.env_clear();
        }
        command.args(argv).envs(&spec.env).stdin(self.stdin()?);
        command.stdout(log.try_clone()?).stderr(log);
        spec.namespace.attach(&mut command);
        if let Some(name) = &spec.hostname {
            uts::attach(&mut command, name);
        }
        if let Some(mounts) = &spec.mounts {
            mounts.attach(&mut command);
        }
        let mut state = self.state();
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {} for {}", program.display(), spec.id))?;
        state.pid = Pid::from_raw(child.id().cast_signed());
        Ok(child)
    }

    fn stdin(&self) -> Result<Stdio> {
        Ok(match &self.spec.stdin {
            Some(fd) => fd.try_clone()?.into(),
            None => File::open("/dev/null")?.into(),
        })
    }

    fn keep(&self, first: Child) {
        let mut pause = FIRST_PAUSE;
        let mut child = Some(first);
        loop {
            if let Some(mut running) = child.take() {
                let started = Instant::now();
                let end = running.wait().map_or_else(|e| e.to_string(), |s| describe(&s));
                if started.elapsed() >= HEALTHY {
                    pause = FIRST_PAUSE;
                }
                let mut state = self.state();
                state.pid = None;
                self.changed.notify_all();
                if !state.stopping {
                    tracing::warn!("{} ended: {end}; it is started again in {pause:?}", self.spec.id);
                }
                state.last_end = Some(end);
            }
            let state = self.state();
            let (mut state, _) = self
                .changed
                .wait_timeout_while(state, pause, |s| !s.stopping)
                .unwrap_or_else(PoisonError::into_inner);
            pause = (pause * 2).min(LONGEST_PAUSE);
            if state.stopping {
                state.ended = true;
                self.changed.notify_all();
                return;
            }
            state.restarts += 1;
            drop(state);
            match self.spawn() {
                Ok(again) => child = Some(again),
                Err(error) => {
                    tracing::warn!("{error:#}");
                    self.state().last_end = Some(format!("{error:#}"));
                }
            }
        }
    }
}

fn describe(status: &ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (_, Some(signal)) => format!("signal {signal}"),
        _ => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(dir: &tempfile::TempDir, id: &str, script: &str) -> Spec {
        Spec {
            id: id.to_owned(),
            argv: ["sh", "-c", script].iter().map(OsString::from).collect(),
            env: BTreeMap::from([("GREETING".to_owned(), "hello".to_owned())]),
            inherit: true,
            namespace: Netns::new().unwrap(),
            hostname: Some("box".to_owned()),
            mounts: None,
            log: dir.path().join("log"),
            stdin: None,
        }
    }

    fn until(what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !condition() {
            assert!(Instant::now() < deadline, "{what} did not come");
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_process_that_is_killed_comes_back_and_one_that_is_stopped_does_not() {
        strait_linux::testing::as_root(
            "processes::tests::a_process_that_is_killed_comes_back_and_one_that_is_stopped_does_not",
            || {
                let dir = tempfile::tempdir().unwrap();
                let processes = Processes::default();
                processes
                    .start(spec(
                        &dir,
                        "a/b/c",
                        "[ $(cat /proc/sys/kernel/hostname) = box ] && echo $GREETING; exec sleep 1000",
                    ))
                    .unwrap();
                let log = || std::fs::read_to_string(dir.path().join("log")).unwrap();
                until("the first start", || log() == "hello\n");
                let first = processes.status().remove(0).pid;
                processes.kill("a/b/c", Signal::CONT).unwrap();
                assert_eq!(
                    processes.status().remove(0).pid,
                    first,
                    "what ends nobody is not waited for"
                );
                processes.kill("a/b/c", Signal::KILL).unwrap();
                assert_ne!(
                    processes.status().remove(0).pid,
                    first,
                    "it is gone when kill is done"
                );
                until("the second start", || log() == "hello\nhello\n");
                let status = processes.status().remove(0);
                assert_eq!(status.restarts, 1);
                assert_eq!(status.last_end.as_deref(), Some("signal 9"));
                let error = processes.kill("a/b/d", Signal::KILL).unwrap_err().to_string();
                assert!(error.contains("a/b/c"), "{error}");
                processes.stop("a/b/c").unwrap();
                assert_eq!(processes.status(), []);
            },
        );
    }

    #[test]
    fn a_program_that_does_not_exist_is_an_error_at_once() {
        strait_linux::testing::as_root(
            "processes::tests::a_program_that_does_not_exist_is_an_error_at_once",
            || {
                let dir = tempfile::tempdir().unwrap();
                let mut spec = spec(&dir, "a", "");
                spec.argv = vec!["/nonexistent/program".into()];
                let error = Processes::default().start(spec).unwrap_err().to_string();
                assert!(error.contains("/nonexistent/program"), "{error}");
            },
        );
    }
}
