//! Clusters that go, and nodes that are cleaned up.

use std::net::SocketAddr;

use strait_api::records::{Gateway, Member, MemberState};

use crate::lab::{Lab, PORT, ensure, eventually, of_family};

#[test]
fn a_member_that_leaves_is_forgotten_and_the_others_go_on() {
    let lab = Lab::up(&["--clusters", "3"]);
    lab.namespace(&["blue", "green", "red"], "demo");
    let mut servers = Vec::new();
    for cluster in ["green", "red"] {
        let addresses = lab.serve(&format!("{cluster}/worker-1"), "web-1", "demo", "web");
        servers.push(SocketAddr::new(of_family(&addresses, false), PORT));
    }
    lab.idle("blue/worker-1", "client");
    for server in &servers {
        eventually("the path", || lab.get("blue/client", *server));
    }

    // From the router, where both the cluster and the broker are in reach.
    let kubeconfig = lab.kubeconfig("red").with_file_name("red-admin.yaml");
    let kubeconfig = kubeconfig.to_string_lossy();
    lab.strait(&[
        "lab",
        "exec",
        "router",
        "--",
        "strait",
        "leave",
        "--kubeconfig",
        &kubeconfig,
    ])
    .unwrap_or_else(|e| panic!("{e}"));

    eventually("blue hears that red left", || {
        let api: kube::Api<Member> = kube::Api::all(lab.client("blue"));
        let member = lab.wait(api.get_opt("red")).map_err(|e| e.to_string())?;
        let gone = member.is_none_or(|m| m.spec.state == MemberState::Evicted || m.spec.removed_at.is_some());
        ensure(gone, || "still an active member".to_owned())
    });
    eventually("blue's tunnel to red is gone", || {
        let api: kube::Api<Gateway> = kube::Api::namespaced(lab.client("blue"), "strait-system");
        let gateway = lab.wait(api.get("gateway-1")).map_err(|e| e.to_string())?;
        let total = gateway.status.map_or(0, |s| s.total);
        ensure(total == 1, || format!("{total} tunnels"))
    });
    eventually("blue reaches red no longer", || {
        match lab.get("blue/client", servers[1]) {
            Ok(answer) => Err(format!("{} still answers", answer.pod)),
            Err(_) => Ok(()),
        }
    });
    lab.get("blue/client", servers[0])
        .unwrap_or_else(|e| panic!("green suffers: {e}"));
    assert_eq!(
        lab.leaks(),
        serde_json::json!([]),
        "what red no longer gets goes nowhere"
    );
}
