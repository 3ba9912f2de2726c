//! The header in front of each packet of a TUN device with offloads (`struct virtio_net_hdr`).

pub(super) use strait_linux::tun::VNET_HEADER_LEN;

/// The checksum at `checksum_start + checksum_offset` is still to be computed.
const NEEDS_CHECKSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCP_V4: u8 = 1;
const GSO_TCP_V6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// May be set beside a TCP kind: the segments carry ECN.
const GSO_ECN: u8 = 0x80;

/// What a packet is besides a plain one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One packet.
    Plain,
    /// TCP segments of this many payload bytes each, the last maybe shorter.
    Tcp(usize),
    /// UDP datagrams, likewise.
    Udp(usize),
}

/// The header, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Vnet {
    pub(super) kind: Kind,
    /// Where the transport header begins and its checksum lies, if that is still to be computed.
    pub(super) checksum: Option<(usize, usize)>,
}

impl Vnet {
    /// A packet without a header.
    pub(super) const PLAIN: Self = Self {
        kind: Kind::Plain,
        checksum: None,
    };

    /// Reads a header; none for a kind that was not asked for.
    pub(super) fn parse(bytes: &[u8; VNET_HEADER_LEN]) -> Option<Self> {
        let word = |at: usize| usize::from(u16::from_ne_bytes([bytes[at], bytes[at + 1]]));
        let size = word(4);
        let kind = match bytes[1] & !GSO_ECN {
            GSO_NONE => Kind::Plain,
            GSO_TCP_V4 | GSO_TCP_V6 if size > 0 => Kind::Tcp(size),
            GSO_UDP_L4 if size > 0 => Kind::Udp(size),
            _ => return None,
        };
        let checksum = (bytes[0] & NEEDS_CHECKSUM != 0).then(|| (word(6), word(8)));
        Some(Self { kind, checksum })
    }

    /// The header of joined packets: `header_len` bytes of headers, of which the transport's begin at
    /// `transport`.
    pub(super) fn joined(kind: Kind, v6: bool, header_len: usize, transport: usize) -> [u8; VNET_HEADER_LEN] {
        let (gso, size, offset) = match kind {
            Kind::Plain => return [0; VNET_HEADER_LEN],
            Kind::Tcp(size) => (if v6 { GSO_TCP_V6 } else { GSO_TCP_V4 }, size, 16),
            Kind::Udp(size) => (GSO_UDP_L4, size, 6),
        };
        let mut bytes = [0; VNET_HEADER_LEN];
        bytes[0] = NEEDS_CHECKSUM;
        bytes[1] = gso;
        for (at, value) in [(2, header_len), (4, size), (6, transport), (8, offset)] {
            bytes[at..at + 2].copy_from_slice(&(value as u16).to_ne_bytes());
        }
        bytes
    }
}
