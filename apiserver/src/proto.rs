//! Protocol Buffers' wire format: just enough to write OpenAPI v2 and to read built-in kinds.

/// A message being written.
#[derive(Debug, Default, Clone)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    fn varint(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.bytes.push((n as u8 & 0x7f) | 0x80);
            n >>= 7;
        }
        self.bytes.push(n as u8);
    }

    fn tag(&mut self, field: u32, wire: u32) {
        self.varint(u64::from(field << 3 | wire));
    }

    /// A text, unless it is empty.
    pub(crate) fn text(&mut self, field: u32, text: &str) {
        if !text.is_empty() {
            self.raw(field, text.as_bytes());
        }
    }

    /// A message, even if it is empty.
    pub(crate) fn message(&mut self, field: u32, message: &Writer) {
        self.raw(field, &message.bytes);
    }

    fn raw(&mut self, field: u32, bytes: &[u8]) {
        self.tag(field, 2);
        self.varint(bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
    }

    /// A number, unless it is zero.
    pub(crate) fn number(&mut self, field: u32, n: i64) {
        if n != 0 {
            self.tag(field, 0);
            self.varint(n as u64);
        }
    }

    /// A floating-point number, unless it is zero.
    pub(crate) fn double(&mut self, field: u32, n: f64) {
        if n != 0.0 {
            self.tag(field, 1);
            self.bytes.extend_from_slice(&n.to_le_bytes());
        }
    }

    /// The message's bytes.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// A field that was read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Wire<'a> {
    /// A variable-length number.
    Varint(u64),
    /// Eight bytes.
    Fixed64(u64),
    /// Four bytes.
    Fixed32(u32),
    /// Text, bytes, or a message.
    Bytes(&'a [u8]),
}

/// Reads the fields of a message.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Over a message's bytes.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    fn varint(&mut self) -> Option<u64> {
        let mut n = 0u64;
        for shift in (0..70).step_by(7) {
            let (first, rest) = self.rest.split_first()?;
            self.rest = rest;
            if shift < 64 {
                n |= u64::from(first & 0x7f) << shift;
            }
            if first & 0x80 == 0 {
                return Some(n);
            }
        }
        None
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(n)?;
        self.rest = rest;
        Some(head)
    }

    /// The next field; `Err` if the bytes are no message.
    pub(crate) fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>, &'static str> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        const BAD: &str = "proto: illegal wire format";
        let tag = self.varint().ok_or(BAD)?;
        let field = u32::try_from(tag >> 3).map_err(|_| BAD)?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint().ok_or(BAD)?),
            1 => Wire::Fixed64(u64::from_le_bytes(
                self.take(8).ok_or(BAD)?.try_into().map_err(|_| BAD)?,
            )),
            2 => {
                let n = usize::try_from(self.varint().ok_or(BAD)?).map_err(|_| BAD)?;
                Wire::Bytes(self.take(n).ok_or(BAD)?)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(
                self.take(4).ok_or(BAD)?.try_into().map_err(|_| BAD)?,
            )),
            _ => return Err(BAD),
        };
        Ok(Some((field, wire)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let mut inner = Writer::default();
        inner.text(1, "x");
        let mut w = Writer::default();
        w.number(1, 300);
        w.double(2, 1.5);
        w.message(19, &inner);
        let bytes = w.finish();
        let mut r = Reader::new(&bytes);
        assert_eq!(r.next(), Ok(Some((1, Wire::Varint(300)))));
        assert_eq!(r.next(), Ok(Some((2, Wire::Fixed64(1.5f64.to_bits())))));
        assert_eq!(r.next(), Ok(Some((19, Wire::Bytes(&[10, 1, b'x'])))));
        assert_eq!(r.next(), Ok(None));
    }

    #[test]
    fn garbage_is_refused() {
        for bytes in [&[0x0a, 0x05, 1][..], &[0xff; 12], &[0x0f], &[0x09, 1]] {
            let mut r = Reader::new(bytes);
            let mut last = r.next();
            while let Ok(Some(_)) = last {
                last = r.next();
            }
            assert!(last.is_err(), "{bytes:?}");
        }
    }
}
