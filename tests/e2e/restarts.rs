//! Daemons die; traffic goes on, or comes back, and nothing is left behind.

use std::net::{IpAddr, SocketAddr};

use crate::lab::{Lab, PORT, ensure, eventually, of_family};

struct Path {
    lab: Lab,
    server: SocketAddr,
    client_ip: IpAddr,
}

fn path() -> Path {
    let lab = Lab::up(&[]);
    lab.namespace(&["blue", "green"], "demo");
    let server = SocketAddr::new(
        of_family(&lab.serve("blue/worker-1", "web-1", "demo", "web"), false),
        PORT,
    );
    let client_ip = of_family(&lab.idle("green/worker-1", "client"), false);
    let path = Path {
        lab,
        server,
        client_ip,
    };
    eventually("the path", || path.works());
    path
}

impl Path {
    fn works(&self) -> Result<(), String> {
        let answer = self.lab.get("green/client", self.server)?;
        assert_eq!(answer.client_ip, self.client_ip);
        Ok(())
    }

    fn restarts(&self, process: &str) -> u64 {
        let status = self.lab.status();
        let found = status["processes"]
            .as_array()
            .and_then(|all| all.iter().find(|p| p["id"] == process));
        let found = found.unwrap_or_else(|| panic!("no process {process} in {status}"));
        found["restarts"].as_u64().unwrap()
    }

    fn kill(&self, process: &str) {
        let before = self.restarts(process);
        self.lab.strait(&["lab", "kill", process]).unwrap();
        eventually("the lab notices", || {
            ensure(self.restarts(process) > before, || "not yet".to_owned())
        });
    }

    /// Processes whose name ends so.
    fn processes(&self, daemon: &str) -> Vec<String> {
        let status = self.lab.status();
        let all = status["processes"].as_array().unwrap();
        let ids = all.iter().filter_map(|p| p["id"].as_str());
        let found: Vec<String> = ids
            .filter(|id| id.ends_with(&format!("/{daemon}")))
            .map(str::to_owned)
            .collect();
        assert!(!found.is_empty(), "no {daemon} in {status}");
        found
    }
}

#[test]
fn traffic_does_not_notice_the_death_of_a_control_plane() {
    let path = path();
    for daemon in ["route-agent", "agent", "dns"] {
        for process in path.processes(daemon) {
            path.kill(&process);
            path.works()
                .unwrap_or_else(|e| panic!("after {process} died: {e}"));
        }
    }
    eventually("the route agents find nothing to change", || {
        let all = [
            "lab",
            "exec",
            "green/worker-1/route-agent",
            "--",
            "strait",
            "plan",
        ];
        let plan = path.lab.strait(&all)?;
        ensure(plan.is_empty(), || plan)
    });
}

#[test]
fn a_gateway_that_died_comes_back_with_its_key() {
    let path = path();
    let key = |cluster: &str| {
        let api: kube::Api<strait_api::records::Gateway> =
            kube::Api::namespaced(path.lab.client(cluster), "strait-system");
        let gateway = path.lab.wait(api.get("gateway-1")).unwrap();
        gateway.spec.keys[0].public_keys[0]
    };
    let before = key("blue");
    for gateway in ["blue/gateway-1/gateway", "green/gateway-1/gateway"] {
        path.kill(gateway);
        eventually(&format!("traffic after {gateway} died"), || path.works());
    }
    assert_eq!(key("blue"), before);
    assert_eq!(
        path.lab.leaks(),
        serde_json::json!([]),
        "nothing went out in clear text meanwhile"
    );
}
