//! The tools, run in places of a lab as `lab exec` runs them.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;

use crate::dir::LabDir;
use crate::enter;

/// One of the tools in a place.
pub(crate) fn command(dir: &LabDir, place: &str, arguments: &[impl AsRef<str>]) -> Result<Command> {
    let mut command = enter::strait_in(dir, place)?;
    command
        .arg("lab-tool")
        .args(arguments.iter().map(AsRef::as_ref))
        // Ctrl-C is for whoever starts it, which takes all down; what comes of that is no failure.
        .process_group(0)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Ok(command)
}

/// What a tool that failed says, without this program's name before it.
pub(crate) fn complaint(stderr: &[u8]) -> String {
    let said = String::from_utf8_lossy(stderr);
    said.trim().trim_start_matches("strait: ").to_owned()
}

/// A tool at work somewhere in the lab.
pub(crate) struct Errand {
    child: Child,
    place: String,
}

impl Errand {
    pub(crate) fn start(dir: &LabDir, place: &str, arguments: &[impl AsRef<str>]) -> Result<Self> {
        let child = command(dir, place, arguments)?
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot run a command in {place}"))?;
        Ok(Self {
            child,
            place: place.to_owned(),
        })
    }

    /// What it says in the end.
    pub(crate) fn result<T: DeserializeOwned>(self) -> Result<T> {
        let output = self
            .child
            .wait_with_output()
            .context("cannot wait for a command")?;
        if !output.status.success() {
            bail!("{}: {}", self.place, complaint(&output.stderr));
        }
        serde_json::from_slice(&output.stdout).with_context(|| format!("{} said something else", self.place))
    }
}
