//! Which tracked connections to a VIP still lead to an endpoint of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::nft::{Action, Element, NftTable, Protocol, VipTarget};

/// Where each VIP's connections may lead, as a table says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VipTargets {
    targets: BTreeMap<(IpAddr, Protocol, u16), BTreeSet<VipTarget>>,
    addresses: BTreeSet<IpAddr>,
}

impl VipTargets {
    /// The VIPs of a table with their endpoints.
    #[must_use]
    pub fn of(table: &NftTable) -> Self {
        let mut found = Self::default();
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
                _ => &[],
            });
            found
                .targets
                .entry((*address, *protocol, *port))
                .or_default()
                .extend(targets.copied());
            found.addresses.insert(*address);
        }
        found
    }

    /// Whether a connection to `to`, which `server` answers, leads to an endpoint that is gone. TCP notices
    /// that by itself; a client of UDP would talk to nobody for as long as it talks.
    #[must_use]
    pub fn is_stale(&self, protocol: Protocol, to: SocketAddr, server: SocketAddr) -> bool {
        let targets = self.targets.get(&(to.ip(), protocol, to.port()));
        self.addresses.contains(&to.ip()) && !targets.is_some_and(|targets| targets.contains(&server))
    }
}
