//! Real packets through what `strait_core::node` wants and `strait_linux` applies: a worker and a gateway
//! in network namespaces, each with a pod, and a tunnel whose far end is a namespace that plays the other
//! cluster. Needs root or user namespaces; nothing outside the test's own namespaces is touched.
#![allow(clippy::unwrap_used)]

mod net;
mod talk;

use std::io::ErrorKind;
use std::net::IpAddr;

use net::{Net, VIP_OWN, VIP_REMOTE, VIP_SILENT};
use strait_linux::testing::{Firewall, as_root};
use talk::{Server, ask_tcp, ask_udp, assert_silent, bulk, connect, overlay_packet, send, send_udp};

/// Index 0: IPv4, index 1: IPv6.
const FAMILIES: [usize; 2] = [0, 1];

#[test]
fn pods_and_hosts_reach_the_other_cluster_and_keep_their_sources() {
    as_root(
        "pods_and_hosts_reach_the_other_cluster_and_keep_their_sources",
        || outward(&Net::new()),
    );
}

#[test]
fn the_other_cluster_reaches_pods_with_its_own_source() {
    as_root("the_other_cluster_reaches_pods_with_its_own_source", || {
        inward(&Net::new());
    });
}

#[test]
fn a_firewall_that_drops_and_masquerades_changes_nothing() {
    as_root("a_firewall_that_drops_and_masquerades_changes_nothing", || {
        let mut net = Net::new();
        for (namespace, tables) in [
            (net.worker.clone(), ["masquerading", "dropping"]),
            (net.gateway.clone(), ["masquerading", "dropping"]),
        ] {
            let [masquerading, dropping] = tables.map(|table| Firewall {
                namespace: &namespace,
                table,
            });
            masquerading.masquerade().unwrap();
            dropping.drop_forwarded().unwrap();
        }
        net.reconcile();
        outward(&net);
        inward(&net);
    });
}

fn outward(net: &Net) {
    for f in FAMILIES {
        let far = net.far_pod[f];
        let _tcp = Server::tcp(&net.far, far, 8080);
        let _udp = Server::udp(&net.far, far, 8080);
        let clients = [
            ("the worker's pod", &net.worker_pod, net.worker_pod_ip[f]),
            ("the gateway's pod", &net.gateway_pod, net.gateway_pod_ip[f]),
            ("the worker itself", &net.worker, net.worker_overlay[f]),
            ("the gateway itself", &net.gateway, net.gateway_overlay[f]),
        ];
        for (who, namespace, source) in clients {
            let tcp = ask_tcp(namespace, None, far, 8080).unwrap();
            assert_eq!(tcp, source, "{who} over TCP");
            let udp = ask_udp(namespace, None, far, 8080).unwrap();
            assert_eq!(udp, source, "{who} over UDP");
        }
        // A client that insists on the node's own address is seen by the overlay's all the same.
        let own = net.worker_ip[f];
        let seen = ask_tcp(&net.worker, Some(own), far, 8080).unwrap();
        assert_eq!(seen, net.worker_overlay[f]);
    }
}

fn inward(net: &Net) {
    for f in FAMILIES {
        let far = net.far_pod[f];
        for (namespace, pod) in [
            (&net.worker_pod, net.worker_pod_ip[f]),
            (&net.gateway_pod, net.gateway_pod_ip[f]),
        ] {
            let _tcp = Server::tcp(namespace, pod, 8080);
            let _udp = Server::udp(namespace, pod, 8080);
            assert_eq!(ask_tcp(&net.far, Some(far), pod, 8080).unwrap(), far);
            assert_eq!(ask_udp(&net.far, Some(far), pod, 8080).unwrap(), far);
        }
    }
}

#[test]
fn much_data_fits_through_the_smaller_mtu() {
    as_root("much_data_fits_through_the_smaller_mtu", || {
        let net = Net::new();
        for f in FAMILIES {
            let _far = Server::sink(&net.far, net.far_pod[f], 9000);
            let _near = Server::sink(&net.worker_pod, net.worker_pod_ip[f], 9000);
            assert_eq!(
                bulk(&net.worker_pod, net.far_pod[f], 9000, 1 << 20).unwrap(),
                1 << 20
            );
            assert_eq!(bulk(&net.worker, net.far_pod[f], 9000, 1 << 20).unwrap(), 1 << 20);
            assert_eq!(
                bulk(&net.far, net.worker_pod_ip[f], 9000, 1 << 20).unwrap(),
                1 << 20
            );
        }
    });
}

#[test]
fn vips_are_balanced_for_pods_and_hosts() {
    as_root("vips_are_balanced_for_pods_and_hosts", || {
        let net = Net::new();
        for f in FAMILIES {
            let _far = Server::tcp(&net.far, net.far_pod[f], 8080);
            let _far_udp = Server::udp(&net.far, net.far_pod[f], 8080);
            let _own = Server::tcp(&net.worker_pod, net.worker_pod_ip[f], 8080);
            let vip = VIP_REMOTE[f].parse().unwrap();
            for (who, namespace, source) in [
                ("the worker's pod", &net.worker_pod, net.worker_pod_ip[f]),
                ("the gateway's pod", &net.gateway_pod, net.gateway_pod_ip[f]),
                ("the worker itself", &net.worker, net.worker_overlay[f]),
                ("the gateway itself", &net.gateway, net.gateway_overlay[f]),
            ] {
                assert_eq!(
                    ask_tcp(namespace, None, vip, 80).unwrap(),
                    source,
                    "{who} over TCP"
                );
                assert_eq!(
                    ask_udp(namespace, None, vip, 80).unwrap(),
                    source,
                    "{who} over UDP"
                );
            }
            // A pod of this cluster behind the VIP: for pods by its own source, and also for itself.
            let own = VIP_OWN[f].parse().unwrap();
            assert_eq!(
                ask_tcp(&net.gateway_pod, None, own, 80).unwrap(),
                net.gateway_pod_ip[f]
            );
            assert_ne!(
                ask_tcp(&net.worker_pod, None, own, 80).unwrap(),
                net.worker_pod_ip[f]
            );
            assert!(ask_tcp(&net.worker, None, own, 80).is_ok(), "the pod's own node");
            assert!(ask_tcp(&net.gateway, None, own, 80).is_ok(), "another node");
        }
    });
}

#[test]
fn a_vip_without_endpoints_refuses_at_once() {
    as_root("a_vip_without_endpoints_refuses_at_once", || {
        let net = Net::new();
        for f in FAMILIES {
            let silent: IpAddr = VIP_SILENT[f].parse().unwrap();
            for namespace in [&net.worker_pod, &net.worker] {
                let error = connect(namespace, None, silent, 80).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
            }
        }
    });
}

#[test]
fn from_a_tunnel_nothing_reaches_the_node_but_probes() {
    as_root("from_a_tunnel_nothing_reaches_the_node_but_probes", || {
        let net = Net::new();
        for f in FAMILIES {
            let any = if f == 0 { "0.0.0.0" } else { "::" }.parse().unwrap();
            for (node, own, overlay) in [
                (&net.gateway, net.gateway_ip[f], net.gateway_overlay[f]),
                (&net.worker, net.worker_ip[f], net.worker_overlay[f]),
            ] {
                let _tcp = Server::tcp(node, any, 9100);
                let _probe = Server::udp(node, any, 4512);
                let _other = Server::udp(node, any, 9100);
                for address in [own, overlay] {
                    assert!(
                        ask_tcp(node, None, address, 9100).is_ok(),
                        "it does listen on {address}"
                    );
                    assert_silent(&net.far, net.far_pod[f], address, 9100);
                }
                assert_silent(&net.far, net.far_pod[f], own, 4512);
                assert_eq!(
                    ask_udp(&net.far, Some(net.far_pod[f]), overlay, 4512).unwrap(),
                    net.far_pod[f]
                );
            }
        }
    });
}

#[test]
fn a_foreign_source_does_not_leave_a_tunnel() {
    as_root("a_foreign_source_does_not_leave_a_tunnel", || {
        let net = Net::new();
        for f in FAMILIES {
            let server = Server::udp(&net.worker_pod, net.worker_pod_ip[f], 8080);
            send_udp(&net.far, net.far_stranger[f], net.worker_pod_ip[f], 8080);
            // What follows on the same way arrives, so what went before was dropped, not late.
            assert!(ask_udp(&net.far, Some(net.far_pod[f]), net.worker_pod_ip[f], 8080).is_ok());
            assert_eq!(server.seen(), [net.far_pod[f]]);
        }
    });
}

/// The masquerade of the network plug-in would give what a pod sends to a node the address of the pod's
/// own node, which may speak on the overlay.
#[test]
fn a_pod_forges_no_packets_of_the_overlay() {
    as_root("a_pod_forges_no_packets_of_the_overlay", || {
        let net = Net::new();
        let masquerading = Firewall {
            namespace: &net.worker,
            table: "masquerading",
        };
        masquerading.masquerade().unwrap();
        let [IpAddr::V4(victim), _] = net.gateway_pod_ip else {
            panic!("index 0 is IPv4")
        };
        let [IpAddr::V4(far), _] = net.far_pod else {
            panic!("index 0 is IPv4")
        };
        let [IpAddr::V4(gateway), _] = net.gateway_overlay else {
            panic!("index 0 is IPv4")
        };
        let server = Server::udp(&net.gateway_pod, victim.into(), 8080);
        let packet = overlay_packet(gateway, far, victim, 8080);
        send(&net.worker_pod, net.gateway_ip[0], 4511, &packet);
        assert!(ask_udp(&net.far, Some(far.into()), victim.into(), 8080).is_ok());
        assert_eq!(
            server.seen(),
            [IpAddr::from(far)],
            "the forged packet arrived too"
        );

        // The packet is right, and arrives from where overlay packets may come.
        send(&net.worker, net.gateway_ip[0], 4511, &packet);
        assert!(ask_udp(&net.far, Some(far.into()), victim.into(), 8080).is_ok());
        assert_eq!(server.seen().len(), 3);
    });
}

#[test]
fn without_a_tunnel_nothing_leaks() {
    as_root("without_a_tunnel_nothing_leaks", || {
        let mut net = Net::new();
        let unreachable = |net: &Net, when: &str| {
            for f in FAMILIES {
                for namespace in [&net.worker_pod, &net.gateway_pod, &net.gateway, &net.worker] {
                    let error = connect(namespace, None, net.far_pod[f], 8080).unwrap_err();
                    let kind = error.kind();
                    assert!(
                        matches!(kind, ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable),
                        "{when}: {error}"
                    );
                }
            }
            assert_eq!(net.leaked(), 0, "{when}");
        };
        net.prove_counting();
        net.close_tunnel();
        unreachable(&net, "the gateway process has just died");
        net.reconcile();
        unreachable(&net, "its node knows");
        net.forget_gateway();
        net.reconcile();
        unreachable(&net, "the cluster has no gateway any more");
    });
}

#[test]
fn uninstalling_leaves_nothing() {
    as_root("uninstalling_leaves_nothing", || {
        let net = Net::new();
        for kernel in [&net.worker_kernel, &net.gateway_kernel] {
            let report = kernel.uninstall_now().unwrap();
            assert!(report.is_ok(), "{:?}", report.failed);
            let mut left = kernel.read_now().unwrap();
            // The tunnel device is the gateway process's.
            left.foreign_links.clear();
            assert_eq!(left, Default::default());
        }
    });
}
