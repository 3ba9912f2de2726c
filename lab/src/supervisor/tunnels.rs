//! When a new lab carries traffic: all tunnels that can be are up, and every node has its way to them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

use super::Lab;
use super::kubelet::Daemon;
use crate::tool::{any_like, metrics};
use crate::topology::{Cluster, Nat, Topology};

/// How long tunnels and routes may take once all daemons are ready.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often they are looked at.
const POLL: Duration = Duration::from_millis(50);
/// How often it is said how many there are.
const SAY: Duration = Duration::from_secs(1);
/// What a gateway says of its tunnels.
const UP: &str = "strait_gateway_tunnel_up{tunnel=\"";
/// Ways that an error names.
const NAMED: usize = 4;

/// A gateway, by cluster and node.
type Gateway = (String, String);

/// How far it has come.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Found {
    /// Pairs of gateways whose tunnel is not up yet.
    down: Vec<(Gateway, Gateway)>,
    /// Nodes without a way, and to where.
    without: Vec<(String, IpAddr)>,
}

impl Lab {
    /// Waits until traffic can flow between all pairs of clusters that can reach each other at all.
    pub(super) async fn await_tunnels(
        self: &Arc<Self>,
        daemons: &[Daemon],
        step: &dyn Fn(&str),
    ) -> Result<()> {
        let pairs = pairs(&self.topology);
        if pairs.is_empty() {
            return Ok(());
        }
        let gateways: Vec<(Gateway, SocketAddr)> = daemons.iter().filter_map(gateway).collect();
        let all = pairs.len();
        let started = Instant::now();
        let mut said = (started, 0);
        loop {
            let lab = Arc::clone(self);
            let (asked, wanted) = (gateways.clone(), pairs.clone());
            let found = tokio::task::spawn_blocking(move || lab.look(&asked, &wanted)).await?;
            let left = match &found {
                Ok(found) if found.down.is_empty() && found.without.is_empty() => {
                    step(&format!("tunnels: {all} of {all} up"));
                    return Ok(());
                }
                Ok(found) => found.down.len(),
                Err(_) => all,
            };
            let up = all - left;
            if said.0.elapsed() >= SAY && up != said.1 {
                said = (Instant::now(), up);
                step(&format!("tunnels: {up} of {all} up"));
            }
            if started.elapsed() >= PATIENCE {
                let found = found.context("the gateways cannot be asked for their tunnels")?;
                return Err(self.missing(&found, all));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn look(&self, gateways: &[(Gateway, SocketAddr)], pairs: &[(Gateway, Gateway)]) -> Result<Found> {
        let mut up: BTreeSet<(Gateway, Gateway)> = BTreeSet::new();
        for (gateway, listen) in gateways {
            let (cluster, node) = gateway;
            let text = self.network.node(cluster, node)?.run(|| metrics(*listen))??;
            up.extend(peers_up(&text).into_iter().map(|peer| (gateway.clone(), peer)));
        }
        let both = |(a, b): &&(Gateway, Gateway)| {
            up.contains(&(a.clone(), b.clone())) && up.contains(&(b.clone(), a.clone()))
        };
        let mut found = Found {
            down: pairs.iter().filter(|pair| !both(pair)).cloned().collect(),
            without: Vec::new(),
        };
        if found.down.is_empty() {
            found.without = self.without_way(pairs)?;
        }
        Ok(found)
    }

    /// Nodes whose kernel does not lead to the pods of a cluster yet.
    fn without_way(&self, pairs: &[(Gateway, Gateway)]) -> Result<Vec<(String, IpAddr)>> {
        let joined: BTreeSet<(&str, &str)> = pairs
            .iter()
            .flat_map(|((a, _), (b, _))| [(a.as_str(), b.as_str()), (b.as_str(), a.as_str())])
            .collect();
        let mut without = Vec::new();
        for (here, there) in joined {
            let [Some(here), Some(there)] = [here, there].map(|name| self.topology.cluster(name)) else {
                continue;
            };
            let targets: Vec<IpAddr> = there
                .pod_cidrs
                .iter()
                .map(ipnet::IpNet::addr)
                .filter(|ip| here.families().speaks(*ip))
                .collect();
            for node in &here.nodes {
                let own = node.ips();
                let ways = self.network.node(&here.name, &node.name)?.run(|| {
                    let blocked = |ip: &&IpAddr| !is_overlay(**ip, &own);
                    targets.iter().filter(blocked).copied().collect::<Vec<_>>()
                })?;
                let place = format!("{}/{}", here.name, node.name);
                without.extend(ways.into_iter().map(|ip| (place.clone(), ip)));
            }
        }
        Ok(without)
    }

    fn missing(&self, found: &Found, all: usize) -> anyhow::Error {
        if let Some(((cluster, node), _)) = found.down.first() {
            let named: Vec<String> = found
                .down
                .iter()
                .take(NAMED)
                .map(|((a, b), (c, d))| format!("{a}/{b} and {c}/{d}"))
                .collect();
            let more = if found.down.len() > NAMED { ", …" } else { "" };
            let error = anyhow!(
                "only {} of {all} tunnels came up within {PATIENCE:?}; there is none between {}{more}",
                all - found.down.len(),
                named.join(", "),
            );
            return self.with_log(error, &format!("{cluster}/{node}/gateway"));
        }
        match found.without.first() {
            Some((place, target)) => {
                let error =
                    anyhow!("all tunnels are up, but {place} has no way to {target} after {PATIENCE:?}");
                self.with_log(error, &format!("{place}/route-agent"))
            }
            None => anyhow!("the tunnels came up too late"),
        }
    }
}

/// The gateway that a daemon is, and where its metrics are.
fn gateway(daemon: &Daemon) -> Option<(Gateway, SocketAddr)> {
    let place = daemon.id.strip_suffix("/gateway")?;
    let (cluster, node) = place.split_once('/')?;
    Some(((cluster.to_owned(), node.to_owned()), daemon.metrics?))
}

/// Whether the kernel leads to this address by the overlay or a tunnel: from there it would speak with an
/// address that is none of the node's segment. Nothing is sent.
fn is_overlay(to: IpAddr, own: &[IpAddr]) -> bool {
    let from = UdpSocket::bind((any_like(to), 0)).and_then(|socket| {
        socket.connect((to, 9))?;
        socket.local_addr()
    });
    from.is_ok_and(|from| !own.contains(&from.ip()))
}

/// The peers to which all tunnels are up, by a gateway's metrics.
fn peers_up(text: &str) -> BTreeSet<Gateway> {
    let peer = |line: &str| {
        let (tunnel, value) = line.strip_prefix(UP)?.split_once("\"} ")?;
        let (cluster, rest) = tunnel.split_once('/')?;
        // A gateway may have several tunnels to another one; what tells these apart stands behind its name.
        let name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        let node = rest.split(|c| !name(c)).next()?;
        Some(((cluster.to_owned(), node.to_owned()), value.trim() == "1"))
    };
    let mut all: BTreeMap<Gateway, bool> = BTreeMap::new();
    for (gateway, up) in text.lines().filter_map(peer) {
        *all.entry(gateway).or_insert(true) &= up;
    }
    let up = all.into_iter().filter(|(_, up)| *up);
    up.map(|(gateway, _)| gateway).collect()
}

/// Pairs of gateways of different clusters between which there can be a tunnel.
fn pairs(topology: &Topology) -> Vec<(Gateway, Gateway)> {
    let mut found = Vec::new();
    for (n, here) in topology.clusters.iter().enumerate() {
        for there in &topology.clusters[n + 1..] {
            if here.families().common(there.families()).is_none() {
                continue;
            }
            for (a, open_a) in gateways(here) {
                for (b, open_b) in gateways(there) {
                    if open_a || open_b {
                        found.push((a.clone(), b));
                    }
                }
            }
        }
    }
    found
}

/// A cluster's gateways, and whether others can begin to talk to them.
fn gateways(cluster: &Cluster) -> Vec<(Gateway, bool)> {
    let nat = cluster.edge.as_ref().and_then(|edge| edge.nat);
    let nodes = cluster.nodes.iter().filter(|node| node.gateway).enumerate();
    let open = |n: usize| match nat {
        None => true,
        Some(Nat::Forwarded) => n == 0,
        Some(Nat::Hidden) => false,
    };
    nodes
        .map(|(n, node)| ((cluster.name.clone(), node.name.clone()), open(n)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Families, Quality, Shape, Underlay};

    fn gateway(cluster: &str, node: &str) -> Gateway {
        (cluster.to_owned(), node.to_owned())
    }

    #[test]
    fn a_peer_counts_once_all_tunnels_to_it_are_up() {
        let text = "# TYPE strait_gateway_tunnel_up gauge\n\
                    strait_gateway_tunnel_up{tunnel=\"green/gateway-1\"} 1\n\
                    strait_gateway_tunnel_up{tunnel=\"red/gateway-1\"} 0\n\
                    strait_gateway_tunnel_up{tunnel=\"red/gateway-1/0.1\"} 1\n\
                    strait_gateway_tunnel_up{tunnel=\"red/gateway-12\"} 1\n\
                    strait_gateway_tunnel_up{tunnel=\"red/gateway-12/1.0\"} 1\n\
                    strait_gateway_tunnel_rx_bytes_total{tunnel=\"amber/gateway-1\"} 1\n";
        assert_eq!(
            peers_up(text),
            BTreeSet::from([gateway("green", "gateway-1"), gateway("red", "gateway-12")])
        );
    }

    #[test]
    fn every_pair_of_gateways_that_can_talk_is_waited_for() {
        let topology = |shape: &Shape| pairs(&Topology::new("test", shape));
        assert_eq!(topology(&Shape::uniform(1, 2, 2, Families::V4)).len(), 0);
        assert_eq!(topology(&Shape::uniform(3, 3, 2, Families::V4)).len(), 3 * 4);
        let mut shape = Shape::uniform(2, 2, 2, Families::V4);
        let nat = |nat| {
            Some(Underlay {
                nat: Some(nat),
                quality: Quality::default(),
            })
        };
        shape.clusters[0].underlay = nat(Nat::Hidden);
        assert_eq!(topology(&shape).len(), 4);
        shape.clusters[1].underlay = nat(Nat::Forwarded);
        let reached = topology(&shape);
        assert_eq!(reached.len(), 2);
        assert!(reached.iter().all(|(_, b)| b.1 == "gateway-1"), "{reached:?}");
        shape.clusters[1].underlay = nat(Nat::Hidden);
        assert_eq!(topology(&shape), []);
        shape.clusters[1].underlay = None;
        shape.clusters[1].families = Families::V6;
        assert_eq!(topology(&shape), []);
    }
}
