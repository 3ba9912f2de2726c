//! The flags of `strait wireguard`.

use std::path::PathBuf;

use crate::datapath::DEFAULT_MTU;

const HELP: &str = "\
Examples:
  strait wireguard wg0                    in the background; returns when wg0 is there
  strait wireguard -f --log debug wg0     in the foreground
  wg set wg0 listen-port 51820 private-key FILE peer KEY endpoint ADDR:PORT allowed-ips PREFIX
  ip address add 10.10.0.1/24 dev wg0 && ip link set wg0 up

Stopping: ip link del IFACE, or TERM or INT to the process, or rm DIR/IFACE.sock. The interface goes with its process.

Another preshared key for a peer counts from the next handshake on, which comes within two minutes of traffic. \
Until then the session goes on, so that both ends can be given it in turn.

The log goes to --log-file. Without it, it goes to standard error: all of it in the foreground; in the background \
from the moment when the interface is there only where standard error is a file or a socket (a journal's), not a terminal \
or a pipe.

Exit codes: 0 the interface is there (background), or was stopped in one of these ways (foreground); 1 it cannot be had, \
or its data path broke; 2 wrong arguments.";

/// Run one WireGuard interface in user space, configured with `wg`
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = HELP)]
pub struct WireguardArgs {
    /// Name of the interface to make; it goes with this process
    #[arg(value_name = "IFACE")]
    pub(super) interface: String,

    /// Stay in the foreground
    #[arg(short, long, env = "WG_PROCESS_FOREGROUND", value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) foreground: bool,

    /// MTU that the interface starts with, 576 to 65440 (below 1280 it carries no IPv6); `ip link set IFACE
    /// mtu` changes it
    #[arg(long, default_value_t = DEFAULT_MTU, value_name = "BYTES")]
    pub(super) mtu: u32,

    /// Do without the kernel's segmentation offloads
    #[arg(long)]
    pub(super) no_offload: bool,

    /// Packet threads; more than one pays with several busy peers, as each peer's tunnel is one thread's
    /// work
    #[arg(long, default_value_t = 1, value_name = "NUMBER", value_parser = crate::args::workers)]
    pub(super) workers: usize,

    /// Folder of the configuration socket IFACE.sock
    #[arg(long, default_value = "/var/run/wireguard", value_name = "DIR")]
    pub(super) socket_directory: PathBuf,
}
