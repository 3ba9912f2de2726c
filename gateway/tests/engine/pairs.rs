//! Pairs of engines that have met, and what crosses between them.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, SystemTime};

use strait_gateway::datapath::{Engine, EngineConfig, LastHandshake, PeerStatus};
use strait_linux::testing::until;

use crate::bed::{PATIENCE, Pair, exchange, loopback, peer, v4};

pub(crate) const fn v6(number: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, number, 0, 0, 0, 0, 0, 1))
}

impl Pair {
    pub(crate) fn new() -> Self {
        Self::over(loopback)
    }

    /// `underlay` gives a port its address between the nodes.
    pub(crate) fn over(underlay: impl Fn(u16) -> SocketAddr) -> Self {
        let pair = Self::apart();
        let (to_a, to_b) = (underlay(pair.engine_a.port()), underlay(pair.engine_b.port()));
        pair.join(&[to_a], &[to_b]);
        pair
    }

    /// Both engines' configurations changed in the same way.
    pub(crate) fn with(change: impl Fn(EngineConfig) -> EngineConfig) -> Self {
        Self::with_each(|_, config| change(config))
    }

    /// Each engine's configuration changed in its own way: 1 is A's, 2 is B's.
    pub(crate) fn with_each(change: impl Fn(u8, EngineConfig) -> EngineConfig) -> Self {
        let pair = Self::apart_with(change);
        pair.meet();
        pair
    }

    /// Gives both engines each other's loopback address.
    pub(crate) fn meet(&self) {
        let (to_a, to_b) = (loopback(self.engine_a.port()), loopback(self.engine_b.port()));
        self.join(&[to_a], &[to_b]);
    }

    pub(crate) fn join(&self, to_a: &[SocketAddr], to_b: &[SocketAddr]) {
        assert_eq!(
            self.engine_a
                .set_peers(&[peer(2, self.engine_b.public_key(), to_b)]),
            []
        );
        assert_eq!(
            self.engine_b
                .set_peers(&[peer(1, self.engine_a.public_key(), to_a)]),
            []
        );
        until("both ends have a session", || {
            only(&self.engine_a).last_handshake.is_some() && only(&self.engine_b).last_handshake.is_some()
        });
    }
}

/// The newest handshake with its only peer.
pub(crate) fn last_handshake(engine: &Engine) -> LastHandshake {
    only(engine).last_handshake.unwrap()
}

/// When that was, once none is under way: both sides may begin at once, and each handshake is a session's.
pub(crate) fn settled(engine: &Engine) -> SystemTime {
    until("no handshake is under way", || {
        last_handshake(engine).age > Duration::from_millis(500)
    });
    last_handshake(engine).at
}

pub(crate) fn only(engine: &Engine) -> PeerStatus {
    let peers = engine.status().peers;
    assert_eq!(peers.len(), 1);
    peers.into_iter().next().unwrap()
}

/// UDP and TCP, both ways, in both families.
pub(crate) fn transfer(pair: &Pair) {
    for (from, to) in [(v4(1), v4(2)), (v6(1), v6(2))] {
        let (from_socket, to_socket) = (pair.a.udp(from), pair.b.udp(to));
        for len in [0, 1, 100, 1300] {
            exchange(&from_socket, &to_socket, &vec![7; len]);
            exchange(&to_socket, &from_socket, &vec![8; len]);
        }
        let listener = pair.b.run(move || TcpListener::bind((to, 0)).unwrap());
        let address = listener.local_addr().unwrap();
        let client = std::thread::scope(|scope| {
            let server = scope.spawn(move || {
                let (mut stream, source) = listener.accept().unwrap();
                assert_eq!(source.ip(), from, "the source address is kept");
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes).unwrap();
                stream.write_all(&bytes).unwrap();
            });
            let sent: Vec<u8> = (0..4_000_000u32).map(|i| (i % 251) as u8).collect();
            let mut stream = pair.a.run(move || TcpStream::connect(address).unwrap());
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(&sent).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut back = Vec::new();
            stream.read_to_end(&mut back).unwrap();
            server.join().unwrap();
            assert!(back == sent, "TCP bytes differ");
            stream
        });
        drop(client);
    }
}
