//! This gateway's own record, from its node.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;
use strait_api::names::ANNOTATION_OVERLAY;
use strait_api::records::{GatewayAddresses, GatewaySpec, TunnelKeys};
use strait_api::{ClusterId, PublicKey};

use crate::args::Args;

/// What the record should say.
pub(crate) fn gateway(
    args: &Args,
    cluster: &ClusterId,
    node: &Node,
    public_keys: Vec<PublicKey>,
) -> GatewaySpec {
    let told = |flag: &[IpAddr], kind: &str| {
        if flag.is_empty() {
            node_addresses(node, kind)
        } else {
            flag.to_vec()
        }
    };
    GatewaySpec {
        cluster_id: cluster.clone(),
        node: args.node_name.clone(),
        udp_port: args.port,
        addresses: GatewayAddresses {
            private: told(&args.private_address, "InternalIP"),
            public: told(&args.public_address, "ExternalIP"),
            learned: Vec::new(),
        },
        keys: vec![TunnelKeys { slot: 0, public_keys }],
        overlay_addresses: overlay_addresses(node),
        probe_targets: Vec::new(),
        removed_at: None,
    }
}

fn node_addresses(node: &Node, kind: &str) -> Vec<IpAddr> {
    let addresses = node
        .status
        .as_ref()
        .and_then(|status| status.addresses.as_deref())
        .unwrap_or_default();
    addresses
        .iter()
        .filter(|address| address.type_ == kind)
        .filter_map(|address| match address.address.parse() {
            Ok(address) => Some(address),
            Err(error) => {
                tracing::warn!(node = node.name_any(), kind, address = address.address, %error, "node address is none; skipping it");
                None
            }
        })
        .collect()
}

fn overlay_addresses(node: &Node) -> Vec<IpAddr> {
    let Some(text) = node.annotations().get(ANNOTATION_OVERLAY) else {
        return Vec::new();
    };
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .filter_map(|part| match part.parse() {
            Ok(address) => Some(address),
            Err(error) => {
                tracing::warn!(node = node.name_any(), part, %error, "annotation {ANNOTATION_OVERLAY} holds no address; skipping it");
                None
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn args(flags: &[&str]) -> Args {
        let always = ["gateway", "--node-name", "gw-1"];
        Command::try_parse_from(always.iter().chain(flags)).unwrap().args
    }

    fn node() -> Node {
        serde_json::from_value(serde_json::json!({
            "metadata": {
                "name": "gw-1",
                "annotations": { "strait.dev/overlay-addresses": "240.0.0.1, fd00:240::1,nonsense" },
            },
            "status": { "addresses": [
                { "type": "Hostname", "address": "gw-1" },
                { "type": "InternalIP", "address": "192.0.2.1" },
                { "type": "InternalIP", "address": "2001:db8::1" },
                { "type": "ExternalIP", "address": "203.0.113.1" },
                { "type": "InternalIP", "address": "broken" },
            ] },
        }))
        .unwrap()
    }

    fn ips(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn the_node_says_where_the_gateway_is() {
        let spec = gateway(
            &args(&[]),
            &"blue".parse().unwrap(),
            &node(),
            vec![PublicKey([1; 32])],
        );
        assert_eq!(spec.addresses.private, ips(&["192.0.2.1", "2001:db8::1"]));
        assert_eq!(spec.addresses.public, ips(&["203.0.113.1"]));
        assert_eq!(spec.overlay_addresses, ips(&["240.0.0.1", "fd00:240::1"]));
        assert_eq!((spec.udp_port, spec.node.as_str()), (4510, "gw-1"));
        assert_eq!(
            spec.keys,
            [TunnelKeys {
                slot: 0,
                public_keys: vec![PublicKey([1; 32])]
            }]
        );
    }

    #[test]
    fn flags_override_the_node() {
        let args = args(&["--public-address", "198.51.100.1,198.51.100.2", "--port", "4600"]);
        let spec = gateway(&args, &"blue".parse().unwrap(), &node(), vec![PublicKey([1; 32])]);
        assert_eq!(spec.addresses.public, ips(&["198.51.100.1", "198.51.100.2"]));
        assert_eq!(spec.addresses.private, ips(&["192.0.2.1", "2001:db8::1"]));
        assert_eq!(spec.udp_port, 4600);
    }
}
