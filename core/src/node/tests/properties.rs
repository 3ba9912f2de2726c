//! What holds for any cluster.

use proptest::prelude::*;
use proptest::sample::subsequence;

use super::*;
use crate::kernel::{
    GUARD_METRIC, INGRESS_TABLE, MAIN_TABLE, OVERLAY_DEVICE, OVERLAY_TABLE, RouteKind, TUNNEL_DEVICE,
};

fn any_inputs() -> impl Strategy<Value = NodeInputs> {
    let stack = prop_oneof![Just(Stack::V4), Just(Stack::V6), Just(Stack::Dual)];
    let shape = (stack, 1u8..12, 0u8..4, 1u8..12, any::<bool>());
    (
        shape,
        subsequence((2u8..10).collect::<Vec<_>>(), 0..=8),
        any::<u16>(),
        1300u32..9001,
    )
        .prop_map(|((stack, nodes, gateways, own, tunnel), remotes, broken, mtu)| {
            let mut inputs = blue(stack, 1, gateways);
            inputs.node = format!("node-{}", own.min(nodes));
            inputs.nodes = (1..=nodes).map(|n| node(stack, n, gateways)).collect();
            // Some nodes have no overlay address, some no prefix, some no address of their own yet.
            for (n, node) in inputs.nodes.iter_mut().enumerate() {
                match broken.rotate_left(n as u32 * 3) & 7 {
                    1 => node.overlay_addresses.clear(),
                    2 => node.pod_prefixes.clear(),
                    3 => node.addresses.clear(),
                    _ => {}
                }
            }
            inputs.clusterset.remotes = remotes
                .iter()
                .map(|k| (id(&format!("c{k}")), remote(stack, &format!("c{k}"), *k)))
                .collect();
            inputs.observed.tunnel_exists = tunnel;
            inputs.observed.underlay_mtu = mtu;
            inputs
        })
}

proptest! {
    #[test]
    fn every_remote_prefix_has_its_guard(inputs in any_inputs()) {
        let state = desired(&inputs).unwrap().state;
        for prefix in inputs.clusterset.remotes.values().flat_map(|r| r.prefixes()) {
            for table in [MAIN_TABLE, OVERLAY_TABLE] {
                let guarded = state.routes.iter().any(|r| {
                    r.table == table && r.destination == prefix && r.kind == RouteKind::Unreachable
                        && r.metric == GUARD_METRIC
                });
                prop_assert!(guarded, "{prefix} in table {table}");
            }
        }
    }

    #[test]
    fn no_way_out_is_without_its_guard(inputs in any_inputs()) {
        let state = desired(&inputs).unwrap().state;
        for route in &state.routes {
            let RouteKind::Unicast { .. } = &route.kind else { continue };
            let guarded = state.routes.iter().any(|g| {
                g.table == route.table && g.kind == RouteKind::Unreachable && g.metric > route.metric
                    && g.destination.contains(&route.destination)
            });
            prop_assert!(guarded, "{route:?}");
        }
    }

    #[test]
    fn every_next_hop_is_a_known_neighbour(inputs in any_inputs()) {
        let state = desired(&inputs).unwrap().state;
        for route in &state.routes {
            let RouteKind::Unicast { next_hops, source, .. } = &route.kind else { continue };
            prop_assert!(!next_hops.is_empty());
            for hop in next_hops {
                match hop.via {
                    Some(via) => {
                        let neighbour = state.neighbours.iter().find(|n| n.address == via);
                        prop_assert!(neighbour.is_some(), "{via}");
                        prop_assert!(state.fdb.iter().any(|f| Some(f.mac) == neighbour.map(|n| n.mac)));
                        prop_assert_eq!(hop.device.as_str(), OVERLAY_DEVICE);
                    }
                    None => prop_assert!([TUNNEL_DEVICE, OVERLAY_DEVICE].contains(&hop.device.as_str())),
                }
                if hop.device == OVERLAY_DEVICE {
                    prop_assert!(state.overlay.is_some());
                } else {
                    prop_assert!(inputs.observed.tunnel_exists);
                }
            }
            if let Some(source) = source {
                prop_assert!(state.addresses.iter().any(|a| a.address.addr() == *source));
            }
        }
    }

    /// What came by the overlay goes into a tunnel, what left a tunnel goes to pods: neither goes back.
    #[test]
    fn packets_do_not_go_round(inputs in any_inputs()) {
        let state = desired(&inputs).unwrap().state;
        let remote: Vec<_> = inputs.clusterset.remotes.values().flat_map(|r| r.prefixes()).collect();
        for route in &state.routes {
            let RouteKind::Unicast { next_hops, .. } = &route.kind else { continue };
            if route.table == OVERLAY_TABLE {
                prop_assert!(next_hops.iter().all(|h| h.device == TUNNEL_DEVICE), "{route:?}");
            }
            if route.table == INGRESS_TABLE {
                prop_assert!(next_hops.iter().all(|h| h.device == OVERLAY_DEVICE), "{route:?}");
                prop_assert!(!remote.contains(&route.destination), "{route:?}");
            }
        }
    }

    #[test]
    fn rules_name_sets_and_chains_that_exist(inputs in any_inputs()) {
        use crate::kernel::{Action, Match};
        let table = desired(&inputs).unwrap().state.nft.unwrap();
        for rule in table.chains.values().flat_map(|c| &c.rules) {
            for m in &rule.matches {
                if let Match::InSet(_, set) | Match::NotInSet(_, set) | Match::ConcatInSet(_, set) = m {
                    prop_assert!(table.sets.contains_key(set), "{set}");
                }
            }
            for a in &rule.actions {
                match a {
                    Action::Jump(chain) => prop_assert!(table.chains.contains_key(chain), "{chain}"),
                    Action::VipLookup(_, set) => prop_assert!(table.sets.contains_key(set), "{set}"),
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn order_does_not_matter(
        (inputs, shuffled) in any_inputs().prop_flat_map(|inputs| {
            let nodes = Just(inputs.nodes.clone()).prop_shuffle();
            (Just(inputs), nodes).prop_map(|(inputs, nodes)| {
                let mut other = inputs.clone();
                other.nodes = nodes;
                for service in &mut other.services {
                    service.slices.reverse();
                    service.slices.iter_mut().for_each(|s| s.endpoints.reverse());
                }
                (inputs, other)
            })
        })
    ) {
        prop_assert_eq!(desired(&inputs), desired(&shuffled));
    }
}
