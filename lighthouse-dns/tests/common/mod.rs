//! A cluster's API server, ours in this process or in a rerun a real one, with what users and Kubernetes would put into it.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

#[path = "../../../tests/support/cluster.rs"]
mod cluster;
mod elsewhere;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use cluster::ApiServer;
use http::{Request, Response, StatusCode};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::client::Body;
use kube::core::NamespaceResourceScope;
use kube::{Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use strait_api::mcs::{ServiceExport, ServiceImport};
use strait_api::names;
use strait_api::records::{Cluster, ExportedService, Member};
use strait_daemon::Shutdown;
use strait_lighthouse_dns::controllers::{self, Settings};

/// What everything must have happened by.
pub const LIMIT: Duration = Duration::from_secs(15);

/// Waits until `what` gives something.
pub async fn until<T, F: Future<Output = Option<T>>>(name: &str, what: impl Fn() -> F) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = what().await {
            return found;
        }
        assert!(started.elapsed() < LIMIT, "did not come to pass in time: {name}");
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

/// Requests that a test looks at or answers itself.
#[derive(Debug, Default)]
pub struct Wire {
    /// `METHOD path` of every write.
    pub writes: Vec<String>,
    /// Requests whose `METHOD path` contains this are refused.
    pub refuse: Option<String>,
}

/// One member cluster.
pub struct World {
    pub id: String,
    _server: ApiServer,
    /// What users and Kubernetes use.
    pub direct: Client,
    /// What the controllers use: the agent's service account, with its roles from deploy/.
    pub client: Client,
    /// What the DNS server uses, likewise.
    pub dns_client: Client,
    pub wire: Arc<Mutex<Wire>>,
    pub shutdown: Shutdown,
    running: Option<tokio::task::JoinHandle<()>>,
}

impl World {
    /// A cluster with pods in 10.<net>.0.0/16, with the namespace `demo`.
    pub async fn new(id: &str, net: u8) -> Self {
        let server = ApiServer::start().await;
        let elsewhere = elsewhere::needed();
        if elsewhere {
            server.apply(elsewhere::DEFINITION).await;
        }
        let there = |text: String| if elsewhere { elsewhere::there(&text) } else { text };
        let client = |client: Client| {
            if elsewhere {
                elsewhere::unaware(client)
            } else {
                client
            }
        };
        for role in ["agent", "dns"] {
            server.apply(&there(roles(role))).await;
        }
        let wire = Arc::new(Mutex::new(Wire::default()));
        let direct = client(server.admin().await);
        let controllers = client(server.account(names::NAMESPACE, "strait-agent").await);
        let world = Self {
            id: id.to_owned(),
            client: tap(controllers, wire.clone()),
            dns_client: client(server.account(names::NAMESPACE, "strait-dns").await),
            _server: server,
            direct,
            wire,
            shutdown: Shutdown::default(),
            running: None,
        };
        world.namespace("demo").await;
        world.namespace(names::NAMESPACE).await;
        world.member("blue", 1).await;
        world.member("green", 2).await;
        world.cluster(id, net, None).await;
        world
    }

    pub fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.direct.clone(), namespace)
    }

    async fn apply<K>(&self, api: Api<K>, object: Value)
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug,
    {
        let mut object = object;
        object["apiVersion"] = K::api_version(&()).into();
        object["kind"] = K::kind(&()).into();
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        api.patch(&name, &PatchParams::apply("user").force(), &Patch::Apply(&object))
            .await
            .unwrap();
    }

    pub async fn namespace(&self, name: &str) {
        let api: Api<Namespace> = Api::all(self.direct.clone());
        self.apply(api, json!({ "metadata": { "name": name } })).await;
    }

    pub async fn member(&self, id: &str, net: u8) {
        let api: Api<Member> = Api::all(self.direct.clone());
        let spec = json!({
            "clusterId": id, "uid": format!("uid-{id}"), "prefixes": [format!("10.{net}.0.0/16")],
            "exportNamespaces": ["*"], "state": "Active", "epoch": 1, "admittedAt": format!("2026-01-0{net}T00:00:00Z"),
        });
        self.apply(api, json!({ "metadata": { "name": id }, "spec": spec }))
            .await;
    }

    /// The record of a cluster: the own one, or a copy.
    pub async fn cluster(&self, id: &str, net: u8, owner: Option<&str>) {
        let name = owner.map_or(id.to_owned(), |o| format!("{o}.{id}"));
        let labels = owner.map(|o| json!({ names::LABEL_CLUSTER: o }));
        let spec = json!({ "clusterId": id, "podCidrs": [format!("10.{net}.0.0/16")], "vipCidrs": ["243.0.0.0/16"] });
        self.apply(
            self.api::<Cluster>(names::NAMESPACE),
            json!({ "metadata": { "name": name, "labels": labels }, "spec": spec }),
        )
        .await;
    }

    pub async fn service(&self, name: &str) {
        let spec = json!({
            "selector": { "app": name }, "ipFamilies": ["IPv4"],
            "ports": [{ "name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP" }],
        });
        self.apply(
            self.api::<Service>("demo"),
            json!({ "metadata": { "name": name }, "spec": spec }),
        )
        .await;
    }

    /// The Service's endpoints, as Kubernetes' own controller would write them.
    pub async fn endpoints(&self, service: &str, addresses: &[&str]) {
        let endpoints: Vec<Value> = addresses
            .iter()
            .map(|a| json!({ "addresses": [a], "conditions": { "ready": true, "serving": true, "terminating": false }, "nodeName": "worker" }))
            .collect();
        let slice = json!({
            "metadata": {
                "name": format!("{service}-x1"),
                "labels": { "kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io" },
            },
            "addressType": "IPv4",
            "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
            "endpoints": endpoints,
        });
        self.apply(self.api::<EndpointSlice>("demo"), slice).await;
    }

    pub async fn export(&self, name: &str) {
        self.apply(
            self.api::<ServiceExport>("demo"),
            json!({ "metadata": { "name": name }, "spec": {} }),
        )
        .await;
    }

    pub async fn delete<K>(&self, namespace: &str, name: &str)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
    {
        self.api::<K>(namespace)
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
    }

    pub async fn create<K>(&self, namespace: &str, object: &K)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Serialize
            + DeserializeOwned
            + Clone
            + Debug,
    {
        self.api::<K>(namespace)
            .create(&PostParams::default(), object)
            .await
            .unwrap();
    }

    /// Starts the controllers.
    pub fn start(&mut self) {
        self.shutdown = Shutdown::default();
        let run = controllers::run(self.client.clone(), Settings::default(), self.shutdown.clone());
        self.running = Some(tokio::spawn(run));
    }

    /// Stops the controllers.
    pub async fn stop(&mut self) {
        self.shutdown.trigger();
        if let Some(running) = self.running.take() {
            tokio::time::timeout(LIMIT, running).await.unwrap().unwrap();
        }
    }

    pub async fn import(&self, name: &str) -> Option<ServiceImport> {
        self.api::<ServiceImport>("demo").get_opt(name).await.unwrap()
    }

    pub async fn record(&self, name: &str) -> Option<ExportedService> {
        self.api::<ExportedService>(names::NAMESPACE)
            .get_opt(name)
            .await
            .unwrap()
    }

    /// Our slices of a service.
    pub async fn slices(&self, service: &str) -> Vec<EndpointSlice> {
        let ours = ListParams::default().labels(&format!("{}={service}", names::LABEL_MCS_SERVICE));
        self.api::<EndpointSlice>("demo").list(&ours).await.unwrap().items
    }

    /// `cluster address` of everything in our slices of a service that is ready.
    pub async fn backends(&self, service: &str) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        for slice in self.slices(service).await {
            let cluster = slice.labels()[names::LABEL_MCS_CLUSTER].clone();
            for e in &slice.endpoints {
                if e.conditions.as_ref().unwrap().ready == Some(true) {
                    all.insert(format!("{cluster} {}", e.addresses[0]));
                }
            }
        }
        all
    }

    pub async fn backends_are(&self, service: &str, wanted: &[&str]) {
        let wanted: BTreeSet<String> = wanted.iter().map(|s| (*s).to_owned()).collect();
        until(
            &format!("{service} in {} has backends {wanted:?}", self.id),
            || async { (self.backends(service).await == wanted).then_some(()) },
        )
        .await;
    }

    /// `status reason` of a condition of an export.
    pub async fn export_condition(&self, name: &str, type_: &str) -> Option<(String, String)> {
        let export = self.api::<ServiceExport>("demo").get_opt(name).await.unwrap()?;
        let c = export.status?.conditions.into_iter().find(|c| c.type_ == type_)?;
        Some((format!("{} {}", c.status, c.reason), c.message))
    }

    pub async fn export_is(&self, name: &str, type_: &str, wanted: &str) -> String {
        until(&format!("{name}'s condition {type_} is {wanted}"), || async {
            let (is, message) = self.export_condition(name, type_).await?;
            (is == wanted).then_some(message)
        })
        .await
    }

    pub fn writes(&self) -> Vec<String> {
        self.wire.lock().unwrap().writes.clone()
    }

    pub fn refuse(&self, what: Option<&str>) {
        self.wire.lock().unwrap().refuse = what.map(str::to_owned);
    }
}

/// The namespace, and what of a role's manifest says who may do what.
fn roles(role: &str) -> String {
    let file = format!("{}/../deploy/base/{role}.yaml", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(file).unwrap();
    let namespace = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {}\n",
        names::NAMESPACE
    );
    let rights = text.split("\n---\n").filter(|d| {
        d.contains("\nkind: ServiceAccount\n")
            || d.contains("\nkind: Role")
            || d.contains("\nkind: ClusterRole")
    });
    let documents: Vec<&str> = std::iter::once(namespace.as_str()).chain(rights).collect();
    assert!(documents.len() > 3, "{role}.yaml holds no roles");
    documents.join("\n---\n")
}

/// A client whose requests a test sees, and may refuse.
fn tap(inner: Client, wire: Arc<Mutex<Wire>>) -> Client {
    Client::new(Tap { inner, wire }, "default")
}

#[derive(Clone)]
struct Tap {
    inner: Client,
    wire: Arc<Mutex<Wire>>,
}

impl tower::Service<Request<Body>> for Tap {
    type Response = Response<Body>;
    type Error = tower::BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let line = format!("{} {}", request.method(), request.uri().path());
        let refused = {
            let mut wire = self.wire.lock().unwrap();
            if request.method() != http::Method::GET {
                wire.writes.push(line.clone());
            }
            wire.refuse.as_ref().is_some_and(|r| line.contains(r))
        };
        if refused {
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403,
                "message": "refused by the test",
            });
            let response = Response::builder()
                .status(StatusCode::FORBIDDEN)
                .header("content-type", "application/json")
                .body(Body::from(status.to_string().into_bytes()))
                .unwrap();
            return Box::pin(async move { Ok(response) });
        }
        let client = self.inner.clone();
        Box::pin(async move { Ok(client.send(request).await?) })
    }
}
