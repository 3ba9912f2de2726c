use serde_json::{Value, json};
use strait_core::clusterset::Record;

use super::*;

fn objects<K: serde::de::DeserializeOwned>(values: &[Value]) -> Vec<Arc<K>> {
    values
        .iter()
        .map(|v| Arc::new(serde_json::from_value(v.clone()).unwrap()))
        .collect()
}

fn joined() -> Objects {
    let cluster = |owner: Option<&str>, id: &str, pods: &str| Record {
        owner: owner.map(|o| o.parse().unwrap()),
        name: id.to_owned(),
        spec: serde_json::from_value(json!({
            "clusterId": id, "podCidrs": [pods], "vipCidrs": ["10.250.0.0/16"],
        }))
        .unwrap(),
    };
    let member = |id: &str, prefix: &str, block: &str| {
        serde_json::from_value(json!({
            "clusterId": id, "uid": id, "prefixes": [prefix], "nodeBlocks": [block],
            "exportNamespaces": ["*"], "state": "Active", "admittedAt": "2026-01-01T00:00:00Z",
        }))
        .unwrap()
    };
    let gateway = json!({"clusterId": "blue", "node": "n1", "udpPort": 4510, "addresses": {}, "keys": []});
    Objects {
        records: Records {
            clusters: vec![
                cluster(None, "blue", "10.1.0.0/16"),
                cluster(Some("green"), "green", "10.2.0.0/16"),
            ],
            members: vec![
                member("blue", "10.1.0.0/16", "10.254.1.0/24"),
                member("green", "10.2.0.0/16", "10.254.2.0/24"),
            ],
            gateways: vec![Record {
                owner: None,
                name: "n1".to_owned(),
                spec: serde_json::from_value(gateway).unwrap(),
            }],
        },
        nodes: objects(&[node_object(
            json!({"podCIDR": "10.1.1.0/24", "podCIDRs": ["10.1.1.0/24", "fd01::/64"]}),
        )]),
        ..Objects::default()
    }
}

fn node_object(spec: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": "n1",
            "labels": {"strait.dev/gateway": "true"},
            "annotations": {"strait.dev/overlay-addresses": "10.254.1.1, fd00:254:1::1"},
        },
        "spec": spec,
        "status": {"addresses": [
            {"type": "Hostname", "address": "n1"},
            {"type": "ExternalIP", "address": "203.0.113.1"},
            {"type": "InternalIP", "address": "192.0.2.1"},
            {"type": "InternalIP", "address": "2001:db8::1"},
        ]},
    })
}

fn import(spec: Value) -> Value {
    json!({
        "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceImport",
        "metadata": {"name": "web", "namespace": "demo"}, "spec": spec,
    })
}

fn slice_object(name: &str, cluster: &str, endpoints: Value, ports: Value) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "demo", "labels": {
            "multicluster.kubernetes.io/service-name": "web",
            "multicluster.kubernetes.io/source-cluster": cluster,
        }},
        "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
    })
}

#[test]
fn a_joined_cluster_becomes_inputs_that_core_takes() {
    let (inputs, skipped) = joined().inputs("n1");
    assert_eq!(skipped, BTreeSet::new());
    let node = &inputs.nodes[0];
    assert!(node.gateway);
    assert_eq!(
        node.addresses,
        ["192.0.2.1", "2001:db8::1"].map(|a| a.parse::<IpAddr>().unwrap())
    );
    assert_eq!(
        node.pod_prefixes,
        ["10.1.1.0/24", "fd01::/64"].map(|p| p.parse::<IpNet>().unwrap())
    );
    assert_eq!(
        node.overlay_addresses,
        ["10.254.1.1", "fd00:254:1::1"].map(|a| a.parse::<IpAddr>().unwrap())
    );
    let own = inputs.clusterset.own.as_ref().unwrap();
    assert_eq!(own.gateways.keys().collect::<Vec<_>>(), ["n1"]);
    let desired = strait_core::node::desired(&inputs).unwrap();
    assert!(
        desired
            .state
            .routes
            .iter()
            .any(|r| r.destination.to_string() == "10.2.0.0/16")
    );
}

#[test]
fn an_old_node_has_one_pod_cidr_only() {
    let mut objects = joined();
    objects.nodes = self::objects(&[node_object(json!({"podCIDR": "10.1.1.0/24"}))]);
    assert_eq!(
        objects.inputs("n1").0.nodes[0].pod_prefixes,
        ["10.1.1.0/24".parse().unwrap()]
    );
}

#[test]
fn what_cannot_be_read_is_left_out_by_itself() {
    let mut objects = joined();
    let mut bad = node_object(json!({"podCIDRs": ["10.1.1.0/24", "10.1.2.0"]}));
    bad["metadata"]["annotations"]["strait.dev/overlay-addresses"] = json!("10.254.1.1,x");
    objects.nodes = self::objects(&[bad]);
    let (inputs, skipped) = objects.inputs("n1");
    let text: Vec<String> = skipped
        .iter()
        .map(|s| format!("{}: {}", s.object, s.message))
        .collect();
    assert_eq!(text.len(), 2, "{text:?}");
    assert_eq!(
        text[0],
        "Node/n1: its overlay address \"x\" cannot be read and is ignored"
    );
    assert_eq!(
        text[1],
        "Node/n1: its pod CIDR \"10.1.2.0\" cannot be read and is ignored"
    );
    assert_eq!(inputs.nodes[0].pod_prefixes.len(), 1);
    assert_eq!(inputs.nodes[0].overlay_addresses.len(), 1);
}

#[test]
fn slices_belong_to_their_import_and_hold_ready_endpoints() {
    let mut objects = joined();
    objects.imports = self::objects(&[import(json!({
        "type": "ClusterSetIP", "ips": ["10.250.0.1"], "sessionAffinity": "ClientIP",
        "ports": [{"name": "http", "protocol": "TCP", "port": 80}, {"protocol": "QUIC", "port": 81}],
    }))]);
    let endpoints = json!([
        {"addresses": ["10.2.0.1"], "conditions": {"ready": true}},
        {"addresses": ["10.2.0.2"], "conditions": {"ready": false}},
        {"addresses": ["10.2.0.3"]},
    ]);
    objects.slices = self::objects(&[
        slice_object(
            "a",
            "green",
            endpoints.clone(),
            json!([{"name": "http", "port": 8080, "protocol": "TCP"}]),
        ),
        slice_object("b", "no such id", endpoints, json!([])),
        slice_object(
            "c",
            "green",
            json!([]),
            json!([{"name": "http", "port": 0, "protocol": "TCP"}]),
        ),
    ]);
    let (inputs, skipped) = objects.inputs("n1");
    let service = &inputs.services[0];
    assert!(service.by_source);
    assert_eq!(service.ports.len(), 1);
    assert_eq!(service.slices.len(), 2);
    assert_eq!(
        service.slices[0].endpoints,
        ["10.2.0.1", "10.2.0.3"].map(|a| a.parse::<IpAddr>().unwrap())
    );
    assert_eq!(service.slices[0].ports[0].port, 8080);
    let who: Vec<_> = skipped.iter().map(|s| s.object.as_str()).collect();
    assert_eq!(
        who,
        [
            "EndpointSlice/demo/b",
            "EndpointSlice/demo/c",
            "ServiceImport/demo/web"
        ]
    );
}

#[test]
fn headless_imports_have_no_vip() {
    let mut objects = joined();
    objects.imports = self::objects(&[
        import(json!({"type": "Headless", "ips": ["10.250.0.1"], "ports": []})),
        import(json!({"type": "ClusterSetIP", "ports": []})),
    ]);
    assert!(objects.inputs("n1").0.services.is_empty());
}
