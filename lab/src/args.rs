//! The command line of `strait lab`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::topology::{Families, Shape};

/// Clusters on this machine.
#[derive(Debug, Parser)]
pub struct Args {
    /// Name of the lab; several can stand side by side
    #[arg(long, global = true, env = "STRAIT_LAB", default_value = "default")]
    name: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring up a lab and leave it running
    Up(UpArgs),
}

/// What a new lab looks like.
#[derive(Debug, Clone, clap::Args)]
struct UpArgs {
    /// Number of clusters
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=12))]
    clusters: u8,
    /// Number of nodes in each cluster
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    nodes: u8,
    /// Number of gateway nodes among them
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    gateways: u8,
    /// IPv6 only
    #[arg(long, conflicts_with = "dual_stack")]
    ipv6: bool,
    /// IPv4 and IPv6
    #[arg(long)]
    dual_stack: bool,
}

impl UpArgs {
    fn shape(&self) -> Shape {
        Shape {
            clusters: self.clusters,
            nodes: self.nodes,
            gateways: self.gateways.min(self.nodes),
            families: match (self.ipv6, self.dual_stack) {
                (true, _) => Families::V6,
                (_, true) => Families::Dual,
                _ => Families::V4,
            },
        }
    }
}

/// Runs the chosen subcommand.
pub fn run(args: Args) -> Result<ExitCode> {
    match args.command {
        Command::Up(up) => {
            let topology = crate::topology::Topology::new(&args.name, &up.shape());
            println!("{}", serde_json::to_string_pretty(&topology)?);
            Ok(ExitCode::SUCCESS)
        }
    }
}
