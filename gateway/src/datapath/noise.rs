//! The one door to boringtun: a peer's protocol state behind a trait of ours, and the checks that come
//! before a peer is known.
//!
//! boringtun panics on short buffers, queues without a byte limit, never re-tries after 90 seconds, starts a
//! handshake where it flushes its queue as a responder, and counts a key's messages without end. So this file
//! always hands it [`SCRATCH_LEN`] of room, never lets it queue, leaves retries to the control thread, and
//! watches the counters. Its replay window is 1,024 messages: what overtakes more than that is dropped late.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519::{PublicKey as XPublicKey, StaticSecret};

use super::config::{DropCause, KeyLimits};
use super::key::{PresharedKey, PrivateKey, PublicKey};

/// What a data message adds to the packet in it.
pub(super) const DATA_OVERHEAD: usize = 32;
/// Length of the header in front of a data message's ciphertext.
const DATA_HEADER: usize = 16;
/// Length of the largest handshake message.
pub(super) const HANDSHAKE_MAX: usize = 148;
/// Room for any message: a whole datagram and what the protocol adds.
pub(super) const SCRATCH_LEN: usize = 65_536 + DATA_OVERHEAD;

/// boringtun lets go of a session, and of all keys, at these ages.
pub(super) const SESSION_ENDS: Duration = Duration::from_secs(180);
pub(super) const KEYS_END: Duration = Duration::from_secs(540);

/// Handshakes per second that are answered before the sender must prove its address, for all keys of a gateway.
pub(super) const HANDSHAKES_PER_SECOND: u64 = 200;

/// The kinds of message, as far as the first bytes tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Initiation, response or cookie: for the control thread.
    Handshake,
    /// Data for the session with this receiver index.
    Data(u32),
}

/// Sorts a datagram by its first bytes and its length; none if it cannot be a WireGuard message.
pub(super) fn kind(datagram: &[u8]) -> Option<Kind> {
    let kind = u32::from_le_bytes(*datagram.first_chunk()?);
    match (kind, datagram.len()) {
        (4, DATA_OVERHEAD..) => Some(Kind::Data(u32::from_le_bytes(
            *datagram.get(4..8)?.first_chunk()?,
        ))),
        (1, 148) | (2, 92) | (3, 64) => Some(Kind::Handshake),
        _ => None,
    }
}

/// Whether a handshake message answers an initiation.
pub(super) fn is_response(message: &[u8]) -> bool {
    message.first() == Some(&2)
}

/// What a timer wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tick {
    /// Nothing.
    Idle,
    /// A handshake initiation of this length is in the buffer.
    Initiation(usize),
    /// A data message (a keepalive) of this length is in the buffer.
    Data(usize),
    /// The last handshake was given up: it takes a new one.
    Expired,
}

/// What a handshake message led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// Length of the message in the buffer that goes back to the sender; 0 for none.
    pub(super) len: usize,
    /// The sender proved to be the peer.
    pub(super) authentic: bool,
    /// A session stands now.
    pub(super) completed: bool,
}

/// One peer's protocol state.
///
/// Buffers handed in have [`SCRATCH_LEN`] bytes, or for [`seal`](Self::seal) at least the packet's length
/// plus [`DATA_OVERHEAD`].
pub(super) trait Tunnel: Send {
    /// Whether data can be sent now.
    fn established(&self) -> bool;
    /// Seals a packet, or nothing for a keepalive; none if no session stands or the buffer is too short.
    fn seal(&mut self, packet: &[u8], out: &mut [u8]) -> Option<usize>;
    /// Opens a data message into `out`; the length of the inner IP packet, 0 for a keepalive.
    fn open(&mut self, datagram: &[u8], out: &mut [u8]) -> Result<usize, DropCause>;
    /// Takes a handshake message.
    fn handshake(&mut self, message: &[u8], out: &mut [u8]) -> Result<Answer, DropCause>;
    /// Writes an initiation, also if one is under way already.
    fn initiate(&mut self, out: &mut [u8]) -> Option<usize>;
    /// Lets time pass.
    fn tick(&mut self, out: &mut [u8]) -> Tick;
    /// Whether the current key has sealed so many messages that another is to be asked for.
    fn worn(&self) -> bool;
    /// How long a key serves.
    fn limits(&self) -> KeyLimits;
    /// When the peer last showed that it has a session's keys.
    fn completed(&self) -> Option<Instant>;
    /// Whether this side began that session.
    fn initiator(&self) -> bool;
    /// Whether it has no session, and no handshake that it has answered can become one any more.
    fn spent(&self) -> bool;
}

/// This gateway's identity, and the guard in front of the peers.
pub(super) struct Identity {
    private: StaticSecret,
    public: XPublicKey,
    guard: RateLimiter,
    /// Peers verify again inside; counting twice would halve the limit.
    unlimited: Arc<RateLimiter>,
    limits: KeyLimits,
}

/// Whom a handshake message is for.
pub(super) enum Addressee {
    /// The peer with this key.
    Key(PublicKey),
    /// The peer that chose this receiver index.
    Index(u32),
    /// Nobody yet: this reply goes back first.
    Cookie(usize),
}

impl Identity {
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn new(key: &PrivateKey) -> Self {
        Self::limited(key, KeyLimits::default(), HANDSHAKES_PER_SECOND)
    }

    /// With keys that serve for so long, and so many handshakes a second.
    pub(super) fn limited(key: &PrivateKey, limits: KeyLimits, rate: u64) -> Self {
        let private = StaticSecret::from(*key.bytes());
        let public = XPublicKey::from(&private);
        Self {
            guard: RateLimiter::new(&public, rate),
            unlimited: Arc::new(RateLimiter::new(&public, u64::MAX)),
            private,
            public,
            limits,
        }
    }

    pub(super) fn limits(&self) -> KeyLimits {
        self.limits
    }

    pub(super) fn public(&self) -> PublicKey {
        PublicKey(self.public.to_bytes())
    }

    /// Whether the exchange with this key adds a secret. It does not for points of low order.
    pub(super) fn accepts(&self, peer: &PublicKey) -> bool {
        self.private
            .diffie_hellman(&XPublicKey::from(peer.0))
            .was_contributory()
    }

    /// To be called once a second.
    pub(super) fn reset_rate(&self) {
        self.guard.reset_count();
    }

    /// Checks a handshake message's first seal and the rate, and finds out whom it is for.
    pub(super) fn inspect(
        &self,
        from: IpAddr,
        message: &[u8],
        reply: &mut [u8],
    ) -> Result<Addressee, DropCause> {
        match self.guard.verify_packet(Some(from), message, reply) {
            Ok(Packet::HandshakeInit(init)) => parse_handshake_anon(&self.private, &self.public, &init)
                .map(|half| Addressee::Key(PublicKey(half.peer_static_public)))
                .map_err(|error| cause(&error)),
            Ok(Packet::HandshakeResponse(response)) => Ok(Addressee::Index(response.receiver_idx)),
            Ok(Packet::PacketCookieReply(cookie)) => Ok(Addressee::Index(cookie.receiver_idx)),
            Ok(Packet::PacketData(_)) => Err(DropCause::InMalformed),
            Err(TunnResult::WriteToNetwork(cookie)) => Ok(Addressee::Cookie(cookie.len())),
            Err(TunnResult::Err(WireGuardError::InvalidPacket)) => Err(DropCause::InMalformed),
            Err(_) => Err(DropCause::InBadHandshake),
        }
    }

    /// Protocol state towards a peer. `index` (24 bits) comes back in [`Kind::Data`], shifted left by 8.
    pub(super) fn tunnel(
        &self,
        peer: &PublicKey,
        preshared: Option<&PresharedKey>,
        index: u32,
    ) -> Box<dyn Tunnel> {
        Box::new(Boring {
            tunn: Tunn::new(
                self.private.clone(),
                XPublicKey::from(peer.0),
                preshared.map(|key| *key.bytes()),
                None,
                index,
                Some(Arc::clone(&self.unlimited)),
            ),
            established: false,
            session: None,
            outlives: 0,
            made: index << 8,
            answered: None,
            limits: self.limits,
            sealed: 0,
        })
    }
}

/// The public key of a private one.
pub(super) fn public_of(key: &PrivateKey) -> PublicKey {
    PublicKey(XPublicKey::from(&StaticSecret::from(*key.bytes())).to_bytes())
}

/// As many sessions boringtun keeps, at places that their index tells.
const SESSIONS: u32 = 8;
/// Handshakes that a session outlives which the peer still sends in: by the next one or two it will have said
/// something, at least a keepalive.
const OUTLIVES: u32 = 4;

/// A session whose keys the peer has shown to have. boringtun counts from answering on, also one that a peer with
/// another preshared key began.
#[derive(Clone, Copy)]
struct Session {
    /// Its receiver index on this side.
    index: u32,
    completed: Instant,
    initiator: bool,
}

impl Session {
    /// Whether a message to this index is of a later session. The lowest byte counts, round and round.
    fn precedes(&self, index: u32) -> bool {
        (1..0x80).contains(&(index as u8).wrapping_sub(self.index as u8))
    }
}

struct Boring {
    tunn: Tunn,
    /// Whether data can be sent. boringtun tells only by way of a clock read, so the answer is kept, and renewed
    /// where it can change: it comes with a message and goes with a timer.
    established: bool,
    session: Option<Session>,
    /// Handshakes that are still kept from taking the session's place, since the last data of the peer.
    outlives: u32,
    /// The index in the last handshake message that was made here.
    made: u32,
    /// When a handshake was last answered.
    answered: Option<Instant>,
    limits: KeyLimits,
    /// Messages sealed under the current key, as far as is known.
    sealed: u64,
}

impl Boring {
    fn renew(&mut self) {
        if self.tunn.time_since_last_handshake().is_none() {
            self.session = None;
        }
        self.established = self.session.is_some() && self.sealed < self.limits.reject_after_messages;
    }

    fn complete(&mut self, index: u32, initiator: bool) {
        self.session = Some(Session {
            index,
            completed: Instant::now(),
            initiator,
        });
        self.sealed = 0;
    }

    /// Whether boringtun would put the session of this index where the one is that serves.
    fn displaces(&self, index: u32) -> bool {
        self.session
            .is_some_and(|session| session.index % SESSIONS == index % SESSIONS)
    }
}

/// The index that the sender of a handshake message chose.
fn sender(message: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(*message.get(4..)?.first_chunk()?))
}

/// A data message's receiver index and counter.
fn place(message: &[u8]) -> Option<(u32, u64)> {
    let receiver = u32::from_le_bytes(*message.get(4..)?.first_chunk()?);
    let counter = u64::from_le_bytes(*message.get(8..)?.first_chunk()?);
    Some((receiver, counter))
}

impl Tunnel for Boring {
    fn established(&self) -> bool {
        self.established
    }

    fn seal(&mut self, packet: &[u8], out: &mut [u8]) -> Option<usize> {
        if !self.established || out.len() < (packet.len() + DATA_OVERHEAD).max(HANDSHAKE_MAX) {
            return None;
        }
        let TunnResult::WriteToNetwork(message) = self.tunn.encapsulate(packet, out) else {
            return None;
        };
        let (_, counter) = place(message)?;
        self.sealed = counter.saturating_add(1);
        if self.sealed >= self.limits.reject_after_messages {
            // No further one; and should it be beyond the limit already, not even this one.
            self.established = false;
        }
        (counter < self.limits.reject_after_messages).then_some(message.len())
    }

    fn open(&mut self, datagram: &[u8], out: &mut [u8]) -> Result<usize, DropCause> {
        if datagram.len() < DATA_OVERHEAD || out.len() < datagram.len() - DATA_HEADER {
            return Err(DropCause::InMalformed);
        }
        let (receiver, counter) = place(datagram).ok_or(DropCause::InMalformed)?;
        if counter >= self.limits.reject_after_messages {
            // boringtun's window cannot count up to the end.
            return Err(DropCause::InUnknownSession);
        }
        let opened = match self.tunn.decapsulate(None, datagram, out) {
            TunnResult::Done => Ok(0),
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                Ok(packet.len())
            }
            TunnResult::Err(WireGuardError::InvalidPacket) => Err(DropCause::InInnerMalformed),
            TunnResult::Err(error) => Err(cause(&error)),
            TunnResult::WriteToNetwork(_) => Err(DropCause::InMalformed),
        };
        if opened.is_ok() {
            self.outlives = OUTLIVES;
            if self.session.is_none_or(|session| session.precedes(receiver)) {
                // The initiator's first data message is what makes the session the responder's current one.
                self.complete(receiver, false);
                self.renew();
            }
        }
        opened
    }

    fn handshake(&mut self, message: &[u8], out: &mut [u8]) -> Result<Answer, DropCause> {
        if out.len() < SCRATCH_LEN {
            return Err(DropCause::InBadHandshake);
        }
        let response = is_response(message);
        if !response && self.outlives > 0 && self.displaces(self.made.wrapping_add(1)) {
            self.outlives -= 1;
            // As many were not finished as there are places. While the peer still sends in the session that stands,
            // it is worth more than yet another.
            return Err(DropCause::InBadHandshake);
        }
        let result = match self.tunn.decapsulate(None, message, out) {
            TunnResult::WriteToNetwork(reply) => {
                if response {
                    // The index that it is sent to is the new session's.
                    self.complete(
                        sender(message.get(4..).unwrap_or_default()).unwrap_or_default(),
                        true,
                    );
                } else {
                    self.made = sender(reply).unwrap_or_default();
                    self.answered = Some(Instant::now());
                    if self.displaces(self.made) {
                        self.session = None;
                    }
                }
                Ok(Answer {
                    len: reply.len(),
                    authentic: true,
                    completed: response,
                })
            }
            // A cookie: nobody proved anything yet.
            TunnResult::Done => Ok(Answer {
                len: 0,
                authentic: false,
                completed: false,
            }),
            TunnResult::Err(_) => Err(DropCause::InBadHandshake),
            TunnResult::WriteToTunnelV4(..) | TunnResult::WriteToTunnelV6(..) => Err(DropCause::InMalformed),
        };
        self.renew();
        result
    }

    fn initiate(&mut self, out: &mut [u8]) -> Option<usize> {
        if out.len() < HANDSHAKE_MAX {
            return None;
        }
        match self.tunn.format_handshake_initiation(out, true) {
            TunnResult::WriteToNetwork(message) => {
                self.made = sender(message).unwrap_or_default();
                Some(message.len())
            }
            _ => None,
        }
    }

    fn tick(&mut self, out: &mut [u8]) -> Tick {
        if out.len() < HANDSHAKE_MAX {
            return Tick::Idle;
        }
        // boringtun logs each retry of each peer as a warning; what matters is logged when a tunnel changes.
        let quiet = tracing::Dispatch::none();
        let timers = tracing::dispatcher::with_default(&quiet, || self.tunn.update_timers(out));
        let tick = match timers {
            TunnResult::WriteToNetwork(message) if message.first() == Some(&1) => {
                self.made = sender(message).unwrap_or_default();
                Tick::Initiation(message.len())
            }
            TunnResult::WriteToNetwork(message) => Tick::Data(message.len()),
            TunnResult::Err(WireGuardError::ConnectionExpired) => Tick::Expired,
            _ => Tick::Idle,
        };
        self.renew();
        tick
    }

    fn worn(&self) -> bool {
        self.sealed >= self.limits.rekey_after_messages
    }

    fn limits(&self) -> KeyLimits {
        self.limits
    }

    fn completed(&self) -> Option<Instant> {
        self.session.map(|session| session.completed)
    }

    fn initiator(&self) -> bool {
        self.session.is_some_and(|session| session.initiator)
    }

    fn spent(&self) -> bool {
        self.session.is_none()
            && self
                .answered
                .is_none_or(|answered| answered.elapsed() >= SESSION_ENDS)
    }
}

fn cause(error: &WireGuardError) -> DropCause {
    match error {
        WireGuardError::InvalidCounter | WireGuardError::DuplicateCounter => DropCause::InReplay,
        WireGuardError::NoCurrentSession | WireGuardError::WrongIndex => DropCause::InUnknownSession,
        WireGuardError::InvalidAeadTag => DropCause::InBadTag,
        _ => DropCause::InBadHandshake,
    }
}

#[cfg(test)]
mod tests;
