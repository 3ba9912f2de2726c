//! What may come at the data path: datagrams from anybody, packets from peers and from the TUN. For the
//! fuzzer, and for the replay of what it found.
#![allow(clippy::unwrap_used)]

#[path = "../../../fuzz/input.rs"]
pub(crate) mod input;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use self::input::Input;
use super::config::{DropCause, PeerConfig};
use super::inbound::judge;
use super::key::{PrivateKey, PublicKey};
use super::model::{self, ACK, ALL, Shape, as_kernel, cut, joined, packet_of, sound, super_vnet};
use super::noise::{Addressee, Identity, Kind, SCRATCH_LEN, Tunnel, kind};
use super::packet;
use super::peer::{Peer, Place};
use super::split::{Prepared, prepare};
use super::table::{Member, Table};
use super::toobig::{self, TooBig};
use super::vnet::{VNET_HEADER_LEN, Vnet};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Two gateways and all that passes between them.
struct Wire {
    guard: Identity,
    a: Box<dyn Tunnel>,
    b: Box<dyn Tunnel>,
    /// Messages that reached b whole: none of them may count again.
    seen: Vec<Vec<u8>>,
    scratch: Vec<u8>,
}

impl Wire {
    fn new() -> Self {
        let (left, right) = (
            Identity::new(&PrivateKey::from_bytes([1; 32])),
            Identity::new(&PrivateKey::from_bytes([2; 32])),
        );
        Self {
            a: left.tunnel(&right.public(), None, 0x0105_0001),
            b: right.tunnel(&left.public(), None, 7),
            guard: right,
            seen: Vec::new(),
            scratch: vec![0; SCRATCH_LEN],
        }
    }

    /// A message that nobody of the two has made.
    fn forged(&mut self, bytes: &[u8]) {
        let scratch = &mut self.scratch;
        match kind(bytes) {
            Some(Kind::Handshake) => {
                if let Ok(Addressee::Key(key)) = self.guard.inspect(HERE, bytes, scratch) {
                    // The first half is not proof: the whole message is.
                    assert_ne!(key, PublicKey([0; 32]));
                }
                assert!(
                    !self
                        .b
                        .handshake(bytes, scratch)
                        .is_ok_and(|answer| answer.authentic)
                );
            }
            Some(Kind::Data(_)) => assert!(self.b.open(bytes, scratch).is_err(), "forged data was opened"),
            None => {}
        }
    }

    /// A handshake between a and b, whose messages `damage` may change.
    fn handshake(&mut self, input: &mut Input<'_>) {
        let mut initiation = vec![0; SCRATCH_LEN];
        let length = self.a.initiate(&mut initiation).unwrap();
        initiation.truncate(length);
        let mut damaged = initiation.clone();
        if damage(input, &mut damaged) < length - 16 {
            return self.forged(&damaged);
        }
        let mut reply = vec![0; SCRATCH_LEN];
        let answer = self.b.handshake(&initiation, &mut reply).unwrap();
        assert!(answer.authentic && answer.len == 92);
        self.seen.push(initiation);
        reply.truncate(answer.len);
        let mut damaged = reply.clone();
        if damage(input, &mut damaged) < reply.len() - 16 {
            assert!(
                !self
                    .a
                    .handshake(&damaged, &mut self.scratch)
                    .is_ok_and(|answer| answer.authentic)
            );
            return;
        }
        let answer = self.a.handshake(&reply, &mut self.scratch).unwrap();
        assert!(answer.authentic && answer.completed && self.a.established());
        let first = self.scratch[..answer.len].to_vec();
        assert_eq!(self.b.open(&first, &mut self.scratch), Ok(0));
        assert!(self.b.established());
        self.seen.push(first);
    }

    /// Data from a to b.
    fn data(&mut self, input: &mut Input<'_>) {
        let whole = input.flag();
        let payload = input.piece();
        let packet = if whole {
            let addresses = [[10, 0, 0, 1], [10, 0, 0, 2]].map(|octets| IpAddr::V4(octets.into()));
            model::udp(addresses[0], addresses[1], &payload[..payload.len().min(60_000)])
        } else {
            payload[..payload.len().min(60_000)].to_vec()
        };
        let mut padded = packet.clone();
        padded.resize(packet.len().next_multiple_of(16), 0);
        let mut sealed = vec![0; SCRATCH_LEN];
        let Some(length) = self.a.seal(&padded, &mut sealed) else {
            assert!(!self.a.established());
            return;
        };
        sealed.truncate(length);
        let mut damaged = sealed.clone();
        if damage(input, &mut damaged) < length {
            return self.forged(&damaged);
        }
        match self.b.open(&sealed, &mut self.scratch) {
            Ok(opened) => {
                assert!(opened <= padded.len());
                assert_eq!(self.scratch[..opened], padded[..opened]);
                if whole {
                    assert_eq!(opened, packet.len(), "padding is taken off");
                }
            }
            Err(cause) => assert_eq!((whole, cause), (false, DropCause::InInnerMalformed)),
        }
        self.seen.push(sealed);
    }
}

/// Changes a message in one place, or cuts it; where. Behind its end if it is as it was.
fn damage(input: &mut Input<'_>, message: &mut Vec<u8>) -> usize {
    let (at, change) = (usize::from(input.word()) % message.len(), input.byte());
    match change {
        0 => message.len(),
        0xff => {
            message.truncate(at);
            at
        }
        change => {
            message[at] ^= change;
            at
        }
    }
}

/// Anybody's datagrams among those of two gateways: only what a peer has made, whole and for the first
/// time, counts.
pub fn datagram(data: &[u8]) {
    let mut input = Input::new(data);
    let mut wire = Wire::new();
    for _ in 0..24 {
        if input.is_empty() {
            break;
        }
        match input.byte() % 4 {
            0 => {
                let bytes = input.piece();
                wire.forged(bytes);
            }
            1 => wire.handshake(&mut input),
            2 => wire.data(&mut input),
            _ => {
                if !wire.seen.is_empty() {
                    let again = wire.seen[input.below(wire.seen.len())].clone();
                    wire.forged(&again);
                }
            }
        }
    }
}

/// Packets that came out of a tunnel: what passes has its source among the peer's prefixes, and arrives as
/// it was sent but for the congestion that it met.
pub fn inner_packet(data: &[u8]) {
    let mut input = Input::new(data);
    let identity = Identity::new(&PrivateKey::from_bytes([1; 32]));
    let mut peers = Vec::new();
    for number in 0..3u8 {
        let allowed: Vec<IpNet> = (0..input.below(4)).map(|_| prefix(&mut input)).collect();
        let public_key = PublicKey([number + 9; 32]);
        let config = PeerConfig::new(format!("cluster-{number}/gateway"), public_key);
        let tunnel = identity.tunnel(&public_key, None, u32::from(number));
        let place = Place::only(&config, u32::from(number));
        peers.push((Arc::new(Peer::new(&config, place, tunnel)), allowed));
    }
    let members = peers.iter().map(|(peer, allowed)| Member {
        lanes: vec![Arc::clone(peer)],
        allowed: allowed.clone(),
    });
    let table = Table::new(members.collect(), 1);
    let (from, outer) = (input.below(3), input.byte() & 3);
    let before = input.rest();
    let mut packet = before.to_vec();
    let owners = |address: IpAddr| {
        let lists = || {
            peers
                .iter()
                .flat_map(|(_, list)| list)
                .filter(|net| net.contains(&address))
        };
        let longest = lists().map(|net| net.prefix_len()).max();
        let has = |list: &[IpNet]| {
            list.iter()
                .any(|net| net.contains(&address) && Some(net.prefix_len()) == longest)
        };
        peers.iter().map(|(_, list)| has(list)).collect::<Vec<_>>()
    };
    let Some(header) = packet::parse(&packet) else {
        assert_eq!(
            judge(&table, &peers[from].0, &mut packet, outer),
            Err(DropCause::InInnerMalformed)
        );
        return;
    };
    let routed = table.route(header.destination, before, 0);
    assert_eq!(routed.is_some(), owners(header.destination).contains(&true));
    if let Some(peer) = routed {
        assert!(owners(header.destination)[usize::from(peer.slot())]);
    }
    match judge(&table, &peers[from].0, &mut packet, outer) {
        Ok(length) => {
            assert!(
                owners(header.source)[from],
                "{} may not come from here",
                header.source
            );
            assert!(length == header.len && length <= before.len());
            assert_eq!(
                packet::parse(&packet),
                Some(header),
                "the packet is for somebody else now"
            );
            let (was, is) = (packet::ecn(before), packet::ecn(&packet));
            let expected = match (outer, was) {
                (packet::CE, _) => packet::CE,
                (packet::ECT_1, packet::ECT_0) => packet::ECT_1,
                _ => was,
            };
            assert_eq!(is, expected);
            let sum = |packet: &[u8]| packet[0] >> 4 == 4 && model::header_sum(&packet[..20]) == 0xffff;
            if before[0] == 0x45 && sum(before) {
                assert!(sum(&packet), "the header's checksum does not hold any more");
            }
            let changed = (0..packet.len()).filter(|at| packet[*at] != before[*at]);
            for at in changed {
                assert!(
                    is != was && (at == 1 || packet[0] >> 4 == 4 && (10..12).contains(&at)),
                    "byte {at}"
                );
            }
        }
        Err(DropCause::InSourceNotAllowed) => assert!(!owners(header.source)[from]),
        Err(DropCause::InCongestion) => {
            assert!(outer == packet::CE && packet::ecn(before) == packet::NOT_ECT)
        }
        Err(cause) => panic!("{cause}"),
    }
}

/// A prefix with few distinct bits, so that prefixes nest, repeat, and hold addresses that come.
fn prefix(input: &mut Input<'_>) -> IpNet {
    let (bits, length) = (u32::from(input.byte() & 3), input.byte());
    if input.flag() {
        let address = Ipv6Addr::from(u128::from(bits) << 120 | u128::from(bits));
        IpNet::new(address.into(), length % 129).unwrap().trunc()
    } else {
        IpNet::new(Ipv4Addr::from(bits << 24 | bits).into(), length % 33)
            .unwrap()
            .trunc()
    }
}

/// Super packets as the kernel hands them over, with any header in front; and well-formed ones, which are
/// cut into sound packets that join to the same again.
pub fn split(data: &[u8]) {
    let mut input = Input::new(data);
    if input.flag() {
        let mut header = [0; VNET_HEADER_LEN];
        let given = input.take(VNET_HEADER_LEN);
        header[..given.len()].copy_from_slice(given);
        let mut packet = input.rest().to_vec();
        let (Some(vnet), Some(ip)) = (Vnet::parse(&header), packet::parse(&packet)) else {
            return;
        };
        if let Some(Prepared::Split(mut split)) = prepare(vnet, &mut packet, ip) {
            let (count, longest, mut seen) = (split.count(), split.longest(), 0);
            while let Some(range) = split.next(&mut packet) {
                seen += 1;
                assert!(range.end <= ip.len && range.len() <= longest);
                assert!(
                    packet::parse(&packet[range.clone()]).is_some_and(|header| header.len == range.len())
                );
            }
            assert_eq!(seen, count);
        }
        return;
    }
    let shape = Shape {
        v6: input.flag(),
        udp: input.flag(),
        port: input.word(),
        flags: ACK,
        sequence: input.long(),
    };
    let size = usize::from(input.word() % 1500) + 1;
    let payload = input.rest();
    let payload = &payload[..payload.len().min(60_000)];
    if payload.is_empty() {
        return;
    }
    // As many segments as one joined packet takes.
    let size = size.max(payload.len().div_ceil(60));
    let original = packet_of(shape, payload);
    let segments = cut(super_vnet(shape, size), original.clone());
    assert!(segments.iter().all(|segment| sound(segment)));
    let headers = original.len() - payload.len();
    let carried: Vec<u8> = segments
        .iter()
        .flat_map(|segment| segment[headers..].to_vec())
        .collect();
    assert_eq!(carried, payload, "cutting changed the payload");
    let mut together = joined(&segments, ALL);
    assert_eq!(together.len(), 1);
    let (vnet, packet) = together.remove(0);
    assert_eq!(packet[headers..], *payload, "joining changed the payload");
    assert_eq!(as_kernel((vnet, packet)), segments);
}

/// Packets of a run, joined where they may be: the kernel sees the same packets, in each flow's order.
pub fn join(data: &[u8]) {
    let mut input = Input::new(data);
    let mut packets: Vec<Vec<u8>> = Vec::new();
    let mut sequence = 1;
    for _ in 0..40 {
        if input.is_empty() {
            break;
        }
        let packet = if input.byte().is_multiple_of(4) {
            let bytes = input.piece().to_vec();
            match packet::parse(&bytes) {
                Some(header) => bytes[..header.len].to_vec(),
                None => continue,
            }
        } else {
            let bits = input.byte();
            let shape = Shape {
                v6: bits & 1 != 0,
                udp: bits & 2 != 0,
                port: u16::from(bits >> 2 & 1),
                flags: ACK | (if bits & 8 != 0 { input.byte() } else { 0 }),
                sequence,
            };
            let payload = vec![bits; [0, 1, 100, 100, 101, 1400, 1400, 300][usize::from(bits >> 5)]];
            sequence = sequence.wrapping_add(payload.len() as u32);
            let mut packet = packet_of(shape, &payload);
            if bits & 16 != 0 {
                damage(&mut input, &mut packet);
                match packet::parse(&packet) {
                    Some(header) => packet.truncate(header.len),
                    None => continue,
                }
            }
            packet
        };
        packets.push(packet);
    }
    let written = joined(&packets, ALL);
    assert!(
        written
            .iter()
            .all(|(_, packet)| packet.len() <= 65_535 && packet::parse(packet).is_some())
    );
    let seen: Vec<Vec<u8>> = written.into_iter().flat_map(as_kernel).collect();
    assert_eq!(by_flow(&seen), by_flow(&packets));
}

/// Packets larger than the tunnel carries: pieces that make the whole, or an answer to the sender that quotes
/// its packet, and to which there is no answer.
pub fn too_big(data: &[u8]) {
    let mut input = Input::new(data);
    let mtu = usize::from(input.word());
    let packet = input.rest();
    let Some(header) = packet::parse(packet).filter(|header| header.len > mtu) else {
        return;
    };
    let packet = &packet[..header.len];
    let v4 = packet[0] >> 4 == 4;
    let header_len = |packet: &[u8]| usize::from(packet[0] & 0xf) * 4;
    let place = |packet: &[u8]| usize::from(u16::from_be_bytes([packet[6], packet[7]]));
    match toobig::judge(packet, header, mtu) {
        TooBig::Fragments(pieces) => {
            assert!(v4 && packet[6] & 0x40 == 0, "it may not be cut");
            let (mut whole, count) = (Vec::<u8>::new(), pieces.len());
            for (number, piece) in pieces.iter().enumerate() {
                let its = packet::parse(piece).unwrap();
                assert!(its.len == piece.len() && its.len <= mtu);
                assert_eq!((its.source, its.destination), (header.source, header.destination));
                assert_eq!(header_len(piece), header_len(packet));
                assert_eq!(model::header_sum(&piece[..header_len(piece)]), 0xffff);
                assert_eq!(
                    (place(piece) & 0x1fff) * 8,
                    (place(packet) & 0x1fff) * 8 + whole.len()
                );
                let more = number + 1 < count || place(packet) & 0x2000 != 0;
                assert_eq!(place(piece) & 0x2000 != 0, more);
                whole.extend(&piece[header_len(piece)..]);
            }
            assert_eq!(whole, packet[header_len(packet)..]);
        }
        TooBig::Answer(answer) => {
            let its = packet::parse(&answer).unwrap();
            assert_eq!((its.source, its.destination), (header.destination, header.source));
            assert_eq!(its.len, answer.len());
            let (most, begin) = if v4 { (576, 20) } else { (1280, 40) };
            assert!(its.len <= most && packet.starts_with(&answer[begin + 8..]));
            let named = u16::from_be_bytes([answer[begin + 6], answer[begin + 7]]);
            assert_eq!(usize::from(named), mtu);
            if v4 {
                assert_eq!(model::header_sum(&answer[..20]), 0xffff);
                let mut message = answer[20..].to_vec();
                message.resize(message.len().next_multiple_of(2), 0);
                assert_eq!(model::header_sum(&message), 0xffff);
            }
            assert_eq!(
                toobig::judge(&answer, its, its.len - 1),
                TooBig::Silence,
                "an error about an error"
            );
        }
        TooBig::Silence => {}
    }
}

type Flow = (Vec<u8>, u8, Vec<u8>);

fn by_flow(packets: &[Vec<u8>]) -> BTreeMap<Option<Flow>, Vec<Vec<u8>>> {
    let mut flows = BTreeMap::<_, Vec<Vec<u8>>>::new();
    for packet in packets {
        flows.entry(flow(packet)).or_default().push(alike(packet.clone()));
    }
    flows
}

/// Addresses, protocol and ports; none for what is not joined anyway.
fn flow(packet: &[u8]) -> Option<Flow> {
    let (addresses, protocol, transport) = match packet[0] {
        0x45 if packet[6] & 0x3f == 0 && packet[7] == 0 => (12..20, packet[9], 20),
        first if first >> 4 == 6 => (8..40, packet[6], 40),
        _ => return None,
    };
    let header = packet.get(transport..)?;
    // What has no whole header the kernel drops, wherever it stands among others.
    let whole = match protocol {
        6 => header
            .get(12)
            .is_some_and(|offset| (20..=header.len()).contains(&(usize::from(offset >> 4) * 4))),
        17 => header.len() >= 8,
        _ => false,
    };
    whole.then(|| (packet[addresses].to_vec(), protocol, header[..4].to_vec()))
}

/// Without what may change: the identification where it means nothing, and the form of a zero checksum.
fn alike(mut packet: Vec<u8>) -> Vec<u8> {
    let v4 = packet[0] >> 4 == 4;
    if v4 && packet[6] & 0x40 != 0 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    let mut one_zero = |at: usize| {
        if let Some(sum) = packet.get_mut(at..at + 2)
            && *sum == [0xff, 0xff]
        {
            sum.fill(0);
        }
    };
    if v4 {
        one_zero(10);
        one_zero(20 + 16);
    } else {
        one_zero(40 + 16);
    }
    packet
}

#[cfg(test)]
mod tests {
    use super::input::replay;

    #[test]
    fn datagrams_that_were_found_hold() {
        replay("datagram", super::datagram);
    }

    #[test]
    fn inner_packets_that_were_found_hold() {
        replay("inner_packet", super::inner_packet);
    }

    #[test]
    fn super_packets_that_were_found_hold() {
        replay("split", super::split);
    }

    #[test]
    fn large_packets_that_were_found_hold() {
        replay("too_big", super::too_big);
    }

    #[test]
    fn runs_that_were_found_hold() {
        replay("join", super::join);
    }
}
