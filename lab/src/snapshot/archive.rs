//! A gzipped tar file.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

/// An archive that is being written.
pub(super) struct Archive {
    tar: tar::Builder<GzEncoder<File>>,
    now: u64,
    place: Place,
}

/// Where it is written, and what becomes of that.
enum Place {
    /// A new file, gone again if the archive fails.
    New(PathBuf),
    /// A file beside one that is there, which it replaces in the end.
    Beside { written: PathBuf, replaces: PathBuf },
    /// A device or a pipe, which is nobody's to remove.
    Stream,
}

impl Archive {
    /// Begins one, for this user's eyes only; in place of a file that is there only by `force`.
    pub(super) fn create(path: &Path, force: bool) -> Result<Self> {
        let place = match fs::metadata(path) {
            Ok(found) if found.is_dir() => {
                bail!("{} is a folder; -o takes the name of a file", path.display())
            }
            Ok(found) if !found.is_file() => Place::Stream,
            Ok(_) if force => Place::beside(path)?,
            Ok(_) => bail!(
                "{} exists already; name another file with -o, or write over it with --force",
                path.display()
            ),
            Err(_) => Place::New(path.to_owned()),
        };
        let (written, new) = match &place {
            Place::New(written) | Place::Beside { written, .. } => (written.as_path(), true),
            Place::Stream => (path, false),
        };
        let file = OpenOptions::new()
            .write(true)
            .create_new(new)
            .mode(0o600)
            .open(written)
            .with_context(|| format!("cannot write {}", written.display()))?;
        let now = jiff::Timestamp::now().as_second();
        Ok(Self {
            tar: tar::Builder::new(GzEncoder::new(file, Compression::default())),
            now: u64::try_from(now).unwrap_or(0),
            place,
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

    /// Writes the rest; then it stands where it belongs.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.tar.finish()?;
        self.tar.get_mut().try_finish()?;
        let file = self.tar.get_mut().get_mut();
        match &self.place {
            Place::Stream => file.flush()?,
            Place::New(_) => file.sync_all()?,
            Place::Beside { written, replaces } => {
                file.sync_all()?;
                fs::rename(written, replaces)?;
            }
        }
        Ok(())
    }

    /// Takes away what was cut short: it is no archive.
    pub(super) fn discard(&self) {
        if let Place::New(written) | Place::Beside { written, .. } = &self.place
            && let Err(error) = fs::remove_file(written)
        {
            tracing::warn!(
                "{} is no whole archive, and cannot be removed: {error}",
                written.display()
            );
        }
    }
}

impl Place {
    fn beside(path: &Path) -> Result<Self> {
        // Where a link leads, so that the link stays one.
        let replaces = fs::canonicalize(path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut name = replaces.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.new", std::process::id()));
        Ok(Self::Beside {
            written: replaces.with_file_name(name),
            replaces,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_there_stays_until_a_whole_archive_takes_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar.gz");
        fs::write(&path, "kept").unwrap();
        let refused = Archive::create(&path, false).err().unwrap().to_string();
        assert!(
            refused.contains(path.to_str().unwrap()) && refused.contains("--force"),
            "{refused}"
        );

        let mut archive = Archive::create(&path, true).unwrap();
        archive.file("README", b"half").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"kept");
        archive.discard();
        assert_eq!(
            (fs::read(&path).unwrap().as_slice(), names(folder.path())),
            (&b"kept"[..], vec!["a.tar.gz".to_owned()])
        );

        let mut archive = Archive::create(&path, true).unwrap();
        archive.file("README", b"whole").unwrap();
        archive.finish().unwrap();
        assert!(fs::read(&path).unwrap().starts_with(&[0x1f, 0x8b]));
        assert_eq!(names(folder.path()), ["a.tar.gz"]);

        let new = folder.path().join("new.tar.gz");
        Archive::create(&new, false).unwrap().discard();
        assert!(!new.exists(), "a new file that is cut short goes");
    }

    #[test]
    fn a_device_or_a_pipe_is_written_to_and_never_removed() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let name = std::ffi::CString::new(pipe.to_str().unwrap()).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            name.as_c_str(),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).unwrap()
        });
        let mut archive = Archive::create(&pipe, false).unwrap();
        archive.file("README", b"whole").unwrap();
        archive.finish().unwrap();
        archive.discard();
        drop(archive);
        assert!(reader.join().unwrap().starts_with(&[0x1f, 0x8b]));
        assert_eq!(names(folder.path()), ["pipe"]);
    }
}
