//! The steps of the demonstration.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use strait_api::names::{LABEL_SERVICE_NAME, NAMESPACE};
use strait_daemon::stdout;

use super::place::{Places, Side};
use crate::args::Output;
use crate::control::{self, PodRequest};
use crate::dir::LabDir;
use crate::objects::{self, apply};
use crate::start::{self, Tether};
use crate::tool::{Crew, Errand, Fetched, Hop, LookedUp, Pinged, Resolved, Sent};
use crate::topology::Shape;
use crate::wait::until_blocking;

/// What is asked for.
pub(super) const NAME: &str = "web.demo.svc.clusterset.local";
const SERVICE_PORT: u16 = 80;
const SERVER_PORT: u16 = 8080;
const SINK_PORT: u16 = 5201;
/// How long an export may take to be answered in the other cluster, and a path to carry.
const PATIENCE: Duration = Duration::from_secs(20);

/// The demonstration, as far as it has come.
pub(super) struct Story {
    dir: LabDir,
    shape: Shape,
    pub(super) places: Places,
    output: Output,
    started: Instant,
    step_started: Instant,
    /// Names and seconds of the steps done.
    pub(super) steps: Vec<(String, f64)>,
    /// The step at work.
    pub(super) current: String,
    /// One for each family.
    pub(super) findings: Vec<Finding>,
    /// The end of logs, for a failure.
    pub(super) logs: Vec<String>,
    tether: Option<Tether>,
}

/// What one family's request showed.
#[derive(Debug, Clone)]
pub(super) struct Finding {
    pub(super) dns_server: SocketAddr,
    pub(super) resolved: Vec<IpAddr>,
    pub(super) client_ip: IpAddr,
    pub(super) server_ip: IpAddr,
    pub(super) page: Fetched,
    pub(super) ping: Pinged,
    pub(super) hops: Vec<Hop>,
    pub(super) sent: Sent,
}

impl Story {
    pub(super) fn new(dir: LabDir, shape: Shape, places: Places, output: Output) -> Self {
        let now = Instant::now();
        Self {
            dir,
            shape,
            places,
            output,
            started: now,
            step_started: now,
            steps: Vec::new(),
            current: "start".to_owned(),
            findings: Vec::new(),
            logs: Vec::new(),
            tether: None,
        }
    }

    /// Seconds since the start.
    pub(super) fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// All steps, and the end of them.
    pub(super) fn run(&mut self) -> Result<()> {
        let told = self.tell();
        if told.is_err() {
            self.logs = complaints(&self.dir);
        }
        let ended = self.end();
        told.and(ended)
    }

    fn tell(&mut self) -> Result<()> {
        self.begin("bring up the lab");
        let (dir, shape) = (self.dir.clone(), self.shape.clone());
        let tether = start::up(&dir, &shape, true, &mut |step| {
            self.done_as(step);
        })?;
        self.tether = Some(tether);

        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let Places { server, client, .. } = self.places.clone();
        let there = runtime.block_on(objects::client(&self.dir.kubeconfig(&server.cluster)))?;
        let here = runtime.block_on(objects::client(&self.dir.kubeconfig(&client.cluster)))?;

        self.begin(&format!(
            "start a server pod on {}/{}",
            server.cluster, server.worker
        ));
        let servers = self.start_pod(&server, "web", &[SERVER_PORT, SINK_PORT], true)?;
        self.done();
        self.begin(&format!(
            "apply Service and ServiceExport demo/web in {}",
            server.cluster
        ));
        runtime.block_on(export(&there))?;
        self.done();
        self.begin(&format!(
            "start a client pod on {}/{}",
            client.cluster, client.worker
        ));
        let clients = self.start_pod(&client, "client", &[], false)?;
        self.done();

        for (server_ip, client_ip) in servers.into_iter().zip(clients) {
            let finding = self.ask(&runtime, &here, server_ip, client_ip)?;
            self.findings.push(finding);
        }
        Ok(())
    }

    /// Resolves, fetches and measures in one family.
    fn ask(
        &mut self,
        runtime: &tokio::runtime::Runtime,
        here: &Client,
        server_ip: IpAddr,
        client_ip: IpAddr,
    ) -> Result<Finding> {
        let family = if client_ip.is_ipv4() { "IPv4" } else { "IPv6" };
        let v6 = client_ip.is_ipv6();
        let Places { server, client, .. } = self.places.clone();
        let dns = format!("{}'s DNS server", client.cluster);
        self.begin(&format!("resolve {NAME} with {dns} ({family})"));
        let dns_server = until_blocking(format!("the address of {dns}"), PATIENCE, || {
            runtime.block_on(dns_server(here, client_ip.is_ipv4()))
        })?;
        let mut question = vec!["resolve".to_owned(), NAME.to_owned()];
        question.extend(["--server".to_owned(), dns_server.to_string()]);
        if v6 {
            question.push("--aaaa".to_owned());
        }
        let resolved: Resolved = until_blocking("an answer with an address", PATIENCE, || {
            let answer: Resolved = self.in_client(&question)?;
            ensure!(
                !answer.addresses.is_empty(),
                "{dns_server} answers: {}",
                answer.code
            );
            Ok(answer)
        })?;
        self.done();

        self.begin(&format!("resolve it as any program in the pod does ({family})"));
        let looked_up: LookedUp = self.in_client(&["lookup", NAME])?;
        for address in &resolved.addresses {
            ensure!(
                looked_up.addresses.contains(address),
                "a program in the pod gets {:?}, not {address}",
                looked_up.addresses
            );
        }
        self.done();

        self.begin(&format!("fetch a page from the address answered ({family})"));
        let address = *resolved.addresses.first().context("no address")?;
        let target = SocketAddr::new(address, SERVICE_PORT).to_string();
        let page: Fetched = until_blocking("a page", PATIENCE, || {
            self.in_client(&["get", &target, "--timeout", "1"])
        })?;
        ensure!(
            page.status == 200,
            "the server answered with status {}",
            page.status
        );
        ensure!(
            page.client_ip == client_ip.to_string(),
            "the server saw {} as the client's address, not the pod's own {client_ip}",
            page.client_ip
        );
        ensure!(
            page.cluster == server.cluster && page.pod == "web",
            "pod {} of {} answered, not web of {}",
            page.pod,
            page.cluster,
            server.cluster
        );
        self.done();

        self.begin(&format!("measure the path ({family})"));
        let ping: Pinged =
            self.in_client(&["ping", &server_ip.to_string(), "--count", "20", "--timeout", "1"])?;
        let hops: Vec<Hop> = self.in_client(&["trace", &server_ip.to_string(), "--timeout", "0.5"])?;
        self.done();

        self.begin(&format!("send through the tunnel for one second ({family})"));
        let sink = SocketAddr::new(server_ip, SINK_PORT).to_string();
        let sent: Sent = self.in_client(&["send", &sink, "--duration", "1"])?;
        self.done();
        Ok(Finding {
            dns_server,
            resolved: resolved.addresses,
            client_ip,
            server_ip,
            page,
            ping,
            hops,
            sent,
        })
    }

    fn end(&mut self) -> Result<()> {
        if self.tether.take().is_none() {
            return Ok(());
        }
        let failed = std::mem::replace(&mut self.current, "take everything down".to_owned());
        self.step_started = Instant::now();
        start::down(&self.dir)?;
        self.done();
        self.current = failed;
        Ok(())
    }

    fn begin(&mut self, step: &str) {
        step.clone_into(&mut self.current);
        self.step_started = Instant::now();
    }

    fn done(&mut self) {
        let step = self.current.clone();
        self.done_as(&step);
    }

    fn done_as(&mut self, step: &str) {
        let seconds = self.step_started.elapsed().as_secs_f64();
        self.step_started = Instant::now();
        self.steps.push((step.to_owned(), seconds));
        if self.output == Output::Text {
            // Whoever read it may be gone; the story goes on to its end, which takes all down.
            let _ = stdout::print(&format!("{:6.2}s  {step}", self.seconds()));
        }
    }

    fn start_pod(&self, side: &Side, name: &str, ports: &[u16], serve: bool) -> Result<Vec<IpAddr>> {
        let mut argv = Vec::new();
        if serve {
            let (port, sink) = (SERVER_PORT.to_string(), SINK_PORT.to_string());
            let serve = ["strait", "lab-tool", "serve", "--port", &port, "--sink", &sink];
            argv.extend(serve.map(str::to_owned));
        }
        let request = PodRequest {
            cluster: side.cluster.clone(),
            node: side.worker.clone(),
            namespace: "demo".to_owned(),
            name: name.to_owned(),
            labels: [("app".to_owned(), name.to_owned())].into(),
            ports: ports.to_vec(),
            argv,
        };
        let started = control::run_pod(&self.dir, request)?;
        Ok(self.places.usable(started.addresses))
    }

    /// Runs a tool in the client's pod.
    fn in_client<T: DeserializeOwned>(&self, args: &[impl AsRef<str>]) -> Result<T> {
        let place = format!("{}/client", self.places.client.cluster);
        Errand::start(&Crew::default(), &self.dir, &place, args)?.result()
    }
}

async fn export(cluster: &Client) -> Result<()> {
    let service: Value = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "web", "namespace": "demo" },
        "spec": {
            "selector": { "app": "web" },
            "ipFamilyPolicy": "PreferDualStack",
            "ports": [{ "name": "http", "port": SERVICE_PORT, "targetPort": SERVER_PORT, "protocol": "TCP" }],
        },
    });
    apply(cluster, &service).await?;
    apply(
        cluster,
        &json!({
            "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport",
            "metadata": { "name": "web", "namespace": "demo" },
        }),
    )
    .await
}

/// Where a cluster's DNS server answers: a ready endpoint of its Service.
async fn dns_server(client: &Client, v4: bool) -> Result<SocketAddr> {
    let of = ListParams::default().labels(&format!("{LABEL_SERVICE_NAME}=strait-dns"));
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), NAMESPACE)
        .list(&of)
        .await?;
    for slice in slices {
        let ports = slice.ports.unwrap_or_default();
        let udp = ports
            .iter()
            .find(|p| p.protocol.as_deref() == Some("UDP"))
            .and_then(|p| p.port);
        let ready = slice
            .endpoints
            .iter()
            .filter(|e| e.conditions.as_ref().is_some_and(|c| c.ready == Some(true)))
            .flat_map(|e| &e.addresses);
        for address in ready {
            let address: IpAddr = address.parse()?;
            if let Some(port) = udp.and_then(|p| u16::try_from(p).ok())
                && address.is_ipv4() == v4
            {
                return Ok(SocketAddr::new(address, port));
            }
        }
    }
    bail!("the Service strait-system/strait-dns has no ready endpoint")
}

/// Warnings and errors at the end of every log.
fn complaints(dir: &LabDir) -> Vec<String> {
    const EACH: usize = 4;
    let mut lines = Vec::new();
    for name in dir.logged() {
        let text = std::fs::read_to_string(dir.log(&name)).unwrap_or_default();
        let bad: Vec<&str> = text
            .lines()
            .filter(|l| {
                ["WARN", "ERROR", "panicked", "strait: "]
                    .iter()
                    .any(|mark| l.contains(mark))
            })
            .collect();
        let from = bad.len().saturating_sub(EACH);
        lines.extend(bad[from..].iter().map(|l| format!("{name}: {l}")));
    }
    lines
}
