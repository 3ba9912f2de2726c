//! Work that somebody may interrupt, and that is cleared up after.

use std::thread;

use anyhow::{Result, anyhow};
use tokio::signal::unix::{SignalKind, signal};

/// Exit code of a program that Ctrl-C ended.
pub(crate) const INTERRUPTED: u8 = 130;

/// Does it in a thread of its own, called `what`; `None` where Ctrl-C, SIGTERM or the end of the terminal comes first,
/// also if the work ends of the same: its outcome says nothing then.
pub(crate) fn unless_interrupted<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<Option<T>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let (done, told) = tokio::sync::oneshot::channel();
        thread::Builder::new().name(what.to_owned()).spawn(move || {
            // The receiver is gone only if the process is about to end.
            let _ = done.send(work());
        })?;
        Ok(tokio::select! {
            biased;
            _ = interrupt.recv() => None,
            _ = terminate.recv() => None,
            _ = hangup.recv() => None,
            told = told => Some(told.map_err(|_| anyhow!("the {what} panicked"))?),
        })
    })
}
