//! The broker's controllers: join requests become members, members get their namespace and credentials,
//! those who leave lose them.
//!
//! One loop, woken by every change and once in a while: list, decide with `strait_core::admission`, write.
//! It is alone in deciding (stand-alone, or leader of its replicas), and decides from fresh lists, so two
//! requests never get the same node block.

pub(crate) mod members;
pub mod objects;
mod requests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use jiff::Timestamp;
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use strait_api::ClusterId;
use strait_api::names::{BROKER_NAMESPACE, MEMBER_NAMESPACE_PREFIX};
use strait_api::records::{Cluster, JoinRequest, Member};
use strait_core::admission::{Existing, MemberRanges, Settings};
use strait_daemon::Shutdown;
use strait_daemon::inputs::{Input, Pauses};

use crate::error::BrokerError;

/// Field manager of what the controllers write.
pub const FIELD_MANAGER: &str = "strait-broker";
/// All is looked at again this often.
const RESYNC: Duration = Duration::from_secs(60);
/// Changes that come within this time are answered together.
const CALM: Duration = Duration::from_millis(20);

/// The controllers' state between two rounds.
pub struct Controllers {
    client: Client,
    settings: Settings,
    /// Members whose objects were brought about, by epoch.
    provided: BTreeMap<ClusterId, u64>,
    /// Join requests whose identity was taken away.
    closed: BTreeSet<String>,
}

impl std::fmt::Debug for Controllers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controllers")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// What the broker holds, from fresh lists.
pub(crate) struct Fleet {
    pub(crate) existing: Existing,
    pub(crate) members: BTreeMap<ClusterId, Member>,
    pub(crate) clusters: BTreeMap<ClusterId, Cluster>,
    pub(crate) requests: Vec<JoinRequest>,
}

impl Controllers {
    /// Controllers on the broker that this client reaches.
    pub fn new(client: Client, settings: Settings) -> Self {
        Self {
            client,
            settings,
            provided: BTreeMap::new(),
            closed: BTreeSet::new(),
        }
    }

    /// Runs until shut down. `prepared` is called once the broker's own objects stand.
    ///
    /// # Errors
    /// If the broker's own namespace and roles cannot be made; later failures are logged and tried again.
    pub async fn run(mut self, shutdown: Shutdown, prepared: impl FnOnce()) -> Result<(), BrokerError> {
        objects::prepare(&self.client).await?;
        prepared();
        let mut changes = self.changes();
        let mut wait = Duration::ZERO;
        let mut last_full = tokio::time::Instant::now();
        loop {
            tokio::select! {
                () = shutdown.wait() => return Ok(()),
                () = tokio::time::sleep(wait) => {}
                Some(()) = changes.next() => {
                    tokio::time::sleep(CALM).await;
                    while futures::FutureExt::now_or_never(changes.next()).flatten().is_some() {}
                }
            }
            if last_full.elapsed() >= RESYNC * 10 {
                // What somebody took away by hand comes back.
                self.provided.clear();
                self.closed.clear();
                last_full = tokio::time::Instant::now();
            }
            wait = match self.round().await {
                Ok(next) => next,
                Err(e) => {
                    tracing::warn!(error = %e, "the broker's controllers could not finish a round; trying again");
                    Duration::from_secs(2)
                }
            };
        }
    }

    fn changes(&self) -> BoxStream<'static, ()> {
        let client = || self.client.clone();
        futures::stream::select_all([
            wakes::<JoinRequest>(Api::namespaced(client(), BROKER_NAMESPACE)),
            wakes::<Member>(Api::all(client())),
            wakes::<Cluster>(Api::all(client())),
        ])
        .boxed()
    }

    /// One look at everything. Says when the next is due without a change.
    ///
    /// # Errors
    /// If the broker's lists cannot be read; a failure with one object is logged and does not stop the rest.
    pub async fn round(&mut self) -> Result<Duration, BrokerError> {
        let mut fleet = self.fleet().await?;
        let now = Timestamp::now();
        let mut next = RESYNC;
        for request in std::mem::take(&mut fleet.requests) {
            match requests::reconcile(
                &self.client,
                &self.settings,
                &mut fleet,
                &mut self.closed,
                &request,
                now,
            )
            .await
            {
                Ok(due) => next = next.min(due.unwrap_or(RESYNC)),
                Err(e) => {
                    next = next.min(Duration::from_secs(2));
                    tracing::warn!(request = request.metadata.name, error = %e, "join request: trying again");
                }
            }
        }
        for (id, member) in &fleet.members {
            let cluster = fleet.clusters.get(id);
            if let Err(e) = members::reconcile(&self.client, &mut self.provided, member, cluster, now).await {
                next = next.min(Duration::from_secs(2));
                tracing::warn!(member = %id, error = %e, "member: trying again");
            }
        }
        Ok(next)
    }

    async fn fleet(&self) -> Result<Fleet, BrokerError> {
        fleet(&self.client).await
    }
}

fn wakes<K: Input>(api: Api<DeserializeGuard<K>>) -> BoxStream<'static, ()> {
    watcher(api, watcher::Config::default())
        .backoff(Pauses::default())
        .filter_map(woken)
        .boxed()
}

async fn woken<T>(event: Result<watcher::Event<T>, watcher::Error>) -> Option<()> {
    match event {
        Ok(watcher::Event::Apply(_) | watcher::Event::Delete(_) | watcher::Event::InitDone) => Some(()),
        Ok(_) => None,
        Err(e) => {
            tracing::debug!(error = %e, "a watch of the broker's controllers is renewed");
            None
        }
    }
}

/// Reads all that admission looks at.
pub(crate) async fn fleet(client: &Client) -> Result<Fleet, BrokerError> {
    let all = ListParams::default();
    let members: Api<DeserializeGuard<Member>> = Api::all(client.clone());
    let clusters: Api<DeserializeGuard<Cluster>> = Api::all(client.clone());
    let requests: Api<DeserializeGuard<JoinRequest>> = Api::namespaced(client.clone(), BROKER_NAMESPACE);
    let members = members
        .list(&all)
        .await
        .map_err(BrokerError::api("listing members"))?;
    let clusters = clusters
        .list(&all)
        .await
        .map_err(BrokerError::api("listing clusters"))?;
    let requests = requests
        .list(&all)
        .await
        .map_err(BrokerError::api("listing join requests"))?;

    let mut fleet = Fleet {
        existing: Existing::default(),
        members: BTreeMap::new(),
        clusters: BTreeMap::new(),
        requests: vec![],
    };
    for member in members.items {
        let member = member.0.map_err(|e| {
            // Without it we could give its ID or its block to somebody else.
            let name = e.metadata.name.unwrap_or_default();
            BrokerError::State(format!(
                "Member {name} cannot be read ({}); repair or delete it",
                e.error
            ))
        })?;
        if member.metadata.name.as_deref() != Some(member.spec.cluster_id.as_str()) {
            tracing::warn!(
                name = member.metadata.name,
                "a Member whose name is not its cluster ID does not count"
            );
            continue;
        }
        fleet.existing.members.push(member.spec.clone());
        fleet.members.insert(member.spec.cluster_id.clone(), member);
    }
    for cluster in clusters.items.into_iter().filter_map(|c| c.0.ok()) {
        let id = cluster.spec.cluster_id.clone();
        let namespace = cluster.metadata.namespace.as_deref().unwrap_or_default();
        let own = namespace.strip_prefix(MEMBER_NAMESPACE_PREFIX) == Some(id.as_str())
            && cluster.metadata.name.as_deref() == Some(id.as_str());
        if own {
            let ranges = MemberRanges {
                services: cluster.spec.service_cidrs.clone(),
                vips: cluster.spec.vip_cidrs.clone(),
            };
            fleet.existing.ranges.insert(id.clone(), ranges);
            fleet.clusters.insert(id, cluster);
        }
    }
    for request in requests.items {
        match request.0 {
            Ok(request) => {
                if let Some(acceptance) = request.status.as_ref().and_then(|s| s.acceptance.as_ref()) {
                    // Until its cluster record is there, what was accepted stands for it.
                    let claim = &acceptance.claim;
                    fleet
                        .existing
                        .ranges
                        .entry(claim.cluster_id.clone())
                        .or_insert_with(|| MemberRanges {
                            services: claim.service_cidrs.clone(),
                            vips: claim.vip_cidrs.clone(),
                        });
                }
                fleet.requests.push(request);
            }
            Err(e) => {
                tracing::warn!(
                    name = e.metadata.name,
                    error = e.error,
                    "join request cannot be read; skipping it"
                );
            }
        }
    }
    Ok(fleet)
}

/// Now, as records write it.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second())
        .unwrap_or(time)
        .to_string()
}

/// An epoch for a state that begins now: seconds, so that a broker which lost its memory does not begin
/// below what receivers remember.
pub(crate) fn epoch(now: Timestamp) -> u64 {
    now.as_second().max(1).unsigned_abs()
}
