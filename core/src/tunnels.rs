//! Which tunnels a gateway should have.
//!
//! One to every tunnel key of every gateway of every other cluster that counts here. What a tunnel may carry
//! is the remote cluster's admitted prefixes, whatever the gateway itself claims.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use strait_api::records::GatewaySpec;
use strait_api::{ClusterId, PublicKey};

use crate::clusterset::{Clusterset, Refusal, RemoteCluster};

/// Candidate addresses taken from one gateway's record: a record must not make us knock at a thousand doors.
pub const MAX_CANDIDATES: usize = 16;

/// Tunnels made for the keys in one cluster's records: enough for many gateways with several keys each,
/// and a bound for a cluster that makes keys up.
pub const MAX_TUNNELS: usize = 128;

/// What a gateway knows of its own node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThisNode {
    /// Its own addresses and ports: never a way to a peer.
    pub own_endpoints: BTreeSet<SocketAddr>,
    /// Its tunnels' public keys.
    pub own_keys: BTreeSet<PublicKey>,
}

/// A tunnel that should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// The peer's cluster.
    pub cluster: ClusterId,
    /// The peer's node.
    pub gateway: String,
    /// The peer's key slot.
    pub slot: u8,
    /// The tunnel's number among those of the slot.
    pub ordinal: u16,
    /// The peer's key.
    pub public_key: PublicKey,
    /// Where the peer may be reached, the likeliest first.
    pub candidates: Vec<SocketAddr>,
    /// Prefixes that are routed to the peer, and that it may send from.
    pub prefixes: Vec<IpNet>,
}

impl Tunnel {
    /// A name that no other tunnel has: `cluster/gateway`, and slot and number where they are not 0.
    pub fn id(&self) -> String {
        let Self {
            cluster,
            gateway,
            slot,
            ordinal,
            ..
        } = self;
        match (slot, ordinal) {
            (0, 0) => format!("{cluster}/{gateway}"),
            _ => format!("{cluster}/{gateway}/{slot}.{ordinal}"),
        }
    }
}

/// The tunnels that should be, and what was left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnels {
    /// By cluster, gateway, slot and number.
    pub wanted: Vec<Tunnel>,
    /// Keys and addresses that do not count, and why.
    pub refusals: Vec<Refusal>,
}

/// Works out the tunnels of this node.
pub fn tunnels(set: &Clusterset, node: &ThisNode) -> Tunnels {
    let mut result = Tunnels::default();
    if set.own.is_none() {
        return result;
    }
    // A key belongs to the cluster that was admitted first, as prefixes do.
    let mut remotes: Vec<&RemoteCluster> = set.remotes.values().collect();
    remotes.sort_by(|a, b| (&a.admitted_at, &a.id).cmp(&(&b.admitted_at, &b.id)));
    let mut owners: BTreeMap<PublicKey, String> = node
        .own_keys
        .iter()
        .map(|key| (*key, "this gateway".to_owned()))
        .collect();
    for remote in remotes {
        let mut prefixes: Vec<IpNet> = remote.prefixes().map(|prefix| prefix.trunc()).collect();
        prefixes.sort();
        prefixes.dedup();
        let mut room = MAX_TUNNELS;
        for gateway in remote.gateways.values() {
            let gateway_keys: usize = gateway.keys.iter().map(|keys| keys.public_keys.len()).sum();
            if gateway_keys > room {
                result.refusals.push(refusal(
                    remote,
                    gateway,
                    "TooManyKeys",
                    true,
                    format!(
                        "gateway {} has {gateway_keys} tunnel keys; with those of the gateways before it, cluster {} has more than the {MAX_TUNNELS} that are allowed",
                        gateway.node, remote.id
                    ),
                ));
                continue;
            }
            room -= gateway_keys;
            let candidates = candidates(set, node, gateway);
            if candidates.is_empty() {
                // It may still reach us; its address is then learned.
                result.refusals.push(refusal(
                    remote,
                    gateway,
                    "NoAddress",
                    false,
                    format!(
                        "gateway {} of cluster {} names no address that could be tried; its tunnel comes up only if it reaches this gateway itself",
                        gateway.node, remote.id
                    ),
                ));
            }
            for keys in &gateway.keys {
                for (ordinal, key) in (0u16..).zip(&keys.public_keys) {
                    let tunnel = Tunnel {
                        cluster: remote.id.clone(),
                        gateway: gateway.node.clone(),
                        slot: keys.slot,
                        ordinal,
                        public_key: *key,
                        candidates: candidates.clone(),
                        prefixes: prefixes.clone(),
                    };
                    if let Some(owner) = owners.get(key) {
                        result.refusals.push(refusal(
                            remote,
                            gateway,
                            "KeyTaken",
                            gateway_keys == 1,
                            format!(
                                "gateway {} of cluster {} claims a tunnel key of {owner}; that tunnel stays off until it publishes a key of its own",
                                gateway.node, remote.id
                            ),
                        ));
                        continue;
                    }
                    owners.insert(*key, format!("gateway {} of cluster {}", gateway.node, remote.id));
                    result.wanted.push(tunnel);
                }
            }
        }
    }
    result.wanted.sort_by(|a, b| {
        let place = |tunnel: &Tunnel| (tunnel.slot, tunnel.ordinal);
        (&a.cluster, &a.gateway, place(a)).cmp(&(&b.cluster, &b.gateway, place(b)))
    });
    result.wanted.dedup_by_key(|tunnel| tunnel.id());
    result.refusals.sort();
    result
}

fn refusal(
    remote: &RemoteCluster,
    gateway: &GatewaySpec,
    reason: &str,
    whole: bool,
    message: String,
) -> Refusal {
    Refusal {
        kind: "Gateway".to_owned(),
        name: strait_api::names::copy_name(&remote.id, &gateway.node),
        reason: reason.to_owned(),
        message,
        whole,
    }
}

/// The gateway's addresses that can be tried, private before public before learned.
fn candidates(set: &Clusterset, node: &ThisNode, gateway: &GatewaySpec) -> Vec<SocketAddr> {
    let addresses = &gateway.addresses;
    let told = addresses
        .private
        .iter()
        .chain(&addresses.public)
        .map(|address| SocketAddr::new(*address, gateway.udp_port));
    let mut seen = BTreeSet::new();
    told.chain(addresses.learned.iter().copied())
        .map(|endpoint| SocketAddr::new(endpoint.ip().to_canonical(), endpoint.port()))
        .filter(|endpoint| usable(set, endpoint) && !node.own_endpoints.contains(endpoint))
        .filter(|endpoint| seen.insert(*endpoint))
        .take(MAX_CANDIDATES)
        .collect()
}

fn usable(set: &Clusterset, endpoint: &SocketAddr) -> bool {
    let plain = match endpoint.ip() {
        IpAddr::V4(a) => {
            !(a.is_unspecified()
                || a.is_loopback()
                || a.is_multicast()
                || a.is_broadcast()
                || a.is_link_local())
        }
        IpAddr::V6(a) => {
            !(a.is_unspecified() || a.is_loopback() || a.is_multicast() || a.is_unicast_link_local())
        }
    };
    // An address that is itself routed into a tunnel would send the tunnel into itself; one of our own pods
    // or services is nobody's gateway.
    let inside = |list: &[IpNet]| list.iter().any(|net| net.contains(&endpoint.ip()));
    let ours = set.own.as_ref().is_some_and(|own| {
        let c = &own.cluster;
        [&c.pod_cidrs, &c.service_cidrs, &c.vip_cidrs]
            .iter()
            .any(|list| inside(list))
            || inside(own.node_blocks())
    });
    plain && endpoint.port() != 0 && !ours && !set.remotes.values().any(|remote| remote.owns(endpoint.ip()))
}

#[cfg(test)]
mod tests;
