//! Counters that several threads add to and nobody waits for.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::config::DropCause;

/// Drops by cause.
#[derive(Debug)]
pub(super) struct Drops([AtomicU64; DropCause::ALL.len()]);

impl Default for Drops {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; DropCause::ALL.len()])
    }
}

impl Drops {
    pub(super) fn add(&self, cause: DropCause, count: u64) {
        self.0[cause as usize].fetch_add(count, Ordering::Relaxed);
    }

    fn absorb(&self, other: &Self) {
        for (sum, more) in self.0.iter().zip(&other.0) {
            sum.fetch_add(more.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    pub(super) fn snapshot(&self) -> BTreeMap<DropCause, u64> {
        DropCause::ALL
            .iter()
            .map(|&cause| (cause, self.0[cause as usize].load(Ordering::Relaxed)))
            .filter(|&(_, count)| count > 0)
            .collect()
    }
}

/// What one lane of a peer has done. It outlives a change of keys.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) rx: Traffic,
    pub(super) tx: Traffic,
    pub(super) drops: Drops,
}

impl Counters {
    /// Goes on counting for another, too.
    pub(super) fn absorb(&self, other: &Self) {
        for (sum, more) in [(&self.rx, &other.rx), (&self.tx, &other.tx)] {
            sum.add(
                more.bytes.load(Ordering::Relaxed),
                more.packets.load(Ordering::Relaxed),
            );
        }
        self.drops.absorb(&other.drops);
    }
}

/// One direction's traffic.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    pub(super) bytes: AtomicU64,
    pub(super) packets: AtomicU64,
}

impl Traffic {
    pub(super) fn add(&self, bytes: u64, packets: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.packets.fetch_add(packets, Ordering::Relaxed);
    }
}
