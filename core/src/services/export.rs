//! From a ServiceExport and its Service to the record that the other clusters read.

use std::collections::BTreeMap;
use std::net::IpAddr;

use strait_api::records::{
    ClientIpConfig, Endpoint, EndpointSet, ExportedServiceSpec, IpFamily, ServicePort, ServiceType,
    SessionAffinity,
};
use strait_api::{ClusterId, Condition};

use super::merge::Conflict;
use super::{Export, LocalSlice, Service};

/// What becomes of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It is published so.
    Publish(Box<ExportedServiceSpec>),
    /// It cannot be; any record of it goes.
    Refuse {
        /// Reason of `Valid=False`.
        reason: &'static str,
        /// Why.
        message: String,
    },
}

/// How far the publication has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Publication {
    /// The record stands.
    Published,
    /// It is still to be written.
    Pending,
    /// It could not be, or does not count.
    Failed(String),
}

/// Decides on one export. The Service's slices may come in any order.
pub fn decide<'a>(
    own: &ClusterId,
    export: &Export,
    service: Option<&Service>,
    slices: impl IntoIterator<Item = &'a LocalSlice>,
) -> Decision {
    let Some(service) = service else {
        return Decision::Refuse {
            reason: "NoService",
            message: format!("there is no Service {}", export.key),
        };
    };
    let type_ = match service.type_.as_str() {
        "ClusterIP" | "NodePort" | "LoadBalancer" | "" if service.headless => ServiceType::Headless,
        "ClusterIP" | "NodePort" | "LoadBalancer" | "" => ServiceType::ClusterSetIP,
        other => {
            return Decision::Refuse {
                reason: "InvalidServiceType",
                message: format!(
                    "Service {} is of type {other}; only ClusterIP, NodePort and LoadBalancer Services, with a cluster IP or headless, can be exported",
                    export.key
                ),
            };
        }
    };
    let slices: Vec<&LocalSlice> = slices.into_iter().collect();
    let ip_families = families(service, &slices);
    let affinity = service.session_affinity;
    Decision::Publish(Box::new(ExportedServiceSpec {
        cluster_id: own.clone(),
        namespace: export.key.namespace.clone(),
        name: export.key.name.clone(),
        type_,
        ports: service.ports.clone(),
        endpoints: endpoint_sets(service, &ip_families, &slices),
        ip_families,
        session_affinity: affinity,
        client_ip: service
            .client_ip_timeout
            .filter(|_| affinity == SessionAffinity::ClientIP)
            .map(|timeout_seconds| ClientIpConfig { timeout_seconds }),
        internal_traffic_policy: Some(
            service
                .internal_traffic_policy
                .clone()
                .unwrap_or_else(|| "Cluster".to_owned()),
        ),
        traffic_distribution: service.traffic_distribution.clone(),
        exported_labels: export.labels.clone(),
        exported_annotations: export.annotations.clone(),
        exported_at: export.created_at.clone(),
        removed_at: None,
    }))
}

/// The Service's own families; where it does not say, those of its endpoints.
fn families(service: &Service, slices: &[&LocalSlice]) -> Vec<IpFamily> {
    let mut families = service.ip_families.clone();
    if families.is_empty() {
        families = slices.iter().map(|s| s.family).collect();
        families.sort();
    }
    families.dedup();
    families
}

fn endpoint_sets(service: &Service, families: &[IpFamily], slices: &[&LocalSlice]) -> Vec<EndpointSet> {
    let mut sets: BTreeMap<(IpFamily, Vec<ServicePort>), BTreeMap<IpAddr, Endpoint>> = BTreeMap::new();
    for slice in slices.iter().filter(|s| families.contains(&s.family)) {
        let mut ports: Vec<ServicePort> = slice
            .ports
            .iter()
            .filter(|p| {
                let same = |s: &ServicePort| s.name == p.name && s.protocol == p.protocol;
                service.ports.iter().any(same)
            })
            .cloned()
            .collect();
        ports.sort();
        ports.dedup();
        let set = sets.entry((slice.family, ports)).or_default();
        for endpoint in &slice.endpoints {
            if IpFamily::of(endpoint.address) == slice.family {
                put(set, endpoint);
            }
        }
    }
    sets.into_iter()
        .filter(|(_, endpoints)| !endpoints.is_empty())
        .map(|((family, ports), endpoints)| EndpointSet {
            family,
            ports,
            endpoints: endpoints.into_values().collect(),
        })
        .collect()
}

/// An address may stand in two slices while Kubernetes moves it: the better state of the two counts.
pub(super) fn put(set: &mut BTreeMap<IpAddr, Endpoint>, endpoint: &Endpoint) {
    let rank = |e: &Endpoint| (e.ready, e.serving, !e.terminating, e.clone());
    match set.get_mut(&endpoint.address) {
        Some(known) if rank(known) >= rank(endpoint) => {}
        Some(known) => *known = endpoint.clone(),
        None => {
            set.insert(endpoint.address, endpoint.clone());
        }
    }
}

/// The conditions of a ServiceExport.
pub fn conditions(
    export: &Export,
    decision: &Decision,
    publication: &Publication,
    note: Option<&str>,
    conflicts: &[Conflict],
) -> Vec<Condition> {
    let (valid, ready) = match decision {
        Decision::Refuse { reason, message } => (
            Condition::new("Valid", false, *reason, message.clone()),
            Condition::new("Ready", false, "Pending", "waits until the export is valid"),
        ),
        Decision::Publish(_) => (
            Condition::new("Valid", true, "Valid", "the Service can be exported"),
            match publication {
                Publication::Published => Condition::new(
                    "Ready",
                    true,
                    "Exported",
                    note.map_or_else(
                        || "published to the clusterset".to_owned(),
                        |n| format!("published to the clusterset; {n}"),
                    ),
                ),
                Publication::Pending => {
                    Condition::new("Ready", false, "Pending", "the record is being written")
                }
                Publication::Failed(why) => Condition::new("Ready", false, "Failed", why.clone()),
            },
        ),
    };
    let conflict = if conflicts.is_empty() {
        Condition::new("Conflict", false, "NoConflicts", "")
    } else {
        let join =
            |part: fn(&Conflict) -> &str, by: &str| conflicts.iter().map(part).collect::<Vec<_>>().join(by);
        Condition::new(
            "Conflict",
            true,
            join(|c| c.reason, ","),
            join(|c| &c.message, "; "),
        )
    };
    [valid, ready, conflict]
        .into_iter()
        .map(|mut c| {
            c.observed_generation = export.generation;
            c
        })
        .collect()
}
