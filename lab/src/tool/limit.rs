//! The kernel's limit of ICMP errors: one a second to each address, too few to measure a path by.

use std::fs;
use std::io::{self, ErrorKind, Read as _};

use anyhow::{Context as _, Result};

/// Of this network namespace, for IPv4 and IPv6.
const LIMITS: [&str; 2] = [
    "/proc/sys/net/ipv4/icmp_ratelimit",
    "/proc/sys/net/ipv6/icmp/ratelimit",
];

/// Lifts it until standard input ends. It says `{"ready": true}` once it is lifted.
pub(super) fn lift() -> Result<()> {
    let mut before = Vec::new();
    for path in LIMITS {
        match fs::read_to_string(path) {
            Ok(limit) => before.push((path, limit)),
            // A kernel without IPv6.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {path}")),
        }
    }
    let set =
        |path: &str, limit: &str| fs::write(path, limit).with_context(|| format!("cannot write {path}"));
    let outcome = before.iter().try_for_each(|(path, _)| set(path, "0"));
    let held = outcome.and_then(|()| {
        super::print(&serde_json::json!({ "ready": true }))?;
        Ok(io::stdin().read_to_end(&mut Vec::new()).map(drop)?)
    });
    before
        .iter()
        .try_for_each(|(path, limit)| set(path, limit.trim()))?;
    held
}
