//! Who gets which overlay addresses.
//!
//! The broker cuts a block per member out of the node pools ([`node_blocks`]); the member's agent gives each
//! node one address of each family out of its blocks ([`node_addresses`]). Both are stable: what is held is
//! kept, what is new takes the lowest that is free.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use strait_api::records::MemberSpec;

use crate::clusterset::overlap;

/// Node pools where none are set: class E space for IPv4, a unique local prefix for IPv6.
pub const DEFAULT_NODE_POOLS: [&str; 2] = ["240.0.0.0/8", "fd53:7472:6100::/40"];
/// Prefixes of VIPs where `strait join` is given none: the same in every cluster.
pub const DEFAULT_VIP_CIDRS: [&str; 2] = ["243.0.0.0/16", "fd53:7472:7600::/112"];
/// Length of a member's IPv4 block.
pub const BLOCK_V4: u8 = 20;
/// Length of a member's IPv6 block.
pub const BLOCK_V6: u8 = 64;

/// A pool cannot serve another member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllocationError {
    /// There is no pool of a family.
    #[error(
        "no node pool for {family}, which the cluster's pods use; start the broker with a --node-pool of that family"
    )]
    NoPool {
        /// `IPv4` or `IPv6`.
        family: &'static str,
    },
    /// All blocks are taken.
    #[error(
        "the node pool(s) for {family} have no free /{length} block (evicted members keep theirs for 30 days); start the broker with one more --node-pool"
    )]
    Exhausted {
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// Length of a block.
        length: u8,
    },
}

/// Whether two prefixes are of one family.
pub fn same_family(a: &IpNet, b: &IpNet) -> bool {
    matches!(
        (a, b),
        (IpNet::V4(_), IpNet::V4(_)) | (IpNet::V6(_), IpNet::V6(_))
    )
}

/// The node blocks of a new member: one of each family that its pods have. Blocks of `members`, also of
/// those that left and whose tombstone is kept, are taken; so is what overlaps with anybody's prefixes.
pub fn node_blocks(
    pools: &[IpNet],
    members: &[MemberSpec],
    pod_cidrs: &[IpNet],
) -> Result<Vec<IpNet>, AllocationError> {
    let mut taken: Vec<IpNet> = members
        .iter()
        .flat_map(|m| m.node_blocks.iter().chain(&m.prefixes))
        .chain(pod_cidrs)
        .copied()
        .collect();
    taken.sort();
    let mut blocks = Vec::new();
    if pod_cidrs.iter().any(|p| matches!(p, IpNet::V4(_))) {
        blocks.push(block(pools, &taken, "IPv4", BLOCK_V4, |p| {
            matches!(p, IpNet::V4(_))
        })?);
    }
    if pod_cidrs.iter().any(|p| matches!(p, IpNet::V6(_))) {
        blocks.push(block(pools, &taken, "IPv6", BLOCK_V6, |p| {
            matches!(p, IpNet::V6(_))
        })?);
    }
    Ok(blocks)
}

fn block(
    pools: &[IpNet],
    taken: &[IpNet],
    family: &'static str,
    length: u8,
    of_family: impl Fn(&IpNet) -> bool,
) -> Result<IpNet, AllocationError> {
    let mut any = false;
    for pool in pools.iter().filter(|p| of_family(p)) {
        any = true;
        let mut next = first_block(pool, length);
        while let Some(block) = next.filter(|b| pool.contains(b)) {
            match taken
                .iter()
                .filter(|t| overlap(t, &block))
                .map(IpNet::broadcast)
                .max()
            {
                None => return Ok(block),
                // On past the end of what is in the way: wide neighbours are not walked block by block.
                Some(end) => next = block_after(end.max(block.broadcast()), length),
            }
        }
    }
    Err(if any {
        AllocationError::Exhausted { family, length }
    } else {
        AllocationError::NoPool { family }
    })
}

fn first_block(pool: &IpNet, length: u8) -> Option<IpNet> {
    IpNet::new(pool.network(), length.max(pool.prefix_len())).ok()
}

fn block_after(end: IpAddr, length: u8) -> Option<IpNet> {
    let start = match end {
        IpAddr::V4(a) => IpAddr::from(u32::from(a).checked_add(1)?.to_be_bytes()),
        IpAddr::V6(a) => IpAddr::from(u128::from(a).checked_add(1)?.to_be_bytes()),
    };
    IpNet::new(start, length).ok().map(|b| b.trunc())
}

/// The overlay addresses of a cluster's nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAddresses {
    /// By node name: one address of each family that there is a block of, IPv4 first.
    pub assigned: BTreeMap<String, Vec<IpAddr>>,
    /// Nodes that a full block had no address for.
    pub without: BTreeSet<String>,
}

/// Gives each node an address out of each block. `nodes` maps a node's name to the addresses that it holds
/// (its annotation); a held address stays if it lies in a block and nobody earlier in the order of names
/// holds it too.
pub fn node_addresses(blocks: &[IpNet], nodes: &BTreeMap<String, Vec<IpAddr>>) -> NodeAddresses {
    let mut result = NodeAddresses::default();
    for name in nodes.keys() {
        result.assigned.insert(name.clone(), Vec::new());
    }
    let mut blocks: Vec<IpNet> = blocks.to_vec();
    blocks.sort();
    for block in &blocks {
        let mut taken: BTreeSet<IpAddr> = BTreeSet::new();
        let mut kept: BTreeMap<&String, IpAddr> = BTreeMap::new();
        for (name, held) in nodes {
            let usable = held.iter().find(|a| block.contains(*a) && !reserved(block, **a));
            if let Some(address) = usable.filter(|a| taken.insert(**a)) {
                kept.insert(name, *address);
            }
        }
        let mut free = usable_addresses(block).filter(|a| !taken.contains(a));
        for name in nodes.keys() {
            match kept.get(name).copied().or_else(|| free.next()) {
                Some(address) => result.assigned.entry(name.clone()).or_default().push(address),
                None => {
                    result.without.insert(name.clone());
                }
            }
        }
    }
    result
}

/// The first address of a block (and the last of an IPv4 one) is given to nobody: tools take it for the
/// network's, or for broadcast.
fn reserved(block: &IpNet, address: IpAddr) -> bool {
    address == block.network() || (matches!(block, IpNet::V4(_)) && address == block.broadcast())
}

fn usable_addresses(block: &IpNet) -> Box<dyn Iterator<Item = IpAddr> + '_> {
    let all: Box<dyn Iterator<Item = IpAddr>> = match block {
        IpNet::V4(b) => Box::new(addresses_v4(*b)),
        IpNet::V6(b) => Box::new(addresses_v6(*b)),
    };
    Box::new(all.filter(|a| !reserved(block, *a)))
}

fn addresses_v4(block: Ipv4Net) -> impl Iterator<Item = IpAddr> {
    (u32::from(block.network())..=u32::from(block.broadcast())).map(|a| IpAddr::from(a.to_be_bytes()))
}

fn addresses_v6(block: Ipv6Net) -> impl Iterator<Item = IpAddr> {
    (u128::from(block.network())..=u128::from(block.broadcast())).map(|a| IpAddr::from(a.to_be_bytes()))
}
