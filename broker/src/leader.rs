//! One of several replicas at a time.
//!
//! The agent has two replicas and one writer: whoever holds the Lease runs the work, and stops at once when
//! it cannot renew it.

use std::time::Duration;

use kube::Client;
use kube_lease_manager::LeaseManagerBuilder;
use strait_daemon::Shutdown;

/// How long a Lease holds after it was renewed last, in seconds.
const LEASE: u64 = 15;
/// How long before its end it is renewed.
const GRACE: u64 = 5;
/// How often a replica that waits looks whether the Lease was given back. (Left alone, the Lease's keeper
/// sleeps until the term that it saw last has run out.)
const LOOK: Duration = Duration::from_secs(2);

/// Runs `work` while this process holds the Lease, again each time that it is won, until shut down. `work`
/// gets a [`Shutdown`] of its own, which is triggered when the Lease is lost.
///
/// # Errors
/// What `work` ended with; losing the Lease is no error.
pub async fn run_while_leading<F, W>(
    client: Client,
    namespace: &str,
    lease: &str,
    identity: &str,
    shutdown: Shutdown,
    mut work: W,
) -> anyhow::Result<()>
where
    W: FnMut(Shutdown) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    let mut pause = Duration::from_millis(500);
    while !shutdown.is_triggered() {
        let manager = LeaseManagerBuilder::new(client.clone(), lease)
            .with_namespace(namespace)
            .with_identity(identity)
            .with_duration(LEASE)
            .with_grace(GRACE)
            .build();
        let manager = tokio::select! {
            manager = manager => manager,
            () = shutdown.wait() => return Ok(()),
        };
        match manager {
            Ok(manager) => {
                pause = Duration::from_millis(500);
                let (mut state, task) = manager.watch().await;
                let ended = lead(&mut state, &shutdown, &mut work).await;
                drop(state);
                // The manager gives the Lease back when nobody listens any longer.
                match tokio::time::timeout(Duration::from_secs(3), task).await {
                    Ok(Ok(Ok(_))) => {}
                    Ok(Ok(Err(e))) => tracing::warn!(error = %e, lease, "the lease could not be given back"),
                    Ok(Err(e)) => tracing::warn!(error = %e, lease, "the lease's keeper failed"),
                    Err(_) => tracing::debug!(lease, "the lease is left to run out"),
                }
                ended?;
            }
            Err(e) => {
                tracing::warn!(error = %e, lease, "the lease cannot be looked at; trying again");
                tokio::select! {
                    () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(10)),
                    () = shutdown.wait() => {}
                }
            }
        }
    }
    Ok(())
}

async fn lead<F, W>(
    state: &mut tokio::sync::watch::Receiver<bool>,
    shutdown: &Shutdown,
    work: &mut W,
) -> anyhow::Result<()>
where
    W: FnMut(Shutdown) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    loop {
        tokio::select! {
            over = becomes(state, true) => if over { return Ok(()) },
            () = tokio::time::sleep(LOOK) => return Ok(()),
            () = shutdown.wait() => return Ok(()),
        }
        tracing::info!("this replica leads");
        let term = Shutdown::default();
        let running = work(term.clone());
        tokio::pin!(running);
        tokio::select! {
            ended = &mut running => return ended,
            over = becomes(state, false) => {
                tracing::warn!("this replica leads no longer");
                term.trigger();
                running.await?;
                if over {
                    return Ok(());
                }
            }
            () = shutdown.wait() => {
                term.trigger();
                return running.await;
            }
        }
    }
}

/// Waits until the Lease is held, or is not; true if its keeper has ended.
async fn becomes(state: &mut tokio::sync::watch::Receiver<bool>, held: bool) -> bool {
    state.wait_for(|now| *now == held).await.is_err()
}
