//! Running the tests of a test binary again, on a real control plane.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::plane::{self, Client, ControlPlane, Version};

const ASSETS: &str = "STRAIT_ENVTEST_ASSETS";
const SHARED: &str = "STRAIT_ENVTEST_KUBECONFIG";
const CONTROLLERS: &str = "STRAIT_ENVTEST_CONTROLLERS";
const VERSION: &str = "STRAIT_ENVTEST_VERSION";

const SKIPPED: &str = "skipped: ";
const IN_PART: &str = "skipped in part: ";

/// Time for all tests of a binary on real control planes, each of which takes seconds to start.
const LONGEST: Duration = Duration::from_secs(1200);

/// How many control planes the tests need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// One for all of them.
    One,
    /// Each starts its own.
    Many,
}

/// Says something past the test harness, which keeps what passing tests print.
pub fn say(text: &str) {
    // Where nobody reads, nobody is told.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Says that something was not tried.
pub fn skip(what: &str, why: &str) {
    say(&format!("{SKIPPED}{what}: {why}"));
}

/// Whether the server under test is older than Kubernetes 1.`minor`, so that the calling test cannot run on it,
/// which is said. Our own server never is.
pub fn older(minor: u32, what: &str) -> bool {
    is_older(minor, what, SKIPPED)
}

/// The same for a part of the calling test.
pub fn older_in_part(minor: u32, what: &str) -> bool {
    is_older(minor, what, IN_PART)
}

/// What Kubernetes says since 1.`minor`, or what it said before where the server under test is older.
pub fn since<T>(minor: u32, now: T, before: T) -> T {
    match here_version() {
        Some(here) if here < (Version { major: 1, minor }) => before,
        _ => now,
    }
}

/// In a rerun: the version of the server.
fn here_version() -> Option<Version> {
    Version::parse(&std::env::var(VERSION).ok()?)
}

fn is_older(minor: u32, what: &str, how: &str) -> bool {
    let Some(here) = here_version() else {
        return false;
    };
    let wanted = Version { major: 1, minor };
    if here < wanted {
        // The harness gives a test's thread its name.
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("a test");
        say(&format!("{how}{test}: {what} needs {wanted}, this is {here}"));
    }
    here < wanted
}

/// In a rerun: the folder of the control plane's programs.
pub fn here() -> Option<PathBuf> {
    std::env::var_os(ASSETS).map(PathBuf::from)
}

/// In a rerun on one control plane: its administrator's kubeconfig, and whether controllers run.
pub fn wanted() -> Option<(String, bool)> {
    let file = std::env::var_os(SHARED)?;
    let text = std::fs::read_to_string(file).ok()?;
    Some((text, std::env::var_os(CONTROLLERS).is_some()))
}

fn names(except: &[&str]) -> Result<Vec<String>, String> {
    let exe = std::env::current_exe().map_err(|e| e.to_string())?;
    let listed = Command::new(exe)
        .args(["--list", "--format", "terse"])
        .output()
        .map_err(|e| format!("the tests cannot be listed: {e}"))?;
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    Ok(text
        .lines()
        .filter_map(|l| l.strip_suffix(": test"))
        .filter(|n| !except.contains(n))
        .map(str::to_owned)
        .collect())
}

/// Runs the tests of this binary on what `KUBEBUILDER_ASSETS` names, all but those in `except`, of which the caller
/// is one. Where it names nothing, they are skipped by name, and counted.
pub async fn again(on: On, except: &[&str]) -> Result<(), String> {
    match plane::assets() {
        Some(assets) => again_in(&assets, on, except).await,
        None => {
            let names = names(except)?;
            for name in &names {
                skip(
                    &format!("{name} on kube-apiserver"),
                    "KUBEBUILDER_ASSETS is not set",
                );
            }
            say(&format!("skipped on kube-apiserver: {} tests", names.len()));
            Ok(())
        }
    }
}

/// The same with the programs in this folder.
pub async fn again_in(assets: &Path, on: On, except: &[&str]) -> Result<(), String> {
    let names = names(except)?;
    let exe = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut command = Command::new(exe);
    command
        .arg("--exact")
        .args(&names)
        .args(["--test-threads", "2"])
        .env(ASSETS, assets)
        .stdin(Stdio::null());
    // Also where each test starts its own: somebody has to ask what they are.
    let mut plane = ControlPlane::start(assets).await?;
    let version = plane.version();
    command.env(VERSION, version.to_string());
    if plane.has_controllers() {
        command.env(CONTROLLERS, "1");
    }
    let plane = match on {
        On::Many => {
            plane.alive()?;
            None
        }
        On::One => {
            let file = plane.folder().join("admin.kubeconfig");
            std::fs::write(&file, plane.kubeconfig(Client::Admin)).map_err(|e| e.to_string())?;
            command.env(SHARED, file);
            Some(plane)
        }
    };
    let mut command = tokio::process::Command::from(command);
    // Cut with this future, so that tests that hang do not outlive it.
    command.kill_on_drop(true);
    let output = tokio::time::timeout(LONGEST, command.output())
        .await
        .map_err(|_| format!("the tests took more than {} s again", LONGEST.as_secs()))?
        .map_err(|e| format!("the tests cannot be run again: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!(
            "on the programs in {} (Kubernetes {version}):\n{text}\n{errors}",
            assets.display()
        ));
    }
    let said = Said::of(&text);
    for line in &said.lines {
        say(line);
    }
    say(&format!(
        "on the programs in {} (Kubernetes {version}): {} tests passed, {} of them in part; {} skipped",
        assets.display(),
        names.len().saturating_sub(said.skipped.len()),
        said.in_part.len(),
        said.skipped.len(),
    ));
    if let Some(mut plane) = plane {
        plane.alive()?;
    }
    Ok(())
}

/// What the tests of a rerun said past the harness.
#[derive(Debug, Default)]
struct Said {
    lines: Vec<String>,
    skipped: BTreeSet<String>,
    in_part: BTreeSet<String>,
}

impl Said {
    fn of(text: &str) -> Self {
        let mut said = Said::default();
        let test = |rest: &str| rest.split(": ").next().unwrap_or_default().to_owned();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix(SKIPPED) {
                said.skipped.insert(test(rest));
            } else if let Some(rest) = line.strip_prefix(IN_PART) {
                said.in_part.insert(test(rest));
            } else if !line.starts_with("exchanges") {
                continue;
            }
            // A test in which several servers run says it of each.
            if !said.lines.iter().any(|l| l == line) {
                said.lines.push(line.to_owned());
            }
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_skipped_is_counted_by_test() {
        let said = Said::of(
            "running 3 tests\nskipped: a::b: x needs 1.27, this is 1.20\nskipped in part: c: wording: of 1.30\n\
             skipped in part: c: more\nexchanges covered: 1 of 2\ntest a::b ... ok\n",
        );
        assert_eq!(said.lines.len(), 4);
        assert_eq!(said.skipped.into_iter().collect::<Vec<_>>(), ["a::b"]);
        assert_eq!(said.in_part.into_iter().collect::<Vec<_>>(), ["c"]);
    }

    #[test]
    fn versions_are_read_and_ordered() {
        let read = |text| Version::parse(text).map(|v| v.to_string());
        assert_eq!(read("v1.20.2").as_deref(), Some("1.20"));
        assert_eq!(read("1.33+").as_deref(), Some("1.33"));
        assert_eq!(read("v1.30-alpha").as_deref(), Some("1.30"));
        assert_eq!(read("none"), None);
        assert!(Version::parse("1.9") < Version::parse("1.20"));
    }
}
