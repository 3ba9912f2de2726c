//! A process tree with mounts, network and process numbers of its own: it ends as a whole, and what it
//! made ends with it.
#![allow(unsafe_code)]

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::error::{Error, Result};
use crate::link::Links;
use crate::userns;

/// Moves this process into new mount and network namespaces (where it is not root, inside a new user
/// namespace), and the children that it makes from now on into a new PID namespace, whose first process
/// takes all others with it. The process must have one thread only. Tells whether it made a user namespace.
///
/// # Errors
/// Where namespaces are not allowed (the message says what to enable) or threads run already.
pub fn enter() -> Result<bool> {
    let rootless = !userns::is_root();
    if rootless {
        userns::become_root()?;
    }
    let flags = UnshareFlags::NEWNS | UnshareFlags::NEWNET | UnshareFlags::NEWPID;
    // SAFETY: no file descriptor table is unshared, and with one thread nobody else's namespaces change.
    unsafe { unshare_unsafe(flags) }
        .map_err(|e| userns::refused("make mount, network and PID namespaces", e.into()))?;
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .map_err(|e| Error::system("make the mounts private", e))?;
    Links::open()?.set_up("lo")?;
    Ok(rootless)
}

/// Moves this process into a mount namespace of its own, where what it mounts is seen by nobody else. The
/// process must have one thread only.
///
/// # Errors
/// Where the process may not make one.
pub fn own_mounts() -> Result<()> {
    // SAFETY: no file descriptor table is unshared, and with one thread nobody else's mounts change.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }
        .map_err(|e| userns::refused("make a mount namespace", e.into()))?;
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .map_err(|e| Error::system("make the mounts private", e))
}
