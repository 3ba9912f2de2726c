//! One replica leads; another takes over when it ends.

#![allow(clippy::unwrap_used, reason = "a test fails where there is none")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{Home, until};
use kube::Client;
use strait_api::names;
use strait_broker::leader::run_while_leading;
use strait_daemon::Shutdown;

struct Replica {
    shutdown: Shutdown,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

/// Runs a replica that counts how often it leads, and how many lead right now.
fn replica(
    client: &Client,
    name: &'static str,
    terms: &Arc<AtomicUsize>,
    leading: &Arc<AtomicUsize>,
) -> Replica {
    let shutdown = Shutdown::default();
    let (client, terms, leading, until) = (client.clone(), terms.clone(), leading.clone(), shutdown.clone());
    let task = tokio::spawn(async move {
        run_while_leading(
            client,
            names::NAMESPACE,
            names::AGENT_LEASE,
            name,
            until,
            |term| {
                let leading = leading.clone();
                terms.fetch_add(1, Ordering::SeqCst);
                async move {
                    assert_eq!(leading.fetch_add(1, Ordering::SeqCst), 0, "two replicas lead");
                    term.wait().await;
                    leading.fetch_sub(1, Ordering::SeqCst);
                    Ok(())
                }
            },
        )
        .await
    });
    Replica { shutdown, task }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_replica_leads_and_the_other_takes_over_when_it_ends() {
    let home = Home::start("blue", 1).await;
    let leading = Arc::new(AtomicUsize::new(0));
    let (one, two) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let first = replica(&home.agent_client, "one", &one, &leading);
    let leads = async |terms: &Arc<AtomicUsize>| {
        until("a replica that leads", || async {
            let state = (terms.load(Ordering::SeqCst), leading.load(Ordering::SeqCst));
            if state == (1, 1) {
                Ok(())
            } else {
                Err(format!("{state:?}"))
            }
        })
        .await
    };
    leads(&one).await;
    let second = replica(&home.agent_client, "two", &two, &leading);
    // It ends in good order, and gives the Lease back.
    let ended = std::time::Instant::now();
    first.shutdown.trigger();
    first.task.await.unwrap().unwrap();
    leads(&two).await;
    let handover = ended.elapsed();
    assert!(
        handover < Duration::from_secs(10),
        "the term would have run for 15 s; handed over after {handover:?}"
    );
    assert_eq!(one.load(Ordering::SeqCst), 1);
    second.shutdown.trigger();
    second.task.await.unwrap().unwrap();
    assert_eq!(leading.load(Ordering::SeqCst), 0);
    home.stop().await;
}
