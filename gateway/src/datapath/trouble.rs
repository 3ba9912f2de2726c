//! Why a peer is not met, in words: what is noticed of it, and how often that is said.
//!
//! Packet threads leave at most one [`Note`] of a kind until the control thread has read it. The control thread alone
//! speaks, of each cause at a [`Pace`], so that no flood of packets becomes one of lines.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::key::PublicKey;

/// Between two lines of one cause: at first, and at most.
const AGAIN: Duration = Duration::from_secs(30);
const AGAIN_AT_MOST: Duration = Duration::from_secs(600);
/// How long a peer may take to answer.
const UNANSWERED: Duration = Duration::from_secs(10);
/// Handshakes in a row that fail in the same way, other than by chance.
const SEVERAL: u32 = 3;

/// How often something is said: less and less while it goes on.
#[derive(Debug, Default)]
pub(super) struct Pace {
    next: Option<Instant>,
    wait: Duration,
}

impl Pace {
    /// Whether it is to be said now.
    pub(super) fn speaks(&mut self, now: Instant) -> bool {
        if self.next.is_some_and(|next| now < next) {
            return false;
        }
        let ceased = self.next.is_none_or(|next| now > next + AGAIN_AT_MOST);
        self.wait = if ceased {
            AGAIN
        } else {
            (2 * self.wait).min(AGAIN_AT_MOST)
        };
        self.next = Some(now + self.wait);
        true
    }
}

/// What a packet thread has met, left for the control thread. The first one stays until it is taken.
#[derive(Debug)]
pub(super) struct Note<T> {
    left: AtomicBool,
    what: Mutex<Option<T>>,
}

impl<T> Default for Note<T> {
    fn default() -> Self {
        Self {
            left: AtomicBool::new(false),
            what: Mutex::new(None),
        }
    }
}

impl<T> Note<T> {
    /// True: there was none, so the control thread is to look.
    pub(super) fn leave(&self, what: impl FnOnce() -> T) -> bool {
        if self.left.load(Ordering::Relaxed) {
            return false;
        }
        *self.what.lock().unwrap_or_else(PoisonError::into_inner) = Some(what());
        !self.left.swap(true, Ordering::SeqCst)
    }

    fn take(&self) -> Option<T> {
        if !self.left.load(Ordering::SeqCst) {
            return None;
        }
        let what = self.what.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.left.store(false, Ordering::Relaxed);
        what
    }
}

/// A datagram that the kernel did not take.
#[derive(Debug)]
pub(super) struct NotSent {
    pub(super) to: SocketAddr,
    pub(super) error: String,
}

/// What packet threads have noticed of a peer.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) unsent: Note<NotSent>,
    /// The source of an inner packet that the peer may not send from.
    pub(super) foreign_source: Note<IpAddr>,
}

/// What the control thread has noticed of a peer.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    /// Since when initiations go out without an answer.
    unanswered: Option<Instant>,
    /// Answers in a row that did not verify.
    refused: u32,
    /// Handshakes in a row that the peer began, that were answered, and that it did not finish.
    unfinished: u32,
    paces: Paces,
}

#[derive(Debug, Default)]
struct Paces {
    unanswered: Pace,
    refused: Pace,
    unfinished: Pace,
    nowhere: Pace,
    unsent: Pace,
    foreign_source: Pace,
}

impl Trouble {
    /// An initiation went to so many addresses, of which this is the first.
    pub(super) fn initiated(&mut self, peer: &str, to: SocketAddr, now: Instant) {
        let lasts = now.duration_since(*self.unanswered.get_or_insert(now));
        if self.refused >= SEVERAL {
            if self.paces.refused.speaks(now) {
                tracing::warn!(
                    peer,
                    endpoint = %to,
                    "the peer's answers to handshakes do not verify: give both ends the same preshared key, or none"
                );
            }
        } else if lasts >= UNANSWERED && self.paces.unanswered.speaks(now) {
            tracing::warn!(
                peer,
                endpoint = %to,
                "no answer to handshakes for {} s: is the peer up, its UDP port open, and does it know this end's public \
                 key and the same preshared key?",
                lasts.as_secs()
            );
        }
    }

    /// There was no address for an initiation.
    pub(super) fn nowhere(&mut self, peer: &str, now: Instant) {
        if self.paces.nowhere.speaks(now) {
            tracing::info!(
                peer,
                "the peer has no endpoint here and has not called yet: name one, or let it begin"
            );
        }
    }

    /// An answer of the peer did not verify.
    pub(super) fn answer_refused(&mut self) {
        self.refused = self.refused.saturating_add(1);
    }

    /// The peer's handshake was answered; whether it is through is seen later.
    pub(super) fn answered(&mut self, peer: &str, from: SocketAddr, now: Instant) {
        self.unfinished = self.unfinished.saturating_add(1);
        if self.unfinished >= SEVERAL && self.paces.unfinished.speaks(now) {
            tracing::warn!(
                peer,
                endpoint = %from,
                "the peer begins handshakes and never finishes them: has it the same preshared key, and do answers reach \
                 it?"
            );
        }
    }

    /// The peer has answered, or nobody waits for it any more.
    pub(super) fn heard(&mut self) {
        (self.unanswered, self.refused) = (None, 0);
    }

    /// A session stands.
    pub(super) fn met(&mut self) {
        self.unfinished = 0;
    }

    /// Says what packet threads have noticed.
    pub(super) fn read(&mut self, peer: &str, notes: &Notes, now: Instant) {
        if let Some(NotSent { to, error }) = notes.unsent.take() {
            self.unsent(peer, to, &error, now);
        }
        if let Some(source) = notes.foreign_source.take()
            && self.paces.foreign_source.speaks(now)
        {
            tracing::warn!(
                peer,
                %source,
                "packets from the peer are dropped: their inner source is not in its allowed IPs here"
            );
        }
    }

    /// The kernel did not take a datagram.
    pub(super) fn unsent(&mut self, peer: &str, to: SocketAddr, error: &str, now: Instant) {
        if self.paces.unsent.speaks(now) {
            tracing::warn!(
                peer,
                endpoint = %to,
                "cannot send to the peer: {error}; is the network up, and is there a route (ip route get {})?",
                to.ip().to_canonical()
            );
        }
    }
}

/// What the control thread has noticed of others than peers.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    unknown_key: Pace,
    unverified: Pace,
}

impl Strangers {
    /// A handshake by the owner of a key that no peer has.
    pub(super) fn unknown_key(&mut self, key: &PublicKey, from: SocketAddr, now: Instant) {
        if self.unknown_key.speaks(now) {
            tracing::warn!(
                %from,
                %key,
                "handshakes by a key that is no peer here are dropped: if it should be one, add it"
            );
        }
    }

    /// A handshake that is not for this end, or none at all.
    pub(super) fn unverified(&mut self, from: SocketAddr, now: Instant) {
        if self.unverified.speaks(now) {
            tracing::info!(
                %from,
                "handshakes that are not for this end's public key are dropped: does the sender have the right one?"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_is_said_less_and_less_and_what_comes_back_at_once() {
        let (start, mut pace) = (Instant::now(), Pace::default());
        let mut said = Vec::new();
        for second in 0..4000 {
            if pace.speaks(start + Duration::from_secs(second)) {
                said.push(second);
            }
        }
        assert_eq!(said, [0, 30, 90, 210, 450, 930, 1530, 2130, 2730, 3330, 3930]);
        let back = start + Duration::from_secs(5200);
        assert!(pace.speaks(back));
        assert!(!pace.speaks(back + AGAIN / 2));
        assert!(pace.speaks(back + AGAIN));
    }

    #[test]
    fn a_note_stays_until_it_is_taken() {
        let note = Note::default();
        assert!(note.leave(|| 1));
        assert!(!note.leave(|| 2));
        assert_eq!((note.take(), note.take()), (Some(1), None));
        assert!(note.leave(|| 3));
    }
}
