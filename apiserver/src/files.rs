//! Small files in the data directory, and how many files may be open.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::error::Error;

fn fail(path: &Path, what: &str, e: std::io::Error) -> Error {
    Error::File {
        path: path.to_owned(),
        what: what.to_owned(),
        source: e,
    }
}

/// The file's text, or `None` if there is no such file.
pub(crate) fn read(path: &Path) -> Result<Option<String>, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(fail(path, "read", e)),
    }
}

/// Writes a file as a whole: a reader sees the old one or the new one. `secret`: only the owner reads it.
pub(crate) fn write(path: &Path, content: &[u8], secret: bool) -> Result<(), Error> {
    let temp = path.with_extension("new");
    let mode = if secret { 0o600 } else { 0o644 };
    let put = || -> std::io::Result<()> {
        // A leftover of a crash may have other permissions.
        match std::fs::remove_file(&temp) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temp)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&temp, path)
    };
    put().map_err(|e| fail(path, "written", e))
}

/// Writes a file that holds a credential (a kubeconfig, say) as a whole, readable by its owner only, whatever
/// the umask and whatever the mode of a file that stood there before.
///
/// # Errors
/// With the file's name where it cannot be written.
pub fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    write(path, text.as_bytes(), true)
}

/// Files that are not connections.
const OTHERS: u64 = 128;

/// How many connections this process may have open.
pub(crate) fn room() -> usize {
    let open = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(open.saturating_sub(OTHERS).max(16)).unwrap_or(usize::MAX)
}

/// Lets this process have as many files open as it may, and thus as many connections. To be called by
/// programs that serve, before [`crate::Server::start`]; their children inherit it.
pub fn allow_many_connections() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(1 << 20).min(1 << 20);
    if limit.current.is_none_or(|now| now >= wanted) {
        return;
    }
    let raised = Rlimit {
        current: Some(wanted),
        maximum: limit.maximum,
    };
    if let Err(e) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(error = %e, "the limit on open files cannot be raised: fewer connections can be served");
    }
}

/// Makes a directory that only its owner may enter, if it is not there.
pub(crate) fn make_private(dir: &Path) -> Result<(), Error> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| fail(dir, "made", e))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_credential_is_its_owners_even_where_an_open_file_stood() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.yaml");
        std::fs::write(&path, "old").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        super::write_private(&path, "new").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
}
