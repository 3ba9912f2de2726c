//! Several workers, and several lanes between two gateways.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Instant;

use strait_gateway::datapath::{
    DropCause, Engine, EngineConfig, LaneStatus, PeerConfig, PresharedKey, PrivateKey,
};
use strait_linux::link::Links;
use strait_linux::testing::until;

use crate::bed::{PATIENCE, Pair, dropped, loopback, peer, v4};
use crate::pairs::{last_handshake, only, settled, transfer};

pub(crate) const SCENARIOS: &[(&str, fn())] = &[
    (
        "bytes_cross_with_several_workers_and_after_a_move",
        bytes_cross_with_several_workers_and_after_a_move,
    ),
    (
        "a_thousand_flows_spread_over_the_lanes_in_order",
        a_thousand_flows_spread_over_the_lanes_in_order,
    ),
    ("two_workers_share_streams", two_workers_share_streams),
    (
        "gateways_with_different_numbers_of_lanes_meet",
        gateways_with_different_numbers_of_lanes_meet,
    ),
    (
        "the_other_lanes_take_the_flows_of_one_that_fails",
        the_other_lanes_take_the_flows_of_one_that_fails,
    ),
    ("keys_change_in_every_lane", keys_change_in_every_lane),
    (
        "a_deleted_device_ends_every_worker",
        a_deleted_device_ends_every_worker,
    ),
];

fn bytes_cross_with_several_workers_and_after_a_move() {
    let pair = Pair::with_each(|number, config| EngineConfig {
        workers: if number == 1 { 4 } else { 3 },
        ..config
    });
    assert_eq!((pair.engine_a.workers(), pair.engine_b.workers()), (4, 3));
    transfer(&pair);
    let before = pair.engine_a.port();
    pair.engine_a.listen(0).unwrap();
    assert_ne!(pair.engine_a.port(), before);
    transfer(&pair);
    for engine in [&pair.engine_a, &pair.engine_b] {
        assert_eq!(engine.fault(), None);
        let drops = only(engine).drops;
        assert!(!drops.contains_key(&DropCause::InReplay), "overtaken: {drops:?}");
    }
}

/// Two nodes whose engines have so many workers, joined by as many lanes as both have.
fn laned(workers_a: usize, workers_b: usize) -> Pair {
    let pair = Pair::apart_with(|number, config| EngineConfig {
        workers: if number == 1 { workers_a } else { workers_b },
        ..config
    });
    for number in [1, 2] {
        let (engine, peer) = far(&pair, number, None);
        assert_eq!(engine.set_peers(&[peer]), []);
    }
    all_lanes_meet(&pair);
    pair
}

/// One of the engines, and the other as its peer with as many lanes as that has.
fn far(pair: &Pair, number: u8, preshared: Option<PresharedKey>) -> (&Engine, PeerConfig) {
    let (engine, other) = match number {
        1 => (&pair.engine_a, &pair.engine_b),
        _ => (&pair.engine_b, &pair.engine_a),
    };
    let keys = other.public_keys();
    let config = PeerConfig {
        lane_keys: keys[1..].to_vec(),
        preshared,
        ..peer(3 - number, keys[0], &[loopback(other.port())])
    };
    (engine, config)
}

fn all_lanes_meet(pair: &Pair) {
    let count = pair.engine_a.workers().min(pair.engine_b.workers());
    until("all lanes have a session", || {
        [&pair.engine_a, &pair.engine_b].iter().all(|engine| {
            let lanes = only(engine).lanes;
            lanes.len() == count && lanes.iter().all(|lane| lane.established)
        })
    });
}

fn packets(engine: &Engine, of: impl Fn(&LaneStatus) -> u64) -> Vec<u64> {
    only(engine).lanes.iter().map(of).collect()
}

/// Runs flows from A to B and back: each has a port of its own, its packets carry numbers, and they are sent
/// `window` flows at a time. Returns what each lane carried there.
fn flows(pair: &Pair, count: u16, rounds: u32) -> Vec<u64> {
    const WINDOW: usize = 50;
    let before = packets(&pair.engine_a, |lane| lane.tx_packets);
    let to = pair.b.udp(v4(2));
    let sockets: Vec<UdpSocket> = (0..count)
        .map(|number| {
            pair.a
                .run(move || UdpSocket::bind((v4(1), 20_000 + number)).unwrap())
        })
        .collect();
    let mut next: BTreeMap<SocketAddr, u32> = BTreeMap::new();
    let mut buffer = [0; 64];
    for some in sockets.chunks(WINDOW) {
        for socket in some {
            socket.connect(to.local_addr().unwrap()).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            for number in 0..rounds {
                socket.send(&number.to_be_bytes()).unwrap();
            }
        }
        // As many as were sent come, and none before one that was sent earlier.
        for _ in 0..some.len() as u32 * rounds {
            let (len, from) = to.recv_from(&mut buffer).unwrap();
            let expected = next.entry(from).or_default();
            assert_eq!(buffer[..len], expected.to_be_bytes(), "{from} is out of order");
            *expected += 1;
            to.send_to(&buffer[..len], from).unwrap();
        }
        for socket in some {
            for number in 0..rounds {
                let len = socket.recv(&mut buffer).unwrap();
                assert_eq!(buffer[..len], number.to_be_bytes(), "a reply is out of order");
            }
        }
    }
    let after = packets(&pair.engine_a, |lane| lane.tx_packets);
    after
        .iter()
        .zip(&before)
        .map(|(after, before)| after - before)
        .collect()
}

fn a_thousand_flows_spread_over_the_lanes_in_order() {
    const FLOWS: u16 = 1000;
    const ROUNDS: u32 = 5;
    let pair = laned(4, 4);
    let sent = flows(&pair, FLOWS, ROUNDS);
    let mean = f64::from(u32::from(FLOWS) * ROUNDS) / 4.0;
    let total = u64::from(u32::from(FLOWS) * ROUNDS);
    until("each packet is counted", || {
        packets(&pair.engine_a, |lane| lane.rx_packets)
            .iter()
            .sum::<u64>()
            == total
    });
    println!("packets by lane: {sent:?}");
    assert_eq!(sent.iter().sum::<u64>(), total);
    assert!(
        sent.iter().all(|&packets| packets as f64 <= 1.3 * mean),
        "uneven: {sent:?}"
    );
    assert!(
        sent.iter().all(|packets| packets % u64::from(ROUNDS) == 0),
        "a flow was on two lanes: {sent:?}"
    );
    // The far end saw the same lanes, its replies took them, and each is a worker's own.
    for (what, found) in [
        ("received there", packets(&pair.engine_b, |lane| lane.rx_packets)),
        ("sent back", packets(&pair.engine_b, |lane| lane.tx_packets)),
        ("received here", packets(&pair.engine_a, |lane| lane.rx_packets)),
    ] {
        assert_eq!(found, sent, "{what}");
    }
    for engine in [&pair.engine_a, &pair.engine_b] {
        let status = only(engine);
        let workers: BTreeSet<usize> = status.lanes.iter().map(|lane| lane.worker).collect();
        assert_eq!(workers.len(), 4, "{:?}", status.lanes);
        assert_eq!(status.drops, BTreeMap::new());
        assert_eq!((status.rx_packets, engine.fault()), (total, None));
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// Processor time of each of this process' threads that carry packets, in ticks, by name and number.
fn ticks() -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap().path();
        // A thread may have ended meanwhile.
        let Ok(stat) = std::fs::read_to_string(task.join("stat")) else {
            continue;
        };
        let (head, tail) = stat.rsplit_once(')').unwrap();
        let (id, name) = head.split_once(" (").unwrap();
        if name.starts_with("strait-") {
            let mut fields = tail
                .split_whitespace()
                .skip(11)
                .map(|field| field.parse::<u64>().unwrap());
            let spent = fields.next().unwrap() + fields.next().unwrap();
            found.insert(format!("{name} {id}"), spent);
        }
    }
    found
}

/// Streams through two engines of two workers each. `STRAIT_STREAMS` and `STRAIT_STREAM_MB` make it long enough
/// to look at with perf (CONTRIBUTING.md), and `STRAIT_FAR_WORKERS=1` shows what it is without lanes.
fn two_workers_share_streams() {
    let streams = number("STRAIT_STREAMS", 32);
    let bytes = number("STRAIT_STREAM_MB", 2) << 20;
    let pair = laned(2, number("STRAIT_FAR_WORKERS", 2) as usize);
    let before = ticks();
    let target = v4(2);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..streams {
            let listener = pair.b.run(move || TcpListener::bind((target, 0)).unwrap());
            let address = listener.local_addr().unwrap();
            scope.spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let read = std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
                assert_eq!(read, bytes);
            });
            let mut stream = pair.a.run(move || TcpStream::connect(address).unwrap());
            scope.spawn(move || {
                let chunk = vec![7; 128 << 10];
                let mut left = bytes as usize;
                while left > 0 {
                    let some = left.min(chunk.len());
                    stream.write_all(&chunk[..some]).unwrap();
                    left -= some;
                }
            });
        }
    });
    let spent = start.elapsed();
    let rate = (streams * bytes * 8) as f64 / spent.as_secs_f64() / 1e9;
    println!("{streams} streams in {spent:.2?}: {rate:.2} Gbit/s");
    for (thread, after) in ticks() {
        println!(
            "{thread}: {} ticks",
            after - before.get(&thread).copied().unwrap_or(0)
        );
    }
    for engine in [&pair.engine_a, &pair.engine_b] {
        let status = only(engine);
        println!("{:?}", status.lanes);
        assert_eq!(status.drops, BTreeMap::new());
        let total: u64 = status.lanes.iter().map(|lane| lane.tx_packets).sum();
        for lane in &status.lanes {
            assert!(
                lane.tx_packets > total / 20 && lane.rx_packets > 0,
                "{:?}",
                status.lanes
            );
        }
    }
}

fn gateways_with_different_numbers_of_lanes_meet() {
    for (workers_a, workers_b) in [(4, 1), (1, 4), (2, 4), (3, 2)] {
        let pair = laned(workers_a, workers_b);
        let sent = flows(&pair, 100, 3);
        assert_eq!(sent.len(), workers_a.min(workers_b));
        assert!(sent.iter().all(|&packets| packets > 0), "{sent:?}");
        transfer(&pair);
        for engine in [&pair.engine_a, &pair.engine_b] {
            assert_eq!(only(engine).drops, BTreeMap::new());
        }
    }
}

fn the_other_lanes_take_the_flows_of_one_that_fails() {
    let pair = laned(2, 2);
    flows(&pair, 20, 1);
    // B forgets the second lane: a gateway that started again with one worker.
    let keys = pair.engine_a.public_keys();
    assert_eq!(
        pair.engine_b
            .set_peers(&[peer(1, keys[0], &[loopback(pair.engine_a.port())])]),
        []
    );
    let told = only(&pair.engine_b);
    assert_eq!(
        (told.lanes.len(), told.rx_packets),
        (1, 20),
        "it goes on counting"
    );
    // What A still sends by that lane is lost until it knows: its session is over at the latest when B's
    // record says so.
    let keys = pair.engine_b.public_keys();
    assert_eq!(
        pair.engine_a
            .set_peers(&[peer(2, keys[0], &[loopback(pair.engine_b.port())])]),
        []
    );
    assert_eq!(flows(&pair, 20, 2), [40]);
    // And a lane that never had a session is not used: A knows it, B does not.
    let both = PeerConfig {
        lane_keys: keys[1..].to_vec(),
        ..peer(2, keys[0], &[loopback(pair.engine_b.port())])
    };
    assert_eq!(pair.engine_a.set_peers(&[both]), []);
    assert_eq!(flows(&pair, 20, 2), [40, 0]);
    let status = only(&pair.engine_a);
    assert!(status.established && status.endpoint.is_some(), "{status:?}");
    assert_eq!(
        status
            .lanes
            .iter()
            .map(|lane| lane.established)
            .collect::<Vec<_>>(),
        [true, false]
    );
    until("B counts the handshakes of a lane that it does not know", || {
        dropped(&pair.engine_b, DropCause::InUnknownKey) > 0
    });
}

fn keys_change_in_every_lane() {
    let pair = laned(2, 2);
    let used = |sent: Vec<u64>| sent.iter().sum::<u64>() == 40 && sent.iter().all(|&packets| packets > 0);
    assert!(used(flows(&pair, 40, 1)));
    let preshared = PresharedKey::from_bytes([5; 32]);
    let before = settled(&pair.engine_a);
    for number in [1, 2] {
        let (engine, peer) = far(&pair, number, Some(preshared.clone()));
        assert_eq!(engine.set_peers(&[peer]), []);
        assert!(used(flows(&pair, 40, 1)), "the sessions stand");
    }
    assert_eq!(
        last_handshake(&pair.engine_a).at,
        before,
        "no handshake was needed"
    );
    let (engine, peer) = far(&pair, 2, Some(preshared.clone()));
    let before = engine.public_keys();
    assert_eq!(
        engine.set_private_key(&PrivateKey::generate().unwrap(), &[peer]),
        []
    );
    assert!(engine.public_keys().iter().all(|key| !before.contains(key)));
    let (engine, peer) = far(&pair, 1, Some(preshared));
    assert_eq!(engine.set_peers(&[peer]), []);
    all_lanes_meet(&pair);
    assert!(used(flows(&pair, 40, 1)));
    assert_eq!(only(&pair.engine_b).rx_packets, 160, "it goes on counting");
}

fn a_deleted_device_ends_every_worker() {
    let pair = laned(3, 3);
    pair.a
        .run(|| Links::open().unwrap().remove("strait-tun").unwrap());
    until("the engine says so", || pair.engine_a.fault().is_some());
    let fault = pair.engine_a.fault().unwrap();
    assert!(fault.contains("strait-tun"), "{fault}");
    pair.engine_a.stop();
    assert_eq!(pair.engine_b.fault(), None);
}
