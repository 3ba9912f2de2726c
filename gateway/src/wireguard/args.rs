//! The flags of `strait wireguard`.

use std::path::PathBuf;

use crate::datapath::DEFAULT_MTU;

/// Run one WireGuard interface in user space, configured with `wg`
#[derive(Debug, Clone, clap::Args)]
pub struct WireguardArgs {
    /// Name of the interface to make; it goes with this process
    #[arg(value_name = "IFACE")]
    pub(super) interface: String,

    /// Stay in the foreground, and write the log to standard error
    #[arg(short, long, env = "WG_PROCESS_FOREGROUND", value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) foreground: bool,

    /// MTU that the interface starts with; `ip link set IFACE mtu` changes it
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
