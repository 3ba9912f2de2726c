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

    /// What both speak, if anything.
    pub fn common(self, other: Self) -> Option<Self> {
        match (self.v4() && other.v4(), self.v6() && other.v6()) {
            (true, true) => Some(Self::Dual),
            (true, false) => Some(Self::V4),
            (false, true) => Some(Self::V6),
            (false, false) => None,
        }
    }

    /// Of a pair, what is spoken; IPv4 first.
    pub fn of<T>(self, v4: T, v6: T) -> Vec<T> {
        match self {
            Self::V4 => vec![v4],
            Self::V6 => vec![v6],
            Self::Dual => vec![v4, v6],
        }
    }
}

/// Most clusters in a lab.
pub const MAX_CLUSTERS: usize = NAMES.len();
/// Most nodes in a cluster.
pub const MAX_NODES: u8 = 16;

/// What a lab is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Its clusters, 1 to [`MAX_CLUSTERS`].
    pub clusters: Vec<ClusterShape>,
    /// Wires between two of them, beside the way through the router.
    pub links: Vec<LinkShape>,
}

/// What a cluster is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterShape {
    /// Its name.
    pub name: String,
    /// Number of nodes.
    pub nodes: u8,
    /// The first so many of them are gateways.
    pub gateways: u8,
    /// Address families.
    pub families: Families,
    /// Prefixes of its pods, one of each family.
    pub pod_cidrs: Vec<IpNet>,
    /// Prefixes of its Services, one of each family.
    pub service_cidrs: Vec<IpNet>,
    /// What lies between it and the others.
    pub underlay: Option<Underlay>,
}

/// What lies between a cluster and the rest of the world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Underlay {
    /// Address translation.
    pub nat: Option<Nat>,
    /// How well it carries.
    pub quality: Quality,
}

/// How a cluster's nodes hide behind the edge's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Nat {
    /// Nobody outside can begin to talk to them.
    Hidden,
    /// The tunnels' port of the edge leads to the first gateway, whose Node has the edge's address.
    Forwarded,
}

/// How well a wire carries, in each direction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quality {
    /// Largest packet; 1500 where it is not given.
    pub mtu: Option<u32>,
    /// Time on the way, in microseconds.
    pub delay_us: u64,
    /// By how much that differs at most.
    pub jitter_us: u64,
    /// Packets that get lost, in a million.
    pub loss_ppm: u32,
    /// Bits a second.
    pub rate_bps: Option<u64>,
    /// Whether the routers at its ends keep ICMP errors to themselves.
    pub icmp_blackhole: bool,
}

impl Quality {
    /// Whether it does what a wire of the kernel's cannot.
    pub fn impaired(&self) -> bool {
        self.delay_us > 0 || self.jitter_us > 0 || self.loss_ppm > 0 || self.rate_bps.is_some()
    }
}

/// A wire between two clusters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkShape {
    /// Names of the clusters.
    pub between: [String; 2],
    /// How well it carries.
    pub quality: Quality,
}

impl Shape {
    /// Clusters that are all alike.
    pub fn uniform(clusters: u8, nodes: u8, gateways: u8, families: Families) -> Self {
        let cluster = |index: u8| {
            let index = usize::from(index);
            let Defaults { pods, services } = default_cidrs(index, families);
            ClusterShape {
                name: default_name(index).to_owned(),
                nodes,
                gateways,
                families,
                pod_cidrs: pods,
                service_cidrs: services,
                underlay: None,
            }
        };
        Self {
            clusters: (0..clusters).map(cluster).collect(),
            links: Vec::new(),
        }
    }

    /// What all of its clusters speak together.
    fn families(&self) -> Families {
        let any = |speaks: fn(Families) -> bool| self.clusters.iter().any(|c| speaks(c.families));
        match (any(Families::v4), any(Families::v6)) {
            (true, true) => Families::Dual,
            (false, true) => Families::V6,
            _ => Families::V4,
        }
    }
}

/// The name of the cluster of this index, where it is given none.
pub fn default_name(index: usize) -> &'static str {
    NAMES.get(index).copied().unwrap_or("extra")
}

/// Prefixes of a cluster that is given none.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// Of pods.
    pub pods: Vec<IpNet>,
    /// Of Services.
    pub services: Vec<IpNet>,
}

/// Prefixes of the cluster of this index, where it is given none.
pub fn default_cidrs(index: usize, f: Families) -> Defaults {
    let number = number(index);
    let n = u16::from(number);
    Defaults {
        pods: f.of(v4(10, number, 0, 0, 16), v6([0xfd10, n, 0, 0, 0, 0, 0, 0], 48)),
        services: f.of(
            v4(10, 100 + number, 0, 0, 16),
            v6([0xfd96, n, 0, 0, 0, 0, 0, 0], 112),
        ),
    }
}

/// The pods' prefix of a cluster's node number `node` (from 1): a /24, or a /64. `None` where it has none.
pub fn node_cidr(of: &IpNet, node: u8) -> Option<IpNet> {
    let (length, step) = match of {
        IpNet::V4(_) => (24, 8),
        IpNet::V6(_) => (64, 64),
    };
    let room = length - i32::from(of.prefix_len());
    // A range that leaves no room, or less than the number needs.
    if room <= 0 || (room < 8 && u32::from(node) >= 1 << room) {
        return None;
    }
    Some(match of {
        IpNet::V4(net) => {
            let at = net.network().to_bits() + (u32::from(node) << step);
            Ipv4Net::new_assert(at.into(), 24).into()
        }
        IpNet::V6(net) => {
            let at = net.network().to_bits() + (u128::from(node) << step);
            Ipv6Net::new_assert(at.into(), 64).into()
        }
    })
}

/// Ranges that a lab uses itself, and what for.
pub fn own_ranges() -> Vec<(IpNet, &'static str)> {
    let own = "which the lab's own networks have";
    let strait = "from which Strait takes VIPs and overlay addresses";
    vec![
        (v4(172, 31, 0, 0, 16), own),
        (v4(100, 64, 0, 0, 14), own),
        (v6([0xfd57, 0, 0, 0, 0, 0, 0, 0], 16), own),
        (v6([0xfd58, 0, 0, 0, 0, 0, 0, 0], 16), own),
        (v6([0xfd59, 0, 0, 0, 0, 0, 0, 0], 16), own),
        (v6([0xfd5a, 0, 0, 0, 0, 0, 0, 0], 16), own),
        (v4(240, 0, 0, 0, 4), strait),
        (v6([0xfd53, 0x7472, 0, 0, 0, 0, 0, 0], 32), strait),
        (v4(0, 0, 0, 0, 8), "which is no network"),
        (v4(127, 0, 0, 0, 8), "which is every machine's own"),
        (v4(169, 254, 0, 0, 16), "which is every link's own"),
        (v4(224, 0, 0, 0, 4), "which is for multicast"),
        (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), "which is every link's own"),
        (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), "which is for multicast"),
    ]
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
        let speaks = |a: &&SocketAddr| if a.is_ipv4() { families.v4() } else { families.v6() };
        url(self.api_servers().iter().find(speaks))
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

fn url(address: Option<&SocketAddr>) -> String {
    address.map(|a| format!("https://{a}")).unwrap_or_default()
}

/// Clusters are numbered from 1.
fn number(index: usize) -> u8 {
    u8::try_from(index + 1).unwrap_or(u8::MAX)
}

/// The wire number `n` of a kind: ends `.1` and `.2` of 100.KIND.n.0/24, and of fd58…fd5a:n::/64.
fn wire(kind: u8, n: u8, f: Families, quality: Quality, ends: [(Option<String>, String); 2]) -> Wire {
    let segment = 0xfd58 + u16::from(kind - UPLINK);
    let mut host = 0;
    Wire {
        quality,
        ends: ends.map(|(cluster, device)| {
            host += 1;
            End {
                cluster,
                device,
                addresses: f.of(
                    v4(100, kind, n, host, 24),
                    v6([segment, u16::from(n), 0, 0, 0, 0, 0, u16::from(host)], 64),
                ),
            }
        }),
    }
}

/// Second octets of wires' addresses.
const UPLINK: u8 = 64;
const MANAGEMENT: u8 = 65;
const LINK: u8 = 66;

fn edge(n: u8, shape: &ClusterShape) -> Edge {
    let f = shape.families;
    let inside = |device: &str| (Some(shape.name.clone()), device.to_owned());
    let outside = |device: String| (None, device);
    let underlay = shape.underlay.as_ref();
    Edge {
        uplink: wire(
            UPLINK,
            n,
            f,
            underlay.map(|u| u.quality.clone()).unwrap_or_default(),
            [outside(format!("up-{n}")), inside("uplink")],
        ),
        management: wire(
            MANAGEMENT,
            n,
            f,
            Quality::default(),
            [outside(format!("manage-{n}")), inside("manage")],
        ),
        nat: underlay.and_then(|u| u.nat),
    }
}

fn link(n: u8, shape: &LinkShape, lab: &Shape) -> Wire {
    let of = |name: &String| lab.clusters.iter().find(|c| c.name == *name);
    let common = match shape.between.each_ref().map(of) {
        [Some(a), Some(b)] => a.families.common(b.families),
        _ => None,
    };
    let ends = shape
        .between
        .clone()
        .map(|name| (Some(name), format!("link-{n}")));
    wire(
        LINK,
        n,
        common.unwrap_or(Families::V4),
        shape.quality.clone(),
        ends,
    )
}

fn cluster(index: usize, shape: &ClusterShape, linked: bool) -> Cluster {
    let f = shape.families;
    let number = number(index);
    // Names of devices are short.
    let device = match shape.name.len() {
        0..=10 => shape.name.clone(),
        _ => format!("c{number}"),
    };
    let edge = (shape.underlay.is_some() || linked).then(|| edge(number, shape));
    let public = match &edge {
        Some(edge) if edge.nat == Some(Nat::Forwarded) => edge.public(),
        _ => Vec::new(),
    };
    let mut nodes: Vec<Node> = (0..shape.nodes).map(|i| node(number, i, shape)).collect();
    if let Some(first) = nodes.first_mut() {
        first.external = public;
    }
    Cluster {
        name: shape.name.clone(),
        lan: lan(&device, number, f),
        pod_cidrs: shape.pod_cidrs.clone(),
        service_cidrs: shape.service_cidrs.clone(),
        nodes,
        edge,
    }
}

fn node(cluster_number: u8, index: u8, shape: &ClusterShape) -> Node {
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
        pod_cidrs: shape
            .pod_cidrs
            .iter()
            .filter_map(|net| node_cidr(net, number))
            .collect(),
        external: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn shape(families: Families) -> Shape {
        Shape::uniform(12, 16, 2, families)
    }

    #[test]
    fn a_node_has_its_part_of_a_range_and_a_range_ends() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        assert_eq!(node_cidr(&net("10.1.0.0/16"), 16), Some(net("10.1.16.0/24")));
        assert_eq!(node_cidr(&net("10.1.16.0/20"), 15), Some(net("10.1.31.0/24")));
        assert_eq!(node_cidr(&net("10.1.16.0/20"), 16), None);
        assert_eq!(node_cidr(&net("10.1.1.0/24"), 1), None);
        assert_eq!(node_cidr(&net("fd10:1::/48"), 2), Some(net("fd10:1:0:2::/64")));
        assert_eq!(node_cidr(&net("fd10::/64"), 1), None);
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
        let lab = Topology::new("t", &Shape::uniform(1, 3, 1, Families::V4));
        let names: Vec<&str> = lab.clusters[0].nodes.iter().map(|n| n.name.as_str()).collect();
        assert_eq!(names, ["gateway-1", "worker-1", "worker-2"]);
        let node = &lab.clusters[0].nodes[0];
        assert_eq!(node.pod_addresses(0), Some(vec!["10.1.1.10".parse().unwrap()]));
        assert_eq!(node.pod_addresses(245), None);
    }
}
