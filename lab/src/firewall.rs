//! What CNI and kube-proxy put into a node's nftables: masquerading, and the cluster IPs of Services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use ipnet::IpNet;
use strait_core::kernel::{
    Action, AddressFamily, Chain, ChainKind, Element, Hook, Key, Match, NftSet, NftTable, Protocol, Rule,
    SetKind, TUNNEL_PORT,
};
use strait_linux::netns::Netns;
use strait_linux::table::replace_table;

use crate::topology::{Cluster, Edge, Nat, Node};

/// Priorities of nftables' own hooks.
const DSTNAT: i32 = -100;
const SRCNAT: i32 = 100;

/// A Service's address and port, and where its connections go.
pub(crate) type Forwardings = BTreeMap<(IpAddr, Protocol, u16), Vec<SocketAddr>>;

/// Hides the node's pods behind the node for all that is not a pod of the cluster: the rule that would
/// spoil a client's address on the way to another cluster, if Strait did not come before it.
pub(crate) fn masquerade(namespace: &Netns, cluster: &Cluster, node: &Node) -> Result<()> {
    let mut rules = Vec::new();
    for pods in &node.pod_cidrs {
        let family = family(pods.addr());
        let mut matches = vec![Match::Family(family), Match::In(Key::Source(family), *pods)];
        let own = cluster
            .pod_cidrs
            .iter()
            .filter(|c| family == self::family(c.addr()));
        matches.extend(own.map(|c| Match::NotIn(Key::Destination(family), *c)));
        rules.push(Rule {
            matches,
            actions: vec![Action::Counter, Action::Masquerade],
        });
    }
    let base = Some((ChainKind::Nat, Hook::Postrouting, SRCNAT));
    let chains = BTreeMap::from([("postrouting".to_owned(), Chain { base, rules })]);
    Ok(replace_table(
        namespace,
        "lab-cni",
        &NftTable {
            sets: BTreeMap::new(),
            chains,
        },
    )?)
}

/// A cluster's own router: hides the nodes behind its address, and keeps ICMP errors of the devices named to
/// itself.
pub(crate) fn edge(namespace: &Netns, cluster: &Cluster, edge: &Edge, blackholes: &[String]) -> Result<()> {
    let mut chains = BTreeMap::new();
    let mut add = |name: &str, base, rules: Vec<Rule>| {
        if !rules.is_empty() {
            let base = Some(base);
            chains.insert(name.to_owned(), Chain { base, rules });
        }
    };
    let inside = &cluster.lan.bridge;
    // Only what comes from nodes: a packet from a pod has leaked, and is to be seen as that.
    let hide = |net: &IpNet| Rule {
        matches: vec![
            Match::Family(family(net.addr())),
            Match::In(Key::Source(family(net.addr())), net.trunc()),
            Match::NotOutputDevice(inside.clone()),
        ],
        actions: vec![Action::Counter, Action::Masquerade],
    };
    let forward = |ip: &IpAddr| Rule {
        matches: vec![
            Match::Family(family(*ip)),
            Match::NotInputDevice(inside.clone()),
            Match::DestinationIsLocal,
            Match::Protocol(Protocol::Udp),
            Match::DestinationPort(TUNNEL_PORT),
        ],
        actions: vec![Action::BalanceRandom(vec![SocketAddr::new(*ip, TUNNEL_PORT)])],
    };
    if edge.nat.is_some() {
        let hidden = cluster.lan.router.iter().map(hide).collect();
        add("postrouting", (ChainKind::Nat, Hook::Postrouting, SRCNAT), hidden);
    }
    if edge.nat == Some(Nat::Forwarded) {
        let gateway = cluster.nodes.first().map(Node::ips).unwrap_or_default();
        let forwarded = gateway.iter().map(forward).collect();
        add(
            "prerouting",
            (ChainKind::Nat, Hook::Prerouting, DSTNAT),
            forwarded,
        );
    }
    if !blackholes.is_empty() {
        // Of what passes, only what comes or goes by such a wire: a bridge may show its own traffic here too.
        let by = |device: &String| {
            [
                Match::InputDevice(device.clone()),
                Match::OutputDevice(device.clone()),
            ]
        };
        let passing = blackholes.iter().flat_map(by).flat_map(|m| no_icmp_errors(&[m]));
        let passing = passing.collect();
        add("forward", (ChainKind::Filter, Hook::Forward, 0), passing);
        add(
            "output",
            (ChainKind::Filter, Hook::Output, 0),
            no_icmp_errors(&[]),
        );
    }
    let sets = BTreeMap::new();
    Ok(replace_table(namespace, "lab-edge", &NftTable { sets, chains })?)
}

/// Keeps the ICMP errors of the router in the calling thread's namespace to itself.
pub(crate) fn icmp_blackhole() -> Result<()> {
    let base = Some((ChainKind::Filter, Hook::Output, 0));
    let rules = no_icmp_errors(&[]);
    let chains = BTreeMap::from([("output".to_owned(), Chain { base, rules })]);
    let sets = BTreeMap::new();
    Ok(replace_table(
        &Netns::current()?,
        "lab-edge",
        &NftTable { sets, chains },
    )?)
}

fn no_icmp_errors(of: &[Match]) -> Vec<Rule> {
    [AddressFamily::V4, AddressFamily::V6]
        .map(|family| Rule {
            matches: [of, &[Match::IcmpError(family)]].concat(),
            actions: vec![Action::Counter, Action::Drop],
        })
        .to_vec()
}

/// Balances connections to Services.
pub(crate) fn services(namespace: &Netns, forwardings: &Forwardings) -> Result<()> {
    Ok(replace_table(
        namespace,
        "lab-services",
        &services_table(forwardings),
    )?)
}

fn services_table(forwardings: &Forwardings) -> NftTable {
    let mut chains = BTreeMap::new();
    let mut elements: BTreeMap<AddressFamily, BTreeSet<Element>> = BTreeMap::new();
    for (number, ((ip, protocol, port), targets)) in forwardings.iter().enumerate() {
        let name = format!("service-{number}");
        let vip = Element::Vip(*ip, *protocol, *port, name.clone());
        elements.entry(family(*ip)).or_default().insert(vip);
        let action = Action::BalanceRandom(targets.clone());
        let rules = vec![Rule {
            matches: Vec::new(),
            actions: vec![action],
        }];
        chains.insert(name, Chain { base: None, rules });
    }
    let mut sets = BTreeMap::new();
    let mut lookups = Vec::new();
    for (family, elements) in elements {
        let name = match family {
            AddressFamily::V4 => "services4",
            AddressFamily::V6 => "services6",
        };
        sets.insert(
            name.to_owned(),
            NftSet {
                kind: SetKind::Vips(family),
                elements,
            },
        );
        lookups.push(Rule {
            matches: vec![Match::Family(family)],
            actions: vec![Action::VipLookup(family, name.to_owned())],
        });
    }
    for (name, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
        let base = Some((ChainKind::Nat, hook, DSTNAT));
        chains.insert(
            name.to_owned(),
            Chain {
                base,
                rules: lookups.clone(),
            },
        );
    }
    NftTable { sets, chains }
}

fn family(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::V4,
        IpAddr::V6(_) => AddressFamily::V6,
    }
}
