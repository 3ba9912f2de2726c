//! What somebody sends who means harm: for the tests beside, and for `benches/flood.rs`.

use std::net::UdpSocket;
use std::sync::{Arc, Mutex};

use strait_gateway::datapath::{DropCause, PrivateKey, PublicKey};

use crate::bed::{Node, PATIENCE, Pair, config, dropped, loopback, peer, relay};

/// A flood: its datagrams, over and over.
pub(crate) struct Flood {
    pub(crate) name: &'static str,
    pub(crate) datagrams: Vec<Vec<u8>>,
    /// As what it may be counted.
    causes: &'static [DropCause],
}

impl Flood {
    /// How much of it the second engine has counted.
    pub(crate) fn counted(&self, pair: &Pair) -> u64 {
        let causes = self.causes.iter();
        causes.map(|cause| dropped(&pair.engine_b, *cause)).sum()
    }
}

/// Numbers that look random (xorshift).
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn byte(&mut self) -> u8 {
        (self.number() >> 32) as u8
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.byte()).collect()
    }

    fn forged(&mut self, kind: u8, len: usize) -> Vec<u8> {
        let mut bytes = self.bytes(len);
        bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
        bytes
    }
}

/// Initiations for this key, whole, from somebody whom its owner does not know.
pub(crate) fn initiations(to: PublicKey, count: usize) -> Vec<Vec<u8>> {
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

/// Two engines that have met, and data messages that have crossed from the first to the second.
pub(crate) fn overheard() -> (Pair, Vec<Vec<u8>>) {
    let pair = Pair::apart();
    let to_b = loopback(pair.engine_b.port());
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
    // From now on without the relay.
    pair.engine_a.redirect(&b, to_b);
    pair.works();
    let captured = std::mem::take(&mut *captured.lock().unwrap());
    assert!(!captured.is_empty(), "nothing was captured");
    (pair, captured)
}

/// Every flood for the second engine.
pub(crate) fn all(pair: &Pair, captured: Vec<Vec<u8>>) -> Vec<Flood> {
    let mut chance = Chance::new();
    vec![
        Flood {
            name: "random datagrams",
            datagrams: (0..64).map(|len| chance.bytes(20 + len * 20)).collect(),
            causes: &[DropCause::InMalformed],
        },
        Flood {
            name: "data of no session",
            datagrams: (0..64).map(|_| chance.forged(4, 1000)).collect(),
            causes: &[DropCause::InUnknownSession],
        },
        Flood {
            name: "handshakes with a wrong seal",
            datagrams: (0..64).map(|_| chance.forged(1, 148)).collect(),
            causes: &[DropCause::InBadHandshake, DropCause::InHandshakeQueueFull],
        },
        Flood {
            name: "handshakes of strangers",
            datagrams: initiations(pair.engine_b.public_key(), 2),
            causes: &[
                DropCause::InUnknownKey,
                DropCause::InRateLimited,
                DropCause::InHandshakeQueueFull,
            ],
        },
        Flood {
            name: "replays",
            datagrams: captured,
            causes: &[DropCause::InReplay],
        },
    ]
}
