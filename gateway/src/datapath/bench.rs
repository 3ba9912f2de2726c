//! What a packet costs, function by function: work for `benches/instructions.rs` to count.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::config::PeerConfig;
use super::join::{HEADERS_MAX, Join};
use super::key::{PrivateKey, PublicKey};
use super::model::{self, ACK, ALL, Shape, packet_of, super_vnet};
use super::noise::{DATA_OVERHEAD, Identity, Kind, SCRATCH_LEN, Tunnel, kind};
use super::packet;
use super::peer::Peer;
use super::split::{Prepared, prepare};
use super::table::Table;

/// Segments of a super packet, as TCP fills it.
const SEGMENTS: usize = 45;
/// Payload of a full segment.
const PAYLOAD: usize = 1368;
/// Remote clusters' prefixes in the table.
const PREFIXES: u16 = 1000;

/// Something to count.
pub struct Work {
    /// Its name in the table.
    pub name: &'static str,
    /// Packets that one run handles.
    pub packets: u64,
    /// One run.
    pub run: Box<dyn FnMut()>,
}

/// Everything that is counted.
pub fn all() -> Vec<Work> {
    let mut work = vec![split(), join(), route()];
    for (seal, open, len) in [
        ("seal, 1420 bytes", "open, 1420 bytes", 1420),
        ("seal, 96 bytes", "open, 96 bytes", 96),
    ] {
        work.extend(crypt(seal, open, len));
    }
    work
}

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
fn split() -> Work {
    let packet = packet_of(shape(0), &vec![7; SEGMENTS * PAYLOAD]);
    let vnet = super_vnet(shape(0), PAYLOAD);
    let mut buffer = packet.clone();
    Work {
        name: "split a super packet",
        packets: SEGMENTS as u64,
        run: Box::new(move || {
            buffer.copy_from_slice(&packet);
            let header = packet::parse(&buffer).unwrap();
            let Some(Prepared::Split(mut split)) = prepare(vnet, &mut buffer, header) else {
                panic!("it is not cut");
            };
            while let Some(range) = split.next(&mut buffer) {
                black_box(range);
            }
        }),
    }
}

/// Segments of one flow, joined for the TUN.
fn join() -> Work {
    let mut plain = Vec::new();
    let mut packets = Vec::new();
    for number in 0..SEGMENTS as u32 {
        let packet = packet_of(shape(number), &[7; PAYLOAD]);
        packets.push((plain.len(), packet.len()));
        plain.extend(packet);
    }
    let mut join = Join::new();
    Work {
        name: "join a super packet",
        packets: SEGMENTS as u64,
        run: Box::new(move || {
            join.group(&plain, &packets, ALL);
            let mut headers = [0; HEADERS_MAX];
            for group in &join.groups {
                black_box(group.headers(&plain[..packets[0].1], &mut headers));
            }
            assert_eq!(join.groups.len(), 1);
        }),
    }
}

/// A packet's peer, of a thousand prefixes, on the way out and on the way in.
fn route() -> Work {
    let identity = Identity::new(&PrivateKey::from_bytes([1; 32]));
    let peers = (0..PREFIXES)
        .map(|number| {
            let [high, low] = number.to_be_bytes();
            let mut key = [9; 32];
            key[..2].copy_from_slice(&[high, low]);
            let config = PeerConfig {
                id: format!("cluster-{number}/gateway"),
                public_key: PublicKey(key),
                candidates: Vec::new(),
                allowed: Vec::new(),
                keepalive: None,
                preshared: None,
            };
            let tunnel = identity.tunnel(&config.public_key, None, number.into());
            let net = format!("10.{high}.{low}.0/24").parse().unwrap();
            (Arc::new(Peer::new(&config, number.into(), tunnel)), vec![net])
        })
        .collect();
    let table = Table::new(peers);
    let (source, destination): (IpAddr, IpAddr) = (
        Ipv4Addr::new(10, 1, 7, 1).into(),
        Ipv4Addr::new(10, 2, 9, 1).into(),
    );
    let packet = model::udp(source, destination, &[7; 64]);
    Work {
        name: "find a packet's peer, both ends",
        packets: 1,
        run: Box::new(move || {
            let header = packet::parse(&packet).unwrap();
            let peer = table.route(header.destination, &packet).unwrap();
            black_box(table.may_send(peer, header.source));
        }),
    }
}

fn crypt(seal: &'static str, open: &'static str, len: usize) -> [Work; 2] {
    let (left, right) = (
        Identity::new(&PrivateKey::from_bytes([1; 32])),
        Identity::new(&PrivateKey::from_bytes([2; 32])),
    );
    let pair = || {
        let (mut a, mut b) = (
            left.tunnel(&right.public(), None, 1),
            right.tunnel(&left.public(), None, 2),
        );
        meet(&mut *a, &mut *b);
        (a, b)
    };
    let overhead = model::udp(Ipv4Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into(), &[]).len();
    let packet = model::udp(
        Ipv4Addr::new(10, 1, 0, 1).into(),
        Ipv4Addr::new(10, 2, 0, 1).into(),
        &vec![7; len - overhead],
    );
    let mut room = vec![0; SCRATCH_LEN];
    let (mut sealer, _) = pair();
    let plain = packet.clone();
    let sealing = Work {
        name: seal,
        packets: 1,
        run: Box::new(move || {
            black_box(sealer.seal(&plain, &mut room).unwrap());
        }),
    };
    let (mut sealer, mut opener) = pair();
    let mut sealed = vec![0; SCRATCH_LEN];
    // Each message opens once; more are made, uncounted, in between.
    let messages: Vec<Vec<u8>> = (0..MESSAGES)
        .map(|_| {
            let len = sealer.seal(&packet, &mut sealed).unwrap();
            sealed[..len].to_vec()
        })
        .collect();
    let mut messages = messages.into_iter();
    let mut opened = vec![0; SCRATCH_LEN];
    let opening = Work {
        name: open,
        packets: 1,
        run: Box::new(move || {
            let message = messages.next().expect("more runs than messages");
            assert!(matches!(kind(&message), Some(Kind::Data(_))));
            assert_eq!(opener.open(&message, &mut opened), Ok(len));
        }),
    };
    [sealing, opening]
}

/// The most runs of one work.
pub const MESSAGES: usize = 64;

fn meet(a: &mut dyn Tunnel, b: &mut dyn Tunnel) {
    let (mut left, mut right) = (vec![0; SCRATCH_LEN], vec![0; SCRATCH_LEN]);
    let len = a.initiate(&mut left).unwrap();
    let answer = b.handshake(&left[..len], &mut right).unwrap();
    let answer = a.handshake(&right[..answer.len], &mut left).unwrap();
    assert!(answer.len >= DATA_OVERHEAD);
    assert_eq!(b.open(&left[..answer.len], &mut right), Ok(0));
}
