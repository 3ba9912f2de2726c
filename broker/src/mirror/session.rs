//! A session with the broker: opened, watched over, and opened again when it breaks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Client;
use kube::api::{Api, DynamicObject};
use kube::runtime::watcher::{self, Event};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde_json::json;
use strait_api::records::Cluster;
use strait_api::{ClusterId, Condition, names};
use strait_daemon::Shutdown;
use tokio::sync::Notify;

use super::index::version;
use super::publish::Memory;
use super::{LeftOut, Settings, publish, receive};
use crate::connection::{Membership, merge, merge_status};
use crate::controllers::rfc3339;
use crate::error::BrokerError;

/// Writes that go side by side.
pub(super) const PARALLEL: usize = 16;
/// The Lease on the broker is renewed this often.
const BEAT: Duration = Duration::from_secs(10);
/// The longest wait before the broker is tried again.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// What the mirror counts; a cheap handle.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    pub(super) connected: Gauge,
    pub(super) published: Counter,
    pub(super) received: Counter,
    pub(super) copies: Gauge,
    pub(super) refused: Gauge,
}

impl Metrics {
    /// Registers the counters.
    pub fn register(&self, registry: &mut Registry) {
        let connected = "Whether the broker is reached (1) or not (0)";
        registry.register("broker_connected", connected, self.connected.clone());
        registry.register("broker_published", "Writes on the broker", self.published.clone());
        registry.register(
            "broker_received",
            "Writes of copies in this cluster",
            self.received.clone(),
        );
        registry.register(
            "broker_copies",
            "Copies of other clusters' records",
            self.copies.clone(),
        );
        let refused = "Records on the broker that are not copied because they cannot be read or named here";
        registry.register("broker_uncopied", refused, self.refused.clone());
    }
}

/// What the loops of a session share.
pub(super) struct Link {
    id: ClusterId,
    client: Client,
    pub(super) metrics: Metrics,
    suspicion: Notify,
    caught_up: AtomicBool,
    /// The greatest resource version seen on the broker.
    newest: AtomicU64,
}

impl Link {
    pub(super) fn id(&self) -> &ClusterId {
        &self.id
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// A watch on the broker failed. That may be nothing (its time was over), or the broker is gone: the
    /// Lease's keeper finds out at once.
    pub(super) fn suspect(&self, error: &watcher::Error) {
        tracing::debug!(error = %error, "a watch on the broker failed");
        self.suspicion.notify_one();
    }

    /// A watch on the broker told of this.
    pub(super) fn saw(&self, event: &Event<DynamicObject>) {
        if let Event::Apply(object) | Event::InitApply(object) | Event::Delete(object) = event {
            self.newest
                .fetch_max(version(&object.metadata), Ordering::Relaxed);
        }
    }

    /// The copies are as the broker says.
    pub(super) fn caught_up(&self) {
        if !self.caught_up.swap(true, Ordering::Relaxed) {
            tracing::info!("the records of the other clusters are here");
        }
    }
}

/// When to try a failed round again.
#[derive(Debug, Default)]
pub(super) struct Retry {
    at: Option<tokio::time::Instant>,
    pause: Duration,
}

impl Retry {
    pub(super) fn done(&mut self) {
        *self = Self::default();
    }

    pub(super) fn after(&mut self, what: &str, error: &BrokerError) {
        self.pause = (self.pause * 2).clamp(Duration::from_millis(250), Duration::from_secs(10));
        self.at = Some(tokio::time::Instant::now() + self.pause);
        tracing::warn!(error = %error, "{what}: trying again in {} ms", self.pause.as_millis());
    }

    /// Waits until it is due; for ever if nothing failed. What stays undone for long is looked at again too.
    pub(super) async fn due(&self) {
        const FULL_SYNC: Duration = Duration::from_secs(120);
        match self.at {
            Some(at) => tokio::time::sleep_until(at).await,
            None => tokio::time::sleep(FULL_SYNC).await,
        }
    }
}

/// Keeps a session open until shut down.
pub(super) async fn run(local: &Client, settings: &Settings, left_out: &LeftOut, shutdown: &Shutdown) {
    let metrics = &settings.metrics;
    let mut memory = Memory::default();
    let mut pause = Duration::ZERO;
    let mut told = String::new();
    loop {
        let session = one(local, settings, metrics, left_out, &mut memory);
        let (ended, lasted) = tokio::select! {
            ended = session => ended,
            () = shutdown.wait() => break,
        };
        metrics.connected.set(0);
        // A broker that answered is tried again at once; then ever more slowly.
        pause = if lasted {
            Duration::from_millis(200)
        } else {
            (pause * 2).clamp(Duration::from_millis(500), LONGEST_PAUSE)
        };
        let (reason, message) = match &ended {
            BrokerError::NotJoined(_) => {
                pause = pause.min(Duration::from_secs(1));
                ("NotJoined", ended.to_string())
            }
            BrokerError::Left => ("Left", ended.to_string()),
            BrokerError::CredentialRefused => ("CredentialRefused", ended.to_string()),
            _ => ("Unreachable", ended.to_string()),
        };
        if told != message {
            tracing::warn!("no connection to the broker: {message}");
            told = message.clone();
        }
        say(
            local,
            &settings.namespace,
            Condition::new("Connected", false, reason, message),
        )
        .await;
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.wait() => break,
        }
    }
}

/// One session. Says what ended it, and whether it was ever open.
async fn one(
    local: &Client,
    settings: &Settings,
    metrics: &Metrics,
    left_out: &LeftOut,
    memory: &mut Memory,
) -> (BrokerError, bool) {
    let namespace = &settings.namespace;
    let opened = async {
        let membership = Membership::load(local, namespace).await?;
        let own = crate::join::own_cluster(local, namespace).await?;
        if own.is_none_or(|c| c.spec.cluster_id != membership.cluster) {
            return Err(BrokerError::NotJoined(format!(
                "{namespace}/{}",
                names::BROKER_SECRET
            )));
        }
        let connection = membership.connect().await?;
        let beaten = renew(&connection.client, &membership.cluster, &settings.identity)
            .await
            .map_err(refused)?;
        Ok((connection, beaten))
    };
    let (mut connection, beaten) = match opened.await {
        Ok(open) => open,
        Err(e) => return (e, false),
    };
    let membership = connection.membership.clone();
    let link = Link {
        id: membership.cluster.clone(),
        client: connection.client.clone(),
        metrics: metrics.clone(),
        suspicion: Notify::new(),
        caught_up: AtomicBool::new(false),
        newest: AtomicU64::new(beaten),
    };
    metrics.connected.set(1);
    tracing::info!(broker = membership.place.url, cluster = %link.id, "connected to the broker");
    let message = format!("the broker at {} is reached", membership.place.url);
    say(
        local,
        namespace,
        Condition::new("Connected", true, "Connected", message),
    )
    .await;
    let heart = Heart {
        client: connection.client.clone(),
        id: link.id.clone(),
    };
    let ended = tokio::select! {
        e = publish::run(local, &link, namespace, memory) => e,
        e = receive::run(local, &link, namespace, left_out) => e,
        e = heart.keep(&link, &settings.identity) => e,
        e = changed(local, namespace, &membership) => e,
        e = connection.keep_token() => e,
    };
    (ended, true)
}

struct Heart {
    client: Client,
    id: ClusterId,
}

impl Heart {
    /// Renews the Lease, and looks at once where a watch failed. Ends when the broker does not answer, or counts
    /// its versions from an earlier one on: watches would wait for versions that are to come, and miss what
    /// changes until then.
    async fn keep(&self, link: &Link, identity: &str) -> BrokerError {
        loop {
            let suspicious = tokio::select! {
                () = tokio::time::sleep(BEAT) => false,
                () = link.suspicion.notified() => true,
            };
            let newest = link.newest.load(Ordering::Relaxed);
            match renew(&self.client, &self.id, identity).await {
                Ok(version) if version < newest => {
                    return BrokerError::State(
                        "the broker runs on an older copy of its data; all its records are read again"
                            .to_owned(),
                    );
                }
                Ok(version) => link.newest.fetch_max(version, Ordering::Relaxed),
                Err(e) => return refused(e),
            };
            if suspicious {
                // Watches that fail again and again are not asked about more often than this.
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

fn refused(e: BrokerError) -> BrokerError {
    if matches!(e.code(), Some(401 | 403)) {
        BrokerError::CredentialRefused
    } else {
        e
    }
}

/// Renews the Lease; the version that it has then.
async fn renew(client: &Client, id: &ClusterId, identity: &str) -> Result<u64, BrokerError> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), &id.member_namespace());
    // MicroTime takes exactly six digits.
    let now = format!("{:.6}", Timestamp::now());
    let patch = json!({ "spec": {
        "holderIdentity": identity,
        "leaseDurationSeconds": 3 * BEAT.as_secs(),
        "renewTime": now,
    } });
    let what = "renewing this cluster's lease on the broker";
    let lease = merge(&leases, what, names::AGENT_LEASE, patch).await?;
    Ok(version(&lease.metadata))
}

/// Ends when `strait join` or `strait leave` changed the membership.
async fn changed(local: &Client, namespace: &str, membership: &Membership) -> BrokerError {
    loop {
        tokio::time::sleep(Duration::from_secs(2)).await;
        match Membership::load(local, namespace).await {
            Ok(now) if now == *membership => {}
            Ok(_) => return BrokerError::State("the membership was changed by `strait join`".to_owned()),
            Err(e @ BrokerError::NotJoined(_)) => return e,
            // This cluster's own API server is away: nothing to conclude from that.
            Err(e) => tracing::debug!(error = %e, "the membership cannot be looked at"),
        }
    }
}

/// Puts a condition on the own Cluster record, if there is one and it does not say so already.
async fn say(local: &Client, namespace: &str, condition: Condition) {
    let said = async {
        let Some(own) = crate::join::own_cluster(local, namespace).await? else {
            return Ok(());
        };
        let mut status = own.status.unwrap_or_default();
        if !condition.merge_into(&mut status.conditions, &rfc3339(Timestamp::now())) {
            return Ok(());
        }
        let name = own.metadata.name.unwrap_or_default();
        let clusters: Api<Cluster> = Api::namespaced(local.clone(), namespace);
        let patch = json!({ "status": { "conditions": status.conditions } });
        merge_status(&clusters, "writing the condition Connected", &name, patch)
            .await
            .map(|_| ())
    };
    if let Err(e) = said.await {
        tracing::debug!(error = %e, "the condition Connected could not be written");
    }
}
