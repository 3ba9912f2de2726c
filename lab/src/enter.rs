//! Commands inside a lab's namespaces.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::dir::{LabDir, LabFile};

/// Moves this process into the lab: what it starts from now on sees the lab's processes, mounts, and the
/// network of `place` (`CLUSTER/NODE`, `CLUSTER/POD` or `router`). It must have one thread only.
pub(crate) fn enter(file: &LabFile, place: &str) -> Result<()> {
    let Some(network) = file.namespaces.get(place) else {
        let known: Vec<&str> = file.namespaces.keys().map(String::as_str).collect();
        bail!("there is no {place:?} in the lab; there are {}", known.join(", "));
    };
    let pid = file.supervisor.pid;
    let join = |path: &str, kind: LinkNameSpaceType| -> Result<()> {
        let fd = File::open(path).with_context(|| format!("cannot open the namespace {path}"))?;
        move_into_link_name_space(fd.as_fd(), Some(kind))
            .with_context(|| format!("cannot enter the namespace {path}"))
    };
    if file.rootless {
        join(&format!("/proc/{pid}/ns/user"), LinkNameSpaceType::User)?;
    }
    // The order matters: paths under /proc are those of the host's mounts.
    join(network, LinkNameSpaceType::Network)?;
    join(&format!("/proc/{pid}/ns/pid"), LinkNameSpaceType::ProcessID)?;
    join(&format!("/proc/{pid}/ns/mnt"), LinkNameSpaceType::Mount)
}

/// Runs a command in a place of the lab and passes its exit code on.
pub(crate) fn exec(dir: &LabDir, place: &str, argv: &[OsString]) -> Result<ExitCode> {
    let here = std::env::current_dir().ok();
    enter(&dir.running()?, place)?;
    let (program, arguments) = argv.split_first().context("no command was given")?;
    let mut command = Command::new(program);
    command.args(arguments);
    if let Some(here) = here {
        command.current_dir(here);
    }
    // The command is in the terminal's foreground group too and gets Ctrl-C itself; this process only
    // waits for it, so it must not die of it first.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut interrupts = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
        let mut child = tokio::process::Command::from(command)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let status = loop {
            tokio::select! {
                status = child.wait() => break status.context("cannot wait for the command")?,
                _ = interrupts.recv() => {}
            }
        };
        let code = status
            .code()
            .or_else(|| status.signal().map(|s| 128 + s))
            .unwrap_or(1);
        Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
    })
}
