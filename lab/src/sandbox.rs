//! How the supervisor comes to be: three processes, each the next one's parent.
//!
//! 1. `strait lab-supervisor` makes the namespaces ([`strait_linux::sandbox`]) and ends,
//! 2. its child is the first process of the PID namespace: it reaps, and when it ends, the kernel ends all,
//! 3. the supervisor proper ([`crate::supervisor`]).

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use rustix::process::{Pid, WaitOptions, setsid, waitpid};

use strait_daemon::errors::sentence;

use crate::alive::ProcessId;
use crate::handover::{self, Progress};
use crate::supervisor;

/// Arguments of `strait lab-supervisor`, for the lab's own use.
#[derive(Debug, Clone, Args)]
pub struct SupervisorArgs {
    #[arg(long, value_enum, default_value_t = Stage::Enter)]
    stage: Stage,
    /// Name of the lab
    #[arg(long)]
    pub(crate) lab: String,
    /// State directory
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// The lab's shape, as JSON
    #[arg(long)]
    pub(crate) shape: String,
    /// End when whoever started the lab does
    #[arg(long)]
    pub(crate) tethered: bool,
    /// Whether a user namespace was made
    #[arg(long)]
    pub(crate) rootless: bool,
    /// The first process of the PID namespace, as JSON
    #[arg(long)]
    pub(crate) init: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Stage {
    Enter,
    Init,
    Supervise,
}

/// Runs one of the three. The process must have one thread only.
pub fn run_supervisor(args: SupervisorArgs) -> Result<ExitCode> {
    let done = match args.stage {
        Stage::Enter => enter(&args),
        Stage::Init => return init(&args),
        Stage::Supervise => supervisor::run(&args),
    };
    if let Err(error) = &done
        && let Ok(maker) = handover::from_stdin()
    {
        handover::tell(
            &maker,
            &Progress::Failed {
                error: sentence(error.as_ref()),
                log: None,
            },
        );
    }
    done.map(|()| ExitCode::SUCCESS)
}

fn enter(args: &SupervisorArgs) -> Result<()> {
    let rootless = strait_linux::sandbox::enter()?;
    let mut next = again(args, "init")?;
    if rootless {
        next.arg("--rootless");
    }
    next.spawn().context("cannot start the lab's first process")?;
    Ok(())
}

fn init(args: &SupervisorArgs) -> Result<ExitCode> {
    // Its parent leads a process group, and may not.
    setsid().context("cannot leave the terminal's session")?;
    let mut next = again(args, "supervise")?;
    if args.rootless {
        next.arg("--rootless");
    }
    next.arg("--init")
        .arg(serde_json::to_string(&ProcessId::current()?)?);
    let supervisor = next.spawn().context("cannot start the lab's supervisor")?;
    let supervisor = Pid::from_raw(supervisor.id().cast_signed());
    loop {
        match waitpid(None, WaitOptions::empty()) {
            Ok(Some((pid, status))) if Some(pid) == supervisor => {
                let code = status
                    .exit_status()
                    .and_then(|c| u8::try_from(c).ok())
                    .unwrap_or(1);
                return Ok(ExitCode::from(code));
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).context("cannot wait for the lab's processes"),
        }
    }
}

/// The same program, one stage on; it inherits the standard streams.
fn again(args: &SupervisorArgs, stage: &str) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("cannot find this program's file")?);
    command.args([
        "lab-supervisor",
        "--stage",
        stage,
        "--lab",
        &args.lab,
        "--shape",
        &args.shape,
    ]);
    command.arg("--dir").arg(&args.dir);
    if args.tethered {
        command.arg("--tethered");
    }
    Ok(command)
}
