//! What the links under the tunnels do to them: one that is stuck costs its own peer only.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use strait_gateway::datapath::{DropCause, EngineConfig, PrivateKey};
use strait_linux::link::{Links, VethEnd};
use strait_linux::testing::until;

use crate::bed::{Node, config, exchange, loopback, peer, v4};
use crate::pairs::only;

pub(crate) const SCENARIOS: &[(&str, fn())] = &[
    (
        "peers_whose_hosts_are_gone_cost_the_others_nothing",
        peers_whose_hosts_are_gone_cost_the_others_nothing,
    ),
    ("a_port_left_is_free_at_once", a_port_left_is_free_at_once),
];

/// The kernel keeps what it is to send to a neighbour that does not answer for three seconds; who waited for it
/// would wait for most of that.
const STUCK: Duration = Duration::from_secs(2);
/// Packets to each peer that is gone between two pings: a hundred fill what the kernel keeps for it.
const BURST: usize = 40;
const ROUNDS: usize = 50;

/// A network where nobody answers but this host.
fn deserted() {
    let links = Links::open().unwrap();
    let end = |name| VethEnd {
        name,
        ..VethEnd::default()
    };
    links.add_veth(&end("deserted"), &end("far")).unwrap();
    links
        .add_address("deserted", "192.0.2.1/24".parse().unwrap())
        .unwrap();
    for end in ["deserted", "far"] {
        links.set_up(end).unwrap();
    }
}

fn peers_whose_hosts_are_gone_cost_the_others_nothing() {
    deserted();
    let hub = Node::new();
    let engine = hub.engine(config(&PrivateKey::generate().unwrap()), 1);
    let [gone, gone_too, healthy] = [2, 3, 4].map(|number| {
        let node = Node::new();
        let engine = node.engine(config(&PrivateKey::generate().unwrap()), number);
        (number, node, engine)
    });
    let peers = [&gone, &gone_too, &healthy]
        .map(|(number, _, other)| peer(*number, other.public_key(), &[loopback(other.port())]));
    assert_eq!(engine.set_peers(&peers), []);
    for (_, _, other) in [&gone, &gone_too, &healthy] {
        let to_hub = peer(1, engine.public_key(), &[loopback(engine.port())]);
        assert_eq!(other.set_peers(&[to_hub]), []);
        until("it has a session", || only(other).established);
    }
    until("the hub has all sessions", || {
        engine.status().peers.iter().all(|peer| peer.established)
    });
    let from = hub.udp(v4(1));
    let mut targets = Vec::new();
    for (number, _, other) in [gone, gone_too] {
        engine.redirect(
            &other.public_key(),
            SocketAddr::new([192, 0, 2, number].into(), 9),
        );
        other.stop();
        targets.push(SocketAddr::new(v4(number), 9));
    }

    let ping = healthy.1.udp(v4(4));
    let mut longest = Duration::ZERO;
    for _ in 0..ROUNDS {
        for target in &targets {
            for _ in 0..BURST {
                from.send_to(&[7; 1300], target).unwrap();
            }
        }
        let start = Instant::now();
        exchange(&from, &ping, b"ping");
        exchange(&ping, &from, b"pong");
        assert_eq!(engine.status().peers.len(), 3);
        longest = longest.max(start.elapsed());
    }
    let start = Instant::now();
    let status = engine.status();
    engine.stop();
    longest = longest.max(start.elapsed());
    assert!(longest < STUCK, "somebody waited for {longest:?}");
    let healthy = status.peers.last().unwrap();
    assert!(
        healthy.tx_packets >= ROUNDS as u64 && healthy.drops.is_empty(),
        "{healthy:?}"
    );
    // To the senders' network it is as if the packets had been lost on the way.
    for gone in &status.peers[..2] {
        assert!(!gone.drops.contains_key(&DropCause::OutSendFailed), "{gone:?}");
    }
}

fn a_port_left_is_free_at_once() {
    for workers in [1, 2] {
        let config = EngineConfig {
            workers,
            ..config(&PrivateKey::generate().unwrap())
        };
        let engine = Node::new().engine(config, 1);
        for round in 0..200 {
            let before = engine.port();
            engine.listen(0).unwrap();
            let back = engine.listen(before);
            assert!(back.is_ok(), "{workers} workers, round {round}: {back:?}");
            assert_eq!(engine.port(), before);
        }
    }
}
