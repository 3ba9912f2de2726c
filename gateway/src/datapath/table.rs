//! Who gets a packet, and who may send it: an immutable table, replaced whole.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::config::PeerStatus;
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

/// IPv4 addresses stand in the upper 32 bits, so that one mask serves both families.
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

/// A lane's place in the table; the low bits of its receiver indices.
pub(super) type Slot = u16;

/// A peer's place among the peers.
type Number = u32;

/// A peer for the table: its lanes, at least one, in order, and what is routed to it.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) lanes: Vec<Arc<Peer>>,
    pub(super) allowed: Vec<IpNet>,
}

/// Everything that the packet threads look up.
#[derive(Debug)]
pub(super) struct Table {
    /// Lanes by slot, and the peer that each belongs to.
    slots: Vec<Option<(Arc<Peer>, Number)>>,
    peers: Vec<Lanes>,
    routes: Prefixes<Number>,
    by_key: BTreeMap<PublicKey, Slot>,
    /// By the addresses that the configuration gives them.
    by_address: BTreeMap<SocketAddr, Number>,
}

/// The lanes of one peer.
#[derive(Debug)]
struct Lanes {
    lanes: Vec<Arc<Peer>>,
    /// By worker: the lane that it uses.
    own: Vec<usize>,
}

impl Lanes {
    fn new(lanes: Vec<Arc<Peer>>, workers: usize) -> Self {
        let own = (0..workers)
            .map(|worker| {
                let home = lanes.iter().position(|lane| lane.home == worker);
                home.unwrap_or(worker % lanes.len())
            })
            .collect();
        let made = Self { lanes, own };
        made.settle_turns();
        made
    }

    fn is_up(&self) -> bool {
        self.lanes.iter().any(|lane| lane.is_up())
    }

    /// The lane that a worker sends by: its own, or the next one that has a session.
    fn choose(&self, worker: usize) -> &Arc<Peer> {
        let own = self.own[worker];
        let lane = &self.lanes[own];
        if self.lanes.len() == 1 || lane.is_up() {
            return lane;
        }
        let (before, behind) = self.lanes.split_at(own);
        match behind.iter().chain(before).find(|lane| lane.is_up()) {
            Some(other) => {
                other.share(true);
                other
            }
            None => lane,
        }
    }

    /// Tells each lane whether several workers send to it: there are fewer lanes than workers, or some of
    /// them stand in for others.
    fn settle_turns(&self) {
        let workers = self.own.len();
        let shared = workers > 1
            && (self.lanes.len() < workers || self.is_up() && !self.lanes.iter().all(|lane| lane.is_up()));
        for lane in &self.lanes {
            lane.share(shared);
        }
    }

    /// How much a flow wants to go to this peer, of several.
    fn rank(&self, flow: u32) -> u64 {
        let slot = self.lanes.first().map_or(0, |lane| lane.slot());
        let mixed = (u64::from(flow) ^ (u64::from(slot) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15))
            .wrapping_mul(0xff51_afd7_ed55_8ccd);
        (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53) >> 32
    }

    /// All lanes as one: up if one is, the newest handshake and its end, and the sum of the rest.
    fn status(&self) -> Option<PeerStatus> {
        let age = |status: &PeerStatus| {
            (
                !status.established,
                status.last_handshake.map_or(Duration::MAX, |last| last.age),
            )
        };
        self.lanes
            .iter()
            .map(|lane| lane.status())
            .reduce(|mut sum, lane| {
                if age(&lane) < age(&sum) {
                    sum.endpoint = lane.endpoint.or(sum.endpoint);
                    sum.last_handshake = lane.last_handshake;
                }
                sum.established |= lane.established;
                sum.rx_bytes += lane.rx_bytes;
                sum.tx_bytes += lane.tx_bytes;
                sum.rx_packets += lane.rx_packets;
                sum.tx_packets += lane.tx_packets;
                for (cause, count) in lane.drops {
                    *sum.drops.entry(cause).or_default() += count;
                }
                sum.lanes.extend(lane.lanes);
                sum
            })
    }
}

impl Table {
    /// A table of these peers, for so many workers. Slots must be distinct.
    pub(super) fn new(members: Vec<Member>, workers: usize) -> Self {
        let mut slots = Vec::new();
        let (mut by_key, mut by_address) = (BTreeMap::new(), BTreeMap::new());
        let mut pairs = Vec::new();
        let mut peers = Vec::new();
        for Member { lanes, allowed } in members {
            if lanes.is_empty() {
                continue;
            }
            let number = peers.len() as Number;
            for lane in &lanes {
                let slot = usize::from(lane.slot());
                slots.resize(slots.len().max(slot + 1), None);
                slots[slot] = Some((Arc::clone(lane), number));
                by_key.insert(lane.public_key, lane.slot());
                by_address.extend(lane.candidates().into_iter().map(|address| (address, number)));
            }
            pairs.extend(allowed.into_iter().map(|net| (net, number)));
            peers.push(Lanes::new(lanes, workers));
        }
        Self {
            slots,
            peers,
            routes: Prefixes::new(pairs),
            by_key,
            by_address,
        }
    }

    /// Every lane of every peer.
    pub(super) fn peers(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.peers.iter().flat_map(|peer| &peer.lanes)
    }

    /// What each peer does.
    pub(super) fn status(&self) -> Vec<PeerStatus> {
        self.peers.iter().filter_map(Lanes::status).collect()
    }

    /// To be called when lanes may have come or gone.
    pub(super) fn settle_turns(&self) {
        for peer in &self.peers {
            peer.settle_turns();
        }
    }

    fn slot(&self, slot: Slot) -> Option<&(Arc<Peer>, Number)> {
        self.slots.get(usize::from(slot))?.as_ref()
    }

    pub(super) fn by_key(&self, key: &PublicKey) -> Option<&Arc<Peer>> {
        self.slot(*self.by_key.get(key)?).map(|(lane, _)| lane)
    }

    /// All lanes of the peer that has this key for one.
    pub(super) fn lanes_of(&self, key: &PublicKey) -> &[Arc<Peer>] {
        let number = self.by_key.get(key).and_then(|slot| self.slot(*slot));
        let peer = number.and_then(|(_, number)| self.peers.get(*number as usize));
        peer.map_or(&[], |peer| &peer.lanes)
    }

    /// All lanes of the peer that is expected at this address.
    pub(super) fn lanes_at(&self, address: &SocketAddr) -> &[Arc<Peer>] {
        let number = self.by_address.get(address);
        let peer = number.and_then(|number| self.peers.get(*number as usize));
        peer.map_or(&[], |peer| &peer.lanes)
    }

    /// The lane that a receiver index belongs to.
    pub(super) fn by_receiver(&self, receiver: u32) -> Option<&Arc<Peer>> {
        let index = receiver >> 8;
        let (lane, _) = self.slot(index as Slot)?;
        (lane.index == index).then_some(lane)
    }

    /// The lane by which a worker sends a packet for this destination. Of several peers, those with a session
    /// share the flows; a flow moves only when its peer's session comes or goes.
    pub(super) fn route(&self, destination: IpAddr, packet: &[u8], worker: usize) -> Option<&Arc<Peer>> {
        let peer = |number: &Number| self.peers.get(*number as usize);
        let found = match self.routes.lookup(destination) {
            [] => None,
            [number] => peer(number),
            numbers => {
                // Rendezvous: each flow ranks the peers, so that losing one moves only that one's flows.
                let flow = packet::flow_hash(packet);
                let peers = || numbers.iter().filter_map(peer);
                peers()
                    .filter(|peer| peer.is_up())
                    .max_by_key(|peer| peer.rank(flow))
                    .or_else(|| peers().max_by_key(|peer| peer.rank(flow)))
            }
        };
        found.map(|peer| peer.choose(worker))
    }

    /// Whether a packet from this address may come by this lane.
    pub(super) fn may_send(&self, lane: &Peer, source: IpAddr) -> bool {
        self.slot(lane.slot())
            .is_some_and(|(_, number)| self.routes.lookup(source).contains(number))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::super::config::{KeyLimits, PeerConfig};
    use super::super::identities::Identities;
    use super::super::key::PrivateKey;
    use super::super::model;
    use super::super::noise::SCRATCH_LEN;
    use super::super::registry::Registry;
    use super::super::steering::home;
    use super::super::udp::Udp;
    use super::*;

    const FLOWS: u16 = 200;

    fn flow(number: u16) -> Vec<u8> {
        let mut packet = model::udp(
            Ipv4Addr::new(10, 1, 0, 1).into(),
            Ipv4Addr::new(10, 2, 0, 1).into(),
            b"flow",
        );
        packet[20..22].copy_from_slice(&number.to_be_bytes());
        packet
    }

    fn way(table: &Table, number: u16, worker: usize) -> Arc<Peer> {
        let found = table.route(Ipv4Addr::new(10, 2, 0, 1).into(), &flow(number), worker);
        Arc::clone(found.unwrap())
    }

    fn config(number: u8, lanes: usize) -> PeerConfig {
        let key = |lane: usize| PrivateKey::from_bytes([number + 9; 32]).lane(lane).public();
        PeerConfig {
            lane_keys: (1..lanes).map(key).collect(),
            allowed: vec!["10.2.0.0/16".parse().unwrap()],
            ..PeerConfig::new(format!("cluster-{number}/gateway"), key(0))
        }
    }

    /// Gives a lane a session, with its peer's end of it, which is thrown away.
    fn bring_up(own: &Identities, number: u8, lane: &Peer) {
        let peers = Identities::new(
            &PrivateKey::from_bytes([number + 9; 32]),
            KeyLimits::default(),
            lane.lane + 1,
        );
        let mut far = peers
            .lane(lane.lane)
            .tunnel(&own.lane(lane.lane).public(), None, 1);
        let (mut left, mut right) = (vec![0; SCRATCH_LEN], vec![0; SCRATCH_LEN]);
        let udp = Udp::bind(Some(Ipv4Addr::LOCALHOST.into()), 0, 0, false).unwrap();
        let mut state = lane.lock();
        let len = state.tunnel.initiate(&mut left).unwrap();
        let answer = far.handshake(&left[..len], &mut right).unwrap();
        state.tunnel.handshake(&right[..answer.len], &mut left).unwrap();
        lane.settle(&mut state, &udp, &mut left);
        assert!(lane.is_up());
    }

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
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn flows_go_to_peers_that_are_up_and_each_worker_to_its_own_lane(
            workers in 1usize..=8,
            // Peers' lanes, and which of them have a session.
            peers in proptest::collection::vec((1usize..=8, any::<u8>()), 1..4),
        ) {
            let own = Identities::new(&PrivateKey::from_bytes([1; 32]), KeyLimits::default(), workers);
            let mut registry = Registry::new(workers, 7, 0);
            let wanted: Vec<PeerConfig> = (0u8..).zip(&peers).map(|(number, (lanes, _))| config(number, *lanes)).collect();
            let applied = registry.apply(&own, &wanted, false);
            prop_assert_eq!(&applied.refused, &[]);
            let mut up = BTreeSet::new();
            for (number, (member, (lanes, mask))) in (0u8..).zip(applied.members.iter().zip(&peers)) {
                prop_assert_eq!(member.lanes.len(), workers.min(*lanes));
                let homes: BTreeSet<usize> = member.lanes.iter().map(|lane| lane.home).collect();
                prop_assert_eq!(homes.len(), member.lanes.len(), "two lanes of a peer have one worker");
                for lane in &member.lanes {
                    prop_assert_eq!(lane.home, home(lane.slot(), workers));
                    if mask >> lane.lane & 1 == 1 {
                        bring_up(&own, number, lane);
                        up.insert(lane.id.clone());
                    }
                }
            }
            let table = Table::new(applied.members.clone(), workers);
            for number in 0..FLOWS {
                let ways: Vec<Arc<Peer>> = (0..workers).map(|worker| way(&table, number, worker)).collect();
                prop_assert!(ways.iter().all(|lane| lane.id == ways[0].id), "a flow goes to two gateways");
                if up.is_empty() {
                    continue;
                }
                let lanes = table.lanes_of(&ways[0].public_key);
                for (worker, lane) in ways.iter().enumerate() {
                    prop_assert!(lane.is_up(), "a lane without a session is chosen");
                    if let Some(own) = lanes.iter().find(|lane| lane.home == worker && lane.is_up()) {
                        prop_assert_eq!(own.index, lane.index, "another worker's lane is chosen");
                    }
                    let alone = lanes.len() == workers && lanes.iter().all(|lane| lane.is_up());
                    prop_assert_eq!(lane.is_shared_with(worker), !alone);
                }
            }
            // The same again changes nothing, and fewer lanes are still the same lanes.
            let again = registry.apply(&own, &wanted, false);
            prop_assert!(again.created.is_empty());
            let indices = |members: &[Member]| -> Vec<Vec<u32>> {
                members.iter().map(|member| member.lanes.iter().map(|lane| lane.index).collect()).collect()
            };
            prop_assert_eq!(indices(&again.members), indices(&applied.members));
            let fewer: Vec<PeerConfig> = wanted.iter().cloned().map(|mut config| { config.lane_keys.clear(); config }).collect();
            let first: Vec<Vec<u32>> = indices(&applied.members).into_iter().map(|lanes| vec![lanes[0]]).collect();
            prop_assert_eq!(indices(&registry.apply(&own, &fewer, false).members), first);
        }

        #[test]
        fn losing_a_peer_moves_only_its_flows(lanes in 1usize..=3) {
            let own = Identities::new(&PrivateKey::from_bytes([1; 32]), KeyLimits::default(), 2);
            let wanted: Vec<PeerConfig> = (0..3).map(|number| config(number, lanes)).collect();
            let members = Registry::new(2, 0, 0).apply(&own, &wanted, false).members;
            for (number, member) in (0u8..).zip(&members) {
                member.lanes.iter().for_each(|lane| bring_up(&own, number, lane));
            }
            let all = Table::new(members.clone(), 2);
            let two = Table::new(members[..2].to_vec(), 2);
            let mut moved = 0;
            for number in 0..FLOWS {
                let (before, after) = (way(&all, number, 1), way(&two, number, 1));
                if before.id == wanted[2].id {
                    moved += 1;
                } else {
                    prop_assert_eq!(before.index, after.index);
                }
            }
            prop_assert!((FLOWS / 6..FLOWS / 2).contains(&moved), "{} of {} flows moved", moved, FLOWS);
        }

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
