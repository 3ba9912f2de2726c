//! What lies between clusters: NATs, narrow paths, long ones.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use serde_json::{Value, json};

use crate::lab::{Lab, PORT, eventually, of_family};

/// Where `lab-tool send` sends to.
const SINK: u16 = 5201;

/// A lab of one of the examples.
fn example(file: &str) -> Lab {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../lab/examples")
        .join(file);
    Lab::up(&["--config", path.to_str().unwrap()])
}

/// A pod that serves pages and takes what is sent.
fn server(lab: &Lab, cluster: &str) -> IpAddr {
    let binary = env!("CARGO_BIN_EXE_strait");
    let node = format!("{cluster}/worker-1");
    let (port, sink) = (PORT.to_string(), SINK.to_string());
    let ports = format!("{port},{sink}");
    let run = [
        "lab", "run", &node, "web", "--port", &ports, "--", binary, "lab-tool", "serve", "--port", &port,
        "--sink", &sink,
    ];
    let addresses = lab.strait(&run).unwrap_or_else(|e| panic!("{e}"));
    addresses.lines().next().unwrap().parse().unwrap()
}

fn ping(lab: &Lab, place: &str, to: IpAddr) -> Result<Vec<f64>, String> {
    let answer: Value = lab.tool(place, &["ping", &to.to_string(), "--count", "5"])?;
    let mut all: Vec<f64> =
        serde_json::from_value(answer["rtt_ms"].clone()).map_err(|e| format!("{answer}: {e}"))?;
    all.sort_by(f64::total_cmp);
    if all.is_empty() {
        return Err(format!("no answer: {answer}"));
    }
    Ok(all)
}

/// What arrives in a second, in Mbit/s.
fn throughput(lab: &Lab, place: &str, to: IpAddr) -> f64 {
    let sink = SocketAddr::new(to, SINK).to_string();
    let sent: Value = lab
        .tool(place, &["send", &sink, "--duration", "1", "--timeout", "20"])
        .unwrap_or_else(|e| panic!("{e}"));
    sent["mbps"].as_f64().unwrap()
}

#[test]
fn clusters_behind_nats_reach_each_other_under_their_own_addresses() {
    let lab = example("nat.yaml");
    let clusters = ["blue", "green"];
    let servers = clusters.map(|c| SocketAddr::new(server(&lab, c), PORT));
    let clients = clusters.map(|c| of_family(&lab.idle(&format!("{c}/worker-1"), "client"), false));
    for (here, there) in [(0, 1), (1, 0)] {
        let place = format!("{}/client", clusters[here]);
        let answer = eventually(&format!("from {place}"), || lab.get(&place, servers[there]));
        assert_eq!(answer.cluster, clusters[there]);
        assert_eq!(answer.client_ip, clients[here], "the pod's own address arrives");
    }
    // It is by translation that they talk: nobody outside has a route to the nodes of either.
    for (cluster, node) in [("blue", "172.31.2.11"), ("green", "172.31.1.11")] {
        let place = format!("{cluster}/gateway-1");
        let answer: Result<Value, String> = lab.tool(&place, &["ping", node, "--timeout", "1"]);
        let received = answer.map_or(0, |a| a["received"].as_u64().unwrap());
        assert_eq!(received, 0, "{place} reaches {node} without a tunnel");
    }
    assert_eq!(lab.leaks(), json!([]));
}

/// A lab that says that it is ready is: not a packet is lost for want of a tunnel.
#[test]
fn a_lab_that_is_ready_carries_the_first_packet() {
    let lab = example("links.yaml");
    let servers = ["blue", "red"].map(|cluster| {
        let node = format!("{cluster}/worker-1");
        of_family(&lab.idle(&node, "server"), false)
    });
    lab.idle("green/worker-1", "client");
    for server in servers {
        let answer: Value = lab
            .tool("green/client", &["ping", &server.to_string(), "--count", "1"])
            .unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(answer["received"], 1, "{answer}");
    }
}

#[test]
fn narrow_and_long_ways_carry_what_they_can() {
    let lab = example("bad-roads.yaml");
    let (narrow, far) = (server(&lab, "narrow"), server(&lab, "far"));
    lab.idle("hub/worker-1", "client");
    let place = "hub/client";
    for server in [narrow, far] {
        eventually("the path", || lab.get(place, SocketAddr::new(server, PORT)));
    }

    // Full packets cross a path that is too small for them and does not say so.
    let mbps = throughput(&lab, place, narrow);
    assert!(mbps > 5.0, "{mbps} Mbit/s over the narrow way");

    // 40 ms each way, give or take 5, and nothing of it on the other way.
    let to_far = eventually("answers from far", || ping(&lab, place, far));
    assert!(to_far[0] >= 70.0, "{to_far:?}");
    let to_narrow = eventually("answers from narrow", || ping(&lab, place, narrow));
    assert!(to_narrow[0] < 60.0, "{to_narrow:?}");
    let mbps = throughput(&lab, place, far);
    assert!((0.5..=21.0).contains(&mbps), "{mbps} Mbit/s over a way of 20");
    assert_eq!(lab.leaks(), json!([]));
}
