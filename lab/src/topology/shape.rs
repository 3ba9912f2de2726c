//! What a lab is to be.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::build::{number, v4, v6};

/// Names of clusters, in order.
const NAMES: [&str; 12] = [
    "blue", "green", "red", "amber", "teal", "violet", "coral", "olive", "navy", "plum", "gold", "mint",
];

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

    /// Whether it is spoken to this address.
    pub fn speaks(self, ip: IpAddr) -> bool {
        if ip.is_ipv4() { self.v4() } else { self.v6() }
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
    pub(super) fn families(&self) -> Families {
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
        (v6([0; 8], 8), "which is no network"),
        (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), "which is every link's own"),
        (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), "which is for multicast"),
    ]
}
