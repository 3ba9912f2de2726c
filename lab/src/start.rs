//! Making a lab, and taking one down.

use std::fs::{self, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::Signal;

use crate::alive::ProcessId;
use crate::dir::{self, LabDir};
use crate::handover::{self, Progress};
use crate::space;
use crate::topology::Shape;

/// How long the kernel may take to end a lab's processes.
const END: Duration = Duration::from_secs(30);
/// How long whoever makes a lab may take to end by itself.
const FAREWELL: Duration = Duration::from_secs(10);
/// Lines of a log that an error shows.
const TAIL: usize = 15;

/// A lab that this process has made. While a tethered one's value lives, the lab does.
#[derive(Debug)]
pub(crate) struct Tether {
    _socket: UnixStream,
}

/// Makes a lab and waits until it is ready; `step` hears how far it is. A failed one leaves nothing.
pub(crate) fn up(dir: &LabDir, shape: &Shape, tethered: bool, step: &mut dyn FnMut(&str)) -> Result<Tether> {
    check_machine()?;
    dir.create()?;
    let made = make(dir, shape, tethered, step);
    if let Err(error) = made {
        let error = space::explained(dir.path(), error);
        let error = match down(dir) {
            Ok(()) => error,
            Err(also) => error.context(format!("and it could not be removed: {also:#}")),
        };
        return Err(error);
    }
    made
}

fn make(dir: &LabDir, shape: &Shape, tethered: bool, step: &mut dyn FnMut(&str)) -> Result<Tether> {
    // One for each cluster and one for the broker, in the host's own network namespace.
    let sockets = (0..=shape.clusters.len())
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<io::Result<Vec<_>>>()
        .context("cannot listen on 127.0.0.1")?;
    let (near, far) = UnixStream::pair()?;
    let log = dir.log("supervisor");
    let output = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)
        .with_context(|| format!("cannot open {}", log.display()))?;
    let mut command = Command::new(std::env::current_exe().context("cannot find this program's file")?);
    command.args([
        "lab-supervisor",
        "--lab",
        dir.name(),
        "--shape",
        &serde_json::to_string(shape)?,
    ]);
    command.arg("--dir").arg(dir.path());
    if tethered {
        command.arg("--tethered");
    }
    command
        .stdin(OwnedFd::from(far))
        .stdout(output.try_clone()?)
        .stderr(output);
    // Ctrl-C is for this process: the lab hears of it from here.
    command.process_group(0);
    let mut child = command.spawn().context("cannot start the lab's supervisor")?;
    drop(command);
    handover::send_sockets(&near, &sockets)?;
    drop(sockets);
    let tether = Tether {
        _socket: near.try_clone()?,
    };
    for progress in handover::listen(near) {
        match progress? {
            Progress::Step(text) => step(&text),
            Progress::Ready => {
                child.wait().context("cannot wait for the supervisor's parent")?;
                return Ok(tether);
            }
            Progress::Failed { error, log } => {
                child.wait().context("cannot wait for the supervisor's parent")?;
                let more = log.map(|process| tail(dir, &process)).unwrap_or_default();
                bail!("{error}{more}");
            }
        }
    }
    child.wait().context("cannot wait for the supervisor's parent")?;
    Err(anyhow!(
        "the lab's supervisor ended early{}",
        tail(dir, "supervisor")
    ))
}

/// The end of a process's log, for an error.
pub(crate) fn tail(dir: &LabDir, process: &str) -> String {
    let path = dir.log(process);
    let Ok(text) = fs::read_to_string(&path) else {
        return format!("\n(no log of {process})");
    };
    format!("\n  log of {process}:\n{}", last_lines(&text).join("\n"))
}

/// The last lines; one that repeats stands once, with its count.
fn last_lines(text: &str) -> Vec<String> {
    let mut runs: Vec<(&str, usize)> = Vec::new();
    for line in text.lines() {
        match runs.last_mut() {
            Some((last, count)) if *last == line => *count += 1,
            _ => runs.push((line, 1)),
        }
    }
    let from = runs.len().saturating_sub(TAIL);
    let show = |(line, count): &(&str, usize)| match count {
        1 => format!("  | {line}"),
        _ => format!("  | {line} ({count} times)"),
    };
    runs[from..].iter().map(show).collect()
}

/// Ends a lab and removes what it leaves; there need not be one.
pub(crate) fn down(dir: &LabDir) -> Result<()> {
    // First whoever is still making it: its supervisor ends with it.
    if let Some(maker) = dir.maker().unwrap_or_default()
        && maker != ProcessId::current()?
        && !dir.read()?.is_some_and(|f| f.ready)
    {
        // It takes down what it has made, and says so.
        maker
            .end(Signal::TERM, FAREWELL)
            .or_else(|_| maker.end(Signal::KILL, END))?;
    }
    if let Some(file) = dir.read().unwrap_or_default() {
        file.init.end(Signal::KILL, END).context("cannot end the lab")?;
    }
    dir.remove()?;
    dir::leave_no_root()
}

/// The same for a lab that this process makes; anybody else's of this name is left alone.
pub(crate) fn down_own(dir: &LabDir) -> Result<()> {
    match dir.maker().unwrap_or_default() {
        Some(maker) if maker == ProcessId::current()? => down(dir),
        _ => Ok(()),
    }
}

/// What a lab needs of this machine, before anything is made.
fn check_machine() -> Result<()> {
    let tun = "/dev/net/tun";
    match OpenOptions::new().read(true).write(true).open(tun) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            bail!("there is no {tun}: load it with `modprobe tun` (in a container, pass the device in)")
        }
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => bail!(
            "{tun} may not be opened by this user: run as root, or `chmod 0666 {tun}` (most distributions \
             have it so)"
        ),
        Err(e) => Err(e).with_context(|| format!("cannot open {tun}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_shown_by_its_end_without_repetitions() {
        assert_eq!(
            last_lines("a\nb\nb\nb\nc\n"),
            ["  | a", "  | b (3 times)", "  | c"]
        );
        let long: String = (0..100).map(|n| format!("{n}\n")).collect();
        let shown = last_lines(&long);
        assert_eq!(shown.len(), TAIL);
        assert_eq!(shown.last().map(String::as_str), Some("  | 99"));
        assert!(last_lines("").is_empty());
    }
}
