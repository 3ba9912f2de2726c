//! One readable line for everything that can stand in a plan. The text of a rule is also what its digest
//! is made of: two rules that differ must read differently.

use std::fmt::{Display, Formatter, Result};

use super::nft::{
    Action, AddressFamily, Chain, ChainKind, Concat, CtState, Element, Hook, Key, Match, Protocol,
    RejectWith, Rule, SetKind, VipTarget,
};
use super::state::{
    Address, FdbEntry, ForeignAccept, ForeignRefusal, Neighbour, OverlayLink, PolicyRule, Route, RouteKind,
};

fn join<T: Display>(f: &mut Formatter<'_>, items: impl IntoIterator<Item = T>, between: &str) -> Result {
    for (i, item) in items.into_iter().enumerate() {
        if i > 0 {
            f.write_str(between)?;
        }
        item.fmt(f)?;
    }
    Ok(())
}

impl Display for AddressFamily {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        })
    }
}

impl Display for Protocol {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

impl Display for SetKind {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Prefixes(family) => write!(f, "{family} prefixes"),
            Self::Addresses(family) => write!(f, "{family} addresses"),
            Self::AddressPairs(family) => write!(f, "{family} source . destination"),
            Self::Vips(family) => write!(f, "{family} VIP . protocol . port to chain"),
            Self::Endpoints(family) => write!(f, "{family} VIP . protocol . port . number to endpoint"),
            Self::Foreign => f.write_str("not ours"),
        }
    }
}

impl Display for Element {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Prefix(prefix) => prefix.fmt(f),
            Self::Address(address) => address.fmt(f),
            Self::Pair(source, destination) => write!(f, "{source} . {destination}"),
            Self::Vip(address, protocol, port, chain) => {
                write!(f, "{address} . {protocol} . {port} : jump {chain}")
            }
            Self::Endpoint(vip, protocol, port, number, target) => {
                write!(f, "{vip} . {protocol} . {port} . {number} : {target}")
            }
        }
    }
}

impl Display for ChainKind {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Route => "route",
        })
    }
}

impl Display for Hook {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        })
    }
}

impl<R> Chain<R> {
    /// ` (nat postrouting -10)` for a base chain, nothing for others.
    pub(super) fn base_text(&self) -> String {
        self.base
            .map(|(kind, hook, priority)| format!(" ({kind} {hook} priority {priority})"))
            .unwrap_or_default()
    }
}

impl Display for CtState {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::Established => "established",
            Self::Related => "related",
            Self::New => "new",
            Self::Untracked => "untracked",
        })
    }
}

impl Display for Key {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Source(family) => write!(f, "{family} saddr"),
            Self::Destination(family) => write!(f, "{family} daddr"),
        }
    }
}

impl Display for Concat {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::SourceDestination(family) => write!(f, "{family} saddr . {family} daddr"),
        }
    }
}

impl Display for Match {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::InputDevice(name) => write!(f, "iifname {name:?}"),
            Self::NotInputDevice(name) => write!(f, "iifname != {name:?}"),
            Self::OutputDevice(name) => write!(f, "oifname {name:?}"),
            Self::NotOutputDevice(name) => write!(f, "oifname != {name:?}"),
            Self::Family(AddressFamily::V4) => f.write_str("meta nfproto ipv4"),
            Self::Family(AddressFamily::V6) => f.write_str("meta nfproto ipv6"),
            Self::In(key, prefix) => write!(f, "{key} {prefix}"),
            Self::NotIn(key, prefix) => write!(f, "{key} != {prefix}"),
            Self::InSet(key, set) => write!(f, "{key} @{set}"),
            Self::NotInSet(key, set) => write!(f, "{key} != @{set}"),
            Self::ConcatInSet(concat, set) => write!(f, "{concat} @{set}"),
            Self::DestinationIsLocal => f.write_str("fib daddr type local"),
            Self::DestinationIsNotLocal => f.write_str("fib daddr type != local"),
            Self::Protocol(protocol) => write!(f, "meta l4proto {protocol}"),
            Self::DestinationPort(port) => write!(f, "th dport {port}"),
            Self::EchoRequest(AddressFamily::V4) => f.write_str("icmp type echo-request"),
            Self::EchoRequest(AddressFamily::V6) => f.write_str("icmpv6 type echo-request"),
            Self::IcmpError(AddressFamily::V4) => f.write_str("icmp error"),
            Self::IcmpError(AddressFamily::V6) => f.write_str("icmpv6 error"),
            Self::CtState(states) => {
                f.write_str("ct state ")?;
                join(f, states, ",")
            }
            Self::CtStatusDnat => f.write_str("ct status dnat"),
            Self::TcpSyn => f.write_str("tcp flags & (syn | rst) == syn"),
        }
    }
}

fn targets(f: &mut Formatter<'_>, targets: &[VipTarget]) -> Result {
    f.write_str("{ ")?;
    join(f, targets, ", ")?;
    f.write_str(" }")
}

impl Display for Action {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Counter => f.write_str("counter"),
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Reject(RejectWith::PortUnreachable) => f.write_str("reject with port-unreachable"),
            Self::Reject(RejectWith::AdminProhibited) => f.write_str("reject with admin-prohibited"),
            Self::Reject(RejectWith::TcpReset) => f.write_str("reject with tcp reset"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Notrack => f.write_str("notrack"),
            Self::SnatIdentity(family) => write!(f, "snat {family} to {family} saddr"),
            Self::Snat(address) => write!(f, "snat to {address}"),
            Self::Masquerade => f.write_str("masquerade"),
            Self::ClampMss(size) => write!(f, "clamp mss to {size}"),
            Self::VipLookup(family, map) => write!(f, "{family} daddr . meta l4proto . th dport vmap @{map}"),
            Self::BalanceRandom(to) => {
                f.write_str("dnat at random to ")?;
                targets(f, to)
            }
            Self::BalanceBySource(to) => {
                f.write_str("dnat by source to ")?;
                targets(f, to)
            }
            Self::Balance {
                map,
                family,
                count,
                by_source,
            } => {
                let how = if *by_source { "by source" } else { "at random" };
                write!(f, "dnat {family} {how} to one of {count} in @{map}")
            }
            Self::SetMark { value, mask } => write!(f, "mark set mark & !{mask:#x} | {value:#x}"),
        }
    }
}

impl Display for Rule {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        join(f, &self.matches, " ")?;
        if !self.matches.is_empty() && !self.actions.is_empty() {
            f.write_str(" ")?;
        }
        join(f, &self.actions, " ")
    }
}

impl Display for OverlayLink {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self {
            name,
            vni,
            port,
            local,
            mac,
            mtu,
            rp_filter,
        } = self;
        write!(
            f,
            "device {name} vxlan id {vni} port {port} local {local} mac {mac} mtu {mtu} rp_filter {rp_filter}"
        )
    }
}

impl Display for Address {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "address {} dev {}", self.address, self.device)
    }
}

impl Display for Neighbour {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(
            f,
            "neighbour {} at {} dev {}",
            self.address, self.mac, self.device
        )
    }
}

impl Display for FdbEntry {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(
            f,
            "forwarding entry {} to {} dev {}",
            self.mac, self.node, self.device
        )
    }
}

impl Display for Route {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "route {}", self.destination)?;
        match &self.kind {
            RouteKind::Unreachable => f.write_str(" unreachable")?,
            RouteKind::Throw => f.write_str(" throw")?,
            RouteKind::Unicast {
                next_hops,
                source,
                mtu,
            } => {
                let several = next_hops.len() > 1;
                for hop in next_hops {
                    if several {
                        f.write_str(" nexthop")?;
                    }
                    if let Some(via) = hop.via {
                        write!(f, " via {via}")?;
                    }
                    write!(f, " dev {}", hop.device)?;
                }
                if let Some(source) = source {
                    write!(f, " src {source}")?;
                }
                if let Some(mtu) = mtu {
                    write!(f, " mtu {mtu}")?;
                }
            }
        }
        if self.table != super::MAIN_TABLE {
            write!(f, " table {}", self.table)?;
        }
        write!(f, " metric {}", self.metric)
    }
}

impl Display for PolicyRule {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{} rule {}", self.family, self.priority)?;
        if let Some(device) = &self.input_device {
            write!(f, " iif {device}")?;
        }
        write!(f, " lookup {}", self.table)
    }
}

impl Display for ForeignRefusal {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self {
            family,
            table,
            base,
            chain,
            handle,
            verdict,
        } = self;
        let device = super::DEVICE_PREFIX;
        write!(
            f,
            "chain {family} {table} {chain} refuses the clusterset's packets: its rule with handle {handle} ({verdict}) \
             takes all that reaches it"
        )?;
        if chain != base {
            write!(f, " from chain {base}")?;
        }
        write!(
            f,
            "; accept {device}* before it, with that firewall's own tool or by: nft insert rule {family} {table} {base} \
             iifname \"{device}*\" accept; nft insert rule {family} {table} {base} oifname \"{device}*\" accept"
        )
    }
}

impl Display for ForeignAccept {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(
            f,
            "accept of {}* in chain {} {} {}",
            super::DEVICE_PREFIX,
            self.family,
            self.table,
            self.chain
        )
    }
}
