//! Pods, as kubelet and CNI would run them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Result, bail};
use strait_linux::netns::Netns;

use super::Lab;
use crate::control::{PodRequest, PodStatus};
use crate::processes::Spec;
use crate::wires::{self, PodWire};

/// All pods, by `CLUSTER/POD`.
#[derive(Debug, Default)]
pub(crate) struct Pods(Mutex<BTreeMap<String, Pod>>);

#[derive(Debug)]
struct Pod {
    node: String,
    namespace: String,
    index: u8,
    addresses: Vec<IpAddr>,
    wire: PodWire,
    has_process: bool,
}

impl Pods {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Pod>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Their namespaces.
    pub(crate) fn namespaces(&self) -> BTreeMap<String, Netns> {
        self.lock()
            .iter()
            .map(|(name, pod)| (name.clone(), pod.wire.namespace.clone()))
            .collect()
    }

    /// How they are.
    pub(crate) fn status(&self) -> Vec<PodStatus> {
        let status = |(place, pod): (&String, &Pod)| {
            let (cluster, name) = place.split_once('/').unwrap_or((place, ""));
            PodStatus {
                cluster: cluster.to_owned(),
                node: pod.node.clone(),
                namespace: pod.namespace.clone(),
                name: name.to_owned(),
                addresses: pod.addresses.clone(),
            }
        };
        self.lock().iter().map(status).collect()
    }
}

impl Lab {
    /// Wires a pod up: a namespace with an address on its node.
    pub(super) fn wire_pod(&self, request: &PodRequest) -> Result<(Netns, Vec<IpAddr>)> {
        let PodRequest {
            cluster, node, name, ..
        } = request;
        let place = format!("{cluster}/{name}");
        let node_wire = self.network.node(cluster, node)?;
        let Some(plan) = self.topology.cluster(cluster).and_then(|c| c.node(node)) else {
            bail!("there is no node {cluster}/{node}");
        };
        if self.network.node(cluster, name).is_ok() {
            bail!("a pod cannot have the name of a node: {place}");
        }
        let mut pods = self.pods.lock();
        if pods.contains_key(&place) {
            bail!("there is a pod {place} already");
        }
        let prefix = format!("{cluster}/");
        let taken: BTreeSet<u8> = pods
            .iter()
            .filter(|(p, pod)| p.starts_with(&prefix) && pod.node == *node)
            .map(|(_, pod)| pod.index)
            .collect();
        let free = (0..u8::MAX).find(|i| !taken.contains(i));
        let Some((index, addresses)) = free.and_then(|i| Some((i, plan.pod_addresses(i)?))) else {
            bail!("node {cluster}/{node} has no address left for a pod");
        };
        let wire = wires::build_pod(node_wire, index, &addresses)?;
        let pod = Pod {
            node: node.clone(),
            namespace: request.namespace.clone(),
            index,
            addresses: addresses.clone(),
            has_process: !request.argv.is_empty(),
            wire,
        };
        let namespace = pod.wire.namespace.clone();
        pods.insert(place, pod);
        drop(pods);
        self.write_file(false)?;
        Ok((namespace, addresses))
    }

    /// Starts a pod.
    pub(super) fn run_pod(&self, request: &PodRequest) -> Result<Vec<IpAddr>> {
        let (namespace, addresses) = self.wire_pod(request)?;
        if !request.argv.is_empty() {
            let id = format!("{}/{}", request.cluster, request.name);
            let started = self.processes.start(Spec {
                argv: request.argv.iter().map(Into::into).collect(),
                env: pod_environment(request, &addresses),
                namespace,
                log: self.dir.log(&id),
                stdin: None,
                id: id.clone(),
            });
            if let Err(error) = started {
                self.forget_pod(&id)?;
                return Err(error);
            }
        }
        Ok(addresses)
    }

    /// Ends a pod; there need not be one.
    pub(super) fn remove_pod(&self, place: &str) -> Result<()> {
        let has_process = self.pods.lock().get(place).is_some_and(|p| p.has_process);
        if has_process {
            self.processes.stop(place)?;
        }
        self.forget_pod(place)
    }

    fn forget_pod(&self, place: &str) -> Result<()> {
        let Some(pod) = self.pods.lock().remove(place) else {
            return Ok(());
        };
        let cluster = place.split_once('/').map_or(place, |(c, _)| c);
        wires::remove_pod(self.network.node(cluster, &pod.node)?, &pod.wire)?;
        self.write_file(false)
    }
}

/// What a pod's process can know of itself, as by the downward API.
fn pod_environment(request: &PodRequest, addresses: &[IpAddr]) -> BTreeMap<String, String> {
    let ips: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    [
        ("STRAIT_LAB_CLUSTER", request.cluster.clone()),
        ("NODE_NAME", request.node.clone()),
        ("POD_NAME", request.name.clone()),
        ("POD_NAMESPACE", request.namespace.clone()),
        ("POD_IP", ips.first().cloned().unwrap_or_default()),
        ("POD_IPS", ips.join(",")),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v))
    .collect()
}
