//! Host names of a command's own.
#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::system::sethostname;
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Longest host name that the kernel takes.
const LONGEST: usize = 64;

/// Makes `command` start in a UTS namespace of its own with this host name, cut where it is too long.
pub fn attach(command: &mut Command, name: &str) {
    let name: Vec<u8> = name.bytes().take(LONGEST).collect();
    // SAFETY: between fork and exec the closure makes two system calls and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            // SAFETY: only the host name of the process that is about to start changes.
            unshare_unsafe(UnshareFlags::NEWUTS).map_err(io::Error::from)?;
            sethostname(&name).map_err(io::Error::from)
        });
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    #[test]
    fn a_command_has_a_name_that_nobody_else_has() {
        crate::testing::as_root("uts::tests::a_command_has_a_name_that_nobody_else_has", || {
            let read = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
            let before = read();
            let mut command = Command::new("cat");
            command.arg("/proc/sys/kernel/hostname");
            super::attach(&mut command, &format!("worker-1{}", "x".repeat(100)));
            let output = command.output().unwrap();
            let said = String::from_utf8(output.stdout).unwrap();
            assert!(said.starts_with("worker-1xx") && said.len() == 65, "{said}");
            assert_eq!(read(), before);
        });
    }
}
