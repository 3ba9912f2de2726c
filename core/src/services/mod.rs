//! Exports and imports of services: what this cluster publishes, and what it makes of all published.
//!
//! An [`Index`] holds what the local API server says (Services, exports, records, imports, slices) and knows
//! which services a change touches. [`Index::plan`] compares what should be with what is, for those services
//! or for all, and says which writes are missing. [`export`] turns a ServiceExport and its Service into a
//! record; [`merge`](merge::merge) is the one rule by which every cluster sees the same clusterset service and the same
//! conflicts; [`import`] makes a ServiceImport and EndpointSlices of it. The result depends on the objects
//! alone, not on the order in which they came.

pub mod age;
pub mod export;
pub mod import;
pub mod index;
pub mod merge;
pub mod plan;
pub mod sane;
pub mod slices;
#[cfg(test)]
mod tests;
pub mod vip;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use strait_api::Condition;
use strait_api::mcs::{ServiceImportSpec, ServiceImportStatus};
use strait_api::records::{Endpoint, ExportedServiceSpec, IpFamily, ServicePort, SessionAffinity};

use crate::clusterset::Record;

pub use export::{Decision, Publication, decide};
pub use index::{Event, Index, Kind, Object};
pub use plan::{Plan, Step};

/// The label that marks a ServiceImport as ours, with value [`strait_api::names::MANAGED_BY`].
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// Namespace and name of a service: the same in every cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServiceKey {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ServiceKey {
    /// A key.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A ServiceExport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// Which service.
    pub key: ServiceKey,
    /// When it was created (RFC 3339).
    pub created_at: String,
    /// Its generation.
    pub generation: Option<i64>,
    /// Labels for the import.
    pub labels: BTreeMap<String, String>,
    /// Annotations for the import.
    pub annotations: BTreeMap<String, String>,
    /// Its conditions as they stand.
    pub conditions: Vec<Condition>,
}

/// A Service of this cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Which.
    pub key: ServiceKey,
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`.
    pub type_: String,
    /// Whether its cluster IP is `None`.
    pub headless: bool,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Its families in its order; empty if it does not say.
    pub ip_families: Vec<IpFamily>,
    /// Session affinity.
    pub session_affinity: SessionAffinity,
    /// For how many seconds.
    pub client_ip_timeout: Option<i32>,
    /// `Cluster` or `Local`.
    pub internal_traffic_policy: Option<String>,
    /// Its `trafficDistribution`.
    pub traffic_distribution: Option<String>,
}

/// An EndpointSlice of a Service of this cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalSlice {
    /// The slice's name.
    pub name: String,
    /// Its Service.
    pub service: ServiceKey,
    /// Family of its addresses.
    pub family: IpFamily,
    /// Target ports by the service port's name.
    pub ports: Vec<ServicePort>,
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// An ExportedService as it lies in `strait-system`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportRecord {
    /// The record.
    pub record: Record<ExportedServiceSpec>,
    /// Conditions of the copy as they stand.
    pub conditions: Vec<Condition>,
}

/// A ServiceImport as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportObject {
    /// Which service.
    pub key: ServiceKey,
    /// When it was created (RFC 3339): who had a VIP first.
    pub created_at: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Spec.
    pub spec: ServiceImportSpec,
    /// Status.
    pub status: ServiceImportStatus,
}

/// An EndpointSlice of an import: ours, as it stands or as it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// Name.
    pub name: String,
    /// The import.
    pub service: ServiceKey,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Family of its addresses.
    pub family: IpFamily,
    /// Target ports by the import's port name.
    pub ports: Vec<ServicePort>,
    /// Endpoints, by address.
    pub endpoints: Vec<Endpoint>,
}
