//! A cluster's control plane: its API server, and the objects it starts with.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinitionSpec;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use strait_api::names::LABEL_GATEWAY_NODE;

use super::Lab;
use super::readiness::LEASE_NAMESPACE;
use crate::manifests::Manifests;
use crate::objects::{apply, client};
use crate::processes::Spec;
use crate::topology::{Cluster, Node as NodePlan};
use crate::wait::until;

/// How long an API server may take to come up.
const API_UP: Duration = Duration::from_secs(30);
/// How long a new kind may take to be served.
const KIND_SERVED: Duration = Duration::from_secs(10);

impl Lab {
    /// Starts the API server of a cluster and waits until it answers.
    pub(super) async fn start_api_server(&self, cluster: &Cluster, socket: TcpListener) -> Result<Client> {
        let name = &cluster.name;
        let id = format!("{name}/control-plane/apiserver");
        let host_port = socket.local_addr()?.port();
        let inner = self.dir.inner_kubeconfig(name, "admin");
        let host = self.dir.kubeconfig(name);
        let mut argv = vec![self.program.clone(), "apiserver".into(), "--data-dir".into()];
        argv.push(self.dir.data(&id)?.into());
        for address in cluster.api_servers() {
            argv.extend(["--listen".into(), address.to_string().into()]);
        }
        argv.push("--listen-stdin".into());
        let own = format!("https://127.0.0.1:{host_port}");
        for (url, path) in [(own, &host), (cluster.control_url(), &inner)] {
            let mut kubeconfig = OsString::from(format!("{url}="));
            kubeconfig.push(path);
            argv.extend(["--write-kubeconfig".into(), kubeconfig]);
        }
        for cidr in &cluster.service_cidrs {
            argv.extend(["--service-cidr".into(), cidr.to_string().into()]);
        }
        self.processes.start(Spec {
            argv,
            env: self.clean_environment(),
            inherit: false,
            namespace: self.network.home(name)?.clone(),
            hostname: None,
            mounts: None,
            log: self.dir.log(&id),
            stdin: Some(OwnedFd::from(socket)),
            id: id.clone(),
        })?;
        let up = until(format!("the API server of {name}"), API_UP, || async {
            ensure!(inner.exists(), "it has not written {} yet", inner.display());
            let client = client(&inner).await?;
            client.apiserver_version().await.context("it does not answer")?;
            Ok(client)
        });
        up.await.map_err(|e| self.with_log(e, &id))
    }

    /// Writes what a cluster has from the start: namespaces, nodes, and Strait's manifests.
    pub(super) async fn seed(&self, cluster: &Cluster, client: &Client, manifests: &Manifests) -> Result<()> {
        for name in ["kube-system", "default", LEASE_NAMESPACE, "demo"] {
            apply(
                client,
                &json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } }),
            )
            .await?;
        }
        for node in &cluster.nodes {
            write_node(client, node)
                .await
                .with_context(|| format!("cannot write the Node {}", node.name))?;
        }
        super::dns::write_service(client, cluster).await?;
        for crd in strait_api::crds::crds() {
            apply(client, &serde_json::to_value(&crd)?).await?;
        }
        for object in &manifests.objects {
            apply(client, object).await?;
        }
        for crd in strait_api::crds::crds() {
            let name = format!("{}.{}", crd.spec.names.plural, crd.spec.group);
            until(format!("the kind {name}"), KIND_SERVED, || {
                served(client, &crd.spec)
            })
            .await?;
        }
        Ok(())
    }
}

async fn served(client: &Client, spec: &CustomResourceDefinitionSpec) -> Result<()> {
    for version in spec.versions.iter().filter(|v| v.served) {
        let list = client
            .list_api_group_resources(&format!("{}/{}", spec.group, version.name))
            .await
            .context("its group is not served")?;
        if !list.resources.iter().any(|r| r.name == spec.names.plural) {
            bail!("it is not served in {}", version.name);
        }
    }
    Ok(())
}

async fn write_node(client: &Client, node: &NodePlan) -> Result<()> {
    apply(
        client,
        &json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": { "name": node.name, "labels": node_labels(node) },
            "spec": {
                "podCIDR": node.pod_cidrs.first(),
                "podCIDRs": node.pod_cidrs,
                "providerID": format!("strait-lab://{}", node.name),
            },
        }),
    )
    .await?;
    let nodes: Api<Node> = Api::all(client.clone());
    // A new node is tainted as not ready, until somebody says that it is.
    let untainted = json!({ "spec": { "taints": null } });
    nodes
        .patch(&node.name, &PatchParams::default(), &Patch::Merge(untainted))
        .await?;
    let now = jiff::Timestamp::now().to_string();
    let mut addresses: Vec<Value> = node
        .ips()
        .iter()
        .map(|ip| json!({ "type": "InternalIP", "address": ip }))
        .collect();
    let external = node.external.iter();
    addresses.extend(external.map(|ip| json!({ "type": "ExternalIP", "address": ip })));
    addresses.push(json!({ "type": "Hostname", "address": node.name }));
    let status = json!({ "status": {
        "addresses": addresses,
        "conditions": [{
            "type": "Ready", "status": "True", "reason": "LabReady", "message": "the lab runs this node",
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        }],
        "capacity": resources(),
        "allocatable": resources(),
        "nodeInfo": {
            "architecture": architecture(), "operatingSystem": "linux",
            "kernelVersion": kernel(), "kubeletVersion": "v1.33.0-strait-lab",
            "osImage": "strait lab", "containerRuntimeVersion": "strait-lab://1",
            "bootID": "", "machineID": "", "systemUUID": "", "kubeProxyVersion": "",
        },
    }});
    nodes
        .patch_status(&node.name, &PatchParams::default(), &Patch::Merge(status))
        .await?;
    Ok(())
}

/// The machine's architecture as Kubernetes names it (Go's GOARCH).
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// What a node has: this machine's processors and memory, which all nodes share, and as many pods as a kubelet
/// takes by default.
fn resources() -> Value {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let info = rustix::system::sysinfo();
    let memory = u128::from(info.totalram) * u128::from(info.mem_unit.max(1));
    json!({ "cpu": cpus.to_string(), "memory": format!("{}Ki", memory / 1024), "pods": "110" })
}

fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Labels of a node.
pub(super) fn node_labels(node: &NodePlan) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        ("kubernetes.io/hostname".to_owned(), node.name.clone()),
        ("kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("kubernetes.io/arch".to_owned(), architecture().to_owned()),
    ]);
    if node.gateway {
        labels.insert(LABEL_GATEWAY_NODE.to_owned(), "true".to_owned());
    }
    labels
}
