//! Addresses of ServiceImports.
//!
//! The slot is a hash of the service's name, so that clusters with the same range mostly agree and nothing
//! needs to be stored but `spec.ips` itself; a taken slot is probed past.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use sha2::{Digest, Sha256};

use super::ServiceKey;

/// How many slots are looked at before a range counts as full.
const MAX_PROBES: u64 = 1 << 16;

/// A free address for a service; `None` if the range is full.
pub fn allocate(key: &ServiceKey, range: &IpNet, taken: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let slots = slots(range);
    if slots == 0 {
        return None;
    }
    let start = hash(key) % slots;
    (0..slots.min(MAX_PROBES))
        .map(|probe| address(range, (start + probe) % slots))
        .find(|a| !taken(*a))
}

/// Whether an address may be handed out of a range.
pub fn usable(range: &IpNet, address: IpAddr) -> bool {
    range.contains(&address)
        && address != range.network()
        && (address.is_ipv6() || address != range.broadcast())
}

fn hash(key: &ServiceKey) -> u64 {
    let digest = Sha256::digest(format!("{}/{}", key.namespace, key.name));
    digest.iter().take(8).fold(0, |n, byte| n << 8 | u64::from(*byte))
}

/// Addresses of the range without its first (and in IPv4 its last).
fn slots(range: &IpNet) -> u64 {
    let host_bits = u32::from(range.max_prefix_len() - range.prefix_len()).min(63);
    let reserved = if range.network().is_ipv4() { 2 } else { 1 };
    (1u64 << host_bits).saturating_sub(reserved)
}

fn address(range: &IpNet, slot: u64) -> IpAddr {
    match range.network() {
        IpAddr::V4(base) => {
            Ipv4Addr::from_bits(base.to_bits().wrapping_add(slot as u32).wrapping_add(1)).into()
        }
        IpAddr::V6(base) => {
            Ipv6Addr::from_bits(base.to_bits().wrapping_add(u128::from(slot)).wrapping_add(1)).into()
        }
    }
}
