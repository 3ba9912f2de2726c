//! Whatever a node lives through: after each turn its kernel is as wanted and a second plan is empty, and
//! after the uninstall it is as it was before.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use strait_core::clusterset::{Clusterset, OwnCluster, RemoteCluster};
use strait_core::kernel::{OVERLAY_DEVICE, Protocol, ROUTE_PROTOCOL, TUNNEL_DEVICE, plan};
use strait_core::node::{Node, NodeInputs, Observed, VipPort, VipService, VipSlice, desired};
use strait_linux::Kernel;
use strait_linux::link::Links;
use strait_linux::netns::Netns;
use strait_linux::testing::{Firewall, as_root, difference, dump};
use strait_linux::tun::{Tun, TunOptions};

use crate::bed::{assert_done, reconcile};

/// What the node is told.
#[derive(Debug, Clone)]
struct World {
    dual: bool,
    nodes: u8,
    gateways: u8,
    remotes: Vec<u8>,
    /// By service: endpoints in cluster 2, and whether clients stay.
    services: Vec<(u8, Vec<u8>, bool)>,
    mtu: u32,
}

/// One turn.
#[derive(Debug, Clone)]
enum Turn {
    /// The world changes.
    World(World),
    /// The gateway's process comes, or ends.
    Tunnel(bool),
    /// Somebody changes what is ours.
    TunnelDown,
    OverlayDown,
    NoOverlay,
    NoTable,
    NoRoutes,
    /// The agent starts again.
    Restart,
}

fn world() -> impl Strategy<Value = World> {
    let service = (0u8..4, proptest::collection::vec(1u8..20, 0..4), any::<bool>());
    (
        any::<bool>(),
        1u8..4,
        0u8..3,
        proptest::sample::subsequence(vec![2u8, 3, 4], 0..=3),
        proptest::collection::vec(service, 0..4),
        1300u32..1600,
    )
        .prop_map(|(dual, nodes, gateways, remotes, services, mtu)| World {
            dual,
            nodes,
            gateways,
            remotes,
            services,
            mtu,
        })
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        4 => world().prop_map(Turn::World),
        1 => any::<bool>().prop_map(Turn::Tunnel),
        1 => Just(Turn::TunnelDown),
        1 => Just(Turn::OverlayDown),
        1 => Just(Turn::NoOverlay),
        1 => Just(Turn::NoTable),
        1 => Just(Turn::NoRoutes),
        1 => Just(Turn::Restart),
    ]
}

impl World {
    fn pick<T: std::str::FromStr<Err: std::fmt::Debug>>(&self, v4: &str, v6: &str) -> Vec<T> {
        let texts = if self.dual { vec![v4, v6] } else { vec![v4] };
        texts.into_iter().map(|text| text.parse().unwrap()).collect()
    }

    /// What node 1 of the cluster is to do about it.
    fn inputs(&self, observed: Observed) -> NodeInputs {
        let cluster = serde_json::json!({
            "clusterId": "blue",
            "podCidrs": if self.dual { vec!["10.1.0.0/16", "fd01::/48"] } else { vec!["10.1.0.0/16"] },
            "serviceCidrs": ["10.96.0.0/16"],
            "vipCidrs": if self.dual { vec!["243.0.0.0/16", "fd53::/112"] } else { vec!["243.0.0.0/16"] },
        });
        let member = serde_json::json!({
            "clusterId": "blue", "uid": "u", "prefixes": ["10.1.0.0/16", "fd01::/48"],
            "nodeBlocks": ["240.0.1.0/24", "fd54:1::/64"], "state": "Active", "admittedAt": "2026-01-01T00:00:00Z",
        });
        let remote = |k: u8| RemoteCluster {
            id: format!("c{k}").parse().unwrap(),
            pod_prefixes: self.pick(&format!("10.{k}.0.0/16"), &format!("fd0{k}::/48")),
            node_blocks: self.pick(&format!("240.0.{k}.0/24"), &format!("fd54:{k}::/64")),
            export_namespaces: vec!["*".into()],
            admitted_at: "2026-01-02T00:00:00Z".into(),
            state: strait_api::records::MemberState::Active,
            gateways: BTreeMap::new(),
        };
        let gateways = (1..=self.gateways.min(self.nodes)).map(|n| {
            let record = serde_json::json!({
                "clusterId": "blue", "node": format!("node-{n}"), "udpPort": 4510, "addresses": {}, "keys": [],
            });
            (format!("node-{n}"), serde_json::from_value(record).unwrap())
        });
        NodeInputs {
            node: "node-1".into(),
            clusterset: Clusterset {
                own: Some(OwnCluster {
                    cluster: serde_json::from_value(cluster).unwrap(),
                    member: Some(serde_json::from_value(member).unwrap()),
                    gateways: gateways.collect(),
                }),
                remotes: self
                    .remotes
                    .iter()
                    .map(|k| (remote(*k).id.clone(), remote(*k)))
                    .collect(),
                absent: vec![],
                refusals: vec![],
            },
            nodes: (1..=self.nodes)
                .map(|n| Node {
                    name: format!("node-{n}"),
                    addresses: self.pick(&format!("192.0.2.{n}"), &format!("2001:db8::{n}")),
                    pod_prefixes: self.pick(&format!("10.1.{n}.0/24"), &format!("fd01:0:0:{n}::/64")),
                    overlay_addresses: self.pick(&format!("240.0.1.{n}"), &format!("fd54:1::{n}")),
                    gateway: n <= self.gateways,
                })
                .collect(),
            services: self.services.iter().map(|s| self.service(s)).collect(),
            observed,
        }
    }

    fn service(&self, (n, endpoints, by_source): &(u8, Vec<u8>, bool)) -> VipService {
        let port = |port| VipPort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port,
        };
        let endpoints: Vec<IpAddr> = endpoints
            .iter()
            .flat_map(|e| self.pick(&format!("10.2.0.{e}"), &format!("fd02::{e}")))
            .collect();
        VipService {
            namespace: "demo".into(),
            name: format!("s{n}"),
            vips: self.pick(&format!("243.0.0.{n}"), &format!("fd53::{n}")),
            ports: vec![port(80)],
            by_source: *by_source,
            slices: vec![VipSlice {
                cluster: "c2".parse().unwrap(),
                endpoints,
                ports: vec![port(8080)],
            }],
        }
    }
}

/// A namespace with an agent's hands in it.
struct Site {
    node: Netns,
    links: Links,
    kernel: Kernel,
    state_dir: tempfile::TempDir,
    tun: Option<Tun>,
    world: Option<World>,
}

impl Site {
    fn new() -> Self {
        let node = Netns::new().unwrap();
        let links = Links::open_in(&node).unwrap();
        links.set_up("lo").unwrap();
        let foreign = Firewall {
            namespace: &node,
            table: "foreign",
        };
        foreign.drop_forwarded().unwrap();
        foreign.refuse_port(81).unwrap();
        let state_dir = tempfile::tempdir().unwrap();
        Self {
            kernel: Kernel::open_in(&node, state_dir.path()).unwrap(),
            links,
            node,
            state_dir,
            tun: None,
            world: None,
        }
    }

    fn take(&mut self, turn: Turn) {
        let there = |name: &str| self.links.find(name).unwrap().is_some();
        match turn {
            Turn::World(world) => self.world = Some(world),
            Turn::Tunnel(comes) => {
                self.tun = None;
                let options = TunOptions {
                    name: TUNNEL_DEVICE.into(),
                    mtu: 1420,
                    offload: false,
                    nonblocking: true,
                };
                self.tun = comes.then(|| self.node.run(|| Tun::open(&options)).unwrap().unwrap());
            }
            Turn::TunnelDown if there(TUNNEL_DEVICE) => self.links.set_down(TUNNEL_DEVICE).unwrap(),
            Turn::OverlayDown if there(OVERLAY_DEVICE) => self.links.set_down(OVERLAY_DEVICE).unwrap(),
            Turn::NoOverlay if there(OVERLAY_DEVICE) => self.links.remove(OVERLAY_DEVICE).unwrap(),
            Turn::NoTable if self.kernel.read_now().unwrap().nft.is_some() => Firewall {
                namespace: &self.node,
                table: "strait",
            }
            .remove()
            .unwrap(),
            Turn::NoRoutes => {
                for route in self.links.routes(ROUTE_PROTOCOL).unwrap() {
                    self.links.remove_route(&route, ROUTE_PROTOCOL).unwrap();
                }
            }
            Turn::Restart => self.kernel = Kernel::open_in(&self.node, self.state_dir.path()).unwrap(),
            _ => {}
        }
        let Some(world) = &self.world else { return };
        let actual = self.kernel.read_now().unwrap();
        let observed = Observed {
            tunnel_exists: actual.foreign_links.contains(TUNNEL_DEVICE),
            underlay_mtu: world.mtu,
            foreign_drops: actual.foreign_drops,
        };
        let wanted = desired(&world.inputs(observed)).unwrap().state;
        reconcile(&self.kernel, &wanted);
        // Another process, which knows nothing of this one, would have nothing to do either.
        let fresh = Kernel::open_in(&self.node, self.state_dir.path()).unwrap();
        assert_eq!(plan(&wanted, &fresh.read_now().unwrap()).to_string(), "");
    }
}

#[test]
fn after_any_history_a_second_plan_is_empty_and_an_uninstall_leaves_nothing() {
    as_root(
        "histories::after_any_history_a_second_plan_is_empty_and_an_uninstall_leaves_nothing",
        || {
            let cases = std::env::var("STRAIT_HISTORIES").map_or(12, |n| n.parse().unwrap());
            let mut runner = TestRunner::new(Config {
                cases,
                failure_persistence: None,
                ..Config::default()
            });
            let history = (world(), proptest::collection::vec(turn(), 1..8));
            let outcome = runner.run(&history, |(first, turns)| {
                let mut site = Site::new();
                let before = dump(&site.node).unwrap();
                site.take(Turn::Tunnel(true));
                site.take(Turn::World(first));
                prop_assert_ne!(difference(&before, &dump(&site.node).unwrap()), "");
                turns.into_iter().for_each(|turn| site.take(turn));
                site.tun = None;
                let fresh = Kernel::open_in(&site.node, site.state_dir.path()).unwrap();
                assert_done(&fresh.uninstall_now().unwrap());
                prop_assert_eq!(difference(&before, &dump(&site.node).unwrap()), "");
                prop_assert_eq!(std::fs::read_dir(site.state_dir.path()).unwrap().count(), 0);
                Ok(())
            });
            if let Err(error) = outcome {
                panic!("{error}");
            }
        },
    );
}
