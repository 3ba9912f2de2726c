//! The command line of `strait lab`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use strait_daemon::stdout;

use crate::control::{self, PodRequest};
use crate::demo::{self, DemoArgs};
use crate::dir::{self, LabDir};
use crate::topology::{Families, Shape};
use crate::{config, enter, snapshot, start, status, up};

/// Clusters on this machine.
#[derive(Debug, Parser)]
pub struct Args {
    /// Name of the lab; several can stand side by side
    ///
    /// [default: default; of `demo`, one of its own]
    #[arg(long, global = true, env = "STRAIT_LAB")]
    name: Option<String>,
    #[command(subcommand)]
    command: Command,
}

impl Args {
    /// Whether it prints something and ends, with nothing to clean up.
    pub fn only_prints(&self) -> bool {
        matches!(
            self.command,
            Command::List { .. } | Command::Status { .. } | Command::Kubeconfig { .. } | Command::Logs { .. }
        )
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show one request from a pod of one cluster to a service of another, and take everything down
    Demo(DemoArgs),
    /// Bring up a lab and leave it running
    Up(UpArgs),
    /// List the labs of this user
    List {
        /// How to print it
        #[arg(long, short, value_enum, default_value_t)]
        output: Output,
    },
    /// Show a lab's nodes, pods and daemons
    Status {
        /// How to print it
        #[arg(long, short, value_enum, default_value_t)]
        output: Output,
    },
    /// Run a command on a node, in a pod or in a daemon's container
    Exec {
        /// CLUSTER/NODE, CLUSTER/POD, CLUSTER/NODE/DAEMON, or `router`
        place: String,
        /// The command, after `--` or not
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<OsString>,
    },
    /// Start a pod
    Run {
        /// CLUSTER/NODE
        node: String,
        /// Name of the pod
        pod: String,
        /// Namespace of the pod
        #[arg(long, short, default_value = "default")]
        namespace: String,
        /// Labels of the pod
        #[arg(long, short, value_name = "KEY=VALUE", value_delimiter = ',', value_parser = label)]
        labels: Vec<(String, String)>,
        /// TCP ports that it listens on, on every address family of the cluster; it is ready once all answer
        #[arg(long, value_name = "PORT", value_delimiter = ',')]
        port: Vec<u16>,
        /// The command, after `--` or not; without one the pod waits for `lab exec`
        #[arg(trailing_var_arg = true)]
        command: Vec<String>,
    },
    /// Print a cluster's kubeconfig, for use on this machine
    Kubeconfig {
        /// The cluster, or `broker`
        cluster: String,
        /// Print the file's name instead
        #[arg(long)]
        path: bool,
    },
    /// Print the log of a daemon or pod
    Logs {
        /// CLUSTER/NODE/DAEMON, CLUSTER/POD, or `supervisor`
        process: String,
        /// Go on as it grows
        #[arg(long, short)]
        follow: bool,
    },
    /// Send a signal to a daemon; it is started again if it dies of it
    Kill {
        /// CLUSTER/NODE/DAEMON or CLUSTER/POD
        process: String,
        /// The signal: a name such as KILL or TERM, or a number
        #[arg(long, short, default_value = "KILL", value_parser = parse_signal)]
        signal: i32,
    },
    /// Write all state of a lab into one archive, for a bug report; secrets are left out
    Snapshot {
        /// The archive [default: strait-lab-NAME-TIME.tar.gz]
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Write over a file that is there
        #[arg(long)]
        force: bool,
    },
    /// Take a lab down; there need not be one
    Down {
        /// All labs of this user
        #[arg(long)]
        all: bool,
    },
}

/// How to print.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    #[default]
    Text,
    /// One JSON object
    Json,
}

/// What a new lab looks like.
#[derive(Debug, Clone, clap::Args)]
struct UpArgs {
    /// Number of clusters
    #[arg(long, default_value_t = 2, conflicts_with = "config", value_parser = clap::value_parser!(u8).range(1..=12))]
    clusters: u8,
    #[command(flatten)]
    config: ConfigArg,
    /// Number of nodes in each cluster
    #[arg(long, default_value_t = 2, conflicts_with = "config", value_parser = clap::value_parser!(u8).range(1..=16))]
    nodes: u8,
    /// Number of gateway nodes among them
    #[arg(long, default_value_t = 1, conflicts_with = "config", value_parser = clap::value_parser!(u8).range(1..=16))]
    gateways: u8,
    #[command(flatten)]
    families: FamilyArgs,
}

/// A file instead of numbers.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ConfigArg {
    /// What the lab looks like, in YAML: clusters, ranges, what lies between them (lab/examples has some)
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// Which address families.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct FamilyArgs {
    /// IPv6 only
    #[arg(long, conflicts_with_all = ["dual_stack", "config"])]
    ipv6: bool,
    /// IPv4 and IPv6
    #[arg(long, conflicts_with = "config")]
    dual_stack: bool,
}

impl FamilyArgs {
    pub(crate) fn families(self) -> Families {
        match (self.ipv6, self.dual_stack) {
            (true, _) => Families::V6,
            (_, true) => Families::Dual,
            _ => Families::V4,
        }
    }
}

/// Runs the chosen subcommand.
pub fn run(args: Args) -> Result<ExitCode> {
    let name = args.name.filter(|name| !name.is_empty());
    let dir = LabDir::of(name.as_deref().unwrap_or("default"))?;
    match args.command {
        Command::Demo(args) => demo::run(name.as_deref(), &args),
        Command::Up(up) => {
            ensure!(
                up.gateways <= up.nodes,
                "--gateways {} is more than --nodes {}: gateways are some of the nodes",
                up.gateways,
                up.nodes
            );
            let shape = match &up.config.config {
                Some(path) => config::read(path)?,
                None => Shape::uniform(up.clusters, up.nodes, up.gateways, up.families.families()),
            };
            let first = shape.clusters.first().map_or("broker", |c| c.name.as_str());
            config::notes(&shape).iter().for_each(|note| status::say(note));
            if let Some(interrupted) = up::run(&dir, &shape)? {
                return Ok(interrupted);
            }
            status::hint(&dir, first);
            Ok(ExitCode::SUCCESS)
        }
        Command::List { output } => status::list(output),
        Command::Status { output } => status::print(&dir, output),
        Command::Exec { place, command } => enter::exec(&dir, &place, &command),
        Command::Run {
            node,
            pod,
            namespace,
            labels,
            port,
            command,
        } => {
            let (cluster, node) = node
                .split_once('/')
                .with_context(|| format!("{node:?} is no node: it takes CLUSTER/NODE"))?;
            dir.running()?;
            let waits = match port.as_slice() {
                [] => format!("the pod {cluster}/{pod}"),
                ports => {
                    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
                    format!("the pod {cluster}/{pod} to answer on port {}", ports.join(", "))
                }
            };
            let request = PodRequest {
                cluster: cluster.to_owned(),
                node: node.to_owned(),
                namespace,
                name: pod,
                labels: labels.into_iter().collect(),
                ports: port,
                argv: command,
            };
            let started = up::saying(&waits, || control::run_pod(&dir, request))?;
            let lines: Vec<String> = started.addresses.iter().map(ToString::to_string).collect();
            stdout::print(&lines.join("\n"))?;
            started.note.iter().for_each(|note| status::say(note));
            Ok(ExitCode::SUCCESS)
        }
        Command::Kubeconfig { cluster, path } => status::kubeconfig(&dir, &cluster, path),
        Command::Logs { process, follow } => status::logs(&dir, &process, follow),
        Command::Kill { process, signal } => {
            dir.running()?;
            control::kill(&dir, process, signal)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Snapshot { output, force } => snapshot::run(&dir, output, force),
        Command::Down { all: true } => {
            for dir in dir::all()? {
                start::down(&dir)?;
            }
            dir::sweep(&dir::root()?)?;
            dir::leave_no_root()?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Down { all: false } => start::down(&dir).map(|()| ExitCode::SUCCESS),
    }
}

/// Seconds since the start, as steps are shown with.
pub(crate) fn clock(since: Instant) -> String {
    format!("{:6.2}s", since.elapsed().as_secs_f64())
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label takes KEY=VALUE".to_owned()),
    }
}

fn parse_signal(text: &str) -> Result<i32, String> {
    let name = text.to_ascii_uppercase();
    let named = match name.strip_prefix("SIG").unwrap_or(&name) {
        "HUP" => 1,
        "INT" => 2,
        "QUIT" => 3,
        "ABRT" => 6,
        "KILL" => 9,
        "USR1" => 10,
        "SEGV" => 11,
        "USR2" => 12,
        "TERM" => 15,
        "CONT" => 18,
        "STOP" => 19,
        other => other
            .parse()
            .map_err(|_| format!("{text:?} is no signal; try KILL, TERM, STOP or CONT"))?,
    };
    Ok(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        assert_eq!(parse_signal("KILL"), Ok(9));
        assert_eq!(parse_signal("sigterm"), Ok(15));
        assert_eq!(parse_signal("9"), Ok(9));
        assert!(parse_signal("BANG").unwrap_err().contains("BANG"));
    }

    #[test]
    fn labels_are_pairs() {
        assert_eq!(label("app=web"), Ok(("app".to_owned(), "web".to_owned())));
        assert!(label("app").is_err());
        assert!(label("=x").is_err());
    }
}
