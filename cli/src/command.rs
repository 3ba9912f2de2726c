//! The tree of subcommands.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use strait_daemon::stdout::print;

use crate::agent::{self, AgentArgs};
use crate::apiserver::{self, ApiserverArgs};
use crate::image::{self, ImageArgs};
use crate::logging::LogArgs;

/// Strait joins Kubernetes clusters into one network: pods and services of one cluster reach those of
/// another through encrypted tunnels, under one name space.
#[derive(Debug, Parser)]
#[command(
    name = "strait",
    version,
    propagate_version = true,
    subcommand_required = true
)]
#[command(after_help = "Try it on this machine, without a cluster and without root: strait lab demo")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) log: LogArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where shells look for completion scripts.
const COMPLETION: &str = "Put the script where your shell looks for it:
  bash  strait completion bash > ~/.local/share/bash-completion/completions/strait
  zsh   strait completion zsh > ~/.zfunc/_strait    (and `fpath+=~/.zfunc` before compinit in ~/.zshrc)
  fish  strait completion fish > ~/.config/fish/completions/strait.fish
or, for this shell only: source <(strait completion bash)";

/// One per role.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make clusters out of network namespaces on this machine, with the real daemons in them
    Lab(strait_lab::Args),
    /// Measure throughput and latency between two clusters of a lab, and where the time goes
    Benchmark(strait_lab::BenchmarkArgs),
    /// Keep this node's routes, overlay, NAT and VIPs (on every node)
    RouteAgent(strait_route_agent::Args),
    /// Print what the route agent would change on this node
    Plan(strait_route_agent::PlanArgs),
    /// Hold the tunnels to the other clusters' gateways (on each gateway node)
    Gateway(strait_gateway::Args),
    /// Run one WireGuard interface in user space, configured with `wg`
    Wireguard(strait_gateway::wireguard::WireguardArgs),
    /// Mirror records between this cluster and the broker, and run exports and imports (Deployment)
    Agent(AgentArgs),
    /// Run the broker, or administrate it
    Broker(Box<strait_broker::BrokerArgs>),
    /// Make this cluster a member of a clusterset
    Join(strait_broker::JoinArgs),
    /// Take this cluster out of its clusterset
    Leave(strait_broker::LeaveArgs),
    /// Answer clusterset.local from the ServiceImports of this cluster
    Dns(strait_lighthouse_dns::dns::Args),
    /// Ask a daemon on this machine whether it is ready (for Kubernetes' exec probes)
    Probe {
        /// The socket that the daemon was given with --probe-socket
        #[arg(long, env = "STRAIT_PROBE_SOCKET", value_name = "PATH")]
        socket: PathBuf,
        /// Ask only whether it answers at all
        #[arg(long)]
        live: bool,
    },
    /// Write this program as a container image archive, for `docker load` or `ctr images import`
    Image(ImageArgs),
    /// Serve a Kubernetes-style API out of a folder, or back such a folder up and restore it
    Apiserver(ApiserverArgs),
    /// The process behind a lab; for the lab's own use
    #[command(hide = true)]
    LabSupervisor(strait_lab::SupervisorArgs),
    /// A daemon in a lab, with its volumes; for the lab's own use
    #[command(hide = true)]
    LabContainer(strait_lab::ContainerArgs),
    /// Small programs for pods of a lab
    #[command(hide = true)]
    LabTool(strait_lab::ToolArgs),
    /// Print the completion script for a shell
    #[command(after_help = COMPLETION)]
    Completion {
        /// The shell
        shell: Shell,
    },
}

impl Command {
    /// Whether it prints something and ends, with nothing to clean up.
    fn only_prints(&self) -> bool {
        match self {
            Command::Lab(args) => args.only_prints(),
            Command::Plan(_) | Command::Completion { .. } => true,
            _ => false,
        }
    }
}

// The program under the name `strait-wireguard`: one role of the tree, whose help it shows.
#[derive(Debug, Parser)]
#[command(name = WIREGUARD, version)]
struct Wireguard {
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    args: strait_gateway::wireguard::WireguardArgs,
}

/// A link of this name is for what starts a program with the interface as its only argument.
const WIREGUARD: &str = "strait-wireguard";

/// Reads the arguments; the first of them is the program's name. Ends the process where they are wrong.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Cli {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let name = arguments.first().and_then(|name| Path::new(name).file_name());
    if name.is_some_and(|name| name == WIREGUARD) {
        let Wireguard { log, args } = Wireguard::parse_from(arguments);
        let command = Command::Wireguard(args);
        return Cli { log, command };
    }
    Cli::parse_from(arguments)
}

/// Runs the chosen role to its end.
pub(crate) fn dispatch(command: Command) -> Result<ExitCode> {
    if command.only_prints() {
        strait_linux::pipe::end_when_closed();
    }
    match command {
        Command::Lab(args) => strait_lab::run(args),
        Command::Benchmark(args) => strait_lab::run_benchmark(args),
        Command::RouteAgent(args) => strait_route_agent::run(args),
        Command::Plan(args) => strait_route_agent::plan(args),
        Command::Gateway(args) => {
            strait_gateway::run(args)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Wireguard(args) => strait_gateway::wireguard::run(args),
        Command::Agent(args) => agent::run(args),
        Command::Broker(args) => strait_broker::run(*args),
        Command::Join(args) => strait_broker::run_join(args),
        Command::Leave(args) => strait_broker::run_leave(args),
        Command::Dns(args) => {
            strait_lighthouse_dns::dns::run(args)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Probe { socket, live } => {
            strait_daemon::status::probe(&socket, live)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Image(args) => {
            image::run(&args)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Apiserver(args) => {
            apiserver::run(args)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::LabSupervisor(args) => strait_lab::run_supervisor(args),
        Command::LabContainer(args) => strait_lab::run_container(args),
        Command::LabTool(args) => strait_lab::run_tool(args),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "strait", &mut script);
            print(String::from_utf8(script)?.trim_end())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_tree_is_sound() {
        Cli::command().debug_assert();
        Wireguard::command().debug_assert();
    }

    #[test]
    fn no_command_has_an_argument_that_is_taken_for_one_of_all_commands() {
        let all = Cli::command();
        let global = all.get_arguments().filter(|argument| argument.is_global_set());
        let ids: Vec<_> = global.map(|argument| argument.get_id().as_str()).collect();
        assert_eq!(ids, ["log", "log-format", "log-file"], "none is a field's name");
    }

    #[test]
    fn the_name_of_a_link_chooses_the_role() {
        for given in [
            &["/usr/bin/strait-wireguard", "wg0"][..],
            &["strait", "wireguard", "wg0"],
            &["/usr/bin/strait-wireguard", "--log", "debug", "-f", "wg0"],
        ] {
            let command = parse(given.iter().map(OsString::from)).command;
            assert!(matches!(command, Command::Wireguard(_)), "{given:?}");
        }
        let usage = Wireguard::command().render_usage().to_string();
        assert_eq!(usage, "Usage: strait-wireguard [OPTIONS] <IFACE>");
    }

    #[test]
    fn every_visible_command_says_what_it_does() {
        fn check(command: &clap::Command, path: &str) {
            for sub in command.get_subcommands().filter(|c| !c.is_hide_set()) {
                let path = format!("{path} {}", sub.get_name());
                assert!(sub.get_about().is_some(), "{path} has no help text");
                check(sub, &path);
            }
        }
        check(&Cli::command(), "strait");
    }
}
