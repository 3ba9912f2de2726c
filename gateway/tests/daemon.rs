//! Two clusters' gateways as real processes, each in a network namespace of its own, with real API servers
//! between which this test plays the mirror. The gateways may do what deploy/ allows them, and no more.
//!
//! Without a test harness, as a user namespace can only be entered while there is one thread.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use clap::Parser as _;
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource};
use serde_json::{Value, json};
use strait_api::names::{LABEL_CLUSTER, NAMESPACE, copy_name};
use strait_api::records::{Cluster, Gateway, Member};
use strait_apiserver::{Config, Server, Tls, User, kubeconfig};
use strait_linux::link::{Links, VethEnd};
use strait_linux::netns::Netns;
use strait_linux::testing::enter_namespaces;
use strait_linux::tun;

const PATIENCE: Duration = Duration::from_secs(30);
const NODE: &str = "gw";

#[derive(clap::Parser)]
struct GatewayCommand {
    #[command(flatten)]
    args: strait_gateway::Args,
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some("gateway") {
        tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .init();
        let GatewayCommand { args } = GatewayCommand::parse_from(std::env::args().skip(1));
        if let Err(error) = strait_gateway::run(args) {
            eprintln!("gateway: {error:#}");
            std::process::exit(1);
        }
        return;
    }
    let filter = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'));
    let listing = std::env::args().any(|argument| argument == "--list");
    if listing || filter.is_some_and(|filter| !"daemon".contains(&filter)) {
        return;
    }
    enter_namespaces();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    runtime.block_on(story(dir.path()));
    println!("\ntest result: ok.");
}

fn step(name: &str, since: &mut Instant) {
    println!("test {name} ... ok ({:.2?})", since.elapsed());
    *since = Instant::now();
}

async fn story(dir: &Path) {
    let mut clock = Instant::now();
    let bridge = Bridge::new();
    let mut blue = Site::new("blue", 1, &bridge, dir).await;
    let mut green = Site::new("green", 2, &bridge, dir).await;
    for (site, other) in [(&blue, &green), (&green, &blue)] {
        site.knows(other).await;
    }

    blue.start();
    green.start();
    let (blue_record, green_record) = (blue.published().await, green.published().await);
    assert_eq!(
        blue_record.spec.addresses.private,
        ["192.0.2.1".parse::<IpAddr>().unwrap()]
    );
    assert_eq!(
        blue_record.spec.overlay_addresses,
        ["240.0.1.1".parse::<IpAddr>().unwrap()]
    );
    assert_eq!(blue_record.spec.udp_port, 4510);
    let keys = |record: &Gateway| record.spec.keys[0].public_keys.len();
    assert_eq!((keys(&blue_record), keys(&green_record)), (3, 2));
    step("each gateway publishes its record", &mut clock);

    green.mirror(&blue, &blue_record).await;
    blue.mirror(&green, &green_record).await;
    let known = Instant::now();
    for site in [&blue, &green] {
        until("both tell of the tunnel", || async {
            let status = site.published().await.status?;
            let tunnel = status.tunnels.first()?;
            let told = tunnel.last_handshake.is_some() && tunnel.endpoint.is_some();
            // Blue could have a third.
            (status.up == 1 && told && (tunnel.lanes, tunnel.lanes_up) == (2, 2)).then_some(())
        })
        .await;
    }
    assert!(
        known.elapsed() < Duration::from_secs(5),
        "the tunnel took {:?}",
        known.elapsed()
    );
    step("a peer's record makes a tunnel", &mut clock);

    blue.address_tun();
    green.address_tun();
    exchange(&blue, &green);
    exchange(&green, &blue);
    let metrics = blue.probe_socket("/metrics").unwrap();
    for line in [
        r#"strait_gateway_tunnel_up{tunnel="green/gw"} 1"#,
        r#"strait_gateway_tunnel_lanes_up{tunnel="green/gw"} 2"#,
        r#"strait_gateway_tunnel_rx_bytes_total{tunnel="green/gw"}"#,
    ] {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }
    step("packets cross and are counted", &mut clock);

    // As gateways without lanes publish it.
    let first_key = |record: &Gateway| {
        let mut record = record.clone();
        record.spec.keys[0].public_keys.truncate(1);
        record
    };
    green.mirror(&blue, &first_key(&blue_record)).await;
    blue.mirror(&green, &first_key(&green_record)).await;
    lanes(&[&blue, &green], 1).await;
    exchange(&blue, &green);
    exchange(&green, &blue);
    green.mirror(&blue, &blue_record).await;
    blue.mirror(&green, &green_record).await;
    lanes(&[&blue, &green], 2).await;
    exchange(&blue, &green);
    step("a record with one key makes one lane", &mut clock);

    // A record that is not understood, and one of a stranger.
    let api: Api<Gateway> = green.api();
    for (name, cluster) in [("bad.gw", "blue"), ("red.gw", "red")] {
        let mut object = copy(&blue_record, name, cluster);
        object["spec"]["clusterId"] = json!("red");
        object["spec"]["node"] = json!("gw");
        apply(&api, object).await;
    }
    let public_key = green_record.spec.keys[0].public_keys[0].to_string();
    tokio::time::timeout(PATIENCE, async {
        // What follows in the same watch shows that the gateway has seen them.
        annotate_overlay(&green, "240.0.2.1,fd02::1").await;
        until("green publishes its new overlay address", || async {
            (green.published().await.spec.overlay_addresses.len() == 2).then_some(())
        })
        .await;
    })
    .await
    .unwrap();
    assert_eq!(green.published().await.status.unwrap().total, 1);
    exchange(&blue, &green);
    step("hostile records change nothing", &mut clock);

    // A peer that claims a key which is green's own: green says so, and what it has stays.
    let mut thief = copy(&blue_record, "blue.gw-2", "blue");
    thief["spec"]["node"] = json!("gw-2");
    thief["spec"]["keys"][0]["publicKeys"] = json!([public_key]);
    apply(&api, thief).await;
    let admitted = async |status: &str| {
        let condition = green.published().await.status?.conditions;
        let condition = condition.into_iter().find(|c| c.type_ == "PeersAdmitted")?;
        (condition.status == status).then_some(condition)
    };
    let refused = until("green tells of the refusal", || admitted("False")).await;
    assert_eq!(refused.reason, "KeyTaken");
    assert!(
        refused.message.contains("gateway gw-2 of cluster blue"),
        "{}",
        refused.message
    );
    let metrics = green.probe_socket("/metrics").unwrap();
    let line = r#"strait_gateway_peers_refused{reason="KeyTaken"} 1"#;
    assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    exchange(&blue, &green);
    api.delete("blue.gw-2", &Default::default()).await.unwrap();
    until("green tells that all is well again", || admitted("True")).await;
    step("a refused peer is told of", &mut clock);

    // The second process of a node waits, ready, and takes over when the first ends.
    let first = green.process.take().unwrap();
    let second = green.spawn("second");
    until("the second process stands by, ready", || async {
        (green.probe("second", "/readyz").as_deref() == Some("ok\n")).then_some(())
    })
    .await;
    exchange(&blue, &green);
    let status = terminate(first);
    assert!(status.success(), "SIGTERM ended it with {status}");
    green.process = Some(second);
    until("the second process holds the tunnel", || async {
        green.has_tun().then_some(())
    })
    .await;
    green.address_tun();
    eventually_exchange(&blue, &green).await;
    step("a successor takes over", &mut clock);

    // The API server goes; the tunnel does not, not even across a restart.
    blue.server.take().unwrap().shutdown().await;
    exchange(&blue, &green);
    let status = terminate(blue.process.take().unwrap());
    assert!(status.success(), "SIGTERM ended it with {status}");
    assert!(!blue.has_tun(), "the TUN device stays behind");
    blue.start();
    until("blue is back without its API server", || async {
        blue.has_tun().then_some(())
    })
    .await;
    blue.address_tun();
    eventually_exchange(&blue, &green).await;
    assert_eq!(blue.probe_socket("/readyz").as_deref(), Some("ok\n"));
    step(
        "without an API server the saved state carries the tunnel",
        &mut clock,
    );

    assert_eq!(
        green.published().await.spec.keys[0].public_keys[0].to_string(),
        public_key,
        "the key stays"
    );
    let evicted = Instant::now();
    member(&green.client, "blue", 1, "Evicted").await;
    until("green's tunnel to blue is gone", || async {
        (green.published().await.status?.total == 0).then_some(())
    })
    .await;
    assert!(
        evicted.elapsed() < Duration::from_secs(5),
        "it took {:?}",
        evicted.elapsed()
    );
    let (from, to) = (blue.udp(), green.udp());
    from.send_to(b"evicted", to.local_addr().unwrap()).unwrap();
    to.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(
        to.recv_from(&mut [0; 64]).is_err(),
        "an evicted cluster's packet was delivered"
    );
    step("an evicted member is cut off", &mut clock);

    let mut gone = blue.spawn_with("broken", &["--kubeconfig", "/nowhere/kubeconfig"]);
    let status = gone.child.wait().unwrap();
    let log = std::fs::read_to_string(&gone.log).unwrap();
    assert!(
        !status.success() && log.contains("/nowhere/kubeconfig"),
        "{status}: {log}"
    );
    gone.quiet = true;
    step("a missing kubeconfig is named", &mut clock);

    for site in [&mut blue, &mut green] {
        let status = terminate(site.process.take().unwrap());
        assert!(status.success(), "SIGTERM ended it with {status}");
    }
    green.published().await;
    step("SIGTERM ends it cleanly and its record stays", &mut clock);
}

/// Waits until both ends tell of so many lanes, all up.
async fn lanes(sites: &[&Site], count: u32) {
    for site in sites {
        until("the lanes are told of", || async {
            let status = site.published().await.status?;
            let tunnel = status.tunnels.first()?;
            ((tunnel.lanes, tunnel.lanes_up) == (count, count)).then_some(())
        })
        .await;
    }
}

/// The network between the sites: a bridge in this namespace.
struct Bridge(Links);

impl Bridge {
    fn new() -> Self {
        let links = Links::open().unwrap();
        links.add_bridge("underlay", None).unwrap();
        links
            .add_address("underlay", "192.0.2.254/24".parse().unwrap())
            .unwrap();
        links.set_up("underlay").unwrap();
        Self(links)
    }

    fn attach(&self, node: &Netns, name: &str, address: &str) {
        let far = VethEnd {
            name: "eth0",
            namespace: Some(node),
            ..VethEnd::default()
        };
        self.0
            .add_veth(
                &VethEnd {
                    name,
                    ..VethEnd::default()
                },
                &far,
            )
            .unwrap();
        self.0.set_master(name, Some("underlay")).unwrap();
        self.0.set_up(name).unwrap();
        let inside = Links::open_in(node).unwrap();
        inside.add_address("eth0", address.parse().unwrap()).unwrap();
        inside.set_up("eth0").unwrap();
    }
}

/// One cluster: its API server, and its gateway node.
struct Site {
    id: &'static str,
    number: u8,
    node: Netns,
    server: Option<Server>,
    client: Client,
    dir: PathBuf,
    process: Option<Process>,
}

struct Process {
    child: Child,
    log: PathBuf,
    quiet: bool,
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.quiet {
            eprintln!(
                "--- {}\n{}",
                self.log.display(),
                std::fs::read_to_string(&self.log).unwrap_or_default()
            );
        }
        let _: Result<(), _> = self.child.kill();
        let _: Result<_, _> = self.child.wait();
    }
}

impl Site {
    async fn new(id: &'static str, number: u8, bridge: &Bridge, dir: &Path) -> Self {
        let node = Netns::new().unwrap();
        bridge.attach(&node, id, &format!("192.0.2.{number}/24"));
        let dir = dir.join(id);
        std::fs::create_dir(&dir).unwrap();

        let mut config = Config::in_memory();
        config
            .listeners
            .push(std::net::TcpListener::bind("192.0.2.254:0").unwrap());
        config.tls = Tls::Generated {
            names: vec!["192.0.2.254".into()],
        };
        config.tokens.push((
            "gateway-token".into(),
            User::new(
                "system:serviceaccount:strait-system:strait-gateway",
                &["system:serviceaccounts"],
            ),
        ));
        config.manifests = strait_api::crds()
            .iter()
            .map(|crd| serde_json::to_string(crd).unwrap())
            .collect();
        let server = Server::start(config).await.unwrap();
        let client = Client::new(server.admin_service(), "default");
        apply(
            &Api::<Namespace>::all(client.clone()),
            json!({ "metadata": { "name": NAMESPACE } }),
        )
        .await;
        let roles: Vec<&str> = include_str!("../../deploy/base/gateway.yaml")
            .split("\n---\n")
            .filter(|document| !document.contains("kind: DaemonSet"))
            .collect();
        server.apply_manifest(&roles.join("\n---\n")).await.unwrap();
        let url = format!("https://{}", server.addr().unwrap());
        std::fs::write(
            dir.join("kubeconfig"),
            kubeconfig(&url, server.ca_pem(), "gateway", "gateway-token"),
        )
        .unwrap();

        let node_object = json!({
            "metadata": { "name": NODE, "annotations": { "strait.dev/overlay-addresses": format!("240.0.{number}.1") } },
            "status": { "addresses": [{ "type": "InternalIP", "address": format!("192.0.2.{number}") }] },
        });
        let nodes: Api<Node> = Api::all(client.clone());
        apply(&nodes, node_object.clone()).await;
        let status = with_kind::<Node>(node_object);
        nodes
            .patch_status(NODE, &PatchParams::apply("test").force(), &Patch::Apply(status))
            .await
            .unwrap();
        let site = Self {
            id,
            number,
            node,
            server: Some(server),
            client,
            dir,
            process: None,
        };
        member(&site.client, id, number, "Active").await;
        site.cluster(id, number, None).await;
        site
    }

    /// What the mirror brings of another cluster.
    async fn knows(&self, other: &Site) {
        member(&self.client, other.id, other.number, "Active").await;
        self.cluster(other.id, other.number, Some(other.id)).await;
    }

    async fn cluster(&self, id: &str, number: u8, owner: Option<&str>) {
        let name = owner.map_or(id.to_owned(), |owner| format!("{owner}.{id}"));
        let labels = owner.map(|owner| json!({ LABEL_CLUSTER: owner }));
        let spec = json!({ "clusterId": id, "podCidrs": [format!("10.{number}.0.0/16")] });
        apply(
            &self.api::<Cluster>(),
            json!({ "metadata": { "name": name, "labels": labels }, "spec": spec }),
        )
        .await;
    }

    /// Brings another cluster's gateway record here.
    async fn mirror(&self, other: &Site, record: &Gateway) {
        let name = copy_name(&other.id.parse().unwrap(), NODE);
        apply(&self.api::<Gateway>(), copy(record, &name, other.id)).await;
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// The gateway's own record, once it is there.
    async fn published(&self) -> Gateway {
        until("the record is published", || async {
            self.api::<Gateway>().get_opt(NODE).await.unwrap()
        })
        .await
    }

    fn start(&mut self) {
        self.process = Some(self.spawn("first"));
    }

    fn spawn(&self, name: &str) -> Process {
        let kubeconfig = self.dir.join("kubeconfig");
        let workers = if self.number == 1 { "3" } else { "2" };
        let flags = ["--kubeconfig", kubeconfig.to_str().unwrap(), "--workers", workers];
        self.spawn_with(name, &flags)
    }

    fn spawn_with(&self, name: &str, flags: &[&str]) -> Process {
        let log = self.dir.join(format!("{name}.log"));
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["gateway", "--node-name", NODE])
            .arg("--state-dir")
            .arg(self.dir.join("state"))
            .arg("--probe-socket")
            .arg(self.dir.join(format!("{name}.sock")))
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap());
        self.node.attach(&mut command);
        Process {
            child: command.spawn().unwrap(),
            log,
            quiet: false,
        }
    }

    /// What a route agent does, as far as this test needs it.
    fn address_tun(&self) {
        let address = format!("10.{}.0.1/8", self.number);
        self.node
            .run(|| tun::add_address("strait-tun", address.parse().unwrap()))
            .unwrap()
            .unwrap();
    }

    fn has_tun(&self) -> bool {
        let device = Links::open_in(&self.node).unwrap().find("strait-tun").unwrap();
        device.is_some_and(|device| device.up && device.mtu == 1420)
    }

    fn pod(&self) -> IpAddr {
        Ipv4Addr::new(10, self.number, 0, 1).into()
    }

    fn udp(&self) -> UdpSocket {
        let socket = self
            .node
            .run(|| UdpSocket::bind(SocketAddr::new(self.pod(), 0)).unwrap())
            .unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    fn probe_socket(&self, path: &str) -> Option<String> {
        self.probe("first", path)
    }

    /// GETs a path from a process' probe socket; the body of a good answer.
    fn probe(&self, name: &str, path: &str) -> Option<String> {
        use std::io::{Read as _, Write as _};
        let mut stream = UnixStream::connect(self.dir.join(format!("{name}.sock"))).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n"
        )
        .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
    }
}

async fn member(client: &Client, id: &str, number: u8, state: &str) {
    let spec = json!({
        "clusterId": id, "uid": format!("uid-{id}"), "prefixes": [format!("10.{number}.0.0/16")],
        "nodeBlocks": [format!("240.0.{number}.0/24"), format!("fd0{number}::/64")],
        "state": state, "epoch": u8::from(state != "Active"), "admittedAt": format!("2026-01-0{number}T00:00:00Z"),
    });
    apply(
        &Api::<Member>::all(client.clone()),
        json!({ "metadata": { "name": id }, "spec": spec }),
    )
    .await;
}

async fn annotate_overlay(site: &Site, value: &str) {
    let patch = json!({ "metadata": { "annotations": { "strait.dev/overlay-addresses": value } } });
    let nodes: Api<Node> = Api::all(site.client.clone());
    nodes
        .patch(NODE, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
}

fn copy(record: &Gateway, name: &str, owner: &str) -> Value {
    json!({ "metadata": { "name": name, "labels": { LABEL_CLUSTER: owner } }, "spec": record.spec })
}

fn with_kind<K: Resource<DynamicType = ()>>(mut object: Value) -> Value {
    object["apiVersion"] = K::api_version(&()).into();
    object["kind"] = K::kind(&()).into();
    object
}

async fn apply<K>(api: &Api<K>, object: Value)
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
    let object = with_kind::<K>(object);
    api.patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(&object))
        .await
        .unwrap();
}

fn exchange(from: &Site, to: &Site) {
    let (a, b) = (from.udp(), to.udp());
    a.send_to(b"there", b.local_addr().unwrap()).unwrap();
    let mut buffer = [0; 64];
    let (len, source) = b.recv_from(&mut buffer).unwrap();
    assert_eq!(
        (&buffer[..len], source),
        (&b"there"[..], a.local_addr().unwrap()),
        "the pod's address is kept"
    );
}

/// Like [`exchange`], where the first packets may be lost with a session.
async fn eventually_exchange(from: &Site, to: &Site) {
    let (a, b) = (from.udp(), to.udp());
    b.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    until("packets cross again", || async {
        a.send_to(b"again", b.local_addr().unwrap()).unwrap();
        b.recv_from(&mut [0; 64]).ok().map(|_| ())
    })
    .await;
}

fn terminate(mut process: Process) -> ExitStatus {
    let pid = rustix::process::Pid::from_child(&process.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let start = Instant::now();
    loop {
        if let Some(status) = process.child.try_wait().unwrap() {
            return status;
        }
        assert!(start.elapsed() < PATIENCE, "SIGTERM does not end the gateway");
        std::thread::sleep(Duration::from_millis(5));
    }
}

async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut condition: impl FnMut() -> F) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
