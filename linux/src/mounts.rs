//! Mount namespaces without names, in which files stand over others: held by a descriptor, gone when the
//! last holder is.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::error::{Error, Result};
use crate::userns;

const CURRENT: &str = "/proc/thread-self/ns/mnt";

/// What stands over something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cover {
    /// One file over another; both exist.
    File {
        /// What is seen.
        source: PathBuf,
        /// Where.
        target: PathBuf,
    },
    /// An empty folder over one that exists.
    Empty(PathBuf),
}

/// A mount namespace, held by a descriptor.
#[derive(Debug, Clone)]
pub struct Mounts {
    fd: Arc<OwnedFd>,
}

impl Mounts {
    /// The calling process's mounts with some things covered. Nobody else sees these, and what is mounted
    /// elsewhere later is not seen in here.
    ///
    /// # Errors
    /// Where the process may not make a mount namespace, or something cannot be covered.
    pub fn covered(covers: &[Cover]) -> Result<Self> {
        thread::scope(|scope| {
            thread::Builder::new()
                .name("mounts".to_owned())
                .spawn_scoped(scope, || make(covers))
                .map_err(|e| Error::system("start a thread", e))?
                .join()
                .map_err(|panic| std::panic::resume_unwind(panic))
        })?
    }

    /// Makes `command` start with these mounts, in their root folder.
    pub fn attach(&self, command: &mut Command) {
        let fd = Arc::clone(&self.fd);
        // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
        unsafe {
            command.pre_exec(move || {
                move_into_link_name_space(fd.as_fd(), Some(LinkNameSpaceType::Mount)).map_err(io::Error::from)
            });
        }
    }
}

impl AsFd for Mounts {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// On a thread that ends right after.
fn make(covers: &[Cover]) -> Result<Mounts> {
    // SAFETY: no file descriptor table is unshared, and only this thread's mounts change.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }
        .map_err(|e| userns::refused("make a mount namespace", e.into()))?;
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .map_err(|e| Error::system("make the mounts private", e))?;
    for cover in covers {
        match cover {
            Cover::File { source, target } => {
                // By descriptor: a target may lie over the folder that the next source is in.
                let file =
                    File::open(source).map_err(|e| Error::system(format!("open {}", source.display()), e))?;
                mount_bind(format!("/proc/self/fd/{}", file.as_raw_fd()), target)
            }
            Cover::Empty(target) => {
                let flags = MountFlags::NOSUID | MountFlags::NODEV;
                mount("strait", target, "tmpfs", flags, Some(c"mode=0755"))
            }
        }
        .map_err(|e| Error::system(format!("mount something over {}", cover.target().display()), e))?;
    }
    let fd = File::open(CURRENT).map_err(|e| Error::system("open a mount namespace", e))?;
    Ok(Mounts {
        fd: Arc::new(fd.into()),
    })
}

impl Cover {
    /// What is covered.
    #[must_use]
    pub fn target(&self) -> &PathBuf {
        match self {
            Self::File { target, .. } | Self::Empty(target) => target,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::testing::as_root;

    #[test]
    fn a_covered_file_is_seen_by_those_inside_only() {
        as_root(
            "mounts::tests::a_covered_file_is_seen_by_those_inside_only",
            || {
                let dir = tempfile::tempdir().unwrap();
                let (own, other) = (dir.path().join("own"), dir.path().join("other"));
                let folder = dir.path().join("folder");
                fs::create_dir(&folder).unwrap();
                fs::write(folder.join("hidden"), "").unwrap();
                fs::write(&own, "own").unwrap();
                fs::write(&other, "other").unwrap();
                let mounts = Mounts::covered(&[
                    Cover::File {
                        source: own.clone(),
                        target: other.clone(),
                    },
                    Cover::Empty(folder.clone()),
                ])
                .unwrap();
                let mut command = Command::new("sh");
                let script = format!("cat {}; ls {}", other.display(), folder.display());
                command.args(["-c", &script]);
                mounts.attach(&mut command);
                let output = command.output().unwrap();
                assert_eq!(String::from_utf8_lossy(&output.stdout), "own");
                assert_eq!(fs::read_to_string(&other).unwrap(), "other");
                assert!(folder.join("hidden").exists());

                let missing = Cover::File {
                    source: own,
                    target: dir.path().join("missing"),
                };
                let error = Mounts::covered(&[missing]).unwrap_err().to_string();
                assert!(error.contains("missing"), "{error}");
            },
        );
    }
}
