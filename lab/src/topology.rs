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

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// Names of clusters, in order.
const NAMES: [&str; 12] = [
    "blue", "green", "red", "amber", "teal", "violet", "coral", "olive", "navy", "plum", "gold", "mint",
];

/// Port of the API servers.
pub const API_PORT: u16 = 6443;

/// Which address families a lab speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Families {
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// Both; IPv4 first.
    Dual,
}

impl Families {
    /// Whether IPv4 is spoken.
    pub fn v4(self) -> bool {
        self != Self::V6
    }

    /// Whether IPv6 is spoken.
    pub fn v6(self) -> bool {
        self != Self::V4
    }

    /// Of a pair, what is spoken; IPv4 first.
    fn of<T>(self, v4: T, v6: T) -> Vec<T> {
        match self {
            Self::V4 => vec![v4],
            Self::V6 => vec![v6],
            Self::Dual => vec![v4, v6],
        }
    }
}

/// How large a lab is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Number of clusters, 1 to 12.
    pub clusters: u8,
    /// Nodes in each.
    pub nodes: u8,
    /// The first so many nodes of each are gateways.
    pub gateways: u8,
    /// Address families.
    pub families: Families,
}

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
        self.api_servers()
            .first()
            .map(|a| format!("https://{a}"))
            .unwrap_or_default()
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
}

impl Topology {
    /// The lab of this shape.
    pub fn new(name: &str, shape: &Shape) -> Self {
        let f = shape.families;
        Self {
            name: name.to_owned(),
            families: f,
            broker: lan("broker", 0, f),
            clusters: (0..shape.clusters).map(|i| cluster(i, shape)).collect(),
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

    /// The router's addresses on all segments.
    pub fn router_addresses(&self) -> Vec<IpAddr> {
        let lans = std::iter::once(&self.broker).chain(self.clusters.iter().map(|c| &c.lan));
        lans.flat_map(|lan| lan.router.iter().map(IpNet::addr)).collect()
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

fn nth(net: &IpNet, n: u32) -> IpAddr {
    match net {
        IpNet::V4(net) => Ipv4Addr::from_bits(net.network().to_bits() + n).into(),
        IpNet::V6(net) => Ipv6Addr::from_bits(net.network().to_bits() + u128::from(n)).into(),
    }
}

fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> IpNet {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length).into()
}

fn v6(segments: [u16; 8], length: u8) -> IpNet {
    Ipv6Net::new_assert(Ipv6Addr::from(segments), length).into()
}

fn lan(name: &str, number: u8, f: Families) -> Lan {
    let n = u16::from(number);
    Lan {
        bridge: format!("lan-{name}"),
        router: f.of(v4(172, 31, number, 1, 24), v6([0xfd57, n, 0, 0, 0, 0, 0, 1], 64)),
    }
}

fn cluster(index: u8, shape: &Shape) -> Cluster {
    let f = shape.families;
    let number = index + 1;
    let n = u16::from(number);
    let name = NAMES.get(usize::from(index)).copied().unwrap_or("extra");
    Cluster {
        name: name.to_owned(),
        lan: lan(name, number, f),
        pod_cidrs: f.of(v4(10, number, 0, 0, 16), v6([0xfd10, n, 0, 0, 0, 0, 0, 0], 48)),
        service_cidrs: f.of(
            v4(10, 100 + number, 0, 0, 16),
            v6([0xfd96, n, 0, 0, 0, 0, 0, 0], 112),
        ),
        nodes: (0..shape.nodes).map(|i| node(number, i, shape)).collect(),
    }
}

fn node(cluster_number: u8, index: u8, shape: &Shape) -> Node {
    let f = shape.families;
    let gateway = index < shape.gateways;
    let c = u16::from(cluster_number);
    let number = index + 1;
    let host = 10 + number;
    let role = if gateway { "gateway" } else { "worker" };
    let ordinal = if gateway { number } else { number - shape.gateways };
    Node {
        name: format!("{role}-{ordinal}"),
        gateway,
        addresses: f.of(
            v4(172, 31, cluster_number, host, 24),
            v6([0xfd57, c, 0, 0, 0, 0, 0, u16::from(host)], 64),
        ),
        pod_cidrs: f.of(
            v4(10, cluster_number, number, 0, 24),
            v6([0xfd10, c, 0, u16::from(number), 0, 0, 0, 0], 64),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn shape(families: Families) -> Shape {
        Shape {
            clusters: 12,
            nodes: 16,
            gateways: 2,
            families,
        }
    }

    #[test]
    fn no_two_things_share_an_address_or_a_name() {
        let lab = Topology::new("t", &shape(Families::Dual));
        let mut names = BTreeSet::new();
        let mut addresses = BTreeSet::new();
        for cluster in &lab.clusters {
            assert!(names.insert(cluster.name.clone()));
            assert!(
                cluster.lan.bridge.len() <= 15,
                "{} is too long for a device",
                cluster.lan.bridge
            );
            for ip in cluster.lan.router.iter().map(IpNet::addr) {
                assert!(addresses.insert(ip), "{ip} twice");
            }
            for node in &cluster.nodes {
                assert!(
                    names.insert(format!("{}/{}", cluster.name, node.name)),
                    "{} twice",
                    node.name
                );
                for ip in node.ips().into_iter().chain(node.pod_addresses(0).unwrap()) {
                    assert!(addresses.insert(ip), "{ip} twice");
                }
                for cidr in &node.pod_cidrs {
                    assert!(
                        cluster.pod_cidrs.iter().any(|c| c.contains(cidr)),
                        "{cidr} is not of its cluster"
                    );
                }
            }
        }
    }

    #[test]
    fn clusters_do_not_overlap() {
        let lab = Topology::new("t", &shape(Families::Dual));
        let all: Vec<IpNet> = lab
            .clusters
            .iter()
            .flat_map(|c| c.pod_cidrs.iter().chain(&c.service_cidrs))
            .copied()
            .collect();
        for (i, a) in all.iter().enumerate() {
            for b in &all[i + 1..] {
                assert!(!a.contains(b) && !b.contains(a), "{a} overlaps {b}");
            }
        }
    }

    #[test]
    fn a_family_that_is_not_asked_for_does_not_occur() {
        let lab = Topology::new("t", &shape(Families::V6));
        assert!(lab.pod_ranges().iter().all(|n| matches!(n, IpNet::V6(_))));
        assert_eq!(lab.broker.api_url(), "https://[fd57::1]:6443");
    }

    #[test]
    fn gateways_come_first_and_a_full_node_takes_no_more_pods() {
        let lab = Topology::new(
            "t",
            &Shape {
                clusters: 1,
                nodes: 3,
                gateways: 1,
                families: Families::V4,
            },
        );
        let names: Vec<&str> = lab.clusters[0].nodes.iter().map(|n| n.name.as_str()).collect();
        assert_eq!(names, ["gateway-1", "worker-1", "worker-2"]);
        let node = &lab.clusters[0].nodes[0];
        assert_eq!(node.pod_addresses(0), Some(vec!["10.1.1.10".parse().unwrap()]));
        assert_eq!(node.pod_addresses(245), None);
    }
}
