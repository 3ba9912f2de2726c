//! Which peers there are, and the places that their lanes have in the [`Table`](super::table::Table): the
//! writers' side of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::config::{PeerConfig, Refused, RefusedReason};
use super::identities::Identities;
use super::key::PublicKey;
use super::peer::{Bundle, Peer, Place};
use super::steering::home;
use super::table::{Member, Slot};

/// Slots for each worker, lanes by key, and what else belongs to the configuration in force.
pub(super) struct Registry {
    lanes: BTreeMap<PublicKey, Arc<Peer>>,
    pub(super) fwmark: u32,
    /// By worker.
    homes: Vec<Home>,
    /// Upper part of the next receiver index, so that a slot's old indices stay unknown.
    generation: u8,
}

/// The slots of one worker's sessions.
#[derive(Default)]
struct Home {
    used: usize,
    free: BTreeSet<Slot>,
    /// Slots below this have been used.
    next: u32,
}

/// What came of a list of peers.
pub(super) struct Applied {
    /// Those that are to be.
    pub(super) members: Vec<Member>,
    /// Lanes that are to be brought up at once.
    pub(super) created: Vec<Arc<Peer>>,
    /// Those that were left out.
    pub(super) refused: Vec<Refused>,
}

type Lanes = Vec<Arc<Peer>>;

impl Registry {
    pub(super) fn new(workers: usize, generation: u8, fwmark: u32) -> Self {
        Self {
            lanes: BTreeMap::new(),
            fwmark,
            homes: (0..workers).map(|_| Home::default()).collect(),
            generation,
        }
    }

    /// Makes these the peers. Lanes that are there already and keep id and keys stay, unless all are to be
    /// made `anew`.
    pub(super) fn apply(&mut self, identities: &Identities, wanted: &[PeerConfig], anew: bool) -> Applied {
        let mut applied = Applied {
            members: Vec::new(),
            created: Vec::new(),
            refused: Vec::new(),
        };
        let mut ids = BTreeSet::new();
        let mut next: BTreeMap<PublicKey, Arc<Peer>> = BTreeMap::new();
        for config in wanted {
            let keys: Vec<PublicKey> = config.keys().copied().take(identities.lanes()).collect();
            let distinct: BTreeSet<_> = keys.iter().collect();
            let admitted = if distinct.len() < keys.len() || keys.iter().any(|key| next.contains_key(key)) {
                Err(RefusedReason::DuplicateKey)
            } else if ids.contains(config.id.as_str()) {
                Err(RefusedReason::DuplicateId)
            } else {
                self.admit(identities, config, &keys, anew)
            };
            match admitted {
                Ok((lanes, new)) => {
                    ids.insert(config.id.as_str());
                    next.extend(lanes.iter().map(|lane| (lane.public_key, Arc::clone(lane))));
                    if config.keepalive.is_some() {
                        applied.created.extend(new);
                    }
                    applied.members.push(Member {
                        lanes,
                        allowed: config.allowed.clone(),
                    });
                }
                Err(reason) => applied.refused.push(Refused {
                    id: config.id.clone(),
                    reason,
                }),
            }
        }
        self.replace(next, &applied.members);
        applied
    }

    /// Takes back what is no longer used.
    fn replace(&mut self, next: BTreeMap<PublicKey, Arc<Peer>>, members: &[Member]) {
        let kept: BTreeSet<u32> = next.values().map(|lane| lane.index).collect();
        let counting: BTreeSet<_> = next.values().map(|lane| Arc::as_ptr(&lane.counters)).collect();
        let first: BTreeMap<&str, &Arc<Peer>> = members
            .iter()
            .filter_map(|member| member.lanes.first())
            .map(|lane| (lane.id.as_str(), lane))
            .collect();
        for lane in std::mem::replace(&mut self.lanes, next).into_values() {
            if kept.contains(&lane.index) {
                continue;
            }
            self.release([lane.slot()]);
            // A peer with fewer lanes than before has done no less.
            if let Some(first) = first.get(lane.id.as_str())
                && !counting.contains(&Arc::as_ptr(&lane.counters))
            {
                first.counters.absorb(&lane.counters);
            }
        }
    }

    /// The lanes that the configuration means, and those of them that are new.
    fn admit(
        &mut self,
        identities: &Identities,
        config: &PeerConfig,
        keys: &[PublicKey],
        anew: bool,
    ) -> Result<(Lanes, Lanes), RefusedReason> {
        if keys
            .iter()
            .any(|key| identities.public_keys().any(|own| own == *key))
        {
            return Err(RefusedReason::OwnKey);
        }
        let stays = |lane: usize, key| {
            let known = self.lanes.get(key).filter(|_| !anew);
            known.filter(|peer| peer.matches(config, lane)).cloned()
        };
        let standing: Vec<Option<Arc<Peer>>> = keys
            .iter()
            .enumerate()
            .map(|(lane, key)| stays(lane, key))
            .collect();
        let mut news = keys.iter().zip(&standing).filter(|(_, known)| known.is_none());
        if news.any(|(key, _)| !identities.lane(0).accepts(key)) {
            return Err(RefusedReason::WeakKey);
        }
        let mut taken: BTreeSet<usize> = standing.iter().flatten().map(|peer| peer.home).collect();
        let bundle = standing.iter().flatten().next();
        let bundle = bundle.map_or_else(Bundle::default, |peer| Arc::clone(&peer.bundle));
        let tunnel = |lane: usize, key: &PublicKey, index| {
            identities
                .lane(lane)
                .tunnel(key, config.preshared.as_ref(), index)
        };
        let (mut lanes, mut new) = (Vec::new(), Vec::new());
        for (lane, (key, known)) in keys.iter().zip(standing).enumerate() {
            if let Some(peer) = known {
                peer.reconfigure(config, || tunnel(lane, key, peer.index));
                lanes.push(peer);
                continue;
            }
            let Some((home, index)) = self.place(&taken) else {
                self.release(new.iter().map(|peer: &Arc<Peer>| peer.slot()));
                return Err(RefusedReason::TooMany);
            };
            taken.insert(home);
            let tunnel = tunnel(lane, key, index);
            let place = Place {
                lane,
                public_key: *key,
                index,
                home,
                bundle: Arc::clone(&bundle),
            };
            let peer = Arc::new(match self.lanes.get(key) {
                Some(before) => before.successor(config, place, tunnel),
                None => Peer::new(config, place, tunnel),
            });
            new.push(Arc::clone(&peer));
            lanes.push(peer);
        }
        Ok((lanes, new))
    }

    /// A receiver index for a session, of the worker that has the fewest but those `taken`, and that worker.
    fn place(&mut self, taken: &BTreeSet<usize>) -> Option<(usize, u32)> {
        let workers = self.homes.len();
        let (number, found) = self
            .homes
            .iter_mut()
            .enumerate()
            .filter(|(number, _)| !taken.contains(number))
            .min_by_key(|(_, home)| home.used)?;
        let slot = match found.free.pop_first() {
            Some(slot) => slot,
            None => {
                let all = found.next..=u32::from(Slot::MAX);
                let slot = all
                    .map(|slot| slot as Slot)
                    .find(|slot| home(*slot, workers) == number)?;
                found.next = u32::from(slot) + 1;
                slot
            }
        };
        found.used += 1;
        self.generation = self.generation.wrapping_add(1);
        Some((number, u32::from(self.generation) << 16 | u32::from(slot)))
    }

    fn release(&mut self, slots: impl IntoIterator<Item = Slot>) {
        let workers = self.homes.len();
        for slot in slots {
            let home = &mut self.homes[home(slot, workers)];
            home.used -= 1;
            home.free.insert(slot);
        }
    }
}
