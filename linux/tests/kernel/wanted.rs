//! What core wants of a node, the kernel takes: whole, twice, and away again.

use std::collections::{BTreeMap, BTreeSet};

use strait_api::records::{ClusterSpec, GatewayAddresses, GatewaySpec, MemberSpec, MemberState};
use strait_core::clusterset::{Clusterset, OwnCluster, RemoteCluster};
use strait_core::kernel::{Protocol, TUNNEL_DEVICE, plan};
use strait_core::node::{Node, NodeInputs, Observed, VipPort, VipService, VipSlice, desired};
use strait_linux::link::VethEnd;
use strait_linux::testing::{as_root, difference, dump};

use crate::bed::{Bed, assert_done};

fn all<T: std::str::FromStr<Err: std::fmt::Debug>>(texts: [&str; 2]) -> Vec<T> {
    texts.iter().map(|t| t.parse().unwrap()).collect()
}

fn each<T: std::str::FromStr<Err: std::fmt::Debug>>(v4: String, v6: String) -> Vec<T> {
    all([&v4, &v6])
}

fn port(port: u16) -> Vec<VipPort> {
    vec![VipPort {
        name: "http".into(),
        protocol: Protocol::Tcp,
        port,
    }]
}

/// Cluster blue of three nodes in both families, two of them gateways, joined with green; seen from node
/// `n`, whose address is one of the bed's.
fn blue(n: u8, services: u8) -> NodeInputs {
    let gateway = |g: u8| GatewaySpec {
        cluster_id: "blue".parse().unwrap(),
        node: format!("node-{g}"),
        udp_port: 4510,
        addresses: GatewayAddresses::default(),
        keys: Vec::new(),
        overlay_addresses: Vec::new(),
        probe_targets: Vec::new(),
        removed_at: None,
    };
    let cluster = ClusterSpec {
        cluster_id: "blue".parse().unwrap(),
        pod_cidrs: all(["10.21.0.0/16", "fd21::/48"]),
        service_cidrs: all(["10.96.0.0/16", "fd96::/108"]),
        global_cidrs: Vec::new(),
        vip_cidrs: all(["10.250.0.0/16", "fd00:250::/112"]),
        location: None,
        version: String::new(),
        full_sync: None,
        removed_at: None,
    };
    let member = MemberSpec {
        cluster_id: "blue".parse().unwrap(),
        uid: "u".into(),
        prefixes: cluster.pod_cidrs.clone(),
        node_blocks: all(["10.254.1.0/24", "fd00:254:1::/64"]),
        export_namespaces: vec!["*".into()],
        state: MemberState::Active,
        epoch: 0,
        admitted_at: "2026-01-01T00:00:00Z".into(),
        key_fingerprint: None,
        removed_at: None,
    };
    let green = RemoteCluster {
        id: "green".parse().unwrap(),
        pod_prefixes: all(["10.22.0.0/16", "fd22::/48"]),
        node_blocks: all(["10.254.2.0/24", "fd00:254:2::/64"]),
        export_namespaces: vec!["*".into()],
        admitted_at: "2026-01-02T00:00:00Z".into(),
        state: MemberState::Active,
        gateways: BTreeMap::new(),
    };
    let service = |s: u8| VipService {
        namespace: "demo".into(),
        name: format!("web-{s}"),
        vips: each(format!("10.250.0.{s}"), format!("fd00:250::{s}")),
        ports: port(80),
        by_source: s.is_multiple_of(2),
        slices: vec![
            VipSlice {
                cluster: "green".parse().unwrap(),
                endpoints: all(["10.22.3.7", "fd22:0:0:3::7"]),
                ports: port(8080),
            },
            VipSlice {
                cluster: "blue".parse().unwrap(),
                endpoints: each(format!("10.21.3.{s}"), format!("fd21:0:0:3::{s}")),
                ports: port(8080),
            },
        ],
    };
    NodeInputs {
        node: format!("node-{n}"),
        clusterset: Clusterset {
            own: Some(OwnCluster {
                cluster,
                member: Some(member),
                gateways: [1, 2].map(|g| (format!("node-{g}"), gateway(g))).into(),
            }),
            remotes: BTreeMap::from([("green".parse().unwrap(), green)]),
            absent: vec![],
            refusals: Vec::new(),
        },
        nodes: (1..=3)
            .map(|n| Node {
                name: format!("node-{n}"),
                addresses: each(format!("10.2.0.{n}"), format!("fd02::{n}")),
                pod_prefixes: each(format!("10.21.{n}.0/24"), format!("fd21:0:0:{n}::/64")),
                overlay_addresses: each(format!("10.254.1.{n}"), format!("fd00:254:1::{n}")),
                gateway: n < 3,
            })
            .collect(),
        services: (1..=services).map(service).collect(),
        observed: Observed {
            tunnel_exists: n < 3,
            underlay_mtu: 1500,
            foreign_drops: BTreeSet::new(),
        },
    }
}

fn comes_and_goes(n: u8) {
    let bed = Bed::new();
    if n < 3 {
        let far = VethEnd {
            name: "far",
            namespace: Some(&bed.client),
            ..VethEnd::default()
        };
        bed.node_links
            .add_veth(
                &VethEnd {
                    name: TUNNEL_DEVICE,
                    ..VethEnd::default()
                },
                &far,
            )
            .unwrap();
        bed.node_links.set_up(TUNNEL_DEVICE).unwrap();
    }
    let before = dump(&bed.node).unwrap();
    for services in [4, 40, 2] {
        let wanted = desired(&blue(n, services)).unwrap();
        assert_eq!(wanted.skipped, BTreeSet::new());
        bed.reconcile(&wanted.state);
    }
    // The gateway process ends, and its device with it: nothing fails, the routes wait.
    if n < 3 {
        bed.node_links.remove(TUNNEL_DEVICE).unwrap();
        let wanted = desired(&blue(n, 2)).unwrap().state;
        let made = plan(&wanted, &bed.kernel.read_now().unwrap());
        assert!(made.is_empty(), "{made}");
        assert!(!made.waiting.is_empty());
    }
    assert_done(&bed.kernel.uninstall_now().unwrap());
    if n == 3 {
        assert_eq!(difference(&before, &dump(&bed.node).unwrap()), "");
    }
}

#[test]
fn a_gateway_comes_and_goes() {
    as_root("wanted::a_gateway_comes_and_goes", || comes_and_goes(1));
}

#[test]
fn a_worker_comes_and_goes() {
    as_root("wanted::a_worker_comes_and_goes", || comes_and_goes(3));
}
