//! Who belongs to the clusterset, and what each may claim.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::ClusterId;

/// A member of the clusterset: cluster-scoped on the broker, named by its cluster ID, written only by the
/// broker's controllers; copied into every member cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(kube::CustomResource, schemars::JsonSchema))]
#[cfg_attr(
    feature = "kube",
    kube(
        group = "strait.dev",
        version = "v1alpha1",
        kind = "Member",
        derive = "PartialEq",
        category = "strait",
        printcolumn = r#"{"name":"State","type":"string","jsonPath":".spec.state"}"#,
        printcolumn = r#"{"name":"Prefixes","type":"string","jsonPath":".spec.prefixes"}"#,
        printcolumn = r#"{"name":"Nodes","type":"string","jsonPath":".spec.nodeBlocks"}"#,
        printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
    )
)]
#[serde(rename_all = "camelCase")]
pub struct MemberSpec {
    /// The cluster's ID; the object's name.
    pub cluster_id: ClusterId,
    /// UID of the cluster's kube-system namespace: two clusters cannot share an ID.
    pub uid: String,
    /// The prefixes that the cluster may claim (pods, services, global), as admitted.
    #[cfg_attr(feature = "kube", schemars(with = "Vec<String>"))]
    pub prefixes: Vec<IpNet>,
    /// Prefixes for overlay addresses of the cluster's nodes, allocated by the broker; at most one of each
    /// family.
    #[serde(default)]
    #[cfg_attr(feature = "kube", schemars(with = "Vec<String>"))]
    pub node_blocks: Vec<IpNet>,
    /// Namespaces that the cluster may export services of; `*` stands for all. Never `kube-*`.
    #[serde(default)]
    pub export_namespaces: Vec<String>,
    /// Where the member stands.
    pub state: MemberState,
    /// Grows with every change of `state`; receivers remember the highest and ignore lower ones.
    #[serde(default)]
    pub epoch: u64,
    /// When the member was admitted (RFC 3339); no export of it counts as older.
    pub admitted_at: String,
    /// Fingerprint of the key that was shown at admission.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_fingerprint: Option<String>,
    /// Tombstone: when the member left (RFC 3339). Kept for 30 days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_at: Option<String>,
}

/// Where a member stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub enum MemberState {
    /// Full part.
    Active,
    /// Tunnels stay, services are no longer offered to new connections.
    Draining,
    /// Out: no tunnel, no record counts.
    Evicted,
}
