//! Which tracked connections to a VIP still lead to an endpoint of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::nft::{Action, Element, Key, Match, NftTable, Protocol, VipTarget};

/// Where each VIP's connections may lead, as a table says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VipTargets {
    targets: BTreeMap<(IpAddr, Protocol, u16), BTreeSet<VipTarget>>,
    addresses: BTreeSet<IpAddr>,
    /// Where VIPs lie: one without endpoints stands in no map.
    prefixes: BTreeSet<IpNet>,
}

impl VipTargets {
    /// The VIPs of a table with their endpoints.
    #[must_use]
    pub fn of(table: &NftTable) -> Self {
        let mut found = Self::default();
        let mut numbered: BTreeMap<(&str, IpAddr, Protocol, u16), Vec<VipTarget>> = BTreeMap::new();
        for (map, set) in &table.sets {
            for element in &set.elements {
                if let Element::Endpoint(vip, protocol, port, _, target) = element {
                    numbered
                        .entry((map, *vip, *protocol, *port))
                        .or_default()
                        .push(*target);
                }
            }
        }
        for element in table.sets.values().flat_map(|set| &set.elements) {
            let Element::Vip(address, protocol, port, chain) = element else {
                continue;
            };
            let actions = table
                .chains
                .get(chain)
                .into_iter()
                .flat_map(|c| &c.rules)
                .flat_map(|r| &r.actions);
            let targets = actions.flat_map(|action| match action {
                Action::BalanceRandom(to) | Action::BalanceBySource(to) => to.as_slice(),
                Action::Balance { map, .. } => numbered
                    .get(&(map.as_str(), *address, *protocol, *port))
                    .map_or(&[][..], Vec::as_slice),
                _ => &[],
            });
            found
                .targets
                .entry((*address, *protocol, *port))
                .or_default()
                .extend(targets.copied());
            found.addresses.insert(*address);
        }
        for rule in table.chains.values().flat_map(|c| &c.rules) {
            let looks_up = rule.actions.iter().any(|a| matches!(a, Action::VipLookup(..)));
            for condition in rule.matches.iter().filter(|_| looks_up) {
                if let Match::In(Key::Destination(_), prefix) = condition {
                    found.prefixes.insert(*prefix);
                }
            }
        }
        found
    }

    /// Whether a connection to `to`, which `server` answers, leads to an endpoint that is gone. TCP notices
    /// that by itself; a client of UDP would talk to nobody for as long as it talks.
    #[must_use]
    pub fn is_stale(&self, protocol: Protocol, to: SocketAddr, server: SocketAddr) -> bool {
        let targets = self.targets.get(&(to.ip(), protocol, to.port()));
        let is_vip = self.addresses.contains(&to.ip()) || self.prefixes.iter().any(|p| p.contains(&to.ip()));
        is_vip && !targets.is_some_and(|targets| targets.contains(&server))
    }
}
