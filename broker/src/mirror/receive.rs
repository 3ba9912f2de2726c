//! From the broker to this cluster's copies.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt as _;
use jiff::Timestamp;
use kube::Client;
use kube::api::{Api, DynamicObject, ListParams};
use serde::Deserialize as _;
use strait_api::ClusterId;
use strait_api::names::{LABEL_CLUSTER, MEMBER_NAMESPACE_PREFIX, copy_name};
use strait_api::records::MemberSpec;
use strait_core::mirror::{Change, CopyIndex, FreshList, Inbox, Incoming, Key, Kind, Problem, receive};

use super::index::{At, Fed, Index, follow, next};
use super::records;
use super::session::{Link, PARALLEL, Retry};
use crate::connection::within;
use crate::error::{BrokerError, found};

#[derive(Debug, Clone, Copy)]
enum Side {
    Here(Kind),
    There(Kind),
    MembersHere,
    MembersThere,
}

struct Receiver<'a> {
    local: &'a Client,
    link: &'a Link,
    namespace: String,
    copies: BTreeMap<Kind, Index>,
    records: BTreeMap<Kind, Index>,
    members_here: Index,
    members_there: Index,
    deleted: BTreeSet<(ClusterId, Key)>,
    fresh: BTreeMap<ClusterId, FreshList>,
    warned: BTreeSet<Problem>,
}

/// Runs until the session breaks (it does not by itself).
pub(super) async fn run(local: &Client, link: &Link, namespace: &str) -> BrokerError {
    let mut events = futures::stream::SelectAll::new();
    for kind in Kind::ALL {
        let resource = records::of(kind);
        events.push(follow(
            Side::Here(kind),
            local,
            &resource,
            Some(namespace),
            Some(LABEL_CLUSTER),
        ));
        events.push(follow(Side::There(kind), link.client(), &resource, None, None));
    }
    events.push(follow(Side::MembersHere, local, &records::members(), None, None));
    events.push(follow(
        Side::MembersThere,
        link.client(),
        &records::members(),
        None,
        None,
    ));
    let empty = || Kind::ALL.into_iter().map(|k| (k, Index::default())).collect();
    let mut receiver = Receiver {
        local,
        link,
        namespace: namespace.to_owned(),
        copies: empty(),
        records: empty(),
        members_here: Index::default(),
        members_there: Index::default(),
        deleted: BTreeSet::new(),
        fresh: BTreeMap::new(),
        warned: BTreeSet::new(),
    };
    let mut retry = Retry::default();
    loop {
        tokio::select! {
            batch = next(&mut events) => for (side, event) in batch {
                receiver.feed(side, event);
            },
            () = retry.due() => {}
        }
        if !receiver.complete() {
            continue;
        }
        match receiver.round().await {
            Ok(()) => retry.done(),
            Err(e) => retry.after("copying the others' records", &e),
        }
    }
}

/// Whose namespace on the broker this is.
fn owner(namespace: &str) -> Option<ClusterId> {
    namespace.strip_prefix(MEMBER_NAMESPACE_PREFIX)?.parse().ok()
}

fn member(object: &DynamicObject) -> Result<MemberSpec, String> {
    let spec = object.data.get("spec").ok_or("it has no spec")?;
    MemberSpec::deserialize(spec).map_err(|e| e.to_string())
}

/// Of which record a copy is: the label says whose, the name which.
fn copied(kind: Kind, object: &DynamicObject) -> Option<(ClusterId, Key)> {
    let owner: ClusterId = object
        .metadata
        .labels
        .as_ref()?
        .get(LABEL_CLUSTER)?
        .parse()
        .ok()?;
    let name = object
        .metadata
        .name
        .as_deref()?
        .strip_prefix(&format!("{owner}."))?
        .to_owned();
    Some((owner, Key::new(kind, name)))
}

impl Receiver<'_> {
    fn feed(
        &mut self,
        side: Side,
        event: Result<kube::runtime::watcher::Event<DynamicObject>, kube::runtime::watcher::Error>,
    ) {
        let event = match (side, event) {
            (_, Ok(event)) => event,
            (Side::There(_) | Side::MembersThere, Err(e)) => return self.link.suspect(&e),
            (_, Err(e)) => return tracing::debug!(error = %e, "a watch of copies is renewed"),
        };
        let fed = match side {
            Side::Here(kind) => self.copies.entry(kind).or_default().feed(event),
            Side::There(kind) => self.records.entry(kind).or_default().feed(event),
            Side::MembersHere => self.members_here.feed(event),
            Side::MembersThere => self.members_there.feed(event),
        };
        // Of all that may be missing only this is a statement: its owner deleted an exported service.
        if let (Side::There(Kind::ExportedService), Fed::Deleted((namespace, name))) = (side, fed)
            && let Some(owner) = owner(&namespace)
        {
            self.deleted
                .insert((owner, Key::new(Kind::ExportedService, name)));
        }
    }

    fn complete(&self) -> bool {
        let kinds = self.copies.values().chain(self.records.values());
        kinds
            .chain([&self.members_here, &self.members_there])
            .all(Index::is_complete)
    }

    fn inbox(&self) -> Inbox {
        let mut records = Incoming::new();
        let mut copies = CopyIndex::new();
        for (kind, index) in &self.records {
            for ((namespace, name), object) in index.iter() {
                if let Some(owner) = owner(namespace).filter(|o| o != self.link.id()) {
                    let spec = records::read(*kind, object);
                    records
                        .entry(owner)
                        .or_default()
                        .insert(Key::new(*kind, name.as_str()), spec);
                }
            }
        }
        for (kind, index) in &self.copies {
            for (_, object) in index.iter() {
                if let Some((owner, key)) = copied(*kind, object) {
                    copies
                        .entry(owner)
                        .or_default()
                        .insert(key, records::read(*kind, object).ok());
                }
            }
        }
        Inbox {
            members: self
                .members_there
                .iter()
                .map(|((_, name), o)| (name.clone(), member(o)))
                .collect(),
            records,
            local_members: self
                .members_here
                .iter()
                .filter_map(|(_, o)| member(o).ok())
                .map(|m| (m.cluster_id.clone(), m))
                .collect(),
            copies,
            deleted: self.deleted.clone(),
            fresh: self.fresh.clone(),
        }
    }

    /// Plans and writes until there is nothing to write.
    async fn round(&mut self) -> Result<(), BrokerError> {
        // Each pass either writes, or asks for lists once per owner and marker; the bound only guards
        // against an API server that answers writes with something else.
        for _ in 0..8 {
            let now = crate::controllers::rfc3339(Timestamp::now());
            let plan = receive(self.link.id(), &self.inbox(), &now);
            self.warn(&plan.problems);
            for change in &plan.changes {
                if let Change::Delete { owner, key, why } = change {
                    tracing::info!(cluster = %owner, kind = key.kind.as_str(), name = key.name, "copy is deleted: {why}");
                }
            }
            self.apply(plan.changes.clone()).await?;
            self.fresh.clear();
            for owner in &plan.verify {
                if let Some(list) = self.list_afresh(owner).await? {
                    self.fresh.insert(owner.clone(), list);
                }
            }
            if self.fresh.is_empty() && plan.changes.is_empty() {
                break;
            }
        }
        let copies = self.inbox().copies;
        self.deleted
            .retain(|(owner, key)| copies.get(owner).is_some_and(|c| c.contains_key(key)));
        self.link
            .metrics
            .copies
            .set(i64::try_from(copies.values().map(BTreeMap::len).sum::<usize>()).unwrap_or(i64::MAX));
        self.link.caught_up();
        Ok(())
    }

    fn warn(&mut self, problems: &[Problem]) {
        self.link
            .metrics
            .refused
            .set(i64::try_from(problems.len()).unwrap_or(i64::MAX));
        for problem in problems {
            if self.warned.insert(problem.clone()) {
                tracing::warn!(
                    cluster = problem.owner,
                    kind = problem.kind,
                    name = problem.name,
                    "record on the broker is not copied: {}",
                    problem.message
                );
            }
        }
        self.warned.retain(|p| problems.contains(p));
    }

    /// Members first, then the rest side by side.
    async fn apply(&mut self, changes: Vec<Change>) -> Result<(), BrokerError> {
        let (members, others): (Vec<Change>, Vec<Change>) = changes
            .into_iter()
            .partition(|c| matches!(c, Change::PutMember(_) | Change::DeleteMember(_)));
        let mut failed = Ok(());
        for changes in [members, others] {
            let done: Vec<_> = futures::stream::iter(changes)
                .map(|change| self.change(change))
                .buffer_unordered(PARALLEL)
                .collect()
                .await;
            for (kind, at, result) in done {
                let index = match kind {
                    Some(kind) => self.copies.entry(kind).or_default(),
                    None => &mut self.members_here,
                };
                match result {
                    Ok(Some(object)) => {
                        self.link.metrics.received.inc();
                        index.put(object);
                    }
                    Ok(None) => {
                        self.link.metrics.received.inc();
                        index.remove(&at);
                    }
                    // One record that this API server does not take must not stop the others.
                    Err(e) => failed = Err(e),
                }
            }
        }
        failed
    }

    fn change(
        &self,
        change: Change,
    ) -> impl Future<Output = (Option<Kind>, At, Result<Option<DynamicObject>, BrokerError>)> + use<> {
        let (local, namespace) = (self.local.clone(), self.namespace.clone());
        let (kind, at) = match &change {
            Change::Put { owner, key, .. } | Change::Delete { owner, key, .. } => {
                (Some(key.kind), (namespace.clone(), copy_name(owner, &key.name)))
            }
            Change::PutMember(m) => (None, (String::new(), m.cluster_id.to_string())),
            Change::DeleteMember(id) => (None, (String::new(), id.to_string())),
        };
        let index = kind.map_or(Some(&self.members_here), |k| self.copies.get(&k));
        let seen = index.and_then(|i| i.get(&at.0, &at.1)).cloned();
        async move {
            let members: Api<DynamicObject> = Api::all_with(local.clone(), &records::members());
            let result = match &change {
                Change::Put { owner, key, spec } => {
                    let api = records::api(&local, key.kind, &namespace);
                    let labels = BTreeMap::from([(LABEL_CLUSTER.to_owned(), owner.to_string())]);
                    let resource = records::of(key.kind);
                    records::put(&api, &resource, &at.1, labels, spec, seen.as_ref())
                        .await
                        .map(Some)
                }
                Change::Delete { key, .. } => {
                    let api = records::api(&local, key.kind, &namespace);
                    records::delete(&api, key.kind.as_str(), &at.1)
                        .await
                        .map(|()| None)
                }
                Change::PutMember(spec) => {
                    let resource = records::members();
                    records::put(&members, &resource, &at.1, BTreeMap::new(), spec, seen.as_ref())
                        .await
                        .map(Some)
                }
                Change::DeleteMember(_) => records::delete(&members, "Member", &at.1).await.map(|()| None),
            };
            (kind, at, result)
        }
    }

    /// An owner's records, listed between two looks at its marker; `None` if that changed in between (the
    /// watch will tell, and ask again).
    async fn list_afresh(&self, owner: &ClusterId) -> Result<Option<FreshList>, BrokerError> {
        let there = owner.member_namespace();
        let what = format!("listing the records of {owner} on the broker");
        let clusters = records::api(self.link.client(), Kind::Cluster, &there);
        let marker = async || {
            let cluster = within(&what, async { found(clusters.get(owner.as_str()).await) }).await?;
            let marker = cluster
                .as_ref()
                .and_then(|o| o.data.pointer("/spec/fullSync"))
                .and_then(|v| v.as_str());
            Ok::<_, BrokerError>(marker.map(str::to_owned))
        };
        let Some(before) = marker().await? else {
            return Ok(None);
        };
        let mut keys = BTreeSet::new();
        for kind in [Kind::Gateway, Kind::ExportedService] {
            let api = records::api(self.link.client(), kind, &there);
            let mut params = ListParams::default().limit(500);
            loop {
                let page = within(&what, api.list(&params)).await?;
                keys.extend(
                    page.items
                        .into_iter()
                        .filter_map(|o| o.metadata.name)
                        .map(|n| Key::new(kind, n)),
                );
                match page.metadata.continue_.filter(|c| !c.is_empty()) {
                    Some(token) => params = params.continue_token(&token),
                    None => break,
                }
            }
        }
        let unchanged = marker().await?.as_ref() == Some(&before);
        Ok(unchanged.then_some(FreshList { marker: before, keys }))
    }
}
