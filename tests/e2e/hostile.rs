//! Records that lie, and packets that have no business.

use std::net::SocketAddr;

use serde_json::json;
use strait_api::names::NAMESPACE;
use strait_api::records::{Cluster, Gateway};

use crate::lab::{Lab, PORT, ensure, eventually, of_family};
use crate::traffic::overlay_addresses;

/// Green claims a prefix of blue's node network and of nobody: it gets neither, is told so on the record,
/// and the rest of green goes on.
#[test]
fn a_cluster_gets_no_prefix_that_it_was_not_admitted_for() {
    let lab = Lab::up(&[]);
    lab.namespace(&["blue", "green"], "demo");
    let server = of_family(&lab.serve("green/worker-1", "web-1", "demo", "web"), false);
    lab.idle("blue/worker-1", "client");
    eventually("the path", || {
        lab.get("blue/client", SocketAddr::new(server, PORT))
    });

    let api: kube::Api<Cluster> = kube::Api::namespaced(lab.client("green"), NAMESPACE);
    let mut green = lab.wait(api.get("green")).unwrap();
    green.spec.pod_cidrs.push("198.51.100.0/24".parse().unwrap());
    let patch = kube::api::Patch::Merge(json!({"spec": {"podCidrs": green.spec.pod_cidrs}}));
    lab.wait(api.patch("green", &Default::default(), &patch)).unwrap();

    eventually("blue refuses the prefix on its copy of the record", || {
        let api: kube::Api<Cluster> = kube::Api::namespaced(lab.client("blue"), NAMESPACE);
        let copy = lab.wait(api.get("green.green")).map_err(|e| e.to_string())?;
        let conditions = copy.status.map(|s| s.conditions).unwrap_or_default();
        let admitted = conditions.iter().find(|c| c.type_ == "Admitted");
        let told = admitted.is_some_and(|c| c.message.contains("198.51.100.0/24"));
        ensure(told, || format!("{conditions:?}"))
    });
    let routes = lab
        .strait(&["lab", "exec", "blue/worker-1", "--", "cat", "/proc/net/route"])
        .unwrap();
    // 198.51.100.0 as /proc/net/route writes it.
    assert!(!routes.contains("006433C6"), "{routes}");
    lab.get("blue/client", SocketAddr::new(server, PORT))
        .unwrap_or_else(|e| panic!("green suffers: {e}"));
}

/// Random bytes at the tunnel port, from the underlay: the tunnels do not mind.
#[test]
fn random_datagrams_at_the_tunnel_port_change_nothing() {
    let lab = Lab::up(&[]);
    lab.namespace(&["blue", "green"], "demo");
    let server = of_family(&lab.serve("blue/worker-1", "web-1", "demo", "web"), false);
    lab.idle("green/worker-1", "client");
    eventually("the path", || {
        lab.get("green/client", SocketAddr::new(server, PORT))
    });

    let api: kube::Api<Gateway> = kube::Api::namespaced(lab.client("blue"), NAMESPACE);
    let gateway = lab.wait(api.get("gateway-1")).unwrap();
    let target = SocketAddr::new(gateway.spec.addresses.private[0], gateway.spec.udp_port).to_string();
    let binary = env!("CARGO_BIN_EXE_strait");
    let noise = [
        "lab",
        "exec",
        "green/gateway-1",
        "--",
        binary,
        "lab-tool",
        "noise",
        &target,
        "--count",
        "20000",
    ];
    lab.strait(&noise).unwrap_or_else(|e| panic!("{e}"));
    lab.get("green/client", SocketAddr::new(server, PORT))
        .unwrap_or_else(|e| panic!("after the noise: {e}"));
    assert_eq!(
        lab.status()["processes"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|p| p["restarts"] != 0)
            .count(),
        0
    );
}

/// What listens on a node is not for the pods of other clusters, not even under the node's overlay address.
#[test]
fn nothing_that_listens_on_a_node_answers_the_other_cluster() {
    /// Where the route agent serves its metrics, on all addresses of its node.
    const METRICS: u16 = 4514;
    let lab = Lab::up(&[]);
    lab.namespace(&["blue", "green"], "demo");
    let server = of_family(&lab.serve("blue/worker-1", "web-1", "demo", "web"), false);
    lab.idle("green/worker-1", "client");
    eventually("the path", || {
        lab.get("green/client", SocketAddr::new(server, PORT))
    });
    let ask = |place: &str, node: SocketAddr| -> Result<serde_json::Value, String> {
        lab.tool(place, &["get", &node.to_string(), "--timeout", "1"])
    };
    for address in overlay_addresses(&lab, "blue", "worker-1") {
        let node = SocketAddr::new(address, METRICS);
        ask("blue/worker-1", node).unwrap_or_else(|e| panic!("nothing listens there: {e}"));
        let answer = ask("green/client", node);
        assert!(
            answer.is_err(),
            "a pod of green got through to {node}: {answer:?}"
        );
    }
}
