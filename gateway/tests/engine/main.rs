//! Two engines, each with its TUN device in a network namespace of its own, and a third namespace as the
//! network between them.
//!
//! Without a test harness, as a user namespace can only be entered while there is one thread.

#![allow(clippy::unwrap_used)]

mod bed;
mod flood;
mod floods;
mod keys;
mod lanes;
mod links;
mod offloads;
mod packets;
mod pairs;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use bed::{Node, PATIENCE, Pair, config, dropped, exchange, loopback, peer, relay, v4};
use floods::Chance;
use pairs::{last_handshake, only, settled, transfer};
use strait_gateway::datapath::{
    DropCause, Engine, EngineConfig, EngineError, PeerConfig, PrivateKey, PublicKey, RefusedReason,
};
use strait_linux::testing::{enter_namespaces, until};
use strait_linux::tun;

fn main() {
    enter_namespaces();
    let filter = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'));
    let scenarios: &[(&str, fn())] = &[
        ("bytes_cross_in_both_families", bytes_cross_in_both_families),
        ("bytes_cross_without_offloads", bytes_cross_without_offloads),
        ("an_ipv6_underlay_works", an_ipv6_underlay_works),
        (
            "a_dead_candidate_does_not_matter",
            a_dead_candidate_does_not_matter,
        ),
        (
            "a_hostile_inner_source_is_dropped",
            a_hostile_inner_source_is_dropped,
        ),
        ("random_datagrams_change_nothing", random_datagrams_change_nothing),
        (
            "replayed_and_cut_datagrams_are_dropped",
            replayed_and_cut_datagrams_are_dropped,
        ),
        (
            "a_restart_with_the_same_key_recovers",
            a_restart_with_the_same_key_recovers,
        ),
        (
            "roaming_follows_authentic_packets",
            roaming_follows_authentic_packets,
        ),
        (
            "setting_the_same_peers_keeps_the_session",
            setting_the_same_peers_keeps_the_session,
        ),
        ("a_removed_peer_is_cut_off", a_removed_peer_is_cut_off),
        (
            "a_tunnel_on_demand_comes_with_the_first_packet",
            a_tunnel_on_demand_comes_with_the_first_packet,
        ),
        (
            "two_gateways_of_one_cluster_share_its_flows",
            two_gateways_of_one_cluster_share_its_flows,
        ),
        ("an_unknown_key_gets_no_tunnel", an_unknown_key_gets_no_tunnel),
        (
            "a_packet_for_nobody_is_dropped_and_counted",
            a_packet_for_nobody_is_dropped_and_counted,
        ),
        (
            "bad_peers_are_named_and_the_others_applied",
            bad_peers_are_named_and_the_others_applied,
        ),
        (
            "what_is_taken_is_named_and_all_vanishes_at_the_end",
            what_is_taken_is_named_and_all_vanishes_at_the_end,
        ),
    ];
    let mut ran = 0;
    for (name, scenario) in scenarios
        .iter()
        .chain(packets::SCENARIOS)
        .chain(keys::SCENARIOS)
        .chain(lanes::SCENARIOS)
        .chain(offloads::SCENARIOS)
        .chain(flood::SCENARIOS)
        .chain(links::SCENARIOS)
    {
        if filter.as_deref().is_none_or(|filter| name.contains(filter)) {
            let start = Instant::now();
            scenario();
            println!("test {name} ... ok ({:.2?})", start.elapsed());
            ran += 1;
        }
    }
    println!("\ntest result: ok. {ran} passed");
}

fn bytes_cross_without_offloads() {
    // One end with, one without.
    let pair = Pair::with_each(|number, config| EngineConfig {
        offload: number == 2,
        ..config
    });
    transfer(&pair);
    let offload = pair.engine_a.status().offload;
    assert!(
        !offload.tun_tcp && !offload.tun_join && !offload.udp_segmentation,
        "{offload:?}"
    );
}

fn bytes_cross_in_both_families() {
    let pair = Pair::new();
    transfer(&pair);
    let status = only(&pair.engine_b);
    assert_eq!(status.endpoint, Some(loopback(pair.engine_a.port())));
    assert!(
        status.rx_bytes > 8_000_000 && status.tx_bytes > 8_000_000,
        "{status:?}"
    );
    assert!(
        status.rx_packets > 5_000 && status.last_handshake.is_some_and(|last| last.age < PATIENCE),
        "{status:?}"
    );
    assert_eq!(pair.engine_a.fault(), None);
    for engine in [&pair.engine_a, &pair.engine_b] {
        // What the kernel has granted it has not taken back.
        let offload = engine.status().offload;
        assert_eq!(
            (offload.tun_join, offload.udp_segmentation),
            (offload.tun_tcp, true),
            "{offload:?}"
        );
    }
}

fn an_ipv6_underlay_works() {
    let pair = Pair::over(|port| (Ipv6Addr::LOCALHOST, port).into());
    pair.works();
    assert_eq!(
        only(&pair.engine_b).endpoint.unwrap().ip(),
        IpAddr::from(Ipv6Addr::LOCALHOST)
    );
}

fn a_dead_candidate_does_not_matter() {
    let pair = Pair::apart();
    let nobody = UdpSocket::bind(loopback(0)).unwrap();
    let dead = [
        nobody.local_addr().unwrap(),
        "[2001:db8::1]:4510".parse().unwrap(),
    ];
    let with = |port| [dead[0], dead[1], loopback(port)];
    pair.join(&with(pair.engine_a.port()), &with(pair.engine_b.port()));
    pair.works();
    assert_eq!(
        only(&pair.engine_a).endpoint,
        Some(loopback(pair.engine_b.port()))
    );
}

fn a_hostile_inner_source_is_dropped() {
    let pair = Pair::new();
    // The same peer, authentic, sends in another cluster's name.
    let foreign: IpAddr = Ipv4Addr::new(10, 77, 0, 1).into();
    pair.a
        .run(|| tun::add_address("lo", "10.77.0.1/32".parse().unwrap()).unwrap());
    let (hostile, victim) = (pair.a.udp(foreign), pair.b.udp(v4(2)));
    for _ in 0..10 {
        hostile.send_to(b"hostile", victim.local_addr().unwrap()).unwrap();
    }
    until("the drops are counted", || {
        dropped(&pair.engine_b, DropCause::InSourceNotAllowed) >= 10
    });
    // What arrives first is the honest packet: none of the hostile ones came before it.
    exchange(&pair.a.udp(v4(1)), &victim, b"honest");
    let drops = only(&pair.engine_b).drops;
    assert_eq!(
        drops.get(&DropCause::InSourceNotAllowed),
        Some(&10),
        "the peer is blamed: {drops:?}"
    );
}

fn random_datagrams_change_nothing() {
    let pair = Pair::new();
    let before = only(&pair.engine_b);
    let socket = UdpSocket::bind(loopback(0)).unwrap();
    let target = loopback(pair.engine_b.port());
    let mut chance = Chance::new();
    let mut random = || chance.number();
    let mut buffer = vec![0u8; 65_507];
    let mut sent = 0;
    for round in 0..4000u64 {
        let len = match round % 8 {
            0 => 148,
            1 => 92,
            2 => 64,
            3 => 32 + random() as usize % 100,
            4 => random() as usize % 32,
            5 => random() as usize % 65_507,
            _ => random() as usize % 1500,
        };
        for byte in &mut buffer[..len] {
            *byte = random() as u8;
        }
        if random().is_multiple_of(2) && len >= 8 {
            buffer[..4].copy_from_slice(&[1 + (round % 4) as u8, 0, 0, 0]);
            // Sometimes an index that may well be in use.
            buffer[4..8].copy_from_slice(&(random() as u32 & 0xff00_01ff).to_le_bytes());
        }
        socket.send_to(&buffer[..len], target).unwrap();
        sent += 1;
        if round % 200 == 0 {
            // Keep pace with the receiver, so that its buffer does not overflow.
            pair.works();
        }
    }
    pair.works();
    let counted = || pair.engine_b.status();
    until("most of it is counted", || {
        let status = counted();
        status
            .drops
            .values()
            .chain(status.peers[0].drops.values())
            .sum::<u64>()
            > sent / 2
    });
    let after = only(&pair.engine_b);
    assert_eq!(
        after.endpoint, before.endpoint,
        "nothing forged moves the endpoint"
    );
    assert_eq!(pair.engine_b.fault(), None);
    let drops = counted().drops;
    for cause in [DropCause::InMalformed, DropCause::InBadHandshake] {
        assert!(drops.contains_key(&cause), "{cause}: {drops:?}");
    }
}

fn replayed_and_cut_datagrams_are_dropped() {
    let pair = Pair::apart();
    let (a, b) = (pair.engine_a.public_key(), pair.engine_b.public_key());
    let relay = relay(loopback(pair.engine_b.port()), |socket, datagram, to| {
        // The forgeries come first: behind the original they would only be replays.
        let cut = datagram.len() - 1;
        socket.send_to(&datagram[..cut], to).unwrap();
        let mut changed = datagram.to_vec();
        changed[cut] ^= 1;
        socket.send_to(&changed, to).unwrap();
        socket.send_to(datagram, to).unwrap();
        socket.send_to(datagram, to).unwrap();
    });
    assert_eq!(pair.engine_b.set_peers(&[peer(1, a, &[])]), []);
    assert_eq!(pair.engine_a.set_peers(&[peer(2, b, &[relay])]), []);
    let (from, to) = (pair.a.udp(v4(1)), pair.b.udp(v4(2)));
    for round in 0..50u8 {
        exchange(&from, &to, &[round]);
    }
    exchange(&to, &from, b"back");
    to.set_nonblocking(true).unwrap();
    assert!(
        to.recv_from(&mut [0; 64]).is_err(),
        "a replayed packet was delivered"
    );
    until("replays and forgeries are counted", || {
        dropped(&pair.engine_b, DropCause::InReplay) >= 50
            && dropped(&pair.engine_b, DropCause::InBadTag) >= 100
    });
    // A packet is counted just after it is delivered.
    until("each packet is counted once", || {
        only(&pair.engine_b).rx_packets == 50
    });
}

/// The first gateway ends, and one of this configuration, which knows the second, comes in its place in another
/// namespace. Also tells when it began to come.
fn replaced(pair: Pair, config: EngineConfig) -> (Pair, Instant) {
    let Pair {
        a,
        b,
        engine_a,
        engine_b,
    } = pair;
    engine_a.stop();
    drop(a);
    let a = Node::new();
    let start = Instant::now();
    let engine_a = a.engine(config, 1);
    let known = peer(2, engine_b.public_key(), &[loopback(engine_b.port())]);
    assert_eq!(engine_a.set_peers(&[known]), []);
    let pair = Pair {
        a,
        b,
        engine_a,
        engine_b,
    };
    (pair, start)
}

/// A pair, and the first gateway's key.
fn pair_and_key() -> (Pair, PrivateKey) {
    let key = PrivateKey::generate().unwrap();
    let pair = Pair::with_each(|number, config| match number {
        1 => EngineConfig {
            private_key: key.clone(),
            ..config
        },
        _ => config,
    });
    (pair, key)
}

fn a_restart_with_the_same_key_recovers() {
    let (mut pair, key) = pair_and_key();
    pair.works();
    for _ in 0..3 {
        let same = EngineConfig {
            listen_port: pair.engine_a.port(),
            ..config(&key)
        };
        let start;
        (pair, start) = replaced(pair, same);
        pair.works();
        assert!(
            start.elapsed() < Duration::from_secs(4),
            "it took {:?}",
            start.elapsed()
        );
    }
}

fn roaming_follows_authentic_packets() {
    let (pair, key) = pair_and_key();
    // The same gateway comes back at another port, which is in nobody's record.
    let (pair, _) = replaced(pair, config(&key));
    pair.works();
    assert_eq!(
        only(&pair.engine_b).endpoint,
        Some(loopback(pair.engine_a.port()))
    );
}

fn setting_the_same_peers_keeps_the_session() {
    let pair = Pair::new();
    pair.works();
    let peers = [peer(
        2,
        pair.engine_b.public_key(),
        &[loopback(pair.engine_b.port())],
    )];
    // A packet is counted just after it is delivered.
    until("the first packet is counted", || {
        only(&pair.engine_a).rx_packets == 1
    });
    let before = settled(&pair.engine_a);
    for _ in 0..5 {
        assert_eq!(pair.engine_a.set_peers(&peers), []);
        pair.works();
    }
    let mut wider = peers.clone();
    wider[0].allowed.push("10.9.0.0/16".parse().unwrap());
    assert_eq!(pair.engine_a.set_peers(&wider), []);
    pair.works();
    assert_eq!(last_handshake(&pair.engine_a).at, before, "a new handshake");
    until("counters go on", || only(&pair.engine_a).rx_packets == 7);
}

fn a_removed_peer_is_cut_off() {
    let pair = Pair::new();
    pair.works();
    assert_eq!(pair.engine_b.set_peers(&[]), []);
    let (from, to) = (pair.a.udp(v4(1)), pair.b.udp(v4(2)));
    let target = to.local_addr().unwrap();
    until("its data finds no session", || {
        from.send_to(b"gone", target).unwrap();
        dropped(&pair.engine_b, DropCause::InUnknownSession) >= 3
    });
    to.set_nonblocking(true).unwrap();
    assert!(
        to.recv_from(&mut [0; 64]).is_err(),
        "a removed peer's packet was delivered"
    );
    // And back: a new session, not the old one.
    let back = [peer(
        1,
        pair.engine_a.public_key(),
        &[loopback(pair.engine_a.port())],
    )];
    assert_eq!(pair.engine_b.set_peers(&back), []);
    to.set_nonblocking(false).unwrap();
    to.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    until("it is let in again", || {
        // What A still sends under the old session is lost.
        from.send_to(b"back", target).unwrap();
        to.recv_from(&mut [0; 64]).is_ok()
    });
    pair.works();
}

fn a_tunnel_on_demand_comes_with_the_first_packet() {
    let pair = Pair::apart();
    let quiet = |config| PeerConfig {
        keepalive: None,
        ..config
    };
    let to_b = quiet(peer(
        2,
        pair.engine_b.public_key(),
        &[loopback(pair.engine_b.port())],
    ));
    let to_a = quiet(peer(1, pair.engine_a.public_key(), &[]));
    assert_eq!(pair.engine_a.set_peers(&[to_b]), []);
    assert_eq!(pair.engine_b.set_peers(&[to_a]), []);
    // Two ticks of the timers.
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(only(&pair.engine_a).tx_bytes, 0, "nobody asked for a handshake");
    pair.works();
}

fn two_gateways_of_one_cluster_share_its_flows() {
    let Pair {
        a,
        b,
        engine_a,
        engine_b,
    } = Pair::apart();
    let (c, key_c) = (Node::new(), PrivateKey::generate().unwrap());
    let engine_c = c.engine(config(&key_c), 2);
    let gateway = |id: &str, engine: &Engine| PeerConfig {
        id: id.to_owned(),
        ..peer(2, engine.public_key(), &[loopback(engine.port())])
    };
    assert_eq!(
        engine_a.set_peers(&[gateway("green/b", &engine_b), gateway("green/c", &engine_c)]),
        []
    );
    for engine in [&engine_b, &engine_c] {
        assert_eq!(engine.set_peers(&[peer(1, engine_a.public_key(), &[])]), []);
    }
    until("both tunnels are up", || {
        engine_a
            .status()
            .peers
            .iter()
            .all(|peer| peer.last_handshake.is_some())
    });
    let target = SocketAddr::new(v4(2), 9);
    for _ in 0..3 {
        for port in 0..200 {
            let socket = a.run(|| UdpSocket::bind((v4(1), 20_000 + port)).unwrap());
            socket.send_to(b"flow", target).unwrap();
        }
    }
    let received = || (only(&engine_b).rx_packets, only(&engine_c).rx_packets);
    until("all packets are there", || received().0 + received().1 == 600);
    let (b_packets, c_packets) = received();
    assert_eq!(
        (b_packets % 3, c_packets % 3),
        (0, 0),
        "a flow stays with its gateway"
    );
    assert!(
        b_packets > 150 && c_packets > 150,
        "{b_packets} and {c_packets} of 600"
    );
    drop((b, c));
}

fn an_unknown_key_gets_no_tunnel() {
    let pair = Pair::apart();
    let stranger = PrivateKey::generate().unwrap().public();
    assert_eq!(pair.engine_b.set_peers(&[peer(1, stranger, &[])]), []);
    let to_b = peer(2, pair.engine_b.public_key(), &[loopback(pair.engine_b.port())]);
    assert_eq!(pair.engine_a.set_peers(&[to_b]), []);
    until("the handshakes are counted", || {
        dropped(&pair.engine_b, DropCause::InUnknownKey) >= 2
    });
    assert_eq!(only(&pair.engine_a).last_handshake, None);
    assert_eq!(only(&pair.engine_b).last_handshake, None);
}

fn a_packet_for_nobody_is_dropped_and_counted() {
    let pair = Pair::new();
    let nowhere: SocketAddr = "10.200.0.1:9".parse().unwrap();
    pair.a.udp(v4(1)).send_to(b"x", nowhere).unwrap();
    until("no peer has the destination", || {
        dropped(&pair.engine_a, DropCause::OutNoRoute) >= 1
    });
    pair.works();
}

fn bad_peers_are_named_and_the_others_applied() {
    let pair = Pair::apart();
    let (a, b) = (&pair.engine_a, &pair.engine_b);
    let good = peer(2, b.public_key(), &[loopback(b.port())]);
    let named = |id: &str, config: &PeerConfig| PeerConfig {
        id: id.to_owned(),
        ..config.clone()
    };
    let refused = a.set_peers(&[
        named("self", &peer(3, a.public_key(), &[])),
        named("zero", &peer(4, PublicKey([0; 32]), &[])),
        good.clone(),
        named("same-key", &good),
        PeerConfig {
            id: good.id.clone(),
            ..peer(5, PrivateKey::generate().unwrap().public(), &[])
        },
    ]);
    let reasons: Vec<_> = refused
        .iter()
        .map(|refused| (refused.id.as_str(), refused.reason))
        .collect();
    assert_eq!(
        reasons,
        [
            ("self", RefusedReason::OwnKey),
            ("zero", RefusedReason::WeakKey),
            ("same-key", RefusedReason::DuplicateKey),
            ("cluster-2/gateway", RefusedReason::DuplicateId),
        ]
    );
    assert_eq!(b.set_peers(&[peer(1, a.public_key(), &[loopback(a.port())])]), []);
    until("the good peer has a session", || only(a).last_handshake.is_some());
    pair.works();
}

fn what_is_taken_is_named_and_all_vanishes_at_the_end() {
    let node = Node::new();
    let key = PrivateKey::generate().unwrap();
    let engine = node.engine(config(&key), 1);
    let again = EngineConfig {
        listen_port: engine.port(),
        ..config(&key)
    };
    let error = Engine::start(&again).err().unwrap();
    assert!(
        matches!(error, EngineError::PortInUse { port } if port == engine.port()),
        "{error}"
    );
    for workers in [1, 2] {
        let same_name = EngineConfig {
            workers,
            ..config(&key)
        };
        let error = node
            .run(move || Engine::start(&same_name).err().unwrap())
            .to_string();
        assert!(error.contains("strait-tun") && error.contains("taken"), "{error}");
    }
    for workers in [0, 9] {
        let wrong = EngineConfig {
            workers,
            ..config(&key)
        };
        assert!(matches!(Engine::start(&wrong), Err(EngineError::BadWorkers(count)) if count == workers));
    }
    let small = EngineConfig {
        mtu: 1000,
        ..config(&key)
    };
    assert!(matches!(
        Engine::start(&small),
        Err(EngineError::BadMtu { mtu: 1000, .. })
    ));

    let exists = || {
        node.run(|| {
            std::fs::read_to_string("/proc/thread-self/net/dev")
                .unwrap()
                .contains("strait-tun")
        })
    };
    assert!(exists());
    engine.stop();
    assert!(!exists(), "the TUN device stays behind");
}
