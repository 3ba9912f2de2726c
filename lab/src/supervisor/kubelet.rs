//! What kubelet and the workload controllers do for Strait's daemons: pods on the nodes where the manifests
//! want them, with the identity, environment and volumes that the manifests give them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ServiceAccount, Volume};
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::json;

use super::Lab;
use super::cluster::node_labels;
use super::pods::Wired;
use super::readiness::{PodState, set_pod_status};
use crate::control::PodRequest;
use crate::manifests::{Manifests, PodFields, Workload};
use crate::objects::apply;
use crate::processes::Spec;
use crate::topology::{API_PORT, Cluster, Node};

/// Where a pod finds its identity.
const IDENTITY: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// How long a token lasts; it is written anew long before.
const TOKEN_SECONDS: i64 = 24 * 3600;
const TOKEN_RENEWAL: Duration = Duration::from_secs(3600);

/// A daemon that was started.
#[derive(Debug, Clone)]
pub(crate) struct Daemon {
    /// `CLUSTER/NODE/DAEMON`.
    pub(crate) id: String,
    pub(crate) namespace: String,
    pub(crate) pod: String,
    /// Name of its container.
    pub(crate) container: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) host_ip: Option<IpAddr>,
    /// The probe's socket as the host sees it.
    pub(crate) socket: PathBuf,
    /// Where it serves metrics, on its own network.
    pub(crate) metrics: Option<SocketAddr>,
}

impl Lab {
    /// Starts all daemons of a cluster.
    pub(super) async fn start_daemons(
        &self,
        cluster: &Cluster,
        client: &Client,
        manifests: &Manifests,
    ) -> Result<Vec<Daemon>> {
        let mut daemons = Vec::new();
        for workload in &manifests.workloads {
            self.write_identity(cluster, client, workload).await?;
            let mut fitting = cluster.nodes.iter().filter(|n| workload.fits(&node_labels(n)));
            if workload.everywhere {
                for node in fitting {
                    daemons.push(self.start_daemon(cluster, client, node, workload).await?);
                }
            } else {
                // One replica is enough for a lab; on the last node, which is a worker if there is one.
                let node = fitting
                    .next_back()
                    .with_context(|| format!("no node fits {}", workload.name))?;
                daemons.push(self.start_daemon(cluster, client, node, workload).await?);
            }
        }
        Ok(daemons)
    }

    async fn start_daemon(
        &self,
        cluster: &Cluster,
        client: &Client,
        node: &Node,
        workload: &Workload,
    ) -> Result<Daemon> {
        let id = format!("{}/{}/{}", cluster.name, node.name, workload.container.name);
        let started = self.try_start_daemon(cluster, client, node, workload, &id).await;
        started.with_context(|| format!("cannot start {id}"))
    }

    async fn try_start_daemon(
        &self,
        cluster: &Cluster,
        client: &Client,
        node: &Node,
        workload: &Workload,
        id: &str,
    ) -> Result<Daemon> {
        let pod = match workload.everywhere {
            true => format!("{}-{}", workload.name, node.name),
            false => format!("{}-0", workload.name),
        };
        let Wired {
            namespace,
            mounts,
            addresses,
        } = if workload.host_network() {
            Wired {
                namespace: self.network.node(&cluster.name, &node.name)?.clone(),
                mounts: None,
                addresses: node.ips(),
            }
        } else {
            self.wire_pod(&PodRequest {
                cluster: cluster.name.clone(),
                node: node.name.clone(),
                namespace: workload.namespace.clone(),
                name: pod.clone(),
                labels: workload.labels.clone(),
                ports: Vec::new(),
                argv: Vec::new(),
            })?
        };
        self.write_pod(client, node, workload, &pod, &addresses).await?;
        let fields = PodFields {
            name: pod.clone(),
            namespace: workload.namespace.clone(),
            node: node.name.clone(),
            pod_ip: addresses.first().map(ToString::to_string).unwrap_or_default(),
            host_ip: node.ips().first().map(ToString::to_string).unwrap_or_default(),
        };
        let mut env = self.clean_environment();
        env.extend(workload.environment(&fields)?);
        let api = cluster
            .lan
            .router
            .first()
            .context("the cluster has no address")?
            .addr();
        env.insert("KUBERNETES_SERVICE_HOST".to_owned(), api.to_string());
        env.insert("KUBERNETES_SERVICE_PORT".to_owned(), API_PORT.to_string());
        let volumes = self.volumes(cluster, node, workload, id)?;
        let socket = probe_socket(&env, &volumes).with_context(|| format!("{id} has no probe"))?;
        let metrics = env
            .get("STRAIT_METRICS_LISTEN")
            .and_then(|text| text.parse().ok());
        let pid_file = self.dir.data(id)?.join("pid");
        self.processes.start(Spec {
            id: id.to_owned(),
            argv: self.container_argv(workload, &volumes, &pid_file)?,
            env,
            inherit: false,
            namespace,
            // On the node's network, a pod has the node's name as well.
            hostname: Some(if workload.host_network() {
                node.name.clone()
            } else {
                pod.clone()
            }),
            mounts,
            log: self.dir.log(id),
            stdin: None,
        })?;
        Ok(Daemon {
            id: id.to_owned(),
            namespace: workload.namespace.clone(),
            pod,
            container: workload.container.name.clone(),
            addresses,
            host_ip: node.ips().first().copied(),
            socket,
            metrics,
        })
    }

    fn container_argv(
        &self,
        workload: &Workload,
        volumes: &[(PathBuf, PathBuf)],
        pid_file: &Path,
    ) -> Result<Vec<OsString>> {
        if workload.container.command.is_some() {
            bail!(
                "{} replaces the image's command; the lab runs the image's",
                workload.name
            );
        }
        let mut argv: Vec<OsString> = vec![self.program.clone(), "lab-container".into()];
        argv.extend(["--pid-file".into(), pid_file.into()]);
        for (source, target) in volumes {
            argv.push("--volume".into());
            let mut volume = source.clone().into_os_string();
            volume.push("=");
            volume.push(target);
            argv.push(volume);
        }
        argv.push("--".into());
        argv.extend(workload.container.args.iter().flatten().map(OsString::from));
        Ok(argv)
    }

    /// Sources and targets of a pod's volumes.
    fn volumes(
        &self,
        cluster: &Cluster,
        node: &Node,
        workload: &Workload,
        id: &str,
    ) -> Result<Vec<(PathBuf, PathBuf)>> {
        let mut volumes = vec![(self.identity_dir(cluster, workload)?, PathBuf::from(IDENTITY))];
        for mount in workload.container.volume_mounts.iter().flatten() {
            let volume = workload
                .pod
                .volumes
                .iter()
                .flatten()
                .find(|v| v.name == mount.name)
                .with_context(|| format!("there is no volume {}", mount.name))?;
            let place = format!("{}/{}", cluster.name, node.name);
            if let Some(source) = self.volume_source(volume, &place, id)? {
                volumes.push((source, PathBuf::from(&mount.mount_path)));
            }
        }
        Ok(volumes)
    }

    /// The folder behind a volume; `None` for a device, which stands where it stands.
    fn volume_source(&self, volume: &Volume, node: &str, id: &str) -> Result<Option<PathBuf>> {
        if volume.empty_dir.is_some() {
            return Ok(Some(self.dir.data(&format!("{id}/volume-{}", volume.name))?));
        }
        match &volume.host_path {
            Some(host) if host.type_.as_deref() == Some("CharDevice") => Ok(None),
            Some(host) => Ok(Some(self.dir.data(&format!("{node}/host{}", host.path))?)),
            None => bail!("the lab has no volume of the kind of {}", volume.name),
        }
    }

    fn identity_dir(&self, cluster: &Cluster, workload: &Workload) -> Result<PathBuf> {
        self.dir.data(&format!(
            "{}/identity/{}",
            cluster.name,
            workload.service_account()
        ))
    }

    /// Writes a pod's identity, as kubelet does, and renews its token while the lab lives.
    async fn write_identity(&self, cluster: &Cluster, client: &Client, workload: &Workload) -> Result<()> {
        let dir = self.identity_dir(cluster, workload)?;
        let account = workload.service_account().to_owned();
        fs::write(dir.join("namespace"), &workload.namespace)?;
        fs::write(dir.join("ca.crt"), self.api_ca(&cluster.name)?)?;
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &workload.namespace);
        write_token(&accounts, &account, &dir).await?;
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(TOKEN_RENEWAL).await;
                if let Err(error) = write_token(&accounts, &account, &dir).await {
                    tracing::warn!("{error:#}");
                }
            }
        });
        Ok(())
    }

    async fn write_pod(
        &self,
        client: &Client,
        node: &Node,
        workload: &Workload,
        name: &str,
        addresses: &[IpAddr],
    ) -> Result<()> {
        let mut spec = serde_json::to_value(&workload.pod)?;
        spec["nodeName"] = json!(node.name);
        apply(
            client,
            &json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": { "name": name, "namespace": workload.namespace, "labels": workload.labels },
                "spec": spec,
            }),
        )
        .await?;
        let state = PodState {
            namespace: &workload.namespace,
            name,
            container: &workload.container.name,
            addresses,
            host_ip: node.ips().first().copied(),
            ready: false,
            waits: false,
            restarts: 0,
        };
        set_pod_status(client, state).await
    }
}

async fn write_token(accounts: &Api<ServiceAccount>, account: &str, dir: &Path) -> Result<()> {
    let request = TokenRequest {
        spec: TokenRequestSpec {
            expiration_seconds: Some(TOKEN_SECONDS),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let answer = accounts
        .create_token_request(account, &PostParams::default(), &request)
        .await
        .with_context(|| format!("cannot get a token for the ServiceAccount {account}"))?;
    let token = answer.status.context("a token request without an answer")?.token;
    let new = dir.join("token.new");
    fs::write(&new, token).and_then(|()| fs::rename(&new, dir.join("token")))?;
    Ok(())
}

fn probe_socket(env: &BTreeMap<String, String>, volumes: &[(PathBuf, PathBuf)]) -> Option<PathBuf> {
    let socket = Path::new(env.get("STRAIT_PROBE_SOCKET")?);
    volumes
        .iter()
        .find_map(|(source, target)| Some(source.join(socket.strip_prefix(target).ok()?)))
}
