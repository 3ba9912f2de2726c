//! The gateway's flags.

use std::net::IpAddr;

use strait_daemon::CommonArgs;

use crate::datapath::{DEFAULT_MTU, DEFAULT_PORT, MAX_WORKERS};

/// Hold the tunnels to the other clusters' gateways
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub(crate) common: CommonArgs,

    /// Name of the Kubernetes node that this gateway runs on
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub(crate) node_name: String,

    /// UDP port of the tunnels
    #[arg(long, env = "STRAIT_GATEWAY_PORT", default_value_t = DEFAULT_PORT, value_name = "PORT")]
    pub(crate) port: u16,

    /// Largest packet inside the tunnels; 1420 fits a network of 1500 bytes
    #[arg(long, env = "STRAIT_GATEWAY_MTU", default_value_t = DEFAULT_MTU, value_name = "BYTES")]
    pub(crate) mtu: u32,

    /// Packet threads, 1 to 8, and so the lanes of each tunnel to a gateway that has as many
    /// [default: half the cores]
    #[arg(long, env = "STRAIT_GATEWAY_WORKERS", value_name = "NUMBER", value_parser = workers)]
    pub(crate) workers: Option<usize>,

    /// Address at which gateways in the same network reach this node; may be given several times [default:
    /// the node's InternalIPs]
    #[arg(
        long,
        env = "STRAIT_PRIVATE_ADDRESS",
        value_delimiter = ',',
        value_name = "ADDR"
    )]
    pub(crate) private_address: Vec<IpAddr>,

    /// Address at which gateways elsewhere reach this node, through a NAT say; may be given several times
    /// [default: the node's ExternalIPs]
    #[arg(
        long,
        env = "STRAIT_PUBLIC_ADDRESS",
        value_delimiter = ',',
        value_name = "ADDR"
    )]
    pub(crate) public_address: Vec<IpAddr>,
}

impl Args {
    /// How many workers to have: as many as wanted, or one for every two cores that this process may use.
    pub(crate) fn workers(&self) -> usize {
        self.workers.unwrap_or_else(|| {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            (cores / 2).clamp(1, MAX_WORKERS)
        })
    }
}

/// Reads a number of workers.
pub(crate) fn workers(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (1..=MAX_WORKERS).contains(&number) => Ok(number),
        _ => Err(format!("use 1 to {MAX_WORKERS}")),
    }
}
