//! Who takes part, as seen from one node: its siblings, the gateways, the remote prefixes. Whatever
//! contradicts itself is left out here, so that the other modules need not ask.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use strait_api::ClusterId;
use strait_api::records::MemberState;

use super::overlay::mac;
use super::{FAMILIES, Node, NodeInputs, NotYet, Skipped, family_of, family_of_prefix};
use crate::clusterset::{OwnCluster, contains, overlap};
use crate::kernel::{AddressFamily, MacAddress};

/// The cluster and its surroundings.
pub(super) struct Topology {
    /// This node.
    pub(super) own: Peer,
    /// The cluster's other nodes, by name.
    pub(super) others: Vec<Peer>,
    /// All that is routed to other clusters.
    pub(super) remote: BTreeSet<IpNet>,
    /// What belongs to clusters that are not there: kept from the default route.
    pub(super) absent: BTreeSet<IpNet>,
    /// Prefixes of this cluster's pods.
    pub(super) pods: BTreeSet<IpNet>,
    /// Prefixes of this cluster's overlay addresses.
    pub(super) node_blocks: BTreeSet<IpNet>,
    /// Prefixes of this cluster's VIPs.
    pub(super) vips: BTreeSet<IpNet>,
    /// Where endpoints of a cluster may lie, for clusters that take new connections.
    pub(super) offering: BTreeMap<ClusterId, Vec<IpNet>>,
}

/// A node of this cluster, cut down to what counts.
pub(super) struct Peer {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) pods: Vec<IpNet>,
    pub(super) gateway: bool,
    /// A gateway with a record: it can hold tunnels.
    pub(super) able: bool,
    /// Overlay addresses, at most one of each family.
    overlay: Vec<IpAddr>,
    /// Where its overlay packets go, and its hardware address there; `None` while it has no place in it.
    pub(super) port: Option<Port>,
}

/// A node's place in the overlay.
#[derive(Clone, Copy)]
pub(super) struct Port {
    pub(super) outer: IpAddr,
    pub(super) mac: MacAddress,
}

impl Peer {
    /// Its overlay address of a family, if it has a place in the overlay.
    pub(super) fn overlay(&self, family: AddressFamily) -> Option<IpAddr> {
        self.port?;
        first_of(family, &self.overlay)
    }

    /// Its overlay addresses, if it has a place in the overlay.
    pub(super) fn overlays(&self) -> impl Iterator<Item = IpAddr> + '_ {
        FAMILIES.into_iter().filter_map(|f| self.overlay(f))
    }
}

impl Topology {
    pub(super) fn new(inputs: &NodeInputs, skipped: &mut BTreeSet<Skipped>) -> Result<Self, NotYet> {
        let cluster = inputs.clusterset.own.as_ref().ok_or(NotYet::NotJoined)?;
        let nodes: BTreeMap<&str, &Node> = inputs.nodes.iter().map(|n| (n.name.as_str(), n)).collect();
        if !nodes.contains_key(inputs.node.as_str()) {
            return Err(NotYet::NodeUnknown(inputs.node.clone()));
        }
        let pods: BTreeSet<IpNet> = cluster.cluster.pod_cidrs.iter().map(IpNet::trunc).collect();
        let mut peers = peers(&nodes, cluster, &pods, skipped);
        let own = peers
            .remove(&inputs.node)
            .ok_or_else(|| NotYet::NodeUnknown(inputs.node.clone()))?;
        let node_addresses: Vec<IpAddr> = nodes.values().flat_map(|n| n.addresses.iter().copied()).collect();

        let mut remote = BTreeSet::new();
        let mut offering = BTreeMap::from([(cluster.id().clone(), pods.iter().copied().collect::<Vec<_>>())]);
        for (id, cluster) in &inputs.clusterset.remotes {
            let mut pod_prefixes = Vec::new();
            for prefix in cluster.prefixes().map(|p| p.trunc()) {
                if let Some(why) = in_the_way(&prefix, &node_addresses) {
                    skipped.insert(Skipped::new(
                        format!("Cluster/{id}"),
                        format!("prefix {prefix} {why}; it gets no route, until cluster {id} joins with another range"),
                    ));
                    continue;
                }
                remote.insert(prefix);
                if cluster.pod_prefixes.iter().any(|p| p.trunc() == prefix) {
                    pod_prefixes.push(prefix);
                }
            }
            if cluster.state == MemberState::Active {
                offering.insert(id.clone(), pod_prefixes);
            }
        }
        let absent = inputs.clusterset.absent.iter().map(IpNet::trunc);
        Ok(Self {
            absent: absent
                .filter(|p| in_the_way(p, &node_addresses).is_none())
                .collect(),
            own,
            others: peers.into_values().collect(),
            remote,
            pods,
            node_blocks: cluster.node_blocks().iter().map(IpNet::trunc).collect(),
            vips: cluster.cluster.vip_cidrs.iter().map(IpNet::trunc).collect(),
            offering,
        })
    }

    /// This node and the others.
    pub(super) fn all(&self) -> impl Iterator<Item = &Peer> {
        std::iter::once(&self.own).chain(&self.others)
    }

    /// Overlay addresses of the other nodes that can hold tunnels.
    pub(super) fn gateways(&self, family: AddressFamily) -> impl Iterator<Item = IpAddr> + '_ {
        self.others
            .iter()
            .filter(|p| p.gateway && p.able)
            .filter_map(move |p| p.overlay(family))
    }
}

/// The first address of a family.
pub(super) fn first_of(family: AddressFamily, addresses: &[IpAddr]) -> Option<IpAddr> {
    addresses.iter().copied().find(|a| family_of(*a) == family)
}

/// The family of the overlay's outer packets: one that every node has, IPv4 if both.
pub(super) fn outer_family(nodes: &[Node]) -> Option<AddressFamily> {
    let mut addressed = nodes.iter().filter(|n| !n.addresses.is_empty()).peekable();
    addressed.peek()?;
    let addressed: Vec<&Node> = addressed.collect();
    FAMILIES
        .into_iter()
        .find(|f| addressed.iter().all(|n| first_of(*f, &n.addresses).is_some()))
        // A cluster of two halves cannot be whole; the half with IPv4 works.
        .or(Some(AddressFamily::V4))
}

fn peers(
    nodes: &BTreeMap<&str, &Node>,
    cluster: &OwnCluster,
    pods: &BTreeSet<IpNet>,
    skipped: &mut BTreeSet<Skipped>,
) -> BTreeMap<String, Peer> {
    let all: Vec<Node> = nodes.values().map(|n| (*n).clone()).collect();
    let family = outer_family(&all);
    let mut seen_overlay: BTreeMap<IpAddr, &str> = BTreeMap::new();
    let mut seen_macs: BTreeMap<MacAddress, &str> = BTreeMap::new();
    let mut seen_pods: Vec<(IpNet, &str)> = Vec::new();
    let mut peers = BTreeMap::new();
    for (name, node) in nodes {
        let mut skip = |message: String| {
            skipped.insert(Skipped::new(format!("Node/{name}"), message));
        };
        let mut overlay: Vec<IpAddr> = Vec::new();
        for address in &node.overlay_addresses {
            if !cluster.node_blocks().iter().any(|b| b.contains(address)) {
                skip(format!(
                    "overlay address {address} is outside this cluster's node blocks and is ignored; only Strait's agent may write the annotation {}",
                    strait_api::names::ANNOTATION_OVERLAY
                ));
            } else if let Some(other) = seen_overlay.get(address) {
                skip(format!(
                    "overlay address {address} is node {other}'s and is ignored; the agent gives each node one of its own"
                ));
            } else if first_of(family_of(*address), &overlay).is_none() {
                seen_overlay.insert(*address, name);
                overlay.push(*address);
            }
        }
        let outer = family.and_then(|f| first_of(f, &node.addresses));
        let mut port = outer.zip(mac(&overlay)).map(|(outer, mac)| Port { outer, mac });
        if let Some(Port { mac, .. }) = port {
            if let Some(other) = seen_macs.get(&mac) {
                skip(format!(
                    "its overlay address makes the same hardware address {mac} as node {other}'s; it stays off the overlay"
                ));
                port = None;
            } else {
                seen_macs.insert(mac, name);
            }
        }
        let mut own_pods = Vec::new();
        for prefix in node
            .pod_prefixes
            .iter()
            .map(IpNet::trunc)
            .collect::<BTreeSet<_>>()
        {
            if !pods.iter().any(|p| contains(p, &prefix)) {
                skip(format!(
                    "pod prefix {prefix} is outside this cluster's pod prefixes, so other clusters have no route to it; join again with all pod prefixes"
                ));
            } else if let Some((taken, other)) = seen_pods.iter().find(|(p, _)| overlap(p, &prefix)) {
                skip(format!(
                    "pod prefix {prefix} overlaps with {taken} of node {other} and is ignored"
                ));
            } else {
                seen_pods.push((prefix, name));
                own_pods.push(prefix);
            }
        }
        peers.insert(
            (*name).to_owned(),
            Peer {
                addresses: node
                    .addresses
                    .iter()
                    .copied()
                    .collect::<BTreeSet<_>>()
                    .into_iter()
                    .collect(),
                pods: own_pods,
                gateway: node.gateway,
                able: cluster.gateways.contains_key(*name),
                overlay,
                port,
            },
        );
    }
    peers
}

/// Ranges that never belong to a cluster's pods.
const RESERVED: [&str; 7] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "::/8",
    "fe80::/10",
    "ff00::/8",
];

/// Why a remote prefix must not be routed, if so.
fn in_the_way(prefix: &IpNet, node_addresses: &[IpAddr]) -> Option<String> {
    let reserved = RESERVED.iter().filter_map(|r| r.parse::<IpNet>().ok());
    if let Some(range) = reserved.into_iter().find(|r| overlap(r, prefix)) {
        return Some(format!("touches {range}, which no cluster may use"));
    }
    let covered = node_addresses.iter().find(|a| prefix.contains(*a))?;
    Some(format!("covers {covered}, an address of this cluster's nodes"))
}

/// Prefixes of one family.
pub(super) fn of_family(
    family: AddressFamily,
    prefixes: &BTreeSet<IpNet>,
) -> impl Iterator<Item = IpNet> + '_ {
    prefixes
        .iter()
        .copied()
        .filter(move |p| family_of_prefix(p) == family)
}
