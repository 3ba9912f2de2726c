//! Routes and policy rules.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::overlay::IPV6_MINIMUM;
use super::topology::{Topology, of_family};
use super::{FAMILIES, Observed, overlay_mtu, tunnel_mtu};
use crate::kernel::{
    AddressFamily, GUARD_METRIC, INGRESS_TABLE, KernelState, MAIN_TABLE, NextHop, OVERLAY_DEVICE,
    OVERLAY_TABLE, PolicyRule, ROUTE_METRIC, RULE_PRIORITY, Route, RouteKind, Sysctl, TUNNEL_DEVICE,
};

/// The metric of a gateway's routes by way of its siblings: they take over in the instant in which the
/// kernel drops the tunnel device's routes.
const SIBLING_METRIC: u32 = ROUTE_METRIC + 1;

/// The largest packet for other clusters, where the overlay must carry it too.
pub(super) fn path_mtu(topology: &Topology, observed: &Observed, family: AddressFamily) -> u32 {
    let tunnel = tunnel_mtu(observed.underlay_mtu, family);
    let mtu = match topology.own.port {
        Some(port) => tunnel.min(overlay_mtu(observed.underlay_mtu, super::family_of(port.outer))),
        None => tunnel,
    };
    match family {
        AddressFamily::V4 => mtu,
        AddressFamily::V6 => mtu.max(IPV6_MINIMUM),
    }
}

/// All routes and rules of the node.
pub(super) fn build(topology: &Topology, observed: &Observed, state: &mut KernelState) {
    for family in FAMILIES {
        let routes = Routes {
            topology,
            family,
            source: topology.own.overlay(family),
            mtu: path_mtu(topology, observed, family),
            tunnel: topology.own.gateway && observed.tunnel_exists,
            out: &mut state.routes,
        };
        routes.build();
        let has_remotes = of_family(family, &topology.remote).next().is_some();
        if has_remotes {
            state.rules.insert(rule(family, 1, OVERLAY_DEVICE, OVERLAY_TABLE));
        }
        if topology.own.gateway && (has_remotes || of_family(family, &topology.pods).next().is_some()) {
            state.rules.insert(rule(family, 0, TUNNEL_DEVICE, INGRESS_TABLE));
        }
    }
    if balances(&state.routes) {
        // By default the kernel hashes addresses only, and every flow of a pair of pods takes one gateway.
        for family in ["ipv4", "ipv6"] {
            state.sysctls.insert(
                format!("net/{family}/fib_multipath_hash_policy"),
                Sysctl {
                    value: "1".to_owned(),
                },
            );
        }
    }
}

fn balances(routes: &BTreeSet<Route>) -> bool {
    routes
        .iter()
        .any(|r| matches!(&r.kind, RouteKind::Unicast { next_hops, .. } if next_hops.len() > 1))
}

fn rule(family: AddressFamily, offset: u32, device: &str, table: u32) -> PolicyRule {
    PolicyRule {
        family,
        priority: RULE_PRIORITY + offset,
        input_device: Some(device.to_owned()),
        table,
    }
}

/// The routes of one family.
struct Routes<'a> {
    topology: &'a Topology,
    family: AddressFamily,
    /// This node's overlay address; without one it can send nothing that would be answered.
    source: Option<IpAddr>,
    mtu: u32,
    tunnel: bool,
    out: &'a mut BTreeSet<Route>,
}

impl Routes<'_> {
    fn build(mut self) {
        let topology = self.topology;
        for prefix in of_family(self.family, &topology.remote) {
            self.add_remote(prefix);
        }
        for prefix in of_family(self.family, &topology.absent) {
            self.guard(MAIN_TABLE, prefix);
        }
        for prefix in of_family(self.family, &topology.vips) {
            self.add_vips(prefix);
        }
        for block in of_family(self.family, &topology.node_blocks) {
            self.guard(MAIN_TABLE, block);
        }
        self.add_nodes();
        if topology.own.gateway {
            self.add_ingress();
        }
    }

    fn add_remote(&mut self, prefix: IpNet) {
        self.guard(MAIN_TABLE, prefix);
        self.guard(OVERLAY_TABLE, prefix);
        if self.source.is_none() {
            return;
        }
        let siblings: Vec<NextHop> = self.topology.gateways(self.family).map(over).collect();
        let mut siblings_metric = ROUTE_METRIC;
        if self.topology.own.gateway {
            siblings_metric = SIBLING_METRIC;
            if self.tunnel {
                self.unicast(
                    MAIN_TABLE,
                    prefix,
                    ROUTE_METRIC,
                    vec![device(TUNNEL_DEVICE)],
                    true,
                );
                self.unicast(
                    OVERLAY_TABLE,
                    prefix,
                    ROUTE_METRIC,
                    vec![device(TUNNEL_DEVICE)],
                    true,
                );
            }
        }
        if !siblings.is_empty() {
            self.unicast(MAIN_TABLE, prefix, siblings_metric, siblings, true);
        }
    }

    /// The node's own clients of a VIP must get past the routing step before their packets are translated.
    fn add_vips(&mut self, prefix: IpNet) {
        self.guard(MAIN_TABLE, prefix);
        if self.source.is_some() {
            self.unicast(
                MAIN_TABLE,
                prefix,
                ROUTE_METRIC,
                vec![device(OVERLAY_DEVICE)],
                true,
            );
        }
    }

    fn add_nodes(&mut self) {
        if self.source.is_none() {
            return;
        }
        let topology = self.topology;
        for address in topology.others.iter().filter_map(|p| p.overlay(self.family)) {
            let hop = NextHop {
                device: OVERLAY_DEVICE.to_owned(),
                via: Some(address),
            };
            self.out.insert(Route {
                table: MAIN_TABLE,
                destination: IpNet::from(address),
                metric: ROUTE_METRIC,
                kind: RouteKind::Unicast {
                    next_hops: vec![hop],
                    source: self.source,
                    mtu: None,
                },
            });
        }
    }

    /// What leaves a tunnel goes to pods and overlay addresses of this cluster, and nowhere else.
    fn add_ingress(&mut self) {
        let (topology, family) = (self.topology, self.family);
        let everything = match family {
            AddressFamily::V4 => IpNet::V4(Ipv4Net::default()),
            AddressFamily::V6 => IpNet::V6(Ipv6Net::default()),
        };
        self.guard(INGRESS_TABLE, everything);
        for prefix in topology
            .own
            .pods
            .iter()
            .filter(|p| super::family_of_prefix(p) == family)
        {
            self.throw(*prefix);
        }
        for peer in &topology.others {
            let (Some(_), Some(address)) = (self.source, peer.overlay(family)) else {
                continue;
            };
            let pods = peer
                .pods
                .iter()
                .copied()
                .filter(|p| super::family_of_prefix(p) == family);
            for prefix in pods.chain([IpNet::from(address)]) {
                self.unicast(INGRESS_TABLE, prefix, ROUTE_METRIC, vec![over(address)], false);
            }
        }
        // Where the address management gives nodes no prefixes, only the network plug-in knows the way.
        if topology.all().all(|p| p.pods.is_empty()) {
            for prefix in of_family(family, &topology.pods) {
                self.throw(prefix);
            }
        }
    }

    fn guard(&mut self, table: u32, destination: IpNet) {
        self.out.insert(Route {
            table,
            destination,
            metric: GUARD_METRIC,
            kind: RouteKind::Unreachable,
        });
    }

    fn throw(&mut self, destination: IpNet) {
        self.out.insert(Route {
            table: INGRESS_TABLE,
            destination,
            metric: ROUTE_METRIC,
            kind: RouteKind::Throw,
        });
    }

    fn unicast(
        &mut self,
        table: u32,
        destination: IpNet,
        metric: u32,
        mut next_hops: Vec<NextHop>,
        ours: bool,
    ) {
        next_hops.sort();
        self.out.insert(Route {
            table,
            destination,
            metric,
            kind: RouteKind::Unicast {
                next_hops,
                source: self.source.filter(|_| ours),
                mtu: ours.then_some(self.mtu),
            },
        });
    }
}

fn device(name: &str) -> NextHop {
    NextHop {
        device: name.to_owned(),
        via: None,
    }
}

fn over(gateway: IpAddr) -> NextHop {
    NextHop {
        device: OVERLAY_DEVICE.to_owned(),
        via: Some(gateway),
    }
}
