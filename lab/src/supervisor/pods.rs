//! Pods, as kubelet and CNI would run them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use k8s_openapi::api::core::v1::Pod as PodObject;
use kube::api::DeleteParams;
use kube::runtime::watcher;
use kube::{Api, Client};
use serde_json::{Value, json};
use strait_daemon::{Inputs, Shutdown};
use strait_linux::mounts::Mounts;
use strait_linux::netns::Netns;

use super::Lab;
use super::readiness::{PodState, set_pod_status};
use crate::control::{PodRequest, PodStatus, StartedPod};
use crate::objects::apply;
use crate::podfiles;
use crate::processes::Spec;
use crate::topology::Cluster;
use crate::wait::until;
use crate::wires::{self, PodWire};

/// How long a pod may take until its ports answer.
const POD_READY: Duration = Duration::from_secs(20);
/// How often processes of pods are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How long one probe may take.
const PROBE: Duration = Duration::from_secs(1);

/// All pods, by `CLUSTER/POD`.
#[derive(Debug, Default)]
pub(crate) struct Pods(Mutex<BTreeMap<String, Pod>>);

/// What a pod's process gets.
#[derive(Debug)]
pub(super) struct Wired {
    pub(super) namespace: Netns,
    /// `None` for the machine's.
    pub(super) mounts: Option<Mounts>,
    pub(super) addresses: Vec<IpAddr>,
}

#[derive(Debug)]
struct Pod {
    node: String,
    namespace: String,
    index: u8,
    addresses: Vec<IpAddr>,
    wire: PodWire,
    mounts: Mounts,
    /// Whether its object was written: from then on, its absence is its end.
    announced: bool,
    has_process: bool,
    /// What its object says of it, once it was ready.
    said: Option<Said>,
}

/// What an object says of its pod's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Said {
    runs: bool,
    restarts: u32,
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

    /// Their mounts.
    pub(crate) fn mounts(&self) -> BTreeMap<String, Mounts> {
        self.lock()
            .iter()
            .map(|(name, pod)| (name.clone(), pod.mounts.clone()))
            .collect()
    }

    /// Names and namespaces of a cluster's pods whose objects were written.
    fn announced(&self, cluster: &str) -> Vec<(String, String)> {
        let of = |place: &str| place.strip_prefix(cluster)?.strip_prefix('/').map(str::to_owned);
        self.lock()
            .iter()
            .filter(|(_, pod)| pod.announced)
            .filter_map(|(place, pod)| Some((of(place)?, pod.namespace.clone())))
            .collect()
    }

    /// Place, namespace, node and addresses of a cluster's pods that have a process, and what was said of it.
    fn spoken_of(&self, cluster: &str) -> Vec<(String, String, String, Vec<IpAddr>, Said)> {
        let prefix = format!("{cluster}/");
        let spoken = |(place, pod): (&String, &Pod)| {
            let said = pod
                .said
                .filter(|_| pod.has_process && place.starts_with(&prefix))?;
            let Pod {
                namespace,
                node,
                addresses,
                ..
            } = pod;
            Some((
                place.clone(),
                namespace.clone(),
                node.clone(),
                addresses.clone(),
                said,
            ))
        };
        self.lock().iter().filter_map(spoken).collect()
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
    /// Wires a pod up: a namespace with an address on its node, and the files that kubelet writes.
    pub(super) fn wire_pod(&self, request: &PodRequest) -> Result<Wired> {
        let PodRequest {
            cluster, node, name, ..
        } = request;
        let place = format!("{cluster}/{name}");
        let node_wire = self.network.node(cluster, node)?;
        let dns = self
            .topology
            .cluster(cluster)
            .map(Cluster::dns)
            .unwrap_or_default();
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
        let files = self.dir.data(&format!("{cluster}/pods/{name}"))?;
        let mounts = podfiles::mounts(&files, &request.namespace, name, &addresses, &dns)?;
        let wire = wires::build_pod(node_wire, index, &addresses)?;
        let pod = Pod {
            node: node.clone(),
            namespace: request.namespace.clone(),
            index,
            addresses: addresses.clone(),
            announced: false,
            has_process: false,
            said: None,
            mounts: mounts.clone(),
            wire,
        };
        let namespace = pod.wire.namespace.clone();
        pods.insert(place, pod);
        drop(pods);
        self.write_file(false)?;
        Ok(Wired {
            namespace,
            mounts: Some(mounts),
            addresses,
        })
    }

    /// Starts a pod and waits until it is ready.
    pub(super) async fn run_pod(self: &Arc<Self>, request: PodRequest) -> Result<StartedPod> {
        let client = self.client(&request.cluster)?;
        check_name("pod", &request.name)?;
        check_name("namespace", &request.namespace)?;
        let place = format!("{}/{}", request.cluster, request.name);
        let lab = Arc::clone(self);
        let (wired, request) = tokio::task::spawn_blocking(move || {
            let wired = lab.wire_pod(&request)?;
            anyhow::Ok((wired, request))
        })
        .await??;
        let addresses = wired.addresses.clone();
        let started = self.start_pod(&client, &request, wired).await;
        if let Err(error) = started {
            let lab = Arc::clone(self);
            let undone = place.clone();
            tokio::task::spawn_blocking(move || lab.remove_pod(&undone)).await??;
            delete_pod(&client, &request.namespace, &request.name).await?;
            return Err(error);
        }
        // Seen where it ended while its object was written; later ends are in `lab status`.
        let note = self.ended(&place).map(|end| {
            format!("note: the command of the pod {place} has ended ({end}) and is started again, as in a cluster; `strait lab logs {place}` shows what it said")
        });
        Ok(StartedPod { addresses, note })
    }

    /// How a pod's process ended last, where it did.
    fn ended(&self, place: &str) -> Option<String> {
        self.processes
            .status_of(place)
            .and_then(|process| process.last_end)
    }

    async fn start_pod(&self, client: &Client, request: &PodRequest, wired: Wired) -> Result<()> {
        let Wired {
            namespace,
            mounts,
            addresses,
        } = wired;
        let addresses = addresses.as_slice();
        let PodRequest {
            cluster, node, name, ..
        } = request;
        let id = format!("{cluster}/{name}");
        let ports: Vec<Value> = request
            .ports
            .iter()
            .map(|p| json!({ "containerPort": p, "protocol": "TCP" }))
            .collect();
        apply(client, &json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "namespace": request.namespace, "labels": request.labels },
            "spec": {
                "nodeName": node,
                "containers": [{ "name": name, "image": "strait-lab", "args": request.argv, "ports": ports }],
            },
        }))
        .await?;
        let plan = self.topology.cluster(cluster).and_then(|c| c.node(node));
        let host_ip = plan.and_then(|n| n.ips().first().copied());
        let state = PodState {
            namespace: &request.namespace,
            name,
            container: name,
            addresses,
            host_ip,
            ready: false,
            waits: false,
            restarts: 0,
        };
        set_pod_status(client, state).await?;
        if let Some(pod) = self.pods.lock().get_mut(&id) {
            pod.announced = true;
        }
        if !request.argv.is_empty() {
            self.processes.start(Spec {
                argv: request.argv.iter().map(Into::into).collect(),
                env: pod_environment(request, addresses),
                inherit: true,
                namespace,
                hostname: Some(name.clone()),
                mounts,
                log: self.dir.log(&id),
                stdin: None,
                id: id.clone(),
            })?;
            if let Some(pod) = self.pods.lock().get_mut(&id) {
                pod.has_process = true;
            }
        }
        let what = format!("an answer of the pod {id} on its ports");
        let answers = until(what, POD_READY, || async {
            let answers = self.answers(request, addresses).await;
            // Nobody waits for the ports of a process that is gone.
            Ok(match (answers, self.ended(&id)) {
                (Ok(()), _) => Ok(()),
                (Err(_), Some(end)) if !request.ports.is_empty() => Err(anyhow!(
                    "the command of the pod {id} ended ({end}) before its ports answered"
                )),
                (Err(error), _) => return Err(error),
            })
        })
        .await;
        let answers = answers.and_then(|said| said);
        answers.map_err(|e| self.with_log(e, &id))?;
        set_pod_status(client, PodState { ready: true, ..state }).await?;
        if let Some(pod) = self.pods.lock().get_mut(&id) {
            pod.said = Some(Said {
                runs: true,
                restarts: 0,
            });
        }
        Ok(())
    }

    /// Says in the objects of a cluster's pods when their processes end and start again, while the lab lives.
    pub(super) async fn follow_pods(self: Arc<Self>, cluster: String, client: Client) {
        loop {
            tokio::time::sleep(LOOK).await;
            for (place, namespace, node, addresses, said) in self.pods.spoken_of(&cluster) {
                let Some(process) = self.processes.status_of(&place) else {
                    continue;
                };
                let now = Said {
                    runs: process.pid.is_some(),
                    restarts: process.restarts,
                };
                if now == said {
                    continue;
                }
                let name = place.rsplit('/').next().unwrap_or(&place);
                let plan = self.topology.cluster(&cluster).and_then(|c| c.node(&node));
                let state = PodState {
                    namespace: &namespace,
                    name,
                    container: name,
                    addresses: &addresses,
                    host_ip: plan.and_then(|n| n.ips().first().copied()),
                    ready: now.runs,
                    waits: !now.runs,
                    restarts: now.restarts,
                };
                match set_pod_status(&client, state).await {
                    Ok(()) => {
                        if let Some(pod) = self.pods.lock().get_mut(&place) {
                            pod.said = Some(now);
                        }
                    }
                    Err(error) => tracing::warn!("{error:#}"),
                }
            }
        }
    }

    /// Whether all ports of a pod accept connections from its node, as kubelet's probes try.
    async fn answers(&self, request: &PodRequest, addresses: &[IpAddr]) -> Result<()> {
        let node = self.network.node(&request.cluster, &request.node)?.clone();
        let targets: Vec<SocketAddr> = addresses
            .iter()
            .flat_map(|ip| request.ports.iter().map(|port| SocketAddr::new(*ip, *port)))
            .collect();
        let connect = move || -> Result<()> {
            let tried: Vec<(SocketAddr, std::io::Result<TcpStream>)> = targets
                .iter()
                .map(|target| (*target, TcpStream::connect_timeout(target, PROBE)))
                .collect();
            let open = tried.iter().any(|(_, connected)| connected.is_ok());
            for (target, connected) in tried {
                // A server that has one family only is a common mistake.
                let hint = if open {
                    ", while another of its addresses does; --port takes every port on every address family of the pod"
                } else {
                    ""
                };
                connected.with_context(|| format!("{target} does not accept connections{hint}"))?;
            }
            Ok(())
        };
        tokio::task::spawn_blocking(move || node.run(connect)).await??
    }

    /// Ends pods of a cluster whose objects are deleted, while the lab lives.
    pub(super) async fn follow_deletions(self: Arc<Self>, cluster: String, client: Client) {
        let mut inputs = Inputs::new(None, Shutdown::default());
        let objects = inputs.watch_all::<PodObject>(&client, watcher::Config::default());
        objects.live().await;
        loop {
            inputs.changed(Duration::from_millis(5)).await;
            for (name, namespace) in self.pods.announced(&cluster) {
                let object = objects.get(&namespace, &name);
                let deleting = object
                    .as_ref()
                    .is_some_and(|o| o.metadata.deletion_timestamp.is_some());
                if object.is_some() && !deleting {
                    continue;
                }
                let lab = Arc::clone(&self);
                let place = format!("{cluster}/{name}");
                let ended = tokio::task::spawn_blocking(move || lab.remove_pod(&place)).await;
                let ended = match ended.map_err(Into::into).and_then(|r| r) {
                    Ok(()) if deleting => delete_pod(&client, &namespace, &name).await,
                    other => other,
                };
                if let Err(error) = ended {
                    tracing::warn!("cannot end the pod {cluster}/{name}: {error:#}");
                }
            }
        }
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

/// Names become parts of paths and of host names, before any API server has seen them.
fn check_name(what: &str, name: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let ends = name.starts_with('-') || name.ends_with('-');
    if name.is_empty() || name.len() > 63 || ends || !name.chars().all(good) {
        bail!(
            "{name:?} is no name for a {what}: it takes a-z, 0-9 and '-' inside, at most 63 characters, \
             such as web-1"
        );
    }
    Ok(())
}

/// Deletes a pod's object at once, as kubelet does in the end; there need not be one.
async fn delete_pod(client: &Client, namespace: &str, name: &str) -> Result<()> {
    let at_once = DeleteParams::default().grace_period(0);
    match Api::<PodObject>::namespaced(client.clone(), namespace)
        .delete(name, &at_once)
        .await
    {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(e) => Err(e).with_context(|| format!("cannot delete the pod {namespace}/{name}")),
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
