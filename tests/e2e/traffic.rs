//! Who reaches whom, and under which source address.

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::Node;
use kube::{Api, ResourceExt as _};
use serde_json::json;
use strait_api::names::ANNOTATION_OVERLAY;

use crate::lab::{Fetched, Lab, PORT, ensure, eventually, of_family};

const CLUSTERS: [&str; 2] = ["blue", "green"];

const NODES: [&str; 2] = ["gateway-1", "worker-1"];

#[test]
fn pods_reach_pods_and_vips_in_ipv4() {
    everyone_reaches_everyone(&[], &[false]);
}

#[test]
fn pods_reach_pods_and_vips_in_ipv6() {
    everyone_reaches_everyone(&["--ipv6"], &[true]);
}

#[test]
fn pods_reach_pods_and_vips_in_dual_stack() {
    everyone_reaches_everyone(&["--dual-stack"], &[false, true]);
}

/// Clients on gateway and worker, servers on gateway and worker, in both directions; TCP and UDP; straight
/// to the pod and through the VIP; from pods and from the nodes themselves.
fn everyone_reaches_everyone(flags: &[&str], families: &[bool]) {
    let lab = Lab::up(flags);
    lab.namespace(&CLUSTERS, "demo");
    let mut servers = Vec::new();
    let mut clients = Vec::new();
    for cluster in CLUSTERS {
        for node in NODES {
            let (place, app) = (format!("{cluster}/{node}"), format!("{cluster}-{node}"));
            servers.push((cluster, app.clone(), lab.serve(&place, &app, "demo", &app)));
            lab.export(cluster, "demo", &app);
            let pod = format!("client-{node}");
            let addresses = lab.idle(&place, &pod);
            clients.push((cluster, format!("{cluster}/{pod}"), addresses));
            clients.push((cluster, place, overlay_addresses(&lab, cluster, node)));
        }
    }
    for v6 in families.iter().copied() {
        for (server_cluster, app, server) in &servers {
            for (client_cluster, place, source) in clients.iter().filter(|(c, ..)| c != server_cluster) {
                let what = format!("{place} to {app} of {server_cluster}, IPv6 {v6}");
                let source = of_family(source, v6);
                reaches(
                    &lab,
                    &what,
                    place,
                    SocketAddr::new(of_family(server, v6), PORT),
                    app,
                    source,
                );
                let name = format!("{app}.demo.svc.clusterset.local");
                let vip = eventually(&format!("{what}: {name}"), || {
                    let found = lab.resolve(place, client_cluster, &name, v6)?;
                    found
                        .first()
                        .copied()
                        .ok_or_else(|| format!("{name} has no address"))
                });
                reaches(
                    &lab,
                    &format!("{what}, by its VIP"),
                    place,
                    SocketAddr::new(vip, 80),
                    app,
                    source,
                );
            }
        }
    }
    // By name, as any program in a pod finds it: getaddrinfo, by the pod's own resolv.conf.
    let (app, place) = ("blue-worker-1", "green/client-worker-1");
    let name = format!("{app}.demo.svc.clusterset.local");
    let found: serde_json::Value = lab
        .tool(place, &["lookup", &name])
        .unwrap_or_else(|e| panic!("{e}"));
    for v6 in families.iter().copied() {
        let vip = json!(lab.resolve(place, "green", &name, v6).unwrap());
        let all = found["addresses"].as_array().unwrap();
        assert!(all.contains(&vip[0]), "{name} is {found}, without {vip}");
    }
    assert_eq!(found["addresses"].as_array().unwrap().len(), families.len());
    let answer: Fetched = lab
        .tool(place, &["get", &format!("{name}:80")])
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(answer.pod, app);

    assert_eq!(
        lab.leaks(),
        json!([]),
        "nothing crosses the underlay in clear text"
    );
}

fn reaches(lab: &Lab, what: &str, place: &str, server: SocketAddr, app: &str, source: IpAddr) {
    for (protocol, answer) in [
        ("TCP", eventually(what, || lab.get(place, server))),
        ("UDP", eventually(what, || lab.udp(place, server))),
    ] {
        assert_eq!(answer.pod, app, "{what}, {protocol}: who answered");
        assert_eq!(
            answer.client_ip, source,
            "{what}, {protocol}: the source that the server saw"
        );
    }
}

/// A node's own clients appear under its overlay address.
pub(crate) fn overlay_addresses(lab: &Lab, cluster: &str, node: &str) -> Vec<IpAddr> {
    let api: Api<Node> = Api::all(lab.client(cluster));
    eventually("overlay addresses of the nodes", || {
        let object = lab.wait(api.get(node)).map_err(|e| e.to_string())?;
        let text = object
            .annotations()
            .get(ANNOTATION_OVERLAY)
            .cloned()
            .unwrap_or_default();
        let addresses: Vec<IpAddr> = text.split(',').filter_map(|a| a.trim().parse().ok()).collect();
        ensure(!addresses.is_empty(), || format!("{cluster}/{node} has none"))?;
        Ok(addresses)
    })
}
