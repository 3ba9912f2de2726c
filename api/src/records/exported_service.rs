//! A service that a cluster exports, with its endpoints.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{ClusterId, Condition};

/// One exported service of one cluster, named `<service>.<namespace>` at home; the agent writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(kube::CustomResource, schemars::JsonSchema))]
#[cfg_attr(
    feature = "kube",
    kube(
        group = "strait.dev",
        version = "v1alpha1",
        kind = "ExportedService",
        namespaced,
        status = "ExportedServiceStatus",
        derive = "PartialEq",
        category = "strait",
        printcolumn = r#"{"name":"Cluster","type":"string","jsonPath":".spec.clusterId"}"#,
        printcolumn = r#"{"name":"Namespace","type":"string","jsonPath":".spec.namespace"}"#,
        printcolumn = r#"{"name":"Service","type":"string","jsonPath":".spec.name"}"#,
        printcolumn = r#"{"name":"Type","type":"string","jsonPath":".spec.type"}"#,
        printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ExportedServiceSpec {
    /// The cluster's ID.
    pub cluster_id: ClusterId,
    /// The service's namespace.
    pub namespace: String,
    /// The service's name.
    pub name: String,
    /// How it is imported.
    #[serde(rename = "type")]
    pub type_: ServiceType,
    /// Its ports.
    #[serde(default)]
    pub ports: Vec<ServicePort>,
    /// Its families, the preferred one first.
    #[serde(default)]
    pub ip_families: Vec<IpFamily>,
    /// Whether a client stays with its endpoint.
    #[serde(default)]
    pub session_affinity: SessionAffinity,
    /// For how long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ip: Option<ClientIpConfig>,
    /// The Service's `internalTrafficPolicy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal_traffic_policy: Option<String>,
    /// The Service's `trafficDistribution`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_distribution: Option<String>,
    /// From the ServiceExport.
    #[serde(default)]
    pub exported_labels: BTreeMap<String, String>,
    /// From the ServiceExport.
    #[serde(default)]
    pub exported_annotations: BTreeMap<String, String>,
    /// When the ServiceExport was created (RFC 3339): the oldest wins a conflict.
    pub exported_at: String,
    /// Endpoints, grouped by family and target ports.
    #[serde(default)]
    pub endpoints: Vec<EndpointSet>,
    /// Tombstone: when the export ended (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_at: Option<String>,
}

/// The type of a clusterset service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub enum ServiceType {
    /// With a VIP.
    ClusterSetIP,
    /// Endpoints by name.
    Headless,
}

/// IPv4 or IPv6, as Kubernetes writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub enum IpFamily {
    /// IPv4.
    IPv4,
    /// IPv6.
    IPv6,
}

impl IpFamily {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::IPv4 } else { Self::IPv6 }
    }
}

/// Whether a client stays with its endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub enum SessionAffinity {
    /// Each connection by itself.
    #[default]
    None,
    /// By the client's address.
    ClientIP,
}

/// Client affinity's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ClientIpConfig {
    /// Seconds, 1 to 86,400.
    pub timeout_seconds: i32,
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// DNS label; empty only if it is the only port.
    #[serde(default)]
    pub name: String,
    /// `TCP`, `UDP` or `SCTP`; `TCP` if left out.
    #[serde(default = "tcp")]
    pub protocol: String,
    /// The service's port.
    pub port: u16,
    /// The application protocol, if stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
}

fn tcp() -> String {
    "TCP".to_owned()
}

/// Endpoints that share a family and target ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct EndpointSet {
    /// Family of all addresses.
    pub family: IpFamily,
    /// Target ports, by the service port's name.
    pub ports: Vec<ServicePort>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// One endpoint: a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// The pod's address.
    #[cfg_attr(feature = "kube", schemars(with = "String"))]
    pub address: IpAddr,
    /// Takes new connections (absent in Kubernetes means yes).
    pub ready: bool,
    /// Still answers (also while terminating).
    pub serving: bool,
    /// On its way out.
    pub terminating: bool,
    /// Its name, where the pod has one of its own (StatefulSets).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Its zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// What this cluster makes of a copy; stays at home.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct ExportedServiceStatus {
    /// `Admitted`: whether the record counts here, and if not, why.
    #[serde(default)]
    #[cfg_attr(feature = "kube", schemars(transform = crate::schema::list_map_by_type))]
    pub conditions: Vec<Condition>,
}
