//! The gateway's private key on disk, and the lock that makes one process its owner.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{FlockOperation, flock};
use zeroize::Zeroizing;

use crate::datapath::PrivateKey;

/// The gateway's folder under the state directory.
pub(crate) fn folder(state_dir: &Path) -> PathBuf {
    state_dir.join("gateway")
}

/// Makes the folder, readable by its owner alone.
pub(crate) fn make_folder(folder: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| {
            format!(
                "state folder {} cannot be made; name a writable one with --state-dir",
                folder.display()
            )
        })
}

/// Held while this process is the node's gateway.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "closing the file is what unlocks it")] File);

impl Lock {
    /// Takes the lock; none while another process holds it.
    pub(crate) fn take(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("lock {} cannot be opened", path.display()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno).with_context(|| format!("lock {} cannot be taken", path.display())),
        }
    }
}

/// Reads the key, or makes one where there is none. A key that cannot be read is an error: a new one in its
/// place would cut every tunnel, unasked.
pub(crate) fn load_or_create(folder: &Path) -> Result<PrivateKey> {
    let path = folder.join("key");
    match File::open(&path) {
        Ok(file) => load(file, &path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = PrivateKey::generate().context("no random numbers for a tunnel key")?;
            store(&key, &path).with_context(|| format!("tunnel key {} cannot be written", path.display()))?;
            tracing::info!(file = %path.display(), public_key = %key.public(), "made a tunnel key");
            Ok(key)
        }
        Err(error) => Err(error).with_context(|| format!("tunnel key {} cannot be read", path.display())),
    }
}

fn load(mut file: File, path: &Path) -> Result<PrivateKey> {
    let mode = file.metadata().map(|meta| meta.permissions().mode())?;
    if mode & 0o077 != 0 {
        bail!(
            "tunnel key {} can be read by others (mode {:o}): if nobody has, chmod 600 it; else delete it, and a new key is made",
            path.display(),
            mode & 0o777
        );
    }
    let mut text = Zeroizing::new(String::new());
    file.read_to_string(&mut text)
        .with_context(|| format!("tunnel key {} cannot be read", path.display()))?;
    PrivateKey::from_base64(&text).with_context(|| {
        format!(
            "tunnel key {} is damaged: restore it, or delete it, and a new key is made and published",
            path.display()
        )
    })
}

/// Writes the key so that a crash leaves all of it or nothing.
fn store(key: &PrivateKey, path: &Path) -> io::Result<()> {
    let temporary = path.with_extension("new");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(key.to_base64().as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_once_and_only_its_owner_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = folder(dir.path());
        make_folder(&folder).unwrap();
        let first = load_or_create(&folder).unwrap();
        let again = load_or_create(&folder).unwrap();
        assert_eq!(first.public(), again.public());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder.join("key")), 0o600);
        assert_eq!(mode(&folder), 0o700);
        let files: Vec<_> = fs::read_dir(&folder)
            .unwrap()
            .map(|file| file.unwrap().file_name())
            .collect();
        assert_eq!(files, ["key"], "no other copy of the key stays behind");
    }

    #[test]
    fn a_damaged_or_open_key_is_an_error_and_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, "not a key").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let error = load_or_create(dir.path()).err().unwrap();
        assert!(format!("{error:#}").contains("damaged"), "{error:#}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "not a key");

        fs::remove_file(&path).unwrap();
        load_or_create(dir.path()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = load_or_create(dir.path()).err().unwrap();
        assert!(format!("{error:#}").contains("chmod 600"), "{error:#}");
    }

    #[test]
    fn only_one_process_is_the_gateway() {
        let dir = tempfile::tempdir().unwrap();
        let held = Lock::take(dir.path()).unwrap();
        assert!(held.is_some());
        assert!(Lock::take(dir.path()).unwrap().is_none());
        drop(held);
        assert!(Lock::take(dir.path()).unwrap().is_some());
    }
}
