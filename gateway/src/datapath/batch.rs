//! Whether several datagrams may go to a peer in one system call: until the kernel refuses, and again after a
//! while, as paths change.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long after a refusal it is tried again: at first, and at most.
const PAUSE: Duration = Duration::from_secs(2);
const PAUSE_AT_MOST: Duration = Duration::from_secs(60);
const NONE: usize = usize::MAX;

/// What a path takes. Packet threads ask and tell, the control thread lets time pass.
#[derive(Debug)]
pub(super) struct Batch {
    /// Datagrams of this length or more go one by one.
    refused: AtomicUsize,
    /// Whether those of this length or more do is being tried again.
    tried: AtomicUsize,
    retry: Mutex<Retry>,
}

#[derive(Debug)]
struct Retry {
    pause: Duration,
    at: Option<Instant>,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            refused: AtomicUsize::new(NONE),
            tried: AtomicUsize::new(NONE),
            retry: Mutex::new(Retry {
                pause: PAUSE,
                at: None,
            }),
        }
    }
}

impl Batch {
    /// Whether datagrams of this length may go together.
    pub(super) fn allows(&self, segment: usize) -> bool {
        segment < self.refused.load(Ordering::Relaxed)
    }

    /// Whether the kernel has refused this whatever the length, and has not been seen to take it since.
    pub(super) fn is_off(&self) -> bool {
        let refused = self.refused.load(Ordering::Relaxed);
        refused.min(self.tried.load(Ordering::Relaxed)) == 0
    }

    /// Notes that the kernel refused datagrams of this length together; 0 for any length. True: that is news.
    pub(super) fn refuse(&self, segment: usize) -> bool {
        let before = self.refused.fetch_min(segment, Ordering::Relaxed);
        let tried = self.tried.swap(NONE, Ordering::Relaxed);
        before.min(tried) == NONE
    }

    /// Notes that the kernel took datagrams of this length together. True: it had refused that.
    pub(super) fn take(&self, segment: usize) -> bool {
        let tried = self.tried.load(Ordering::Relaxed);
        // What is not tried is as long as can be.
        if segment < tried || self.tried.swap(NONE, Ordering::Relaxed) == NONE {
            return false;
        }
        self.retry().pause = PAUSE;
        true
    }

    /// Lets time pass.
    pub(super) fn tick(&self, now: Instant) {
        let refused = self.refused.load(Ordering::Relaxed);
        if refused == NONE {
            return;
        }
        let mut retry = self.retry();
        let pause = retry.pause;
        if now >= *retry.at.get_or_insert(now + pause) {
            *retry = Retry {
                pause: (2 * pause).min(PAUSE_AT_MOST),
                at: None,
            };
            self.tried.store(refused, Ordering::Relaxed);
            self.refused.store(NONE, Ordering::Relaxed);
        }
    }

    /// Begins anew: the path is another.
    pub(super) fn reset(&self) {
        self.refused.store(NONE, Ordering::Relaxed);
        self.tried.store(NONE, Ordering::Relaxed);
        let Retry { pause, at } = &mut *self.retry();
        (*pause, *at) = (PAUSE, None);
    }

    fn retry(&self) -> MutexGuard<'_, Retry> {
        self.retry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds after which what is always refused is tried again.
    fn tries(batch: &Batch, start: Instant, seconds: u64) -> Vec<u64> {
        let mut tries = Vec::new();
        for second in 0..seconds {
            batch.tick(start + Duration::from_secs(second));
            if batch.allows(1450) {
                tries.push(second);
                assert!(!batch.refuse(1450), "it is no news");
            }
        }
        tries
    }

    #[test]
    fn what_is_refused_is_tried_again_ever_less_often_and_news_are_told_once() {
        let (batch, start) = (Batch::default(), Instant::now());
        assert!(!batch.take(1450), "it was never refused");
        assert!(batch.refuse(1450));
        assert!(batch.allows(1449), "shorter ones fit");
        assert_eq!(tries(&batch, start, 260), [2, 7, 16, 33, 66, 127, 188, 249]);

        batch.tick(start + Duration::from_secs(310));
        assert!(batch.allows(1450));
        assert!(!batch.take(1000), "that says nothing of longer ones");
        assert!(batch.take(1450));
        assert!(!batch.take(1450));
        assert!(batch.refuse(1450), "and once more");
        assert_eq!(tries(&batch, start + Duration::from_secs(400), 10), [2, 7]);

        batch.reset();
        assert!(batch.allows(1450) && !batch.take(1450));
        assert!(batch.refuse(0) && batch.is_off());
        assert!(!batch.allows(1));
        batch.tick(start + Duration::from_secs(500));
        batch.tick(start + Duration::from_secs(502));
        assert!(batch.allows(1450) && batch.is_off(), "it is only tried");
        assert!(batch.take(1) && !batch.is_off());
    }
}
