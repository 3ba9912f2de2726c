//! A broker and member clusters with real controllers in this process. Stand-alone, over embedded API servers; in a
//! rerun the broker and its members are clusters with a real kube-apiserver.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "a module of each test file, which uses its own part of it"
)]

#[path = "../../../tests/support/cluster.rs"]
mod cluster;

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cluster::ApiServer;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use strait_api::names;
use strait_api::records::{Cluster, ExportedService, Gateway, JoinRequest, Member};
use strait_broker::admin::{accept, create_token};
use strait_broker::args::{AcceptArgs, ServeArgs, TokenCreateArgs};
use strait_broker::connection::{Bearer, Connection, Membership, Place};
use strait_broker::controllers::Controllers;
use strait_broker::error::BrokerError;
use strait_broker::join::{JoinOptions, Joined, Progress, join};
use strait_broker::mirror;
use strait_broker::serve::Standalone;
use strait_broker::token::JoinToken;
use strait_core::admission::Settings;
use strait_daemon::Shutdown;
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks again until there is an answer; fails with what was last said instead of one.
pub async fn until<T, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(said) if tokio::time::Instant::now() > end => panic!("{what}: {said}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Of a manifest in deploy/, who there is and who may do what.
pub fn rights(file: &str) -> String {
    let path = format!("{}/../deploy/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let kinds = [
        "Namespace",
        "ServiceAccount",
        "Role",
        "RoleBinding",
        "ClusterRole",
        "ClusterRoleBinding",
    ];
    let kept = |d: &&str| kinds.iter().any(|k| d.lines().any(|l| l == format!("kind: {k}")));
    let documents: Vec<&str> = text.split("\n---\n").filter(kept).collect();
    assert!(!documents.is_empty(), "{file} holds nothing");
    documents.join("\n---\n")
}

/// A client with a join token's identity.
pub fn joiner(token: &JoinToken) -> Client {
    let place = Place {
        url: token.url.clone(),
        ca: token.ca.clone(),
    };
    place.client(&Bearer::new(token.bearer.clone())).unwrap()
}

pub struct Broker {
    pub client: Client,
    pub url: String,
    pub address: SocketAddr,
    /// Of a broker that does not say itself where its certificate comes from.
    kubeconfig: Option<PathBuf>,
    server: ApiServer,
    controllers: JoinHandle<()>,
    shutdown: Shutdown,
}

impl Broker {
    /// One over this folder. At `address`, or at any. Its controllers have the rights that deploy/broker
    /// gives them, no more.
    pub async fn start(data: &TempDir, address: Option<SocketAddr>) -> Self {
        let broker = Self::start_idle(data, address).await;
        for file in [
            "broker/namespace.yaml",
            "broker/member-roles.yaml",
            "broker/broker.yaml",
        ] {
            broker.apply(file).await;
        }
        let client = broker.account().await;
        let shutdown = broker.shutdown.clone();
        let (prepared, ready) = tokio::sync::oneshot::channel();
        let controllers = tokio::spawn(async move {
            let controllers = Controllers::new(client, Settings::default());
            controllers
                .run(shutdown, move || prepared.send(()).unwrap())
                .await
                .unwrap();
        });
        ready.await.unwrap();
        Self {
            controllers,
            ..broker
        }
    }

    /// One whose controllers do not run.
    pub async fn start_idle(data: &TempDir, address: Option<SocketAddr>) -> Self {
        strait_daemon::client::install_crypto();
        if let Some(assets) = strait_envtest::here() {
            return Self::start_in_a_cluster(&assets, data, address).await;
        }
        let args = ServeArgs {
            standalone: true,
            data_dir: data.path().to_owned(),
            listen: vec![address.unwrap_or_else(|| "127.0.0.1:0".parse().unwrap())],
            listen_fds: vec![],
            tls_names: vec![],
            advertise: None,
            node_pools: vec![],
            metrics_listen: None,
            probe_socket: None,
            audit_log_path: None,
        };
        // The port of a server that has just ended may be taken for a moment longer.
        let started = until("starting the broker", || async {
            Standalone::start(&args).await.map_err(|e| format!("{e:#}"))
        })
        .await;
        let address = started.server.addr().unwrap();
        Self {
            client: started.client,
            url: started.url,
            address,
            kubeconfig: None,
            server: ApiServer::Ours(started.server),
            controllers: tokio::spawn(async {}),
            shutdown: Shutdown::default(),
        }
    }

    /// One in a cluster that is there for other things, too.
    async fn start_in_a_cluster(assets: &Path, data: &TempDir, address: Option<SocketAddr>) -> Self {
        let port = address.map(|a| a.port());
        let server = ApiServer::real_over(assets, data.path(), port).await;
        server.apply(&rights("broker/namespace.yaml")).await;
        let ApiServer::Real(plane) = &server else {
            panic!("asked for a real one")
        };
        let kubeconfig = data.path().join("admin.kubeconfig");
        std::fs::write(&kubeconfig, plane.kubeconfig(strait_envtest::Client::Admin)).unwrap();
        let url = plane.url().to_owned();
        Self {
            client: server.admin().await,
            address: url.trim_start_matches("https://").parse().unwrap(),
            url,
            kubeconfig: Some(kubeconfig),
            server,
            controllers: tokio::spawn(async {}),
            shutdown: Shutdown::default(),
        }
    }

    /// Accounts and roles of a file in deploy/.
    pub async fn apply(&self, file: &str) {
        self.server.apply(&rights(file)).await;
    }

    /// The controllers' own account.
    pub async fn account(&self) -> Client {
        self.server
            .account(names::BROKER_NAMESPACE, "strait-broker")
            .await
    }

    pub async fn stop(self) {
        self.shutdown.trigger();
        self.controllers.await.unwrap();
        self.server.stop().await;
    }

    pub async fn token(&self, preapprove: Option<&str>) -> JoinToken {
        self.token_for(preapprove, Duration::from_secs(3600)).await
    }

    pub async fn token_for(&self, preapprove: Option<&str>, ttl: Duration) -> JoinToken {
        let args = TokenCreateArgs {
            ttl,
            preapprove: preapprove.map(|id| id.parse().unwrap()),
            // Members of a test reach it where no others would.
            url: self.kubeconfig.is_some().then(|| self.url.clone()),
        };
        let made = create_token(&self.client, self.kubeconfig.as_deref(), &args)
            .await
            .unwrap();
        JoinToken::decode(&made.token).unwrap()
    }

    pub fn requests(&self) -> Api<JoinRequest> {
        Api::namespaced(self.client.clone(), names::BROKER_NAMESPACE)
    }

    pub fn members(&self) -> Api<Member> {
        Api::all(self.client.clone())
    }

    /// Waits until the request is in this state, and returns it.
    pub async fn request_where(&self, name: &str, holds: impl Fn(&JoinRequest) -> bool) -> JoinRequest {
        until("the join request", || async {
            let request = self.requests().get(name).await.map_err(|e| e.to_string())?;
            if holds(&request) {
                Ok(request)
            } else {
                Err(format!("{request:?}"))
            }
        })
        .await
    }

    pub async fn accept(&self, name: &str) -> JoinRequest {
        let request = self
            .request_where(name, |r| r.status.as_ref().is_some_and(|s| s.state.is_some()))
            .await;
        let fingerprint = request.spec.claim.as_ref().map(|c| c.key_fingerprint.clone());
        let args = AcceptArgs {
            name: name.to_owned(),
            fingerprint,
            yes: true,
            ..AcceptArgs::default()
        };
        accept(&self.client, &request, &args).await.unwrap();
        request
    }
}

/// A member cluster, or one that wants to be.
pub struct Home {
    pub id: String,
    pub client: Client,
    pub pods: String,
    /// With the rights that deploy/base gives the agent, no more.
    pub agent_client: Client,
    server: ApiServer,
    agent: Option<(Shutdown, JoinHandle<()>)>,
}

impl Home {
    /// A cluster with two nodes whose pods' prefixes lie in 10.`n`.0.0/16.
    pub async fn start(id: &str, n: u8) -> Self {
        strait_daemon::client::install_crypto();
        let server = ApiServer::start().await;
        let client = server.admin().await;
        server.apply(&rights("base/namespace.yaml")).await;
        server.apply(&rights("base/agent.yaml")).await;
        let agent_client = server.account(names::NAMESPACE, "strait-agent").await;
        let home = Self {
            id: id.to_owned(),
            client,
            pods: format!("10.{n}.0.0/16"),
            agent_client,
            server,
            agent: None,
        };
        let nodes: Api<Node> = Api::all(home.client.clone());
        for (name, pods) in [
            ("one", format!("10.{n}.0.0/17")),
            ("two", format!("10.{n}.128.0/17")),
        ] {
            let node = json!({"metadata": {"name": name}, "spec": {"podCIDR": pods, "podCIDRs": [pods]}});
            nodes
                .create(&PostParams::default(), &serde_json::from_value(node).unwrap())
                .await
                .unwrap();
        }
        home
    }

    pub fn options(&self) -> JoinOptions {
        JoinOptions {
            cluster_id: self.id.parse().unwrap(),
            pod_cidrs: vec![],
            service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
            vip_cidrs: vec![],
            namespace: names::NAMESPACE.to_owned(),
            timeout: PATIENCE,
        }
    }

    pub async fn join(&self, token: &JoinToken) -> Result<Joined, BrokerError> {
        join(&self.client, token, &self.options(), |_| {}).await
    }

    /// Begins to join; what it shows of its key once it waits.
    pub async fn begin_to_join(
        &self,
        token: &JoinToken,
    ) -> (JoinHandle<Result<Joined, BrokerError>>, String) {
        let (told, mut fingerprints) = tokio::sync::mpsc::unbounded_channel();
        let (client, token, options) = (self.client.clone(), token.clone(), self.options());
        let joining = tokio::spawn(async move {
            join(&client, &token, &options, |p| {
                if let Progress::Waiting { fingerprint, .. } = p {
                    told.send(fingerprint).unwrap();
                }
            })
            .await
        });
        let shown = fingerprints.recv().await.unwrap();
        (joining, shown)
    }

    /// Joins with a token made out to it.
    pub async fn join_at(&self, broker: &Broker) -> Joined {
        let token = broker.token(Some(&self.id)).await;
        self.join(&token).await.unwrap()
    }

    /// A connection with its credential, without its agent.
    pub async fn connect(&self) -> Connection {
        Membership::load(&self.client, names::NAMESPACE)
            .await
            .unwrap()
            .connect()
            .await
            .unwrap()
    }

    pub fn start_agent(&mut self) {
        assert!(self.agent.is_none());
        let shutdown = Shutdown::default();
        let settings = mirror::Settings {
            namespace: names::NAMESPACE.to_owned(),
            identity: format!("{}-agent", self.id),
            metrics: mirror::Metrics::default(),
        };
        let run = mirror::run(self.agent_client.clone(), settings, shutdown.clone());
        self.agent = Some((shutdown, tokio::spawn(run)));
    }

    pub async fn stop_agent(&mut self) {
        let (shutdown, agent) = self.agent.take().unwrap();
        shutdown.trigger();
        agent.await.unwrap();
    }

    pub async fn stop(mut self) {
        if self.agent.is_some() {
            self.stop_agent().await;
        }
        self.server.stop().await;
    }

    pub fn clusters(&self) -> Api<Cluster> {
        Api::namespaced(self.client.clone(), names::NAMESPACE)
    }

    pub fn gateways(&self) -> Api<Gateway> {
        Api::namespaced(self.client.clone(), names::NAMESPACE)
    }

    pub fn services(&self) -> Api<ExportedService> {
        Api::namespaced(self.client.clone(), names::NAMESPACE)
    }

    pub fn members(&self) -> Api<Member> {
        Api::all(self.client.clone())
    }

    /// Exports a service behind one address, as the agent's service controllers would.
    pub async fn export(&self, service: &str, address: &str) {
        let object = exported_service(&self.id, service, address);
        self.services()
            .create(&PostParams::default(), &object)
            .await
            .unwrap();
    }

    /// Waits until all copies here, of clusters, gateways and services, have exactly these names.
    pub async fn copies(&self, wanted: &[&str]) {
        until(&format!("the copies in {}", self.id), || async {
            let have = self.copies_now().await;
            if have == wanted {
                Ok(())
            } else {
                Err(format!("{have:?}, not {wanted:?}"))
            }
        })
        .await;
    }

    pub async fn copies_now(&self) -> Vec<String> {
        let copies = kube::api::ListParams::default().labels(names::LABEL_CLUSTER);
        let mut have: Vec<String> = vec![];
        have.extend(
            self.clusters()
                .list(&copies)
                .await
                .unwrap()
                .items
                .iter()
                .map(|o| o.name_any()),
        );
        have.extend(
            self.gateways()
                .list(&copies)
                .await
                .unwrap()
                .items
                .iter()
                .map(|o| o.name_any()),
        );
        have.extend(
            self.services()
                .list(&copies)
                .await
                .unwrap()
                .items
                .iter()
                .map(|o| o.name_any()),
        );
        have.sort();
        have
    }

    /// Waits for a condition of the own Cluster record.
    pub async fn connected(&self, status: &str) -> String {
        until(&format!("Connected={status} in {}", self.id), || async {
            let own = self.clusters().get(&self.id).await.map_err(|e| e.to_string())?;
            let conditions = own.status.unwrap_or_default().conditions;
            let condition = conditions.iter().find(|c| c.type_ == "Connected");
            match condition {
                Some(c) if c.status == status => Ok(c.reason.clone()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }
}

pub fn exported_service(cluster: &str, service: &str, address: &str) -> ExportedService {
    let object = json!({
        "apiVersion": "strait.dev/v1alpha1", "kind": "ExportedService",
        "metadata": {"name": format!("{service}.demo")},
        "spec": {
            "clusterId": cluster, "namespace": "demo", "name": service, "type": "ClusterSetIP",
            "ports": [{"name": "http", "protocol": "TCP", "port": 80}], "ipFamilies": ["IPv4"],
            "exportedAt": "2026-01-01T00:00:00Z",
            "endpoints": [{"family": "IPv4", "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
                "endpoints": [{"address": address, "ready": true, "serving": true, "terminating": false}]}],
        }
    });
    serde_json::from_value(object).unwrap()
}

pub fn gateway(cluster: &str, node: &str, overlay: &[&str]) -> Gateway {
    let object = json!({
        "apiVersion": "strait.dev/v1alpha1", "kind": "Gateway",
        "metadata": {"name": node},
        "spec": {
            "clusterId": cluster, "node": node, "udpPort": 4510, "addresses": {"private": ["192.0.2.1"]},
            "keys": [{"slot": 0, "publicKeys": ["BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="]}],
            "overlayAddresses": overlay,
        }
    });
    serde_json::from_value(object).unwrap()
}
