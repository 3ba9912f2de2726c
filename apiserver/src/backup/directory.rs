//! Backups of, and into, a data directory that no server has open.

use std::io::{BufRead, Write};
use std::path::Path;

use super::Summary;
use super::format::{Backup, Writer};
use crate::error::Error;
use crate::files;
use crate::store::{Location, STORE_FILE, Store, Window};

/// The files besides the store that belong to a server's identity.
pub(super) const FILES: [&str; 4] = ["ca.crt", "ca.key", "serviceaccount.key", "admin.token"];
/// Versions that a restored store leaves out, so that none is given out again that somebody saw after the
/// backup was taken.
const LEAP: u64 = 1_000_000_000;

/// Writes a backup of a data directory.
///
/// # Errors
/// If a server has the store open, or something cannot be read or written.
pub fn from_directory(dir: &Path, mut to: impl Write) -> Result<(), Error> {
    let file = dir.join(STORE_FILE);
    if !file.is_file() {
        return Err(Error::Backup(format!(
            "{} is no data directory: it holds no {STORE_FILE}",
            dir.display()
        )));
    }
    let store = Store::open(&Location::File(file), Window::default()).map_err(|e| {
        Error::Backup(format!(
            "{e}; if a server runs on it, ask the server with its kubeconfig instead"
        ))
    })?;
    let mut put = |bytes: Vec<u8>| {
        to.write_all(&bytes)
            .map_err(|e| Error::Backup(format!("it cannot be written: {e}")))
    };
    let (rv, resources) = store.snapshot_all();
    let (mut writer, head) = Writer::begin(rv);
    put(head)?;
    for name in FILES {
        if let Some(text) = files::read(&dir.join(name))? {
            put(writer.file(name, &text))?;
        }
    }
    for (resource, objects) in &resources {
        for object in objects.from("") {
            put(writer.object(resource, object))?;
        }
    }
    put(writer.end())
}

/// Makes a data directory out of a backup. A server that starts there goes on from the backup, at versions
/// that none of its clients has seen, so that they list everything anew.
///
/// # Errors
/// If the backup is not whole, or the directory holds a store or other keys already: nothing is written then.
pub fn into_directory(from: impl BufRead, dir: &Path) -> Result<Summary, Error> {
    let backup = Backup::read(from)?;
    let store = dir.join(STORE_FILE);
    if store.exists() {
        return Err(Error::Backup(format!(
            "{} holds a store already; move it away, or choose another directory",
            dir.display()
        )));
    }
    for file in &backup.files {
        if !FILES.contains(&file.file.as_str()) {
            return Err(Error::Backup(format!(
                "it holds a file {:?}, which it should not",
                file.file
            )));
        }
        let path = dir.join(&file.file);
        if files::read(&path)?.is_some_and(|have| have != file.text) {
            return Err(Error::Backup(format!(
                "{} is another one than the backup's; move it away, or choose another directory",
                path.display()
            )));
        }
    }
    files::make_private(dir)?;
    for file in &backup.files {
        let secret = file.file != "ca.crt";
        files::write(&dir.join(&file.file), file.text.as_bytes(), secret)?;
    }
    // The store comes last and as a whole: a directory without one is no server's.
    let rv = backup.summary.version + LEAP;
    crate::store::make(&store, backup.objects, rv).map_err(Error::Backup)?;
    Ok(backup.summary)
}
