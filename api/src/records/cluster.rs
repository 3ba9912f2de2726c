//! What a cluster says of itself.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{ClusterId, Condition};

/// A cluster's own account: its ranges, place and version. The object's name is the cluster ID. `strait
/// join` writes it into `strait-system`; every daemon there learns from it which cluster it is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(kube::CustomResource, schemars::JsonSchema))]
#[cfg_attr(
    feature = "kube",
    kube(
        group = "strait.dev",
        version = "v1alpha1",
        kind = "Cluster",
        namespaced,
        status = "ClusterStatus",
        derive = "PartialEq",
        category = "strait",
        printcolumn = r#"{"name":"Pods","type":"string","jsonPath":".spec.podCidrs"}"#,
        printcolumn = r#"{"name":"Services","type":"string","jsonPath":".spec.serviceCidrs"}"#,
        printcolumn = r#"{"name":"Version","type":"string","jsonPath":".spec.version"}"#,
        printcolumn = r#"{"name":"Admitted","type":"string","jsonPath":".status.conditions[?(@.type==\"Admitted\")].status"}"#,
        printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSpec {
    /// The cluster's ID; the object's name at home.
    pub cluster_id: ClusterId,
    /// Prefixes of its pods.
    #[serde(default)]
    #[cfg_attr(feature = "kube", schemars(with = "Vec<String>"))]
    pub pod_cidrs: Vec<IpNet>,
    /// Prefixes of its Services' cluster IPs; never routed, only checked for overlaps.
    #[serde(default)]
    #[cfg_attr(feature = "kube", schemars(with = "Vec<String>"))]
    pub service_cidrs: Vec<IpNet>,
    /// Prefixes under which the others see it where its own overlap (not in use yet).
    #[serde(default)]
    #[cfg_attr(feature = "kube", schemars(with = "Vec<String>"))]
    pub global_cidrs: Vec<IpNet>,
    /// Prefixes of the VIPs of ServiceImports in this cluster; at most one of each family.
    #[serde(default)]
    #[cfg_attr(feature = "kube", schemars(with = "Vec<String>"))]
    pub vip_cidrs: Vec<IpNet>,
    /// Where it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    /// Version of Strait there.
    #[serde(default)]
    pub version: String,
    /// Marker of a complete republication (RFC 3339): every record of this cluster that is older and was
    /// not seen since is gone by its owner's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_sync: Option<String>,
    /// Tombstone: when the cluster left (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_at: Option<String>,
}

/// Where a cluster runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct Location {
    /// Cloud or site region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Zone in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// What this cluster makes of the record; stays at home.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct ClusterStatus {
    /// `Admitted`: whether the record counts here, and if not, why; `Copied`: whether all records of that
    /// cluster are copied here. On the own record `Connected`: whether the broker is reached.
    #[serde(default)]
    #[cfg_attr(feature = "kube", schemars(transform = crate::schema::list_map_by_type))]
    pub conditions: Vec<Condition>,
}
