//! Nodes, their engines, and the network between them.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use strait_gateway::datapath::{
    DropCause, Engine, EngineConfig, PeerConfig, PeerStatus, PrivateKey, PublicKey,
};
use strait_linux::netns::Netns;
use strait_linux::userns;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Moves this process where it may make network devices, and nothing else of the machine can be touched.
pub(crate) fn enter_namespaces() {
    if !userns::is_root() {
        userns::become_root().unwrap_or_else(|error| panic!("{error}"));
    }
    let network = Netns::new().unwrap_or_else(|error| panic!("{error}"));
    network.enter().unwrap();
}

/// A network namespace of its own.
pub(crate) struct Node(Netns);

impl Node {
    pub(crate) fn new() -> Self {
        Self(Netns::new().unwrap())
    }

    /// Runs something inside: what it opens belongs to the node.
    pub(crate) fn run<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        self.0.run(job).unwrap()
    }

    /// Starts an engine with its TUN device inside and its socket in the network between the nodes.
    pub(crate) fn engine(&self, config: EngineConfig, number: u8) -> Engine {
        let socket = Engine::socket(&config).unwrap();
        self.run(move || {
            let engine = Engine::start_on(&config, socket).unwrap();
            engine
                .tun()
                .add_address(format!("10.{number}.0.1/8").parse().unwrap())
                .unwrap();
            engine
                .tun()
                .add_address(format!("fd00:{number}::1/16").parse().unwrap())
                .unwrap();
            engine
        })
    }

    pub(crate) fn udp(&self, address: IpAddr) -> UdpSocket {
        let socket = self.run(move || UdpSocket::bind((address, 0)).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }
}

pub(crate) const fn v4(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, number, 0, 1))
}

pub(crate) const fn v6(number: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, number, 0, 0, 0, 0, 0, 1))
}

pub(crate) fn config(key: &PrivateKey) -> EngineConfig {
    EngineConfig {
        listen_port: 0,
        ..EngineConfig::new(key.clone())
    }
}

pub(crate) fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

pub(crate) fn peer(number: u8, key: PublicKey, candidates: &[SocketAddr]) -> PeerConfig {
    PeerConfig {
        id: format!("cluster-{number}/gateway"),
        public_key: key,
        lane_keys: Vec::new(),
        candidates: candidates.to_vec(),
        allowed: vec![
            format!("10.{number}.0.0/16").parse().unwrap(),
            format!("fd00:{number}::/32").parse().unwrap(),
        ],
        keepalive: Some(Duration::from_secs(25)),
        preshared: None,
    }
}

/// Two nodes and their engines, joined.
pub(crate) struct Pair {
    pub(crate) a: Node,
    pub(crate) b: Node,
    pub(crate) key_a: PrivateKey,
    pub(crate) engine_a: Engine,
    pub(crate) engine_b: Engine,
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

    /// Nobody knows the other.
    pub(crate) fn apart() -> Self {
        Self::apart_with(|_, config| config)
    }

    /// Both engines' configurations changed in the same way.
    pub(crate) fn with(change: impl Fn(EngineConfig) -> EngineConfig) -> Self {
        let pair = Self::apart_with(|_, config| change(config));
        pair.meet();
        pair
    }

    /// Gives both engines each other's loopback address.
    pub(crate) fn meet(&self) {
        let (to_a, to_b) = (loopback(self.engine_a.port()), loopback(self.engine_b.port()));
        self.join(&[to_a], &[to_b]);
    }

    /// Each engine's configuration changed in its own way: 1 is A's, 2 is B's.
    pub(crate) fn apart_with(change: impl Fn(u8, EngineConfig) -> EngineConfig) -> Self {
        let (a, b) = (Node::new(), Node::new());
        let (key_a, key_b) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        let (engine_a, engine_b) = (
            a.engine(change(1, config(&key_a)), 1),
            b.engine(change(2, config(&key_b)), 2),
        );
        Self {
            a,
            b,
            key_a,
            engine_a,
            engine_b,
        }
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

    /// Sends a packet each way and waits for it.
    pub(crate) fn works(&self) {
        let (from, to) = (self.a.udp(v4(1)), self.b.udp(v4(2)));
        exchange(&from, &to, b"there");
        exchange(&to, &from, b"and back");
    }
}

pub(crate) fn exchange(from: &UdpSocket, to: &UdpSocket, payload: &[u8]) {
    from.send_to(payload, to.local_addr().unwrap()).unwrap();
    let mut buffer = vec![0; payload.len() + 1];
    let (len, source) = to.recv_from(&mut buffer).unwrap();
    assert_eq!((len, source), (payload.len(), from.local_addr().unwrap()));
    assert!(buffer[..len] == *payload, "other bytes arrived");
}

pub(crate) fn only(engine: &Engine) -> PeerStatus {
    let peers = engine.status().peers;
    assert_eq!(peers.len(), 1);
    peers.into_iter().next().unwrap()
}

pub(crate) fn dropped(engine: &Engine, cause: DropCause) -> u64 {
    let status = engine.status();
    status
        .peers
        .iter()
        .map(|peer| &peer.drops)
        .chain([&status.drops])
        .filter_map(|drops| drops.get(&cause))
        .sum()
}

pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
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

/// Passes datagrams on between two addresses, doing `with` to each that goes to `to`.
pub(crate) fn relay(
    to: SocketAddr,
    with: impl Fn(&UdpSocket, &[u8], SocketAddr) + Send + 'static,
) -> SocketAddr {
    let socket = UdpSocket::bind(loopback(0)).unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut other = None;
        let mut buffer = [0; 65_536];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            if from == to {
                if let Some(other) = other {
                    socket.send_to(&buffer[..len], other).unwrap();
                }
            } else {
                other = Some(from);
                with(&socket, &buffer[..len], to);
            }
        }
    });
    address
}
