//! Where and how a gateway is reached.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{ClusterId, Condition, PublicKey};

/// One gateway node of a cluster. At home the object's name is the node's name; the gateway writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(kube::CustomResource, schemars::JsonSchema))]
#[cfg_attr(
    feature = "kube",
    kube(
        group = "strait.dev",
        version = "v1alpha1",
        kind = "Gateway",
        namespaced,
        status = "GatewayStatus",
        derive = "PartialEq",
        category = "strait",
        printcolumn = r#"{"name":"Cluster","type":"string","jsonPath":".spec.clusterId"}"#,
        printcolumn = r#"{"name":"Node","type":"string","jsonPath":".spec.node"}"#,
        printcolumn = r#"{"name":"Private","type":"string","jsonPath":".spec.addresses.private[0]"}"#,
        printcolumn = r#"{"name":"Public","type":"string","jsonPath":".spec.addresses.public[0]"}"#,
        printcolumn = r#"{"name":"Port","type":"integer","jsonPath":".spec.udpPort"}"#,
        printcolumn = r#"{"name":"Up","type":"integer","jsonPath":".status.up"}"#,
        printcolumn = r#"{"name":"Tunnels","type":"integer","jsonPath":".status.total"}"#,
        printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
    )
)]
#[serde(rename_all = "camelCase")]
pub struct GatewaySpec {
    /// The cluster's ID.
    pub cluster_id: ClusterId,
    /// The node's name.
    pub node: String,
    /// UDP port of its tunnels.
    pub udp_port: u16,
    /// Where it may be reached.
    pub addresses: GatewayAddresses,
    /// Its tunnel keys by slot; a plain gateway has slot 0 alone.
    pub keys: Vec<TunnelKeys>,
    /// The node's overlay addresses, at most one of each family: what probes of this gateway are sent to.
    #[serde(default)]
    #[cfg_attr(feature = "kube", schemars(with = "Vec<String>"))]
    pub overlay_addresses: Vec<IpAddr>,
    /// Overlay addresses of nodes behind this gateway that answer forwarding probes.
    #[serde(default)]
    #[cfg_attr(feature = "kube", schemars(with = "Vec<String>"))]
    pub probe_targets: Vec<IpAddr>,
    /// Tombstone: when the gateway was taken away (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_at: Option<String>,
}

/// Candidate addresses of a gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct GatewayAddresses {
    /// The node's own.
    #[serde(default)]
    #[cfg_attr(feature = "kube", schemars(with = "Vec<String>"))]
    pub private: Vec<IpAddr>,
    /// Of a NAT in front of it, told by an administrator or the cloud.
    #[serde(default)]
    #[cfg_attr(feature = "kube", schemars(with = "Vec<String>"))]
    pub public: Vec<IpAddr>,
    /// As others saw it (address and port).
    #[serde(default)]
    #[cfg_attr(feature = "kube", schemars(with = "Vec<String>"))]
    pub learned: Vec<SocketAddr>,
}

/// The public keys of one slot: one for each lane, in order. Between two gateways there are as many lanes as both
/// have keys, the first of one with the first of the other and so on: tunnels that share the flows, for as many
/// cores.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct TunnelKeys {
    /// 0 or 1: a successor process takes the other slot.
    pub slot: u8,
    /// Base64, at most 8.
    #[cfg_attr(feature = "kube", schemars(with = "Vec<String>"))]
    pub public_keys: Vec<PublicKey>,
}

/// What the gateway knows of its tunnels; local, never mirrored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatus {
    /// Tunnels with a live session.
    #[serde(default)]
    pub up: u32,
    /// Tunnels wanted.
    #[serde(default)]
    pub total: u32,
    /// The worst 20 (down ones first).
    #[serde(default)]
    pub tunnels: Vec<TunnelStatus>,
    /// `Ready`, and `PeersAdmitted`: whether every tunnel that the others' records ask for is in force; on a
    /// copy `Admitted`.
    #[serde(default)]
    #[cfg_attr(feature = "kube", schemars(transform = crate::schema::list_map_by_type))]
    pub conditions: Vec<Condition>,
}

/// One tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct TunnelStatus {
    /// The peer's cluster.
    pub cluster_id: ClusterId,
    /// The peer's node.
    pub gateway: String,
    /// Whether a session is live, of any of its lanes.
    pub up: bool,
    /// Its lanes.
    #[serde(default)]
    pub lanes: u32,
    /// Lanes with a live session; the flows are theirs.
    #[serde(default)]
    pub lanes_up: u32,
    /// The endpoint in use, `address:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// When the last handshake ended (RFC 3339, in steps of some seconds).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handshake: Option<String>,
}
