//! Flags of `strait broker`, `strait join` and `strait leave`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use ipnet::IpNet;
use strait_api::ClusterId;
use strait_daemon::args::prefix;

use crate::connection::address;

/// Run the broker, or administrate it
#[derive(Debug, Args)]
pub struct BrokerArgs {
    /// Kubeconfig of the broker; without it a pod's own service account is used. A stand-alone broker
    /// writes one for its administrator to DIR/admin.kubeconfig
    #[arg(long, env = "KUBECONFIG", value_name = "FILE", global = true)]
    pub kubeconfig: Option<PathBuf>,
    /// How to run it.
    #[command(flatten)]
    pub serve: ServeArgs,
    /// What to do; without one, the broker runs.
    #[command(subcommand)]
    pub command: Option<BrokerCommand>,
}

/// How the broker runs.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Serve the API from this process and one file, instead of using a Kubernetes cluster's
    #[arg(long)]
    pub standalone: bool,
    /// Folder of the stand-alone broker's store, keys and kubeconfig
    #[arg(
        long,
        env = "STRAIT_DATA_DIR",
        default_value = "/var/lib/strait-broker",
        value_name = "DIR"
    )]
    pub data_dir: PathBuf,
    /// Where the stand-alone broker listens (may be repeated) [default: 0.0.0.0:6443, unless there is a
    /// --listen-fd]
    #[arg(long = "listen", value_name = "ADDR:PORT")]
    pub listen: Vec<SocketAddr>,
    /// Listen on this inherited socket as well (may be repeated)
    #[arg(long = "listen-fd", value_name = "FD")]
    pub listen_fds: Vec<i32>,
    /// One more name or address for the stand-alone broker's certificate (may be repeated)
    #[arg(long = "tls-name", value_name = "NAME")]
    pub tls_names: Vec<String>,
    /// Write down who asked the stand-alone broker's API for what: audit.k8s.io/v1 Events of level Metadata
    #[arg(long, value_name = "FILE", requires = "standalone")]
    pub audit_log_path: Option<PathBuf>,
    /// URL under which the members reach the broker; it goes into join tokens [default: of a stand-alone
    /// broker, where it listens]
    #[arg(long, value_name = "URL", value_parser = address)]
    pub advertise: Option<String>,
    /// Prefix that members' node blocks are cut from (may be repeated) [default: 240.0.0.0/8 and
    /// fd53:7472:6100::/40]
    #[arg(long = "node-pool", value_name = "PREFIX", value_parser = prefix)]
    pub node_pools: Vec<IpNet>,
    /// Serve /metrics, /healthz and /readyz at this address
    #[arg(long, env = "STRAIT_METRICS_LISTEN", value_name = "ADDR:PORT")]
    pub metrics_listen: Option<SocketAddr>,
    /// Answer `strait probe` on this socket
    #[arg(long, env = "STRAIT_PROBE_SOCKET", value_name = "PATH")]
    pub probe_socket: Option<PathBuf>,
}

/// What an administrator does with the broker.
#[derive(Debug, Subcommand)]
pub enum BrokerCommand {
    /// Make, list and delete join tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// List the clusters that ask to join
    Requests(ListArgs),
    /// Accept a cluster that asks to join
    Accept(AcceptArgs),
    /// Refuse a cluster that asks to join
    Reject(RejectArgs),
    /// List the members
    Members(ListArgs),
    /// Put a member out: its tunnels end everywhere, its credentials are refused
    Evict(EvictArgs),
}

/// Join tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token for one cluster and print it; pass it on in a file
    Create(TokenCreateArgs),
    /// List the tokens that are out
    List(ListArgs),
    /// Take a token back
    Delete {
        /// Name of the join request that it is for
        name: String,
    },
}

/// `strait broker token create`.
#[derive(Debug, Clone, Default, Args)]
pub struct TokenCreateArgs {
    /// How long the token may be used, such as 30m, 24h or 7d
    #[arg(long, default_value = "24h", value_parser = duration, value_name = "TIME")]
    pub ttl: std::time::Duration,
    /// Accept the cluster without asking if it joins under this ID
    #[arg(long, value_name = "CLUSTER-ID")]
    pub preapprove: Option<ClusterId>,
    /// URL under which the member reaches the broker [default: what the broker advertises]
    #[arg(long, value_name = "URL", value_parser = address)]
    pub url: Option<String>,
}

/// How to print.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    #[default]
    Text,
    /// One JSON value
    Json,
}

/// What every list takes.
#[derive(Debug, Clone, Default, Args)]
pub struct ListArgs {
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Output,
}

/// `strait broker accept`.
#[derive(Debug, Clone, Default, Args)]
pub struct AcceptArgs {
    /// Name of the join request (see `strait broker requests`)
    pub name: String,
    /// Accept only if the joiner shows this fingerprint
    #[arg(long, value_name = "SHA256:…")]
    pub fingerprint: Option<String>,
    /// Namespace that the cluster may export services of (may be repeated) [default: all but kube-*]
    #[arg(long = "export-namespace", value_name = "NAMESPACE")]
    pub export_namespaces: Vec<String>,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}

/// `strait broker reject`.
#[derive(Debug, Clone, Default, Args)]
pub struct RejectArgs {
    /// Name of the join request (see `strait broker requests`)
    pub name: String,
    /// Why; the joiner sees it
    #[arg(long, default_value = "")]
    pub reason: String,
}

/// `strait broker evict`.
#[derive(Debug, Clone, Args)]
pub struct EvictArgs {
    /// The member's cluster ID
    pub cluster_id: ClusterId,
}

/// Make this cluster a member of a clusterset
#[derive(Debug, Clone, Args)]
pub struct JoinArgs {
    /// This cluster's name in the clusterset: a-z, 0-9 and '-', at most 54 characters
    #[arg(long, value_name = "ID")]
    pub cluster_id: ClusterId,
    /// File with the token from `strait broker token create`; `-` reads standard input
    #[arg(long, default_value = "-", value_name = "FILE")]
    pub token_file: PathBuf,
    /// Prefix of this cluster's pods (may be repeated) [default: from the cluster itself]
    #[arg(long = "pod-cidr", value_name = "PREFIX", value_delimiter = ',', value_parser = prefix)]
    pub pod_cidrs: Vec<IpNet>,
    /// Prefix of this cluster's Services (may be repeated) [default: from the cluster itself]
    #[arg(long = "service-cidr", value_name = "PREFIX", value_delimiter = ',', value_parser = prefix)]
    pub service_cidrs: Vec<IpNet>,
    /// Prefix of the VIPs of imported services, one of each family [default: 243.0.0.0/16 and
    /// fd53:7472:7600::/112]
    #[arg(long = "vip-cidr", value_name = "PREFIX", value_delimiter = ',', value_parser = prefix)]
    pub vip_cidrs: Vec<IpNet>,
    /// Kubeconfig of this cluster
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace of Strait in this cluster
    #[arg(long, env = "STRAIT_NAMESPACE", default_value = strait_api::names::NAMESPACE, value_name = "NAME")]
    pub namespace: String,
    /// How long to wait for the broker's administrator
    #[arg(long, default_value = "15m", value_parser = duration, value_name = "TIME")]
    pub timeout: std::time::Duration,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Output,
}

/// Take this cluster out of its clusterset
#[derive(Debug, Clone, Args)]
pub struct LeaveArgs {
    /// Kubeconfig of this cluster
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace of Strait in this cluster
    #[arg(long, env = "STRAIT_NAMESPACE", default_value = strait_api::names::NAMESPACE, value_name = "NAME")]
    pub namespace: String,
    /// Leave even if the broker cannot be told; evict the cluster there afterwards
    #[arg(long)]
    pub force: bool,
}

/// Reads `30s`, `15m`, `24h` or `7d`.
fn duration(text: &str) -> Result<std::time::Duration, String> {
    let fail = || format!("{text:?} is no time: write a number and s, m, h or d, such as 24h");
    let unit = text.chars().last().ok_or_else(fail)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        _ => return Err(fail()),
    };
    let number: u64 = text.trim_end_matches(unit).parse().map_err(|_| fail())?;
    number
        .checked_mul(seconds)
        .filter(|s| (1..=10 * 365 * 24 * 3600).contains(s))
        .map(std::time::Duration::from_secs)
        .ok_or_else(fail)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::duration;

    #[test]
    fn times_are_numbers_with_a_unit() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("7d"), Ok(Duration::from_secs(604_800)));
        for bad in [
            "",
            "5",
            "m",
            "1w",
            "-1h",
            "0s",
            "99999999999999999999d",
            "9999999d",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
