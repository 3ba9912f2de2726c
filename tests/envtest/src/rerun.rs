//! Running the tests of a test binary again, on a real control plane.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::plane::{self, Client, ControlPlane};

const ASSETS: &str = "STRAIT_ENVTEST_ASSETS";
const SHARED: &str = "STRAIT_ENVTEST_KUBECONFIG";
const CONTROLLERS: &str = "STRAIT_ENVTEST_CONTROLLERS";

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
    say(&format!("skipped: {what}: {why}"));
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
    let names = names(except)?;
    match plane::assets() {
        Some(assets) => again_in(&assets, on, except).await,
        None => {
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
    let plane = match on {
        On::Many => None,
        On::One => Some(ControlPlane::start(assets).await?),
    };
    if let Some(plane) = &plane {
        let file = plane.folder().join("admin.kubeconfig");
        std::fs::write(&file, plane.kubeconfig(Client::Admin)).map_err(|e| e.to_string())?;
        command.env(SHARED, file);
        if plane.has_controllers() {
            command.env(CONTROLLERS, "1");
        }
    }
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
            "on the programs in {}:\n{text}\n{errors}",
            assets.display()
        ));
    }
    for line in text
        .lines()
        .filter(|l| l.starts_with("skipped") || l.starts_with("exchanges"))
    {
        say(line);
    }
    say(&format!(
        "on the programs in {}: {} tests passed",
        assets.display(),
        names.len()
    ));
    if let Some(mut plane) = plane {
        plane.alive()?;
    }
    Ok(())
}
