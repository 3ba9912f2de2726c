//! Going to the background, as `wireguard-go` does: the command returns when the interface stands.
//!
//! A process with threads cannot fork, so the command starts itself once more and waits for its word.

use std::fs::OpenOptions;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result};
use rustix::fs::{FileType, fstat};

/// Set for the process in the background.
const BACKGROUND: &str = "STRAIT_WIREGUARD_BACKGROUND";
const READY: &str = "ready";

/// Starts the interface in the background, and returns when it stands or has failed.
pub(super) fn start() -> Result<ExitCode> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut command = Command::new(program);
    let mut arguments = std::env::args_os();
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command
        .args(arguments)
        .env(BACKGROUND, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = command
        .spawn()
        .context("cannot start the interface's process in the background")?;
    let mut line = String::new();
    if let Some(said) = child.stdout.take() {
        BufReader::new(said).read_line(&mut line)?;
    }
    if line.trim_end() == READY {
        return Ok(ExitCode::SUCCESS);
    }
    // It has said why on standard error.
    let status = child.wait()?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Whether this is the process in the background.
pub(super) fn in_background() -> bool {
    std::env::var_os(BACKGROUND).is_some()
}

/// Leaves the terminal's session, where this is the process in the background.
pub(super) fn detach() -> Result<()> {
    if in_background() {
        rustix::process::setsid().context("cannot begin a session of its own")?;
    }
    Ok(())
}

/// Tells the waiting command that the interface stands, and lets go of what it has of the terminal.
pub(super) fn ready() -> Result<()> {
    if !in_background() {
        return Ok(());
    }
    let mut out = io::stdout();
    writeln!(out, "{READY}")?;
    out.flush()?;
    let null = OpenOptions::new()
        .write(true)
        .open("/dev/null")
        .context("cannot open /dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    // A terminal is its user's; and whoever reads a pipe waits for its end, which would come with the interface's.
    let kind = FileType::from_raw_mode(fstat(io::stderr())?.st_mode);
    if !matches!(kind, FileType::RegularFile | FileType::Socket) {
        rustix::stdio::dup2_stderr(&null)?;
    }
    Ok(())
}
