//! What a container runtime does for a daemon: its volumes stand where its manifest says.
//!
//! The file system stays the machine's, except that /run and /var/lib are empty but for the volumes.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use rustix::mount::{MountFlags, mount, mount_bind};

/// Folders that a container has for itself; every volume stands in one of them.
const OWN: [&str; 2] = ["/run", "/var/lib"];

/// Arguments of `strait lab-container`.
#[derive(Debug, Args)]
pub struct ContainerArgs {
    /// A volume: SOURCE=TARGET
    #[arg(long, value_parser = volume)]
    volume: Vec<(PathBuf, PathBuf)>,
    /// Where to write the process's number on the host
    #[arg(long)]
    pid_file: PathBuf,
    /// Arguments of this program
    #[arg(last = true)]
    args: Vec<OsString>,
}

fn volume(text: &str) -> Result<(PathBuf, PathBuf), String> {
    let (source, target) = text.split_once('=').ok_or("a volume takes SOURCE=TARGET")?;
    Ok((source.into(), target.into()))
}

/// Becomes the daemon. The process must have one thread only.
pub fn run_container(args: ContainerArgs) -> Result<std::process::ExitCode> {
    let number = fs::read_link("/proc/self").context("cannot read /proc/self; is /proc mounted?")?;
    fs::write(&args.pid_file, number.as_os_str().as_encoded_bytes())
        .with_context(|| format!("cannot write {}", args.pid_file.display()))?;
    strait_linux::sandbox::own_mounts()?;
    // Opened in this mount namespace, before anything covers them: the state directory may itself be below /run.
    let mut sources = Vec::new();
    for (source, target) in &args.volume {
        let file =
            File::open(source).with_context(|| format!("cannot open the volume {}", source.display()))?;
        sources.push((file, target.as_path()));
    }
    for dir in OWN {
        mount(
            "strait-lab",
            dir,
            "tmpfs",
            MountFlags::NOSUID | MountFlags::NODEV,
            Some(c"mode=0755"),
        )
        .with_context(|| format!("cannot mount an empty {dir}"))?;
    }
    for (source, target) in sources {
        bind(&source, target)?;
    }
    let error = Command::new("/proc/self/exe")
        .arg0("strait")
        .args(&args.args)
        .exec();
    Err(error).context("cannot start the daemon")
}

fn bind(source: &File, target: &Path) -> Result<()> {
    // /var/run is /run, on every distribution that has both.
    let target = match target.strip_prefix("/var/run") {
        Ok(rest) => Path::new("/run").join(rest),
        Err(_) => target.to_owned(),
    };
    if !OWN.iter().any(|own| target.starts_with(own)) {
        bail!("the lab has no place for a volume at {}", target.display());
    }
    fs::create_dir_all(&target).with_context(|| format!("cannot make {}", target.display()))?;
    mount_bind(format!("/proc/self/fd/{}", source.as_raw_fd()), &target)
        .with_context(|| format!("cannot mount a volume at {}", target.display()))
}
