//! What a test that is a program of its own begins with, and what it looks at.

use std::time::{Duration, Instant};

use crate::netns::Netns;
use crate::userns;

/// How long something may take that a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Moves this process where it may make network devices, and nothing else of the machine can be touched. It must
/// have one thread only.
///
/// # Panics
/// Where neither root nor user namespaces are to be had.
pub fn enter_namespaces() {
    if !userns::is_root() {
        userns::become_root().unwrap_or_else(|error| panic!("{error}"));
    }
    let network = Netns::new().unwrap_or_else(|error| panic!("{error}"));
    network.enter().unwrap_or_else(|error| panic!("{error}"));
}

/// Waits for a condition.
///
/// # Panics
/// Where it does not come within [`PATIENCE`].
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How often a process's threads have waited: all of them, or those of this name.
///
/// # Panics
/// Where there is no such process.
pub fn waits(process: u32, thread: Option<&str>) -> u64 {
    let folder = format!("/proc/{process}/task");
    let read = |path: &std::path::Path| {
        std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let tasks = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder}: {error}"));
    tasks
        .map(|task| {
            let task = task.unwrap_or_else(|error| panic!("{folder}: {error}"));
            read(&task.path().join("status"))
        })
        .filter(|status| thread.is_none_or(|name| status.lines().next() == Some(&format!("Name:\t{name}"))))
        .map(|status| {
            let count = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            count
                .and_then(|count| count.trim().parse::<u64>().ok())
                .unwrap_or_else(|| panic!("no count of waits in {folder}: {status}"))
        })
        .sum()
}
