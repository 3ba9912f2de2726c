//! Processes told apart for good: by number and start time, since numbers are used again.

use std::fs;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::procfs::Listed;

/// A process as seen through the host's /proc.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pub(crate) pid: i32,
    /// Field 22 of /proc/PID/stat: clock ticks since boot.
    pub(crate) start: u64,
}

impl ProcessId {
    /// The calling process. /proc is the host's also in a PID namespace of the lab, so the number is the
    /// host's.
    pub(crate) fn current() -> Result<Self> {
        let link = fs::read_link("/proc/self").context("cannot read /proc/self; is /proc mounted?")?;
        let pid = link
            .to_str()
            .and_then(|s| s.parse().ok())
            .context("/proc/self is no number")?;
        Ok(Self {
            pid,
            start: start_time(pid).context("cannot read /proc/self/stat")?,
        })
    }

    /// The process that has this number now, if any.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        Some(Self {
            pid,
            start: start_time(pid)?,
        })
    }

    /// Whether it still runs.
    pub(crate) fn alive(&self) -> bool {
        start_time(self.pid) == Some(self.start)
    }

    /// Whether it still runs after `patience`; told as soon as it does not. By /proc alone, as the number means
    /// nothing in a lab's PID namespace.
    pub(crate) fn outlives(&self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        while self.alive() {
            if Instant::now() >= end {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    /// Sends a signal and waits until the process is gone. It may be gone already.
    pub(crate) fn end(&self, signal: Signal, patience: Duration) -> Result<()> {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return Ok(());
        };
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(Errno::SRCH) => return Ok(()),
            Err(e) => return Err(e).with_context(|| format!("cannot open process {}", self.pid)),
        };
        // The descriptor pins the number: only now does the start time prove whose it is.
        if !self.alive() {
            return Ok(());
        }
        match pidfd_send_signal(&fd, signal) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(e) => return Err(e).with_context(|| format!("cannot signal process {}", self.pid)),
        }
        let patience = Timespec {
            tv_sec: patience.as_secs() as i64,
            tv_nsec: 0,
        };
        let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)];
        match poll(&mut fds, Some(&patience)) {
            Ok(0) => bail!("process {} does not end", self.pid),
            Ok(_) => Ok(()),
            Err(e) => Err(e).with_context(|| format!("cannot wait for process {}", self.pid)),
        }
    }
}

/// `None` for a process that does not exist or is dead and not yet waited for.
fn start_time(pid: i32) -> Option<u64> {
    let listed = Listed::now(pid).filter(|listed| !listed.ended)?;
    Some(listed.start)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_alive_until_it_ends_and_a_reused_number_is_not_it() {
        let me = ProcessId::current().unwrap();
        assert!(me.alive());
        assert!(
            !ProcessId {
                start: me.start + 1,
                ..me
            }
            .alive()
        );

        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id() as i32;
        let id = ProcessId {
            pid,
            start: start_time(pid).unwrap(),
        };
        ProcessId {
            start: id.start + 1,
            ..id
        }
        .end(Signal::KILL, Duration::from_secs(1))
        .unwrap();
        assert!(id.alive(), "another process was signalled");
        assert!(id.outlives(Duration::ZERO));
        id.end(Signal::KILL, Duration::from_secs(10)).unwrap();
        assert!(!id.outlives(Duration::from_secs(60)));
        child.wait().unwrap();
        id.end(Signal::KILL, Duration::from_secs(1)).unwrap();
    }
}
