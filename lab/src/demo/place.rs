//! Where the demonstration takes place.

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};

use crate::topology::{Cluster, Families, Shape, Topology};

/// One side of the way.
#[derive(Debug, Clone)]
pub(super) struct Side {
    pub(super) cluster: String,
    pub(super) gateway: String,
    pub(super) worker: String,
}

/// The server's side, the client's, and what they speak.
#[derive(Debug, Clone)]
pub(super) struct Places {
    pub(super) server: Side,
    pub(super) client: Side,
    pub(super) families: Families,
}

impl Places {
    /// In the first two clusters of a lab.
    pub(super) fn of(shape: &Shape) -> Result<Self> {
        let topology = Topology::new("demo", shape);
        let [server, client, ..] = topology.clusters.as_slice() else {
            bail!("the demonstration takes two clusters; the file has one");
        };
        let families = server.families().common(client.families());
        Ok(Self {
            server: side(server)?,
            client: side(client)?,
            families: families.with_context(|| {
                format!(
                    "the demonstration takes two clusters with an address family in common; {} and {} have none",
                    server.name, client.name
                )
            })?,
        })
    }

    /// Of a pod's addresses, those that both sides can use.
    pub(super) fn usable(&self, addresses: Vec<IpAddr>) -> Vec<IpAddr> {
        let speaks = |ip: &IpAddr| self.families.speaks(*ip);
        addresses.into_iter().filter(speaks).collect()
    }
}

fn side(cluster: &Cluster) -> Result<Side> {
    let named = |gateway: bool| {
        let found = cluster.nodes.iter().find(|n| n.gateway == gateway);
        found.map(|n| n.name.clone())
    };
    let worker = named(false).with_context(|| {
        format!(
            "the demonstration takes clusters with a node that is no gateway; {} has none",
            cluster.name
        )
    })?;
    Ok(Side {
        cluster: cluster.name.clone(),
        gateway: named(true).context("a cluster without a gateway")?,
        worker,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_two_clusters_with_a_worker_each() {
        let places = Places::of(&Shape::uniform(3, 2, 1, Families::Dual)).unwrap();
        let Side {
            cluster,
            gateway,
            worker,
        } = &places.client;
        assert_eq!(
            (cluster.as_str(), gateway.as_str(), worker.as_str()),
            ("green", "gateway-1", "worker-1")
        );
        assert!(Places::of(&Shape::uniform(1, 2, 1, Families::V4)).is_err());
        let error = Places::of(&Shape::uniform(2, 2, 2, Families::V4)).unwrap_err();
        assert!(error.to_string().contains("no gateway"), "{error}");
    }

    #[test]
    fn only_what_both_speak_is_used() {
        let mut shape = Shape::uniform(2, 2, 1, Families::Dual);
        shape.clusters[1] = Shape::uniform(2, 2, 1, Families::V6).clusters.remove(1);
        let places = Places::of(&shape).unwrap();
        assert_eq!(places.families, Families::V6);
        let all = vec!["10.1.2.12".parse().unwrap(), "fd10:1:0:2::c".parse().unwrap()];
        assert_eq!(places.usable(all), ["fd10:1:0:2::c".parse::<IpAddr>().unwrap()]);
    }
}
