//! Root in a user namespace, for those who are not root: enough for network namespaces of one's own.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::write;
use rustix::process::{getegid, geteuid};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::error::{Error, Result};

/// Whether this process can make network namespaces and change them.
#[must_use]
pub fn is_root() -> bool {
    const CAP_NET_ADMIN: u64 = 1 << 12;
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    let wanted = CAP_NET_ADMIN | CAP_SYS_ADMIN;
    fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status
                .lines()
                .find_map(|l| l.strip_prefix("CapEff:").map(str::trim))?;
            u64::from_str_radix(line, 16).ok()
        })
        .is_some_and(|effective| effective & wanted == wanted)
}

/// Moves this process into a new user namespace in which it is root. It must have one thread only: call
/// this first in `main`. Processes that are root already need not.
///
/// # Errors
/// Where user namespaces are not allowed (the message says what to enable) or threads run already.
pub fn become_root() -> Result<()> {
    let maps = Maps::of_this_process();
    // SAFETY: the kernel refuses this for a process with more than one thread, so no thread can be
    // surprised by it.
    unsafe { unshare_unsafe(UnshareFlags::NEWUSER) }
        .map_err(|e| refused("make a user namespace", e.into()))?;
    maps.write()
        .map_err(|e| refused("become root in a user namespace", e))
}

/// Makes `command` start as root in a user namespace of its own.
pub fn attach(command: &mut Command) {
    let maps = Maps::of_this_process();
    // SAFETY: between fork and exec the closure makes system calls only; its text was made before.
    unsafe {
        command.pre_exec(move || {
            unshare_unsafe(UnshareFlags::NEWUSER)?;
            maps.write()
        });
    }
}

/// An error about namespaces that says what to enable.
#[must_use]
pub fn refused(doing: &str, source: io::Error) -> Error {
    Error::Namespaces {
        doing: doing.to_owned(),
        remedy: remedy(&source),
        source,
    }
}

fn remedy(source: &io::Error) -> String {
    let number = |path: &str| {
        fs::read_to_string(path)
            .ok()
            .and_then(|t| t.trim().parse::<i64>().ok())
    };
    if number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        return "AppArmor forbids it: run as root, or `sysctl -w \
                kernel.apparmor_restrict_unprivileged_userns=0`"
            .to_owned();
    }
    if number("/proc/sys/kernel/unprivileged_userns_clone") == Some(0) {
        return "run as root, or `sysctl -w kernel.unprivileged_userns_clone=1`".to_owned();
    }
    if number("/proc/sys/user/max_user_namespaces") == Some(0) {
        return "run as root, or `sysctl -w user.max_user_namespaces=10000`".to_owned();
    }
    if number("/proc/sys/user/max_net_namespaces") == Some(0) {
        return "`sysctl -w user.max_net_namespaces=10000`".to_owned();
    }
    match source.raw_os_error() {
        Some(libc::EINVAL) => "the process has several threads; this must come before the first".to_owned(),
        Some(libc::ENOSPC) => "too many namespaces exist: raise `sysctl user.max_user_namespaces` and \
             `user.max_net_namespaces`"
            .to_owned(),
        Some(libc::EPERM | libc::EACCES) => {
            "run as root with CAP_SYS_ADMIN and CAP_NET_ADMIN, or where user namespaces are allowed (a \
             container's seccomp profile may forbid them)"
                .to_owned()
        }
        _ => "run as root, or where user namespaces are allowed".to_owned(),
    }
}

struct Maps {
    uid: String,
    gid: String,
}

impl Maps {
    fn of_this_process() -> Self {
        Self {
            uid: format!("0 {} 1\n", geteuid().as_raw()),
            gid: format!("0 {} 1\n", getegid().as_raw()),
        }
    }

    fn write(&self) -> io::Result<()> {
        put(c"/proc/self/setgroups", b"deny")?;
        put(c"/proc/self/uid_map", self.uid.as_bytes())?;
        put(c"/proc/self/gid_map", self.gid.as_bytes())
    }
}

fn put(path: &CStr, content: &[u8]) -> io::Result<()> {
    let file = open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    write(&file, content)?;
    Ok(())
}
