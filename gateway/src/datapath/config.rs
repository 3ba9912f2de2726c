//! What the engine is told, and what it tells: plain data.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use ipnet::IpNet;

use super::key::{PresharedKey, PrivateKey, PublicKey};

/// How to start an [`Engine`](super::Engine).
pub struct EngineConfig {
    /// This gateway's key.
    pub private_key: PrivateKey,
    /// UDP port to listen on; 0 lets the kernel choose (see [`Engine::port`](super::Engine::port)).
    pub listen_port: u16,
    /// Address to listen on; none means every address of both families.
    pub bind: Option<IpAddr>,
    /// Name of the TUN device.
    pub tun_name: String,
    /// Inner MTU. 1420 fits a 1500 byte underlay of either family.
    pub mtu: u32,
    /// Mark on outgoing datagrams; 0 for none.
    pub fwmark: u32,
    /// Use segmentation offloads of the TUN and of UDP where the kernel has them.
    pub offload: bool,
    /// Somebody else configures the TUN device: it is left down, and its MTU is followed.
    pub external: bool,
    /// Packet threads, 1 to [`MAX_WORKERS`], and as many lanes to each peer that has as many.
    pub workers: usize,
    /// When sessions get new keys.
    pub key_limits: KeyLimits,
}

/// How long and for how many messages a key serves. A session's end by time (180 s) is the protocol's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyLimits {
    /// Messages sent under one key after which another is asked for.
    pub rekey_after_messages: u64,
    /// Messages after which a key neither seals nor opens.
    pub reject_after_messages: u64,
    /// Age at which the initiator of a tunnel that is to stay up asks for another key. The responder waits a
    /// quarter longer.
    pub rekey_after: Duration,
    /// Between two attempts.
    pub retry: Duration,
}

impl Default for KeyLimits {
    /// Those of the WireGuard paper.
    fn default() -> Self {
        Self {
            rekey_after_messages: 1 << 60,
            reject_after_messages: u64::MAX - (1 << 13),
            rekey_after: Duration::from_secs(120),
            retry: Duration::from_secs(5),
        }
    }
}

impl EngineConfig {
    /// The usual configuration around a key.
    pub fn new(private_key: PrivateKey) -> Self {
        Self {
            private_key,
            listen_port: DEFAULT_PORT,
            bind: None,
            tun_name: DEFAULT_TUN.to_owned(),
            mtu: DEFAULT_MTU,
            fwmark: 0,
            offload: true,
            external: false,
            workers: 1,
            key_limits: KeyLimits::default(),
        }
    }
}

/// UDP port of a gateway unless configured otherwise.
pub const DEFAULT_PORT: u16 = 4510;
/// Name of the gateway's TUN device.
pub const DEFAULT_TUN: &str = "strait-tun";
/// Inner MTU that fits a 1500 byte underlay over IPv6: 1500 - 40 - 8 - 32.
pub const DEFAULT_MTU: u32 = 1420;
/// IPv6 does not work below this.
pub const MIN_MTU: u32 = 1280;
/// The same of IPv4; a device that somebody else configures may have it.
pub const MIN_MTU_V4: u32 = 576;
/// The largest inner packet that still fits one datagram.
pub const MAX_MTU: u32 = 65_440;
/// The most packet threads.
pub const MAX_WORKERS: usize = 8;

/// One peer, as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Name for people and metrics, unique: `cluster/gateway`.
    pub id: String,
    /// The peer's static key.
    pub public_key: PublicKey,
    /// The keys of its further lanes, in order: as many tunnels are made to it as both ends have lanes, each
    /// for a share of the flows.
    pub lane_keys: Vec<PublicKey>,
    /// Where the peer may be reached; an initiation goes to all of them until one answers.
    pub candidates: Vec<SocketAddr>,
    /// Prefixes that are routed to the peer, and that it may send from. Several peers may hold the same
    /// prefix: flows are then spread over those that answer.
    pub allowed: Vec<IpNet>,
    /// Keep the tunnel up, and send at least this often. Without it the tunnel comes up on demand.
    pub keepalive: Option<Duration>,
    /// A key shared with this peer only.
    pub preshared: Option<PresharedKey>,
}

impl PeerConfig {
    /// A peer of which nothing is known but its key.
    pub fn new(id: impl Into<String>, public_key: PublicKey) -> Self {
        Self {
            id: id.into(),
            public_key,
            lane_keys: Vec::new(),
            candidates: Vec::new(),
            allowed: Vec::new(),
            keepalive: None,
            preshared: None,
        }
    }

    /// The keys of all lanes, in order.
    pub(super) fn keys(&self) -> impl Iterator<Item = &PublicKey> {
        [&self.public_key].into_iter().chain(&self.lane_keys)
    }
}

/// A peer that was left out, and why. The others were applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The peer's id.
    pub id: String,
    /// What is wrong with it.
    pub reason: RefusedReason,
}

/// Why a peer was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusedReason {
    /// The id stands twice in the list.
    #[error("another peer has the same name")]
    DuplicateId,
    /// A key stands twice in the list.
    #[error("another peer, or another lane, has the same public key")]
    DuplicateKey,
    /// The key is this gateway's own.
    #[error("its public key is this gateway's own")]
    OwnKey,
    /// The key is a point of low order: anybody could pose as its owner.
    #[error("its public key is not safe to use (a point of low order)")]
    WeakKey,
    /// There are as many peers as receiver indices.
    #[error("there are too many peers (65536)")]
    TooMany,
}

/// When a handshake was completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastHandshake {
    /// How long ago, by a clock that is never set.
    pub age: Duration,
    /// The time that it was then, by the clock as it was set then.
    pub at: SystemTime,
}

/// What the tunnel to one peer does, all its lanes together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The peer's id.
    pub id: String,
    /// The peer's static key.
    pub public_key: PublicKey,
    /// Where datagrams go: the address that last authenticated itself.
    pub endpoint: Option<SocketAddr>,
    /// Whether a session stands, of any lane.
    pub established: bool,
    /// The newest handshake, also when its session has lapsed.
    pub last_handshake: Option<LastHandshake>,
    /// Bytes of datagrams received and authenticated.
    pub rx_bytes: u64,
    /// Bytes of datagrams sent.
    pub tx_bytes: u64,
    /// Inner packets received and delivered.
    pub rx_packets: u64,
    /// Inner packets sent.
    pub tx_packets: u64,
    /// What was dropped, by cause; causes without a drop are absent.
    pub drops: BTreeMap<DropCause, u64>,
    /// Its lanes, in order; one for a plain WireGuard peer.
    pub lanes: Vec<LaneStatus>,
}

/// What one lane does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneStatus {
    /// The worker whose it is.
    pub worker: usize,
    /// Whether a session stands.
    pub established: bool,
    /// Inner packets received and delivered.
    pub rx_packets: u64,
    /// Inner packets sent.
    pub tx_packets: u64,
}

/// What the engine does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineStatus {
    /// Every peer, by id.
    pub peers: Vec<PeerStatus>,
    /// Drops that no peer can be blamed for, by cause.
    pub drops: BTreeMap<DropCause, u64>,
    /// What of the kernel's offloads is in use.
    pub offload: OffloadStatus,
}

/// Which offloads are in use: granted by the kernel, and not refused since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OffloadStatus {
    /// TCP super packets are read from the TUN device.
    pub tun_tcp: bool,
    /// UDP super packets are read from the TUN device.
    pub tun_udp: bool,
    /// Super packets are written to the TUN device.
    pub tun_join: bool,
    /// One system call sends several datagrams, to one peer at least.
    pub udp_segmentation: bool,
}

macro_rules! drop_causes {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// Why a packet went no further.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum DropCause { $($(#[doc = $doc])+ $name,)+ }

        impl DropCause {
            /// Every cause.
            pub const ALL: &[DropCause] = &[$(DropCause::$name,)+];

            /// The cause's name in metrics.
            pub const fn as_str(self) -> &'static str {
                match self { $(DropCause::$name => $text,)+ }
            }
        }
    };
}

drop_causes! {
    /// Out: not an IP packet, or cut short.
    OutMalformed = "out_malformed",
    /// Out: no peer has the destination among its prefixes.
    OutNoRoute = "out_no_route",
    /// Out: no session yet, and the peer's queue is full.
    OutQueueFull = "out_queue_full",
    /// Out: larger than the MTU.
    OutTooBig = "out_too_big",
    /// Out: the kernel refused to send the datagram.
    OutSendFailed = "out_send_failed",
    /// Out: the kernel holds as much as it may of what was sent and is still under way in this node.
    OutSendBufferFull = "out_send_buffer_full",
    /// In: not a WireGuard message.
    InMalformed = "in_malformed",
    /// In: larger than any datagram that the engine receives.
    InTruncated = "in_truncated",
    /// In: for a session that does not exist.
    InUnknownSession = "in_unknown_session",
    /// In: a handshake from a key that no peer has.
    InUnknownKey = "in_unknown_key",
    /// In: a handshake message that fails authentication, or is old.
    InBadHandshake = "in_bad_handshake",
    /// In: a handshake answered with a cookie, as there are too many.
    InRateLimited = "in_rate_limited",
    /// In: more handshakes than can be queued.
    InHandshakeQueueFull = "in_handshake_queue_full",
    /// In: data that fails authentication.
    InBadTag = "in_bad_tag",
    /// In: data seen before, or too old to tell.
    InReplay = "in_replay",
    /// In: authentic, but not an IP packet.
    InInnerMalformed = "in_inner_malformed",
    /// In: authentic, but from an address that the peer may not send from.
    InSourceNotAllowed = "in_source_not_allowed",
    /// In: congestion was signalled outside on a packet that does not take part (RFC 6040).
    InCongestion = "in_congestion",
    /// In: the TUN device refused the packet.
    InWriteFailed = "in_write_failed",
}

impl fmt::Display for DropCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
