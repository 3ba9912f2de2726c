//! The file under the store: redb, one table of objects and two of facts about the store itself.

use std::collections::HashMap;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// The version of each resource's last change.
const LASTS: TableDefinition<'_, &str, u64> = TableDefinition::new("lasts");
const FORMAT: u64 = 1;
/// Everything is served from memory; the page cache only serves writes.
const CACHE_BYTES: usize = 16 << 20;
/// A file that is larger than this, and several times as large as what it holds, is made smaller when it is
/// opened: what was deleted leaves room that later writes use, and never gives it back.
const LARGE: u64 = if cfg!(test) { 4 << 20 } else { 64 << 20 };
/// So many times.
const WASTEFUL: u64 = 4;
/// Time between two tries to open the file again, at least.
const RETRY: Duration = Duration::from_millis(250);

/// One change of a batch.
pub(super) enum Change {
    /// Write this value.
    Put(String, Bytes),
    /// Remove the key.
    Remove(String),
}

/// What a start reads.
#[derive(Default)]
pub(super) struct Loaded {
    /// Last resource version given out.
    pub(super) rv: u64,
    /// Version since which the last changes of resources are written down.
    pub(super) since: u64,
    /// Those.
    pub(super) lasts: HashMap<String, u64>,
    /// Key and JSON of every object.
    pub(super) objects: Vec<(String, Bytes)>,
}

pub(super) struct Disk {
    path: PathBuf,
    db: Option<Database>,
    /// Versions that the file may be at when it is opened again.
    known: [u64; 2],
    failed: Option<Failure>,
}

/// Why the file was closed, and when it may be tried again.
struct Failure {
    why: String,
    again: Instant,
}

fn open(path: &Path, create: bool) -> Result<Database, String> {
    // It holds Secrets: its owner's alone.
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(create)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|e| e.to_string())?;
    Database::builder()
        .set_cache_size(CACHE_BYTES)
        .create_file(file)
        .map_err(|e| e.to_string())
}

/// What a store that was found damaged has beside it, until somebody has seen to it.
fn mark(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".damaged");
    name.into()
}

/// Opens a file that may be damaged: it is checked as a whole, and what cannot be relied on is refused.
fn examine(path: &Path) -> Result<(Database, Loaded), String> {
    let say =
        |what: &str, e: &dyn std::fmt::Display| format!("the store {} cannot be {what}: {e}", path.display());
    let mark = mark(path);
    if mark.exists() {
        return Err(format!(
            "the store {} was found damaged, and changes may be lost: restore a backup into another folder, or remove {} to go on with what can be read",
            path.display(),
            mark.display()
        ));
    }
    let mut db = open(path, true).map_err(|e| say("opened", &e))?;
    let found = format(&db).map_err(|e| say("read", &e))?;
    if found > FORMAT {
        return Err(format!(
            "the store {} has format {found}, and this version knows {FORMAT} at most: use the version that wrote it, or a later one",
            path.display()
        ));
    }
    // The check mends what it can, by going back to what was written before: that has to be seen.
    match db.check_integrity() {
        Ok(true) => {}
        Ok(false) => {
            let why = "parts of the file are not as they were written\n";
            std::fs::write(&mark, why).map_err(|e| say("marked as damaged", &e))?;
            return Err(say("read", &why.trim_end()));
        }
        Err(e) => return Err(say("read", &e)),
    }
    let loaded = load(&db).map_err(|e| say("read", &e))?;
    Ok((db, loaded))
}

/// The format of what is in the file; 0 in a new one.
fn format(db: &Database) -> Result<u64, redb::Error> {
    let txn = db.begin_read()?;
    match txn.open_table(META) {
        Ok(meta) => Ok(meta.get("format")?.map_or(0, |v| v.value())),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(0),
        Err(e) => Err(e.into()),
    }
}

fn load(db: &Database) -> Result<Loaded, redb::Error> {
    let write = db.begin_write()?;
    {
        write.open_table(OBJECTS)?;
        write.open_table(LASTS)?;
        let mut meta = write.open_table(META)?;
        if meta.get("format")?.is_none() {
            meta.insert("format", FORMAT)?;
        }
        if meta.get("since")?.is_none() {
            let rv = meta.get("rv")?.map_or(1, |v| v.value());
            meta.insert("since", rv)?;
        }
    }
    write.commit()?;
    let txn = db.begin_read()?;
    let meta = txn.open_table(META)?;
    let number = |key: &str| -> Result<u64, redb::Error> { Ok(meta.get(key)?.map_or(0, |v| v.value())) };
    let mut loaded = Loaded {
        rv: number("rv")?,
        since: number("since")?,
        ..Loaded::default()
    };
    for row in txn.open_table(LASTS)?.iter()? {
        let (key, value) = row?;
        loaded.lasts.insert(key.value().to_owned(), value.value());
    }
    for row in txn.open_table(OBJECTS)?.iter()? {
        let (key, value) = row?;
        loaded
            .objects
            .push((key.value().to_owned(), Bytes::copy_from_slice(value.value())));
    }
    Ok(loaded)
}

fn version(db: &Database) -> Result<u64, redb::Error> {
    let txn = db.begin_read()?;
    let meta = txn.open_table(META)?;
    Ok(meta.get("rv")?.map_or(0, |v| v.value()))
}

fn write(db: &Database, changes: &[Change], lasts: &HashMap<&str, u64>, rv: u64) -> Result<(), redb::Error> {
    let txn = db.begin_write()?;
    {
        let mut objects = txn.open_table(OBJECTS)?;
        for change in changes {
            match change {
                Change::Put(key, json) => objects.insert(key.as_str(), json.as_ref())?,
                Change::Remove(key) => objects.remove(key.as_str())?,
            };
        }
        let mut table = txn.open_table(LASTS)?;
        for (resource, rv) in lasts {
            table.insert(resource, rv)?;
        }
        txn.open_table(META)?.insert("rv", rv)?;
    }
    txn.commit()?;
    Ok(())
}

impl Disk {
    /// Opens or makes the file and reads all of it.
    pub(super) fn open(path: &Path) -> Result<(Self, Loaded), String> {
        let (mut db, loaded) = std::panic::catch_unwind(|| examine(path)).unwrap_or_else(|_| {
            Err(format!(
                "the store {} cannot be read: it is damaged",
                path.display()
            ))
        })?;
        let size = std::fs::metadata(path).map_or(0, |m| m.len());
        let held: usize = loaded.objects.iter().map(|(k, v)| k.len() + v.len()).sum();
        if size > LARGE && size / WASTEFUL > held as u64 {
            let begun = Instant::now();
            match db.compact() {
                Ok(_) => tracing::info!(path = %path.display(), from = size,
                    to = std::fs::metadata(path).map_or(0, |m| m.len()),
                    seconds = begun.elapsed().as_secs_f32(), "the store's file is smaller now"),
                Err(e) => tracing::warn!(path = %path.display(), error = %e,
                    "the store's file cannot be made smaller, and is used as it is"),
            }
        }
        let disk = Disk {
            path: path.to_owned(),
            db: Some(db),
            known: [loaded.rv; 2],
            failed: None,
        };
        Ok((disk, loaded))
    }

    /// Whether the file is closed because of a failure.
    pub(super) fn broken(&self) -> bool {
        self.failed.is_some()
    }

    /// Opens the file again after a failure: the same file, as this process left it.
    fn reopen(&mut self) -> Result<Database, String> {
        let db = open(&self.path, false)?;
        let rv = version(&db).map_err(|e| e.to_string())?;
        if !self.known.contains(&rv) {
            return Err(format!(
                "the file is at version {rv} and not at {}: something else has written or replaced it",
                self.known[0]
            ));
        }
        self.known[0] = rv;
        Ok(db)
    }

    /// Writes a batch durably. After an error nothing of it may be relied on; the file is closed, and later
    /// calls try to open it again. The error names the cause but not the path: it is shown to clients.
    pub(super) fn commit(
        &mut self,
        changes: &[Change],
        lasts: &HashMap<&str, u64>,
        rv: u64,
    ) -> Result<(), String> {
        if let Some(failure) = &self.failed
            && Instant::now() < failure.again
        {
            return Err(failure.why.clone());
        }
        let begun = Instant::now();
        let db = match self.db.take() {
            Some(db) => Ok(db),
            None => self.reopen(),
        };
        let outcome = db.and_then(|db| {
            // The file may be at this version from here on, whatever comes back.
            self.known[1] = rv;
            let done = write(&db, changes, lasts, rv).map_err(|e| e.to_string());
            done.map(|()| db)
        });
        match outcome {
            Ok(db) => {
                self.db = Some(db);
                self.known = [rv; 2];
                if self.failed.take().is_some() {
                    tracing::info!(path = %self.path.display(), "the store can be written again");
                }
                Ok(())
            }
            Err(e) => {
                if self.failed.is_none() {
                    tracing::error!(path = %self.path.display(), error = %e, "the store cannot be written");
                }
                let why = format!("the store cannot be written: {e}");
                // Opening reads the whole file: a large one is not tried over and over.
                let pause = RETRY.max(begun.elapsed() * 4);
                self.failed = Some(Failure {
                    why: why.clone(),
                    again: Instant::now() + pause,
                });
                Err(why)
            }
        }
    }
}
