//! Flags that every daemon takes.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Flags that every daemon takes.
#[derive(Debug, Clone, clap::Args)]
pub struct CommonArgs {
    /// Kubeconfig of this cluster; without it, the pod's own service account is used
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Namespace of Strait's daemons and records in this cluster
    #[arg(long, env = "STRAIT_NAMESPACE", default_value = strait_api::names::NAMESPACE, value_name = "NAME")]
    pub namespace: String,

    /// Folder for what must outlive the process: keys, and the last inputs seen
    #[arg(
        long,
        env = "STRAIT_STATE_DIR",
        default_value = "/var/lib/strait",
        value_name = "DIR"
    )]
    pub state_dir: PathBuf,

    /// Serve /metrics, /healthz and /readyz at this address
    #[arg(long, env = "STRAIT_METRICS_LISTEN", value_name = "ADDR:PORT")]
    pub metrics_listen: Option<SocketAddr>,

    /// Answer `strait probe` on this socket
    #[arg(long, env = "STRAIT_PROBE_SOCKET", value_name = "PATH")]
    pub probe_socket: Option<PathBuf>,
}
