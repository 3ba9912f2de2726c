//! Our nftables table: a small language of matches and actions, enough for what Strait needs.
//!
//! The `linux` crate turns it into netlink expressions. Every rule of ours carries, as its comment, the
//! digest of its own text, so that reading the table back needs no decompiler: a chain is as wanted when
//! its digests are, in order.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum AddressFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// One table of family `inet`. Wanted tables hold [`Rule`]s; tables read back hold their digests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NftTable<R = Rule> {
    /// Sets and maps by name.
    pub sets: BTreeMap<String, NftSet>,
    /// Chains by name.
    pub chains: BTreeMap<String, Chain<R>>,
}

impl<R> Default for NftTable<R> {
    fn default() -> Self {
        Self {
            sets: BTreeMap::new(),
            chains: BTreeMap::new(),
        }
    }
}

/// A named set or map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NftSet {
    /// What it holds.
    pub kind: SetKind,
    /// Its members.
    pub elements: BTreeSet<Element>,
}

/// The type of a set or map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SetKind {
    /// Prefixes of one family (an interval set).
    Prefixes(AddressFamily),
    /// Single addresses of one family.
    Addresses(AddressFamily),
    /// Source address . destination address (both of one family).
    AddressPairs(AddressFamily),
    /// Destination address . protocol . destination port → chain to jump to.
    Vips(AddressFamily),
    /// VIP . protocol . port . number of an endpoint → address . port of the endpoint. One map serves all
    /// services: a map for each costs the kernel a search through all of them for each.
    Endpoints(AddressFamily),
    /// Something else that was found under our table. Never wanted.
    Foreign,
}

/// A member of a set or map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Element {
    /// Of [`SetKind::Prefixes`].
    Prefix(IpNet),
    /// Of [`SetKind::Addresses`].
    Address(IpAddr),
    /// Of [`SetKind::AddressPairs`].
    Pair(IpAddr, IpAddr),
    /// Of [`SetKind::Vips`]: the VIP, its protocol and port, and the chain that balances it.
    Vip(IpAddr, Protocol, u16, String),
    /// Of [`SetKind::Endpoints`]: the VIP, its protocol and port, the endpoint's number, and where it is.
    Endpoint(IpAddr, Protocol, u16, u32, VipTarget),
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP, 6.
    Tcp,
    /// UDP, 17.
    Udp,
    /// SCTP, 132.
    Sctp,
}

/// A chain of our table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain<R = Rule> {
    /// Type, hook and priority of a base chain (policy accept always); `None` for one that is jumped to.
    pub base: Option<(ChainKind, Hook, i32)>,
    /// Rules in order.
    pub rules: Vec<R>,
}

impl<R> Default for Chain<R> {
    fn default() -> Self {
        Self {
            base: None,
            rules: Vec::new(),
        }
    }
}

/// The type of a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ChainKind {
    /// `filter`.
    Filter,
    /// `nat`.
    Nat,
    /// `route`: a changed packet is routed again (output hook).
    Route,
}

/// Where a base chain hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Hook {
    /// Before routing.
    Prerouting,
    /// To the node itself.
    Input,
    /// Through the node.
    Forward,
    /// From the node itself.
    Output,
    /// After routing.
    Postrouting,
}

/// A rule: all matches hold, then the actions run in order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rule {
    /// All must hold.
    pub matches: Vec<Match>,
    /// At most the last one is final (accept, drop, NAT, jump …).
    pub actions: Vec<Action>,
}

/// Which address pair or tuple a set lookup reads from the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Key {
    /// Source address.
    Source(AddressFamily),
    /// Destination address.
    Destination(AddressFamily),
}

/// A concatenated key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Concat {
    /// Source address . destination address.
    SourceDestination(AddressFamily),
}

/// Connection tracking states that a rule may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum CtState {
    /// Packets of connections seen in both directions.
    Established,
    /// New connections that belong to one (ICMP errors among them).
    Related,
    /// First packets.
    New,
    /// Packets that `notrack` took out of connection tracking.
    Untracked,
}

/// One condition of a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Match {
    /// The input device is this one; a name that ends in `*` matches a prefix.
    InputDevice(String),
    /// The input device is not this one (nor begins so).
    NotInputDevice(String),
    /// The output device is this one; a name that ends in `*` matches a prefix.
    OutputDevice(String),
    /// The output device is not this one.
    NotOutputDevice(String),
    /// The packet's family.
    Family(AddressFamily),
    /// The address is in this prefix.
    In(Key, IpNet),
    /// The address is not in this prefix.
    NotIn(Key, IpNet),
    /// The address is in the named set.
    InSet(Key, String),
    /// The address is not in the named set.
    NotInSet(Key, String),
    /// The concatenation is in the named set.
    ConcatInSet(Concat, String),
    /// The destination is an address of this node (`fib daddr type local`).
    DestinationIsLocal,
    /// The destination is not an address of this node.
    DestinationIsNotLocal,
    /// The transport protocol.
    Protocol(Protocol),
    /// The destination port (after a [`Match::Protocol`]).
    DestinationPort(u16),
    /// ICMP or ICMPv6 echo request of this family.
    EchoRequest(AddressFamily),
    /// ICMP or ICMPv6 error messages (unreachable, too big, time exceeded, parameter problem).
    IcmpError(AddressFamily),
    /// One of these connection tracking states.
    CtState(Vec<CtState>),
    /// The connection's destination was translated.
    CtStatusDnat,
    /// TCP with SYN set, RST clear.
    TcpSyn,
}

/// How to refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RejectWith {
    /// ICMP(v6) port unreachable, for either family.
    PortUnreachable,
    /// ICMP(v6) communication administratively prohibited, for either family.
    AdminProhibited,
    /// TCP reset (in a rule that matches [`Protocol::Tcp`]).
    TcpReset,
}

/// One endpoint behind a VIP.
pub type VipTarget = SocketAddr;

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Action {
    /// Count packets and bytes.
    Counter,
    /// Stop with accept.
    Accept,
    /// Stop with drop.
    Drop,
    /// Stop with an answer.
    Reject(RejectWith),
    /// Go to the caller.
    Return,
    /// Run the named chain and come back.
    Jump(String),
    /// Keep the packet out of connection tracking (prerouting or output, priority −300).
    Notrack,
    /// `snat to` the packet's own source: binds the connection so that no later masquerade does.
    SnatIdentity(AddressFamily),
    /// Translate the source to this address.
    Snat(IpAddr),
    /// Translate the source to the address of the output device (`masquerade`).
    Masquerade,
    /// Clamp the TCP MSS option to at most this many bytes (in a rule that matches [`Match::TcpSyn`]).
    ClampMss(u16),
    /// Look up destination . protocol . port in a [`SetKind::Vips`] map and run the chain found.
    VipLookup(AddressFamily, String),
    /// Translate the destination to one of these, at random per connection.
    BalanceRandom(Vec<VipTarget>),
    /// Translate the destination to one of these, by a hash of the source address (client affinity).
    BalanceBySource(Vec<VipTarget>),
    /// Translate the destination, a VIP, to one of its endpoints in an [`SetKind::Endpoints`] map. The rule
    /// says nothing of the VIP itself: all VIPs with as many endpoints share it.
    Balance {
        /// The map.
        map: String,
        /// Its family.
        family: AddressFamily,
        /// How many endpoints the VIP has there, numbered from 0; at least one.
        count: u32,
        /// Whether a client stays with its endpoint.
        by_source: bool,
    },
    /// Set the packet mark: `(mark & !mask) | value`.
    SetMark {
        /// Bits to set.
        value: u32,
        /// Bits concerned.
        mask: u32,
    },
}
