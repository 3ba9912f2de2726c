//! The file under the store: redb, one table of objects and one of facts about the store itself.

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const FORMAT: u64 = 1;
/// Everything is served from memory; the page cache only serves writes.
const CACHE_BYTES: usize = 16 << 20;

/// One change of a batch.
pub(super) enum Change {
    /// Write this value.
    Put(String, Bytes),
    /// Remove the key.
    Remove(String),
}

/// What a start reads.
pub(super) struct Loaded {
    /// Last resource version given out.
    pub(crate) rv: u64,
    /// Key and JSON of every object.
    pub(crate) objects: Vec<(String, Bytes)>,
}

pub(super) struct Disk {
    path: PathBuf,
    db: Option<Database>,
}

fn say(path: &Path, what: &str, e: impl std::fmt::Display) -> String {
    format!("the store {} cannot be {what}: {e}", path.display())
}

impl Disk {
    /// Opens or makes the file and reads all of it.
    pub(super) fn open(path: &Path) -> Result<(Self, Loaded), String> {
        let mut disk = Disk {
            path: path.to_owned(),
            db: None,
        };
        let loaded = disk.load()?;
        Ok((disk, loaded))
    }

    fn database(&mut self) -> Result<&Database, String> {
        if self.db.is_none() {
            // It holds Secrets: its owner's alone.
            let file = std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&self.path)
                .map_err(|e| say(&self.path, "opened", e))?;
            let db = Database::builder()
                .set_cache_size(CACHE_BYTES)
                .create_file(file)
                .map_err(|e| say(&self.path, "opened", e))?;
            self.db = Some(db);
        }
        self.db
            .as_ref()
            .ok_or_else(|| say(&self.path, "opened", "it is closed"))
    }

    fn load(&mut self) -> Result<Loaded, String> {
        let path = self.path.clone();
        let read = |db: &Database| -> Result<Loaded, redb::Error> {
            let write = db.begin_write()?;
            {
                write.open_table(OBJECTS)?;
                let mut meta = write.open_table(META)?;
                if meta.get("format")?.is_none() {
                    meta.insert("format", FORMAT)?;
                }
            }
            write.commit()?;
            let txn = db.begin_read()?;
            let meta = txn.open_table(META)?;
            let rv = meta.get("rv")?.map(|v| v.value()).unwrap_or(0);
            let table = txn.open_table(OBJECTS)?;
            let mut objects = Vec::new();
            for row in table.iter()? {
                let (key, value) = row?;
                objects.push((key.value().to_owned(), Bytes::copy_from_slice(value.value())));
            }
            Ok(Loaded { rv, objects })
        };
        let db = self.database()?;
        read(db).map_err(|e| say(&path, "read", e))
    }

    /// Writes a batch durably. After an error nothing of it may be relied on, and the file is reopened
    /// by the next call.
    pub(super) fn commit(&mut self, changes: &[Change], rv: u64) -> Result<(), String> {
        let path = self.path.clone();
        let write = |db: &Database| -> Result<(), redb::Error> {
            let txn = db.begin_write()?;
            {
                let mut objects = txn.open_table(OBJECTS)?;
                for change in changes {
                    match change {
                        Change::Put(key, json) => objects.insert(key.as_str(), json.as_ref())?,
                        Change::Remove(key) => objects.remove(key.as_str())?,
                    };
                }
                txn.open_table(META)?.insert("rv", rv)?;
            }
            txn.commit()?;
            Ok(())
        };
        let outcome = write(self.database()?);
        if let Err(e) = outcome {
            self.db = None;
            return Err(say(&path, "written", e));
        }
        Ok(())
    }
}
