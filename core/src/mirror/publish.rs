//! From this cluster to its namespace on the broker.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use strait_api::ClusterId;

use super::{Key, Kind, Spec, tombstone_is_old};

/// This cluster's own records, from a list that was complete.
#[derive(Debug, Clone, Default)]
pub struct Own {
    /// By kind and name; a record that cannot be read stands as `None` and is left as it is everywhere.
    pub records: BTreeMap<Key, Option<Spec>>,
}

/// What the broker holds in this cluster's namespace, from a list that was complete.
#[derive(Debug, Clone, Default)]
pub struct Remote {
    /// By kind and name; `None` where it cannot be read.
    pub records: BTreeMap<Key, Option<Spec>>,
    /// What of the records looked at was seen there before, in this session or the one before it.
    pub confirmed: BTreeSet<Key>,
}

/// One write on the broker.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Write {
    /// Create or replace.
    Put {
        /// Which.
        key: Key,
        /// What it shall say.
        spec: Spec,
    },
    /// Delete.
    Delete {
        /// Which.
        key: Key,
    },
}

impl Write {
    /// The record concerned.
    pub fn key(&self) -> &Key {
        match self {
            Write::Put { key, .. } | Write::Delete { key } => key,
        }
    }
}

/// What to write on the broker.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Publication {
    /// In this order, but the writes before the Cluster's may go side by side.
    pub writes: Vec<Write>,
    /// Once the writes are done, the cluster's record needs a new marker of complete republication: a
    /// receiver may have missed a deletion, or the broker has lost records of ours.
    pub marker: bool,
    /// Own records that are not published, and why.
    pub problems: Vec<(Key, String)>,
}

/// Works out what to write. Without a Cluster record of ours at home, which says who we are and that the
/// list is ours to speak for, nothing is.
pub fn publish(id: &ClusterId, own: &Own, remote: &Remote, first: bool, now: &str) -> Publication {
    let mut plan = Publication::default();
    let home = Key::new(Kind::Cluster, id.as_str());
    if !matches!(own.records.get(&home), Some(Some(spec)) if spec.cluster_id() == id) {
        return plan;
    }
    plan.marker = first;
    for (key, spec) in &own.records {
        let Some(spec) = spec else {
            plan.problems
                .push((key.clone(), "it cannot be read by this version".to_owned()));
            continue;
        };
        if spec.cluster_id() != id || (key.kind == Kind::Cluster && *key != home) {
            let message = format!(
                "it speaks for cluster {}, this is cluster {id}",
                spec.cluster_id()
            );
            plan.problems.push((key.clone(), message));
            continue;
        }
        match remote.records.get(key) {
            Some(Some(there)) if there == spec => {}
            there => {
                plan.marker |= there.is_none() && remote.confirmed.contains(key);
                plan.writes.push(Write::Put {
                    key: key.clone(),
                    spec: spec.clone(),
                });
            }
        }
    }
    for (key, spec) in remote
        .records
        .iter()
        .filter(|(key, _)| !own.records.contains_key(*key))
    {
        match (key.kind, spec) {
            (Kind::ExportedService, _) | (_, None) => {
                plan.marker = true;
                plan.writes.push(Write::Delete { key: key.clone() });
            }
            (_, Some(spec)) => match spec.removed_at() {
                Some(at) if tombstone_is_old(at, now) => plan.writes.push(Write::Delete { key: key.clone() }),
                Some(_) => {}
                None => plan.writes.push(Write::Put {
                    key: key.clone(),
                    spec: spec.removed(now),
                }),
            },
        }
    }
    // What was withdrawn while the broker had lost it leaves no deletion for anybody to see.
    plan.marker |= remote
        .confirmed
        .iter()
        .any(|key| *key != home && !own.records.contains_key(key) && !remote.records.contains_key(key));
    // Kind's order puts the Cluster last: its marker speaks for what was written before it.
    plan.writes.sort_by(|a, b| a.key().cmp(b.key()));
    plan
}
