//! The last inputs seen, on disk.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// One file of saved objects.
#[derive(Debug, Clone)]
pub(crate) struct SavedFile(PathBuf);

impl SavedFile {
    pub(crate) fn new(dir: &Path, name: &str) -> Self {
        Self(dir.join(format!("{name}.json")))
    }

    /// The objects saved last; `None` where there is no file. A file that cannot be read is reported and
    /// taken as absent: the API server will tell.
    pub(crate) fn load<K: DeserializeOwned>(&self) -> Option<Vec<K>> {
        let text = match fs::read(&self.0) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
            Err(e) => {
                tracing::warn!(file = %self.0.display(), error = %e, "saved inputs cannot be read; waiting for the API server");
                return None;
            }
        };
        match read(&text) {
            Ok(objects) => Some(objects),
            Err(e) => {
                tracing::warn!(file = %self.0.display(), error = %e, "saved inputs are damaged; waiting for the API server");
                None
            }
        }
    }

    /// Replaces the file in one step, so that a crash leaves the old or the new one.
    pub(crate) fn store<K: Serialize>(&self, objects: &[K]) -> io::Result<()> {
        let text = written(objects)?;
        if let Some(dir) = self.0.parent() {
            fs::create_dir_all(dir)?;
        }
        let temporary = self.0.with_extension("json.new");
        let mut file = fs::File::create(&temporary)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&temporary, &self.0)
    }
}

/// What a file holds.
pub(crate) fn read<K: DeserializeOwned>(text: &[u8]) -> serde_json::Result<Vec<K>> {
    serde_json::from_slice(text)
}

/// What is to be in a file.
pub(crate) fn written<K: Serialize>(objects: &[K]) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(objects)
}
