//! Small programs for pods of a lab, so that it needs none from the machine: a server, clients, probes.
//!
//! Each client prints one JSON object and fails with a sentence.

mod client;
mod engine;
pub(crate) mod errand;
mod icmp;
mod limit;
mod load;
mod noise;
mod resolve;
mod serve;

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde::Serialize;
use strait_daemon::stdout;

pub(crate) use client::{Fetched, any_like, metrics};
pub(crate) use engine::EngineSpec;
pub(crate) use errand::{Crew, Errand};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use icmp::read_both as icmp_answers;
pub(crate) use icmp::{Hop, Pinged, Surveyed};
pub(crate) use load::{Datagrams, Sent, Streamed};
pub(crate) use resolve::{LookedUp, Resolved};

/// Arguments of `strait lab-tool`.
#[derive(Debug, Args)]
pub struct ToolArgs {
    #[command(subcommand)]
    tool: Tool,
}

#[derive(Debug, Subcommand)]
enum Tool {
    /// Serve HTTP (TCP), echo (UDP, same port), and take loads as `take-loads` does (--sink)
    Serve {
        #[arg(long, default_value_t = 8080)]
        port: u16,
        #[arg(long)]
        sink: Option<u16>,
    },
    /// Fetch a page
    Get {
        /// ADDRESS:PORT, or NAME:PORT
        server: String,
        #[command(flatten)]
        common: ClientArgs,
    },
    /// Say something to the UDP echo
    Udp {
        server: SocketAddr,
        #[command(flatten)]
        common: ClientArgs,
    },
    /// Measure round trips by ICMP echo
    Ping {
        address: IpAddr,
        #[arg(long, default_value_t = 1)]
        count: u16,
        /// Seconds from one to the next; without it, the next follows an answer
        #[arg(long, default_value_t = 0.0)]
        interval: f64,
        #[command(flatten)]
        common: ClientArgs,
    },
    /// Find the hops to an address, and the round trip to each
    Trace {
        address: IpAddr,
        #[command(flatten)]
        common: ClientArgs,
    },
    /// Measure round trips to an address and to every hop before it, in turn
    Survey {
        address: IpAddr,
        #[arg(long, default_value_t = 1000)]
        count: u16,
        /// Seconds from one to the next
        #[arg(long, default_value_t = 0.002)]
        interval: f64,
        #[command(flatten)]
        common: ClientArgs,
    },
    /// Answer probes of this network namespace's hops as they come, not one a second, until standard input ends
    AnswerProbes,
    /// Send as much as goes to a server's sink, over one connection
    Send {
        server: SocketAddr,
        #[arg(long, default_value_t = 1.0)]
        duration: f64,
        #[command(flatten)]
        common: ClientArgs,
    },
    /// Take the loads that `streams` and `datagrams` send
    TakeLoads {
        #[arg(long, default_value_t = 5201)]
        port: u16,
        /// End when standard input does
        #[arg(long)]
        held: bool,
    },
    /// Load a path with TCP connections
    Streams {
        server: SocketAddr,
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
        flows: u16,
        #[arg(long, default_value_t = 1.0)]
        duration: f64,
        /// Bits a second, of all together
        #[arg(long)]
        rate: Option<f64>,
        /// As many connections the other way at the same time
        #[arg(long)]
        both: bool,
        #[arg(long)]
        source: Option<IpAddr>,
    },
    /// Load a path with datagrams
    Datagrams {
        server: SocketAddr,
        /// Bytes in each
        #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1400))]
        size: u16,
        #[arg(long, default_value_t = 1.0)]
        duration: f64,
        /// Datagrams a second
        #[arg(long)]
        rate: Option<f64>,
        #[arg(long)]
        source: Option<IpAddr>,
    },
    /// Run the data path alone, as standard input says, until that ends
    Engine,
    /// Send datagrams that mean nothing
    Noise {
        target: SocketAddr,
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        count: u32,
    },
    /// Print what the kernel holds in this network namespace
    Inspect,
    /// Print the metrics of the daemon whose container this is
    Metrics {
        /// Where it serves them
        #[arg(long, env = "STRAIT_METRICS_LISTEN")]
        listen: SocketAddr,
    },
    /// Look a name up, as any program does
    Lookup { name: String },
    /// Ask a DNS server
    Resolve {
        name: String,
        #[arg(long)]
        server: SocketAddr,
        /// Ask for AAAA instead of A
        #[arg(long)]
        aaaa: bool,
        #[command(flatten)]
        common: ClientArgs,
    },
}

#[derive(Debug, Args)]
struct ClientArgs {
    /// Seconds to wait for an answer
    #[arg(long, default_value_t = 5.0)]
    timeout: f64,
    /// Address to speak from
    #[arg(long)]
    source: Option<IpAddr>,
}

impl ClientArgs {
    fn timeout(&self) -> Duration {
        Duration::try_from_secs_f64(self.timeout).unwrap_or(Duration::from_secs(5))
    }
}

/// Runs a tool.
pub fn run_tool(args: ToolArgs) -> Result<ExitCode> {
    match args.tool {
        Tool::Serve { port, sink } => serve::serve(port, sink)?,
        Tool::Get { server, common } => print(&client::get(&server, common.source, common.timeout())?)?,
        Tool::Udp { server, common } => print(&client::udp(server, common.source, common.timeout())?)?,
        Tool::Ping {
            address,
            count,
            interval,
            common,
        } => {
            let interval = Duration::try_from_secs_f64(interval)?;
            print(&icmp::ping(
                address,
                common.source,
                count,
                interval,
                common.timeout(),
            )?)?;
        }
        Tool::Trace { address, common } => {
            print(&icmp::trace(address, common.source, common.timeout())?)?;
        }
        Tool::Survey {
            address,
            count,
            interval,
            common,
        } => {
            let interval = Duration::try_from_secs_f64(interval)?;
            let (source, timeout) = (common.source, common.timeout());
            print(&icmp::survey(address, source, count, interval, timeout)?)?;
        }
        Tool::AnswerProbes => limit::lift()?,
        Tool::Send {
            server,
            duration,
            common,
        } => {
            let duration = Duration::try_from_secs_f64(duration)?;
            print(&load::send(server, common.source, duration, common.timeout())?)?;
        }
        Tool::TakeLoads { port, held } => load::serve(port, held)?,
        Tool::Streams {
            server,
            flows,
            duration,
            rate,
            both,
            source,
        } => {
            let amount = amount(duration, rate)?;
            let streamed = load::streams(server, source, flows, both, amount, load::PATIENCE)?;
            print(&streamed)?;
        }
        Tool::Datagrams {
            server,
            size,
            duration,
            rate,
            source,
        } => print(&load::datagrams(server, source, size, amount(duration, rate)?)?)?,
        Tool::Engine => engine::run()?,
        Tool::Noise { target, count } => print(&noise::noise(target, count)?)?,
        Tool::Inspect => stdout::print(strait_linux::inspect::everything()?.trim_end())?,
        Tool::Metrics { listen } => stdout::print(metrics(listen)?.trim_end())?,
        Tool::Lookup { name } => print(&resolve::lookup(&name)?)?,
        Tool::Resolve {
            name,
            server,
            aaaa,
            common,
        } => {
            print(&resolve::resolve(server, &name, aaaa, common.timeout())?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn amount(duration: f64, rate: Option<f64>) -> Result<load::Amount> {
    Ok(load::Amount {
        duration: Duration::try_from_secs_f64(duration)?,
        rate,
    })
}

fn print<T: Serialize>(value: &T) -> Result<()> {
    Ok(stdout::print(&serde_json::to_string(value)?)?)
}
