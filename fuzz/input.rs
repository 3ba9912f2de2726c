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

/// Runs a target over the inputs kept for it in `fuzz/corpus/NAME`, and over what is left of each when its
/// end is cut off. A panic names the input.
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
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        for length in [bytes.len(), bytes.len() / 2, bytes.len().saturating_sub(1)] {
            let held = std::panic::catch_unwind(|| target(&bytes[..length]));
            assert!(
                held.is_ok(),
                "{name} fails on the first {length} bytes of {}",
                file.display()
            );
        }
    }
}
