//! A cluster of two gateways and two workers, seen from one of its nodes.

mod properties;
mod render;
mod services;
mod snapshots;
mod topology;

use std::collections::BTreeMap;

use ipnet::IpNet;
use strait_api::ClusterId;
use strait_api::records::{ClusterSpec, GatewayAddresses, GatewaySpec, MemberSpec, MemberState};

use super::*;
use crate::clusterset::{OwnCluster, RemoteCluster};

/// Which families a cluster has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stack {
    V4,
    V6,
    Dual,
}

impl Stack {
    fn pick<T>(self, v4: T, v6: T) -> Vec<T> {
        match self {
            Self::V4 => vec![v4],
            Self::V6 => vec![v6],
            Self::Dual => vec![v4, v6],
        }
    }

    fn nets(self, v4: &str, v6: &str) -> Vec<IpNet> {
        self.pick(v4, v6)
            .into_iter()
            .map(|p| p.parse().unwrap())
            .collect()
    }

    fn addresses(self, v4: &str, v6: &str) -> Vec<IpAddr> {
        self.pick(v4, v6)
            .into_iter()
            .map(|a| a.parse().unwrap())
            .collect()
    }
}

fn id(name: &str) -> ClusterId {
    name.parse().unwrap()
}

/// Node `n` of cluster blue; node 1 and, with `gateways` = 2, node 2 are gateways.
fn node(stack: Stack, n: u8, gateways: u8) -> Node {
    Node {
        name: format!("node-{n}"),
        addresses: stack.addresses(&format!("192.0.2.{n}"), &format!("2001:db8::{n}")),
        pod_prefixes: stack.nets(&format!("10.1.{n}.0/24"), &format!("fd01:0:0:{n}::/64")),
        overlay_addresses: stack.addresses(&format!("10.254.1.{n}"), &format!("fd00:254:1::{n}")),
        gateway: n <= gateways,
    }
}

fn gateway_record(node: &str) -> GatewaySpec {
    GatewaySpec {
        cluster_id: id("blue"),
        node: node.to_owned(),
        udp_port: 4510,
        addresses: GatewayAddresses::default(),
        keys: Vec::new(),
        overlay_addresses: Vec::new(),
        probe_targets: Vec::new(),
        removed_at: None,
    }
}

/// Cluster blue of three nodes with the given number of gateways, joined with cluster green; seen from
/// node `n`.
fn blue(stack: Stack, n: u8, gateways: u8) -> NodeInputs {
    let cluster = ClusterSpec {
        cluster_id: id("blue"),
        pod_cidrs: stack.nets("10.1.0.0/16", "fd01::/48"),
        service_cidrs: stack.nets("10.96.0.0/16", "fd96::/108"),
        global_cidrs: Vec::new(),
        vip_cidrs: stack.nets("10.250.0.0/16", "fd00:250::/112"),
        location: None,
        version: String::new(),
        full_sync: None,
        removed_at: None,
    };
    let member = MemberSpec {
        cluster_id: id("blue"),
        uid: "u".to_owned(),
        prefixes: cluster.pod_cidrs.clone(),
        node_blocks: stack.nets("10.254.1.0/24", "fd00:254:1::/64"),
        export_namespaces: vec!["*".to_owned()],
        state: MemberState::Active,
        epoch: 0,
        admitted_at: "2026-01-01T00:00:00Z".to_owned(),
        key_fingerprint: None,
        removed_at: None,
    };
    let records = (1..=gateways)
        .map(|g| format!("node-{g}"))
        .map(|g| (g.clone(), gateway_record(&g)));
    NodeInputs {
        node: format!("node-{n}"),
        clusterset: Clusterset {
            own: Some(OwnCluster {
                cluster,
                member: Some(member),
                gateways: records.collect(),
            }),
            remotes: BTreeMap::from([(id("green"), remote(stack, "green", 2))]),
            absent: vec![],
            refusals: Vec::new(),
        },
        nodes: (1..=3).map(|n| node(stack, n, gateways)).collect(),
        services: vec![web(stack)],
        observed: Observed {
            tunnel_exists: n <= gateways,
            underlay_mtu: 1500,
            foreign_drops: BTreeSet::new(),
        },
    }
}

fn remote(stack: Stack, name: &str, k: u8) -> RemoteCluster {
    RemoteCluster {
        id: id(name),
        pod_prefixes: stack.nets(&format!("10.{k}.0.0/16"), &format!("fd0{k}::/48")),
        node_blocks: stack.nets(&format!("10.254.{k}.0/24"), &format!("fd00:254:{k}::/64")),
        export_namespaces: vec!["*".to_owned()],
        admitted_at: "2026-01-02T00:00:00Z".to_owned(),
        state: MemberState::Active,
        gateways: BTreeMap::new(),
    }
}

/// demo/web: one endpoint on blue's node 3, two in green.
fn web(stack: Stack) -> VipService {
    let port = |port| {
        vec![VipPort {
            name: "http".to_owned(),
            protocol: Protocol::Tcp,
            port,
        }]
    };
    let slice = |cluster: &str, endpoints: Vec<Vec<IpAddr>>| VipSlice {
        cluster: id(cluster),
        endpoints: endpoints.concat(),
        ports: port(8080),
    };
    VipService {
        namespace: "demo".to_owned(),
        name: "web".to_owned(),
        vips: stack.addresses("10.250.0.1", "fd00:250::1"),
        ports: port(80),
        by_source: false,
        slices: vec![
            slice(
                "green",
                vec![
                    stack.addresses("10.2.3.7", "fd02:0:0:3::7"),
                    stack.addresses("10.2.1.9", "fd02:0:0:1::9"),
                ],
            ),
            slice("blue", vec![stack.addresses("10.1.3.5", "fd01:0:0:3::5")]),
        ],
    }
}
