//! What becomes of a packet that is larger than the tunnel carries: its sender is told the size that fits
//! (RFC 1191, RFC 4443), or, in IPv4 without "don't fragment", it goes on in fragments (RFC 791).
//!
//! Answers come in the name of the address that was asked for: one of the gateway's own would be refused as a
//! martian where the packet is written, and the kernel knows the way back to this one.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::checksum::{Sum, pseudo};
use super::packet::Header;

/// The most bytes of an answer (RFC 1812, RFC 4443).
const ANSWER_MAX_V4: usize = 576;
const ANSWER_MAX_V6: usize = 1280;
const ICMP: u8 = 1;
const ICMP_V6: u8 = 58;
/// IPv6 headers that may stand before the transport's.
const EXTENSIONS: [u8; 4] = [0, 43, 60, 51];
const FRAGMENT: u8 = 44;
const DONT_FRAGMENT: u8 = 0x40;
const MORE_FRAGMENTS: u8 = 0x20;
/// Network control, as routers mark their errors.
const CONTROL: u8 = 0xc0;
const HOPS: u8 = 64;

/// What to do about a packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TooBig {
    /// This goes back to the sender.
    Answer(Vec<u8>),
    /// These go on in its place.
    Fragments(Vec<Vec<u8>>),
    /// Nobody may be told.
    Silence,
}

/// Judges a whole packet, with its header as [`parse`](super::packet::parse) reads it, that is larger than `mtu`.
pub(super) fn judge(packet: &[u8], header: Header, mtu: usize) -> TooBig {
    let packet = &packet[..header.len];
    match (header.source, header.destination) {
        (IpAddr::V4(_), _) if packet[6] & DONT_FRAGMENT == 0 => fragments(packet, mtu),
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let later = u16::from_be_bytes([packet[6], packet[7]]) & 0x1fff != 0;
            let nobody = source.is_unspecified() || source.is_multicast() || source.is_broadcast();
            let many = destination.is_multicast() || destination.is_broadcast();
            if later || nobody || many || source.is_loopback() || is_error_v4(packet) {
                TooBig::Silence
            } else {
                answer_v4(packet, mtu)
            }
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let nobody = source.is_unspecified() || source.is_multicast() || source.is_loopback();
            if nobody || destination.is_multicast() || !may_answer_v6(packet) {
                TooBig::Silence
            } else {
                answer_v6(packet, header, mtu)
            }
        }
        _ => TooBig::Silence,
    }
}

/// Whether it is an ICMP message other than a question or its answer.
fn is_error_v4(packet: &[u8]) -> bool {
    let transport = usize::from(packet[0] & 0xf) * 4;
    packet[9] == ICMP && !matches!(packet.get(transport), Some(0 | 8 | 13..=18))
}

/// False for errors, for later fragments, and for what cannot be read.
fn may_answer_v6(packet: &[u8]) -> bool {
    let (mut next, mut at) = (packet[6], 40);
    loop {
        if next == ICMP_V6 {
            return packet.get(at).is_some_and(|kind| kind & 0x80 != 0);
        }
        if next == FRAGMENT {
            let Some(&[following, _, high, low]) = packet.get(at..).and_then(<[u8]>::first_chunk) else {
                return false;
            };
            if u16::from_be_bytes([high, low]) & 0xfff8 != 0 {
                return false;
            }
            (next, at) = (following, at + 8);
        } else if EXTENSIONS.contains(&next) {
            let Some(&[following, len]) = packet.get(at..).and_then(<[u8]>::first_chunk) else {
                return false;
            };
            // An authentication header counts in other units.
            at += if next == 51 {
                (usize::from(len) + 2) * 4
            } else {
                (usize::from(len) + 1) * 8
            };
            next = following;
        } else {
            return true;
        }
    }
}

fn answer_v4(packet: &[u8], mtu: usize) -> TooBig {
    let quoted = &packet[..packet.len().min(ANSWER_MAX_V4 - 28)];
    let total = 28 + quoted.len();
    let mut answer = Vec::with_capacity(total);
    answer.extend([0x45, CONTROL]);
    answer.extend((total as u16).to_be_bytes());
    answer.extend([0, 0, DONT_FRAGMENT, 0, HOPS, ICMP, 0, 0]);
    answer.extend(&packet[16..20]);
    answer.extend(&packet[12..16]);
    let sum = Sum::default().add(&answer).finish();
    answer[10..12].copy_from_slice(&sum);
    // Destination unreachable: fragmentation needed.
    answer.extend([3, 4, 0, 0, 0, 0]);
    answer.extend((mtu as u16).to_be_bytes());
    answer.extend(quoted);
    let sum = Sum::default().add(&answer[20..]).finish();
    answer[22..24].copy_from_slice(&sum);
    TooBig::Answer(answer)
}

fn answer_v6(packet: &[u8], header: Header, mtu: usize) -> TooBig {
    let quoted = &packet[..packet.len().min(ANSWER_MAX_V6 - 48)];
    let len = 8 + quoted.len();
    let mut answer = Vec::with_capacity(40 + len);
    answer.extend([0x60 | CONTROL >> 4, CONTROL << 4, 0, 0]);
    answer.extend((len as u16).to_be_bytes());
    answer.extend([ICMP_V6, HOPS]);
    answer.extend(&packet[24..40]);
    answer.extend(&packet[8..24]);
    answer.extend([2, 0, 0, 0]);
    answer.extend((mtu as u32).to_be_bytes());
    answer.extend(quoted);
    let sum = pseudo(header.destination, header.source, ICMP_V6, len)
        .add(&answer[40..])
        .finish();
    answer[42..44].copy_from_slice(&sum);
    TooBig::Answer(answer)
}

fn fragments(packet: &[u8], mtu: usize) -> TooBig {
    let header_len = usize::from(packet[0] & 0xf) * 4;
    let room = mtu.saturating_sub(header_len) & !7;
    let begin = u16::from_be_bytes([packet[6], packet[7]]);
    let (first, more) = (usize::from(begin & 0x1fff), packet[6] & MORE_FRAGMENTS);
    let data = &packet[header_len..];
    if room == 0 || first + data.len().div_ceil(8) > 0x1fff {
        return TooBig::Silence;
    }
    let count = data.len().div_ceil(room);
    let pieces = data.chunks(room).enumerate().map(|(number, piece)| {
        let mut fragment = Vec::with_capacity(header_len + piece.len());
        fragment.extend(&packet[..header_len]);
        if number > 0 {
            blank_options(&mut fragment[20..]);
        }
        fragment[2..4].copy_from_slice(&((header_len + piece.len()) as u16).to_be_bytes());
        let place = (first + number * room / 8) as u16;
        fragment[6..8].copy_from_slice(&place.to_be_bytes());
        fragment[6] |= if number + 1 < count { MORE_FRAGMENTS } else { more };
        fragment[10..12].fill(0);
        let sum = Sum::default().add(&fragment).finish();
        fragment[10..12].copy_from_slice(&sum);
        fragment.extend(piece);
        fragment
    });
    TooBig::Fragments(pieces.collect())
}

/// Takes out the options that stand in the first fragment only.
fn blank_options(mut options: &mut [u8]) {
    while let Some(&kind) = options.first() {
        let len = match kind {
            0 => return,
            1 => 1,
            _ => match options.get(1) {
                Some(&len) if len >= 2 && usize::from(len) <= options.len() => usize::from(len),
                // Nonsense is not ours to repair.
                _ => return,
            },
        };
        let (option, rest) = std::mem::take(&mut options).split_at_mut(len);
        if kind & 0x80 == 0 {
            option.fill(1);
        }
        options = rest;
    }
}

/// How many answers may go out: a burst, then some each second (RFC 4443, section 2.4 f).
#[derive(Debug)]
pub(super) struct Allowance {
    left: u32,
    since: Option<Instant>,
}

impl Allowance {
    const BURST: u32 = 50;
    const EACH: Duration = Duration::from_millis(10);

    pub(super) const fn new() -> Self {
        Self {
            left: Self::BURST,
            since: None,
        }
    }

    /// Takes one, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let earned = now.saturating_duration_since(since).as_millis() / Self::EACH.as_millis();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(Self::BURST);
            self.since = Some(now);
        }
        let some = self.left > 0;
        self.left -= u32::from(some);
        some
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::datapath::model::{addresses, header_sum, udp};
    use crate::datapath::packet::parse;

    fn judged(packet: &[u8], mtu: usize) -> TooBig {
        judge(packet, parse(packet).unwrap(), mtu)
    }

    /// Puts the IPv4 header's checksum right.
    fn sealed(mut packet: Vec<u8>) -> Vec<u8> {
        let len = usize::from(packet[0] & 0xf) * 4;
        packet[10..12].fill(0);
        let sum = !header_sum(&packet[..len]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    #[test]
    fn the_sender_is_told_what_fits_in_both_families() {
        for v6 in [false, true] {
            let (source, destination) = addresses(v6);
            let packet = udp(source, destination, &[7; 3000]);
            let TooBig::Answer(answer) = judged(&packet, 1420) else {
                panic!("no answer");
            };
            let header = parse(&answer).unwrap();
            assert_eq!((header.source, header.destination), (destination, source));
            assert_eq!(header.len, if v6 { 1280 } else { 576 });
            if v6 {
                let mut all = answer[8..40].to_vec();
                all.extend([0, 0, 0x04, 0xd8, 0, 0, 0, 58]);
                all.extend(&answer[40..]);
                assert_eq!(header_sum(&all), 0xffff);
                assert_eq!(
                    (answer[6], &answer[40..42], &answer[44..48]),
                    (58, &[2, 0][..], &1420u32.to_be_bytes()[..])
                );
                assert_eq!(answer[48..], packet[..1232]);
            } else {
                assert_eq!(
                    (answer[9], &answer[20..22], &answer[26..28]),
                    (1, &[3, 4][..], &1420u16.to_be_bytes()[..])
                );
                assert_eq!(
                    (header_sum(&answer[..20]), header_sum(&answer[20..])),
                    (0xffff, 0xffff)
                );
                assert_eq!(answer[28..], packet[..548]);
            }
        }
    }

    #[test]
    fn nobody_is_told_of_errors_multicasts_and_later_fragments() {
        let (source, destination) = addresses(false);
        let silent = |packet: &[u8]| assert_eq!(judged(packet, 1420), TooBig::Silence);
        let packet =
            |source: Ipv4Addr, destination: Ipv4Addr| udp(source.into(), destination.into(), &[7; 3000]);
        let (a, group) = (Ipv4Addr::new(10, 1, 0, 1), Ipv4Addr::new(224, 0, 0, 5));
        silent(&packet(a, group));
        silent(&packet(a, Ipv4Addr::BROADCAST));
        silent(&packet(Ipv4Addr::UNSPECIFIED, a));
        silent(&packet(group, a));
        let with = |at: usize, byte: u8| {
            let mut packet = udp(source, destination, &[7; 3000]);
            packet[at] = byte;
            packet
        };
        silent(&with(7, 1));
        for (kind, told) in [
            (8, true),
            (0, true),
            (3, false),
            (11, false),
            (5, false),
            (200, false),
        ] {
            let mut packet = with(9, ICMP);
            packet[20] = kind;
            assert_eq!(
                matches!(judged(&packet, 1420), TooBig::Answer(_)),
                told,
                "type {kind}"
            );
        }

        let (source, destination) = addresses(true);
        silent(&udp(
            source,
            Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into(),
            &[7; 3000],
        ));
        silent(&udp(Ipv6Addr::UNSPECIFIED.into(), destination, &[7; 3000]));
        // The transport header behind a hop-by-hop header, and behind a fragment's.
        for (next, fragment_low, kind, told) in [
            (0, 0, 128, true),
            (0, 0, 1, false),
            (FRAGMENT, 1, 128, true),
            (FRAGMENT, 1, 2, false),
            (FRAGMENT, 8, 128, false),
        ] {
            let mut packet = udp(source, destination, &[7; 3000]);
            packet[6] = next;
            packet[40..48].copy_from_slice(&[ICMP_V6, 0, 0, fragment_low, 0, 0, 0, 0]);
            packet[48] = kind;
            assert_eq!(
                matches!(judged(&packet, 1420), TooBig::Answer(_)),
                told,
                "next {next}, fragment {fragment_low}, type {kind}"
            );
        }
    }

    #[test]
    fn without_dont_fragment_it_goes_on_in_pieces_that_make_the_whole() {
        let (source, destination) = addresses(false);
        let payload: Vec<u8> = (0..5000u32).map(|at| (at % 251) as u8).collect();
        let mut packet = udp(source, destination, &payload);
        packet[6] = 0;
        // A record-route option, which is not copied, and a security option, which is.
        packet.splice(20..20, [7, 7, 4, 1, 2, 3, 4, 130, 4, 9, 9, 0]);
        packet[0] = 0x48;
        let len = packet.len() as u16;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        let packet = sealed(packet);
        for mtu in [60, 576, 1419, 1420, 4000] {
            let TooBig::Fragments(pieces) = judged(&packet, mtu) else {
                panic!("not cut");
            };
            let mut whole: Vec<u8> = Vec::new();
            for (number, piece) in pieces.iter().enumerate() {
                assert!(piece.len() <= mtu && parse(piece).is_some_and(|header| header.len == piece.len()));
                assert_eq!(header_sum(&piece[..32]), 0xffff);
                let place = u16::from_be_bytes([piece[6], piece[7]]);
                assert_eq!(usize::from(place & 0x1fff) * 8, whole.len());
                assert_eq!(place & 0x2000 != 0, number + 1 < pieces.len());
                let options: [u8; 12] = piece[20..32].try_into().unwrap();
                if number == 0 {
                    assert_eq!(options, packet[20..32]);
                } else {
                    assert_eq!(options, [1, 1, 1, 1, 1, 1, 1, 130, 4, 9, 9, 0]);
                }
                whole.extend(&piece[32..]);
            }
            assert_eq!(whole, packet[32..]);
            // A fragment is cut again, and keeps its place.
            if pieces.len() > 2 && mtu > 100 {
                let TooBig::Fragments(again) = judged(&pieces[1], 100) else {
                    panic!("not cut again");
                };
                let place = |piece: &[u8]| u16::from_be_bytes([piece[6], piece[7]]);
                assert_eq!(place(&again[0]), place(&pieces[1]));
                assert!(again.iter().all(|piece| piece[6] & MORE_FRAGMENTS != 0));
            }
        }
        assert_eq!(judged(&packet, 30), TooBig::Silence, "not even the header fits");
    }

    #[test]
    fn answers_are_limited_and_come_back() {
        let (mut allowance, start) = (Allowance::new(), Instant::now());
        let given = (0..1000).filter(|_| allowance.take(start)).count();
        assert_eq!(given, 50);
        let later = start + Duration::from_secs(1);
        let given = (0..1000).filter(|_| allowance.take(later)).count();
        assert_eq!(given, 50, "no more than a burst is saved up");
        let mut given = 0;
        for millisecond in 0..1000 {
            given += u32::from(allowance.take(later + Duration::from_millis(millisecond)));
        }
        assert!((95..=100).contains(&given), "{given} in a second");
    }
}
