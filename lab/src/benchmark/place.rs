//! Between whom is measured.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use crate::topology::{Cluster, Node, Topology};

/// A cluster's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Side {
    pub(super) cluster: String,
    /// The node of its pod.
    pub(super) node: String,
    /// The gateway that the bare data path runs on.
    pub(super) gateway: String,
    /// All of its gateways.
    #[serde(skip)]
    pub(super) gateways: Vec<String>,
}

/// Both parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Places {
    pub(super) from: Side,
    pub(super) to: Side,
    /// Whether pods speak IPv4 with each other.
    pub(super) v4: bool,
    /// The gateways' addresses for the bare data path, or why it cannot be.
    pub(super) underlay: Result<[IpAddr; 2], String>,
}

impl Places {
    pub(super) fn of(topology: &Topology, from: Option<&str>, to: Option<&str>) -> Result<Self> {
        let names = topology.names();
        let first = match from {
            Some(name) => name,
            None => names.first().copied().context("the lab has no cluster")?,
        };
        let other = names.iter().copied().find(|name| *name != first);
        let second = to.or(other).with_context(|| {
            format!(
                "the lab {0:?} has one cluster only, and a benchmark is between two: `strait lab --name {0} down`, \
                 then `strait lab --name {0} up --clusters 2`",
                topology.name
            )
        })?;
        ensure!(
            first != second,
            "between {first} and itself there is nothing to measure"
        );
        let find = |name: &str| {
            let found = topology.cluster(name);
            found.with_context(|| format!("the lab has no cluster {name:?}; it has {}", names.join(", ")))
        };
        let (from, to) = (find(first)?, find(second)?);
        let families = from.families().common(to.families());
        let families =
            families.with_context(|| format!("{first} and {second} have no address family in common"))?;
        Ok(Self {
            v4: families.v4(),
            underlay: underlay(from, to),
            from: side(from)?,
            to: side(to)?,
        })
    }

    /// Who stands at each hop from pod to pod, and what lies before it.
    pub(super) fn stations(&self) -> Vec<(&'static str, String)> {
        let place = |side: &Side, node: &str| format!("{}/{node}", side.cluster);
        let (from, to) = (&self.from, &self.to);
        let mut stations = vec![("veth", place(from, &from.node))];
        if from.node != from.gateway {
            stations.push(("overlay (VXLAN)", place(from, &from.gateway)));
        }
        stations.push(("tunnel (WireGuard)", place(to, &to.gateway)));
        if to.node != to.gateway {
            stations.push(("overlay (VXLAN)", place(to, &to.node)));
        }
        stations.push(("veth", format!("{}, the pod", to.cluster)));
        stations
    }

    /// Of a pod's addresses, the one to use.
    pub(super) fn usable(&self, addresses: &[IpAddr]) -> Result<IpAddr> {
        let found = addresses.iter().find(|address| address.is_ipv4() == self.v4);
        found
            .copied()
            .context("the pod has no address that both clusters speak")
    }
}

/// On a node that is no gateway, where there is one: the usual way of a packet.
fn side(cluster: &Cluster) -> Result<Side> {
    let gateways: Vec<String> = names(cluster, true).collect();
    let gateway = gateways.first().cloned();
    let gateway = gateway.with_context(|| format!("{} has no gateway", cluster.name))?;
    Ok(Side {
        node: names(cluster, false).next().unwrap_or_else(|| gateway.clone()),
        cluster: cluster.name.clone(),
        gateway,
        gateways,
    })
}

fn names(cluster: &Cluster, gateways: bool) -> impl Iterator<Item = String> {
    let nodes = cluster.nodes.iter().filter(move |node| node.gateway == gateways);
    nodes.map(|node| node.name.clone())
}

fn underlay(from: &Cluster, to: &Cluster) -> Result<[IpAddr; 2], String> {
    for cluster in [from, to] {
        if cluster.edge.as_ref().is_some_and(|edge| edge.nat.is_some()) {
            return Err(format!("the gateways of {} are behind a NAT", cluster.name));
        }
    }
    let gateway = |cluster: &Cluster| cluster.nodes.iter().find(|node| node.gateway).map(Node::ips);
    let (from, to) = (gateway(from).unwrap_or_default(), gateway(to).unwrap_or_default());
    let pair = from
        .iter()
        .find_map(|a| Some([*a, *to.iter().find(|b| b.is_ipv4() == a.is_ipv4())?]));
    pair.ok_or_else(|| "the gateways have no address family in common".to_owned())
}

/// Where an end of the bare data path listens.
pub(super) fn endpoint(address: IpAddr) -> SocketAddr {
    const PORT: u16 = 4519;
    SocketAddr::new(address, PORT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Families, Shape};

    fn topology(nodes: u8, gateways: u8) -> Topology {
        Topology::new("test", &Shape::uniform(3, nodes, gateways, Families::Dual))
    }

    #[test]
    fn pods_stand_on_workers_where_there_are_some() {
        let places = Places::of(&topology(3, 2), Some("green"), None).unwrap();
        assert_eq!(places.from.cluster, "green");
        assert_eq!(
            (places.from.node.as_str(), places.from.gateways.len()),
            ("worker-1", 2)
        );
        assert_eq!(places.to.cluster, "blue", "the first that is another one");
        assert_eq!(places.stations().len(), 5);

        let places = Places::of(&topology(1, 1), None, None).unwrap();
        assert_eq!(places.from.node, places.from.gateway);
        let legs: Vec<&str> = places.stations().iter().map(|(leg, _)| *leg).collect();
        assert_eq!(legs, ["veth", "tunnel (WireGuard)", "veth"]);
    }

    #[test]
    fn for_one_cluster_it_says_how_to_make_two() {
        let one = Topology::new("solo", &Shape::uniform(1, 2, 1, Families::V4));
        let error = Places::of(&one, None, None).unwrap_err().to_string();
        assert!(
            error.contains("one cluster only") && error.contains("lab --name solo up --clusters 2"),
            "{error}"
        );
    }

    #[test]
    fn clusters_that_are_not_there_are_named() {
        let refused = |from, to| {
            let error = Places::of(&topology(2, 1), Some(from), Some(to)).unwrap_err();
            error.to_string()
        };
        assert!(refused("blue", "mauve").contains("\"mauve\"; it has blue, green"));
        assert!(refused("blue", "blue").contains("itself"));
    }
}
