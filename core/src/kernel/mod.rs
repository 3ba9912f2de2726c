//! The part of a node's kernel that Strait owns, as plain data.
//!
//! [`KernelState`] is both what should be (worked out by `core::node`) and what is (read back by the
//! `linux` crate, filtered by our marks); [`plan`] turns the difference into an ordered [`Plan`]:
//! additions before removals, guards first in and last out. Nothing here touches a kernel.

mod digest;
mod flows;
mod nft;
mod plan;
mod state;
#[cfg(test)]
mod tests;
mod text;

pub use digest::{Digested, RuleDigest};
pub use flows::VipTargets;
pub use nft::{
    Action, AddressFamily, Chain, ChainKind, Concat, CtState, Element, Hook, Key, Match, NftSet, NftTable,
    Protocol, RejectWith, Rule, SetKind, VipTarget,
};
pub use plan::{NftOp, Op, Plan, Waiting, plan};
pub use state::{
    ActualState, Address, FdbEntry, ForeignAccept, ForeignRefusal, KernelState, MacAddress, Neighbour,
    NextHop, OverlayLink, PolicyRule, Route, RouteKind, Sysctl,
};

/// The gateway's TUN device. It exists only while a gateway process reads it.
pub const TUNNEL_DEVICE: &str = "strait-tun";
/// The VXLAN device between the nodes of one cluster.
pub const OVERLAY_DEVICE: &str = "strait-overlay";
/// Every device of ours begins with this; `strait-*` stands for all of them in firewall rules.
pub const DEVICE_PREFIX: &str = "strait-";
/// The nftables table (family `inet`) that holds all our chains, sets and maps.
pub const NFT_TABLE: &str = "strait";
/// The comment that marks a rule of ours in somebody else's chain.
pub const NFT_COMMENT: &str = "strait";
/// Our number in `rtm_protocol`, on every route and policy rule (unassigned in rt_protos).
pub const ROUTE_PROTOCOL: u8 = 83;
/// The table with routes for packets that leave a tunnel (chosen by input device).
pub const INGRESS_TABLE: u32 = 8300;
/// The table with routes for packets that came by the overlay: into a tunnel or nowhere, so that nodes
/// never hand a packet round in a circle.
pub const OVERLAY_TABLE: u32 = 8301;
/// The kernel's main routing table.
pub const MAIN_TABLE: u32 = 254;
/// The first priority of our policy rules; the band is 100 wide.
pub const RULE_PRIORITY: u32 = 8300;
/// The metric of routes into a tunnel or to a gateway.
pub const ROUTE_METRIC: u32 = 83;
/// The metric of the `unreachable` guard behind them.
pub const GUARD_METRIC: u32 = 8383;
/// VXLAN network identifier of the overlay.
pub const OVERLAY_VNI: u32 = 8300;
/// UDP port of the overlay, between the nodes of one cluster.
pub const OVERLAY_PORT: u16 = 4511;
/// UDP port of the tunnels, between gateways.
pub const TUNNEL_PORT: u16 = 4510;
/// UDP port of the probes, on overlay addresses, inside tunnels and overlay only.
pub const PROBE_PORT: u16 = 4512;
