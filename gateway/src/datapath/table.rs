//! Who gets a packet, and who may send it: an immutable table, replaced whole.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::key::PublicKey;
use super::packet;
use super::peer::Peer;

/// Longest-prefix match from addresses to sets of values.
#[derive(Debug)]
pub(super) struct Prefixes<T> {
    v4: Vec<Level<T>>,
    v6: Vec<Level<T>>,
}

/// All prefixes of one length, sorted by address.
#[derive(Debug)]
struct Level<T> {
    mask: u128,
    entries: Vec<(u128, Vec<T>)>,
}

impl<T: Ord + Clone> Prefixes<T> {
    pub(super) fn new(pairs: impl IntoIterator<Item = (IpNet, T)>) -> Self {
        let mut by_len: [BTreeMap<u8, BTreeMap<u128, Vec<T>>>; 2] = Default::default();
        for (net, value) in pairs {
            let family = usize::from(matches!(net, IpNet::V6(_)));
            let values = by_len[family]
                .entry(net.prefix_len())
                .or_default()
                .entry(bits(net.network()))
                .or_default();
            if let Err(position) = values.binary_search(&value) {
                values.insert(position, value);
            }
        }
        let [v4, v6] = by_len.map(|levels| {
            let longest_first = levels.into_iter().rev();
            longest_first
                .map(|(len, entries)| Level {
                    mask: mask(len),
                    entries: entries.into_iter().collect(),
                })
                .collect::<Vec<_>>()
        });
        // IPv4 addresses stand in the upper 32 bits, so that one mask serves both families.
        Self { v4, v6 }
    }

    /// The values of the longest prefix that holds the address; empty if none does.
    pub(super) fn lookup(&self, address: IpAddr) -> &[T] {
        let levels = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        let bits = bits(address);
        levels
            .iter()
            .find_map(|level| {
                let key = bits & level.mask;
                let found = level
                    .entries
                    .binary_search_by_key(&key, |(start, _)| *start)
                    .ok()?;
                Some(level.entries[found].1.as_slice())
            })
            .unwrap_or_default()
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)) << 96,
        IpAddr::V6(address) => u128::from(address),
    }
}

fn mask(len: u8) -> u128 {
    if len == 0 {
        0
    } else {
        u128::MAX << (128 - u32::from(len))
    }
}

/// A peer's place in the table; the low bits of its receiver indices.
pub(super) type Slot = u16;

/// Everything that the packet threads look up.
#[derive(Debug)]
pub(super) struct Table {
    /// Peers by slot.
    slots: Vec<Option<Arc<Peer>>>,
    routes: Prefixes<Slot>,
    by_key: BTreeMap<PublicKey, Slot>,
}

impl Table {
    /// A table of these peers with their prefixes. Slots must be distinct.
    pub(super) fn new(peers: Vec<(Arc<Peer>, Vec<IpNet>)>) -> Self {
        let len = peers
            .iter()
            .map(|(peer, _)| usize::from(peer.slot()) + 1)
            .max()
            .unwrap_or(0);
        let mut slots = vec![None; len];
        let mut by_key = BTreeMap::new();
        let routes = Prefixes::new(peers.iter().flat_map(|(peer, allowed)| {
            let slot = peer.slot();
            allowed.iter().map(move |net| (*net, slot))
        }));
        for (peer, _) in peers {
            by_key.insert(peer.public_key, peer.slot());
            let slot = usize::from(peer.slot());
            slots[slot] = Some(peer);
        }
        Self {
            slots,
            routes,
            by_key,
        }
    }

    pub(super) fn peers(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.slots.iter().flatten()
    }

    fn slot(&self, slot: Slot) -> Option<&Arc<Peer>> {
        self.slots.get(usize::from(slot))?.as_ref()
    }

    pub(super) fn by_key(&self, key: &PublicKey) -> Option<&Arc<Peer>> {
        self.slot(*self.by_key.get(key)?)
    }

    /// The peer that a receiver index belongs to.
    pub(super) fn by_receiver(&self, receiver: u32) -> Option<&Arc<Peer>> {
        let index = receiver >> 8;
        self.slot(index as Slot).filter(|peer| peer.index == index)
    }

    /// The peer that a packet for this destination goes to. Of several, those with a session share the
    /// flows; a flow moves only when its peer's session comes or goes.
    pub(super) fn route(&self, destination: IpAddr, packet: &[u8]) -> Option<&Arc<Peer>> {
        match self.routes.lookup(destination) {
            [] => None,
            [slot] => self.slot(*slot),
            slots => {
                // Rendezvous: each flow ranks the peers, so that losing one moves only that one's flows.
                let flow = packet::flow_hash(packet);
                let rank = |slot: Slot| {
                    let mixed = (u64::from(flow)
                        ^ (u64::from(slot) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15))
                    .wrapping_mul(0xff51_afd7_ed55_8ccd);
                    (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53) >> 32
                };
                let peers = || slots.iter().filter_map(|slot| self.slot(*slot));
                peers()
                    .filter(|peer| peer.is_up())
                    .max_by_key(|peer| rank(peer.slot()))
                    .or_else(|| peers().max_by_key(|peer| rank(peer.slot())))
            }
        }
    }

    /// Whether a packet from this address may come from this peer.
    pub(super) fn may_send(&self, peer: &Peer, source: IpAddr) -> bool {
        self.routes.lookup(source).contains(&peer.slot())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use proptest::prelude::*;

    use super::*;

    fn net() -> impl Strategy<Value = IpNet> {
        // Few distinct bits, so that prefixes nest and repeat.
        prop_oneof![
            (0u32..16, 0u8..=32).prop_map(|(bits, len)| {
                IpNet::new(IpAddr::V4((bits << 28 | bits).into()), len)
                    .unwrap()
                    .trunc()
            }),
            (0u128..16, 0u8..=128).prop_map(|(bits, len)| {
                IpNet::new(IpAddr::V6(Ipv6Addr::from(bits << 124 | bits)), len)
                    .unwrap()
                    .trunc()
            }),
        ]
    }

    proptest! {
        #[test]
        fn finds_what_a_linear_search_finds(
            pairs in proptest::collection::vec((net(), 0u16..4), 0..20),
            bits in 0u32..16,
        ) {
            let table = Prefixes::new(pairs.clone());
            let v6 = Ipv6Addr::from(u128::from(bits) << 124 | u128::from(bits));
            for address in [IpAddr::V4((bits << 28 | bits).into()), IpAddr::V6(v6)] {
                let longest = pairs.iter().filter(|(net, _)| net.contains(&address)).map(|(net, _)| *net)
                    .max_by_key(IpNet::prefix_len);
                let mut expected: Vec<u16> = pairs.iter().filter(|(net, _)| Some(*net) == longest)
                    .map(|(_, value)| *value).collect();
                expected.sort_unstable();
                expected.dedup();
                prop_assert_eq!(table.lookup(address), expected);
            }
        }
    }
}
