//! Writing messages.

use super::{NESTED, NLM_F_REQUEST};

pub(crate) const HEADER: usize = 16;

/// One netlink message being written.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A request of this type, with the fixed header of its family (`rtmsg`, `nfgenmsg`, …).
    pub(crate) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(fixed);
        let mut message = Self { bytes };
        message.pad();
        message
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn add_flags(&mut self, flags: u16) {
        let now = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | flags;
        self.bytes[6..8].copy_from_slice(&now.to_ne_bytes());
    }

    /// Fills in length and sequence number and appends the message to a datagram.
    pub(crate) fn finish(&self, sequence: u32, datagram: &mut Vec<u8>) {
        let start = datagram.len();
        datagram.extend_from_slice(&self.bytes);
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        datagram[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        datagram[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
    }

    pub(crate) fn attribute(&mut self, kind: u16, payload: &[u8]) -> &mut Self {
        self.raw(kind, payload)
    }

    pub(crate) fn ne32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.raw(kind, &value.to_ne_bytes())
    }

    pub(crate) fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.raw(kind, &value.to_be_bytes())
    }

    /// A string with the NUL that most families ask for.
    pub(crate) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut payload = Vec::with_capacity(value.len() + 1);
        payload.extend_from_slice(value.as_bytes());
        payload.push(0);
        self.raw(kind, &payload)
    }

    /// An attribute whose payload `fill` writes as attributes.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        fill(self);
        self.close(start)
    }

    /// An attribute whose payload is a fixed header, then attributes (`VETH_INFO_PEER`).
    pub(crate) fn nest_with_header(
        &mut self,
        kind: u16,
        header: &[u8],
        fill: impl FnOnce(&mut Self),
    ) -> &mut Self {
        self.nest(kind, |message| {
            message.bytes.extend_from_slice(header);
            message.pad();
            fill(message);
        })
    }

    /// Appends unframed bytes (`struct rtnexthop`); returns where they begin.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start
    }

    /// Writes the length since `start` into the two bytes there.
    pub(crate) fn close(&mut self, start: usize) -> &mut Self {
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        debug_assert!(
            length < u16::MAX,
            "an attribute is longer than its length field holds"
        );
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.pad();
        self
    }

    fn raw(&mut self, kind: u16, payload: &[u8]) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(payload);
        self.close(start)
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}
