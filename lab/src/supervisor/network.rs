//! The lab's network, once built.

use std::collections::BTreeMap;
use std::thread;

use anyhow::{Context as _, Result, anyhow, bail};
use strait_linux::netns::Netns;

use crate::leaks::Leaks;
use crate::topology::Topology;
use crate::wires;

/// The place of a cluster's own router.
fn edge_of(cluster: &str) -> String {
    format!("{cluster}/edge")
}

/// Router and nodes.
#[derive(Debug)]
pub(crate) struct Network {
    /// `router`, `CLUSTER/edge` and `CLUSTER/NODE`.
    namespaces: BTreeMap<String, Netns>,
    pub(crate) leaks: Leaks,
}

impl Network {
    /// Builds it around the calling process's namespace, which becomes the router.
    pub(crate) fn build(topology: &Topology) -> Result<Self> {
        let router = Netns::current()?;
        let sink = wires::build_router(topology)?;
        let leaks = Leaks::watch(&sink, topology.pod_ranges(), topology.router_addresses())?;
        let mut namespaces: BTreeMap<String, Netns> = BTreeMap::new();
        for cluster in &topology.clusters {
            if let Some(edge) = &cluster.edge {
                let built = wires::build_edge(&router, topology, cluster, edge)
                    .with_context(|| format!("cannot build the router of {}", cluster.name))?;
                namespaces.insert(edge_of(&cluster.name), built);
            }
        }
        for wire in &topology.links {
            let names = wire
                .ends
                .each_ref()
                .map(|end| edge_of(end.cluster.as_deref().unwrap_or_default()));
            let link = format!("the link between {} and {}", names[0], names[1]);
            let [Some(a), Some(b)] = names.each_ref().map(|name| namespaces.get(name)) else {
                bail!("{link} has no end");
            };
            wires::build_link(topology, wire, [a, b]).with_context(|| format!("cannot build {link}"))?;
        }
        let edges = namespaces.clone();
        thread::scope(|scope| -> Result<()> {
            let builders: Vec<_> = topology
                .clusters
                .iter()
                .flat_map(|c| c.nodes.iter().map(move |n| (c, n)))
                .map(|(cluster, node)| {
                    let name = format!("{}/{}", cluster.name, node.name);
                    let router = edges.get(&edge_of(&cluster.name)).unwrap_or(&router);
                    let build = scope.spawn(move || {
                        let done = wires::build_node(router, cluster, node);
                        done.with_context(|| format!("cannot build node {}/{}", cluster.name, node.name))
                    });
                    (name, build)
                })
                .collect();
            for (name, build) in builders {
                let node = build
                    .join()
                    .map_err(|_| anyhow!("building node {name} panicked"))??;
                namespaces.insert(name, node);
            }
            Ok(())
        })?;
        namespaces.insert("router".to_owned(), router);
        Ok(Self { namespaces, leaks })
    }

    /// All namespaces by place.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = (&String, &Netns)> {
        self.namespaces.iter()
    }

    /// A node's namespace.
    pub(crate) fn node(&self, cluster: &str, node: &str) -> Result<&Netns> {
        let place = format!("{cluster}/{node}");
        self.namespaces.get(&place).with_context(|| {
            let known: Vec<&str> = self
                .namespaces
                .keys()
                .map(String::as_str)
                .filter(|k| k.contains('/'))
                .collect();
            format!("there is no node {place}; there are {}", known.join(", "))
        })
    }

    /// The namespace of the router on a cluster's segment, where its API server stands.
    pub(crate) fn home(&self, cluster: &str) -> Result<&Netns> {
        match self.namespaces.get(&edge_of(cluster)) {
            Some(edge) => Ok(edge),
            None => self.router(),
        }
    }

    /// The router's namespace.
    pub(crate) fn router(&self) -> Result<&Netns> {
        self.namespaces.get("router").context("the lab has no router")
    }
}
