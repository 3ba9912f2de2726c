//! What the bodies of fuzz targets share; each crate that has some includes this file as a module.
#![allow(dead_code)]

/// A fuzzer's bytes, read as a script of small numbers and pieces. Behind their end everything is zero.
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn take(&mut self, most: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        self.take(usize::MAX)
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    pub(crate) fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    pub(crate) fn long(&mut self) -> u32 {
        u32::from(self.word()) | u32::from(self.word()) << 16
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::from(self.word()) % end
    }

    /// A piece with its length in front.
    pub(crate) fn piece(&mut self) -> &'a [u8] {
        let length = usize::from(self.word());
        self.take(length)
    }
}

/// Runs a target over the inputs kept for it in `fuzz/corpus/NAME`, over what is left of each when its end is
/// cut off, and over some damaged copies: always the same, and as many as `STRAIT_FUZZ_DAMAGED` says. A panic
/// names the input.
#[cfg(test)]
pub(crate) fn replay(name: &str, target: fn(&[u8])) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(name);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} holds no input", folder.display());
    let damaged = std::env::var("STRAIT_FUZZ_DAMAGED").map_or(2, |n| n.parse().unwrap());
    let inputs: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    let mut chance = Chance(0x5354_5241_4954);
    for (file, bytes) in files.iter().zip(&inputs) {
        let held = |what: &str, bytes: &[u8]| {
            let held = std::panic::catch_unwind(|| target(bytes));
            assert!(
                held.is_ok(),
                "{name} fails on {what} {}: {}",
                file.display(),
                bytes.escape_ascii()
            );
        };
        for length in [bytes.len(), bytes.len() / 2, bytes.len().saturating_sub(1)] {
            held("the start of", &bytes[..length]);
        }
        for _ in 0..damaged {
            held("a damaged", &chance.damage(bytes, &inputs));
        }
    }
}

/// Numbers that look random (xorshift).
#[cfg(test)]
struct Chance(u64);

#[cfg(test)]
impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end.max(1)
    }

    /// A copy with some bytes changed, taken out, said twice, or taken from another input.
    fn damage(&mut self, bytes: &[u8], others: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            let most = (bytes.len() - at).min(32);
            let length = self.below(most + 1);
            match self.below(5) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                1 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
                2 => drop(bytes.drain(at..at + length)),
                3 => {
                    let again = bytes[at..at + length].to_vec();
                    bytes.splice(at..at, again);
                }
                _ => {
                    let other = &others[self.below(others.len())];
                    let from = self.below(other.len());
                    let piece = &other[from..(from + 32).min(other.len())];
                    bytes.splice(at..(at + length).min(bytes.len()), piece.iter().copied());
                }
            }
        }
        bytes
    }
}
