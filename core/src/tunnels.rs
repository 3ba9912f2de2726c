//! Which tunnels a gateway should have.
//!
//! One to every gateway of every other cluster that counts here, or to each key slot of it. What a tunnel may
//! carry is the remote cluster's admitted prefixes, whatever the gateway itself claims. A slot with several keys
//! can have as many lanes: tunnels beside each other, which share the flows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use strait_api::records::GatewaySpec;
use strait_api::{ClusterId, PublicKey};

use crate::clusterset::{Clusterset, Refusal, RemoteCluster};

/// Candidate addresses taken from one gateway's record: a record must not make us knock at a thousand doors.
pub const MAX_CANDIDATES: usize = 16;

/// Tunnels made for one cluster's records.
pub const MAX_TUNNELS: usize = 128;

/// Lanes of one tunnel, and so the keys of one slot.
pub const MAX_LANES: usize = 8;

/// Keys used of one cluster's records: enough for many gateways with several keys each, and a bound for a
/// cluster that makes keys up.
pub const MAX_KEYS: usize = 2 * MAX_TUNNELS;

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
    /// The peer's keys, at least one: one for each lane that it can have, in order.
    pub public_keys: Vec<PublicKey>,
    /// Where the peer may be reached, the likeliest first.
    pub candidates: Vec<SocketAddr>,
    /// Prefixes that are routed to the peer, and that it may send from.
    pub prefixes: Vec<IpNet>,
}

impl Tunnel {
    /// A name that no other tunnel has: `cluster/gateway`, and the slot where it is not 0.
    pub fn id(&self) -> String {
        let Self {
            cluster,
            gateway,
            slot,
            ..
        } = self;
        match slot {
            0 => format!("{cluster}/{gateway}"),
            _ => format!("{cluster}/{gateway}/{slot}"),
        }
    }
}

/// The tunnels that should be, and what was left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnels {
    /// By cluster, gateway and slot.
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
        let (mut room, mut places) = (MAX_KEYS, MAX_TUNNELS);
        for gateway in remote.gateways.values() {
            let gateway_keys: usize = gateway.keys.iter().map(|keys| keys.public_keys.len()).sum();
            let most = gateway.keys.iter().map(|keys| keys.public_keys.len()).max();
            let too_many = if most.unwrap_or(0) > MAX_LANES {
                Some(format!(
                    "gateway {} of cluster {} has {} tunnel keys in one slot, more than the {MAX_LANES} that are allowed",
                    gateway.node,
                    remote.id,
                    most.unwrap_or(0)
                ))
            } else if gateway_keys > room || gateway.keys.len() > places {
                Some(format!(
                    "gateway {} has {gateway_keys} tunnel keys; with those of the gateways before it, cluster {} has more than the {MAX_KEYS} keys or {MAX_TUNNELS} slots that are allowed",
                    gateway.node, remote.id
                ))
            } else {
                None
            };
            if let Some(message) = too_many {
                result
                    .refusals
                    .push(refusal(remote, gateway, "TooManyKeys", true, message));
                continue;
            }
            places -= gateway.keys.len();
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
                let mut lanes = Vec::new();
                for key in &keys.public_keys {
                    if let Some(owner) = owners.get(key) {
                        let (whole, off) = match lanes.len() {
                            0 => (gateway.keys.len() == 1, "that tunnel stays".to_owned()),
                            lane => (
                                false,
                                format!("that tunnel's lanes from the {}. on stay", lane + 1),
                            ),
                        };
                        result.refusals.push(refusal(
                            remote,
                            gateway,
                            "KeyTaken",
                            whole,
                            format!(
                                "gateway {} of cluster {} claims a tunnel key of {owner}; {off} off until it publishes a key of its own",
                                gateway.node, remote.id
                            ),
                        ));
                        // Lanes are told apart by their number, so there cannot be one behind a gap.
                        break;
                    }
                    owners.insert(*key, format!("gateway {} of cluster {}", gateway.node, remote.id));
                    lanes.push(*key);
                }
                if !lanes.is_empty() {
                    result.wanted.push(Tunnel {
                        cluster: remote.id.clone(),
                        gateway: gateway.node.clone(),
                        slot: keys.slot,
                        public_keys: lanes,
                        candidates: candidates.clone(),
                        prefixes: prefixes.clone(),
                    });
                }
            }
        }
    }
    result
        .wanted
        .sort_by(|a, b| (&a.cluster, &a.gateway, a.slot).cmp(&(&b.cluster, &b.gateway, b.slot)));
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
