//! The rules of admission on the receiving side.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use strait_api::ClusterId;
use strait_api::names::copy_name;
use strait_api::records::{ClusterSpec, ExportedServiceSpec, GatewaySpec, MemberSpec, MemberState};

use super::prefixes::{contains, overlap};
use super::{Clusterset, OwnCluster, Record, Records, Refusal, RemoteCluster};
use crate::admission::MAX_PREFIXES;

/// Works out which records count. The order of the lists does not matter.
pub fn view(records: &Records) -> Clusterset {
    let mut refusals = Vec::new();
    let Some(own) = own_cluster(records) else {
        return Clusterset::default();
    };
    let mut members: Vec<&MemberSpec> = records
        .members
        .iter()
        .filter(|m| m.cluster_id != *own.id() && m.state != MemberState::Evicted && m.removed_at.is_none())
        .collect();
    // Earlier admission wins an overlap, whatever order the records came in.
    members.sort_by_key(|m| (m.admitted_at.clone(), m.cluster_id.clone()));

    let mut taken: Vec<(String, IpNet)> = Vec::new();
    let ours = |what: &str, list: &[IpNet]| {
        list.iter()
            .map(|p| (format!("this cluster's {what}"), *p))
            .collect::<Vec<_>>()
    };
    taken.extend(ours("pods", &own.cluster.pod_cidrs));
    taken.extend(ours("services", &own.cluster.service_cidrs));
    taken.extend(ours("VIPs", &own.cluster.vip_cidrs));
    taken.extend(ours("node block", own.node_blocks()));

    let mut remotes = BTreeMap::new();
    for member in members {
        // Of the records that a member makes, the one that bears its name speaks for it.
        let name = copy_name(&member.cluster_id, member.cluster_id.as_str());
        let record = records.clusters.iter().find(|r| {
            r.owner.as_ref() == Some(&member.cluster_id)
                && r.name == name
                && r.spec.cluster_id == member.cluster_id
        });
        let gone = record.is_none_or(|r| r.spec.removed_at.is_some());
        if gone {
            continue;
        }
        let Some(record) = record else { continue };
        let node_blocks = free_of("node block", &member.node_blocks, &taken, record, &mut refusals);
        let pod_prefixes = pod_prefixes(member, record, &taken, &mut refusals);
        taken.extend(
            pod_prefixes
                .iter()
                .chain(&node_blocks)
                .map(|p| (format!("cluster {}", member.cluster_id), *p)),
        );
        remotes.insert(
            member.cluster_id.clone(),
            RemoteCluster {
                id: member.cluster_id.clone(),
                pod_prefixes,
                node_blocks,
                export_namespaces: member.export_namespaces.clone(),
                admitted_at: member.admitted_at.clone(),
                state: member.state,
                gateways: BTreeMap::new(),
            },
        );
    }
    let absent = absent(&records.members, own.id(), &remotes, &taken);
    refuse_strangers(records, &own, &remotes, &mut refusals);
    for record in &records.gateways {
        admit_gateway(record, &mut remotes, &mut refusals);
    }
    refusals.sort();
    Clusterset {
        own: Some(own),
        remotes,
        absent,
        refusals,
    }
}

fn absent(
    members: &[MemberSpec],
    own: &ClusterId,
    remotes: &BTreeMap<ClusterId, RemoteCluster>,
    taken: &[(String, IpNet)],
) -> Vec<IpNet> {
    let gone = members
        .iter()
        .filter(|m| m.cluster_id != *own && !remotes.contains_key(&m.cluster_id));
    let prefixes = gone
        .flat_map(|m| m.prefixes.iter().chain(&m.node_blocks))
        .map(IpNet::trunc);
    let free: BTreeSet<IpNet> = prefixes
        .filter(|p| !taken.iter().any(|(_, t)| overlap(t, p)))
        .collect();
    free.into_iter().collect()
}

fn own_cluster(records: &Records) -> Option<OwnCluster> {
    let cluster = records
        .clusters
        .iter()
        .filter(|r| r.owner.is_none() && r.spec.removed_at.is_none())
        .min_by(|a, b| a.name.cmp(&b.name))?
        .spec
        .clone();
    let member = records
        .members
        .iter()
        .find(|m| m.cluster_id == cluster.cluster_id)
        .cloned();
    let gateways = records
        .gateways
        .iter()
        .filter(|r| r.owner.is_none() && r.spec.removed_at.is_none())
        .map(|r| (r.spec.node.clone(), r.spec.clone()))
        .collect();
    Some(OwnCluster {
        cluster,
        member,
        gateways,
    })
}

fn refusal(kind: &str, name: &str, reason: &str, whole: bool, message: String) -> Refusal {
    Refusal {
        kind: kind.to_owned(),
        name: name.to_owned(),
        reason: reason.to_owned(),
        message,
        whole,
    }
}

/// Those of the member's claimed pod prefixes that it may claim and that nobody else has.
fn pod_prefixes(
    member: &MemberSpec,
    record: &Record<ClusterSpec>,
    taken: &[(String, IpNet)],
    refusals: &mut Vec<Refusal>,
) -> Vec<IpNet> {
    let mut admitted = Vec::new();
    let claims = &record.spec.pod_cidrs;
    if claims.len() > MAX_PREFIXES {
        refusals.push(refusal(
            "Cluster",
            &record.name,
            "TooManyPrefixes",
            false,
            format!(
                "cluster {} claims {} pod prefixes; the first {MAX_PREFIXES} of them count; its administrator should join again with fewer, larger ones",
                member.cluster_id,
                claims.len(),
            ),
        ));
    }
    for claimed in claims.iter().take(MAX_PREFIXES) {
        if member.prefixes.iter().any(|p| contains(p, claimed)) {
            admitted.push(claimed.trunc());
        } else {
            refusals.push(refusal(
                "Cluster",
                &record.name,
                "PrefixNotAdmitted",
                false,
                format!(
                    "cluster {} claims pod prefix {claimed}, which is outside the prefixes that the broker admitted for it ({}); it gets no traffic until its administrator joins again with that prefix",
                    member.cluster_id,
                    list(&member.prefixes),
                ),
            ));
        }
    }
    admitted.sort();
    admitted.dedup();
    free_of("pod prefix", &admitted, taken, record, refusals)
}

fn free_of(
    what: &str,
    prefixes: &[IpNet],
    taken: &[(String, IpNet)],
    record: &Record<ClusterSpec>,
    refusals: &mut Vec<Refusal>,
) -> Vec<IpNet> {
    let mut free = Vec::new();
    for prefix in prefixes {
        match taken.iter().find(|(_, t)| overlap(t, prefix)) {
            None => free.push(*prefix),
            Some((whose, theirs)) => refusals.push(refusal(
                "Cluster",
                &record.name,
                "PrefixOverlaps",
                false,
                format!(
                    "{what} {prefix} of cluster {} overlaps with {theirs} of {whose}; traffic to it stays off until one of them changes its range",
                    record.spec.cluster_id,
                ),
            )),
        }
    }
    free
}

fn refuse_strangers(
    records: &Records,
    own: &OwnCluster,
    remotes: &BTreeMap<ClusterId, RemoteCluster>,
    refusals: &mut Vec<Refusal>,
) {
    for record in &records.clusters {
        let Some(owner) = &record.owner else { continue };
        if record.spec.removed_at.is_some() {
            continue;
        }
        if *owner != record.spec.cluster_id {
            refusals.push(wrong_owner(
                "Cluster",
                &record.name,
                owner,
                &record.spec.cluster_id,
            ));
        } else if owner == own.id() {
            refusals.push(refusal(
                "Cluster",
                &record.name,
                "ClusterIdTaken",
                true,
                format!("another cluster publishes records as {owner}, which is this cluster's ID; evict it at the broker"),
            ));
        } else if !remotes.contains_key(owner) {
            refusals.push(not_a_member("Cluster", &record.name, owner));
        } else if record.name != copy_name(owner, owner.as_str()) {
            refusals.push(wrong_name("Cluster", &record.name, owner, owner.as_str()));
        }
    }
}

fn wrong_owner(kind: &str, name: &str, owner: &ClusterId, says: &ClusterId) -> Refusal {
    refusal(
        kind,
        name,
        "WrongOwner",
        true,
        format!("the record stands in the namespace of cluster {owner} but speaks for cluster {says}"),
    )
}

fn wrong_name(kind: &str, name: &str, owner: &ClusterId, right: &str) -> Refusal {
    let right = copy_name(owner, right);
    let message =
        format!("the record is named {name}; what it says belongs into {right}, and only that counts");
    refusal(kind, name, "WrongName", true, message)
}

fn not_a_member(kind: &str, name: &str, owner: &ClusterId) -> Refusal {
    refusal(
        kind,
        name,
        "NotAMember",
        true,
        format!("cluster {owner} is no active member of the clusterset (see `strait broker members`)"),
    )
}

fn admit_gateway(
    record: &Record<GatewaySpec>,
    remotes: &mut BTreeMap<ClusterId, RemoteCluster>,
    refusals: &mut Vec<Refusal>,
) {
    let Some(owner) = &record.owner else { return };
    if record.spec.removed_at.is_some() {
        return;
    }
    if *owner != record.spec.cluster_id {
        refusals.push(wrong_owner(
            "Gateway",
            &record.name,
            owner,
            &record.spec.cluster_id,
        ));
        return;
    }
    let Some(remote) = remotes.get_mut(owner) else {
        refusals.push(not_a_member("Gateway", &record.name, owner));
        return;
    };
    // Two records that speak for one node would count in the order in which they came.
    if record.name != copy_name(owner, &record.spec.node) {
        refusals.push(wrong_name("Gateway", &record.name, owner, &record.spec.node));
        return;
    }
    if record.spec.keys.iter().all(|k| k.public_keys.is_empty()) {
        refusals.push(refusal(
            "Gateway",
            &record.name,
            "NoKey",
            true,
            format!(
                "gateway {} of cluster {owner} has no tunnel key",
                record.spec.node
            ),
        ));
        return;
    }
    let mut spec = record.spec.clone();
    let (inside, outside): (Vec<_>, Vec<_>) = spec
        .overlay_addresses
        .iter()
        .partition(|a| remote.node_blocks.iter().any(|block| block.contains(*a)));
    spec.overlay_addresses = inside;
    spec.probe_targets
        .retain(|a| remote.node_blocks.iter().any(|block| block.contains(a)));
    if let Some(address) = outside.first() {
        refusals.push(refusal(
            "Gateway",
            &record.name,
            "AddressNotAdmitted",
            false,
            format!(
                "overlay address {address} of gateway {} is outside the node block of cluster {owner}",
                spec.node
            ),
        ));
    }
    remote.gateways.insert(spec.node.clone(), spec);
}

/// An exported service, cut down to what counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdmittedService {
    /// The record without refused endpoints; `None` if the whole record is refused.
    pub service: Option<ExportedServiceSpec>,
    /// What was refused, if anything.
    pub refusal: Option<Refusal>,
}

pub(super) fn service(set: &Clusterset, record: &Record<ExportedServiceSpec>) -> AdmittedService {
    let spec = &record.spec;
    let refuse = |r: Refusal| AdmittedService {
        service: None,
        refusal: Some(r),
    };
    if spec.removed_at.is_some() {
        return AdmittedService {
            service: None,
            refusal: None,
        };
    }
    let Some(own) = &set.own else {
        return AdmittedService {
            service: None,
            refusal: None,
        };
    };
    if spec.namespace.starts_with("kube-") {
        let message = format!("services of namespace {} are never exported", spec.namespace);
        return refuse(refusal(
            "ExportedService",
            &record.name,
            "NamespaceNotAdmitted",
            true,
            message,
        ));
    }
    let prefixes: Vec<IpNet> = match &record.owner {
        None => own.cluster.pod_cidrs.clone(),
        Some(owner) if *owner != spec.cluster_id => {
            return refuse(wrong_owner(
                "ExportedService",
                &record.name,
                owner,
                &spec.cluster_id,
            ));
        }
        Some(owner) => match set.remotes.get(owner) {
            None => return refuse(not_a_member("ExportedService", &record.name, owner)),
            Some(remote) => {
                if !remote
                    .export_namespaces
                    .iter()
                    .any(|n| n == "*" || *n == spec.namespace)
                {
                    let message = format!(
                        "cluster {owner} may not export services of namespace {} (admitted: {})",
                        spec.namespace,
                        remote.export_namespaces.join(", ")
                    );
                    return refuse(refusal(
                        "ExportedService",
                        &record.name,
                        "NamespaceNotAdmitted",
                        true,
                        message,
                    ));
                }
                remote.pod_prefixes.clone()
            }
        },
    };
    let mut admitted = spec.clone();
    let mut outside = Vec::new();
    for set in &mut admitted.endpoints {
        set.endpoints.retain(|e| {
            let inside = prefixes.iter().any(|p| p.contains(&e.address));
            if !inside {
                outside.push(e.address);
            }
            inside
        });
    }
    let refusal = outside.first().map(|address| {
        refusal(
            "ExportedService",
            &record.name,
            "EndpointNotAdmitted",
            false,
            format!(
                "{} endpoint(s) of {}/{} lie outside the pod prefixes of cluster {} and are left out, {address} first (endpoints on the host network cannot be reached from other clusters)",
                outside.len(),
                spec.namespace,
                spec.name,
                spec.cluster_id
            ),
        )
    });
    AdmittedService {
        service: Some(admitted),
        refusal,
    }
}

fn list(prefixes: &[IpNet]) -> String {
    prefixes
        .iter()
        .map(IpNet::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}
