//! The wires of a lab: router, segments, nodes and pods, as network namespaces and veth pairs.
//!
//! The CNI is routed, as Calico's: a pod has a /32 (or /128) and a default route to a next hop that only
//! its own link knows; the node has a route to each pod, and a route to each other node's pods by the LAN.
//! The router knows no pod range: a packet for one that reaches it has leaked, and ends in a sink that
//! keeps account ([`crate::leaks`]).

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd as _};

use anyhow::{Context as _, Result};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use strait_core::kernel::{MAIN_TABLE, MacAddress, NextHop, Route, RouteKind};
use strait_linux::link::{Links, PROTOCOL_STATIC, VethEnd};
use strait_linux::netns::Netns;
use strait_linux::tun::{Tun, TunOptions};

use crate::firewall;
use crate::line;
use crate::topology::{Cluster, Edge, End, Lan, Node, Topology, Wire};

/// What a pod takes as its next hop, on every node.
const POD_GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const POD_GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// The device of nodes and pods.
const ETH0: &str = "eth0";
/// MTU of a wire that is given none.
const ETHERNET: u32 = 1500;
/// The router's device into the sink.
const LEAK: &str = "leak";
/// Below the metric of a guard, so that a daemon's route always wins over the CNI's own.
const METRIC: u32 = 1024;

/// A pod's link, ready.
#[derive(Debug)]
pub(crate) struct PodWire {
    pub(crate) namespace: Netns,
    /// The node's end of the link.
    pub(crate) device: String,
}

/// Makes the router in the calling thread's namespace: a bridge for each segment, and the sink. Returns
/// the sink's namespace.
pub(crate) fn build_router(topology: &Topology) -> Result<Netns> {
    let links = Links::open()?;
    configure(true)?;
    let plain = topology.clusters.iter().filter(|c| c.edge.is_none());
    for lan in std::iter::once(&topology.broker).chain(plain.map(|c| &c.lan)) {
        build_lan(&links, lan).with_context(|| format!("cannot build the segment {}", lan.bridge))?;
    }
    let mut uplinks = topology
        .clusters
        .iter()
        .filter_map(|c| Some(&c.edge.as_ref()?.uplink));
    if uplinks.any(|u| u.quality.icmp_blackhole) {
        firewall::icmp_blackhole()?;
    }
    build_sink(&links, topology).context("cannot build the sink for leaked packets")
}

fn build_lan(links: &Links, lan: &Lan) -> Result<()> {
    links.add_bridge(&lan.bridge, None)?;
    links.set_up(&lan.bridge)?;
    for address in &lan.router {
        links.add_address(&lan.bridge, *address)?;
    }
    Ok(())
}

fn build_sink(links: &Links, topology: &Topology) -> Result<Netns> {
    let sink = Netns::new()?;
    let (near, far) = (mac(&[0xff, 0, 0, 1]), mac(&[0xff, 0, 0, 2]));
    links.add_veth(
        &VethEnd {
            name: LEAK,
            mac: Some(near),
            ..VethEnd::default()
        },
        &VethEnd {
            name: LEAK,
            namespace: Some(&sink),
            mac: Some(far),
            ..VethEnd::default()
        },
    )?;
    links.set_up(LEAK)?;
    Links::open_in(&sink)?.set_up(LEAK)?;
    for range in topology.pod_ranges() {
        links.add_neighbour(LEAK, pod_gateway(range.addr()), far)?;
        links.set_route(
            &route(range, LEAK, Some(pod_gateway(range.addr()))),
            PROTOCOL_STATIC,
        )?;
    }
    Ok(sink)
}

/// Makes a cluster's own router: its segment, the wires to the router `wan`, the routes, and the address
/// translation.
pub(crate) fn build_edge(wan: &Netns, topology: &Topology, cluster: &Cluster, edge: &Edge) -> Result<Netns> {
    let namespace = Netns::new()?;
    namespace.run(|| configure(true))??;
    let links = Links::open_in(&namespace)?;
    build_lan(&links, &cluster.lan)?;
    build_wire(&edge.management, [wan, &namespace])?;
    build_wire(&edge.uplink, [wan, &namespace])?;
    let [outside, inside] = &edge.uplink.ends;
    for router in &outside.addresses {
        links.set_route(
            &route(default_of(router.addr()), &inside.device, Some(router.addr())),
            PROTOCOL_STATIC,
        )?;
    }
    if edge.nat.is_none() {
        let wan_links = Links::open_in(wan)?;
        for lan in &cluster.lan.router {
            set_route_by(&wan_links, lan.trunc(), outside, inside)?;
        }
    }
    let blackholes: Vec<String> = std::iter::once(&edge.uplink)
        .chain(&topology.links)
        .filter(|wire| wire.quality.icmp_blackhole)
        .flat_map(|wire| &wire.ends)
        .filter(|end| end.cluster.as_ref() == Some(&cluster.name))
        .map(|end| end.device.clone())
        .collect();
    firewall::edge(&namespace, cluster, edge, &blackholes)?;
    Ok(namespace)
}

/// Makes a wire between two clusters' routers, and the routes that prefer it.
pub(crate) fn build_link(topology: &Topology, wire: &Wire, edges: [&Netns; 2]) -> Result<()> {
    build_wire(wire, edges)?;
    let [a, b] = &wire.ends;
    for (namespace, near, far) in [(edges[0], a, b), (edges[1], b, a)] {
        let links = Links::open_in(namespace)?;
        let cluster = far.cluster.as_deref().and_then(|name| topology.cluster(name));
        let Some((cluster, edge)) = cluster.and_then(|c| Some((c, c.edge.as_ref()?))) else {
            continue;
        };
        let lan = cluster.lan.router.iter().map(IpNet::trunc);
        let public = edge.public().into_iter().map(IpNet::from);
        for destination in lan.filter(|_| edge.nat.is_none()).chain(public) {
            set_route_by(&links, destination, near, far)?;
        }
    }
    Ok(())
}

/// A route over a wire, where that speaks the destination's family.
fn set_route_by(links: &Links, destination: IpNet, near: &End, far: &End) -> Result<()> {
    let speaks = |ip: &IpAddr| ip.is_ipv4() == destination.addr().is_ipv4();
    if let Some(via) = far.addresses.iter().map(IpNet::addr).find(speaks) {
        links.set_route(&route(destination, &near.device, Some(via)), PROTOCOL_STATIC)?;
    }
    Ok(())
}

fn build_wire(wire: &Wire, between: [&Netns; 2]) -> Result<()> {
    let mtu = wire.quality.mtu.unwrap_or(ETHERNET);
    let [a, b] = &wire.ends;
    if wire.quality.impaired() {
        let open = |end: &End, namespace: &Netns| -> Result<Tun> {
            let options = TunOptions {
                name: end.device.clone(),
                mtu,
                offload: false,
                nonblocking: false,
            };
            Ok(namespace.run(|| Tun::open(&options))??)
        };
        line::carry(open(a, between[0])?, open(b, between[1])?, &wire.quality)?;
    } else {
        let veth = VethEnd {
            mtu: Some(mtu),
            ..VethEnd::default()
        };
        let near = VethEnd {
            name: &a.device,
            ..veth
        };
        let far = VethEnd {
            name: &b.device,
            namespace: Some(between[1]),
            ..veth
        };
        Links::open_in(between[0])?.add_veth(&near, &far)?;
    }
    for (end, namespace) in [a, b].into_iter().zip(between) {
        let links = Links::open_in(namespace)?;
        links.set_up(&end.device)?;
        for address in &end.addresses {
            links.add_address(&end.device, *address)?;
        }
    }
    Ok(())
}

/// Makes a node: its namespace, its link to the segment, its default route and the routes to the pods of
/// the other nodes. `router` is the one on its segment; to be called on a thread of one's own.
pub(crate) fn build_node(router: &Netns, cluster: &Cluster, node: &Node) -> Result<Netns> {
    let namespace = Netns::new()?;
    namespace.run(|| configure(true))??;
    let links = Links::open_in(&namespace)?;
    let port = port_name(cluster, node);
    links.add_veth(
        &VethEnd {
            name: ETH0,
            ..VethEnd::default()
        },
        &VethEnd {
            name: &port,
            namespace: Some(router),
            ..VethEnd::default()
        },
    )?;
    let router_links = Links::open_in(router)?;
    router_links.set_master(&port, Some(&cluster.lan.bridge))?;
    router_links.set_up(&port)?;
    links.set_up(ETH0)?;
    for address in &node.addresses {
        links.add_address(ETH0, *address)?;
    }
    for router in &cluster.lan.router {
        links.set_route(
            &route(default_of(router.addr()), ETH0, Some(router.addr())),
            PROTOCOL_STATIC,
        )?;
    }
    for own in &node.pod_cidrs {
        // A pod that is gone is unreachable, not the router's business.
        let gone = Route {
            table: MAIN_TABLE,
            destination: *own,
            metric: METRIC,
            kind: RouteKind::Unreachable,
        };
        links.set_route(&gone, PROTOCOL_STATIC)?;
    }
    for other in cluster.nodes.iter().filter(|n| n.name != node.name) {
        for (cidr, address) in other.pod_cidrs.iter().zip(&other.addresses) {
            links.set_route(&route(*cidr, ETH0, Some(address.addr())), PROTOCOL_STATIC)?;
        }
    }
    firewall::masquerade(&namespace, cluster, node)?;
    Ok(namespace)
}

/// Makes a pod's namespace and its link to the node.
pub(crate) fn build_pod(node: &Netns, index: u8, addresses: &[IpAddr]) -> Result<PodWire> {
    let namespace = Netns::new()?;
    namespace.run(|| configure(false))??;
    let device = format!("pod{index}");
    let (near, far) = (mac(&[0xee, 0, index, 1]), mac(&[0xee, 0, index, 2]));
    let node_links = Links::open_in(node)?;
    let links = Links::open_in(&namespace)?;
    node_links.add_veth(
        &VethEnd {
            name: &device,
            mac: Some(near),
            ..VethEnd::default()
        },
        &VethEnd {
            name: ETH0,
            namespace: Some(&namespace),
            mac: Some(far),
            ..VethEnd::default()
        },
    )?;
    node_links.set_up(&device)?;
    links.set_up(ETH0)?;
    for address in addresses {
        links.add_address(ETH0, IpNet::from(*address))?;
        links.add_neighbour(ETH0, pod_gateway(*address), near)?;
        links.set_route(
            &route(default_of(*address), ETH0, Some(pod_gateway(*address))),
            PROTOCOL_STATIC,
        )?;
        node_links.add_neighbour(&device, *address, far)?;
        node_links.set_route(&route(IpNet::from(*address), &device, None), PROTOCOL_STATIC)?;
    }
    Ok(PodWire { namespace, device })
}

/// Takes a pod's link away; the rest goes with the pod's namespace.
pub(crate) fn remove_pod(node: &Netns, wire: &PodWire) -> Result<()> {
    Links::open_in(node)?.remove(&wire.device)?;
    Ok(())
}

/// Where other processes find the namespaces that `holder` (a PID of the host) holds.
pub(crate) fn paths<'a, N: AsFd + 'a>(
    holder: i32,
    namespaces: impl IntoIterator<Item = (&'a String, &'a N)>,
) -> BTreeMap<String, String> {
    let path = |ns: &N| format!("/proc/{holder}/fd/{}", ns.as_fd().as_raw_fd());
    namespaces
        .into_iter()
        .map(|(name, ns)| (name.clone(), path(ns)))
        .collect()
}

/// Kernel parameters of the calling thread's namespace.
fn configure(forwards: bool) -> Result<()> {
    let set = |path: &str, value: &str| {
        let path = format!("/proc/sys/net/{path}");
        fs::write(&path, value).with_context(|| {
            format!("cannot set {path} to {value}; is /proc/sys read-only here (an unprivileged container)?")
        })
    };
    let v6 = fs::exists("/proc/sys/net/ipv6/conf").unwrap_or(false);
    if v6 {
        for scope in ["all", "default"] {
            set(&format!("ipv6/conf/{scope}/disable_ipv6"), "0")?;
            set(&format!("ipv6/conf/{scope}/accept_dad"), "0")?;
            set(&format!("ipv6/conf/{scope}/accept_ra"), "0")?;
        }
    }
    if forwards {
        set("ipv4/ip_forward", "1")?;
        if v6 {
            set("ipv6/conf/all/forwarding", "1")?;
        }
    }
    Ok(())
}

fn route(destination: IpNet, device: &str, via: Option<IpAddr>) -> Route {
    let next_hops = vec![NextHop {
        device: device.to_owned(),
        via,
    }];
    Route {
        table: MAIN_TABLE,
        destination,
        metric: METRIC,
        kind: RouteKind::Unicast {
            next_hops,
            source: None,
            mtu: None,
        },
    }
}

fn default_of(address: IpAddr) -> IpNet {
    match address {
        IpAddr::V4(_) => Ipv4Net::default().into(),
        IpAddr::V6(_) => Ipv6Net::default().into(),
    }
}

fn pod_gateway(of: IpAddr) -> IpAddr {
    match of {
        IpAddr::V4(_) => POD_GATEWAY_V4.into(),
        IpAddr::V6(_) => POD_GATEWAY_V6.into(),
    }
}

/// The router's end of a node's wire.
pub(crate) fn port_name(cluster: &Cluster, node: &Node) -> String {
    let number = cluster
        .nodes
        .iter()
        .position(|n| n.name == node.name)
        .unwrap_or_default()
        + 1;
    let bridge = &cluster.lan.bridge;
    // No bridge and no wire has an underscore in its name, whatever the clusters are called.
    format!("{}_{number}", bridge.strip_prefix("lan-").unwrap_or(bridge))
}

/// A hardware address of the locally administered kind.
fn mac(tail: &[u8; 4]) -> MacAddress {
    let [a, b, c, d] = *tail;
    MacAddress([0x02, 0x5a, a, b, c, d])
}
