//! The Multi-Cluster Services API (KEP-1645), group `multicluster.x-k8s.io`.
//!
//! v1beta1 is stored, v1alpha1 served with the same schema. The schemas equal upstream's field for field
//! (checked against a committed digest), plus `status.endpointSliceObjects` of the KEP's current text.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::Condition;
use crate::records::{IpFamily, ServicePort, ServiceType, SessionAffinity};

/// The API group.
pub const MCS_GROUP: &str = "multicluster.x-k8s.io";

/// Declares that the Service of the same name and namespace is to be had in the other clusters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(kube::CustomResource, schemars::JsonSchema))]
#[cfg_attr(
    feature = "kube",
    kube(
        group = "multicluster.x-k8s.io",
        version = "v1beta1",
        kind = "ServiceExport",
        namespaced,
        status = "ServiceExportStatus",
        derive = "PartialEq",
        derive = "Default",
        shortname = "svcex",
        shortname = "svcexport",
        printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
    )
)]
#[serde(rename_all = "camelCase", from = "Option<ExportSpecFields>")]
#[cfg_attr(feature = "kube", schemars(!from))]
pub struct ServiceExportSpec {
    /// Labels of the ServiceImport.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exported_labels: Option<BTreeMap<String, String>>,
    /// Annotations of the ServiceImport.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exported_annotations: Option<BTreeMap<String, String>>,
}

/// What is read of a spec that may be left out altogether, as most people do.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExportSpecFields {
    exported_labels: Option<BTreeMap<String, String>>,
    exported_annotations: Option<BTreeMap<String, String>>,
}

impl From<Option<ExportSpecFields>> for ServiceExportSpec {
    fn from(read: Option<ExportSpecFields>) -> Self {
        let read = read.unwrap_or_default();
        Self {
            exported_labels: read.exported_labels,
            exported_annotations: read.exported_annotations,
        }
    }
}

/// What became of an export.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct ServiceExportStatus {
    /// `Valid`, `Ready`, `Conflict`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "kube", schemars(transform = crate::schema::list_map_by_type))]
    pub conditions: Vec<Condition>,
}

/// A service of the clusterset, as this cluster sees it; only Strait's agent writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(kube::CustomResource, schemars::JsonSchema))]
#[cfg_attr(
    feature = "kube",
    kube(
        group = "multicluster.x-k8s.io",
        version = "v1beta1",
        kind = "ServiceImport",
        namespaced,
        status = "ServiceImportStatus",
        derive = "PartialEq",
        shortname = "svcim",
        shortname = "svcimport",
        printcolumn = r#"{"name":"Type","type":"string","description":"The type of this ServiceImport","jsonPath":".spec.type"}"#,
        printcolumn = r#"{"name":"IP","type":"string","description":"The VIP for this ServiceImport","jsonPath":".spec.ips"}"#,
        printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ServiceImportSpec {
    /// Union of the exporters' ports.
    #[cfg_attr(feature = "kube", schemars(schema_with = "crate::schema::import_ports"))]
    pub ports: Vec<ServicePort>,
    /// How it is reached.
    #[serde(rename = "type")]
    pub type_: ServiceType,
    /// The VIPs, in the order of `ip_families`; empty if headless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(with = "Option<Vec<String>>", transform = crate::schema::at_most_two))]
    pub ips: Option<Vec<IpAddr>>,
    /// Families.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(with = "Option<Vec<String>>", transform = crate::schema::at_most_two))]
    pub ip_families: Option<Vec<IpFamily>>,
    /// Whether a client stays with its endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(with = "Option<String>"))]
    pub session_affinity: Option<SessionAffinity>,
    /// For how long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_affinity_config: Option<SessionAffinityConfig>,
    /// As the exporters have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal_traffic_policy: Option<String>,
    /// As the exporters have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_distribution: Option<String>,
}

/// Settings of session affinity.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct SessionAffinityConfig {
    /// Of `ClientIP`.
    #[serde(rename = "clientIP", default, skip_serializing_if = "Option::is_none")]
    pub client_ip: Option<ClientIpTimeout>,
}

/// How long a client stays with its endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ClientIpTimeout {
    /// Seconds, 1 to 86,400.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<i32>,
}

/// State of an import.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ServiceImportStatus {
    /// The clusters that export it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "kube", schemars(transform = crate::schema::list_map_by_cluster))]
    pub clusters: Vec<ClusterStatus>,
    /// `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "kube", schemars(transform = crate::schema::list_map_by_type))]
    pub conditions: Vec<Condition>,
    /// Whether EndpointSlices of it are to be had in this cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_slice_objects: Option<EndpointSliceObjects>,
}

/// A cluster that exports a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct ClusterStatus {
    /// Its ID.
    pub cluster: String,
}

/// Whether EndpointSlices stand beside a ServiceImport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub enum EndpointSliceObjects {
    /// They do.
    Present,
    /// They do not.
    Absent,
}
