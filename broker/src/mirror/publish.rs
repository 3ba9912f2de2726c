//! From this cluster to its namespace on the broker.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::api::DynamicObject;
use kube::runtime::watcher::{self, Event};
use serde_json::json;
use strait_api::{ClusterId, names};
use strait_core::mirror::{Key, Kind, Own, Publication, Remote, Spec, Write, publish};

use super::index::{Fed, Index, follow, next};
use super::records;
use super::session::{Link, PARALLEL, Retry};
use crate::connection::merge;
use crate::error::BrokerError;

/// What outlives a session.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// What the broker held of ours when it was seen last.
    confirmed: BTreeSet<Key>,
    /// Whether a marker was set since this process began.
    marked: bool,
}

#[derive(Debug, Clone, Copy)]
enum Side {
    Here(Kind),
    There(Kind),
}

struct Publisher<'a> {
    local: &'a Client,
    link: &'a Link,
    id: ClusterId,
    namespace: String,
    there: String,
    own: BTreeMap<Kind, Index>,
    remote: BTreeMap<Kind, Index>,
    /// Records to look at.
    dirty: BTreeSet<Key>,
    /// Whether to look at all, also at what is known only to have been on the broker once.
    all: bool,
    warned: BTreeSet<(Key, String)>,
}

/// Runs until the session breaks.
pub(super) async fn run(local: &Client, link: &Link, namespace: &str, memory: &mut Memory) -> BrokerError {
    let id = link.id().clone();
    let there = id.member_namespace();
    let own_only = format!("!{}", names::LABEL_CLUSTER);
    let mut events = futures::stream::SelectAll::new();
    for kind in Kind::ALL {
        let resource = records::of(kind);
        events.push(follow(
            Side::Here(kind),
            local,
            &resource,
            Some(namespace),
            Some(&own_only),
        ));
        events.push(follow(
            Side::There(kind),
            link.client(),
            &resource,
            Some(&there),
            None,
        ));
    }
    let empty = || Kind::ALL.into_iter().map(|k| (k, Index::default())).collect();
    let mut publisher = Publisher {
        local,
        link,
        id,
        namespace: namespace.to_owned(),
        there,
        own: empty(),
        remote: empty(),
        dirty: BTreeSet::new(),
        all: true,
        warned: BTreeSet::new(),
    };
    let mut retry = Retry::default();
    loop {
        tokio::select! {
            batch = next(&mut events) => for (side, event) in batch {
                publisher.feed(side, event);
            },
            () = retry.due() => publisher.all = true,
        }
        let mut indexes = publisher.own.values().chain(publisher.remote.values());
        if !indexes.all(Index::is_complete) {
            continue;
        }
        match publisher.round(memory).await {
            Ok(()) => retry.done(),
            Err(BrokerError::Left) => return BrokerError::Left,
            Err(e) => retry.after("publishing this cluster's records", &e),
        }
    }
}

/// What lies under these keys.
fn parsed(
    indexes: &BTreeMap<Kind, Index>,
    namespace: &str,
    keys: &BTreeSet<Key>,
) -> BTreeMap<Key, Option<Spec>> {
    let object = |key: &Key| indexes.get(&key.kind)?.get(namespace, &key.name);
    keys.iter()
        .filter_map(|key| Some((key.clone(), records::read(key.kind, object(key)?).ok())))
        .collect()
}

impl Publisher<'_> {
    fn feed(&mut self, side: Side, event: Result<Event<DynamicObject>, watcher::Error>) {
        let (kind, fed) = match (side, event) {
            (Side::Here(kind), Ok(event)) => (kind, self.own.entry(kind).or_default().feed(event)),
            (Side::There(kind), Ok(event)) => {
                self.link.saw(&event);
                (kind, self.remote.entry(kind).or_default().feed(event))
            }
            (Side::Here(_), Err(e)) => {
                return tracing::debug!(error = %e, "a watch of own records is renewed");
            }
            (Side::There(_), Err(e)) => return self.link.suspect(&e),
        };
        match fed {
            Fed::Nothing => {}
            Fed::Changed((_, name)) | Fed::Deleted((_, name)) => {
                self.dirty.insert(Key::new(kind, name));
            }
            Fed::Listed => self.all = true,
        }
    }

    /// Plans and writes until there is nothing to write.
    async fn round(&mut self, memory: &mut Memory) -> Result<(), BrokerError> {
        let home = Key::new(Kind::Cluster, self.id.as_str());
        if std::mem::take(&mut self.all) {
            for (kind, index) in self.own.iter().chain(&self.remote) {
                let keys = index.iter().map(|((_, name), _)| Key::new(*kind, name.as_str()));
                self.dirty.extend(keys);
            }
            self.dirty.extend(memory.confirmed.iter().cloned());
        }
        loop {
            // The own Cluster is always in the plan: without it nothing is published.
            self.dirty.insert(home.clone());
            let own = Own {
                records: parsed(&self.own, &self.namespace, &self.dirty),
            };
            if let Some(Some(Spec::Cluster(cluster))) = own.records.get(&home)
                && cluster.removed_at.is_some()
            {
                return Err(BrokerError::Left);
            }
            let remote = Remote {
                records: parsed(&self.remote, &self.there, &self.dirty),
                confirmed: memory.confirmed.intersection(&self.dirty).cloned().collect(),
            };
            let now = crate::controllers::rfc3339(Timestamp::now());
            let plan = publish(&self.id, &own, &remote, !memory.marked, &now);
            self.warn(&plan);
            self.apply(&plan).await?;
            let there = parsed(&self.remote, &self.there, &self.dirty);
            for key in std::mem::take(&mut self.dirty) {
                if there.contains_key(&key) {
                    memory.confirmed.insert(key);
                } else {
                    memory.confirmed.remove(&key);
                }
            }
            if plan.marker {
                self.mark().await?;
                memory.marked = true;
            } else if plan.writes.is_empty() {
                return Ok(());
            }
        }
    }

    fn warn(&mut self, plan: &Publication) {
        for (key, message) in &plan.problems {
            if self.warned.insert((key.clone(), message.clone())) {
                tracing::warn!(
                    kind = key.kind.as_str(),
                    name = key.name,
                    "own record is not published: {message}"
                );
            }
        }
    }

    /// The Cluster is written last and alone: its marker speaks for what was written before it. (A new
    /// marker is set only once all that goes before has been written.)
    async fn apply(&mut self, plan: &Publication) -> Result<(), BrokerError> {
        let (last, first): (Vec<&Write>, Vec<&Write>) =
            plan.writes.iter().partition(|w| w.key().kind == Kind::Cluster);
        let mut failed = Ok(());
        for writes in [first, last] {
            let done: Vec<_> = futures::stream::iter(writes.into_iter().cloned())
                .map(|write| self.write(write))
                .buffer_unordered(PARALLEL)
                .collect()
                .await;
            for (key, result) in done {
                let index = self.remote.entry(key.kind).or_default();
                match result {
                    Ok(Some(object)) => {
                        self.link.metrics.published.inc();
                        index.put(object);
                    }
                    Ok(None) => {
                        self.link.metrics.published.inc();
                        index.remove(&(self.there.clone(), key.name));
                    }
                    Err(e) => failed = Err(e),
                }
            }
        }
        failed
    }

    fn write(
        &self,
        write: Write,
    ) -> impl Future<Output = (Key, Result<Option<DynamicObject>, BrokerError>)> + use<> {
        let api = records::api(self.link.client(), write.key().kind, &self.there);
        let key = write.key().clone();
        let seen = self
            .remote
            .get(&key.kind)
            .and_then(|i| i.get(&self.there, &key.name))
            .cloned();
        async move {
            let result = match &write {
                Write::Put { key, spec } => {
                    let resource = records::of(key.kind);
                    records::put(&api, &resource, &key.name, BTreeMap::new(), spec, seen.as_ref())
                        .await
                        .map(Some)
                }
                Write::Delete { key } => records::delete(&api, key.kind.as_str(), &key.name)
                    .await
                    .map(|()| None),
            };
            (key, result)
        }
    }

    /// Sets a new marker of complete republication on the own Cluster record; the next plan publishes it.
    async fn mark(&mut self) -> Result<(), BrokerError> {
        let own = self.own.entry(Kind::Cluster).or_default();
        let before = own
            .get(&self.namespace, self.id.as_str())
            .and_then(|o| o.data.pointer("/spec/fullSync"))
            .and_then(serde_json::Value::as_str)
            .and_then(|t| t.parse::<Timestamp>().ok());
        let now = Timestamp::now();
        // Later than the last one, also where the clock went back.
        let marker = match before {
            Some(before) if before >= now => before + SignedDuration::from_millis(1),
            _ => now,
        };
        let api = records::api(self.local, Kind::Cluster, &self.namespace);
        let patch = json!({ "spec": { "fullSync": marker.to_string() } });
        let what = "setting the marker of a complete republication";
        let marked = merge(&api, what, self.id.as_str(), patch).await?;
        own.put(marked);
        Ok(())
    }
}
