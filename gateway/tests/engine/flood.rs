//! Floods of what is none of the tunnel's, beside a stream that is.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use strait_gateway::datapath::DropCause;
use strait_linux::testing::until;

use crate::bed::{PATIENCE, Pair, dropped, loopback, v4};
use crate::floods::{Flood, all, initiations, overheard};

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
    let (pair, captured) = overheard();
    let to_b = loopback(pair.engine_b.port());
    for flood in &all(&pair, captured) {
        let Flood { name, datagrams, .. } = flood;
        let before = flood.counted(&pair);
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
        // The kernel may have dropped some before.
        until(name, || flood.counted(&pair) - before > FLOOD as u64 / 2);
        let counted = flood.counted(&pair) - before;
        assert!(counted <= FLOOD as u64, "{name}: {counted} of {FLOOD} counted");
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
        until("it is more than the control thread takes", || {
            dropped(&pair.engine_b, DropCause::InHandshakeQueueFull) > 1000
        });
        let start = Instant::now();
        let met = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pair.meet()));
        stop.store(true, Ordering::SeqCst);
        assert!(met.is_ok(), "no session in {:?}", start.elapsed());
    });
    pair.works();
}
