//! What [`split`](super::split) cuts, [`join`](super::join) puts together again.

use proptest::prelude::*;

use super::checksum::pseudo;
use super::join::Allowed;
use super::model::{ACK, ALL, Shape, addresses, as_kernel, cut, joined, packet_of, sound, super_vnet};
use super::packet;
use super::split::{Prepared, prepare};
use super::vnet::{Kind, VNET_HEADER_LEN, Vnet};

const PSH: u8 = 0x08;
const FIN: u8 = 0x01;
const CWR: u8 = 0x80;

fn shapes() -> impl Strategy<Value = Shape> {
    (any::<bool>(), any::<bool>(), any::<u16>(), any::<u32>()).prop_map(|(v6, udp, port, sequence)| Shape {
        v6,
        udp,
        port,
        flags: ACK,
        sequence,
    })
}

proptest! {
    #[test]
    fn cut_packets_are_sound_and_join_to_the_same_again(
        shape in shapes(),
        payload in proptest::collection::vec(any::<u8>(), 1..20_000),
        size in 1usize..1500,
    ) {
        // Fewer than 64 segments, which is what one joined packet takes.
        let size = size.max(payload.len().div_ceil(60));
        let original = packet_of(shape, &payload);
        let segments = cut(super_vnet(shape, size), original.clone());
        prop_assert!(segments.iter().all(|segment| sound(segment)));
        let mut together = joined(&segments, ALL);
        prop_assert_eq!(together.len(), 1);
        let (vnet, packet) = together.remove(0);
        let header_len = original.len() - payload.len();
        prop_assert_eq!(&packet[header_len..], &payload[..]);
        let mut back = as_kernel((vnet, packet));
        if let ([one], [same]) = (&mut back[..], &segments[..]) {
            prop_assert_eq!(one, same);
        } else {
            prop_assert_eq!(back, segments);
        }
    }

    #[test]
    fn whatever_comes_the_kernel_sees_the_same_packets_in_each_flows_order(
        packets in proptest::collection::vec((0u16..3, any::<bool>(), any::<bool>(), 0u32..4, 0usize..5, any::<u8>()), 0..40),
    ) {
        let mut sequences = [0u32; 3];
        let packets: Vec<Vec<u8>> = packets
            .into_iter()
            .map(|(port, v6, udp, gap, len, odd)| {
                let len = [0, 1, 100, 100, 101][len];
                let sequence = sequences[usize::from(port)].wrapping_add(if gap == 0 { 7 } else { 0 });
                sequences[usize::from(port)] = sequence.wrapping_add(len as u32);
                let flags = match odd { 0..30 => ACK | PSH, 30..40 => ACK | FIN, 40..45 => ACK | CWR, _ => ACK };
                let mut packet = packet_of(Shape { v6, udp, port, flags, sequence }, &vec![odd; len]);
                if odd % 16 == 1 {
                    // Damage that must not be made good.
                    let last = packet.len() - 1;
                    packet[last] ^= 0xff;
                }
                packet
            })
            .collect();
        let seen: Vec<Vec<u8>> = joined(&packets, ALL).into_iter().flat_map(as_kernel).collect();
        let flow = |packet: &[u8]| {
            let v6 = packet[0] >> 4 == 6;
            let (transport, protocol) = if v6 { (40, packet[6]) } else { (20, packet[9]) };
            (v6, protocol, packet[transport..transport + 2].to_vec())
        };
        let by_flow = |packets: &[Vec<u8>]| {
            let mut flows = std::collections::BTreeMap::<_, Vec<Vec<u8>>>::new();
            for packet in packets {
                let mut packet = packet.clone();
                if packet[0] >> 4 == 4 {
                    // With "don't fragment" the identification, and with it the checksum, may change.
                    packet[4..6].fill(0);
                    packet[10..12].fill(0);
                }
                flows.entry(flow(&packet)).or_default().push(packet);
            }
            flows
        };
        prop_assert_eq!(by_flow(&seen), by_flow(&packets));
    }

    #[test]
    fn no_header_makes_it_panic(
        vnet in any::<[u8; VNET_HEADER_LEN]>(),
        mut packet in proptest::collection::vec(any::<u8>(), 0..300),
        v6 in any::<bool>(),
    ) {
        if packet.len() >= 40 {
            packet[0] = if v6 { 0x60 } else { 0x45 };
            let len = packet.len() as u16;
            let (at, len) = if v6 { (4, len - 40) } else { (2, len) };
            packet[at..at + 2].copy_from_slice(&len.to_be_bytes());
        }
        if let (Some(vnet), Some(header)) = (Vnet::parse(&vnet), packet::parse(&packet))
            && let Some(Prepared::Split(mut split)) = prepare(vnet, &mut packet, header)
        {
            while let Some(range) = split.next(&mut packet) {
                prop_assert!(range.end <= packet.len());
            }
        }
        joined(&[packet.clone(), packet], ALL);
    }
}

#[test]
fn flags_stay_where_they_belong() {
    let shape = Shape {
        v6: false,
        udp: false,
        port: 1,
        flags: ACK | PSH | FIN | CWR,
        sequence: 5,
    };
    let segments = cut(super_vnet(shape, 10), packet_of(shape, &[1; 30]));
    let flags: Vec<u8> = segments.iter().map(|segment| segment[33]).collect();
    assert_eq!(flags, [ACK | CWR, ACK, ACK | PSH | FIN]);
}

#[test]
fn a_pushed_segment_ends_its_group_and_what_is_not_allowed_is_not_joined() {
    let tcp = |number: u32, flags| {
        packet_of(
            Shape {
                v6: true,
                udp: false,
                port: 1,
                flags,
                sequence: number * 100,
            },
            &[7; 100],
        )
    };
    let packets = [tcp(0, ACK), tcp(1, ACK | PSH), tcp(2, ACK), tcp(3, ACK)];
    let lens = |allowed| {
        joined(&packets, allowed)
            .iter()
            .map(|(_, packet)| packet.len() - 72)
            .collect::<Vec<_>>()
    };
    assert_eq!(lens(ALL), [200, 200]);
    assert_eq!(
        lens(Allowed {
            tcp: false,
            udp: true
        }),
        [100, 100, 100, 100]
    );
}

#[test]
fn no_packet_overtakes_a_fragment_that_may_be_of_its_flow() {
    for v6 in [false, true] {
        let udp = |size| {
            packet_of(
                Shape {
                    v6,
                    udp: true,
                    port: 1,
                    flags: 0,
                    sequence: 0,
                },
                &vec![7; size],
            )
        };
        let between = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut other = udp(1000);
            change(&mut other);
            let packets = [udp(100), other, udp(100)];
            let written: Vec<_> = joined(&packets, ALL)
                .into_iter()
                .map(|(_, packet)| packet)
                .collect();
            written == packets
        };
        let fragment = |packet: &mut Vec<u8>| if v6 { packet[6] = 44 } else { packet[6] = 0x20 };
        assert!(between(&fragment), "the last overtook it");
        let elsewhere = |packet: &mut Vec<u8>| {
            fragment(packet);
            packet[if v6 { 39 } else { 19 }] ^= 1;
        };
        let ping = |packet: &mut Vec<u8>| if v6 { packet[6] = 58 } else { packet[9] = 1 };
        assert!(!between(&elsewhere) && !between(&ping), "others do not matter");
    }
}

#[test]
fn a_checksum_left_to_us_is_filled_in() {
    for (udp, v6) in [(false, false), (true, false), (false, true), (true, true)] {
        let shape = Shape {
            v6,
            udp,
            port: 1,
            flags: ACK,
            sequence: 1,
        };
        let whole = packet_of(shape, b"hello");
        let transport = if v6 { 40 } else { 20 };
        let offset = if udp { 6 } else { 16 };
        let mut partial = whole.clone();
        let (source, destination) = addresses(v6);
        let sum = pseudo(
            source,
            destination,
            if udp { 17 } else { 6 },
            whole.len() - transport,
        )
        .fold();
        partial[transport + offset..transport + offset + 2].copy_from_slice(&sum);
        let vnet = Vnet {
            kind: Kind::Plain,
            checksum: Some((transport, offset)),
        };
        assert_eq!(cut(vnet, partial), [whole]);
    }
}
