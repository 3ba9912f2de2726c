//! The lab's network, once built.

use std::collections::BTreeMap;
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use strait_linux::netns::Netns;

use crate::leaks::Leaks;
use crate::topology::Topology;
use crate::wires;

/// Router and nodes.
#[derive(Debug)]
pub(crate) struct Network {
    /// `router`, and `CLUSTER/NODE`.
    namespaces: BTreeMap<String, Netns>,
    pub(crate) leaks: Leaks,
}

impl Network {
    /// Builds it around the calling process's namespace, which becomes the router.
    pub(crate) fn build(topology: &Topology) -> Result<Self> {
        let router = Netns::current()?;
        let sink = wires::build_router(topology)?;
        let leaks = Leaks::watch(&sink, topology.pod_ranges(), topology.router_addresses())?;
        let mut namespaces = BTreeMap::new();
        thread::scope(|scope| -> Result<()> {
            let builders: Vec<_> = topology
                .clusters
                .iter()
                .flat_map(|c| c.nodes.iter().map(move |n| (c, n)))
                .map(|(cluster, node)| {
                    let name = format!("{}/{}", cluster.name, node.name);
                    let router = &router;
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

    /// The router's namespace.
    pub(crate) fn router(&self) -> Result<&Netns> {
        self.namespaces.get("router").context("the lab has no router")
    }
}
