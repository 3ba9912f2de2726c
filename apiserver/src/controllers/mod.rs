//! What a controller manager does for the API itself: garbage collection by owner references, and the
//! end of namespaces and of definitions.

mod events;
mod garbage;
pub(crate) mod namespaces;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::api::{Api, ended};
use crate::status::ApiResult;

/// How long to wait after a change, so that many changes are handled together.
const SETTLE: Duration = Duration::from_millis(30);
/// How often to look even if nothing seems to have changed.
const PERIOD: Duration = Duration::from_secs(30);
/// After a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Does everything that there is to do now.
pub(crate) async fn collect(api: &Arc<Api>) -> ApiResult<()> {
    // What goes can make more go.
    for _ in 0..64 {
        let ended = namespaces::run(api).await?;
        let removed = garbage::run(api).await?;
        if ended + removed == 0 {
            return Ok(());
        }
    }
    Ok(())
}

/// Works until the server ends.
pub(crate) async fn run(api: Arc<Api>) {
    let mut shutdown = api.shutdown.subscribe();
    let mut writes = api.store.collectable();
    let mut expired: Option<Instant> = None;
    loop {
        // What is written from here on wakes the next round, also what this round writes itself.
        writes.mark_unchanged();
        let work = async {
            collect(&api).await?;
            // That reads every event: not after each deletion of anything.
            if expired.is_none_or(|t| t.elapsed() >= PERIOD) {
                events::expire(&api).await?;
                expired = Some(Instant::now());
            }
            Ok(())
        };
        let outcome: ApiResult<()> = work.await;
        let pause = match outcome {
            Ok(()) => PERIOD,
            Err(e) => {
                tracing::warn!(error = %e, "collection was interrupted and will be tried again");
                RETRY
            }
        };
        tokio::select! {
            () = ended(&mut shutdown) => return,
            changed = writes.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = tokio::time::sleep(pause) => {}
        }
        tokio::time::sleep(SETTLE).await;
    }
}
