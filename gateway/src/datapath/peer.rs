//! One lane of a peer, the only one of most: its tunnel, where it is, and what it has done.

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::batch::Batch;
use super::config::{DropCause, LaneStatus, LastHandshake, PeerConfig, PeerStatus};
use super::control::TICK;
use super::counters::Counters;
use super::key::{PresharedKey, PublicKey};
use super::noise::{
    DATA_OVERHEAD, HANDSHAKE_MAX, KEYS_END, SCRATCH_LEN, SESSION_ENDS, Tick, Tunnel, is_response,
};
use super::succession::Succession;
use super::table::Slot;
use super::trouble::{NotSent, Notes, Trouble};
use super::udp::{Udp, unsent};

/// Bytes of packets that wait for a session.
const QUEUE_BYTES: usize = 256 << 10;
/// Unanswered initiations after which they go out less often.
const EAGER_ATTEMPTS: u32 = 5;
const EAGER_RETRY: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_secs(5);
/// After this time without data no timer of a session waits for an answer any more.
const LINGER: Duration = Duration::from_secs(20);
/// When to look at a peer that waits for nothing.
const SOME_TIME: Duration = Duration::from_secs(3600);
/// Unanswered initiations after which a session is thought to be one-sided, so that other ways are taken.
const DEAF_ATTEMPTS: u32 = 3;

/// What the lanes of one peer have in common: how many of them are up.
pub(super) type Bundle = Arc<AtomicUsize>;

/// A lane of a peer. Its lock is held over one run or stretch of packets at most, and never together with another's.
pub(super) struct Peer {
    pub(super) id: String,
    pub(super) lane: usize,
    /// The peer's key for this lane.
    pub(super) public_key: PublicKey,
    /// The worker whose sessions these are.
    pub(super) home: usize,
    pub(super) bundle: Bundle,
    /// Upper 24 bits of its receiver indices: a generation, then the slot.
    pub(super) index: u32,
    state: Mutex<State>,
    up: AtomicBool,
    /// Set by whoever sends or receives data, cleared by the timer: spares the packet threads a clock.
    sent: AtomicBool,
    heard: AtomicBool,
    /// Set by whoever receives anything in a session, if only a keepalive; cleared by the timer, too.
    alive: AtomicBool,
    /// Whether several workers send to it.
    shared: AtomicBool,
    /// Whether an initiation has been asked for since the last tick.
    wanted: AtomicBool,
    /// Whether one send may carry several datagrams to this endpoint.
    pub(super) batch: Batch,
    pub(super) counters: Arc<Counters>,
    pub(super) notes: Notes,
}

/// What the peer's lock guards.
pub(super) struct State {
    pub(super) tunnel: Succession,
    preshared: Option<PresharedKey>,
    pub(super) endpoint: Option<SocketAddr>,
    candidates: Vec<SocketAddr>,
    keepalive: Option<Duration>,
    /// Packets that wait for a session.
    queue: VecDeque<Vec<u8>>,
    queued: usize,
    /// Initiations since the last answer.
    attempts: u32,
    last_initiation: Option<Instant>,
    last_sent: Instant,
    /// Data went one way or the other not long before.
    busy_until: Instant,
    /// boringtun has given up until somebody begins anew.
    expired: bool,
    /// When the newest session was made, by both clocks.
    handshake: Option<(Instant, SystemTime)>,
    trouble: Trouble,
}

impl State {
    /// The peer has answered, or is to be tried as if for the first time.
    fn begin_anew(&mut self) {
        self.attempts = 0;
        self.trouble.heard();
    }
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer")
            .field("id", &self.id)
            .field("public_key", &self.public_key)
            .finish_non_exhaustive()
    }
}

/// Which lane of which peer, and the places that it has.
pub(super) struct Place {
    pub(super) lane: usize,
    pub(super) public_key: PublicKey,
    /// Upper 24 bits of its receiver indices.
    pub(super) index: u32,
    pub(super) home: usize,
    pub(super) bundle: Bundle,
}

impl Place {
    /// The only lane of a peer, of an engine with one worker.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn only(config: &PeerConfig, index: u32) -> Self {
        Self {
            lane: 0,
            public_key: config.public_key,
            index,
            home: 0,
            bundle: Bundle::default(),
        }
    }
}

impl Peer {
    pub(super) fn new(config: &PeerConfig, place: Place, tunnel: Box<dyn Tunnel>) -> Self {
        let Place {
            lane,
            public_key,
            index,
            home,
            bundle,
        } = place;
        Self {
            id: config.id.clone(),
            lane,
            public_key,
            home,
            bundle,
            index,
            state: Mutex::new(State {
                tunnel: Succession::new(tunnel),
                preshared: config.preshared.clone(),
                endpoint: None,
                candidates: config.candidates.clone(),
                keepalive: config.keepalive,
                queue: VecDeque::new(),
                queued: 0,
                attempts: 0,
                last_initiation: None,
                last_sent: Instant::now(),
                busy_until: Instant::now(),
                expired: false,
                handshake: None,
                trouble: Trouble::default(),
            }),
            up: AtomicBool::new(false),
            sent: AtomicBool::new(false),
            heard: AtomicBool::new(false),
            alive: AtomicBool::new(false),
            shared: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
            batch: Batch::default(),
            counters: Arc::default(),
            notes: Notes::default(),
        }
    }

    /// The same peer with other keys or another name: it goes on where this one was, and goes on counting.
    pub(super) fn successor(&self, config: &PeerConfig, place: Place, tunnel: Box<dyn Tunnel>) -> Self {
        let mut next = Self::new(config, place, tunnel);
        next.counters = Arc::clone(&self.counters);
        let state = self.lock();
        let new = next.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        (new.endpoint, new.handshake) = (state.endpoint, state.handshake);
        drop(state);
        next
    }

    pub(super) fn slot(&self) -> Slot {
        self.index as Slot
    }

    /// Whether a session stands, and the peer has not ceased to answer.
    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Whether several workers may send to it. Each then lets go of it only when what it has sealed is sent,
    /// or else the others' runs would overtake its own by more than the receiver's window.
    pub(super) fn share(&self, shared: bool) {
        if self.shared.load(Ordering::Relaxed) != shared {
            self.shared.store(shared, Ordering::Relaxed);
        }
    }

    /// Whether others than this worker may send to it.
    pub(super) fn is_shared_with(&self, worker: usize) -> bool {
        self.home != worker || self.shared.load(Ordering::Relaxed)
    }

    /// Whether this, which has the right key, is the lane that the configuration means, so that its session
    /// can stay.
    pub(super) fn matches(&self, config: &PeerConfig, lane: usize) -> bool {
        self.id == config.id && self.lane == lane
    }

    /// Takes over what may change under a standing session. Another preshared key makes another tunnel, which takes
    /// its part with the next handshake.
    pub(super) fn reconfigure(&self, config: &PeerConfig, tunnel: impl FnOnce() -> Box<dyn Tunnel>) {
        let mut state = self.lock();
        state.keepalive = config.keepalive;
        let moved = state.candidates != config.candidates;
        let rekeyed = state.preshared != config.preshared;
        if moved {
            state.candidates.clone_from(&config.candidates);
        }
        if rekeyed {
            state.preshared.clone_from(&config.preshared);
            state.tunnel.succeed(tunnel());
        }
        if (moved || rekeyed) && !state.tunnel.established() {
            // What is new is worth a prompt attempt.
            state.begin_anew();
            state.last_initiation = None;
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a run of data was sent. True: the first since the timers were looked at.
    pub(super) fn count_sent(&self, bytes: u64, packets: u64) -> bool {
        self.counters.tx.add(bytes, packets);
        first(&self.sent)
    }

    /// Notes that data was received. True: the first since the timers were looked at.
    pub(super) fn heard(&self) -> bool {
        first(&self.heard)
    }

    /// Notes that the peer still has a session.
    pub(super) fn lives(&self) {
        first(&self.alive);
    }

    /// Where it may be, as configured.
    pub(super) fn candidates(&self) -> Vec<SocketAddr> {
        let canonical = |address: &SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        self.lock().candidates.iter().map(canonical).collect()
    }

    /// Whether somebody must start a handshake, as one is wanted and has not been asked for.
    pub(super) fn want(&self) -> bool {
        !self.wanted.swap(true, Ordering::Relaxed)
    }

    /// Addresses from which its messages may be expected.
    pub(super) fn addresses(&self, into: &mut BTreeSet<IpAddr>) {
        let state = self.lock();
        let all = state.endpoint.iter().chain(&state.candidates);
        into.extend(all.map(|address| address.ip().to_canonical()));
    }

    /// Keeps a (padded) packet until a session stands. True: somebody must start one.
    pub(super) fn enqueue(&self, state: &mut State, packet: &[u8]) -> bool {
        if state.queued + packet.len() > QUEUE_BYTES {
            self.counters.drops.add(DropCause::OutQueueFull, 1);
        } else {
            state.queued += packet.len();
            state.queue.push_back(packet.to_vec());
        }
        self.want()
    }

    /// Sends to this address from now on, until the peer proves that it is at another.
    pub(super) fn redirect(&self, to: SocketAddr) {
        let mut state = self.lock();
        if state.endpoint != Some(to) {
            state.endpoint = Some(to);
            self.batch.reset();
        }
    }

    /// Follows an authenticated message.
    pub(super) fn roam(&self, state: &mut State, from: SocketAddr) {
        if state.endpoint != Some(from) {
            if self.lane == 0 {
                tracing::info!(peer = self.id, endpoint = %from, previous = ?state.endpoint, "the peer answers at");
            }
            state.endpoint = Some(from);
            self.batch.reset();
        }
    }

    /// To be called when authentic data comes while the peer is not up.
    pub(super) fn revive(&self, state: &mut State, udp: &Udp, scratch: &mut [u8]) {
        state.begin_anew();
        self.settle(state, udp, scratch);
    }

    /// To be called after each change that may bring or take a session: sends what waits for one.
    pub(super) fn settle(&self, state: &mut State, udp: &Udp, scratch: &mut [u8]) {
        let established = state.tunnel.established();
        let up = established && state.attempts < DEAF_ATTEMPTS;
        if self.up.swap(up, Ordering::Relaxed) != up {
            let (id, lane) = (&self.id, self.lane);
            let others = if up {
                self.bundle.fetch_add(1, Ordering::Relaxed)
            } else {
                self.bundle.fetch_sub(1, Ordering::Relaxed) - 1
            };
            match (up, others) {
                (true, 0) => tracing::info!(peer = id, "tunnel up"),
                (true, _) => tracing::debug!(peer = id, lane, "lane up"),
                (false, 0) if established => {
                    tracing::warn!(peer = id, "tunnel down: the peer answers no handshake any more");
                }
                // On demand, the next packet begins another session.
                (false, 0)
                    if state.keepalive.is_none()
                        && state.attempts == 0
                        && state.busy_until <= Instant::now() =>
                {
                    tracing::info!(
                        peer = id,
                        "tunnel down: nothing was sent, and its session has ended"
                    );
                }
                (false, 0) => tracing::warn!(
                    peer = id,
                    "tunnel down: the session has lapsed without a new handshake"
                ),
                (false, _) => {
                    tracing::info!(peer = id, lane, others, "lane down: the others take its flows");
                }
            }
        }
        if !established {
            return;
        }
        state.trouble.met();
        if let Some(completed) = state.tunnel.completed()
            && state.handshake.is_none_or(|(known, _)| known < completed)
        {
            state.handshake = Some((completed, SystemTime::now()));
        }
        while let Some(packet) = state.queue.pop_front() {
            state.queued -= packet.len();
            if let Some(len) = state.tunnel.seal(&packet, scratch) {
                self.send(state, udp, &scratch[..len], 1);
            }
        }
    }

    /// Starts a handshake now.
    pub(super) fn initiate(&self, udp: &Udp, scratch: &mut [u8], now: Instant) {
        let mut state = self.lock();
        if state
            .last_initiation
            .is_none_or(|last| now.duration_since(last) >= EAGER_RETRY)
            && !state.tunnel.established()
        {
            self.send_initiation(&mut state, udp, scratch, now);
        }
    }

    /// Takes a handshake message that is for this peer.
    pub(super) fn handshake(
        &self,
        from: SocketAddr,
        message: &[u8],
        udp: &Udp,
        scratch: &mut [u8],
        now: Instant,
    ) {
        let mut state = self.lock();
        match state.tunnel.handshake(message, scratch) {
            Ok(answer) => {
                if answer.authentic {
                    self.counters.rx.add(message.len() as u64, 0);
                    // An initiation may be an old one that somebody replays under a new preshared key. Where a session
                    // stands, its first data tells where the peer is.
                    if answer.completed || !state.tunnel.established() {
                        self.roam(&mut state, from);
                    }
                    state.begin_anew();
                    // The peer is at it: leave it the time to finish before trying ourselves.
                    state.last_initiation = Some(now);
                }
                if answer.len > 0 {
                    match udp.send_one(from, &scratch[..answer.len]) {
                        Ok(()) => {
                            self.counters.tx.add(answer.len as u64, 0);
                            state.last_sent = now;
                        }
                        Err(error) => {
                            self.send_failed(from, 1, &error);
                        }
                    }
                }
                if answer.authentic && !answer.completed && !state.tunnel.established() && self.lane == 0 {
                    state.trouble.answered(&self.id, from, now);
                }
                if answer.completed {
                    tracing::debug!(peer = self.id, %from, "handshake complete");
                }
                self.settle(&mut state, udp, scratch);
            }
            Err(cause) => {
                self.counters.drops.add(cause, 1);
                if is_response(message) {
                    state.trouble.answer_refused();
                }
            }
        }
    }

    /// Lets time pass: retries, rekeys, keepalives. When to come again.
    pub(super) fn tick(&self, udp: &Udp, scratch: &mut [u8], now: Instant) -> Instant {
        // So each peer asks the control thread once a tick at most, however many packets wait.
        self.wanted.store(false, Ordering::Relaxed);
        self.batch.tick(now);
        let mut state = self.lock();
        // In one order with the flag that says whether the control thread sleeps.
        let sent = self.sent.swap(false, Ordering::SeqCst);
        if sent {
            state.last_sent = now;
        }
        let heard = self.heard.swap(false, Ordering::SeqCst);
        if heard || sent {
            state.busy_until = now + LINGER;
        }
        if self.alive.swap(false, Ordering::Relaxed) && state.tunnel.established() {
            // It has the session, though it may answer no handshake: its preshared key may be another for a while.
            state.attempts = 0;
        }
        let tick = state.tunnel.tick(scratch);
        state.expired = tick == Tick::Expired;
        match tick {
            Tick::Initiation(len) => self.broadcast(&mut state, udp, &scratch[..len], now),
            Tick::Data(len) => self.send(&mut state, udp, &scratch[..len], 0),
            // What has waited through 90 seconds of attempts is of no use to anybody.
            Tick::Expired => {
                let lost = state.queue.len() as u64;
                (state.queued, state.queue) = (0, VecDeque::new());
                state.trouble.heard();
                if lost > 0 {
                    self.counters.drops.add(DropCause::OutQueueFull, lost);
                }
            }
            Tick::Idle => {}
        }
        self.settle(&mut state, udp, scratch);
        self.keep_up(&mut state, udp, scratch, now);
        state.trouble.read(&self.id, &self.notes, now);
        self.due(&state, now)
    }

    /// Begins the handshakes that boringtun does not, and keeps the way open.
    fn keep_up(&self, state: &mut State, udp: &Udp, scratch: &mut [u8], now: Instant) {
        let persistent = state.keepalive.is_some();
        if !state.tunnel.established() {
            let wait = self.wait(state);
            let wanted = persistent || !state.queue.is_empty();
            let due = |last| now.duration_since(last) >= wait;
            if wanted && state.last_initiation.is_none_or(due) {
                self.send_initiation(state, udp, scratch, now);
            }
            return;
        }
        let quiet = state
            .last_initiation
            .is_none_or(|last| now.duration_since(last) >= state.tunnel.limits().retry + self.jitter(state));
        let aged = (persistent || now < state.busy_until)
            && state
                .tunnel
                .completed()
                .is_some_and(|completed| now.duration_since(completed) >= rekey_age(state));
        if quiet && (aged || state.tunnel.worn()) {
            self.send_initiation(state, udp, scratch, now);
        }
        if state
            .keepalive
            .is_some_and(|keepalive| now.duration_since(state.last_sent) >= keepalive)
            && let Some(len) = state.tunnel.seal(&[], scratch)
        {
            self.send(state, udp, &scratch[..len], 0);
        }
    }

    /// When the next timer may run out.
    fn due(&self, state: &State, now: Instant) -> Instant {
        if now < state.busy_until || !state.queue.is_empty() {
            return now + TICK;
        }
        let established = state.tunnel.established();
        let mut due = now + SOME_TIME;
        let mut at = |time: Instant| due = due.min(time);
        if state.attempts > 0 || (state.keepalive.is_some() && !established) {
            match state.last_initiation {
                Some(_) if state.expired && state.keepalive.is_none() => {}
                Some(last) => at(last + self.wait(state)),
                None => at(now),
            }
        }
        if let Some(end) = state.tunnel.succeeded() {
            at(end);
        }
        let made = state.handshake.map(|(made, _)| made);
        if let Some(made) = made.filter(|_| established) {
            at(made + SESSION_ENDS);
            if state.keepalive.is_some() {
                at(made + rekey_age(state));
            }
        }
        // Also of what was answered and never completed.
        for made in made.into_iter().chain(state.last_initiation) {
            for end in [made + SESSION_ENDS, made + KEYS_END] {
                if now < end {
                    at(end);
                }
            }
        }
        if let Some(keepalive) = state.keepalive.filter(|_| established) {
            at(state.last_sent + keepalive);
        }
        due
    }

    /// Between two initiations of a handshake that is not answered.
    fn wait(&self, state: &State) -> Duration {
        let wait = if state.attempts < EAGER_ATTEMPTS {
            EAGER_RETRY
        } else {
            RETRY
        };
        wait + self.jitter(state)
    }

    /// Up to a third of a second, different from peer to peer and from time to time.
    fn jitter(&self, state: &State) -> Duration {
        let mixed = (self.index ^ state.attempts.rotate_left(16)).wrapping_mul(0x9e37_79b9);
        Duration::from_millis(u64::from(mixed >> 16) % 333)
    }

    fn send_initiation(&self, state: &mut State, udp: &Udp, scratch: &mut [u8], now: Instant) {
        if let Some(len) = state.tunnel.initiate(scratch) {
            self.broadcast(state, udp, &scratch[..len], now);
        }
    }

    /// Sends an initiation: to the endpoint that works, or else to every candidate.
    fn broadcast(&self, state: &mut State, udp: &Udp, message: &[u8], now: Instant) {
        let works = state.tunnel.established() && state.attempts == 0;
        state.attempts = state.attempts.saturating_add(1);
        state.last_initiation = Some(now);
        let others = state
            .candidates
            .iter()
            .copied()
            .filter(|&other| Some(other) != state.endpoint);
        let targets = state
            .endpoint
            .into_iter()
            .chain(others)
            .take(if works { 1 } else { usize::MAX });
        let (mut sent, mut first, mut failed) = (0, None, None);
        for target in targets {
            match udp.send_one(target, message) {
                Ok(()) => {
                    sent += 1;
                    first = first.or(Some(target));
                }
                // Candidates of a family or network that this node lacks are usual.
                Err(error) => {
                    tracing::debug!(peer = self.id, %target, %error, "initiation not sent");
                    failed = failed.or(Some((target, error)));
                }
            }
        }
        if self.lane == 0 {
            match (first, failed) {
                (Some(first), _) => state.trouble.initiated(&self.id, first, now),
                (None, Some((to, error))) => state.trouble.unsent(&self.id, to, &error.to_string(), now),
                (None, None) => state.trouble.nowhere(&self.id, now),
            }
        }
        if sent == 0 {
            self.counters.drops.add(DropCause::OutSendFailed, 1);
        } else {
            self.counters.tx.add(sent * message.len() as u64, 0);
            state.last_sent = now;
        }
    }

    fn send(&self, state: &mut State, udp: &Udp, datagram: &[u8], packets: u64) {
        let Some(endpoint) = state.endpoint else { return };
        match udp.send_one(endpoint, datagram) {
            Ok(()) if packets > 0 => {
                self.count_sent(datagram.len() as u64, packets);
            }
            Ok(()) => {
                self.counters.tx.add(datagram.len() as u64, 0);
                state.last_sent = Instant::now();
            }
            Err(error) => {
                self.send_failed(endpoint, 1, &error);
            }
        }
    }

    /// Notes that the kernel did not take so many datagrams. True: the control thread is to look.
    pub(super) fn send_failed(&self, to: SocketAddr, datagrams: u64, error: &std::io::Error) -> bool {
        let cause = unsent(error);
        self.counters.drops.add(cause, datagrams);
        tracing::debug!(peer = self.id, %to, datagrams, %error, "not sent");
        let note = || NotSent {
            to,
            error: error.to_string(),
        };
        cause == DropCause::OutSendFailed && self.notes.unsent.leave(note)
    }

    /// What this lane does, as if it were the peer's only one.
    pub(super) fn status(&self) -> PeerStatus {
        let (endpoint, established, handshake) = {
            let state = self.lock();
            (state.endpoint, state.tunnel.established(), state.handshake)
        };
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let (rx, tx) = (&self.counters.rx, &self.counters.tx);
        let (rx_packets, tx_packets) = (load(&rx.packets), load(&tx.packets));
        PeerStatus {
            id: self.id.clone(),
            public_key: self.public_key,
            endpoint,
            established,
            last_handshake: handshake.map(|(made, at)| LastHandshake {
                age: made.elapsed(),
                at,
            }),
            rx_bytes: load(&rx.bytes),
            tx_bytes: load(&tx.bytes),
            rx_packets,
            tx_packets,
            drops: self.counters.drops.snapshot(),
            lanes: vec![LaneStatus {
                worker: self.home,
                established,
                rx_packets,
                tx_packets,
            }],
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if *self.up.get_mut() {
            self.bundle.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Age at which a tunnel that is to stay up, or is in use, gets new keys. boringtun renews on data alone, and not while
/// it counts itself the responder of a handshake that was never finished. The responder steps in only where the
/// initiator has failed to.
fn rekey_age(state: &State) -> Duration {
    let age = state.tunnel.limits().rekey_after;
    if state.tunnel.initiator() {
        age
    } else {
        age + age / 4
    }
}

/// Sets a flag; true if it was not set.
fn first(flag: &AtomicBool) -> bool {
    !flag.load(Ordering::Relaxed) && !flag.swap(true, Ordering::SeqCst)
}

const _: () = assert!(SCRATCH_LEN > DATA_OVERHEAD + HANDSHAKE_MAX);

#[cfg(test)]
mod tests;
