//! For tests that need root: as root they run as they are; else in a user namespace of their own. And what
//! such tests need besides: other people's firewalls, pictures of a namespace before and after, a kernel that
//! refuses system calls, and looks at a process.

mod dump;
mod firewall;
mod process;
mod refuse;

use std::process::Command;

pub use dump::{difference, dump};
pub use firewall::Firewall;
pub use process::{PATIENCE, enter_namespaces, until, waits};
pub use refuse::{Call, refuse};

use crate::userns;

const MARK: &str = "STRAIT_TEST_IN_USER_NAMESPACE";

/// Runs `test` with the rights of root over network namespaces. `name` is the test's full name as
/// `cargo test -- --list` prints it: without root, the test's own binary is started again in a user
/// namespace, for this one test.
///
/// # Panics
/// Where the test fails, or where neither root nor user namespaces are to be had.
pub fn as_root(name: &str, test: impl FnOnce()) {
    if userns::is_root() && std::env::var_os(MARK).is_none() {
        return test();
    }
    in_user_namespace(name, test);
}

/// Runs `test` as root in a user namespace, even where the process is root already: there, the kernel
/// grants no buffers beyond the limits.
///
/// # Panics
/// As [`as_root`].
pub fn in_user_namespace(name: &str, test: impl FnOnce()) {
    if std::env::var_os(MARK).is_some() {
        assert!(
            userns::is_root(),
            "{}",
            userns::refused(
                "use a user namespace",
                std::io::Error::from_raw_os_error(libc::EPERM)
            )
        );
        return test();
    }
    let mut again = Command::new("/proc/self/exe");
    again
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(MARK, "1");
    userns::attach(&mut again);
    let output = match again.output() {
        Ok(output) => output,
        Err(e) => panic!("{}", userns::refused("start a test in a user namespace", e)),
    };
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "{name} failed in a user namespace:\n{out}\n{err}"
    );
    assert!(
        out.contains("1 passed"),
        "no test is called {name}:\n{out}\n{err}"
    );
}
