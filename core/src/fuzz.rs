//! What one hostile member can make of a clusterset: any records in its namespace on the broker, and what
//! must hold for the others all the same. For the fuzzer, and for the replay of what it found.
#![allow(clippy::unwrap_used)]

#[path = "../../fuzz/input.rs"]
mod input;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};
use strait_api::names::{LABEL_MCS_CLUSTER, copy_name};
use strait_api::records::{MemberSpec, MemberState};
use strait_api::{ClusterId, PublicKey};

use crate::admission::MAX_PREFIXES;
use crate::clusterset::{Clusterset, Record, Records, overlap, view};
use crate::kernel::{Element, NftTable, RouteKind};
use crate::mirror::{Change, Inbox, Key, Kind, Spec, receive, verdicts};
use crate::node::{Node, NodeInputs, Observed, VipPort, VipService, VipSlice, desired};
use crate::services::{self, ExportRecord, Object, Step};
use crate::tunnels::{MAX_CANDIDATES, MAX_LANES, MAX_TUNNELS, ThisNode, tunnels};

const NOW: &str = "2026-06-01T00:00:00Z";
/// Records that one input makes; the bound on their number has a test of its own.
const MOST: usize = 64;

fn id(text: &str) -> ClusterId {
    text.parse().unwrap()
}

fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|p| p.parse().unwrap()).collect()
}

fn member(of: &str, prefixes: &[&str], blocks: &[&str], admitted: &str) -> MemberSpec {
    MemberSpec {
        cluster_id: id(of),
        uid: format!("uid-{of}"),
        prefixes: nets(prefixes),
        node_blocks: nets(blocks),
        export_namespaces: vec!["demo".into(), "shop".into()],
        state: MemberState::Active,
        epoch: 1,
        admitted_at: admitted.into(),
        key_fingerprint: None,
        removed_at: None,
    }
}

fn read(kind: Kind, spec: Value) -> Spec {
    Spec::parse(kind, &spec).unwrap()
}

/// Seen from green: red is sound and was admitted before blue, which may write what it likes.
fn members() -> Vec<MemberSpec> {
    vec![
        member(
            "green",
            &["10.1.0.0/16", "fd01::/48"],
            &["240.0.16.0/20"],
            "2026-01-01T00:00:00Z",
        ),
        member(
            "red",
            &["10.3.0.0/16", "fd03::/48"],
            &["240.0.32.0/20"],
            "2026-01-02T00:00:00Z",
        ),
        member(
            "blue",
            &["10.2.0.0/16", "fd02::/48"],
            &["240.0.48.0/20"],
            "2026-01-03T00:00:00Z",
        ),
    ]
}

fn key(byte: u8) -> String {
    PublicKey([byte; 32]).to_string()
}

fn reds() -> Vec<(Key, Spec)> {
    let gateway = json!({"clusterId": "red", "node": "gw", "udpPort": 4510,
        "addresses": {"private": ["192.0.2.3"]}, "keys": [{"slot": 0, "publicKeys": [key(3)]}]});
    let service = json!({"clusterId": "red", "namespace": "demo", "name": "web", "type": "ClusterSetIP",
        "ports": [{"name": "http", "port": 80}], "ipFamilies": ["IPv4"], "exportedAt": "2026-01-02T00:00:00Z",
        "endpoints": [{"family": "IPv4", "ports": [{"name": "http", "port": 8080}], "endpoints": [
            {"address": "10.3.0.7", "ready": true, "serving": true, "terminating": false}]}]});
    let cluster = json!({"clusterId": "red", "podCidrs": ["10.3.0.0/16", "fd03::/48"]});
    vec![
        (Key::new(Kind::Gateway, "gw"), read(Kind::Gateway, gateway)),
        (
            Key::new(Kind::ExportedService, "web.demo"),
            read(Kind::ExportedService, service),
        ),
        (Key::new(Kind::Cluster, "red"), read(Kind::Cluster, cluster)),
    ]
}

fn greens() -> Spec {
    read(
        Kind::Cluster,
        json!({"clusterId": "green", "podCidrs": ["10.1.0.0/16", "fd01::/48"],
            "serviceCidrs": ["10.96.0.0/16"], "vipCidrs": ["243.0.0.0/16", "fd53::/112"]}),
    )
}

/// Everything that a cluster looks at.
#[derive(Default)]
struct Scene {
    records: Records,
    services: Vec<Record<strait_api::records::ExportedServiceSpec>>,
    copies: BTreeMap<Kind, Vec<String>>,
}

impl Scene {
    fn new(blues: &[(Key, Spec)]) -> Self {
        let mut scene = Self::default();
        scene.records.members = members();
        scene.put(None, &Key::new(Kind::Cluster, "green"), greens());
        for (key, spec) in reds() {
            scene.put(Some("red"), &key, spec);
        }
        for (key, spec) in blues {
            scene.put(Some("blue"), key, spec.clone());
        }
        scene
    }

    fn put(&mut self, owner: Option<&str>, key: &Key, spec: Spec) {
        let owner = owner.map(id);
        let name = owner
            .as_ref()
            .map_or(key.name.clone(), |o| copy_name(o, &key.name));
        if owner.is_some() {
            self.copies.entry(key.kind).or_default().push(name.clone());
        }
        match spec {
            Spec::Cluster(s) => self.records.clusters.push(Record {
                owner,
                name,
                spec: *s,
            }),
            Spec::Gateway(s) => self.records.gateways.push(Record {
                owner,
                name,
                spec: *s,
            }),
            Spec::ExportedService(s) => self.services.push(Record {
                owner,
                name,
                spec: *s,
            }),
        }
    }

    fn reversed(&self) -> Self {
        let mut other = Self {
            records: self.records.clone(),
            services: self.services.clone(),
            copies: self.copies.clone(),
        };
        other.records.members.reverse();
        other.records.clusters.reverse();
        other.records.gateways.reverse();
        other.services.reverse();
        other
    }
}

/// Blue's records: `[{"kind": …, "name": …, "spec": …}, …]`, or one of them.
pub fn record(data: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(data) else {
        return;
    };
    let list = match value {
        Value::Array(list) => list,
        one => vec![one],
    };
    let mut incoming: BTreeMap<Key, Result<Spec, String>> = BTreeMap::new();
    for document in list.iter().take(MOST) {
        let text = |field: &str| document.get(field).and_then(Value::as_str).unwrap_or_default();
        let kind = match text("kind") {
            "Gateway" => Kind::Gateway,
            "Cluster" => Kind::Cluster,
            _ => Kind::ExportedService,
        };
        let spec = Spec::parse(kind, document.get("spec").unwrap_or(&Value::Null));
        if let Err(why) = &spec {
            assert!(!why.is_empty(), "a refusal says why");
        }
        incoming.insert(Key::new(kind, text("name")), spec);
    }
    let blues = copied(&incoming);
    let scene = Scene::new(&blues);
    let set = view(&scene.records);
    assert_eq!(
        set,
        view(&scene.reversed().records),
        "the order of records matters"
    );
    let alone = view(&Scene::new(&[]).records);
    assert_eq!(
        set.remotes.get(&id("red")),
        alone.remotes.get(&id("red")),
        "blue's records change red"
    );
    judge_prefixes(&set);
    judge_tunnels(&set, &alone);
    judge_verdicts(&set, &scene);
    let imported = judge_services(&scene);
    judge_node(&set, imported);
}

/// What the mirror takes over of blue's records; it touches blue's copies alone.
fn copied(incoming: &BTreeMap<Key, Result<Spec, String>>) -> Vec<(Key, Spec)> {
    let reds: BTreeMap<Key, Spec> = reds().into_iter().collect();
    let mut inbox = Inbox {
        members: members()
            .into_iter()
            .map(|m| (m.cluster_id.to_string(), Ok(m)))
            .collect(),
        local_members: members().into_iter().map(|m| (m.cluster_id.clone(), m)).collect(),
        ..Inbox::default()
    };
    inbox.records.insert(id("blue"), incoming.clone());
    inbox.records.insert(
        id("red"),
        reds.iter().map(|(k, s)| (k.clone(), Ok(s.clone()))).collect(),
    );
    inbox
        .copies
        .insert(id("red"), reds.into_iter().map(|(k, s)| (k, Some(s))).collect());
    let plan = receive(&id("green"), &inbox, NOW);
    for problem in &plan.problems {
        assert!(
            problem.owner == "blue" && !problem.message.is_empty(),
            "{problem:?}"
        );
    }
    let mut blues = Vec::new();
    for change in plan.changes {
        match change {
            Change::Put { owner, key, spec } if owner == id("blue") => {
                assert!(
                    copy_name(&owner, &key.name).len() <= 253,
                    "no object can have this name: {key:?}"
                );
                blues.push((key, spec));
            }
            // Its marker is followed up.
            Change::Put { owner, key, .. } if owner == id("red") => assert_eq!(key.kind, Kind::Cluster),
            other => panic!("blue's records lead to {other:?}"),
        }
    }
    blues
}

fn judge_prefixes(set: &Clusterset) {
    let admitted = members();
    let own = set.own.as_ref().unwrap();
    let ours = [
        &own.cluster.pod_cidrs,
        &own.cluster.service_cidrs,
        &own.cluster.vip_cidrs,
    ];
    let mut taken: Vec<(ClusterId, IpNet)> = Vec::new();
    for remote in set.remotes.values() {
        let member = admitted.iter().find(|m| m.cluster_id == remote.id).unwrap();
        assert!(
            remote.pod_prefixes.len() <= MAX_PREFIXES,
            "{} prefixes",
            remote.pod_prefixes.len()
        );
        assert_eq!(remote.node_blocks, member.node_blocks);
        for prefix in &remote.pod_prefixes {
            assert!(
                member.prefixes.iter().any(|p| p.contains(prefix)),
                "{prefix} is not {}'s",
                remote.id
            );
        }
        for prefix in remote.prefixes() {
            assert!(
                !ours.iter().any(|list| list.iter().any(|p| overlap(p, &prefix))),
                "{prefix} is ours"
            );
            assert!(
                !taken
                    .iter()
                    .any(|(whose, p)| *whose != remote.id && overlap(p, &prefix)),
                "{prefix} is taken"
            );
            taken.push((remote.id.clone(), prefix));
        }
    }
}

fn judge_tunnels(set: &Clusterset, alone: &Clusterset) {
    let node = ThisNode {
        own_keys: [PublicKey([1; 32])].into(),
        own_endpoints: ["192.0.2.1:4510".parse().unwrap()].into(),
    };
    let plan = tunnels(set, &node);
    let reds = |plan: &crate::tunnels::Tunnels| {
        plan.wanted
            .iter()
            .filter(|t| t.cluster == id("red"))
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(
        reds(&plan),
        reds(&tunnels(alone, &node)),
        "blue's records change red's tunnels"
    );
    assert!(plan.wanted.iter().filter(|t| t.cluster == id("blue")).count() <= MAX_TUNNELS);
    let mut keys = node.own_keys.clone();
    let mut names = BTreeSet::new();
    for tunnel in &plan.wanted {
        assert!(
            tunnel.public_keys.iter().all(|key| keys.insert(*key)) && names.insert(tunnel.id()),
            "{} stands twice",
            tunnel.id()
        );
        assert!((1..=MAX_LANES).contains(&tunnel.public_keys.len()));
        assert!(tunnel.candidates.len() <= MAX_CANDIDATES);
        for candidate in &tunnel.candidates {
            assert!(
                candidate.port() != 0 && !node.own_endpoints.contains(candidate),
                "{candidate}"
            );
            assert!(
                !set.remotes.values().any(|r| r.owns(candidate.ip())),
                "{candidate} lies in a tunnel"
            );
        }
        for prefix in &tunnel.prefixes {
            assert!(
                set.remotes[&tunnel.cluster].prefixes().any(|p| p == *prefix),
                "{prefix}"
            );
        }
    }
}

/// A condition can be written, and there is one on each copy.
fn judge_verdicts(set: &Clusterset, scene: &Scene) {
    let said = verdicts(set, &scene.copies, &scene.services);
    let copies: usize = scene.copies.values().map(Vec::len).sum();
    assert_eq!(said.len(), copies);
    for ((kind, name), condition) in &said {
        assert!(
            condition.message.len() <= 32_768,
            "the message on {name} is too long"
        );
        assert!(
            condition.status == "True" || !condition.message.is_empty(),
            "{kind:?} {name}: no reason given"
        );
        if name.starts_with("red.") {
            assert_eq!(condition.status, "True", "{name}: {}", condition.message);
        }
    }
}

/// What blue's exports become here; red's stays, whatever blue says of the same service.
fn judge_services(scene: &Scene) -> Vec<VipService> {
    let mut index = services::Index::default();
    let mut put = |object| index.apply(services::Event::Put(object));
    for name in ["demo", "shop", "kube-system"] {
        put(Object::Namespace {
            name: name.into(),
            terminating: false,
        });
    }
    members().into_iter().for_each(|m| put(Object::Member(m)));
    scene
        .records
        .clusters
        .iter()
        .for_each(|c| put(Object::Cluster(Box::new(c.clone()))));
    for record in &scene.services {
        put(Object::Record(Box::new(ExportRecord {
            record: record.clone(),
            conditions: vec![],
        })));
    }
    index.take_dirty();
    let plan = index.plan(&index.all(), &BTreeMap::new(), NOW);
    let set = view(&scene.records);
    let mut imported = Vec::new();
    for (key, steps) in plan.services {
        let admitted = || {
            assert!(
                matches!(key.namespace.as_str(), "demo" | "shop"),
                "{key} was not admitted"
            )
        };
        let mut service = VipService {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            ..VipService::default()
        };
        for step in steps {
            match step {
                Step::PutImport(import) => {
                    admitted();
                    service.vips = import.spec.ips.clone().unwrap_or_default();
                    service.ports = import
                        .spec
                        .ports
                        .iter()
                        .filter_map(|p| vip_port(&p.name, &p.protocol, p.port))
                        .collect();
                }
                Step::PutSlice(slice) => {
                    admitted();
                    let owner = id(&slice.labels[LABEL_MCS_CLUSTER]);
                    let remote = &set.remotes[&owner];
                    let addresses: Vec<IpAddr> = slice
                        .endpoints
                        .iter()
                        .filter(|e| e.ready)
                        .map(|e| e.address)
                        .collect();
                    for endpoint in &slice.endpoints {
                        assert!(
                            remote.pod_prefixes.iter().any(|p| p.contains(&endpoint.address)),
                            "{} is no pod of {owner}",
                            endpoint.address
                        );
                    }
                    assert!(
                        slice.name.len() <= 253,
                        "no object can have the name {}",
                        slice.name
                    );
                    let ports = slice
                        .ports
                        .iter()
                        .filter_map(|p| vip_port(&p.name, &p.protocol, p.port))
                        .collect();
                    service.slices.push(VipSlice {
                        cluster: owner,
                        endpoints: addresses,
                        ports,
                    });
                }
                _ => {}
            }
        }
        imported.push(service);
    }
    let web = imported
        .iter()
        .find(|s| s.namespace == "demo" && s.name == "web")
        .unwrap();
    assert!(
        web.slices.iter().any(|s| s.cluster == id("red")),
        "red's endpoints are gone"
    );
    imported
}

fn vip_port(name: &str, protocol: &str, port: u16) -> Option<VipPort> {
    use crate::kernel::Protocol::{Sctp, Tcp, Udp};
    let protocol = match protocol {
        "TCP" => Tcp,
        "UDP" => Udp,
        "SCTP" => Sctp,
        _ => return None,
    };
    Some(VipPort {
        name: name.to_owned(),
        protocol,
        port,
    })
}

/// A node of green sends into tunnels only what is a remote cluster's, and clients only to pods.
fn judge_node(set: &Clusterset, services: Vec<VipService>) {
    let node = Node {
        name: "gateway-1".into(),
        addresses: vec!["192.0.2.1".parse().unwrap()],
        pod_prefixes: nets(&["10.1.1.0/24", "fd01:0:0:1::/64"]),
        overlay_addresses: vec!["240.0.16.1".parse().unwrap()],
        gateway: true,
    };
    let inputs = NodeInputs {
        node: node.name.clone(),
        clusterset: set.clone(),
        nodes: vec![node],
        services,
        observed: Observed {
            tunnel_exists: true,
            underlay_mtu: 1500,
            foreign_drops: BTreeSet::new(),
        },
    };
    let state = desired(&inputs).unwrap().state;
    let remote = |prefix: &IpNet| set.remotes.values().any(|r| r.prefixes().any(|p| p == *prefix));
    for route in &state.routes {
        if let RouteKind::Unicast { next_hops, .. } = &route.kind
            && next_hops
                .iter()
                .any(|hop| hop.device == crate::kernel::TUNNEL_DEVICE)
        {
            assert!(remote(&route.destination), "{route} leads into a tunnel");
        }
    }
    let table = state.nft.unwrap();
    for prefix in prefixes_of(&table, "remote_v4").chain(prefixes_of(&table, "remote_v6")) {
        assert!(
            set.remotes
                .values()
                .any(|r| r.prefixes().any(|p| p.contains(&prefix)))
                || set
                    .remotes
                    .values()
                    .flat_map(|r| r.prefixes())
                    .any(|p| prefix.contains(&p)),
            "{prefix}"
        );
    }
    let pods: Vec<IpNet> = set
        .remotes
        .values()
        .flat_map(|r| r.pod_prefixes.clone())
        .chain(set.own.iter().flat_map(|o| o.cluster.pod_cidrs.clone()))
        .collect();
    for element in table.sets.values().flat_map(|set| &set.elements) {
        if let Element::Endpoint(.., target) = element {
            assert!(
                pods.iter().any(|p| p.contains(&target.ip())),
                "{target} is no pod"
            );
        }
    }
}

fn prefixes_of<'a>(table: &'a NftTable, set: &str) -> impl Iterator<Item = IpNet> + 'a {
    table.sets[set].elements.iter().filter_map(|e| match e {
        Element::Prefix(prefix) => Some(*prefix),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn records_that_were_found_hold() {
        super::input::replay("record", super::record);
    }
}
