//! Reading attributes.

use super::NESTED;

/// The attributes of a message or of a nest, in order. Stops at the first that is cut short.
#[derive(Clone, Copy)]
pub(crate) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The attributes behind a fixed header.
    pub(crate) fn after(bytes: &'a [u8], header: usize) -> Self {
        Self(bytes.get(header..).unwrap_or_default())
    }

    /// The payload of the last attribute of this type.
    pub(crate) fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.filter(|(k, _)| *k == kind)
            .last()
            .map(|(_, payload)| payload)
    }

    pub(crate) fn nest(self, kind: u16) -> Option<Self> {
        self.get(kind).map(Self)
    }

    pub(crate) fn ne32(self, kind: u16) -> Option<u32> {
        self.get(kind).and_then(ne32)
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
        let length = usize::from(ne16(self.0.get(0..2)?)?);
        let kind = ne16(self.0.get(2..4)?)? & !(NESTED | 0x4000);
        let payload = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    }
}

pub(crate) fn ne16(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?))
}

pub(crate) fn be16(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?))
}

pub(crate) fn ne32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

pub(crate) fn be32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?))
}

/// A string that may end in a NUL.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
