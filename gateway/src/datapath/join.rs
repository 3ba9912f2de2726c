//! Packets for the TUN, joined into super packets without moving a byte.
//!
//! Joined is what the kernel's own GRO would join: TCP segments or UDP datagrams of one flow that follow
//! each other and differ in nothing but what follows from their place. Their checksums are verified first,
//! as the kernel will not do it again. The packets of a flow keep their order.

use super::checksum::{Sum, pseudo};
use super::packet;
use super::vnet::{Kind, VNET_HEADER_LEN, Vnet};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP_V6: u8 = 58;
const TCP_ACK: u8 = 0x10;
const TCP_PSH: u8 = 0x08;
/// The most packets in one: the kernel's limit for GSO segments of UDP.
pub(super) const MAX_JOINED: usize = 64;
const MAX_LEN: usize = 65_535;
/// Groups that are searched for a packet's flow, from the latest.
const SEARCHED: usize = 16;
const NONE: u32 = u32::MAX;
/// Room for the headers of a joined packet: IPv6 and TCP with all options.
pub(super) const HEADERS_MAX: usize = 100;

/// Which kinds may be joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allowed {
    pub(super) tcp: bool,
    pub(super) udp: bool,
}

/// A packet that goes to the TUN alone, or the first of several that go together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    first: u32,
    last: u32,
    count: usize,
    shape: Option<Shape>,
    payload: usize,
    next_sequence: u32,
    /// Nothing more may be joined.
    closed: bool,
    verified: bool,
    push: bool,
}

/// Where the parts of a packet are that could be joined.
#[derive(Clone, Copy, Debug)]
struct Shape {
    v6: bool,
    udp: bool,
    transport: usize,
    header_len: usize,
    payload: usize,
    sequence: u32,
    /// Nothing may follow (a pushed or oddly flagged segment), or even precede it.
    seals: bool,
    alone: bool,
}

/// The packets of one run, grouped.
pub(super) struct Join {
    pub(super) groups: Vec<Group>,
    /// The next packet in the same group.
    next: Vec<u32>,
}

impl Join {
    pub(super) fn new() -> Self {
        Self {
            groups: Vec::with_capacity(64),
            next: Vec::with_capacity(64),
        }
    }

    /// Groups packets, given by start and length in `plain`.
    pub(super) fn group(&mut self, plain: &[u8], packets: &[(usize, usize)], allowed: Allowed) {
        self.groups.clear();
        self.next.clear();
        for (number, &(start, len)) in (0u32..).zip(packets) {
            self.next.push(NONE);
            let bytes = &plain[start..start + len];
            let shape = shape(bytes);
            if shape.is_none() {
                self.close_beside(plain, packets, bytes);
            }
            let shape = shape.filter(|shape| if shape.udp { allowed.udp } else { allowed.tcp });
            if let Some(shape) = shape
                && self.append(plain, packets, number, bytes, shape)
            {
                continue;
            }
            self.groups.push(Group {
                first: number,
                last: number,
                count: 1,
                shape,
                payload: shape.map_or(0, |shape| shape.payload),
                next_sequence: shape.map_or(0, |shape| shape.sequence.wrapping_add(shape.payload as u32)),
                closed: shape.is_none_or(|shape| shape.seals || shape.alone),
                verified: false,
                push: false,
            });
        }
    }

    /// A fragment, or what else does not show its flow, may belong to any between its addresses: no later packet of
    /// these may overtake it.
    fn close_beside(&mut self, plain: &[u8], packets: &[(usize, usize)], bytes: &[u8]) {
        let Some(addresses) = packet::parse_addresses(bytes) else {
            return;
        };
        for group in self.groups.iter_mut().rev().take(SEARCHED) {
            let Some(shape) = group.shape.filter(|_| !group.closed) else {
                continue;
            };
            let protocol = if shape.udp { UDP } else { TCP };
            let perhaps = if shape.v6 {
                bytes.get(6) != Some(&ICMP_V6)
            } else {
                bytes.get(9) == Some(&protocol)
            };
            let (start, len) = packets[group.first as usize];
            group.closed = perhaps && packet::parse_addresses(&plain[start..start + len]) == Some(addresses);
        }
    }

    /// Joins a packet to the latest group of its flow, if it fits there.
    fn append(
        &mut self,
        plain: &[u8],
        packets: &[(usize, usize)],
        number: u32,
        bytes: &[u8],
        shape: Shape,
    ) -> bool {
        let at = |number: u32| {
            let (start, len) = packets[number as usize];
            &plain[start..start + len]
        };
        let same_flow = |group: &&mut Group| {
            group.shape.is_some_and(|first| {
                first.v6 == shape.v6
                    && first.udp == shape.udp
                    && flow(at(group.first), &first) == flow(bytes, &shape)
            })
        };
        let Some(group) = self.groups.iter_mut().rev().take(SEARCHED).find(same_flow) else {
            return false;
        };
        let Some(first) = group.shape else { return false };
        let fits = !group.closed
            && !shape.alone
            && shape.payload <= first.payload
            && group.count < MAX_JOINED
            && first.header_len + group.payload + shape.payload <= MAX_LEN
            && (shape.udp || shape.sequence == group.next_sequence)
            && follows(at(group.first), bytes, &first, &shape, group.count);
        if !fits || !verify(bytes, &shape) || !(group.verified || verify(at(group.first), &first)) {
            // Later packets of the flow must not overtake this one.
            group.closed = true;
            return false;
        }
        group.verified = true;
        self.next[group.last as usize] = number;
        group.last = number;
        group.count += 1;
        group.payload += shape.payload;
        group.next_sequence = group.next_sequence.wrapping_add(shape.payload as u32);
        group.push |= shape.seals;
        group.closed = shape.seals || shape.payload < first.payload;
        true
    }

    /// The numbers of a group's packets.
    pub(super) fn members(&self, group: &Group) -> impl Iterator<Item = usize> {
        let next = |number: &u32| Some(self.next[*number as usize]).filter(|next| *next != NONE);
        std::iter::successors(Some(group.first), next).map(|number| number as usize)
    }
}

impl Group {
    /// How many packets it has.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Writes the headers of the joined packet; the virtio header, the headers' length.
    pub(super) fn headers(
        &self,
        first: &[u8],
        headers: &mut [u8; HEADERS_MAX],
    ) -> Option<([u8; VNET_HEADER_LEN], usize)> {
        let shape = self.shape?;
        let (transport, len) = (shape.transport, shape.header_len);
        let total = len + self.payload;
        headers[..len].copy_from_slice(first.get(..len)?);
        if shape.v6 {
            headers[4..6].copy_from_slice(&((total - 40) as u16).to_be_bytes());
        } else {
            headers[2..4].copy_from_slice(&(total as u16).to_be_bytes());
            headers[10..12].fill(0);
            let checksum = Sum::default().add(&headers[..transport]).finish();
            headers[10..12].copy_from_slice(&checksum);
        }
        let ip = packet::parse_addresses(first)?;
        let sum = pseudo(ip.0, ip.1, if shape.udp { UDP } else { TCP }, total - transport).fold();
        let kind = if shape.udp {
            headers[transport + 4..transport + 6]
                .copy_from_slice(&((total - transport) as u16).to_be_bytes());
            headers[transport + 6..transport + 8].copy_from_slice(&sum);
            Kind::Udp(shape.payload)
        } else {
            if self.push {
                headers[transport + 13] |= TCP_PSH;
            }
            headers[transport + 16..transport + 18].copy_from_slice(&sum);
            Kind::Tcp(shape.payload)
        };
        Some((Vnet::joined(kind, shape.v6, len, transport), len))
    }
}

/// The parts of a TCP or UDP packet without fragments, IP options or extension headers.
fn shape(bytes: &[u8]) -> Option<Shape> {
    let (v6, transport, protocol) = match bytes.first()? >> 4 {
        4 if bytes.len() >= 20 && bytes[0] == 0x45 && bytes[6] & 0x3f == 0 && bytes[7] == 0 => {
            (false, 20, bytes[9])
        }
        6 if bytes.len() >= 40 => (true, 40, bytes[6]),
        _ => return None,
    };
    let header = bytes.get(transport..)?;
    match protocol {
        TCP if header.len() >= 20 => {
            let len = usize::from(header[12] >> 4) * 4;
            if len < 20 || len > header.len() {
                return None;
            }
            let flags = header[13];
            let payload = header.len() - len;
            Some(Shape {
                v6,
                udp: false,
                transport,
                header_len: transport + len,
                payload,
                sequence: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
                seals: flags & TCP_PSH != 0,
                alone: payload == 0 || flags & !TCP_PSH != TCP_ACK,
            })
        }
        UDP if header.len() >= 8 => {
            let payload = header.len() - 8;
            let whole = usize::from(u16::from_be_bytes([header[4], header[5]])) == header.len();
            Some(Shape {
                v6,
                udp: true,
                transport,
                header_len: transport + 8,
                payload,
                sequence: 0,
                seals: false,
                alone: payload == 0 || !whole || header[6..8] == [0, 0],
            })
        }
        _ => None,
    }
}

/// Addresses and ports.
fn flow<'a>(bytes: &'a [u8], shape: &Shape) -> (&'a [u8], &'a [u8]) {
    let addresses = if shape.v6 { 8..40 } else { 12..20 };
    (&bytes[addresses], &bytes[shape.transport..shape.transport + 4])
}

/// Whether a packet's headers are those of the group's first, but for what follows from its place.
fn follows(first: &[u8], bytes: &[u8], a: &Shape, b: &Shape, place: usize) -> bool {
    if a.header_len != b.header_len {
        return false;
    }
    let ip = if a.v6 {
        first[..4] == bytes[..4] && first[6..8] == bytes[6..8]
    } else {
        let id = |packet: &[u8]| u16::from_be_bytes([packet[4], packet[5]]);
        // With "don't fragment" the identification means nothing.
        let id_fits = first[6] & 0x40 != 0 || id(first).wrapping_add(place as u16) == id(bytes);
        first[..2] == bytes[..2] && first[6..10] == bytes[6..10] && id_fits
    };
    let (x, y) = (
        &first[a.transport..a.header_len],
        &bytes[b.transport..b.header_len],
    );
    let transport = a.udp
        || (x[8..13] == y[8..13]
            && (x[13] | TCP_PSH) == (y[13] | TCP_PSH)
            && x[14..16] == y[14..16]
            && x[18..] == y[18..]);
    ip && transport
}

/// Whether all checksums of a packet hold.
fn verify(bytes: &[u8], shape: &Shape) -> bool {
    let Some((source, destination)) = packet::parse_addresses(bytes) else {
        return false;
    };
    let transport = &bytes[shape.transport..];
    let sum = pseudo(
        source,
        destination,
        if shape.udp { UDP } else { TCP },
        transport.len(),
    );
    (shape.v6 || Sum::default().add(&bytes[..shape.transport]).holds()) && sum.add(transport).holds()
}
