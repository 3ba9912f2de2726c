//! The control thread: handshakes and timers, off the packet threads' way.
//!
//! It sleeps until a timer is due. Under a flood of handshake messages it works a part of the time only, so that
//! packets keep the processors; what does not find room in its queue is dropped by who would have put it there.
//! Addresses of known peers have room of their own.

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::config::DropCause;
use super::engine::Shared;
use super::noise::{Addressee, HANDSHAKE_MAX, SCRATCH_LEN};
use super::peer::Peer;
use super::trouble::Strangers;

/// How often timers are looked at while something happens.
pub(super) const TICK: Duration = Duration::from_millis(250);
/// Handshake messages that may wait; what comes on top is dropped.
const QUEUE_LEN: usize = 256;
/// Room in a full queue for addresses of peers.
const RESERVED: usize = 64;
/// Messages at a time that look like a flood.
const MANY: usize = 32;
/// After a flood's messages this thread rests for so many times the time that they took.
const REST: u32 = 7;
/// How long to sleep where there is no peer.
const IDLE: Duration = Duration::from_secs(3600);
/// How often the addresses of peers are gathered under a flood.
const GATHER: Duration = Duration::from_secs(1);

/// A handshake message as it came.
pub(super) struct Message {
    from: SocketAddr,
    len: usize,
    bytes: [u8; HANDSHAKE_MAX],
}

#[derive(Default)]
struct Waiting {
    messages: VecDeque<Message>,
    initiations: Vec<Arc<Peer>>,
    /// A peer has begun to send or receive, or is another now.
    roused: bool,
    stop: bool,
}

/// What the packet threads leave for the control thread.
#[derive(Default)]
pub(super) struct Inbox {
    waiting: Mutex<Waiting>,
    news: Condvar,
    /// Messages that wait: spares a flood the lock.
    len: AtomicUsize,
    known: ArcSwap<BTreeSet<IpAddr>>,
    /// Nobody looks at the timers for longer than a tick, so whoever begins to send or receive must say so.
    asleep: AtomicBool,
}

impl Inbox {
    /// Hands over a handshake message; false if too many wait.
    pub(super) fn message(&self, from: SocketAddr, message: &[u8]) -> bool {
        let room =
            |len| len < QUEUE_LEN || (len < QUEUE_LEN + RESERVED && self.known.load().contains(&from.ip()));
        if !room(self.len.load(Ordering::Relaxed)) {
            return false;
        }
        let mut bytes = [0; HANDSHAKE_MAX];
        let Some(place) = bytes.get_mut(..message.len()) else {
            return false;
        };
        place.copy_from_slice(message);
        let message = Message {
            from,
            len: message.len(),
            bytes,
        };
        let mut waiting = self.lock();
        let len = waiting.messages.len();
        if !room(len) {
            return false;
        }
        if len < QUEUE_LEN {
            waiting.messages.push_back(message);
        } else {
            waiting.messages.push_front(message);
        }
        self.len.store(len + 1, Ordering::Relaxed);
        drop(waiting);
        if len == 0 {
            self.news.notify_one();
        }
        true
    }

    /// Asks for a handshake with a peer.
    pub(super) fn initiate(&self, peer: &Arc<Peer>) {
        self.lock().initiations.push(Arc::clone(peer));
        self.news.notify_one();
    }

    /// Has the timers looked at soon, where they were not to be for long.
    pub(super) fn rouse(&self) {
        if self.asleep.load(Ordering::SeqCst) && self.asleep.swap(false, Ordering::SeqCst) {
            self.lock().roused = true;
            self.news.notify_one();
        }
    }

    pub(super) fn stop(&self) {
        self.lock().stop = true;
        self.news.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something to do, or for the time. Messages are left alone until `rested`.
    fn take(&self, until: Instant, rested: Instant) -> Waiting {
        let mut waiting = self.lock();
        loop {
            let now = Instant::now();
            let messages = !waiting.messages.is_empty();
            let news = waiting.stop
                || waiting.roused
                || !waiting.initiations.is_empty()
                || (messages && now >= rested);
            if news || now >= until {
                let mut taken = std::mem::take(&mut *waiting);
                waiting.stop = taken.stop;
                if now < rested {
                    std::mem::swap(&mut waiting.messages, &mut taken.messages);
                } else {
                    self.len.store(0, Ordering::Relaxed);
                }
                return taken;
            }
            let next = if messages { until.min(rested) } else { until };
            waiting = self
                .news
                .wait_timeout(waiting, next - now)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// Runs until the engine stops.
pub(super) fn run(shared: &Shared) {
    let mut scratch = vec![0; SCRATCH_LEN];
    let start = Instant::now();
    let (mut next, mut rested) = (start, start);
    let mut strangers = Strangers::default();
    let (mut looked, mut gathered) = (None::<Instant>, None::<Instant>);
    loop {
        let waiting = shared.control.take(next, rested);
        if waiting.stop {
            return;
        }
        let now = Instant::now();
        let asked = !waiting.messages.is_empty() || !waiting.initiations.is_empty();
        // boringtun's clock is what it was when its timers were looked at: a handshake needs it right.
        if (asked || now >= next) && looked.is_none_or(|looked| now.duration_since(looked) >= TICK) {
            looked = Some(now);
            next = look(shared, &mut scratch, now).max(now + TICK);
        }
        if asked || waiting.roused {
            next = next.min(now + TICK);
        }
        if next <= now + TICK {
            shared.control.asleep.store(false, Ordering::SeqCst);
        }
        for peer in waiting.initiations {
            peer.initiate(&shared.first().udp.load(), &mut scratch, Instant::now());
        }
        let count = waiting.messages.len();
        if count >= QUEUE_LEN && gathered.is_none_or(|gathered| now.duration_since(gathered) >= GATHER) {
            gathered = Some(now);
            let mut known = BTreeSet::new();
            for peer in shared.table.load().peers() {
                peer.addresses(&mut known);
            }
            shared.control.known.store(Arc::new(known));
        }
        let begun = Instant::now();
        for message in waiting.messages {
            let bytes = &message.bytes[..message.len];
            handle(shared, message.from, bytes, &mut strangers, &mut scratch);
        }
        if count >= MANY {
            let end = Instant::now();
            rested = end + REST * end.duration_since(begun);
        }
    }
}

/// Looks at the timers; when the next one is due.
fn look(shared: &Shared, scratch: &mut [u8], now: Instant) -> Instant {
    // Before any flag of a peer is read: a packet that comes later finds this set.
    shared.control.asleep.store(true, Ordering::SeqCst);
    shared.identities.load().reset_rate();
    shared.refresh_mtu();
    let table = shared.table.load();
    let next = table
        .peers()
        .map(|peer| peer.tick(&shared.first().udp.load(), scratch, now))
        .min();
    table.settle_turns();
    next.unwrap_or(now + IDLE)
}

fn handle(shared: &Shared, from: SocketAddr, message: &[u8], strangers: &mut Strangers, scratch: &mut [u8]) {
    let table = shared.table.load();
    let (peer, unknown) = match shared.identities.load().inspect(from.ip(), message, scratch) {
        Ok((lane, Addressee::Key(key))) => {
            let peer = table.by_key(&key).filter(|peer| peer.lane == lane);
            if peer.is_none() {
                strangers.unknown_key(&key, from, Instant::now());
            }
            (peer, DropCause::InUnknownKey)
        }
        Ok((_, Addressee::Index(index))) => (table.by_receiver(index), DropCause::InUnknownSession),
        Ok((_, Addressee::Cookie(len))) => {
            shared.drops.add(DropCause::InRateLimited, 1);
            if let Err(error) = shared.first().udp.load().send_one(from, &scratch[..len]) {
                tracing::debug!(%from, %error, "cookie not sent");
            }
            return;
        }
        Err(cause) => {
            shared.drops.add(cause, 1);
            strangers.unverified(from, Instant::now());
            return;
        }
    };
    match peer {
        Some(peer) => peer.handshake(from, message, &shared.first().udp.load(), scratch, Instant::now()),
        None => shared.drops.add(unknown, 1),
    }
}
