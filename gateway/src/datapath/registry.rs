//! Which peers there are, and the places that they have in the [`Table`](super::table::Table): the writers'
//! side of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::key::PublicKey;
use super::peer::Peer;
use super::steering::home;
use super::table::Slot;

/// Slots for each worker, peers by key, and what else belongs to the configuration in force.
pub(super) struct Registry {
    pub(super) peers: BTreeMap<PublicKey, Arc<Peer>>,
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

impl Registry {
    pub(super) fn new(workers: usize, generation: u8, fwmark: u32) -> Self {
        Self {
            peers: BTreeMap::new(),
            fwmark,
            homes: (0..workers).map(|_| Home::default()).collect(),
            generation,
        }
    }

    /// A receiver index for a session of the worker that has the fewest.
    pub(super) fn index(&mut self) -> Option<u32> {
        let workers = self.homes.len();
        let (number, found) = self
            .homes
            .iter_mut()
            .enumerate()
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
        Some(u32::from(self.generation) << 16 | u32::from(slot))
    }

    /// Takes slots back.
    pub(super) fn release(&mut self, slots: impl IntoIterator<Item = Slot>) {
        let workers = self.homes.len();
        for slot in slots {
            let home = &mut self.homes[home(slot, workers)];
            home.used -= 1;
            home.free.insert(slot);
        }
    }
}
