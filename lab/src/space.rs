//! Room for a lab on its disk.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use rustix::fs::statvfs;

/// Less than this, and a lab is not begun.
const NEEDED: u64 = 32 << 20;
/// Less than this, and a failure is the disk's.
const FULL: u64 = 1 << 20;

/// Whether a lab fits.
pub(crate) fn enough(dir: &Path) -> Result<()> {
    let free = free(dir)?;
    if free < NEEDED {
        bail!("{}; a lab needs {} MB there", sentence(dir, free), NEEDED >> 20);
    }
    Ok(())
}

/// The error of something that was done there, led by the disk's state where that explains it.
pub(crate) fn explained(dir: &Path, error: anyhow::Error) -> anyhow::Error {
    match free(dir) {
        Ok(free) if free < FULL => error.context(sentence(dir, free)),
        _ => error,
    }
}

fn sentence(dir: &Path, free: u64) -> String {
    format!(
        "only {} kB are left on the disk of {}: make room, or set XDG_RUNTIME_DIR to a folder of yours on \
         another disk",
        free >> 10,
        dir.display()
    )
}

/// Bytes that this user may still write. A file system without room for another file is as good as full.
fn free(dir: &Path) -> Result<u64> {
    let found = statvfs(dir).with_context(|| format!("cannot look at the disk of {}", dir.display()))?;
    if found.f_files > 0 && found.f_favail == 0 {
        return Ok(0);
    }
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_named_before_what_came_of_it() {
        let text = sentence(Path::new("/run/user/1000/strait-lab"), 4096);
        assert!(
            text.starts_with("only 4 kB are left on the disk of /run/user/1000/strait-lab:"),
            "{text}"
        );
        // /proc has no blocks at all.
        let error = explained(Path::new("/proc"), anyhow::anyhow!("cannot write x"));
        assert!(
            format!("{error:#}").ends_with("another disk: cannot write x"),
            "{error:#}"
        );
        let error = explained(Path::new("/"), anyhow::anyhow!("cannot write x"));
        assert_eq!(format!("{error:#}"), "cannot write x");
        assert!(enough(Path::new("/proc")).is_err());
    }
}
