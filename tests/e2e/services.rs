//! What happens to a name and its VIP over a service's life.

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Api;
use serde_json::json;
use strait_api::mcs::{ServiceExport, ServiceImport};

use crate::lab::{Lab, ensure, eventually, of_family};

const NAME: &str = "web.demo.svc.clusterset.local";

struct Exported {
    lab: Lab,
    vip: IpAddr,
}

/// `web` of blue, seen from a client pod in green.
fn exported() -> Exported {
    let lab = Lab::up(&[]);
    lab.namespace(&["blue", "green"], "demo");
    lab.serve("blue/worker-1", "web-1", "demo", "web");
    lab.export("blue", "demo", "web");
    lab.idle("green/worker-1", "client");
    let vip = eventually("the name in green", || {
        let found = lab.resolve("green/client", "green", NAME, false)?;
        found.first().copied().ok_or_else(|| "no address yet".to_owned())
    });
    eventually("the VIP in green", || {
        lab.get("green/client", SocketAddr::new(vip, 80))
    });
    Exported { lab, vip }
}

impl Exported {
    fn answering(&self) -> Result<String, String> {
        self.lab
            .get("green/client", SocketAddr::new(self.vip, 80))
            .map(|f| f.pod)
    }

    fn is_gone(&self) {
        let lab = &self.lab;
        eventually("the import goes", || {
            let api: Api<ServiceImport> = Api::namespaced(lab.client("green"), "demo");
            let import = lab.wait(api.get_opt("web")).map_err(|e| e.to_string())?;
            ensure(import.is_none(), || "it is still there".to_owned())
        });
        eventually("the name goes", || {
            let found = lab.resolve("green/client", "green", NAME, false)?;
            ensure(found.is_empty(), || format!("still {found:?}"))
        });
        eventually("the VIP refuses", || match self.answering() {
            Ok(pod) => Err(format!("{pod} still answers")),
            Err(_) => Ok(()),
        });
    }
}

#[test]
fn an_export_and_its_endpoints_travel_and_an_unexport_too() {
    let exported = exported();
    let lab = &exported.lab;
    assert_eq!(exported.answering(), Ok("web-1".to_owned()));

    // A second endpoint joins, also from another node: both answer.
    lab.serve("blue/gateway-1", "web-2", "demo", "web");
    for wanted in ["web-2", "web-1"] {
        eventually("both endpoints answer", || {
            let pod = exported.answering()?;
            ensure(pod == wanted, || format!("only {pod} so far"))
        });
    }

    // An endpoint leaves: the other takes all.
    lab.delete::<Pod>("blue", "demo", "web-1");
    let mut in_a_row = 0;
    eventually("only web-2 is left", || {
        in_a_row = if exported.answering()? == "web-2" {
            in_a_row + 1
        } else {
            0
        };
        ensure(in_a_row == 20, || "web-1 still answers".to_owned())
    });
    assert_eq!(
        lab.leaks(),
        json!([]),
        "packets for a pod that is gone end where it was"
    );

    // The VIP is kept while the import lives, also across a restart of the agent.
    lab.delete::<ServiceExport>("blue", "demo", "web");
    exported.is_gone();
}

#[test]
fn deleting_the_service_ends_its_export_and_making_it_again_brings_it_back() {
    let exported = exported();
    exported.lab.delete::<Service>("blue", "demo", "web");
    exported.is_gone();
    exported.lab.export("blue", "demo", "web");
    eventually("the service is back", || {
        let found = exported.lab.resolve("green/client", "green", NAME, false)?;
        let vip = found.first().ok_or("no address yet")?;
        exported.lab.get("green/client", SocketAddr::new(*vip, 80))
    });
}

#[test]
fn a_service_of_two_clusters_is_one_service() {
    let lab = Lab::up(&["--clusters", "3"]);
    let clusters = ["blue", "green", "red"];
    lab.namespace(&clusters, "demo");
    for cluster in ["blue", "green"] {
        lab.serve(
            &format!("{cluster}/worker-1"),
            &format!("web-{cluster}"),
            "demo",
            "web",
        );
        lab.export(cluster, "demo", "web");
    }
    let client = lab.idle("red/worker-1", "client");
    for wanted in ["blue", "green"] {
        eventually("both clusters answer", || {
            let found = lab.resolve("red/client", "red", NAME, false)?;
            let vip = found.first().ok_or("no address yet")?;
            let answer = lab.get("red/client", SocketAddr::new(*vip, 80))?;
            assert_eq!(answer.client_ip, of_family(&client, false));
            ensure(answer.cluster == wanted, || {
                format!("only {} so far", answer.cluster)
            })
        });
    }
    // Where the namespace is missing there is no import, and elsewhere nothing suffers from that.
    lab.namespace(&["red"], "other");
    lab.serve("blue/gateway-1", "api-1", "demo", "api");
    lab.export("blue", "demo", "api");
    eventually("green sees the second service", || {
        let found = lab.resolve("red/client", "green", "api.demo.svc.clusterset.local", false)?;
        ensure(!found.is_empty(), || "no address yet".to_owned())
    });
}
