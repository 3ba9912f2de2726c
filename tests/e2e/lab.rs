//! A lab, driven through the command line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use strait_api::names::NAMESPACE;
use tokio::runtime::Runtime;

/// The port that every server pod serves on.
pub(crate) const PORT: u16 = 8080;
/// How long anything may take that should come true.
const PATIENCE: Duration = Duration::from_secs(30);

/// A lab of this test's own; taken down when dropped.
pub(crate) struct Lab {
    name: String,
    runtime: Runtime,
}

/// What a client saw, as the lab's tools print it.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Fetched {
    pub(crate) cluster: String,
    pub(crate) pod: String,
    pub(crate) client_ip: IpAddr,
}

impl Lab {
    /// Brings a lab up.
    pub(crate) fn up(flags: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "e2e-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let lab = Self { name, runtime };
        let up: Vec<&str> = ["lab", "up"].iter().chain(flags).copied().collect();
        lab.strait(&up)
            .unwrap_or_else(|e| panic!("the lab does not come up:\n{e}"));
        lab
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs `strait` on this lab; its standard output, or its complaint.
    pub(crate) fn strait(&self, args: &[&str]) -> Result<String, String> {
        let output = self.command(args);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(format!(
                "strait {args:?}: {}\n{}{}",
                output.status,
                text(&output.stdout),
                text(&output.stderr)
            ))
        }
    }

    fn command(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_strait"))
            .args(args)
            .env("STRAIT_LAB", &self.name)
            .env("STRAIT_LOG", "info")
            .output()
            .unwrap()
    }

    /// Runs one of the lab's tools in a pod or on a node.
    pub(crate) fn tool<T: DeserializeOwned>(&self, place: &str, args: &[&str]) -> Result<T, String> {
        let binary = env!("CARGO_BIN_EXE_strait");
        let all: Vec<&str> = ["lab", "exec", place, "--", binary, "lab-tool"]
            .iter()
            .chain(args)
            .copied()
            .collect();
        serde_json::from_str(&self.strait(&all)?).map_err(|e| format!("{args:?}: {e}"))
    }

    /// Starts a pod with the lab's server in it, labelled `app=<app>`; its addresses.
    pub(crate) fn serve(&self, node: &str, pod: &str, namespace: &str, app: &str) -> Vec<IpAddr> {
        self.try_serve(node, pod, namespace, app)
            .unwrap_or_else(|e| panic!("{e}"))
    }

    /// The same where something may be down. A pod of this name may be there already.
    pub(crate) fn try_serve(
        &self,
        node: &str,
        pod: &str,
        namespace: &str,
        app: &str,
    ) -> Result<Vec<IpAddr>, String> {
        let (binary, port, label) = (
            env!("CARGO_BIN_EXE_strait"),
            PORT.to_string(),
            format!("app={app}"),
        );
        let out = self.strait(&[
            "lab",
            "run",
            node,
            pod,
            "--namespace",
            namespace,
            "--labels",
            &label,
            "--port",
            &port,
            "--",
            binary,
            "lab-tool",
            "serve",
            "--port",
            &port,
        ])?;
        out.lines()
            .map(|l| l.parse().map_err(|e| format!("{l:?}: {e}")))
            .collect()
    }

    /// Starts a pod that only waits; its addresses.
    pub(crate) fn idle(&self, node: &str, pod: &str) -> Vec<IpAddr> {
        self.run(&["lab", "run", node, pod])
    }

    fn run(&self, args: &[&str]) -> Vec<IpAddr> {
        let out = self.strait(args).unwrap_or_else(|e| panic!("{e}"));
        out.lines().map(|l| l.parse().unwrap()).collect()
    }

    /// Fetches the page over TCP.
    pub(crate) fn get(&self, place: &str, server: SocketAddr) -> Result<Fetched, String> {
        self.tool(place, &["get", &server.to_string(), "--timeout", "3"])
    }

    /// Asks the echo over UDP.
    pub(crate) fn udp(&self, place: &str, server: SocketAddr) -> Result<Fetched, String> {
        self.tool(place, &["udp", &server.to_string(), "--timeout", "3"])
    }

    /// Asks a cluster's DNS server; the addresses, none where the name does not exist.
    pub(crate) fn resolve(
        &self,
        place: &str,
        cluster: &str,
        name: &str,
        v6: bool,
    ) -> Result<Vec<IpAddr>, String> {
        let server = self.dns_server(cluster).to_string();
        let mut args = vec!["resolve", name, "--server", &server];
        if v6 {
            args.push("--aaaa");
        }
        let answer: Value = self.tool(place, &args)?;
        serde_json::from_value(answer["addresses"].clone()).map_err(|e| format!("{answer}: {e}"))
    }

    /// Where a cluster's DNS server listens: the endpoint of its Service.
    fn dns_server(&self, cluster: &str) -> SocketAddr {
        let api: Api<EndpointSlice> = Api::namespaced(self.client(cluster), NAMESPACE);
        let of = ListParams::default().labels("kubernetes.io/service-name=strait-dns");
        eventually("an endpoint of strait-dns", || {
            let slices = self.wait(api.list(&of)).map_err(|e| e.to_string())?;
            let found = slices.items.iter().find_map(|slice| {
                let address = slice.endpoints.first()?.addresses.first()?.parse().ok()?;
                let port = slice.ports.as_ref()?.first()?.port?;
                Some(SocketAddr::new(address, u16::try_from(port).ok()?))
            });
            found.ok_or_else(|| "none yet".to_owned())
        })
    }

    /// `lab status`.
    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(
            &self
                .strait(&["lab", "status", "--output", "json"])
                .unwrap_or_else(|e| panic!("{e}")),
        )
        .unwrap()
    }

    /// The packets for pods that reached the router in clear text.
    pub(crate) fn leaks(&self) -> Value {
        self.status()["leaks"].clone()
    }

    /// The kubeconfig of a cluster, or of `broker`.
    pub(crate) fn kubeconfig(&self, cluster: &str) -> PathBuf {
        let path = self
            .strait(&["lab", "kubeconfig", cluster, "--path"])
            .unwrap_or_else(|e| panic!("{e}"));
        PathBuf::from(path.trim())
    }

    /// A client of a cluster's API server.
    pub(crate) fn client(&self, cluster: &str) -> Client {
        let path = self.kubeconfig(cluster);
        self.runtime
            .block_on(strait_daemon::client::connect(Some(&path), "strait-test"))
            .unwrap()
    }

    /// Runs something asynchronous.
    pub(crate) fn wait<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// Applies an object.
    fn try_apply<K>(&self, cluster: &str, namespace: &str, object: Value) -> Result<(), String>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let api: Api<K> = Api::namespaced(self.client(cluster), namespace);
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let params = PatchParams::apply("e2e").force();
        self.wait(api.patch(&name, &params, &Patch::Apply(object)))
            .map(|_| ())
            .map_err(|e| format!("{cluster}: {e}"))
    }

    /// Deletes an object.
    pub(crate) fn delete<K>(&self, cluster: &str, namespace: &str, name: &str)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let api: Api<K> = Api::namespaced(self.client(cluster), namespace);
        self.wait(api.delete(name, &DeleteParams::default())).unwrap();
    }

    /// Makes a namespace in every cluster named.
    pub(crate) fn namespace(&self, clusters: &[&str], name: &str) {
        for cluster in clusters {
            let api: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(self.client(cluster));
            let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            self.wait(api.patch(name, &PatchParams::apply("e2e"), &Patch::Apply(object)))
                .unwrap();
        }
    }

    /// A Service over the pods labelled `app=<name>`, and an export of it.
    pub(crate) fn export(&self, cluster: &str, namespace: &str, name: &str) {
        self.try_export(cluster, namespace, name)
            .unwrap_or_else(|e| panic!("{e}"));
    }

    /// The same where something may be down.
    pub(crate) fn try_export(&self, cluster: &str, namespace: &str, name: &str) -> Result<(), String> {
        self.try_apply::<k8s_openapi::api::core::v1::Service>(cluster, namespace, service(name))?;
        self.try_apply::<strait_api::mcs::ServiceExport>(cluster, namespace, service_export(name))
    }
}

fn service(name: &str) -> Value {
    let port = |protocol: &str| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": 80, "targetPort": PORT});
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {
            "selector": {"app": name}, "ipFamilyPolicy": "PreferDualStack",
            "ports": [port("TCP"), port("UDP")],
        },
    })
}

fn service_export(name: &str) -> Value {
    json!({
        "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport", "metadata": {"name": name}, "spec": {},
    })
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.strait(&["lab", "logs", "supervisor"]);
            let status = self.strait(&["lab", "status"]);
            eprintln!("{}\n{}", status.unwrap_or_else(|e| e), log.unwrap_or_else(|e| e));
        }
        if let Err(e) = self.strait(&["lab", "down"]) {
            eprintln!("the lab does not go down: {e}");
        }
    }
}

/// Tries until it works; fails with the last complaint.
pub(crate) fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let started = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(e) if started.elapsed() > PATIENCE => panic!("{what}: not within {PATIENCE:?}: {e}"),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Whether something holds, as a result for [`eventually`].
pub(crate) fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// The address of this family.
pub(crate) fn of_family(addresses: &[IpAddr], v6: bool) -> IpAddr {
    *addresses
        .iter()
        .find(|a| a.is_ipv6() == v6)
        .unwrap_or_else(|| panic!("no such family in {addresses:?}"))
}
