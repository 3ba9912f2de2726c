//! The command line.

use std::path::PathBuf;
use std::str::FromStr;

use strait_daemon::CommonArgs;

/// Flags of `strait route-agent`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Flags that every daemon takes.
    #[command(flatten)]
    pub common: CommonArgs,

    /// This node's flags.
    #[command(flatten)]
    pub node: NodeArgs,

    /// Take everything of Strait out of this node's kernel, restore its parameters, and exit
    #[arg(long)]
    pub uninstall: bool,
}

/// Which node, and what is known of it beforehand.
#[derive(Debug, Clone, clap::Args)]
pub struct NodeArgs {
    /// This node's name in Kubernetes
    #[arg(
        long,
        env = "NODE_NAME",
        value_name = "NAME",
        required_unless_present = "uninstall"
    )]
    pub node_name: Option<String>,

    /// MTU of the link that carries overlay and tunnels; `auto` takes it from the link with the node's address
    #[arg(
        long,
        env = "STRAIT_UNDERLAY_MTU",
        default_value = "auto",
        value_name = "auto|BYTES"
    )]
    pub underlay_mtu: UnderlayMtu,
}

/// Flags of `strait plan`.
#[derive(Debug, Clone, clap::Args)]
pub struct PlanArgs {
    /// Kubeconfig of this cluster; without it, the pod's own service account is used
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Namespace of Strait's daemons and records in this cluster
    #[arg(long, env = "STRAIT_NAMESPACE", default_value = strait_api::names::NAMESPACE, value_name = "NAME")]
    pub namespace: String,

    /// This node's name in Kubernetes
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node_name: String,

    /// As the route agent's: there it keeps which kernel parameters it set
    #[arg(
        long,
        env = "STRAIT_STATE_DIR",
        default_value = "/var/lib/strait",
        value_name = "DIR"
    )]
    pub state_dir: PathBuf,

    /// As the route agent's
    #[arg(
        long,
        env = "STRAIT_UNDERLAY_MTU",
        default_value = "auto",
        value_name = "auto|BYTES"
    )]
    pub underlay_mtu: UnderlayMtu,

    /// How to print the plan
    #[arg(short, long, default_value = "text", value_enum)]
    pub output: Output,
}

/// How to print a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// One change a line; nothing where nothing is to change
    Text,
    /// One object: `ops` and `waiting`
    Json,
}

/// MTU of the underlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnderlayMtu {
    /// As the link has it.
    Auto,
    /// This many bytes.
    Fixed(u32),
}

/// The least that carries IPv6 at all.
const LEAST: u32 = 1280;
/// The most that a link can have.
const MOST: u32 = 65_535;

impl FromStr for UnderlayMtu {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        match text.parse() {
            Ok(mtu) if (LEAST..=MOST).contains(&mtu) => Ok(Self::Fixed(mtu)),
            _ => Err(format!("it takes `auto` or a number of bytes, {LEAST} to {MOST}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_underlay_mtu_is_auto_or_a_sane_number() {
        assert_eq!("auto".parse(), Ok(UnderlayMtu::Auto));
        assert_eq!("9001".parse(), Ok(UnderlayMtu::Fixed(9001)));
        for bad in ["", "0", "1279", "65536", "-1", "AUTO", "1500 bytes"] {
            let error = bad.parse::<UnderlayMtu>().unwrap_err();
            assert!(error.contains("1280 to 65535"), "{bad}: {error}");
        }
    }
}
