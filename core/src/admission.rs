//! Whether a cluster may join, as the broker decides it.
//!
//! [`objections`] says all that speaks against a claim: an empty list admits it, and [`admit`] makes the
//! [`MemberSpec`]. Nothing is refused half: an administrator who reads the list can fix all of it at once.

mod ranges;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use strait_api::ClusterId;
use strait_api::records::{JoinClaim, MemberSpec, MemberState};

use crate::allocation::{self, AllocationError};
use crate::clusterset::overlap;

pub use ranges::why_unfit;

/// Most prefixes of one sort in a claim.
pub const MAX_PREFIXES: usize = 64;

/// Ranges of a member that its [`MemberSpec`] does not hold, from its cluster record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRanges {
    /// Of its Services.
    pub services: Vec<IpNet>,
    /// Of its VIPs.
    pub vips: Vec<IpNet>,
}

/// Who is in the clusterset already.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Existing {
    /// All members, also those that left and whose tombstone is kept.
    pub members: Vec<MemberSpec>,
    /// Their other ranges, where known.
    pub ranges: BTreeMap<ClusterId, MemberRanges>,
}

impl Existing {
    /// A member's other ranges, without those that cannot be true. They stand in a record that the member
    /// writes by itself: one that claims everything, or what others were admitted with, must not keep
    /// newcomers out.
    fn believed(&self, id: &ClusterId) -> MemberRanges {
        let admitted: Vec<&IpNet> = self
            .members
            .iter()
            .filter(|m| m.state != MemberState::Evicted && m.removed_at.is_none())
            .flat_map(|m| m.prefixes.iter().chain(&m.node_blocks))
            .collect();
        let fit = |list: &[IpNet]| {
            list.iter()
                .take(MAX_PREFIXES)
                .filter(|p| why_unfit(p).is_none() && !admitted.iter().any(|a| overlap(a, p)))
                .copied()
                .collect()
        };
        self.ranges
            .get(id)
            .map_or_else(MemberRanges::default, |r| MemberRanges {
                services: fit(&r.services),
                vips: fit(&r.vips),
            })
    }
}

/// What the broker's administrator set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Where node blocks are cut from.
    pub node_pools: Vec<IpNet>,
}

impl Default for Settings {
    fn default() -> Self {
        let node_pools = allocation::DEFAULT_NODE_POOLS
            .iter()
            .filter_map(|p| p.parse().ok())
            .collect();
        Self { node_pools }
    }
}

/// Something that speaks against a claim.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Objection {
    /// Reason of the condition `Valid=False`, in CamelCase.
    pub reason: String,
    /// A sentence: what, why, and what to do.
    pub message: String,
}

impl Objection {
    fn new(reason: &str, message: String) -> Self {
        Self {
            reason: reason.to_owned(),
            message,
        }
    }
}

/// All that speaks against admitting this claim; empty if nothing does.
pub fn objections(existing: &Existing, claim: &JoinClaim, settings: &Settings) -> Vec<Objection> {
    let mut found = Vec::new();
    identity(existing, claim, &mut found);
    ranges::own(claim, &mut found);
    ranges::against_pools(claim, settings, &mut found);
    for member in &existing.members {
        let gone = member.state == MemberState::Evicted || member.removed_at.is_some();
        if !gone && member.cluster_id != claim.cluster_id {
            let others = existing.believed(&member.cluster_id);
            ranges::against_member(claim, member, &others, &mut found);
        }
    }
    found
}

fn identity(existing: &Existing, claim: &JoinClaim, found: &mut Vec<Objection>) {
    let id = &claim.cluster_id;
    if claim.uid.is_empty() || claim.uid.len() > 128 || claim.uid.chars().any(char::is_control) {
        let message = format!(
            "the claim of {id} holds no usable UID of its kube-system namespace; run `strait join` again"
        );
        found.push(Objection::new("NoUid", message));
    }
    if let Some(holder) = existing
        .members
        .iter()
        .find(|m| m.cluster_id == *id && m.uid != claim.uid)
    {
        found.push(if let Some(since) = &holder.removed_at {
            let message = format!(
                "cluster ID {id} is reserved until 30 days after {since}, when another cluster (UID {}) left under it; join with another --cluster-id",
                holder.uid
            );
            Objection::new("ClusterIdReserved", message)
        } else {
            let message = format!(
                "cluster ID {id} is taken by another cluster (UID {}); join with another --cluster-id, or evict that one first",
                holder.uid
            );
            Objection::new("ClusterIdTaken", message)
        });
    }
    let other = existing
        .members
        .iter()
        .find(|m| m.uid == claim.uid && m.cluster_id != *id && m.removed_at.is_none());
    if let Some(other) = other {
        let message = format!(
            "this cluster (UID {}) is a member already, as {}; run `strait leave` there before it joins as {id}",
            claim.uid, other.cluster_id
        );
        found.push(Objection::new("AlreadyAMember", message));
    }
}

/// Which of these namespaces nobody may export from (`*` stands for all others).
pub fn refused_namespaces(namespaces: &[String]) -> Vec<Objection> {
    namespaces
        .iter()
        .filter(|n| n.starts_with("kube-") || n.is_empty() || (n.contains('*') && *n != "*"))
        .map(|n| {
            let message = format!(
                "{n:?} cannot be admitted for exports: name a namespace (never kube-*), or * for all"
            );
            Objection::new("NamespaceRefused", message)
        })
        .collect()
}

/// The member that an accepted claim becomes. A cluster that comes again under its own ID and UID keeps its
/// node blocks; `epoch` must be above all that receivers have seen of it.
pub fn admit(
    existing: &Existing,
    claim: &JoinClaim,
    export_namespaces: &[String],
    settings: &Settings,
    now: &str,
    epoch: u64,
) -> Result<MemberSpec, AllocationError> {
    let before = existing.members.iter().find(|m| m.cluster_id == claim.cluster_id);
    let mut prefixes: Vec<IpNet> = claim.pod_cidrs.iter().map(IpNet::trunc).collect();
    prefixes.sort();
    prefixes.dedup();
    let families = |list: &[IpNet]| {
        let v4 = list.iter().any(|p| matches!(p, IpNet::V4(_)));
        let v6 = list.iter().any(|p| matches!(p, IpNet::V6(_)));
        (v4, v6)
    };
    let node_blocks = match before {
        Some(m) if families(&m.node_blocks) == families(&prefixes) => m.node_blocks.clone(),
        _ => {
            let others: Vec<MemberSpec> = existing
                .members
                .iter()
                .filter(|m| m.cluster_id != claim.cluster_id)
                .cloned()
                .collect();
            allocation::node_blocks(&settings.node_pools, &others, &prefixes)?
        }
    };
    let stays = before.filter(|m| m.state != MemberState::Evicted && m.removed_at.is_none());
    Ok(MemberSpec {
        cluster_id: claim.cluster_id.clone(),
        uid: claim.uid.clone(),
        prefixes,
        node_blocks,
        export_namespaces: export_namespaces.to_vec(),
        state: MemberState::Active,
        epoch: before.map_or(epoch, |m| epoch.max(m.epoch + 1)),
        admitted_at: stays.map_or_else(|| now.to_owned(), |m| m.admitted_at.clone()),
        key_fingerprint: Some(claim.key_fingerprint.clone()).filter(|f| !f.is_empty()),
        removed_at: None,
    })
}

/// The member after it left or was evicted.
pub fn evict(member: &MemberSpec, now: &str, epoch: u64) -> MemberSpec {
    MemberSpec {
        state: MemberState::Evicted,
        epoch: epoch.max(member.epoch + 1),
        removed_at: Some(member.removed_at.clone().unwrap_or_else(|| now.to_owned())),
        ..member.clone()
    }
}
