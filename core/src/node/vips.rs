//! VIPs: each new connection to one is balanced over the ready endpoints of all exporting clusters.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::firewall::{base, rule};
use super::topology::Topology;
use super::{FAMILIES, Skipped, VipPort, VipService, family_of, family_of_prefix, set_name};
use crate::kernel::{
    Action, AddressFamily, Chain, ChainKind, Element, Hook, Key, Match, NftSet, Protocol, SetKind,
};

/// Pairs of equal addresses: a pod that was balanced to itself.
pub(super) const HAIRPIN: &str = "hairpin";
const VIPS: &str = "vips";
const ENDPOINTS: &str = "endpoints";
/// Just before kube-proxy's chains.
const PRIORITY: i32 = -101;

/// The balancing of all services.
#[derive(Default)]
pub(super) struct Services {
    vips: BTreeSet<Element>,
    hairpins: BTreeSet<IpAddr>,
    endpoints: BTreeSet<Element>,
    chains: BTreeMap<String, Chain>,
}

/// One VIP's balancing, for all services that count. A service that contradicts another, or the cluster's
/// ranges, is left out by itself.
pub(super) fn balance(
    topology: &Topology,
    services: &[VipService],
    skipped: &mut BTreeSet<Skipped>,
) -> Services {
    let mut sorted: Vec<&VipService> = services.iter().collect();
    sorted.sort_by_key(|s| (&s.namespace, &s.name));
    let mut out = Services::default();
    let mut owners: BTreeMap<IpAddr, String> = BTreeMap::new();
    for service in sorted {
        let name = format!("{}/{}", service.namespace, service.name);
        let mut skip = |message: String| {
            skipped.insert(Skipped::new(format!("ServiceImport/{name}"), message));
        };
        let endpoints = Endpoints::of(topology, service, &mut skip);
        for vip in service.vips.iter().collect::<BTreeSet<_>>() {
            if !topology.vips.iter().any(|p| p.contains(vip)) {
                skip(format!(
                    "VIP {vip} is outside this cluster's VIP prefixes and is ignored; only Strait's agent may write ServiceImports"
                ));
                continue;
            }
            if let Some(other) = owners.get(vip) {
                skip(format!("VIP {vip} is already {other}'s and is ignored"));
                continue;
            }
            owners.insert(*vip, name.clone());
            for port in service.ports.iter().collect::<BTreeSet<_>>() {
                let targets = endpoints.targets(family_of(*vip), port);
                out.add(topology, service, *vip, port, targets);
            }
        }
    }
    out
}

/// Target ports by name and protocol.
type TargetPorts = BTreeMap<(String, Protocol), u16>;

/// Where a service's connections may go.
struct Endpoints(Vec<(IpAddr, TargetPorts)>);

impl Endpoints {
    fn of(topology: &Topology, service: &VipService, skip: &mut impl FnMut(String)) -> Self {
        let mut endpoints = Vec::new();
        for slice in &service.slices {
            // A cluster that left or that is draining takes no new connections.
            let Some(prefixes) = topology.offering.get(&slice.cluster) else {
                continue;
            };
            let ports: TargetPorts = slice
                .ports
                .iter()
                .map(|p| ((p.name.clone(), p.protocol), p.port))
                .collect();
            for address in &slice.endpoints {
                if prefixes.iter().any(|p| p.contains(address)) {
                    endpoints.push((*address, ports.clone()));
                } else {
                    skip(format!(
                        "endpoint {address} is outside the pod prefixes of cluster {} and is left out",
                        slice.cluster
                    ));
                }
            }
        }
        Self(endpoints)
    }

    fn targets(&self, family: AddressFamily, port: &VipPort) -> BTreeSet<SocketAddr> {
        let key = (port.name.clone(), port.protocol);
        self.0
            .iter()
            .filter(|(address, _)| family_of(*address) == family)
            .filter_map(|(address, ports)| Some(SocketAddr::new(*address, *ports.get(&key)?)))
            .collect()
    }
}

impl Services {
    fn add(
        &mut self,
        topology: &Topology,
        service: &VipService,
        vip: IpAddr,
        port: &VipPort,
        targets: BTreeSet<SocketAddr>,
    ) {
        if targets.is_empty() {
            return;
        }
        let local = |a: &IpAddr| {
            topology.own.pods.iter().any(|p| p.contains(a))
                || topology.own.pods.is_empty() && topology.pods.iter().any(|p| p.contains(a))
        };
        self.hairpins
            .extend(targets.iter().map(SocketAddr::ip).filter(local));
        let family = family_of(vip);
        let count = u32::try_from(targets.len()).unwrap_or(u32::MAX);
        let name = chain_name(family, count, service.by_source);
        let balance = Action::Balance {
            map: set_name(ENDPOINTS, family),
            family,
            count,
            by_source: service.by_source,
        };
        let chain = Chain {
            base: None,
            rules: vec![rule([], [balance])],
        };
        self.chains.entry(name.clone()).or_insert(chain);
        let numbered = (0u32..).zip(targets);
        self.endpoints.extend(
            numbered.map(|(number, target)| Element::Endpoint(vip, port.protocol, port.port, number, target)),
        );
        self.vips
            .insert(Element::Vip(vip, port.protocol, port.port, name));
    }
}

/// All VIPs with as many endpoints share a chain.
fn chain_name(family: AddressFamily, count: u32, by_source: bool) -> String {
    let how = if by_source { "by-source" } else { "at-random" };
    set_name(&format!("balance-{how}-{count}"), family)
}

/// Puts the balancing into the table.
pub(super) fn add(
    topology: &Topology,
    services: Services,
    sets: &mut BTreeMap<String, NftSet>,
    chains: &mut BTreeMap<String, Chain>,
) {
    for family in FAMILIES {
        let of_family = |e: &&Element| matches!(e, Element::Endpoint(vip, ..) if family_of(*vip) == family);
        sets.insert(
            set_name(ENDPOINTS, family),
            NftSet {
                kind: SetKind::Endpoints(family),
                elements: services.endpoints.iter().filter(of_family).cloned().collect(),
            },
        );
        let elements = services
            .vips
            .iter()
            .filter(|e| matches!(e, Element::Vip(vip, ..) if family_of(*vip) == family))
            .cloned()
            .collect();
        let pairs = services
            .hairpins
            .iter()
            .filter(|a| family_of(**a) == family)
            .map(|a| Element::Pair(*a, *a))
            .collect();
        sets.insert(
            set_name(VIPS, family),
            NftSet {
                kind: SetKind::Vips(family),
                elements,
            },
        );
        sets.insert(
            set_name(HAIRPIN, family),
            NftSet {
                kind: SetKind::AddressPairs(family),
                elements: pairs,
            },
        );
    }
    let lookups: Vec<_> = topology
        .vips
        .iter()
        .map(|prefix| {
            let family = family_of_prefix(prefix);
            rule(
                [
                    Match::Family(family),
                    Match::In(Key::Destination(family), *prefix),
                ],
                [Action::VipLookup(family, set_name(VIPS, family))],
            )
        })
        .collect();
    chains.insert(
        "vip-forwarded".to_owned(),
        base(ChainKind::Nat, Hook::Prerouting, PRIORITY, lookups.clone()),
    );
    chains.insert(
        "vip-own".to_owned(),
        base(ChainKind::Nat, Hook::Output, PRIORITY, lookups),
    );
    chains.extend(services.chains);
}
