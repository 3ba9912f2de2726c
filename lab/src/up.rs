//! `strait lab up`: a lab that stays, unless somebody interrupts its making.

use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::clock;
use crate::dir::LabDir;
use crate::interrupt::INTERRUPTED;
use crate::topology::Shape;
use crate::{start, status};

/// Silence after which it is said what is waited for.
const SILENCE: Duration = Duration::from_secs(2);
/// Exit code of a program that SIGTERM ended.
const TERMINATED: u8 = 143;

/// Makes a lab; an exit code where that was interrupted, which leaves nothing.
pub(crate) fn run(dir: &LabDir, shape: &Shape) -> Result<Option<ExitCode>> {
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let _guard = runtime.enter();
    // A terminal that is closed takes nothing with it: its SIGHUP is heard and ignored.
    let _hangup = signal(SignalKind::hangup()).context("cannot catch SIGHUP")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
    let (done, wait) = tokio::sync::oneshot::channel();
    let (making, shape) = (dir.clone(), shape.clone());
    thread::Builder::new().name("up".to_owned()).spawn(move || {
        let made = start::up(&making, &shape, false, &mut |step| {
            status::say(&format!("{}  {step}", clock(started)));
        });
        // The receiver is gone only if the process is about to end.
        let _ = done.send(made.map(drop));
    })?;
    let ended = runtime.block_on(async {
        tokio::select! {
            biased;
            made = wait => Ok(made),
            _ = interrupt.recv() => Err((INTERRUPTED, "interrupted")),
            _ = terminate.recv() => Err((TERMINATED, "ended by SIGTERM, as `strait lab down` sends it")),
        }
    });
    match ended {
        Ok(made) => {
            made.map_err(|_| anyhow!("making the lab panicked"))??;
            status::say(&format!("{}  ready", clock(started)));
            Ok(None)
        }
        Err((code, why)) => {
            start::down_own(dir).context("cannot take the lab down")?;
            status::say(&format!("strait: {why}; everything is taken down"));
            Ok(Some(ExitCode::from(code)))
        }
    }
}

/// Does something, and says what is waited for where it takes long.
pub(crate) fn saying<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let (done, wait) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            if wait.recv_timeout(SILENCE) == Err(RecvTimeoutError::Timeout) {
                status::say(&format!("waiting for {what} …"));
            }
        });
        let result = work();
        drop(done);
        result
    })
}
