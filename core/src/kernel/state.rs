//! Links, addresses, neighbours, routes and rules.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::digest::RuleDigest;
use super::nft::{AddressFamily, NftTable, Rule};

/// All kernel objects that carry our marks on one node. The state wanted holds [`Rule`]s, the state read
/// back ([`ActualState`]) their digests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelState<R = Rule> {
    /// The overlay device; `None` where there is none.
    pub overlay: Option<OverlayLink>,
    /// Names of our devices that exist but that another process owns and makes (the tunnel device).
    pub foreign_links: BTreeSet<String>,
    /// Those of them that somebody has set down. Only read.
    #[serde(default)]
    pub down_links: BTreeSet<String>,
    /// Foreign base chains on the forward hook whose policy is drop, as found. Only read, like
    /// `foreign_links`: a plan never changes them, `foreign_accepts` says what we put into them.
    pub foreign_drops: BTreeSet<ForeignAccept>,
    /// Rules of foreign forward chains that refuse all that comes as far as them, and so our packets before our
    /// accepts are asked. Only read.
    #[serde(default)]
    pub foreign_refusals: BTreeSet<ForeignRefusal>,
    /// Addresses on our devices.
    pub addresses: BTreeSet<Address>,
    /// Permanent neighbours on the overlay device.
    pub neighbours: BTreeSet<Neighbour>,
    /// Forwarding entries of the overlay device.
    pub fdb: BTreeSet<FdbEntry>,
    /// Routes with our protocol number.
    pub routes: BTreeSet<Route>,
    /// Policy rules with our protocol number.
    pub rules: BTreeSet<PolicyRule>,
    /// Our nftables table; `None` where there is none.
    pub nft: Option<NftTable<R>>,
    /// Marked accepts in foreign forward chains whose policy drops.
    pub foreign_accepts: BTreeSet<ForeignAccept>,
    /// Kernel parameters under /proc/sys that we set (value now).
    pub sysctls: BTreeMap<String, Sysctl>,
}

/// What the kernel holds: rules of nftables are known by their digests.
pub type ActualState = KernelState<RuleDigest>;

impl<R> Default for KernelState<R> {
    fn default() -> Self {
        Self {
            overlay: None,
            foreign_links: BTreeSet::new(),
            down_links: BTreeSet::new(),
            foreign_drops: BTreeSet::new(),
            foreign_refusals: BTreeSet::new(),
            addresses: BTreeSet::new(),
            neighbours: BTreeSet::new(),
            fdb: BTreeSet::new(),
            routes: BTreeSet::new(),
            rules: BTreeSet::new(),
            nft: None,
            foreign_accepts: BTreeSet::new(),
            sysctls: BTreeMap::new(),
        }
    }
}

/// The overlay's VXLAN device: learning off, entries permanent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OverlayLink {
    /// Interface name.
    pub name: String,
    /// VXLAN network identifier.
    pub vni: u32,
    /// UDP destination port.
    pub port: u16,
    /// Outer source address: the node's own. Its family is the outer family.
    pub local: IpAddr,
    /// Hardware address, derived from the overlay address.
    pub mac: MacAddress,
    /// Inner MTU in bytes.
    pub mtu: u32,
    /// `rp_filter` of this device, set through netlink: 2 (loose).
    pub rp_filter: u8,
}

/// A hardware address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MacAddress(pub [u8; 6]);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let b = self.0;
        write!(
            f,
            "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}",
            b[0], b[1], b[2], b[3], b[4], b[5]
        )
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An address on one of our devices; no subnet route comes with it (/32 or /128).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Address {
    /// Interface name.
    pub device: String,
    /// The address with its prefix length.
    pub address: IpNet,
}

/// A permanent neighbour: where an overlay next hop lives on the overlay's Ethernet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Neighbour {
    /// Interface name.
    pub device: String,
    /// The next hop's overlay address.
    pub address: IpAddr,
    /// Its hardware address.
    pub mac: MacAddress,
}

/// A forwarding entry: which node holds a hardware address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FdbEntry {
    /// Interface name.
    pub device: String,
    /// The hardware address.
    pub mac: MacAddress,
    /// The node's address (outer destination).
    pub node: IpAddr,
}

/// A route with our protocol number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Route {
    /// Routing table; 254 is main.
    pub table: u32,
    /// Destination prefix.
    pub destination: IpNet,
    /// Lower wins.
    pub metric: u32,
    /// What happens to the packet.
    pub kind: RouteKind,
}

/// What a route does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RouteKind {
    /// Forward by one of the next hops (several are balanced by flow).
    Unicast {
        /// At least one.
        next_hops: Vec<NextHop>,
        /// Preferred source of connections that the node itself opens.
        source: Option<IpAddr>,
        /// Path MTU in bytes, where it is less than the device's.
        mtu: Option<u32>,
    },
    /// Answer with ICMP unreachable: the guard against leaks.
    Unreachable,
    /// Go on to the next policy rule.
    Throw,
}

/// One way out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NextHop {
    /// Output device.
    pub device: String,
    /// The next router, taken as on-link; `None` for a device route.
    pub via: Option<IpAddr>,
}

/// A policy rule with our protocol number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PolicyRule {
    /// IPv4 or IPv6.
    pub family: AddressFamily,
    /// In our band.
    pub priority: u32,
    /// Input device; `None` matches all.
    pub input_device: Option<String>,
    /// The table to look in.
    pub table: u32,
}

/// A foreign base chain on the forward hook; as one of `foreign_accepts`, the accept rules for `strait-*`
/// devices, in and out, that we put last into it: where only its policy would still drop.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ForeignAccept {
    /// nftables family of the foreign table: `ip`, `ip6` or `inet`.
    pub family: String,
    /// The foreign table.
    pub table: String,
    /// Its base chain on the forward hook.
    pub chain: String,
}

/// A rule of somebody else's that refuses everything on the forward hook.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ForeignRefusal {
    /// nftables family of its table.
    pub family: String,
    /// Its table.
    pub table: String,
    /// The base chain on the forward hook that leads to it.
    pub base: String,
    /// The chain that it stands in: the base chain, or one that is jumped to whatever comes.
    pub chain: String,
    /// Its handle, as `nft -a list chain` shows it.
    pub handle: u64,
    /// What it does: `drop` or `reject`.
    pub verdict: String,
}

/// A kernel parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sysctl {
    /// The value wanted, or the value found.
    pub value: String,
}
