//! What a lab looks like: names and addresses of everything in it, worked out from its shape alone.
//!
//! ```text
//!                    router "wan": .1 on every LAN, knows no pod range
//!        ┌──────────────────┬──────────────────────┐
//!   broker LAN 0       LAN 1: blue            LAN 2: green …
//!   172.31.0.0/24      172.31.1.0/24          172.31.2.0/24
//!   fd57:0::/64        fd57:1::/64            fd57:2::/64
//!                      API server .1:6443
//!                      nodes .11, .12, …      (gateways first)
//!                      pods 10.1.<node>.0/24  fd10:1:0:<node>::/64
//! ```
//!
//! A cluster that has an underlay of its own stands behind an edge, a router of its own between its LAN and
//! "wan"; so do clusters with a link, a wire from edge to edge:
//!
//! ```text
//!   LAN 1 ── "blue/edge" ══ uplink 100.64.1.0/24 ══ "wan"      impaired as the file says
//!                 │    └─── management 100.65.1.0/24 ─┘        for the lab's own hands, never impaired
//!                 └═══════ link 100.66.1.0/24 ═══════ "green/edge"
//! ```

mod build;
mod shape;

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use build::{cluster, lan, link, nth, url};
pub use shape::{
    ClusterShape, Defaults, Families, LinkShape, MAX_CLUSTERS, MAX_NODES, Nat, Quality, Shape, Underlay,
    default_cidrs, default_name, node_cidr, own_ranges,
};

/// Port of the API servers.
pub const API_PORT: u16 = 6443;

/// A whole lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// The lab's name.
    pub name: String,
    /// Address families.
    pub families: Families,
    /// Where the broker stands.
    pub broker: Lan,
    /// The clusters.
    pub clusters: Vec<Cluster>,
    /// Wires between their edges.
    pub links: Vec<Wire>,
}

/// A wire between two routers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wire {
    /// How well it carries.
    pub quality: Quality,
    /// Where it ends.
    pub ends: [End; 2],
}

/// An end of a wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The cluster whose edge this is; `None` for the router.
    pub cluster: Option<String>,
    /// Its device there.
    pub device: String,
    /// Its addresses with the prefix length of the wire.
    pub addresses: Vec<IpNet>,
}

/// A cluster's own router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edge {
    /// To the router: the router's end first.
    pub uplink: Wire,
    /// For the lab's own hands.
    pub management: Wire,
    /// Address translation.
    pub nat: Option<Nat>,
}

impl Edge {
    /// Its addresses as others see them.
    pub fn public(&self) -> Vec<IpAddr> {
        self.uplink.ends[1].addresses.iter().map(IpNet::addr).collect()
    }
}

/// A network segment with the router on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lan {
    /// Bridge device in the router's namespace.
    pub bridge: String,
    /// The router's addresses with the prefix length of the segment.
    pub router: Vec<IpNet>,
}

impl Lan {
    /// Where the API server of this segment listens.
    pub fn api_servers(&self) -> Vec<SocketAddr> {
        self.router
            .iter()
            .map(|n| SocketAddr::new(n.addr(), API_PORT))
            .collect()
    }

    /// URL of the API server.
    pub fn api_url(&self) -> String {
        url(self.api_servers().first())
    }

    /// URL of the API server for those who speak these families.
    pub fn api_url_for(&self, families: Families) -> String {
        url(self.api_servers().iter().find(|a| families.speaks(a.ip())))
    }
}

/// A cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Its name, and its cluster ID.
    pub name: String,
    /// Its nodes' segment; the API server stands at the router's addresses.
    pub lan: Lan,
    /// Prefixes of its pods.
    pub pod_cidrs: Vec<IpNet>,
    /// Prefixes of its Services.
    pub service_cidrs: Vec<IpNet>,
    /// Its nodes, gateways first.
    pub nodes: Vec<Node>,
    /// Its own router, where it has one; then the LAN's router is this.
    pub edge: Option<Edge>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name, as the Node object has it.
    pub name: String,
    /// Whether it is a gateway.
    pub gateway: bool,
    /// Addresses on the LAN with its prefix length.
    pub addresses: Vec<IpNet>,
    /// Prefixes of the pods on it.
    pub pod_cidrs: Vec<IpNet>,
    /// Addresses by which others reach it, where these are not its own.
    pub external: Vec<IpAddr>,
}

impl Topology {
    /// The lab of this shape.
    pub fn new(name: &str, shape: &Shape) -> Self {
        let f = shape.families();
        let linked = |name: &String| shape.links.iter().any(|l| l.between.contains(name));
        Self {
            name: name.to_owned(),
            families: f,
            broker: lan("broker", 0, f),
            clusters: (0..)
                .zip(&shape.clusters)
                .map(|(i, c)| cluster(i, c, linked(&c.name)))
                .collect(),
            links: (1..).zip(&shape.links).map(|(n, l)| link(n, l, shape)).collect(),
        }
    }

    /// The cluster of this name.
    pub fn cluster(&self, name: &str) -> Option<&Cluster> {
        self.clusters.iter().find(|c| c.name == name)
    }

    /// Names of the clusters.
    pub fn names(&self) -> Vec<&str> {
        self.clusters.iter().map(|c| c.name.as_str()).collect()
    }

    /// The addresses of all routers.
    pub fn router_addresses(&self) -> Vec<IpAddr> {
        let lans = std::iter::once(&self.broker).chain(self.clusters.iter().map(|c| &c.lan));
        let edges = self.clusters.iter().filter_map(|c| c.edge.as_ref());
        let wires = edges
            .flat_map(|e| [&e.uplink, &e.management])
            .chain(&self.links)
            .flat_map(|w| &w.ends);
        lans.flat_map(|lan| &lan.router)
            .chain(wires.flat_map(|end| &end.addresses))
            .map(IpNet::addr)
            .collect()
    }

    /// Prefixes of all pods of all clusters.
    pub fn pod_ranges(&self) -> Vec<IpNet> {
        self.clusters
            .iter()
            .flat_map(|c| c.pod_cidrs.iter().copied())
            .collect()
    }
}

impl Cluster {
    /// What it speaks.
    pub fn families(&self) -> Families {
        let any = |v4: bool| self.lan.router.iter().any(|n| n.addr().is_ipv4() == v4);
        match (any(true), any(false)) {
            (true, true) => Families::Dual,
            (false, true) => Families::V6,
            _ => Families::V4,
        }
    }

    /// Where its API server listens.
    pub fn api_servers(&self) -> Vec<SocketAddr> {
        let mut addresses = self.lan.api_servers();
        addresses.extend(self.control().map(|ip| SocketAddr::new(ip, API_PORT)));
        addresses
    }

    /// URL of its API server for the lab's own use.
    pub fn control_url(&self) -> String {
        match self.control() {
            Some(ip) => url(Some(&SocketAddr::new(ip, API_PORT))),
            None => self.lan.api_url(),
        }
    }

    fn control(&self) -> Option<IpAddr> {
        let edge = self.edge.as_ref()?;
        edge.management.ends[1].addresses.first().map(IpNet::addr)
    }

    /// Cluster IPs of its DNS server.
    pub fn dns(&self) -> Vec<IpAddr> {
        self.service_cidrs.iter().map(|net| nth(net, DNS_HOST)).collect()
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|n| n.name == name)
    }
}

impl Node {
    /// Its addresses without the prefix length.
    pub fn ips(&self) -> Vec<IpAddr> {
        self.addresses.iter().map(IpNet::addr).collect()
    }

    /// Addresses of its pod number `index` (from 0), or `None` where the node is full.
    pub fn pod_addresses(&self, index: u8) -> Option<Vec<IpAddr>> {
        let host = index.checked_add(FIRST_POD).filter(|h| *h < u8::MAX)?;
        Some(
            self.pod_cidrs
                .iter()
                .map(|net| nth(net, u32::from(host)))
                .collect(),
        )
    }
}

/// Host part of the cluster IP of a cluster's DNS server, as kubeadm has it.
const DNS_HOST: u32 = 10;
/// Host part of a node's first pod.
const FIRST_POD: u8 = 10;

#[cfg(test)]
mod tests;
