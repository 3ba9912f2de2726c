//! From the difference between two states to an ordered list of changes.
//!
//! The order makes before it breaks: guards, devices, addresses, neighbours, nftables, routes, policy
//! rules; then everything that goes, backwards, guards last. nftables changes are one atomic batch, within
//! which sets are filled before the rules that use them and chains before the maps that name them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::DEVICE_PREFIX;
use super::digest::Digested;
use super::nft::{Chain, ChainKind, Element, Hook, NftSet, NftTable, Rule, SetKind};
use super::state::{
    Address, FdbEntry, ForeignAccept, KernelState, Neighbour, OverlayLink, PolicyRule, Route, RouteKind,
};

/// An ordered list of changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What to do, in order.
    pub ops: Vec<Op>,
    /// What cannot be done before another process makes a device.
    pub waiting: BTreeSet<Waiting>,
}

/// An object that is wanted on a device that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Waiting {
    /// The device.
    pub device: String,
    /// The object, as text.
    pub object: String,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Set a kernel parameter.
    SetSysctl {
        /// Its path under /proc/sys, with slashes or dots.
        name: String,
        /// The value found, if it was read.
        from: Option<String>,
        /// The value wanted.
        to: String,
    },
    /// Make the overlay device, up.
    AddOverlay(OverlayLink),
    /// Change what can be changed on the overlay device while it stands.
    ChangeOverlay(OverlayLink),
    /// Remove the overlay device; its addresses, neighbours and routes go with it.
    RemoveOverlay(OverlayLink),
    /// Set a device up that another process owns and somebody has set down.
    SetUp(String),
    /// Add an address.
    AddAddress(Address),
    /// Remove an address.
    RemoveAddress(Address),
    /// Add or change a neighbour.
    SetNeighbour(Neighbour),
    /// Remove a neighbour.
    RemoveNeighbour(Neighbour),
    /// Add or change a forwarding entry.
    SetFdb(FdbEntry),
    /// Remove a forwarding entry.
    RemoveFdb(FdbEntry),
    /// Add a route.
    AddRoute(Route),
    /// Replace the route of the same table, destination and metric.
    ReplaceRoute(Route),
    /// Remove a route.
    RemoveRoute(Route),
    /// Add a policy rule.
    AddRule(PolicyRule),
    /// Remove a policy rule.
    RemoveRule(PolicyRule),
    /// A change to our nftables table. Those that follow one another are applied together or not at all.
    Nft(NftOp),
    /// Put our accepts into a foreign chain.
    AddForeignAccept(ForeignAccept),
    /// Take them out.
    RemoveForeignAccept(ForeignAccept),
}

/// One change to our nftables table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NftOp {
    /// Make the table.
    AddTable,
    /// Remove the table with all that is in it.
    RemoveTable,
    /// Make an empty set or map.
    AddSet {
        /// Its name.
        name: String,
        /// Its type.
        kind: SetKind,
    },
    /// Remove a set or map.
    RemoveSet {
        /// Its name.
        name: String,
    },
    /// Change what a set or map holds.
    SetElements {
        /// Its name.
        set: String,
        /// Its type.
        kind: SetKind,
        /// Taken out first.
        remove: BTreeSet<Element>,
        /// Put in.
        add: BTreeSet<Element>,
    },
    /// Make an empty chain.
    AddChain {
        /// Its name.
        name: String,
        /// Type, hook and priority of a base chain.
        base: Option<(ChainKind, Hook, i32)>,
    },
    /// Replace all rules of a chain.
    FillChain {
        /// Its name.
        name: String,
        /// How many rules it held.
        before: usize,
        /// The rules wanted.
        rules: Vec<Rule>,
    },
    /// Remove a chain and its rules.
    RemoveChain {
        /// Its name.
        name: String,
    },
}

impl Plan {
    /// Whether there is nothing to do (something may still be waiting for a device).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

/// What to change so that `actual` becomes `desired`. `foreign_links`, `down_links` and `foreign_drops`
/// are only read, from `actual`; kernel parameters that are not wanted are left alone, and so are unwanted addresses on
/// devices that another process owns.
#[must_use]
pub fn plan<R: Digested>(desired: &KernelState, actual: &KernelState<R>) -> Plan {
    let mut waiting = BTreeSet::new();
    let wanted = Wanted::new(desired, &actual.foreign_links, &mut waiting);
    let held = Held::new(desired, actual);
    let mut ops = Vec::new();

    for (name, sysctl) in &desired.sysctls {
        let from = actual.sysctls.get(name).map(|s| s.value.clone());
        if from.as_ref() != Some(&sysctl.value) {
            ops.push(Op::SetSysctl {
                name: name.clone(),
                from,
                to: sysctl.value.clone(),
            });
        }
    }
    let resized = match (&desired.overlay, &actual.overlay) {
        (Some(new), Some(old)) if new.mtu != old.mtu => Some(new.name.as_str()),
        _ => None,
    };
    let set_route = |route: &&Route| {
        let key = |r: &Route| (r.table, r.destination, r.metric);
        let replaces = held.routes.get(&key(route));
        match replaces {
            Some(found) if normal(found) == normal(route) && !follows(route, resized) => None,
            Some(_) => Some(Op::ReplaceRoute((*route).clone())),
            None => Some(Op::AddRoute((*route).clone())),
        }
    };
    let is_guard = |route: &&&Route| route.kind == RouteKind::Unreachable;
    ops.extend(wanted.routes.values().filter(is_guard).filter_map(set_route));

    overlay_first(&mut ops, desired.overlay.as_ref(), actual.overlay.as_ref());
    // A device that is down carries no route.
    let used = actual.down_links.iter().filter(|link| wanted.uses(link));
    ops.extend(used.map(|link| Op::SetUp(link.clone())));
    ops.extend(
        wanted
            .addresses
            .difference(&held.addresses)
            .map(|a| Op::AddAddress((*a).clone())),
    );
    let fdb_new = wanted
        .fdb
        .iter()
        .filter(|(key, entry)| held.fdb.get(*key) != Some(*entry));
    ops.extend(fdb_new.map(|(_, entry)| Op::SetFdb((*entry).clone())));
    let neighbours_new = wanted
        .neighbours
        .iter()
        .filter(|(key, n)| held.neighbours.get(*key) != Some(*n));
    ops.extend(neighbours_new.map(|(_, n)| Op::SetNeighbour((*n).clone())));
    if let Some(table) = &desired.nft {
        ops.extend(nft(table, actual.nft.as_ref()).into_iter().map(Op::Nft));
    }
    let accepts_new = desired.foreign_accepts.difference(&actual.foreign_accepts);
    ops.extend(accepts_new.map(|a| Op::AddForeignAccept(a.clone())));
    ops.extend(
        wanted
            .routes
            .values()
            .filter(|r| !is_guard(r))
            .filter_map(set_route),
    );
    ops.extend(
        desired
            .rules
            .difference(&actual.rules)
            .map(|r| Op::AddRule(r.clone())),
    );

    ops.extend(
        actual
            .rules
            .difference(&desired.rules)
            .map(|r| Op::RemoveRule(r.clone())),
    );
    let routes_gone = || {
        held.routes
            .iter()
            .filter(|(key, _)| !wanted.routes.contains_key(*key))
            .map(|(_, r)| r)
    };
    let remove_route = |route: &&Route| Op::RemoveRoute((*route).clone());
    ops.extend(routes_gone().filter(|r| !is_guard(r)).map(remove_route));
    let accepts_gone = actual.foreign_accepts.difference(&desired.foreign_accepts);
    ops.extend(accepts_gone.map(|a| Op::RemoveForeignAccept(a.clone())));
    let neighbours_gone = held
        .neighbours
        .iter()
        .filter(|(key, _)| !wanted.neighbours.contains_key(*key));
    ops.extend(neighbours_gone.map(|(_, n)| Op::RemoveNeighbour((*n).clone())));
    let fdb_gone = held.fdb.iter().filter(|(key, _)| !wanted.fdb.contains_key(*key));
    ops.extend(fdb_gone.map(|(_, entry)| Op::RemoveFdb((*entry).clone())));
    ops.extend(
        held.addresses
            .difference(&wanted.addresses)
            .filter(|a| !actual.foreign_links.contains(&a.device))
            .map(|a| Op::RemoveAddress((*a).clone())),
    );
    if let (None, Some(old)) = (&desired.overlay, &actual.overlay) {
        ops.push(Op::RemoveOverlay(old.clone()));
    }
    if desired.nft.is_none() && actual.nft.is_some() {
        ops.push(Op::Nft(NftOp::RemoveTable));
    }
    ops.extend(routes_gone().filter(is_guard).map(remove_route));
    Plan { ops, waiting }
}

/// What is wanted and can be had, by what names it.
struct Wanted<'a> {
    addresses: BTreeSet<&'a Address>,
    neighbours: BTreeMap<(&'a str, std::net::IpAddr), &'a Neighbour>,
    fdb: BTreeMap<(&'a str, super::MacAddress), &'a FdbEntry>,
    routes: BTreeMap<(u32, IpNet, u32), &'a Route>,
}

impl<'a> Wanted<'a> {
    fn new(desired: &'a KernelState, links: &BTreeSet<String>, waiting: &mut BTreeSet<Waiting>) -> Self {
        let overlay = desired.overlay.as_ref().map(|o| o.name.as_str());
        let mut there = |device: &str, object: &dyn fmt::Display| {
            let exists =
                !device.starts_with(DEVICE_PREFIX) || overlay == Some(device) || links.contains(device);
            if !exists {
                waiting.insert(Waiting {
                    device: device.to_owned(),
                    object: object.to_string(),
                });
            }
            exists
        };
        Self {
            addresses: desired.addresses.iter().filter(|a| there(&a.device, a)).collect(),
            neighbours: (desired.neighbours.iter().filter(|n| there(&n.device, n)))
                .map(|n| ((n.device.as_str(), n.address), n))
                .collect(),
            fdb: (desired.fdb.iter().filter(|e| there(&e.device, e)))
                .map(|e| ((e.device.as_str(), e.mac), e))
                .collect(),
            routes: (desired.routes.iter())
                .filter(|r| match &r.kind {
                    RouteKind::Unicast { next_hops, .. } => next_hops.iter().all(|hop| there(&hop.device, r)),
                    RouteKind::Unreachable | RouteKind::Throw => true,
                })
                .map(|r| ((r.table, r.destination, r.metric), r))
                .collect(),
        }
    }
}

impl Wanted<'_> {
    /// Whether anything is wanted on this device.
    fn uses(&self, device: &str) -> bool {
        let routed = |route: &&&Route| match &route.kind {
            RouteKind::Unicast { next_hops, .. } => next_hops.iter().any(|hop| hop.device == device),
            RouteKind::Unreachable | RouteKind::Throw => false,
        };
        self.addresses.iter().any(|a| a.device == device) || self.routes.values().any(|r| routed(&r))
    }
}

/// What the kernel holds once a device that must be made anew is gone.
struct Held<'a> {
    addresses: BTreeSet<&'a Address>,
    neighbours: BTreeMap<(&'a str, std::net::IpAddr), &'a Neighbour>,
    fdb: BTreeMap<(&'a str, super::MacAddress), &'a FdbEntry>,
    routes: BTreeMap<(u32, IpNet, u32), &'a Route>,
}

impl<'a> Held<'a> {
    fn new<R>(desired: &KernelState, actual: &'a KernelState<R>) -> Self {
        let lost = match (&desired.overlay, &actual.overlay) {
            (Some(new), Some(old)) if made_anew(new, old) => Some(old.name.as_str()),
            _ => None,
        };
        let stays = |device: &str| lost != Some(device);
        Self {
            addresses: actual.addresses.iter().filter(|a| stays(&a.device)).collect(),
            neighbours: (actual.neighbours.iter().filter(|n| stays(&n.device)))
                .map(|n| ((n.device.as_str(), n.address), n))
                .collect(),
            fdb: (actual.fdb.iter().filter(|e| stays(&e.device)))
                .map(|e| ((e.device.as_str(), e.mac), e))
                .collect(),
            routes: (actual.routes.iter())
                .filter(|r| match &r.kind {
                    RouteKind::Unicast { next_hops, .. } => next_hops.iter().all(|hop| stays(&hop.device)),
                    RouteKind::Unreachable | RouteKind::Throw => true,
                })
                .map(|r| ((r.table, r.destination, r.metric), r))
                .collect(),
        }
    }
}

/// Name, identifier, port and outer address are fixed when the device is made; a change of the hardware
/// address makes the kernel forget the neighbours, so it counts as one of these.
fn made_anew(new: &OverlayLink, old: &OverlayLink) -> bool {
    let fixed = |link: &OverlayLink| OverlayLink {
        mtu: 0,
        rp_filter: 0,
        ..link.clone()
    };
    fixed(new) != fixed(old)
}

fn overlay_first(ops: &mut Vec<Op>, desired: Option<&OverlayLink>, actual: Option<&OverlayLink>) {
    match (desired, actual) {
        (Some(new), None) => ops.push(Op::AddOverlay(new.clone())),
        (Some(new), Some(old)) if made_anew(new, old) => {
            ops.push(Op::RemoveOverlay(old.clone()));
            ops.push(Op::AddOverlay(new.clone()));
        }
        (Some(new), Some(old)) if new != old => ops.push(Op::ChangeOverlay(new.clone())),
        _ => {}
    }
}

/// Whether the kernel changes the route along with the MTU of this device: it does so with the path MTU of
/// IPv6 routes.
fn follows(route: &Route, resized: Option<&str>) -> bool {
    match &route.kind {
        RouteKind::Unicast { next_hops, mtu, .. } => {
            let over = next_hops.iter().any(|hop| Some(hop.device.as_str()) == resized);
            over && mtu.is_some() && route.destination.addr().is_ipv6()
        }
        RouteKind::Unreachable | RouteKind::Throw => false,
    }
}

/// The order of next hops means nothing, and the kernel has its own.
fn normal(route: &Route) -> Route {
    let mut route = route.clone();
    if let RouteKind::Unicast { next_hops, .. } = &mut route.kind {
        next_hops.sort();
    }
    route
}

/// Prefixes are kept as the fewest that cover the same addresses: interval sets refuse overlaps.
fn normal_elements(set: &NftSet) -> BTreeSet<Element> {
    if !matches!(set.kind, SetKind::Prefixes(_)) {
        return set.elements.clone();
    }
    let prefixes: Vec<IpNet> = (set.elements.iter())
        .filter_map(|e| {
            if let Element::Prefix(p) = e {
                Some(p.trunc())
            } else {
                None
            }
        })
        .collect();
    IpNet::aggregate(&prefixes)
        .into_iter()
        .map(Element::Prefix)
        .collect()
}

fn digests<R: Digested>(chain: &Chain<R>) -> Vec<super::RuleDigest> {
    chain.rules.iter().map(Digested::digest).collect()
}

fn nft<R: Digested>(desired: &NftTable, actual: Option<&NftTable<R>>) -> Vec<NftOp> {
    let mut ops = Vec::new();
    let empty = NftTable::default();
    let mut found = actual.unwrap_or(&empty);
    let retyped = desired
        .sets
        .iter()
        .any(|(n, s)| found.sets.get(n).is_some_and(|f| f.kind != s.kind));
    let rehooked = desired
        .chains
        .iter()
        .any(|(n, c)| found.chains.get(n).is_some_and(|f| f.base != c.base));
    if retyped || rehooked {
        ops.push(NftOp::RemoveTable);
        found = &empty;
    }
    if actual.is_none() || !ops.is_empty() {
        ops.push(NftOp::AddTable);
    }
    for (name, set) in desired
        .sets
        .iter()
        .filter(|(name, _)| !found.sets.contains_key(*name))
    {
        ops.push(NftOp::AddSet {
            name: name.clone(),
            kind: set.kind,
        });
    }
    for (name, chain) in desired
        .chains
        .iter()
        .filter(|(name, _)| !found.chains.contains_key(*name))
    {
        ops.push(NftOp::AddChain {
            name: name.clone(),
            base: chain.base,
        });
    }
    let is_map = |set: &NftSet| matches!(set.kind, SetKind::Vips(_));
    let elements = |map: bool| {
        let sets = desired.sets.iter().filter(move |(_, set)| is_map(set) == map);
        sets.filter_map(|(name, set)| {
            let wanted = normal_elements(set);
            let held = found.sets.get(name).map(normal_elements).unwrap_or_default();
            let remove: BTreeSet<_> = held.difference(&wanted).cloned().collect();
            let add: BTreeSet<_> = wanted.difference(&held).cloned().collect();
            let changed = !remove.is_empty() || !add.is_empty();
            changed.then(|| NftOp::SetElements {
                set: name.clone(),
                kind: set.kind,
                remove,
                add,
            })
        })
    };
    let fill = |base: bool| {
        let chains = desired
            .chains
            .iter()
            .filter(move |(_, chain)| chain.base.is_some() == base);
        chains.filter_map(|(name, chain)| {
            let held = found.chains.get(name);
            let same = held.map(digests).unwrap_or_default() == digests(chain);
            (!same).then(|| NftOp::FillChain {
                name: name.clone(),
                before: held.map_or(0, |h| h.rules.len()),
                rules: chain.rules.clone(),
            })
        })
    };
    // Endpoints are there before a rule counts on them, and go when none does any more.
    let (endpoints, others): (Vec<_>, Vec<_>) = elements(false).partition(|op| {
        matches!(
            op,
            NftOp::SetElements {
                kind: SetKind::Endpoints(_),
                ..
            }
        )
    });
    let (before, after): (Vec<_>, Vec<_>) = endpoints.into_iter().map(without_gaps).unzip();
    ops.extend(others);
    ops.extend(before.into_iter().flatten());
    ops.extend(fill(false));
    ops.extend(elements(true));
    ops.extend(after.into_iter().flatten());
    ops.extend(fill(true));
    for name in found.sets.keys().filter(|name| !desired.sets.contains_key(*name)) {
        ops.push(NftOp::RemoveSet { name: name.clone() });
    }
    for name in found
        .chains
        .keys()
        .filter(|name| !desired.chains.contains_key(*name))
    {
        ops.push(NftOp::RemoveChain { name: name.clone() });
    }
    ops
}

/// Parts a change of a map of endpoints into what comes or changes its place, and what only goes.
fn without_gaps(op: NftOp) -> (Option<NftOp>, Option<NftOp>) {
    let NftOp::SetElements {
        set,
        kind,
        remove,
        add,
    } = op
    else {
        return (Some(op), None);
    };
    let place = |e: &Element| match e {
        Element::Endpoint(vip, protocol, port, number, _) => Some((*vip, *protocol, *port, *number)),
        _ => None,
    };
    let filled: BTreeSet<_> = add.iter().filter_map(place).collect();
    let (changes, goes): (BTreeSet<_>, BTreeSet<_>) = remove
        .into_iter()
        .partition(|e| place(e).is_some_and(|place| filled.contains(&place)));
    let part = |remove: BTreeSet<Element>, add: BTreeSet<Element>| {
        let some = !remove.is_empty() || !add.is_empty();
        some.then(|| NftOp::SetElements {
            set: set.clone(),
            kind,
            remove,
            add,
        })
    };
    (part(changes, add), part(goes, BTreeSet::new()))
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for op in &self.ops {
            writeln!(f, "{op}")?;
        }
        for wait in &self.waiting {
            writeln!(f, "{wait}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "? {} (waits for device {})", self.object, self.device)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetSysctl {
                name,
                from: Some(from),
                to,
            } => write!(f, "~ sysctl {name} = {to} (was {from})"),
            Self::SetSysctl { name, from: None, to } => write!(f, "~ sysctl {name} = {to}"),
            Self::AddOverlay(x) => write!(f, "+ {x}"),
            Self::ChangeOverlay(x) => write!(f, "~ {x}"),
            Self::RemoveOverlay(x) => write!(f, "- {x}"),
            Self::SetUp(x) => write!(f, "~ device {x} up"),
            Self::AddAddress(x) => write!(f, "+ {x}"),
            Self::RemoveAddress(x) => write!(f, "- {x}"),
            Self::SetNeighbour(x) => write!(f, "+ {x}"),
            Self::RemoveNeighbour(x) => write!(f, "- {x}"),
            Self::SetFdb(x) => write!(f, "+ {x}"),
            Self::RemoveFdb(x) => write!(f, "- {x}"),
            Self::AddRoute(x) => write!(f, "+ {x}"),
            Self::ReplaceRoute(x) => write!(f, "~ {x}"),
            Self::RemoveRoute(x) => write!(f, "- {x}"),
            Self::AddRule(x) => write!(f, "+ {x}"),
            Self::RemoveRule(x) => write!(f, "- {x}"),
            Self::Nft(x) => x.fmt(f),
            Self::AddForeignAccept(x) => write!(f, "+ {x}"),
            Self::RemoveForeignAccept(x) => write!(f, "- {x}"),
        }
    }
}

impl fmt::Display for NftOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddTable => write!(f, "+ table inet {}", super::NFT_TABLE),
            Self::RemoveTable => write!(f, "- table inet {}", super::NFT_TABLE),
            Self::AddSet { name, kind } => write!(f, "+ set {name} ({kind})"),
            Self::RemoveSet { name } => write!(f, "- set {name}"),
            Self::SetElements { set, remove, add, .. } => {
                write!(f, "~ set {set}:")?;
                let changes = remove
                    .iter()
                    .map(|e| ('-', e))
                    .chain(add.iter().map(|e| ('+', e)));
                let count = remove.len() + add.len();
                for (i, (sign, element)) in changes.take(SHOWN).enumerate() {
                    write!(f, "{} {sign} {element}", if i > 0 { "," } else { "" })?;
                }
                if count > SHOWN {
                    write!(f, ", and {} more", count - SHOWN)?;
                }
                Ok(())
            }
            Self::AddChain { name, base } => {
                write!(
                    f,
                    "+ chain {name}{}",
                    Chain::<Rule> {
                        base: *base,
                        rules: Vec::new()
                    }
                    .base_text()
                )
            }
            Self::FillChain { name, before, rules } => {
                let plural = if rules.len() == 1 { "" } else { "s" };
                write!(f, "~ chain {name}: {} rule{plural} (was {before})", rules.len())?;
                if f.alternate() {
                    for rule in rules {
                        write!(f, "\n    {rule}")?;
                    }
                }
                Ok(())
            }
            Self::RemoveChain { name } => write!(f, "- chain {name}"),
        }
    }
}

/// Elements that one line of a plan shows.
const SHOWN: usize = 8;
