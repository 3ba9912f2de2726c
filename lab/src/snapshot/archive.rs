//! A gzipped tar file.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

/// An archive that is being written.
pub(super) struct Archive {
    tar: tar::Builder<GzEncoder<File>>,
    now: u64,
}

impl Archive {
    /// Begins one, for this user's eyes only.
    pub(super) fn create(path: &Path) -> Result<Self> {
        super::checked(path)?;
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        let now = jiff::Timestamp::now().as_second();
        Ok(Self {
            tar: tar::Builder::new(GzEncoder::new(file, Compression::default())),
            now: u64::try_from(now).unwrap_or(0),
        })
    }

    /// Adds a file; all lie in one folder.
    pub(super) fn file(&mut self, path: &str, content: &[u8]) -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(self.now);
        let path = Path::new("strait-lab").join(path);
        self.tar.append_data(&mut header, path, content)?;
        Ok(())
    }

    /// Adds JSON.
    pub(super) fn json(&mut self, path: &str, value: &Value) -> Result<()> {
        self.file(path, &serde_json::to_vec_pretty(value)?)
    }

    /// Writes the rest.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.tar.finish()?;
        self.tar.get_mut().try_finish()?;
        self.tar.get_mut().get_mut().sync_all()?;
        Ok(())
    }
}
