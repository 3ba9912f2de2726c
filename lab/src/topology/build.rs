//! From a shape to names and addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{
    Cluster, ClusterShape, Edge, End, Families, Lan, LinkShape, Nat, Node, Quality, Shape, Wire, node_cidr,
};

pub(super) fn nth(net: &IpNet, n: u32) -> IpAddr {
    match net {
        IpNet::V4(net) => Ipv4Addr::from_bits(net.network().to_bits() + n).into(),
        IpNet::V6(net) => Ipv6Addr::from_bits(net.network().to_bits() + u128::from(n)).into(),
    }
}

pub(super) fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> IpNet {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length).into()
}

pub(super) fn v6(segments: [u16; 8], length: u8) -> IpNet {
    Ipv6Net::new_assert(Ipv6Addr::from(segments), length).into()
}

pub(super) fn lan(name: &str, number: u8, f: Families) -> Lan {
    let n = u16::from(number);
    Lan {
        bridge: format!("lan-{name}"),
        router: f.of(v4(172, 31, number, 1, 24), v6([0xfd57, n, 0, 0, 0, 0, 0, 1], 64)),
    }
}

pub(super) fn url(address: Option<&SocketAddr>) -> String {
    address.map(|a| format!("https://{a}")).unwrap_or_default()
}

/// Clusters are numbered from 1.
pub(super) fn number(index: usize) -> u8 {
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

pub(super) fn link(n: u8, shape: &LinkShape, lab: &Shape) -> Wire {
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

pub(super) fn cluster(index: usize, shape: &ClusterShape, linked: bool) -> Cluster {
    let f = shape.families;
    let number = number(index);
    // Names of devices are short; no cluster's own name has a capital letter.
    let device = match shape.name.len() {
        0..=10 => shape.name.clone(),
        _ => format!("C{number}"),
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
