//! What a packet costs, function by function: work for `benches/instructions.rs` to count.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::config::PeerConfig;
use super::join::{HEADERS_MAX, Join};
use super::key::PrivateKey;
use super::model::{self, ACK, ALL, Shape, packet_of, super_vnet};
use super::noise::{Identity, Kind, SCRATCH_LEN, Tunnel, kind};
use super::packet;
use super::peer::{Peer, Place};
use super::split::{Prepared, prepare};
use super::table::{Member, Table};

/// Segments of a super packet, as TCP fills it.
const SEGMENTS: usize = 45;
/// Payload of a full segment.
const PAYLOAD: usize = 1368;
/// Remote clusters' prefixes in the table, and the gateways behind them. A peer costs a key exchange to make,
/// which valgrind is slow at.
const PREFIXES: u16 = 1000;
const PEERS: u16 = 8;

/// Something to count.
pub struct Work {
    /// Its name in the table.
    pub name: &'static str,
    /// Packets that one run handles.
    pub packets: u64,
    /// Prepares it; what that gives is one run.
    pub prepare: fn() -> Run,
}

impl Work {
    const fn new(name: &'static str, packets: usize, prepare: fn() -> Run) -> Self {
        Self {
            name,
            packets: packets as u64,
            prepare,
        }
    }
}

/// One run of a work, again and again.
pub type Run = Box<dyn FnMut()>;

/// Everything that is counted.
pub const WORKS: [Work; 7] = [
    Work::new("split a super packet", SEGMENTS, split),
    Work::new("join a super packet", SEGMENTS, join),
    Work::new("find a packet's peer, both ends", 1, route),
    Work::new("seal, 1420 bytes", 1, || seal(1420)),
    Work::new("open, 1420 bytes", 1, || open(1420)),
    Work::new("seal, 96 bytes", 1, || seal(96)),
    Work::new("open, 96 bytes", 1, || open(96)),
];

fn shape(number: u32) -> Shape {
    Shape {
        v6: false,
        udp: false,
        port: 5001,
        flags: ACK,
        sequence: number * PAYLOAD as u32,
    }
}

/// A super packet from the TUN, cut. The copy that it is cut in is counted too.
fn split() -> Run {
    let packet = packet_of(shape(0), &vec![7; SEGMENTS * PAYLOAD]);
    let vnet = super_vnet(shape(0), PAYLOAD);
    let mut buffer = packet.clone();
    Box::new(move || {
        buffer.copy_from_slice(&packet);
        let header = packet::parse(&buffer).unwrap();
        let Some(Prepared::Split(mut split)) = prepare(vnet, &mut buffer, header) else {
            panic!("it is not cut");
        };
        while let Some(range) = split.next(&mut buffer) {
            black_box(range);
        }
    })
}

/// Segments of one flow, joined for the TUN.
fn join() -> Run {
    let mut plain = Vec::new();
    let mut packets = Vec::new();
    for number in 0..SEGMENTS as u32 {
        let packet = packet_of(shape(number), &[7; PAYLOAD]);
        packets.push((plain.len(), packet.len()));
        plain.extend(packet);
    }
    let mut join = Join::new();
    Box::new(move || {
        join.group(&plain, &packets, ALL);
        let mut headers = [0; HEADERS_MAX];
        for group in &join.groups {
            black_box(group.headers(&plain[..packets[0].1], &mut headers));
        }
        assert_eq!(join.groups.len(), 1);
    })
}

/// A packet's peer, of a thousand prefixes, on the way out and on the way in.
fn route() -> Run {
    let identity = Identity::new(&PrivateKey::from_bytes([1; 32]));
    let peers = (0..PEERS)
        .map(|number| {
            let key = PrivateKey::from_bytes([2 + number as u8; 32]).public();
            let config = PeerConfig::new(format!("cluster-{number}/gateway"), key);
            let tunnel = identity.tunnel(&config.public_key, None, number.into());
            let prefixes = (number..PREFIXES).step_by(PEERS.into()).map(|prefix| {
                let [high, low] = prefix.to_be_bytes();
                format!("10.{high}.{low}.0/24").parse().unwrap()
            });
            let place = Place::only(&config, number.into());
            Member {
                lanes: vec![Arc::new(Peer::new(&config, place, tunnel))],
                allowed: prefixes.collect(),
            }
        })
        .collect();
    let table = Table::new(peers, 1);
    let (source, destination): (IpAddr, IpAddr) = (
        Ipv4Addr::new(10, 1, 7, 1).into(),
        Ipv4Addr::new(10, 1, 15, 1).into(),
    );
    let packet = model::udp(source, destination, &[7; 64]);
    Box::new(move || {
        let header = packet::parse(&packet).unwrap();
        let peer = table.route(header.destination, &packet, 0).unwrap();
        assert!(table.may_send(peer, header.source));
    })
}

fn packet(len: usize) -> Vec<u8> {
    let overhead = model::udp(Ipv4Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into(), &[]).len();
    model::udp(
        Ipv4Addr::new(10, 1, 0, 1).into(),
        Ipv4Addr::new(10, 2, 0, 1).into(),
        &vec![7; len - overhead],
    )
}

fn seal(len: usize) -> Run {
    let (mut sealer, _) = pair();
    let plain = packet(len);
    let mut room = vec![0; SCRATCH_LEN];
    Box::new(move || {
        black_box(sealer.seal(&plain, &mut room).unwrap());
    })
}

fn open(len: usize) -> Run {
    let (mut sealer, mut opener) = pair();
    let plain = packet(len);
    let mut sealed = vec![0; SCRATCH_LEN];
    // Each message opens once.
    let messages: Vec<Vec<u8>> = (0..RUNS_MAX)
        .map(|_| {
            let len = sealer.seal(&plain, &mut sealed).unwrap();
            sealed[..len].to_vec()
        })
        .collect();
    let mut messages = messages.into_iter();
    let mut opened = vec![0; SCRATCH_LEN];
    Box::new(move || {
        let message = messages.next().expect("more runs than messages");
        assert!(matches!(kind(&message), Some(Kind::Data(_))));
        assert_eq!(opener.open(&message, &mut opened), Ok(len));
    })
}

/// The most runs of one work.
pub const RUNS_MAX: usize = 16;

/// Two ends that have met.
fn pair() -> (Box<dyn Tunnel>, Box<dyn Tunnel>) {
    let (left, right) = (
        Identity::new(&PrivateKey::from_bytes([1; 32])),
        Identity::new(&PrivateKey::from_bytes([2; 32])),
    );
    let (mut a, mut b) = (
        left.tunnel(&right.public(), None, 1),
        right.tunnel(&left.public(), None, 2),
    );
    model::shake(&mut *a, &mut *b);
    (a, b)
}
