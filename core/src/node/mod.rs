//! What one node's kernel should hold.
//!
//! [`desired`] turns what a node knows (the clusterset, its cluster's nodes, the imported services, a few
//! facts of its own) into a [`KernelState`]. Packets take these ways, the same for IPv4 and IPv6:
//!
//! ```text
//! worker:   pod → [VIP → endpoint] → main: remote prefix via a gateway's overlay address → overlay
//! gateway:  overlay → OVERLAY_TABLE: remote prefix → tunnel      (or unreachable: never on to a sibling)
//! gateway:  tunnel → INGRESS_TABLE: a node's pods via its overlay address; own pods → main
//! worker:   overlay → main → pod
//! ```
//!
//! Replies go the same ways. Connection state is kept on the two pods' nodes only; a gateway between them
//! tracks nothing. `topology` sorts out who takes part, `overlay` and `routes` carry packets, `firewall`
//! says what may pass and under which source address, `vips` balances services.

mod firewall;
mod overlay;
mod routes;
#[cfg(test)]
mod tests;
mod topology;
mod vips;

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use strait_api::ClusterId;

use crate::clusterset::Clusterset;
use crate::kernel::{AddressFamily, ForeignAccept, KernelState, Protocol};

pub use overlay::{overlay_mtu, tunnel_mtu};
use topology::Topology;

/// Everything that decides what a node's kernel should hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInputs {
    /// This node's name.
    pub node: String,
    /// The clusterset as it counts here.
    pub clusterset: Clusterset,
    /// The cluster's nodes, this one among them, in any order.
    pub nodes: Vec<Node>,
    /// Imported services that have VIPs, in any order.
    pub services: Vec<VipService>,
    /// Facts of this node.
    pub observed: Observed,
}

/// A node of this cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its own addresses (`InternalIP`).
    pub addresses: Vec<IpAddr>,
    /// Prefixes of its pods.
    pub pod_prefixes: Vec<IpNet>,
    /// Its overlay addresses, at most one of each family.
    pub overlay_addresses: Vec<IpAddr>,
    /// Whether it is to run a gateway.
    pub gateway: bool,
}

/// What was seen on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// The tunnel device exists: a gateway process reads it.
    pub tunnel_exists: bool,
    /// MTU of the link that holds the node's address.
    pub underlay_mtu: u32,
    /// Foreign base chains on the forward hook whose policy is drop.
    pub foreign_drops: BTreeSet<ForeignAccept>,
}

/// An imported service with VIPs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipService {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its VIPs, at most one of each family.
    pub vips: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<VipPort>,
    /// Whether a client stays with its endpoint.
    pub by_source: bool,
    /// Ready endpoints, in any order.
    pub slices: Vec<VipSlice>,
}

/// A port, of a service or of its endpoints.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VipPort {
    /// Its name; what joins a service's port with its endpoints' ports.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}

/// Ready endpoints of one cluster that share ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipSlice {
    /// The cluster that exports them.
    pub cluster: ClusterId,
    /// The pods' addresses.
    pub endpoints: Vec<IpAddr>,
    /// The ports that they listen on.
    pub ports: Vec<VipPort>,
}

/// The state wanted, and what was left out of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// What the kernel should hold.
    pub state: KernelState,
    /// Inputs that do not count, each with its reason.
    pub skipped: BTreeSet<Skipped>,
}

/// An input that does not count on this node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Skipped {
    /// Which object, as `kind/name`.
    pub object: String,
    /// A sentence: why, and what to do.
    pub message: String,
}

impl Skipped {
    fn new(object: String, message: String) -> Self {
        Self { object, message }
    }
}

/// Why nothing can be said of the node yet. Whatever its kernel holds must stay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotYet {
    /// `strait join` has not written this cluster's record.
    #[error(
        "this cluster has no Cluster record of its own in {}; run `strait join`",
        strait_api::names::NAMESPACE
    )]
    NotJoined,
    /// The API server knows no node of this name.
    #[error("there is no Node {0:?}; --node-name (NODE_NAME) must be the node's name in Kubernetes")]
    NodeUnknown(String),
}

/// Works out what the kernel of `inputs.node` should hold. The order of lists does not matter.
///
/// # Errors
/// Where the inputs do not say yet which cluster and node this is; see [`NotYet`].
pub fn desired(inputs: &NodeInputs) -> Result<Desired, NotYet> {
    let mut skipped = BTreeSet::new();
    let topology = Topology::new(inputs, &mut skipped)?;
    let mut state = KernelState::default();
    overlay::build(&topology, &inputs.observed, &mut state);
    routes::build(&topology, &inputs.observed, &mut state);
    let services = vips::balance(&topology, &inputs.services, &mut skipped);
    state.nft = Some(firewall::table(&topology, &inputs.observed, services));
    state.foreign_accepts = inputs.observed.foreign_drops.clone();
    Ok(Desired { state, skipped })
}

/// The address by which this node sends and receives the overlay's packets: one family for the whole
/// cluster. `None` until the node has an address of that family.
pub fn outer_address(node: &str, nodes: &[Node]) -> Option<IpAddr> {
    let family = topology::outer_family(nodes)?;
    nodes
        .iter()
        .find(|n| n.name == node)
        .and_then(|n| topology::first_of(family, &n.addresses))
}

/// Both families, in order.
const FAMILIES: [AddressFamily; 2] = [AddressFamily::V4, AddressFamily::V6];

fn family_of(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() {
        AddressFamily::V4
    } else {
        AddressFamily::V6
    }
}

fn family_of_prefix(prefix: &IpNet) -> AddressFamily {
    family_of(prefix.addr())
}

/// `<base>_v4` or `<base>_v6`: sets hold one family each.
fn set_name(base: &str, family: AddressFamily) -> String {
    match family {
        AddressFamily::V4 => format!("{base}_v4"),
        AddressFamily::V6 => format!("{base}_v6"),
    }
}
