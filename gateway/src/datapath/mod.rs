//! The data path: WireGuard in user space, between a TUN device and a UDP socket.
//!
//! It owns keys, sessions, and the way of a packet; it knows nothing of Kubernetes, clusters or records,
//! and programs no routes. It is told its peers as plain data and tells what it did in the same way.
//!
//! Threads run to completion, with no channel and no async runtime between them. A [`worker`] takes packets
//! [`outbound`] (a queue of the TUN to UDP) and [`inbound`] (a socket to the TUN) in *runs*, equal datagrams
//! that cross the kernel's border together; [`control`] does handshakes and timers. What they share is an
//! immutable [`table`], replaced whole, and each [`peer`]'s state behind its own lock, taken once per run or
//! packet. Of several workers each has sessions of its own, to which [`steering`] brings what arrives. Super
//! packets of the TUN are cut by [`split`] and made by [`join`]. boringtun stays behind the trait in [`noise`].
//! Why a peer is not met is said in [`trouble`].
//! Start reading at [`engine`].

mod batch;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod bench;
mod checksum;
mod config;
mod control;
mod counters;
mod engine;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
mod identities;
mod inbound;
mod join;
mod key;
#[cfg(any(test, feature = "fuzzing"))]
mod model;
mod noise;
#[cfg(test)]
mod offload_tests;
mod outbound;
mod packet;
mod peer;
mod registry;
mod split;
mod steering;
mod succession;
mod table;
mod toobig;
mod trouble;
mod udp;
mod vnet;
mod worker;

pub use config::{
    DEFAULT_MTU, DEFAULT_PORT, DEFAULT_TUN, DropCause, EngineConfig, EngineStatus, KeyLimits, LaneStatus,
    LastHandshake, MAX_MTU, MAX_WORKERS, MIN_MTU, MIN_MTU_V4, OffloadStatus, PeerConfig, PeerStatus, Refused,
    RefusedReason,
};
pub use engine::{Engine, EngineError, UdpSocket};
pub use key::{BadKey, PresharedKey, PrivateKey, PublicKey};
