//! Super packets from the TUN, cut into packets in place.
//!
//! The kernel hands over up to 64 KiB of one TCP or UDP flow with one set of headers. Each segment's headers
//! are written right before its payload, over what has been sent already: no byte of payload moves.

use std::ops::Range;

use super::checksum::{Sum, pseudo};
use super::packet::Header;
use super::vnet::{Kind, Vnet};

/// Room for the headers of a super packet: IP with some extensions, and TCP with options.
const HEADERS_MAX: usize = 256;
const TCP_FIN_PSH: u8 = 0x09;
const TCP_CWR: u8 = 0x80;

/// Segments of a super packet, one after the other.
pub(super) struct Split {
    headers: [u8; HEADERS_MAX],
    header_len: usize,
    transport: usize,
    protocol: u8,
    ip: Header,
    size: usize,
    /// Where the next segment's payload begins.
    at: usize,
    end: usize,
    number: u16,
}

/// Fills in the checksum of a packet that is none, or says how to cut it.
#[expect(clippy::large_enum_variant, reason = "one at a time, on the stack")]
pub(super) enum Prepared {
    /// One packet, complete.
    Whole,
    /// Several.
    Split(Split),
}

/// Prepares a packet as it came from the TUN; none if its headers make no sense.
pub(super) fn prepare(vnet: Vnet, packet: &mut [u8], ip: Header) -> Option<Prepared> {
    let (size, protocol) = match vnet.kind {
        Kind::Plain => {
            if let Some((start, offset)) = vnet.checksum {
                let transport = packet.get_mut(start..ip.len)?;
                // The field holds the sum of the pseudo header.
                let checksum = Sum::default().add(transport).finish();
                transport
                    .get_mut(offset..offset + 2)?
                    .copy_from_slice(&nonzero(checksum));
            }
            return Some(Prepared::Whole);
        }
        Kind::Tcp(size) => (size, 6),
        Kind::Udp(size) => (size, 17),
    };
    let (transport, _) = vnet.checksum?;
    let ip_header = match packet.first()? >> 4 {
        4 => usize::from(packet[0] & 0xf) * 4,
        _ => 40,
    };
    // Both are the sender's word, and need not agree.
    if transport < ip_header {
        return None;
    }
    let transport_len = match protocol {
        // The length in the virtio header is wrong for some forwarded packets; this one is not.
        6 => usize::from(packet.get(transport + 12)? >> 4) * 4,
        _ => 8,
    };
    let header_len = transport + transport_len;
    let least = if protocol == 6 { 20 } else { 8 };
    if transport_len < least || header_len > HEADERS_MAX || header_len >= ip.len {
        return None;
    }
    let mut headers = [0; HEADERS_MAX];
    headers[..header_len].copy_from_slice(packet.get(..header_len)?);
    Some(Prepared::Split(Split {
        headers,
        header_len,
        transport,
        protocol,
        ip,
        size,
        at: header_len,
        end: ip.len,
        number: 0,
    }))
}

impl Split {
    /// Length of the first, and longest, segment.
    pub(super) fn longest(&self) -> usize {
        self.header_len + self.size.min(self.end - self.header_len)
    }

    /// How many segments there are.
    pub(super) fn count(&self) -> usize {
        (self.end - self.header_len).div_ceil(self.size)
    }

    /// Makes the next segment; where it lies in `packet`.
    pub(super) fn next(&mut self, packet: &mut [u8]) -> Option<Range<usize>> {
        if self.at >= self.end {
            return None;
        }
        let (start, stop) = (self.at, (self.at + self.size).min(self.end));
        let (first, last) = (self.number == 0, stop == self.end);
        let segment = &mut packet[start - self.header_len..stop];
        segment[..self.header_len].copy_from_slice(&self.headers[..self.header_len]);
        let len = segment.len();
        self.fix_ip(segment, len);
        let transport_len = len - self.transport;
        let payload_before = (start - self.header_len) as u32;
        let transport = &mut segment[self.transport..];
        let field = if self.protocol == 6 {
            let sequence = u32::from_be_bytes([transport[4], transport[5], transport[6], transport[7]]);
            transport[4..8].copy_from_slice(&sequence.wrapping_add(payload_before).to_be_bytes());
            if !last {
                transport[13] &= !TCP_FIN_PSH;
            }
            if !first {
                transport[13] &= !TCP_CWR;
            }
            16
        } else {
            transport[4..6].copy_from_slice(&(transport_len as u16).to_be_bytes());
            6
        };
        transport[field..field + 2].fill(0);
        let sum = pseudo(self.ip.source, self.ip.destination, self.protocol, transport_len);
        let mut checksum = sum.add(transport).finish();
        if self.protocol == 17 {
            checksum = nonzero(checksum);
        }
        transport[field..field + 2].copy_from_slice(&checksum);
        self.at = stop;
        self.number = self.number.wrapping_add(1);
        Some(start - self.header_len..stop)
    }

    fn fix_ip(&self, segment: &mut [u8], len: usize) {
        if segment[0] >> 4 == 4 {
            segment[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            let id = u16::from_be_bytes([segment[4], segment[5]]).wrapping_add(self.number);
            segment[4..6].copy_from_slice(&id.to_be_bytes());
            segment[10..12].fill(0);
            let header_len = usize::from(segment[0] & 0xf) * 4;
            let checksum = Sum::default().add(&segment[..header_len]).finish();
            segment[10..12].copy_from_slice(&checksum);
        } else {
            segment[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
        }
    }
}

/// A UDP checksum of zero would mean that there is none. For TCP both forms of zero are equal.
fn nonzero(checksum: [u8; 2]) -> [u8; 2] {
    if checksum == [0, 0] {
        [0xff, 0xff]
    } else {
        checksum
    }
}
