//! The little of an inner packet that the engine reads: addresses, length, flow, congestion bits.

use std::net::IpAddr;

/// Congestion bits (the low two of the traffic class).
pub(super) const NOT_ECT: u8 = 0;
/// ECN-capable, by one of two marks.
pub(super) const ECT_1: u8 = 1;
/// ECN-capable, by the usual mark.
pub(super) const ECT_0: u8 = 2;
/// Congestion experienced.
pub(super) const CE: u8 = 3;

/// What a packet's IP header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// Length of the whole packet by its own header.
    pub(super) len: usize,
}

/// Reads an IP header; none if it is not one, or claims more bytes than there are.
pub(super) fn parse(packet: &[u8]) -> Option<Header> {
    let header = match packet.first()? >> 4 {
        4 => {
            let fixed: &[u8; 20] = packet.first_chunk()?;
            let header_len = usize::from(fixed[0] & 0xf) * 4;
            let len = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
            if header_len < 20 || len < header_len {
                return None;
            }
            Header {
                source: IpAddr::from([fixed[12], fixed[13], fixed[14], fixed[15]]),
                destination: IpAddr::from([fixed[16], fixed[17], fixed[18], fixed[19]]),
                len,
            }
        }
        6 => {
            let fixed: &[u8; 40] = packet.first_chunk()?;
            let source: [u8; 16] = *fixed[8..].first_chunk()?;
            let destination: [u8; 16] = *fixed[24..].first_chunk()?;
            Header {
                source: source.into(),
                destination: destination.into(),
                len: 40 + usize::from(u16::from_be_bytes([fixed[4], fixed[5]])),
            }
        }
        _ => return None,
    };
    (header.len <= packet.len()).then_some(header)
}

/// Source and destination of an IP packet.
pub(super) fn parse_addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match packet.first()? >> 4 {
        4 => {
            let source: [u8; 4] = *packet.get(12..)?.first_chunk()?;
            let destination: [u8; 4] = *packet.get(16..)?.first_chunk()?;
            Some((source.into(), destination.into()))
        }
        6 => {
            let source: [u8; 16] = *packet.get(8..)?.first_chunk()?;
            let destination: [u8; 16] = *packet.get(24..)?.first_chunk()?;
            Some((source.into(), destination.into()))
        }
        _ => None,
    }
}

/// A number that is equal for packets of one flow, and well spread over flows. Fragments hash by address.
pub(super) fn flow_hash(packet: &[u8]) -> u32 {
    let (addresses, protocol, transport, fragment) = match packet.first().map(|byte| byte >> 4) {
        Some(4) if packet.len() >= 20 => {
            let fragment = u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff != 0;
            (
                &packet[12..20],
                packet[9],
                usize::from(packet[0] & 0xf) * 4,
                fragment,
            )
        }
        Some(6) if packet.len() >= 40 => (&packet[8..40], packet[6], 40, packet[6] == 44),
        _ => return 0,
    };
    // FNV-1a, then a finishing mix: flows often differ in one low bit of one port.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut add = |bytes: &[u8]| {
        for &byte in bytes {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    add(addresses);
    add(&[protocol]);
    if !fragment && matches!(protocol, 6 | 17 | 132) {
        add(packet.get(transport..transport + 4).unwrap_or_default());
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    (hash >> 32) as u32
}

/// The congestion bits of an IP packet.
pub(super) fn ecn(packet: &[u8]) -> u8 {
    match packet {
        [first, second, ..] if first >> 4 == 4 => second & 3,
        [first, second, ..] if first >> 4 == 6 => (second >> 4) & 3,
        _ => NOT_ECT,
    }
}

/// Brings congestion that was met outside into the packet, by RFC 6040. False: it must be dropped.
pub(super) fn apply_outer_ecn(packet: &mut [u8], outer: u8) -> bool {
    match (outer, ecn(packet)) {
        (CE, NOT_ECT) => return false,
        (CE, ECT_0 | ECT_1) => set_ecn(packet, CE),
        (ECT_1, ECT_0) => set_ecn(packet, ECT_1),
        _ => {}
    }
    true
}

fn set_ecn(packet: &mut [u8], ecn: u8) {
    if packet[0] >> 4 == 4 {
        let before = u16::from_be_bytes([packet[0], packet[1]]);
        packet[1] = packet[1] & !CE | ecn;
        let after = u16::from_be_bytes([packet[0], packet[1]]);
        // RFC 1624: the header checksum after one word changed.
        let sum =
            u32::from(!u16::from_be_bytes([packet[10], packet[11]])) + u32::from(!before) + u32::from(after);
        let folded = (sum & 0xffff) + (sum >> 16);
        let folded = ((folded & 0xffff) + (folded >> 16)) as u16;
        packet[10..12].copy_from_slice(&(!folded).to_be_bytes());
    } else {
        packet[1] = packet[1] & !(CE << 4) | ecn << 4;
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;
    use crate::datapath::model::{header_sum, udp};

    fn v4(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    fn v6(last: u16) -> IpAddr {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last).into()
    }

    #[test]
    fn reads_both_families_and_ignores_padding() {
        for (source, destination) in [(v4(1), v4(2)), (v6(1), v6(2))] {
            let mut packet = udp(source, destination, b"hello");
            let len = packet.len();
            packet.extend([0; 11]);
            assert_eq!(
                parse(&packet),
                Some(Header {
                    source,
                    destination,
                    len
                })
            );
        }
    }

    #[test]
    fn refuses_a_packet_that_claims_more_than_it_has() {
        for (source, destination) in [(v4(1), v4(2)), (v6(1), v6(2))] {
            let packet = udp(source, destination, b"hello");
            assert_eq!(parse(&packet[..packet.len() - 1]), None);
        }
    }

    #[test]
    fn flows_differ_by_port_and_fragments_do_not() {
        let mut hashes: Vec<u32> = (0..1000u16)
            .map(|port| {
                let mut packet = udp(v4(1), v4(2), b"x");
                packet[20..22].copy_from_slice(&port.to_be_bytes());
                flow_hash(&packet) % 4
            })
            .collect();
        hashes.sort_unstable();
        for bucket in 0..4 {
            let count = hashes.iter().filter(|&&hash| hash == bucket).count();
            assert!(
                (175..=325).contains(&count),
                "bucket {bucket} has {count} of 1000 flows"
            );
        }
        let mut first = udp(v4(1), v4(2), b"x");
        first[6] = 0x20;
        let mut second = first.clone();
        second[20] = 99;
        assert_eq!(flow_hash(&first), flow_hash(&second));
    }

    #[test]
    fn congestion_follows_rfc_6040() {
        // Figure 4: what comes in, by the outer header's bits (columns) and the inner one's (rows).
        let table = [
            (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
            (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
            (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
            (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
        ];
        let dscp = 46 << 2;
        for (inner, results) in table {
            for (outer, expected) in [NOT_ECT, ECT_0, ECT_1, CE].into_iter().zip(results) {
                for mut packet in [udp(v4(1), v4(2), b"x"), udp(v6(1), v6(2), b"x")] {
                    let is_v4 = packet[0] >> 4 == 4;
                    if is_v4 {
                        packet[1] = dscp | inner;
                        packet[10..12].fill(0);
                        let sum = !header_sum(&packet[..20]);
                        packet[10..12].copy_from_slice(&sum.to_be_bytes());
                    } else {
                        packet[0] |= dscp >> 4;
                        packet[1] = (dscp | inner) << 4;
                    }
                    let before = packet.clone();
                    let taken = apply_outer_ecn(&mut packet, outer);
                    assert_eq!(
                        taken.then(|| ecn(&packet)),
                        expected,
                        "inner {inner}, outer {outer}"
                    );
                    if is_v4 {
                        assert_eq!(header_sum(&packet[..20]), 0xffff, "the checksum follows");
                        assert_eq!(packet[1] & !CE, dscp);
                    } else {
                        assert_eq!(
                            (packet[0], packet[1] & !(CE << 4)),
                            (before[0], before[1] & !(CE << 4))
                        );
                    }
                    assert_eq!((&packet[2..10], &packet[12..]), (&before[2..10], &before[12..]));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..100), outer in 0u8..4) {
            if let Some(header) = parse(&bytes) {
                prop_assert!(header.len <= bytes.len() && header.len >= 20);
                apply_outer_ecn(&mut bytes, outer);
            }
            flow_hash(&bytes);
        }
    }
}
