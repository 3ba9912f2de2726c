//! What others change is seen and repaired; what is ours goes away, and nothing else.

use std::time::Duration;

use strait_core::kernel::{
    Action, ChainKind, Hook, KernelState, MAIN_TABLE, NextHop, OVERLAY_DEVICE, Op, PolicyRule, ROUTE_METRIC,
    ROUTE_PROTOCOL, RULE_PRIORITY, Route, RouteKind, Rule, TUNNEL_DEVICE, plan,
};
use strait_linux::testing::{Firewall, as_root, difference, dump};
use strait_linux::tun::{Tun, TunOptions};
use strait_linux::{Change, Kernel};

use crate::bed::{Bed, FAMILIES, assert_done, base, forwarding, rule, with_overlay};

fn node() -> KernelState {
    let counted = |action| -> Rule { rule(vec![], vec![Action::Counter, action]) };
    let mut state = with_overlay(forwarding([
        (
            "forward",
            base(
                ChainKind::Filter,
                Hook::Forward,
                -1,
                vec![counted(Action::Accept)],
            ),
        ),
        (
            "post",
            base(
                ChainKind::Nat,
                Hook::Postrouting,
                99,
                FAMILIES.map(|f| counted(Action::SnatIdentity(f))).to_vec(),
            ),
        ),
    ]));
    state.rules.extend(FAMILIES.map(|family| PolicyRule {
        family,
        priority: RULE_PRIORITY,
        input_device: Some(OVERLAY_DEVICE.into()),
        table: 8301,
    }));
    state.routes.insert(Route {
        table: 8301,
        destination: "10.91.0.0/16".parse().unwrap(),
        metric: ROUTE_METRIC,
        kind: RouteKind::Throw,
    });
    state
}

fn remote(metric: u32) -> Route {
    node()
        .routes
        .into_iter()
        .find(|r| r.table == MAIN_TABLE && r.metric == metric)
        .unwrap()
}

#[test]
fn a_whole_node_comes_up_and_a_restart_adopts_it() {
    as_root("drift::a_whole_node_comes_up_and_a_restart_adopts_it", || {
        let bed = Bed::new();
        let made = bed.reconcile(&node());
        assert!(matches!(made.ops[0], Op::SetSysctl { .. }));
        let again = Kernel::open_in(&bed.node, bed.state_dir.path()).unwrap();
        let adopted = plan(&node(), &again.read_now().unwrap());
        assert_eq!(adopted.to_string(), "");
        // Another address of the node: the device is made anew, with all that hangs on it.
        let mut moved = node();
        moved.overlay.as_mut().unwrap().local = "10.1.0.1".parse().unwrap();
        let made = bed.reconcile(&moved).to_string();
        assert!(
            made.contains("- device strait-overlay") && made.contains("+ route 10.90.0.0/16 via"),
            "{made}"
        );
        // What can change in place does, with the IPv6 routes whose path MTU the kernel changes along with it.
        moved.overlay.as_mut().unwrap().mtu = 1400;
        let made = bed.reconcile(&moved).to_string();
        let others: Vec<&str> = made
            .lines()
            .filter(|line| !line.starts_with("~ route fd90::/48"))
            .collect();
        assert!(
            matches!(others[..], [device] if device.starts_with("~ device strait-overlay") && device.contains("mtu 1400")),
            "{made}"
        );
    });
}

#[test]
fn what_others_change_is_repaired() {
    as_root("drift::what_others_change_is_repaired", || {
        let bed = Bed::new();
        bed.reconcile(&node());
        let links = &bed.node_links;
        let repaired = |what: &str, lines: &[&str]| {
            let text = bed.reconcile(&node()).to_string();
            for line in lines {
                assert!(text.contains(line), "{what}: {line:?} is not in\n{text}");
            }
        };
        links.remove_route(&remote(ROUTE_METRIC), ROUTE_PROTOCOL).unwrap();
        repaired(
            "a route was removed",
            &["+ route 10.90.0.0/16 via 240.0.16.2 dev strait-overlay"],
        );

        let mut other = remote(ROUTE_METRIC);
        other.kind = RouteKind::Unreachable;
        links.set_route(&other, ROUTE_PROTOCOL).unwrap();
        repaired("a route was replaced", &["~ route 10.90.0.0/16 via 240.0.16.2"]);

        links
            .remove_address(OVERLAY_DEVICE, "240.0.16.1/32".parse().unwrap())
            .unwrap();
        repaired("an address was removed", &["+ address 240.0.16.1/32"]);

        links.set_down(OVERLAY_DEVICE).unwrap();
        repaired(
            "the device was set down",
            &["~ device strait-overlay", "+ route 10.90.0.0/16 via"],
        );

        links.remove(OVERLAY_DEVICE).unwrap();
        repaired(
            "the device was removed",
            &[
                "+ device strait-overlay",
                "+ neighbour 240.0.16.2",
                "+ forwarding entry",
            ],
        );

        bed.node
            .run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "0"))
            .unwrap()
            .unwrap();
        repaired(
            "forwarding was switched off",
            &["~ sysctl net/ipv4/ip_forward = 1 (was 0)"],
        );

        Firewall {
            namespace: &bed.node,
            table: "strait",
        }
        .remove()
        .unwrap();
        repaired(
            "the table was removed",
            &["+ table inet strait", "~ chain forward: 1 rule (was 0)"],
        );

        Firewall {
            namespace: &bed.node,
            table: "strait",
        }
        .masquerade()
        .unwrap();
        repaired("a chain was added", &["- chain postrouting"]);
    });
}

/// The gateway's device is not ours to make, but whoever sets it down cuts the cluster off.
#[test]
fn a_tunnel_device_that_was_set_down_is_set_up_again() {
    as_root("drift::a_tunnel_device_that_was_set_down_is_set_up_again", || {
        let bed = Bed::new();
        let options = TunOptions {
            name: TUNNEL_DEVICE.into(),
            mtu: 1420,
            offload: false,
            nonblocking: true,
        };
        let tun = bed.node.run(|| Tun::open(&options)).unwrap().unwrap();
        let through = Route {
            table: MAIN_TABLE,
            destination: "10.93.0.0/16".parse().unwrap(),
            metric: ROUTE_METRIC,
            kind: RouteKind::Unicast {
                next_hops: vec![NextHop {
                    device: TUNNEL_DEVICE.into(),
                    via: None,
                }],
                source: None,
                mtu: None,
            },
        };
        let mut wanted = node();
        wanted.routes.insert(through.clone());
        bed.reconcile(&wanted);
        bed.node_links.set_down(TUNNEL_DEVICE).unwrap();
        let actual = bed.kernel.read_now().unwrap();
        assert!(
            !actual.routes.contains(&through),
            "the kernel takes the routes along"
        );
        let made = plan(&wanted, &actual);
        let text = made.to_string();
        assert!(
            text.contains("~ device strait-tun up") && text.contains("10.93.0.0/16"),
            "{text}"
        );
        assert_done(&bed.kernel.apply_now(&made).unwrap());
        assert_eq!(plan(&wanted, &bed.kernel.read_now().unwrap()).to_string(), "");

        // Of no use to us it stays as it is, also at the uninstall.
        bed.node_links.set_down(TUNNEL_DEVICE).unwrap();
        bed.reconcile(&node());
        assert!(!bed.node_links.find(TUNNEL_DEVICE).unwrap().unwrap().up);
        assert_done(&bed.kernel.uninstall_now().unwrap());
        assert!(!bed.node_links.find(TUNNEL_DEVICE).unwrap().unwrap().up);
        drop(tun);
    });
}

#[test]
fn nothing_but_ours_goes_at_the_uninstall() {
    as_root("drift::nothing_but_ours_goes_at_the_uninstall", || {
        let bed = Bed::new();
        let foreign = Firewall {
            namespace: &bed.node,
            table: "foreign",
        };
        foreign.drop_forwarded().unwrap();
        let before = dump(&bed.node).unwrap();
        let mut wanted = node();
        wanted.foreign_accepts = bed.kernel.read_now().unwrap().foreign_drops;
        bed.reconcile(&wanted);
        assert_ne!(difference(&before, &dump(&bed.node).unwrap()), "");
        // A fresh process uninstalls: it knows only what is marked and what stands in the state directory.
        let fresh = Kernel::open_in(&bed.node, bed.state_dir.path()).unwrap();
        assert_done(&fresh.uninstall_now().unwrap());
        assert_eq!(difference(&before, &dump(&bed.node).unwrap()), "");
        assert_eq!(std::fs::read_dir(bed.state_dir.path()).unwrap().count(), 0);
        assert_done(&fresh.uninstall_now().unwrap());
    });
}

#[test]
fn an_uninstall_beside_a_running_agent_does_not_make_it_forget() {
    as_root(
        "drift::an_uninstall_beside_a_running_agent_does_not_make_it_forget",
        || {
            let bed = Bed::new();
            let before = dump(&bed.node).unwrap();
            bed.reconcile(&node());
            let fresh = || Kernel::open_in(&bed.node, bed.state_dir.path()).unwrap();
            assert_done(&fresh().uninstall_now().unwrap());
            // The agent puts everything back, and what others read of it is complete again.
            bed.reconcile(&node());
            assert_eq!(plan(&node(), &fresh().read_now().unwrap()).to_string(), "");
            assert_done(&fresh().uninstall_now().unwrap());
            assert_eq!(difference(&before, &dump(&bed.node).unwrap()), "");
        },
    );
}

#[test]
fn one_failure_does_not_stop_the_rest() {
    as_root("drift::one_failure_does_not_stop_the_rest", || {
        let bed = Bed::new();
        let mut wanted = node();
        let mut bad = remote(ROUTE_METRIC);
        bad.destination = "10.92.0.0/16".parse().unwrap();
        if let RouteKind::Unicast { next_hops, .. } = &mut bad.kind {
            next_hops[0].device = "nothere0".into();
        }
        wanted.routes.insert(bad);
        let report = bed
            .kernel
            .apply_now(&plan(&wanted, &bed.kernel.read_now().unwrap()))
            .unwrap();
        assert_eq!(report.failed.len(), 1);
        let text = report.failed[0].to_string();
        assert!(
            text.contains("10.92.0.0/16") && text.contains("there is no network device nothere0"),
            "{text}"
        );
        assert_eq!(plan(&node(), &bed.kernel.read_now().unwrap()).to_string(), "");
    });
}

#[test]
fn changes_by_others_are_told_and_our_own_are_not() {
    as_root("drift::changes_by_others_are_told_and_our_own_are_not", || {
        let bed = Bed::new();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            bed.reconcile(&node());
            let mut changes = bed.kernel.subscribe().unwrap();
            let mut told = async |change| {
                let seen = tokio::time::timeout(Duration::from_secs(5), changes.next()).await;
                let seen = seen.expect("a change is told").unwrap();
                assert!(seen.contains(&change), "{seen:?} lacks {change:?}");
            };
            bed.node_links
                .remove_route(&remote(ROUTE_METRIC), ROUTE_PROTOCOL)
                .unwrap();
            told(Change::Route).await;
            bed.node_links
                .remove_address(OVERLAY_DEVICE, "fd53::1/128".parse().unwrap())
                .unwrap();
            told(Change::Address).await;
            Firewall {
                namespace: &bed.node,
                table: "strait",
            }
            .remove()
            .unwrap();
            told(Change::Nftables).await;
            bed.node_links.remove(OVERLAY_DEVICE).unwrap();
            told(Change::Link).await;

            // Repairing is our own doing. Routes and nftables say whose they are, devices do not.
            bed.reconcile(&node());
            let mut without = node();
            without.routes.retain(|r| r.table != MAIN_TABLE);
            without.nft = None;
            // Take in what the repair had to say about the device.
            while tokio::time::timeout(Duration::from_millis(300), changes.next())
                .await
                .is_ok()
            {}
            bed.reconcile(&without);
            let seen = tokio::time::timeout(Duration::from_millis(300), changes.next()).await;
            assert!(seen.is_err(), "our own changes were told: {seen:?}");
        });
    });
}
