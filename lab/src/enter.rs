//! Commands inside a lab's namespaces.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::signal::unix::{SignalKind, signal};

use crate::dir::{LabDir, LabFile};

/// What a place gives to a command in it.
struct Place {
    /// Of a daemon's container, its environment.
    environment: Vec<(OsString, OsString)>,
    /// The host name, where this process has not got the place's.
    hostname: Option<String>,
}

/// Moves this process into the lab: what it starts from now on sees the lab's processes, and the network
/// and mounts of `place` (`CLUSTER/NODE`, `CLUSTER/POD`, `router`, or a daemon's container by
/// `CLUSTER/NODE/DAEMON`). It must have one thread only.
fn enter(dir: &LabDir, file: &LabFile, place: &str) -> Result<Place> {
    let holder = file.supervisor.pid;
    let (network, mounts, container) = match (file.namespaces.get(place), dir.container(place)?) {
        (Some(network), _) => {
            let mounts = file.mounts.get(place).cloned();
            (
                network.clone(),
                mounts.unwrap_or_else(|| format!("/proc/{holder}/ns/mnt")),
                None,
            )
        }
        (None, Some(pid)) => (
            format!("/proc/{pid}/ns/net"),
            format!("/proc/{pid}/ns/mnt"),
            Some((format!("/proc/{pid}/environ"), format!("/proc/{pid}/ns/uts"))),
        ),
        (None, None) => {
            // Of a cluster that there is, only its own places are of interest.
            let cluster = place.split('/').next().unwrap_or_default();
            let cluster = file.topology.cluster(cluster).map(|c| format!("{}/", c.name));
            let near = |name: &str| cluster.as_ref().is_none_or(|of| name.starts_with(of));
            let known = file.namespaces.keys().map(String::as_str);
            let known: Vec<&str> = known.filter(|name| near(name)).collect();
            let mut daemons = dir.containers();
            daemons.retain(|name| near(name));
            let daemons = match daemons {
                none if none.is_empty() => String::new(),
                some => format!("; of daemons there are {}", some.join(", ")),
            };
            bail!(
                "there is no {place:?} in the lab; there are {}{daemons}",
                known.join(", ")
            );
        }
    };
    let open = |path: &str| {
        File::open(path).with_context(|| format!("cannot open {path}; `strait lab status` shows what runs"))
    };
    let join = |fd: &File, kind: LinkNameSpaceType| {
        move_into_link_name_space(fd.as_fd(), Some(kind))
            .with_context(|| format!("cannot enter the {kind:?} namespace of {place}"))
    };
    if file.rootless {
        join(
            &open(&format!("/proc/{holder}/ns/user"))?,
            LinkNameSpaceType::User,
        )?;
    }
    let network = open(&network)?;
    let processes = open(&format!("/proc/{holder}/ns/pid"))?;
    let mounts = open(&mounts)?;
    let (environment, name) = match container {
        Some((path, name)) => {
            let bytes = fs::read(&path).with_context(|| format!("cannot read {path}"))?;
            (parse_environment(&bytes), Some(open(&name)?))
        }
        None => (Vec::new(), None),
    };
    join(&network, LinkNameSpaceType::Network)?;
    join(&processes, LinkNameSpaceType::ProcessID)?;
    join(&mounts, LinkNameSpaceType::Mount)?;
    let hostname = match name {
        Some(name) => {
            join(&name, LinkNameSpaceType::HostNameAndNISDomainName)?;
            None
        }
        None => place.rsplit('/').next().map(str::to_owned),
    };
    Ok(Place {
        environment,
        hostname,
    })
}

fn parse_environment(bytes: &[u8]) -> Vec<(OsString, OsString)> {
    let pair = |entry: &[u8]| {
        let at = entry.iter().position(|b| *b == b'=')?;
        Some((
            OsStr::from_bytes(&entry[..at]).to_owned(),
            OsStr::from_bytes(&entry[at + 1..]).to_owned(),
        ))
    };
    bytes.split(|b| *b == 0).filter_map(pair).collect()
}

/// What a shell exits with for a command that is not there, or that cannot be run.
fn not_started(error: &io::Error) -> ExitCode {
    ExitCode::from(if error.kind() == io::ErrorKind::NotFound {
        127
    } else {
        126
    })
}

/// This program, run in a place of the lab by a process of its own; what it is to do there is to be added.
pub(crate) fn strait_in(dir: &LabDir, place: &str) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("cannot find this program's file")?);
    command.args(["lab", "--name", dir.name(), "exec", place, "--", "strait"]);
    Ok(command)
}

/// Runs a command in a place of the lab and passes its exit code on.
pub(crate) fn exec(dir: &LabDir, place: &str, argv: &[OsString]) -> Result<ExitCode> {
    let here = std::env::current_dir().ok();
    let (program, arguments) = argv.split_first().context("no command was given")?;
    // This program is at hand everywhere, also where it is in no PATH.
    let program = if program == "strait" {
        std::env::current_exe()
            .context("cannot find this program's file")?
            .into_os_string()
    } else {
        program.clone()
    };
    let Place {
        environment,
        hostname,
    } = enter(dir, &dir.running()?, place)?;
    let mut command = Command::new(&program);
    if let Some(name) = hostname {
        strait_linux::uts::attach(&mut command, &name);
    }
    if !environment.is_empty() {
        command.env_remove("KUBECONFIG");
    }
    command.args(arguments).envs(environment);
    if let Some(here) = here.filter(|h| h.exists()) {
        command.current_dir(here);
    }
    // The command is in the terminal's foreground group too and gets Ctrl-C itself; this process only
    // waits for it, so it must not die of it first.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut interrupts = signal(SignalKind::interrupt())?;
        let mut child = match tokio::process::Command::from(command).spawn() {
            Ok(child) => child,
            Err(error) => {
                eprintln!("strait: cannot start {} in {place}: {error}", program.display());
                return Ok(not_started(&error));
            }
        };
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
