//! Waiting for conditions.

use std::fmt::Display;
use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Asks until the answer is no error. When time is up, the last error is the reason.
pub(crate) async fn until<T, F>(
    what: impl Display,
    patience: Duration,
    mut ask: impl FnMut() -> F,
) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let started = Instant::now();
    loop {
        match ask().await {
            Ok(value) => return Ok(value),
            Err(error) if started.elapsed() >= patience => {
                return Err(error).with_context(|| format!("{what} did not come within {patience:?}"));
            }
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// The same, for those who have no run time.
pub(crate) fn until_blocking<T>(
    what: impl Display,
    patience: Duration,
    mut ask: impl FnMut() -> Result<T>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        match ask() {
            Ok(value) => return Ok(value),
            Err(error) if started.elapsed() >= patience => {
                return Err(error).with_context(|| format!("{what} did not come within {patience:?}"));
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}
