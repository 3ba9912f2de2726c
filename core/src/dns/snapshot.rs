//! What the answers come from.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use strait_api::ClusterId;
use strait_api::mcs::ServiceImportSpec;
use strait_api::records::{ServicePort, ServiceType};

use crate::services::{Slice, sane};

/// The zone that is served, `clusterset.local` as a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Zone {
    labels: Vec<String>,
}

/// Why a text is no zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no DNS zone: it takes labels of a-z, 0-9 and '-' with dots between, such as clusterset.local"
)]
pub struct InvalidZone(pub String);

impl std::str::FromStr for Zone {
    type Err = InvalidZone;

    fn from_str(text: &str) -> Result<Self, InvalidZone> {
        let lower = text.trim_end_matches('.').to_ascii_lowercase();
        let labels: Vec<String> = lower.split('.').map(str::to_owned).collect();
        // The longest name in it has five labels of 63 and `svc` before the zone.
        if lower.len() <= 100 && labels.iter().all(|l| sane::dns_label(l)) {
            Ok(Self { labels })
        } else {
            Err(InvalidZone(text.to_owned()))
        }
    }
}

impl TryFrom<String> for Zone {
    type Error = InvalidZone;

    fn try_from(text: String) -> Result<Self, InvalidZone> {
        text.parse()
    }
}

impl From<Zone> for String {
    fn from(zone: Zone) -> Self {
        zone.to_string()
    }
}

impl std::fmt::Display for Zone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.labels.join("."))
    }
}

impl Zone {
    /// What stands before the zone in a name; `None` if the name lies outside.
    pub(super) fn strip<'a, 'b>(&self, name: &'a [&'b str]) -> Option<&'a [&'b str]> {
        let at = name.len().checked_sub(self.labels.len())?;
        let (before, zone) = name.split_at(at);
        zone.iter()
            .zip(&self.labels)
            .all(|(a, b)| a == b)
            .then_some(before)
    }
}

/// All names at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The zone.
    pub zone: Zone,
    /// Grows with every snapshot.
    pub serial: u32,
    /// By namespace.
    pub namespaces: BTreeMap<String, Arc<Namespace>>,
}

/// A namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Whether the namespace itself exists in this cluster.
    pub exists: bool,
    /// By name.
    pub services: BTreeMap<String, Arc<Service>>,
}

/// A service of the clusterset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its type.
    pub type_: ServiceType,
    /// VIPs.
    pub ips: Vec<IpAddr>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// Ready endpoints by cluster and host name; only of headless services.
    pub hosts: BTreeMap<String, BTreeMap<String, Vec<Endpoint>>>,
}

/// An endpoint of a headless service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Endpoint {
    /// Address.
    pub address: IpAddr,
    /// Target ports by the service port's name.
    pub ports: Vec<ServicePort>,
}

impl Snapshot {
    /// A zone without names.
    pub fn empty(zone: Zone) -> Self {
        Self {
            zone,
            serial: 1,
            namespaces: BTreeMap::new(),
        }
    }

    /// Puts a service in, or takes it out.
    pub fn set_service(&mut self, namespace: &str, name: &str, service: Option<Service>) {
        let space = self.namespaces.entry(namespace.to_owned()).or_default();
        let space = Arc::make_mut(space);
        match service {
            Some(service) => {
                space.services.insert(name.to_owned(), Arc::new(service));
            }
            None => {
                space.services.remove(name);
            }
        }
        self.prune(namespace);
    }

    /// Says whether a namespace exists.
    pub fn set_namespace(&mut self, namespace: &str, exists: bool) {
        let space = self.namespaces.entry(namespace.to_owned()).or_default();
        Arc::make_mut(space).exists = exists;
        self.prune(namespace);
    }

    /// How many services there are.
    pub fn services(&self) -> usize {
        self.namespaces.values().map(|n| n.services.len()).sum()
    }

    fn prune(&mut self, namespace: &str) {
        if self
            .namespaces
            .get(namespace)
            .is_some_and(|n| !n.exists && n.services.is_empty())
        {
            self.namespaces.remove(namespace);
        }
    }

    pub(super) fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        Some(self.namespaces.get(namespace)?.services.get(name)?)
    }
}

impl Service {
    /// A service out of its import and the import's slices.
    pub fn new<'a>(import: &ServiceImportSpec, slices: impl IntoIterator<Item = &'a Slice>) -> Self {
        let mut hosts: BTreeMap<String, BTreeMap<String, Vec<Endpoint>>> = BTreeMap::new();
        if import.type_ == ServiceType::Headless {
            for slice in slices {
                let cluster = slice.labels.get(strait_api::names::LABEL_MCS_CLUSTER);
                let Some(cluster) = cluster.and_then(|c| c.parse::<ClusterId>().ok()) else {
                    continue;
                };
                for endpoint in slice.endpoints.iter().filter(|e| e.ready) {
                    let host = match &endpoint.hostname {
                        Some(name) => name.to_ascii_lowercase(),
                        None => dashed(endpoint.address),
                    };
                    let list = hosts
                        .entry(cluster.to_string())
                        .or_default()
                        .entry(host)
                        .or_default();
                    list.push(Endpoint {
                        address: endpoint.address,
                        ports: slice.ports.clone(),
                    });
                }
            }
        }
        for endpoints in hosts.values_mut().flat_map(BTreeMap::values_mut) {
            endpoints.sort();
            endpoints.dedup();
        }
        let ips = match import.type_ {
            ServiceType::ClusterSetIP => import.ips.clone().unwrap_or_default(),
            ServiceType::Headless => Vec::new(),
        };
        Self {
            type_: import.type_,
            ips,
            ports: import.ports.clone(),
            hosts,
        }
    }
}

/// The host name of an endpoint that has none: its address with dashes (as CoreDNS writes it; a label may
/// neither begin nor end with one).
fn dashed(address: IpAddr) -> String {
    let mut text = address.to_string().replace(['.', ':'], "-");
    if text.starts_with('-') {
        text.insert(0, '0');
    }
    if text.ends_with('-') {
        text.push('0');
    }
    text
}
