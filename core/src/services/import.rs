//! The ServiceImport of a merged service.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use strait_api::mcs::{
    ClientIpTimeout, ClusterStatus, EndpointSliceObjects, ServiceImportSpec, ServiceImportStatus,
    SessionAffinityConfig,
};
use strait_api::records::{IpFamily, ServiceType, SessionAffinity};
use strait_api::{Condition, names};

use super::merge::{Constituent, Merged};
use super::{ImportObject, LABEL_MANAGED_BY, ServiceKey, vip};

/// An import as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// Which service.
    pub key: ServiceKey,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Spec.
    pub spec: ServiceImportSpec,
    /// Clusters and slices; the conditions of before are still to be merged in.
    pub status: ServiceImportStatus,
}

/// Makes the import. `taken` says whether an address belongs to another service, as far as `existing` is
/// not entitled to it.
pub fn import(
    key: &ServiceKey,
    merged: &Merged,
    constituents: &[Constituent],
    ranges: &[IpNet],
    existing: Option<&ImportObject>,
    taken: impl Fn(IpAddr) -> bool,
) -> Import {
    let mut families = merged.ip_families.clone();
    let mut ips = None;
    let mut ready = Condition::new("Ready", true, "Ready", "");
    if merged.type_ == ServiceType::ClusterSetIP {
        let range_of = |f: IpFamily| ranges.iter().find(|r| IpFamily::of(r.network()) == f);
        families.retain(|f| range_of(*f).is_some());
        let held: &[IpAddr] = existing.and_then(|e| e.spec.ips.as_deref()).unwrap_or_default();
        let mut vips = Vec::new();
        let mut full = Vec::new();
        for range in families.iter().filter_map(|f| range_of(*f)) {
            let kept = held
                .iter()
                .copied()
                .find(|a| vip::usable(range, *a) && !taken(*a));
            match kept.or_else(|| vip::allocate(key, range, &taken)) {
                Some(address) => vips.push(address),
                None => full.push(range.to_string()),
            }
        }
        if families.is_empty() {
            ready = Condition::new(
                "Ready",
                false,
                "IPFamilyNotSupported",
                format!(
                    "the service has the families {:?}, for which this cluster has no VIP range (spec.vipCidrs of its Cluster record)",
                    merged.ip_families
                ),
            );
        } else if !full.is_empty() {
            ready = Condition::new(
                "Ready",
                false,
                "Pending",
                format!(
                    "the VIP range {} is full; give this cluster a larger one",
                    full.join(", ")
                ),
            );
        }
        // `ips` stands in the order of `ipFamilies`: a family without an address is left out of both.
        families.retain(|f| vips.iter().any(|a| IpFamily::of(*a) == *f));
        ips = (!vips.is_empty()).then_some(vips);
    }
    let mut labels = merged.labels.clone();
    labels.insert(LABEL_MANAGED_BY.to_owned(), names::MANAGED_BY.to_owned());
    let mut clusters: Vec<ClusterStatus> = constituents
        .iter()
        .map(|c| ClusterStatus {
            cluster: c.cluster().to_string(),
        })
        .collect();
    clusters.sort();
    Import {
        key: key.clone(),
        labels,
        annotations: merged.annotations.clone(),
        spec: ServiceImportSpec {
            ports: merged.ports.clone(),
            type_: merged.type_,
            ips,
            ip_families: Some(families),
            session_affinity: Some(merged.session_affinity),
            session_affinity_config: merged
                .client_ip
                .filter(|_| merged.session_affinity == SessionAffinity::ClientIP)
                .map(|c| SessionAffinityConfig {
                    client_ip: Some(ClientIpTimeout {
                        timeout_seconds: Some(c.timeout_seconds),
                    }),
                }),
            internal_traffic_policy: merged.internal_traffic_policy.clone(),
            traffic_distribution: merged.traffic_distribution.clone(),
        },
        status: ServiceImportStatus {
            clusters,
            conditions: vec![ready],
            endpoint_slice_objects: Some(EndpointSliceObjects::Present),
        },
    }
}
