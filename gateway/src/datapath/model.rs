//! Packets made for tests and for the fuzzer, and what the kernel would make of what we write.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum::{Sum, pseudo};
use super::join::{Allowed, HEADERS_MAX, Join};
use super::noise::{SCRATCH_LEN, Tunnel};
use super::packet;
use super::split::{Prepared, prepare};
use super::vnet::{Kind, VNET_HEADER_LEN, Vnet};

pub(super) const ALL: Allowed = Allowed { tcp: true, udp: true };
pub(super) const ACK: u8 = 0x10;

pub(super) fn addresses(v6: bool) -> (IpAddr, IpAddr) {
    if v6 {
        (
            Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1).into(),
            Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 1).into(),
        )
    } else {
        (
            Ipv4Addr::new(10, 1, 0, 1).into(),
            Ipv4Addr::new(10, 2, 0, 1).into(),
        )
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) v6: bool,
    pub(super) udp: bool,
    pub(super) port: u16,
    pub(super) flags: u8,
    pub(super) sequence: u32,
}

/// A packet with all checksums.
pub(super) fn packet_of(shape: Shape, payload: &[u8]) -> Vec<u8> {
    let (source, destination) = addresses(shape.v6);
    let mut packet = udp(source, destination, payload);
    let transport = if shape.v6 { 40 } else { 20 };
    if !shape.udp {
        packet.truncate(transport);
        packet.extend(shape.port.to_be_bytes());
        packet.extend([0, 80]);
        packet.extend(shape.sequence.to_be_bytes());
        packet.extend([0, 0, 0, 9, 0x80, shape.flags, 1, 0, 0, 0, 0, 0]);
        // Timestamps, as most connections have.
        packet.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
        packet.extend(payload);
        let len = packet.len();
        if shape.v6 {
            packet[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
            packet[6] = 6;
        } else {
            packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            packet[9] = 6;
        }
    } else {
        packet[transport..transport + 2].copy_from_slice(&shape.port.to_be_bytes());
    }
    if !shape.v6 {
        packet[10..12].fill(0);
        let sum = Sum::default().add(&packet[..20]).finish();
        packet[10..12].copy_from_slice(&sum);
    }
    let field = transport + if shape.udp { 6 } else { 16 };
    packet[field..field + 2].fill(0);
    let protocol = if shape.udp { 17 } else { 6 };
    let sum = pseudo(source, destination, protocol, packet.len() - transport)
        .add(&packet[transport..])
        .finish();
    packet[field..field + 2].copy_from_slice(&sum);
    packet
}

/// Whether every checksum and length holds, worked out another way than the code under test does.
pub(super) fn sound(packet: &[u8]) -> bool {
    let Some(header) = packet::parse(packet) else {
        return false;
    };
    let v6 = packet[0] >> 4 == 6;
    let (transport, protocol) = if v6 { (40, packet[6]) } else { (20, packet[9]) };
    let mut all = Vec::new();
    match (header.source, header.destination) {
        (IpAddr::V4(a), IpAddr::V4(b)) => all.extend([a.octets(), b.octets()].concat()),
        (IpAddr::V6(a), IpAddr::V6(b)) => all.extend([a.octets(), b.octets()].concat()),
        _ => return false,
    }
    all.extend([0, protocol]);
    all.extend(((packet.len() - transport) as u16).to_be_bytes());
    all.extend(&packet[transport..]);
    if all.len() % 2 == 1 {
        all.push(0);
    }
    header.len == packet.len()
        && header_sum(&all) == 0xffff
        && (v6 || header_sum(&packet[..20]) == 0xffff)
        && (protocol == 6
            || usize::from(u16::from_be_bytes([packet[transport + 4], packet[transport + 5]]))
                == packet.len() - transport)
}

/// Runs a handshake to its end.
pub(super) fn shake(a: &mut dyn Tunnel, b: &mut dyn Tunnel) {
    let (mut left, mut right) = (vec![0; SCRATCH_LEN], vec![0; SCRATCH_LEN]);
    let len = a.initiate(&mut left).unwrap();
    let answer = b.handshake(&left[..len], &mut right).unwrap();
    assert!(answer.authentic && !answer.completed);
    let answer = a.handshake(&right[..answer.len], &mut left).unwrap();
    assert!(answer.authentic && answer.completed);
    assert!(
        !b.established(),
        "the responder waits for the initiator's first data"
    );
    assert_eq!(b.open(&left[..answer.len], &mut right), Ok(0));
    assert!(a.established() && b.established() && a.initiator() && !b.initiator());
}

/// Cuts as a worker does on the way out.
pub(super) fn cut(vnet: Vnet, mut packet: Vec<u8>) -> Vec<Vec<u8>> {
    let header = packet::parse(&packet).unwrap();
    match prepare(vnet, &mut packet, header).unwrap() {
        Prepared::Whole => vec![packet],
        Prepared::Split(mut split) => {
            let (count, longest) = (split.count(), split.longest());
            let mut segments = Vec::new();
            while let Some(range) = split.next(&mut packet) {
                segments.push(packet[range].to_vec());
            }
            assert_eq!(segments.len(), count);
            assert_eq!(segments.iter().map(Vec::len).max(), Some(longest));
            segments
        }
    }
}

pub(super) fn super_vnet(shape: Shape, size: usize) -> Vnet {
    let transport = if shape.v6 { 40 } else { 20 };
    let (kind, offset) = if shape.udp {
        (Kind::Udp(size), 6)
    } else {
        (Kind::Tcp(size), 16)
    };
    Vnet {
        kind,
        checksum: Some((transport, offset)),
    }
}

/// Joins as a worker does on the way in: each write to the TUN as its virtio header and its packet.
pub(super) fn joined(packets: &[Vec<u8>], allowed: Allowed) -> Vec<([u8; VNET_HEADER_LEN], Vec<u8>)> {
    let plain = packets.concat();
    let mut at = 0;
    let places: Vec<_> = packets
        .iter()
        .map(|packet| {
            at += packet.len();
            (at - packet.len(), packet.len())
        })
        .collect();
    let mut join = Join::new();
    join.group(&plain, &places, allowed);
    join.groups
        .iter()
        .map(|group| {
            let members: Vec<&Vec<u8>> = join.members(group).map(|number| &packets[number]).collect();
            assert_eq!(members.len(), group.count());
            if members.len() == 1 {
                return ([0; VNET_HEADER_LEN], members[0].clone());
            }
            let mut headers = [0; HEADERS_MAX];
            let (vnet, len) = group.headers(members[0], &mut headers).unwrap();
            let mut packet = headers[..len].to_vec();
            members.iter().for_each(|member| packet.extend(&member[len..]));
            (vnet, packet)
        })
        .collect()
}

/// What the kernel makes of a write: the packets that it stands for.
pub(super) fn as_kernel((vnet, packet): ([u8; VNET_HEADER_LEN], Vec<u8>)) -> Vec<Vec<u8>> {
    cut(Vnet::parse(&vnet).unwrap(), packet)
}

/// The one's complement sum of a header, which is 0xffff where its checksum is right.
pub(super) fn header_sum(header: &[u8]) -> u16 {
    let mut sum: u32 = header
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A UDP packet (its UDP checksum is left zero).
pub(super) fn udp(source: IpAddr, destination: IpAddr, payload: &[u8]) -> Vec<u8> {
    let mut transport = vec![0x30, 0x39, 0x00, 0x35];
    transport.extend(((payload.len() + 8) as u16).to_be_bytes());
    transport.extend([0, 0]);
    transport.extend(payload);
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut packet = vec![0x45, 0];
            packet.extend(((transport.len() + 20) as u16).to_be_bytes());
            packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            let sum = !header_sum(&packet);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            packet.extend(transport);
            packet
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut packet = vec![0x60, 0, 0, 0];
            packet.extend((transport.len() as u16).to_be_bytes());
            packet.extend([17, 64]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            packet.extend(transport);
            packet
        }
        _ => panic!("mixed families"),
    }
}
