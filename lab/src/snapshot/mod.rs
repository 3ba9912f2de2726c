//! `strait lab snapshot`: one archive with all that a bug report can tell of a lab, and no secret.
//!
//! ```text
//! README            what is where, and what could not be had
//! versions.json     of this program and the kernel
//! lab.json          what the lab was asked to be, and what it is made of
//! status.json       processes and pods
//! objects/          CLUSTER/KIND.GROUP.json: every object of every API server; of Secrets, names only
//! kernel/           CLUSTER/NODE.txt: devices, addresses, neighbours, routes, rules, nftables; pods beside them
//! plan/             CLUSTER/NODE.txt: what `strait plan` says
//! metrics/          CLUSTER/NODE/DAEMON.txt
//! logs/             as `strait lab logs` prints them
//! ```

mod archive;
mod objects;

use std::fs;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};

use anyhow::{Context as _, Result};
use serde_json::json;
use strait_daemon::errors::sentence;
use strait_daemon::stdout;

use crate::control::{self, LabStatus};
use crate::dir::{LabDir, LabFile};
use crate::enter;
use archive::Archive;

/// Makes the archive and prints its name.
pub(crate) fn run(dir: &LabDir, output: Option<PathBuf>, force: bool) -> Result<ExitCode> {
    if !dir.exists() {
        return Err(dir.none());
    }
    let output = output.unwrap_or_else(|| {
        let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
        PathBuf::from(format!("strait-lab-{}-{now}.tar.gz", dir.name()))
    });
    let archive = Archive::create(&output, force)?;
    let mut snapshot = Snapshot {
        dir,
        archive,
        missing: Vec::new(),
    };
    let taken = snapshot.take().and_then(|()| snapshot.archive.finish());
    if taken.is_err() {
        snapshot.archive.discard();
    }
    taken.with_context(|| format!("cannot write {}", output.display()))?;
    stdout::print(&output.display().to_string())?;
    Ok(ExitCode::SUCCESS)
}

struct Snapshot<'a> {
    dir: &'a LabDir,
    archive: Archive,
    /// What could not be had, and why.
    missing: Vec<String>,
}

impl Snapshot<'_> {
    /// Only a failure to write ends it early: the less works, the more it is needed.
    fn take(&mut self) -> Result<()> {
        let versions = json!({
            "strait": env!("CARGO_PKG_VERSION"),
            "kernel": kernel(),
            "time": jiff::Timestamp::now().to_string(),
        });
        self.archive.json("versions.json", &versions)?;
        self.logs()?;
        match self.dir.read() {
            Ok(Some(file)) => self.archive.json("lab.json", &serde_json::to_value(&file)?)?,
            Ok(None) => self.lacks("lab.json", "the lab has not come so far"),
            Err(error) => self.lacks("lab.json", &sentence(error.as_ref())),
        }
        match self.dir.running() {
            Ok(file) => self.running(&file)?,
            Err(error) => self.lacks("all that only a running lab has", &sentence(error.as_ref())),
        }
        let missing = match self.missing.as_slice() {
            [] => "Nothing is missing.".to_owned(),
            list => format!("What could not be had:\n- {}", list.join("\n- ")),
        };
        let readme = format!(
            "A snapshot of the lab {:?}, by `strait lab snapshot`. Secrets are left out.\n\n{missing}\n",
            self.dir.name()
        );
        self.archive.file("README", readme.as_bytes())
    }

    fn lacks(&mut self, what: &str, why: &str) {
        self.missing.push(format!("{what}: {why}"));
    }

    fn logs(&mut self) -> Result<()> {
        let folder = self.dir.path().join("logs");
        let mut logs: Vec<PathBuf> = match fs::read_dir(&folder) {
            Ok(entries) => entries.filter_map(|e| Some(e.ok()?.path())).collect(),
            Err(error) => {
                self.lacks("logs", &error.to_string());
                return Ok(());
            }
        };
        logs.sort();
        for log in logs {
            let name = log.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match fs::read(&log) {
                Ok(text) => self.archive.file(&format!("logs/{name}"), &text)?,
                Err(error) => self.lacks(&name, &error.to_string()),
            }
        }
        Ok(())
    }

    fn running(&mut self, file: &LabFile) -> Result<()> {
        let names = std::iter::once("broker").chain(file.topology.names());
        for cluster in names {
            let found = objects::all(&self.dir.kubeconfig(cluster));
            let (kinds, problems) = match found {
                Ok(found) => found,
                Err(error) => {
                    let what = format!("objects of {cluster}");
                    self.lacks(&what, &sentence(error.as_ref()));
                    continue;
                }
            };
            for (kind, list) in kinds {
                self.archive
                    .json(&format!("objects/{cluster}/{kind}.json"), &list)?;
            }
            for problem in problems {
                self.lacks(&format!("objects of {cluster}"), &problem);
            }
        }
        for place in file.namespaces.keys() {
            self.said(&format!("kernel/{place}.txt"), place, &["lab-tool", "inspect"])?;
        }
        let status = match control::status(self.dir) {
            Ok(status) => status,
            Err(error) => {
                self.lacks("status.json", &sentence(error.as_ref()));
                return Ok(());
            }
        };
        self.archive
            .json("status.json", &serde_json::to_value(&status)?)?;
        self.daemons(&status)
    }

    fn daemons(&mut self, status: &LabStatus) -> Result<()> {
        for process in &status.processes {
            let id = process.id.as_str();
            // Only a container knows its port; the control planes are no containers.
            match self.dir.container(id) {
                Ok(Some(_)) => self.said(&format!("metrics/{id}.txt"), id, &["lab-tool", "metrics"])?,
                Ok(None) => continue,
                Err(error) => self.lacks(&format!("metrics of {id}"), &sentence(error.as_ref())),
            }
            if let Some(node) = id.strip_suffix("/route-agent") {
                self.said(&format!("plan/{node}.txt"), id, &["plan"])?;
            }
        }
        Ok(())
    }

    /// What this program prints when it is run in a place of the lab.
    fn said(&mut self, path: &str, place: &str, args: &[&str]) -> Result<()> {
        let output = enter::strait_in(self.dir, place)?
            .args(args)
            .stdin(Stdio::null())
            .output()
            .context("cannot run a command in the lab")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            self.lacks(path, said.trim());
        }
        self.archive.file(path, &output.stdout)
    }
}

fn kernel() -> String {
    let uname = rustix::system::uname();
    format!(
        "{} {} {}",
        uname.release().to_string_lossy(),
        uname.version().to_string_lossy(),
        uname.machine().to_string_lossy()
    )
}
