//! Nodes, their engines, and the network between them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use strait_gateway::datapath::{DropCause, Engine, EngineConfig, PeerConfig, PrivateKey, PublicKey};
use strait_linux::netns::Netns;
pub(crate) use strait_linux::testing::PATIENCE;

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
        candidates: candidates.to_vec(),
        allowed: vec![
            format!("10.{number}.0.0/16").parse().unwrap(),
            format!("fd00:{number}::/32").parse().unwrap(),
        ],
        keepalive: Some(Duration::from_secs(25)),
        ..PeerConfig::new(format!("cluster-{number}/gateway"), key)
    }
}

/// Two nodes and their engines.
pub(crate) struct Pair {
    pub(crate) a: Node,
    pub(crate) b: Node,
    pub(crate) engine_a: Engine,
    pub(crate) engine_b: Engine,
}

impl Pair {
    /// Nobody knows the other.
    pub(crate) fn apart() -> Self {
        Self::apart_with(|_, config| config)
    }

    /// Each engine's configuration changed in its own way: 1 is A's, 2 is B's.
    pub(crate) fn apart_with(change: impl Fn(u8, EngineConfig) -> EngineConfig) -> Self {
        let (a, b) = (Node::new(), Node::new());
        let start = |node: &Node, number| {
            let key = PrivateKey::generate().unwrap();
            node.engine(change(number, config(&key)), number)
        };
        let (engine_a, engine_b) = (start(&a, 1), start(&b, 2));
        Self {
            a,
            b,
            engine_a,
            engine_b,
        }
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
