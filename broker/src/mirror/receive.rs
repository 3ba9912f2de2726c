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

use super::LeftOut;
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
    /// Owners whose records, copies or membership to look at.
    dirty: BTreeSet<ClusterId>,
    /// What is not copied, by owner (members' own under the empty name).
    problems: BTreeMap<String, BTreeSet<Problem>>,
    left_out: &'a LeftOut,
}

/// Runs until the session breaks (it does not by itself).
pub(super) async fn run(local: &Client, link: &Link, namespace: &str, left_out: &LeftOut) -> BrokerError {
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
        dirty: BTreeSet::new(),
        problems: BTreeMap::new(),
        left_out,
    };
    let mut retry = Retry::default();
    loop {
        tokio::select! {
            batch = next(&mut events) => for (side, event) in batch {
                receiver.feed(side, event);
            },
            () = retry.due() => receiver.look_at_all(),
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
        if matches!(side, Side::There(_) | Side::MembersThere) {
            self.link.saw(&event);
        }
        let fed = match side {
            Side::Here(kind) => self.copies.entry(kind).or_default().feed(event),
            Side::There(kind) => self.records.entry(kind).or_default().feed(event),
            Side::MembersHere => self.members_here.feed(event),
            Side::MembersThere => self.members_there.feed(event),
        };
        let deleted = matches!(fed, Fed::Deleted(_));
        let (namespace, name) = match fed {
            Fed::Nothing => return,
            Fed::Listed => return self.look_at_all(),
            Fed::Changed(at) | Fed::Deleted(at) => at,
        };
        let whose = match side {
            Side::There(_) => owner(&namespace),
            Side::Here(_) => name.split_once('.').and_then(|(owner, _)| owner.parse().ok()),
            Side::MembersHere | Side::MembersThere => name.parse().ok(),
        };
        let Some(whose) = whose else { return };
        self.dirty.insert(whose.clone());
        // Of all that may be missing only this is a statement: its owner deleted an exported service.
        if deleted && matches!(side, Side::There(Kind::ExportedService)) {
            self.deleted
                .insert((whose, Key::new(Kind::ExportedService, name)));
        }
    }

    fn look_at_all(&mut self) {
        let mut all = BTreeSet::new();
        for index in self.records.values() {
            all.extend(index.iter().filter_map(|((namespace, _), _)| owner(namespace)));
        }
        for (kind, index) in &self.copies {
            all.extend(
                index
                    .iter()
                    .filter_map(|(_, o)| copied(*kind, o))
                    .map(|(owner, _)| owner),
            );
        }
        for index in [&self.members_here, &self.members_there] {
            all.extend(index.iter().filter_map(|((_, name), _)| name.parse().ok()));
        }
        self.dirty.extend(all);
    }

    fn complete(&self) -> bool {
        let kinds = self.copies.values().chain(self.records.values());
        kinds
            .chain([&self.members_here, &self.members_there])
            .all(Index::is_complete)
    }

    /// What there is to say of these owners. Of the others neither records nor copies are shown, so nothing
    /// is planned for them.
    fn inbox(&self, owners: &BTreeSet<ClusterId>) -> Inbox {
        let mut records = Incoming::new();
        let mut copies = CopyIndex::new();
        for id in owners.iter().filter(|id| *id != self.link.id()) {
            let theirs = records.entry(id.clone()).or_default();
            let there = id.member_namespace();
            for (kind, index) in &self.records {
                for ((_, name), object) in index.within(&there, "") {
                    theirs.insert(Key::new(*kind, name.as_str()), records::read(*kind, object));
                }
            }
            let mine = copies.entry(id.clone()).or_default();
            let prefix = format!("{id}.");
            for (kind, index) in &self.copies {
                for (_, object) in index.within(&self.namespace, &prefix) {
                    if let Some((_, key)) = copied(*kind, object).filter(|(owner, _)| owner == id) {
                        mine.insert(key, records::read(*kind, object).ok());
                    }
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

    /// Plans and writes until there is nothing to write. What failed is left dirty; it does not hold up the
    /// rest.
    async fn round(&mut self) -> Result<(), BrokerError> {
        let owners = std::mem::take(&mut self.dirty);
        let mut done = Ok(());
        // Each pass either writes, or asks for lists once per owner and marker; the bound only guards
        // against an API server that answers writes with something else.
        for _ in 0..8 {
            let now = crate::controllers::rfc3339(Timestamp::now());
            let plan = receive(self.link.id(), &self.inbox(&owners), &now);
            self.warn(&owners, &plan.problems);
            for change in &plan.changes {
                if let Change::Delete { owner, key, why } = change {
                    tracing::info!(cluster = %owner, kind = key.kind.as_str(), name = key.name, "copy is deleted: {why}");
                }
            }
            self.fresh.clear();
            let wrote = !plan.changes.is_empty();
            done = self.apply(plan.changes).await;
            for owner in plan.verify {
                match self.list_afresh(&owner).await {
                    Ok(Some(list)) => {
                        self.fresh.insert(owner, list);
                    }
                    Ok(None) => {}
                    Err(e) => done = Err(e),
                }
            }
            if self.fresh.is_empty() && (!wrote || done.is_err()) {
                break;
            }
        }
        let copies = self.inbox(&owners).copies;
        // A statement is kept until it was carried out.
        self.deleted.retain(|(owner, key)| {
            !owners.contains(owner) || copies.get(owner).is_some_and(|c| c.contains_key(key))
        });
        let count: usize = self.copies.values().map(Index::len).sum();
        self.link
            .metrics
            .copies
            .set(i64::try_from(count).unwrap_or(i64::MAX));
        match &done {
            Ok(()) => self.link.caught_up(),
            Err(_) => self.dirty.extend(owners),
        }
        done
    }

    fn warn(&mut self, owners: &BTreeSet<ClusterId>, problems: &[Problem]) {
        let mut now: BTreeMap<String, BTreeSet<Problem>> =
            owners.iter().map(|o| (o.to_string(), BTreeSet::new())).collect();
        now.entry(String::new()).or_default();
        for problem in problems {
            now.entry(problem.owner.clone())
                .or_default()
                .insert(problem.clone());
        }
        for (owner, problems) in now {
            let before = self.problems.insert(owner, problems.clone()).unwrap_or_default();
            for problem in problems.difference(&before) {
                tracing::warn!(
                    cluster = problem.owner,
                    kind = problem.kind,
                    name = problem.name,
                    "record on the broker is not copied: {}",
                    problem.message
                );
            }
        }
        self.left_out.0.send_if_modified(|told| {
            let mut changed = false;
            for owner in owners {
                let problems = self.problems.get(owner.as_str()).cloned().unwrap_or_default();
                changed |= told.insert(owner.clone(), problems.clone()).as_ref() != Some(&problems);
            }
            changed
        });
        let count: usize = self.problems.values().map(BTreeSet::len).sum();
        self.link
            .metrics
            .refused
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Members first, then new clusters, then the rest side by side: nobody is to see a record without what it
    /// counts by. Clusters that are there come last: a copy's marker says that all else was done.
    async fn apply(&mut self, changes: Vec<Change>) -> Result<(), BrokerError> {
        let mut stages: [Vec<Change>; 4] = Default::default();
        let clusters = self.copies.get(&Kind::Cluster);
        for change in changes {
            let stage = match &change {
                Change::PutMember(_) | Change::DeleteMember(_) => 0,
                Change::Put { owner, key, .. } if key.kind == Kind::Cluster => {
                    let copy = copy_name(owner, &key.name);
                    let there = clusters.is_some_and(|index| index.get(&self.namespace, &copy).is_some());
                    if there { 3 } else { 1 }
                }
                Change::Put { .. } | Change::Delete { .. } => 2,
            };
            stages[stage].push(change);
        }
        let mut failed = Ok(());
        for changes in stages {
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
