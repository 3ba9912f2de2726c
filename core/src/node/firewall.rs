//! Our nftables table: what may come out of a tunnel, which source an address gets, what is tracked.
//!
//! What comes in by our devices is judged once, in `guard`, before any translation: a node port of the
//! network plug-in or of kube-proxy would otherwise turn a packet for the node into one for a pod.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::routes::path_mtu;
use super::topology::{Topology, of_family};
use super::vips::{self, Services};
use super::{FAMILIES, Observed, family_of_prefix, set_name};
use crate::kernel::{
    Action, AddressFamily, Chain, ChainKind, Concat, CtState, Element, Hook, Key, Match, NftSet, NftTable,
    OVERLAY_DEVICE, OVERLAY_PORT, PROBE_PORT, Protocol, RejectWith, Rule, SetKind, TUNNEL_DEVICE,
};

/// Prefixes of the other clusters: pods and node blocks.
const REMOTE: &str = "remote";
/// Prefixes of this cluster's pods.
const PODS: &str = "pods";
/// Overlay addresses of this cluster's nodes.
const OVERLAYS: &str = "overlays";
/// The nodes' own addresses.
const NODES: &str = "nodes";
/// All our devices.
const OUR_DEVICES: &str = "strait-*";
/// Runs before the translation of destinations (−100) and after connection tracking (−200).
const BEFORE_NAT: i32 = -150;

/// The whole table.
pub(super) fn table(topology: &Topology, observed: &Observed, services: Services) -> NftTable {
    let firewall = Firewall { topology, observed };
    let mut chains = BTreeMap::from([
        ("guard".to_owned(), firewall.guard()),
        ("from-tunnel".to_owned(), firewall.leaving_tunnel()),
        ("from-overlay".to_owned(), firewall.leaving_overlay()),
        ("to-node".to_owned(), firewall.reaching_node()),
        ("input".to_owned(), firewall.input()),
        ("forward".to_owned(), firewall.forward()),
        (
            "output".to_owned(),
            base(ChainKind::Filter, Hook::Output, -1, firewall.unbalanced()),
        ),
        ("postrouting".to_owned(), firewall.postrouting()),
    ]);
    if topology.own.gateway {
        chains.insert("transit".to_owned(), firewall.transit());
    }
    let mut sets = firewall.sets();
    vips::add(topology, services, &mut sets, &mut chains);
    NftTable { sets, chains }
}

pub(super) fn base(kind: ChainKind, hook: Hook, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain {
        base: Some((kind, hook, priority)),
        rules,
    }
}

pub(super) fn rule(
    matches: impl IntoIterator<Item = Match>,
    actions: impl IntoIterator<Item = Action>,
) -> Rule {
    Rule {
        matches: matches.into_iter().collect(),
        actions: actions.into_iter().collect(),
    }
}

fn drop() -> [Action; 2] {
    [Action::Counter, Action::Drop]
}

fn input(device: &str) -> Match {
    Match::InputDevice(device.to_owned())
}

fn output(device: &str) -> Match {
    Match::OutputDevice(device.to_owned())
}

fn from(family: AddressFamily, set: &str) -> Match {
    Match::InSet(Key::Source(family), set_name(set, family))
}

fn to(family: AddressFamily, set: &str) -> Match {
    Match::InSet(Key::Destination(family), set_name(set, family))
}

/// Overlay packets come from nodes, never by way of one: a masquerade on the way would give a pod's
/// forgery a node's address.
fn forged(family: AddressFamily) -> Rule {
    let matches = [
        Match::Family(family),
        Match::Protocol(Protocol::Udp),
        Match::DestinationPort(OVERLAY_PORT),
        to(family, NODES),
    ];
    rule(matches, drop())
}

fn not_from(family: AddressFamily, set: &str) -> Match {
    Match::NotInSet(Key::Source(family), set_name(set, family))
}

struct Firewall<'a> {
    topology: &'a Topology,
    observed: &'a Observed,
}

impl Firewall<'_> {
    fn sets(&self) -> BTreeMap<String, NftSet> {
        let topology = self.topology;
        let mut sets = BTreeMap::new();
        for family in FAMILIES {
            let prefixes = |prefixes: &BTreeSet<IpNet>| NftSet {
                kind: SetKind::Prefixes(family),
                // Intervals must not overlap; a cluster may well claim a prefix and a part of it.
                elements: IpNet::aggregate(&of_family(family, prefixes).collect())
                    .into_iter()
                    .map(Element::Prefix)
                    .collect(),
            };
            let addresses = |addresses: Vec<IpAddr>| NftSet {
                kind: SetKind::Addresses(family),
                elements: addresses
                    .into_iter()
                    .filter(|a| super::family_of(*a) == family)
                    .map(Element::Address)
                    .collect(),
            };
            let overlays = topology.all().flat_map(|p| p.overlays()).collect();
            let nodes = topology.all().flat_map(|p| p.addresses.iter().copied()).collect();
            sets.insert(set_name(REMOTE, family), prefixes(&topology.remote));
            sets.insert(set_name(PODS, family), prefixes(&topology.pods));
            sets.insert(set_name(OVERLAYS, family), addresses(overlays));
            sets.insert(set_name(NODES, family), addresses(nodes));
        }
        sets
    }

    fn guard(&self) -> Chain {
        let rules = vec![
            rule([input(TUNNEL_DEVICE)], [Action::Jump("from-tunnel".to_owned())]),
            rule([input(OVERLAY_DEVICE)], [Action::Jump("from-overlay".to_owned())]),
        ];
        base(ChainKind::Filter, Hook::Prerouting, BEFORE_NAT, rules)
    }

    /// Out of a tunnel: from another cluster, to this one's pods and overlay addresses.
    fn leaving_tunnel(&self) -> Chain {
        let mut rules = Vec::new();
        for family in FAMILIES {
            rules.push(rule([Match::Family(family), not_from(family, REMOTE)], drop()));
        }
        rules.push(rule(
            [Match::DestinationIsLocal],
            [Action::Jump("to-node".to_owned())],
        ));
        for family in FAMILIES {
            rules.push(rule([Match::Family(family), to(family, PODS)], [Action::Accept]));
            rules.push(rule(
                [Match::Family(family), to(family, OVERLAYS)],
                [Action::Accept],
            ));
        }
        rules.push(rule([], drop()));
        Chain { base: None, rules }
    }

    /// By the overlay: from another cluster to pods, and on a gateway the way back.
    fn leaving_overlay(&self) -> Chain {
        let mut rules = vec![rule(
            [Match::DestinationIsLocal],
            [Action::Jump("to-node".to_owned())],
        )];
        for family in FAMILIES {
            let of = |matches: [Match; 2]| {
                rule(
                    [Match::Family(family)].into_iter().chain(matches),
                    [Action::Accept],
                )
            };
            rules.push(of([from(family, REMOTE), to(family, PODS)]));
            if self.topology.own.gateway {
                rules.push(of([to(family, REMOTE), from(family, PODS)]));
                rules.push(of([to(family, REMOTE), from(family, OVERLAYS)]));
            }
        }
        rules.push(rule([], drop()));
        Chain { base: None, rules }
    }

    /// To the node itself: probes, and answers to what it asked.
    fn reaching_node(&self) -> Chain {
        let mut rules = vec![rule(
            [Match::CtState(vec![CtState::Established, CtState::Related])],
            [Action::Accept],
        )];
        for family in FAMILIES {
            let Some(own) = self.topology.own.overlay(family) else {
                continue;
            };
            let to_own = Match::In(Key::Destination(family), IpNet::from(own));
            let of = |matches: Vec<Match>| {
                let matches = [Match::Family(family), to_own.clone()].into_iter().chain(matches);
                rule(matches, [Action::Accept])
            };
            rules.push(of(vec![Match::EchoRequest(family)]));
            rules.push(of(vec![Match::IcmpError(family)]));
            rules.push(of(vec![
                Match::Protocol(Protocol::Udp),
                Match::DestinationPort(PROBE_PORT),
            ]));
        }
        rules.push(rule([], drop()));
        Chain { base: None, rules }
    }

    fn input(&self) -> Chain {
        let mut rules: Vec<Rule> = FAMILIES
            .into_iter()
            .map(|family| {
                let matches = [
                    Match::Family(family),
                    Match::Protocol(Protocol::Udp),
                    Match::DestinationPort(OVERLAY_PORT),
                    not_from(family, NODES),
                ];
                rule(matches, drop())
            })
            .collect();
        rules.push(rule([input(OUR_DEVICES)], [Action::Jump("to-node".to_owned())]));
        base(ChainKind::Filter, Hook::Input, -1, rules)
    }

    fn forward(&self) -> Chain {
        let mut rules = self.unbalanced();
        rules.extend(FAMILIES.into_iter().map(forged));
        for family in FAMILIES {
            let headers = match family {
                AddressFamily::V4 => 40,
                AddressFamily::V6 => 60,
            };
            let mtu = path_mtu(self.topology, self.observed, family);
            let mss = u16::try_from(mtu.saturating_sub(headers)).unwrap_or(u16::MAX);
            for device in [input(OUR_DEVICES), output(OUR_DEVICES)] {
                rules.push(rule(
                    [Match::Family(family), device, Match::TcpSyn],
                    [Action::ClampMss(mss)],
                ));
            }
        }
        base(ChainKind::Filter, Hook::Forward, BEFORE_NAT, rules)
    }

    /// A packet that still has a VIP as its destination after translation has no endpoint: say so at once.
    /// An ICMP error that answers a connecting socket on the same machine comes while that is locked, and
    /// is lost; a reset is not.
    fn unbalanced(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        for prefix in &self.topology.vips {
            let family = family_of_prefix(prefix);
            let to_vip = [
                Match::Family(family),
                Match::In(Key::Destination(family), *prefix),
            ];
            let tcp = to_vip.clone().into_iter().chain([Match::Protocol(Protocol::Tcp)]);
            rules.push(rule(tcp, [Action::Counter, Action::Reject(RejectWith::TcpReset)]));
            rules.push(rule(
                to_vip,
                [Action::Counter, Action::Reject(RejectWith::PortUnreachable)],
            ));
        }
        rules
    }

    /// Source addresses. `snat` to a packet's own source binds the connection, so that no masquerade rule
    /// of somebody else does; an `accept` here would not stop those.
    fn postrouting(&self) -> Chain {
        let mut rules = Vec::new();
        for family in FAMILIES {
            let of = |matches: Vec<Match>, action: Action| {
                rule([Match::Family(family)].into_iter().chain(matches), [action])
            };
            let identity = Action::SnatIdentity(family);
            let pair = Match::ConcatInSet(Concat::SourceDestination(family), set_name(vips::HAIRPIN, family));
            rules.push(of(vec![pair, Match::CtStatusDnat], Action::Masquerade));
            rules.push(of(vec![from(family, PODS), to(family, REMOTE)], identity.clone()));
            rules.push(of(vec![from(family, REMOTE), to(family, PODS)], identity.clone()));
            rules.push(of(vec![from(family, OVERLAYS), to(family, REMOTE)], identity));
            if let Some(own) = self.topology.own.overlay(family) {
                rules.push(of(
                    vec![output(OUR_DEVICES), to(family, REMOTE)],
                    Action::Snat(own),
                ));
                // The node's own client of a VIP, balanced to a pod of this cluster: that is the network
                // plug-in's path, which knows nothing of overlay addresses.
                let own = Match::In(Key::Source(family), IpNet::from(own));
                rules.push(of(
                    vec![own, to(family, PODS), Match::CtStatusDnat],
                    Action::Masquerade,
                ));
            }
        }
        base(ChainKind::Nat, Hook::Postrouting, 99, rules)
    }

    /// A gateway sees one direction of a connection between others, so it tracks neither.
    fn transit(&self) -> Chain {
        let mut rules = Vec::new();
        for family in FAMILIES {
            let own: Vec<IpNet> = self
                .topology
                .own
                .pods
                .iter()
                .copied()
                .filter(|p| family_of_prefix(p) == family)
                .collect();
            // Which packets have an end here cannot be told without the node's prefixes.
            if own.is_empty() {
                continue;
            }
            let elsewhere = own.into_iter().map(|p| Match::NotIn(Key::Destination(family), p));
            rules.push(rule(
                [
                    Match::Family(family),
                    input(TUNNEL_DEVICE),
                    Match::DestinationIsNotLocal,
                ]
                .into_iter()
                .chain(elsewhere),
                [Action::Notrack],
            ));
            rules.push(rule(
                [Match::Family(family), input(OVERLAY_DEVICE), to(family, REMOTE)],
                [Action::Notrack],
            ));
        }
        base(ChainKind::Filter, Hook::Prerouting, -300, rules)
    }
}
