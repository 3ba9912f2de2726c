//! The control thread: handshakes and timers, off the packet threads' way.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::config::DropCause;
use super::engine::Shared;
use super::noise::{Addressee, HANDSHAKE_MAX, SCRATCH_LEN};
use super::peer::Peer;

/// How often timers are looked at.
const TICK: Duration = Duration::from_millis(250);
/// Handshake messages that may wait; what comes on top is dropped.
const QUEUE_LEN: usize = 1024;

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
    stop: bool,
}

/// What the packet threads leave for the control thread.
#[derive(Default)]
pub(super) struct Inbox {
    waiting: Mutex<Waiting>,
    news: Condvar,
}

impl Inbox {
    /// Hands over a handshake message; false if too many wait.
    pub(super) fn message(&self, from: SocketAddr, message: &[u8]) -> bool {
        let mut bytes = [0; HANDSHAKE_MAX];
        let Some(room) = bytes.get_mut(..message.len()) else {
            return false;
        };
        room.copy_from_slice(message);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.messages.len() >= QUEUE_LEN {
            return false;
        }
        waiting.messages.push_back(Message {
            from,
            len: message.len(),
            bytes,
        });
        self.news.notify_one();
        true
    }

    /// Asks for a handshake with a peer.
    pub(super) fn initiate(&self, peer: &Arc<Peer>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.initiations.push(Arc::clone(peer));
        self.news.notify_one();
    }

    pub(super) fn stop(&self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).stop = true;
        self.news.notify_one();
    }

    /// Waits for something to do, or for the time.
    fn take(&self, until: Instant) -> Waiting {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let nothing = waiting.messages.is_empty() && waiting.initiations.is_empty() && !waiting.stop;
            if !nothing || left.is_zero() {
                let stop = waiting.stop;
                return Waiting {
                    stop,
                    ..std::mem::take(&mut *waiting)
                };
            }
            waiting = self
                .news
                .wait_timeout(waiting, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// Runs until the engine stops.
pub(super) fn run(shared: &Shared) {
    let mut scratch = vec![0; SCRATCH_LEN];
    let mut next = Instant::now();
    loop {
        let waiting = shared.control.take(next);
        if waiting.stop {
            return;
        }
        for peer in waiting.initiations {
            peer.initiate(&shared.first().udp.load(), &mut scratch, Instant::now());
        }
        for message in waiting.messages {
            handle(shared, message.from, &message.bytes[..message.len], &mut scratch);
        }
        let now = Instant::now();
        if now >= next {
            shared.identity.load().reset_rate();
            for peer in shared.table.load().peers() {
                peer.tick(&shared.first().udp.load(), &mut scratch, now);
            }
            next = now + TICK;
        }
    }
}

fn handle(shared: &Shared, from: SocketAddr, message: &[u8], scratch: &mut [u8]) {
    let table = shared.table.load();
    let (peer, unknown) = match shared.identity.load().inspect(from.ip(), message, scratch) {
        Ok(Addressee::Key(key)) => (table.by_key(&key), DropCause::InUnknownKey),
        Ok(Addressee::Index(index)) => (table.by_receiver(index), DropCause::InUnknownSession),
        Ok(Addressee::Cookie(len)) => {
            shared.drops.add(DropCause::InRateLimited, 1);
            if let Err(error) = shared.first().udp.load().send_one(from, &scratch[..len]) {
                tracing::debug!(%from, %error, "cookie not sent");
            }
            return;
        }
        Err(cause) => {
            shared.drops.add(cause, 1);
            return;
        }
    };
    match peer {
        Some(peer) => peer.handshake(from, message, &shared.first().udp.load(), scratch, Instant::now()),
        None => shared.drops.add(unknown, 1),
    }
}
