//! Flags that every daemon takes.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

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

/// Reads a prefix such as `10.1.0.0/16`; the error says which part is wrong.
///
/// # Errors
/// What is wrong with it.
pub fn prefix(text: &str) -> Result<IpNet, String> {
    const SUCH: &str = "write one such as 10.1.0.0/16 or fd00:1::/48";
    let Some((address, length)) = text.split_once('/') else {
        return Err(format!("its length is missing; {SUCH}"));
    };
    let address: IpAddr = address
        .parse()
        .map_err(|_| format!("{address:?} is no IP address; {SUCH}"))?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    // Digits only: parsing takes a sign, too.
    let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
    length
        .parse()
        .ok()
        .filter(|_| digits)
        .and_then(|n: u8| IpNet::new(address, n).ok())
        .ok_or_else(|| {
            format!("{length:?} is no length of an {family} prefix, which is a number from 0 to {most}")
        })
}

#[cfg(test)]
mod tests {
    use super::prefix;

    #[test]
    fn of_a_wrong_prefix_the_wrong_part_is_named() {
        for good in ["10.1.0.0/16", "0.0.0.0/0", "fd00::/128", "10.1.2.3/16"] {
            assert_eq!(prefix(good).unwrap().to_string(), good);
        }
        for (bad, said) in [
            (
                "10.0.0.0/33",
                "\"33\" is no length of an IPv4 prefix, which is a number from 0 to 32",
            ),
            (
                "fd00::/129",
                "\"129\" is no length of an IPv6 prefix, which is a number from 0 to 128",
            ),
            ("10.0.0.0/", "\"\" is no length"),
            ("10.0.0.0/+8", "\"+8\" is no length"),
            ("10.0.0.0", "its length is missing; write one such as"),
            ("10.0.0/8", "\"10.0.0\" is no IP address; write one such as"),
            ("", "its length is missing"),
        ] {
            let e = prefix(bad).unwrap_err();
            assert!(e.contains(said), "{bad}: {e}");
        }
    }
}
