//! The implementations: where they come from.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{Access, access};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};

use crate::{Args, target};

/// How long a program may take to say its version.
const PATIENCE: Duration = Duration::from_secs(5);

/// What runs an interface.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Driver {
    pub(crate) name: String,
    /// Program and arguments, with `{IF}` for the interface; empty for the bare wire.
    pub(crate) command: Vec<String>,
    pub(crate) version: String,
}

impl Driver {
    fn new(name: &str, program: &Path, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|&argument| argument.to_owned());
        let program = program.display().to_string();
        Self {
            name: name.to_owned(),
            version: version(&program),
            command: [program].into_iter().chain(arguments).collect(),
        }
    }
}

/// The wire without a tunnel.
pub(crate) fn bare() -> Driver {
    Driver {
        name: BARE.to_owned(),
        command: Vec::new(),
        version: String::new(),
    }
}

/// Name of the wire without a tunnel.
pub(crate) const BARE: &str = "no tunnel";
/// Name of ours.
pub(crate) const OURS: &str = "strait";

pub(crate) fn ours() -> Driver {
    Driver::new(
        OURS,
        Path::new(env!("CARGO_BIN_EXE_strait")),
        &["wireguard", "-f", "{IF}"],
    )
}

/// How to get a program that is not there.
enum Source {
    /// A package of the crate registry, and its version.
    Crate(&'static str, &'static str),
    /// A package of Debian.
    Debian(&'static str),
}

struct Peer {
    program: &'static str,
    source: Source,
    /// Ways to run it.
    ways: &'static [(&'static str, &'static [&'static str])],
}

const PEERS: [Peer; 3] = [
    Peer {
        program: "wireguard-go",
        source: Source::Debian("wireguard-go"),
        ways: &[("wireguard-go", &["-f", "{IF}"])],
    },
    Peer {
        program: "gotatun",
        source: Source::Crate("gotatun-cli", "0.10.2"),
        ways: &[("gotatun", &["-f", "--disable-drop-privileges", "{IF}"])],
    },
    Peer {
        program: "boringtun-cli",
        source: Source::Crate("boringtun-cli", "0.7.1"),
        ways: &[
            (
                "boringtun-cli -t 1",
                &["-f", "--disable-drop-privileges", "-t", "1", "{IF}"],
            ),
            ("boringtun-cli", &["-f", "--disable-drop-privileges", "{IF}"]),
        ],
    },
];

/// What can be run, and why the rest cannot.
pub(crate) fn gather(args: &Args) -> Result<(Vec<Driver>, Vec<String>)> {
    let all: Vec<&str> = [OURS]
        .into_iter()
        .chain(PEERS.iter().flat_map(|peer| peer.ways).map(|(name, _)| *name))
        .collect();
    for name in &args.only {
        ensure!(
            all.contains(&name.as_str()),
            "there is no {name:?}; there are {}",
            all.join(", ")
        );
    }
    let wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|only| only == name);
    let mut drivers = vec![bare()];
    let mut skipped = Vec::new();
    if wanted(OURS) {
        drivers.push(ours());
    }
    for peer in &PEERS {
        let ways: Vec<_> = peer.ways.iter().filter(|(name, _)| wanted(name)).collect();
        if ways.is_empty() {
            continue;
        }
        match find(args, peer) {
            Ok(program) => drivers.extend(ways.iter().map(|(name, rest)| Driver::new(name, &program, rest))),
            Err(why) => skipped.push(format!("{}: {why:#}", peer.program)),
        }
    }
    Ok((drivers, skipped))
}

fn find(args: &Args, peer: &Peer) -> Result<PathBuf> {
    let fetched = target().join("peers");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = args
        .peers
        .iter()
        .cloned()
        .chain(std::env::split_paths(&path))
        .chain([fetched.join("bin"), fetched.join("usr/bin")]);
    if let Some(found) = folders
        .map(|folder| folder.join(peer.program))
        .find(|path| access(path, Access::EXEC_OK).is_ok() && path.is_file())
    {
        return Ok(found);
    }
    ensure!(
        !args.no_install,
        "it is not installed, and --no-install was given"
    );
    match peer.source {
        Source::Crate(package, version) => {
            println!(
                "builds {package} {version} in {} (some minutes)",
                fetched.display()
            );
            run(Command::new("cargo")
                .args([
                    "install",
                    "--quiet",
                    "--locked",
                    package,
                    "--version",
                    version,
                    "--root",
                ])
                .arg(&fetched))?;
            Ok(fetched.join("bin").join(peer.program))
        }
        Source::Debian(package) => {
            // Unpacked, not installed: the system stays as it is.
            println!("unpacks Debian's {package} in {}", fetched.display());
            let folder = tempfile::tempdir()?;
            run(Command::new("apt-get")
                .args(["--quiet", "download", package])
                .current_dir(folder.path()))?;
            let archive = std::fs::read_dir(folder.path())?
                .next()
                .context("apt-get downloaded nothing")??;
            run(Command::new("dpkg-deb")
                .arg("--extract")
                .arg(archive.path())
                .arg(&fetched))?;
            Ok(fetched.join("usr/bin").join(peer.program))
        }
    }
}

fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().display().to_string();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {name}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let end = said.trim().lines().last().unwrap_or_default();
    ensure!(output.status.success(), "{name} failed: {end}");
    Ok(())
}

/// The last word of the first line that it says of its version; none if it says nothing in time.
fn version(program: &str) -> String {
    let said = || -> Result<String> {
        let mut child = Command::new(program)
            .arg("--version")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let begun = Instant::now();
        while child.try_wait()?.is_none() {
            if begun.elapsed() > PATIENCE {
                // With what it has started.
                let group = Pid::from_child(&child);
                kill_process_group(group, Signal::KILL)?;
                child.wait()?;
                bail!("it says nothing");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(String::from_utf8(child.wait_with_output()?.stdout)?)
    };
    let said = said().unwrap_or_default();
    let first = said.lines().next().unwrap_or_default();
    first.split_whitespace().last().unwrap_or_default().to_owned()
}
