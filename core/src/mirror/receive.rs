//! From the broker to this cluster's copies.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use strait_api::ClusterId;
use strait_api::names::copy_name;
use strait_api::records::{MemberSpec, MemberState};

use super::{Key, Kind, Spec, tombstone_is_old};
use crate::rfc3339::micros;

/// The longest name of an object.
const NAME_MAX: usize = 253;
/// Exported services of one member that are copied: as many as a node is made to balance.
pub const MAX_SERVICES: usize = 5_000;
/// Gateways of one member that are copied: as many as there may be tunnels to one cluster.
pub const MAX_GATEWAYS: usize = crate::tunnels::MAX_TUNNELS;

/// Records of the others by owner, then by kind and name at home; a record that cannot be read stands with
/// the reason.
pub type Incoming = BTreeMap<ClusterId, BTreeMap<Key, Result<Spec, String>>>;

/// Copies here, by owner (their label), then by kind and name at home; `None` where a copy cannot be read.
pub type CopyIndex = BTreeMap<ClusterId, BTreeMap<Key, Option<Spec>>>;

/// An owner's records as listed after its marker had been seen. Only such a list may say that a record is
/// missing: increments of different kinds come in any order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FreshList {
    /// The marker, read before the list and again, unchanged, after it.
    pub marker: String,
    /// What the list held.
    pub keys: BTreeSet<Key>,
}

/// One write in this cluster.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Change {
    /// Create or replace a copy.
    Put {
        /// Whose.
        owner: ClusterId,
        /// Which.
        key: Key,
        /// What it shall say.
        spec: Spec,
    },
    /// Delete a copy.
    Delete {
        /// Whose.
        owner: ClusterId,
        /// Which.
        key: Key,
        /// Why, for the log.
        why: String,
    },
    /// Create or replace the copy of a Member.
    PutMember(Box<MemberSpec>),
    /// Delete the copy of a Member whose tombstone is old.
    DeleteMember(ClusterId),
}

/// A record on the broker that is not copied, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// In whose namespace it stands.
    pub owner: String,
    /// Its kind.
    pub kind: String,
    /// Its name there.
    pub name: String,
    /// A sentence.
    pub message: String,
}

/// What to write in this cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Reception {
    /// Members first; otherwise in any order.
    pub changes: Vec<Change>,
    /// Owners whose new marker is to be followed up with a [`FreshList`].
    pub verify: BTreeSet<ClusterId>,
    /// What is not copied.
    pub problems: Vec<Problem>,
}

/// All that [`receive`] looks at. The broker's side comes from lists that were complete and the watches that
/// followed; ours too.
#[derive(Debug, Clone, Default)]
pub struct Inbox {
    /// Members on the broker by object name; one that cannot be read stands with the reason.
    pub members: BTreeMap<String, Result<MemberSpec, String>>,
    /// The others' records on the broker.
    pub records: Incoming,
    /// Copies of Members here.
    pub local_members: BTreeMap<ClusterId, MemberSpec>,
    /// Copies of records here.
    pub copies: CopyIndex,
    /// Exported services whose deletion on the broker was seen in a watch.
    pub deleted: BTreeSet<(ClusterId, Key)>,
    /// Lists asked for by an earlier [`Reception::verify`].
    pub fresh: BTreeMap<ClusterId, FreshList>,
}

/// Works out what to write in this cluster.
pub fn receive(own: &ClusterId, inbox: &Inbox, now: &str) -> Reception {
    let mut plan = Reception::default();
    let known = receive_members(&inbox.members, &inbox.local_members, now, &mut plan);
    let (no_copies, no_records) = (BTreeMap::new(), BTreeMap::new());
    for (owner, member) in known.iter().filter(|(owner, _)| *owner != own) {
        let mine = inbox.copies.get(owner).unwrap_or(&no_copies);
        if member.removed_at.is_some() || member.state == MemberState::Evicted {
            for key in mine.keys() {
                plan.delete(owner, key, "its cluster has left the clusterset");
            }
            continue;
        }
        let theirs = inbox.records.get(owner).unwrap_or(&no_records);
        receive_owner(
            owner,
            theirs,
            mine,
            &inbox.deleted,
            inbox.fresh.get(owner),
            &mut plan,
        );
    }
    // Copies whose owner the broker has never told us of stay: `clusterset::view` refuses them, and nothing
    // says that they are gone.
    plan
}

impl Reception {
    fn delete(&mut self, owner: &ClusterId, key: &Key, why: &str) {
        self.changes.push(Change::Delete {
            owner: owner.clone(),
            key: key.clone(),
            why: why.to_owned(),
        });
    }

    fn problem(&mut self, owner: &str, kind: &str, name: &str, message: String) {
        self.problems.push(Problem {
            owner: owner.to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
            message,
        });
    }
}

/// The members as they count: the broker's word, unless we have seen a later epoch.
fn receive_members(
    members: &BTreeMap<String, Result<MemberSpec, String>>,
    local: &BTreeMap<ClusterId, MemberSpec>,
    now: &str,
    plan: &mut Reception,
) -> BTreeMap<ClusterId, MemberSpec> {
    let mut known = local.clone();
    for (name, member) in members {
        let member = match member {
            Ok(m) if m.cluster_id.as_str() == name => m,
            Ok(m) => {
                let message = format!("it speaks for cluster {}, not {name}", m.cluster_id);
                plan.problem("", "Member", name, message);
                continue;
            }
            Err(e) => {
                plan.problem("", "Member", name, format!("it cannot be read: {e}"));
                continue;
            }
        };
        let stale = local.get(&member.cluster_id).is_some_and(|have| {
            have.epoch > member.epoch || (have.epoch == member.epoch && have.state != member.state)
        });
        if stale {
            let message = format!(
                "its epoch {} is not above the one that is known here: the broker was restored from an older state, or the Member here was changed; accept or evict {name} at the broker again, or delete the Member {name} here to take the broker's word",
                member.epoch
            );
            plan.problem("", "Member", name, message);
        } else {
            if local.get(&member.cluster_id) != Some(member) {
                plan.changes.push(Change::PutMember(Box::new(member.clone())));
            }
            known.insert(member.cluster_id.clone(), member.clone());
        }
    }
    for (id, member) in local.iter().filter(|(id, _)| !members.contains_key(id.as_str())) {
        if member
            .removed_at
            .as_ref()
            .is_some_and(|at| tombstone_is_old(at, now))
        {
            plan.changes.push(Change::DeleteMember(id.clone()));
        }
    }
    known
}

fn receive_owner(
    owner: &ClusterId,
    theirs: &BTreeMap<Key, Result<Spec, String>>,
    mine: &BTreeMap<Key, Option<Spec>>,
    deleted: &BTreeSet<(ClusterId, Key)>,
    fresh: Option<&FreshList>,
    plan: &mut Reception,
) {
    let missing: Vec<&Key> = mine
        .keys()
        .filter(|k| k.kind != Kind::Cluster && !theirs.contains_key(*k))
        .collect();
    let mut unexplained = false;
    let home = Key::new(Kind::Cluster, owner.as_str());
    let marker = Marker::of(theirs.get(&home), mine.get(&home));
    for key in missing {
        if deleted.contains(&(owner.clone(), key.clone())) {
            plan.delete(owner, key, "its owner has deleted it");
        } else if fresh.is_some_and(|f| marker.is_new(&f.marker) && !f.keys.contains(key)) {
            plan.delete(
                owner,
                key,
                "a complete republication of its owner did not hold it",
            );
        } else {
            unexplained = true;
        }
    }
    let verified = fresh.is_some_and(|f| marker.new.as_deref() == Some(f.marker.as_str()));
    let follow_up = marker.new.is_some() && unexplained && !verified;
    if follow_up {
        plan.verify.insert(owner.clone());
    }
    let too_many = beyond_the_bounds(owner, theirs, mine, plan);
    for (key, record) in theirs {
        if too_many.contains(key) {
            continue;
        }
        if key.kind == Kind::Cluster && *key != home {
            let message = format!("a cluster's own account is named by its ID, {owner}");
            plan.problem(owner.as_str(), key.kind.as_str(), &key.name, message);
            continue;
        }
        let spec = match record {
            Ok(spec) => spec,
            Err(e) => {
                plan.problem(
                    owner.as_str(),
                    key.kind.as_str(),
                    &key.name,
                    format!("it cannot be read: {e}"),
                );
                continue;
            }
        };
        if copy_name(owner, &key.name).len() > NAME_MAX {
            let message =
                format!("its name leaves no room for the prefix {owner}. ({NAME_MAX} characters at most)");
            plan.problem(owner.as_str(), key.kind.as_str(), &key.name, message);
            continue;
        }
        let have = mine.get(key);
        if spec.removed_at().is_some() {
            if have.is_some() {
                plan.delete(owner, key, "its owner has left a tombstone");
            }
            continue;
        }
        let mut wanted = spec.clone();
        if let (Spec::Cluster(cluster), true) = (&mut wanted, *key == home) {
            // The copy's marker is the last one that was followed up to its end.
            cluster.full_sync = if follow_up || marker.new.is_none() {
                marker.done.clone()
            } else {
                marker.new.clone()
            };
        }
        if have.and_then(Option::as_ref) != Some(&wanted) {
            plan.changes.push(Change::Put {
                owner: owner.clone(),
                key: key.clone(),
                spec: wanted,
            });
        }
    }
}

/// Records that are left out because there are more than one member may have. Those that have a copy stay:
/// a flood takes no room from what was there before it. The rest is taken by name.
fn beyond_the_bounds<'a>(
    owner: &ClusterId,
    theirs: &'a BTreeMap<Key, Result<Spec, String>>,
    mine: &BTreeMap<Key, Option<Spec>>,
    plan: &mut Reception,
) -> BTreeSet<&'a Key> {
    let mut left_out = BTreeSet::new();
    for (kind, most) in [
        (Kind::ExportedService, MAX_SERVICES),
        (Kind::Gateway, MAX_GATEWAYS),
    ] {
        let live = |record: &Result<Spec, String>| record.as_ref().is_ok_and(|s| s.removed_at().is_none());
        let all = || {
            theirs
                .iter()
                .filter(|(key, record)| key.kind == kind && live(record))
                .map(|(key, _)| key)
        };
        let count = all().count();
        if count <= most {
            continue;
        }
        let (held, new): (Vec<&Key>, Vec<&Key>) = all().partition(|key| mine.contains_key(*key));
        left_out.extend(held.into_iter().chain(new).skip(most));
        let message = format!(
            "cluster {owner} publishes {count} records of this kind; {most} of them are copied, the others wait until it withdraws some"
        );
        plan.problem(owner.as_str(), kind.as_str(), "*", message);
    }
    left_out
}

/// An owner's marker of complete republication.
struct Marker {
    /// What the broker says, if that is later than `done`.
    new: Option<String>,
    /// What the copy says: followed up.
    done: Option<String>,
}

impl Marker {
    fn of(theirs: Option<&Result<Spec, String>>, mine: Option<&Option<Spec>>) -> Self {
        let done = mine
            .and_then(Option::as_ref)
            .and_then(Spec::full_sync)
            .map(str::to_owned);
        let since = done.as_deref().and_then(micros);
        let new = theirs
            .and_then(|r| r.as_ref().ok())
            .and_then(Spec::full_sync)
            .filter(|m| micros(m).is_some_and(|m| since.is_none_or(|since| m > since)))
            .map(str::to_owned);
        Self { new, done }
    }

    fn is_new(&self, marker: &str) -> bool {
        let since = self.done.as_deref().and_then(micros);
        micros(marker).is_some_and(|m| since.is_none_or(|since| m > since))
    }
}
