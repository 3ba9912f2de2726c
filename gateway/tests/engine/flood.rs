//! Floods of what is none of the tunnel's, beside a stream that is.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use strait_gateway::datapath::{DropCause, PrivateKey};

use crate::bed::{Node, PATIENCE, Pair, config, dropped, loopback, peer, relay, until, v4};

pub(crate) const SCENARIOS: &[(&str, fn())] = &[
    (
        "floods_are_counted_and_streams_go_on",
        floods_are_counted_and_streams_go_on,
    ),
    (
        "a_handshake_gets_through_a_flood_of_handshakes",
        a_handshake_gets_through_a_flood_of_handshakes,
    ),
];

/// Datagrams of each flood.
const FLOOD: usize = 20_000;
/// Bytes of the stream beside it.
const STREAM: usize = 4_000_000;

/// Numbers that look random (xorshift).
struct Chance(u64);

impl Chance {
    fn byte(&mut self) -> u8 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u8
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.byte()).collect()
    }
}

/// Initiations for this key, whole, from somebody whom its owner does not know.
fn initiations(to: strait_gateway::datapath::PublicKey, count: usize) -> Vec<Vec<u8>> {
    let socket = UdpSocket::bind(loopback(0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let target = socket.local_addr().unwrap();
    (0..count)
        .map(|_| {
            let stranger = Node::new();
            let engine = stranger.engine(config(&PrivateKey::generate().unwrap()), 3);
            engine.set_peers(&[peer(2, to, &[target])]);
            let mut buffer = [0; 200];
            let len = socket.recv(&mut buffer).unwrap();
            assert_eq!((len, buffer[0]), (148, 1));
            buffer[..len].to_vec()
        })
        .collect()
}

fn stream(pair: &Pair) {
    let listener = pair.b.run(|| TcpListener::bind((v4(2), 0)).unwrap());
    let target = listener.local_addr().unwrap();
    std::thread::scope(|scope| {
        let received = scope.spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            bytes
        });
        let sent: Vec<u8> = (0..STREAM).map(|at| (at % 251) as u8).collect();
        let mut stream = pair.a.run(|| TcpStream::connect(target).unwrap());
        stream.write_all(&sent).unwrap();
        drop(stream);
        assert!(received.join().unwrap() == sent, "other bytes arrived");
    });
}

fn floods_are_counted_and_streams_go_on() {
    let pair = Pair::apart();
    let to_b = loopback(pair.engine_b.port());
    // Data that has crossed already.
    let captured = Arc::new(Mutex::new(Vec::new()));
    let copies = Arc::clone(&captured);
    let relay = relay(to_b, move |socket, datagram, to| {
        if datagram[0] == 4 && datagram.len() > 32 {
            copies.lock().unwrap().push(datagram.to_vec());
        }
        socket.send_to(datagram, to).unwrap();
    });
    let (a, b) = (pair.engine_a.public_key(), pair.engine_b.public_key());
    assert_eq!(pair.engine_b.set_peers(&[peer(1, a, &[])]), []);
    assert_eq!(pair.engine_a.set_peers(&[peer(2, b, &[relay])]), []);
    for _ in 0..20 {
        pair.works();
    }
    pair.engine_a.redirect(&b, to_b);
    pair.works();
    let captured = std::mem::take(&mut *captured.lock().unwrap());
    assert!(!captured.is_empty(), "nothing was captured");

    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    let forged = |kind: u8, len: usize, chance: &mut Chance| {
        let mut bytes = chance.bytes(len);
        bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
        bytes
    };
    let whole = initiations(pair.engine_b.public_key(), 2);
    let floods: BTreeMap<&str, (Vec<Vec<u8>>, &[DropCause])> = BTreeMap::from([
        (
            "random datagrams",
            (
                (0..64).map(|len| chance.bytes(20 + len * 20)).collect(),
                &[DropCause::InMalformed][..],
            ),
        ),
        (
            "data of no session",
            (
                (0..64).map(|_| forged(4, 1000, &mut chance)).collect(),
                &[DropCause::InUnknownSession],
            ),
        ),
        (
            "handshakes that are none",
            (
                (0..64).map(|_| forged(1, 148, &mut chance)).collect(),
                &[DropCause::InBadHandshake, DropCause::InHandshakeQueueFull],
            ),
        ),
        (
            "handshakes of strangers",
            (
                whole,
                &[
                    DropCause::InUnknownKey,
                    DropCause::InRateLimited,
                    DropCause::InHandshakeQueueFull,
                ],
            ),
        ),
        ("replays", (captured, &[DropCause::InReplay])),
    ]);
    for (what, (datagrams, causes)) in &floods {
        let before: u64 = causes.iter().map(|cause| dropped(&pair.engine_b, *cause)).sum();
        let (done, stop) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let socket = UdpSocket::bind(loopback(0)).unwrap();
                for datagram in datagrams.iter().cycle().take(FLOOD) {
                    socket.send_to(datagram, to_b).unwrap();
                }
                drop(done);
            });
            // All the time that it lasts, and once more.
            while matches!(stop.try_recv(), Err(mpsc::TryRecvError::Empty)) {
                stream(&pair);
            }
        });
        stream(&pair);
        let counted = || {
            causes
                .iter()
                .map(|cause| dropped(&pair.engine_b, *cause))
                .sum::<u64>()
                - before
        };
        // The kernel may have dropped some before.
        until(what, || counted() > FLOOD as u64 / 2);
        assert!(
            counted() <= FLOOD as u64,
            "{what}: {} of {FLOOD} counted",
            counted()
        );
    }
    assert_eq!((pair.engine_a.fault(), pair.engine_b.fault()), (None, None));
}

fn a_handshake_gets_through_a_flood_of_handshakes() {
    let pair = Pair::apart();
    let target: SocketAddr = loopback(pair.engine_b.port());
    let datagrams = initiations(pair.engine_b.public_key(), 2);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // From another address than the peers'.
            let socket = UdpSocket::bind("127.0.0.2:0").unwrap();
            while !stop.load(Ordering::SeqCst) {
                for datagram in datagrams.iter().cycle().take(200) {
                    socket.send_to(datagram, target).unwrap();
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        until("it is a flood", || {
            dropped(&pair.engine_b, DropCause::InRateLimited) > 100
        });
        let start = Instant::now();
        let met = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pair.meet()));
        stop.store(true, Ordering::SeqCst);
        assert!(met.is_ok(), "no session in {:?}", start.elapsed());
    });
    pair.works();
}
