//! Reading plain attributes.

use std::net::IpAddr;

use netlink_packet_core::NlasIterator;

/// The attributes of a message or of a nest, in order. Stops at the first that is cut short.
#[derive(Clone, Copy)]
pub(crate) struct Attributes<'a>(NlasIterator<&'a [u8]>);

impl<'a> Attributes<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(NlasIterator::new(bytes))
    }

    /// The attributes behind a fixed header.
    pub(crate) fn after(bytes: &'a [u8], header: usize) -> Self {
        Self::new(bytes.get(header..).unwrap_or_default())
    }

    /// The payload of the last attribute of this type.
    pub(crate) fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.filter(|(k, _)| *k == kind)
            .last()
            .map(|(_, payload)| payload)
    }

    pub(crate) fn nest(self, kind: u16) -> Option<Self> {
        self.get(kind).map(Self::new)
    }

    pub(crate) fn be32(self, kind: u16) -> Option<u32> {
        self.get(kind).and_then(be32)
    }

    pub(crate) fn text(self, kind: u16) -> Option<String> {
        self.get(kind).map(text)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let attribute = self.0.next()?.ok()?;
        let (kind, length) = (attribute.kind(), usize::from(attribute.length()));
        Some((kind, attribute.into_inner().get(4..length)?))
    }
}

pub(crate) fn be16(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?))
}

pub(crate) fn be32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?))
}

/// An address by its octets.
pub(crate) fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// A string that may end in a NUL.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
