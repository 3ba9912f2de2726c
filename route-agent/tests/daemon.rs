//! The daemon against an API server and a kernel, both its own: a network namespace in which the API
//! server listens too. Needs root or user namespaces.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::future::Future;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use strait_apiserver::{Config, Server};
use strait_core::kernel::{ActualState, Element, MAIN_TABLE, Route, RouteKind};
use strait_daemon::{CommonArgs, Shutdown};
use strait_linux::Kernel;
use strait_linux::link::{Links, VethEnd};
use strait_linux::netns::Netns;
use strait_linux::testing::as_root;
use strait_route_agent::{Args, NodeArgs, Output, PlanArgs, UnderlayMtu, planned, serve};
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// What everything must have happened by.
const LIMIT: Duration = Duration::from_secs(20);

/// A node with its cluster's API server.
struct World {
    server: Option<Server>,
    kernel: Kernel,
    links: Links,
    dir: TempDir,
    agent: Option<(Shutdown, JoinHandle<anyhow::Result<()>>)>,
}

/// Runs a test inside a namespace of its own.
fn in_world<F: Future<Output = ()>>(name: &str, test: impl FnOnce(World) -> F + Send + 'static) {
    as_root(name, || {
        let namespace = Netns::new().unwrap();
        namespace
            .spawn_runtime("world", move || async move { test(World::new().await).await })
            .unwrap()
            .join()
            .unwrap()
            .unwrap();
    });
}

impl World {
    async fn new() -> Self {
        let links = Links::open().unwrap();
        let end = |name| VethEnd {
            name,
            mtu: Some(1400),
            ..VethEnd::default()
        };
        links.add_veth(&end("eth0"), &end("wire")).unwrap();
        links
            .add_address("eth0", "192.0.2.1/24".parse().unwrap())
            .unwrap();
        links.set_up("eth0").unwrap();
        links.set_up("wire").unwrap();
        let dir = TempDir::new().unwrap();
        let mut world = Self {
            server: None,
            kernel: Kernel::open(&dir.path().join("test")).unwrap(),
            links,
            dir,
            agent: None,
        };
        world.start_server().await;
        world
    }

    fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    async fn start_server(&mut self) {
        let mut config = Config::in_memory();
        config.listeners.push(TcpListener::bind("127.0.0.1:0").unwrap());
        let crds = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/crds");
        for file in std::fs::read_dir(crds).unwrap() {
            let path = file.unwrap().path();
            let is_crd = path.file_name().is_some_and(|n| n != "kustomization.yaml")
                && path.extension().is_some_and(|e| e == "yaml");
            if is_crd {
                config.manifests.push(std::fs::read_to_string(path).unwrap());
            }
        }
        let server = Server::start(config).await.unwrap();
        let url = format!("https://{}", server.addr().unwrap());
        std::fs::write(self.kubeconfig(), server.admin_kubeconfig(&url)).unwrap();
        self.server = Some(server);
    }

    async fn apply(&self, objects: &[Value]) {
        for object in objects {
            let server = self.server.as_ref().unwrap();
            server.apply_manifest(&object.to_string()).await.unwrap();
            if object["kind"] == "Node" {
                self.apply_node_status(object).await;
            }
        }
    }

    /// As the kubelet does.
    async fn apply_node_status(&self, node: &Value) {
        let client = strait_daemon::client::connect(Some(&self.kubeconfig()), "strait-test")
            .await
            .unwrap();
        let nodes: Api<Node> = Api::all(client);
        let status = json!({"status": node["status"]});
        let name = node["metadata"]["name"].as_str().unwrap();
        nodes
            .patch_status(name, &PatchParams::default(), &Patch::Merge(status))
            .await
            .unwrap();
    }

    fn start_agent(&mut self) {
        let shutdown = Shutdown::default();
        let args = args(&self.dir);
        self.agent = Some((shutdown.clone(), tokio::spawn(serve(args, shutdown))));
    }

    async fn stop_agent(&mut self) {
        let (shutdown, task) = self.agent.take().unwrap();
        shutdown.trigger();
        task.await.unwrap().unwrap();
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("probe.sock")
    }

    /// What the daemon says of itself; `Ok` is ready.
    async fn readiness(&self) -> Result<(), String> {
        let socket = self.socket();
        tokio::task::spawn_blocking(move || strait_daemon::status::probe(&socket, false))
            .await
            .unwrap()
            .map_err(|e| e.to_string())
    }

    async fn plan(&self) -> Vec<String> {
        let args = PlanArgs {
            kubeconfig: Some(self.kubeconfig()),
            namespace: "strait-system".to_owned(),
            node_name: "n1".to_owned(),
            state_dir: self.dir.path().join("state"),
            underlay_mtu: UnderlayMtu::Auto,
            output: Output::Text,
        };
        let (plan, _) = planned(&args).await.unwrap();
        plan.ops.iter().map(ToString::to_string).collect()
    }

    /// Waits until the kernel is so, and says how long that took.
    async fn kernel_is(&self, what: &str, is: impl Fn(&ActualState) -> bool) -> Duration {
        let begun = Instant::now();
        loop {
            let state = self.kernel.read().await.unwrap();
            if is(&state) {
                return begun.elapsed();
            }
            assert!(
                begun.elapsed() < LIMIT,
                "did not come to pass: {what}; {:?}",
                self.readiness().await
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn becomes_ready(&self) {
        let begun = Instant::now();
        while let Err(why) = self.readiness().await {
            assert!(begun.elapsed() < LIMIT, "{why}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn args(dir: &TempDir) -> Args {
    Args {
        common: CommonArgs {
            kubeconfig: Some(dir.path().join("kubeconfig")),
            namespace: "strait-system".to_owned(),
            state_dir: dir.path().join("state"),
            metrics_listen: None,
            probe_socket: Some(dir.path().join("probe.sock")),
        },
        node: NodeArgs {
            node_name: Some("n1".to_owned()),
            underlay_mtu: UnderlayMtu::Auto,
        },
        uninstall: false,
    }
}

fn object(api: &str, kind: &str, name: &str, rest: Value) -> Value {
    let mut object = json!({"apiVersion": api, "kind": kind, "metadata": {"name": name}});
    for (key, value) in rest.as_object().unwrap() {
        if key == "metadata" {
            let metadata = object["metadata"].as_object_mut().unwrap();
            metadata.extend(value.as_object().unwrap().clone());
        } else {
            object[key] = value.clone();
        }
    }
    object
}

fn namespace(name: &str) -> Value {
    object("v1", "Namespace", name, json!({}))
}

fn node(name: &str, n: u8, gateway: bool) -> Value {
    object(
        "v1",
        "Node",
        name,
        json!({
            "metadata": {
                "labels": {"strait.dev/gateway": gateway.to_string()},
                "annotations": {"strait.dev/overlay-addresses": format!("10.254.1.{n}")},
            },
            "spec": {"podCIDR": format!("10.1.{n}.0/24"), "podCIDRs": [format!("10.1.{n}.0/24")]},
            "status": {"addresses": [{"type": "InternalIP", "address": format!("192.0.2.{n}")}]},
        }),
    )
}

fn member(id: &str, n: u8) -> Value {
    object(
        "strait.dev/v1alpha1",
        "Member",
        id,
        json!({"spec": {
            "clusterId": id, "uid": id, "prefixes": [format!("10.{n}.0.0/16")],
            "nodeBlocks": [format!("10.254.{n}.0/24")], "exportNamespaces": ["*"],
            "state": "Active", "admittedAt": "2026-01-01T00:00:00Z",
        }}),
    )
}

fn cluster(name: &str, id: &str, n: u8) -> Value {
    let labels = if name == id {
        json!({})
    } else {
        json!({"strait.dev/cluster": id})
    };
    object(
        "strait.dev/v1alpha1",
        "Cluster",
        name,
        json!({
            "metadata": {"namespace": "strait-system", "labels": labels},
            "spec": {"clusterId": id, "podCidrs": [format!("10.{n}.0.0/16")], "vipCidrs": ["10.250.0.0/16"]},
        }),
    )
}

/// Cluster blue of a worker, n1, and a gateway, n2, joined with cluster green.
fn joined() -> Vec<Value> {
    vec![
        namespace("strait-system"),
        namespace("demo"),
        node("n1", 1, false),
        node("n2", 2, true),
        member("blue", 1),
        member("green", 2),
        cluster("green.green", "green", 2),
        gateway("n2"),
        cluster("blue", "blue", 1),
    ]
}

fn gateway(node: &str) -> Value {
    object(
        "strait.dev/v1alpha1",
        "Gateway",
        node,
        json!({
            "metadata": {"namespace": "strait-system"},
            "spec": {"clusterId": "blue", "node": node, "udpPort": 4510, "addresses": {}, "keys": []},
        }),
    )
}

fn import() -> Value {
    object(
        "multicluster.x-k8s.io/v1beta1",
        "ServiceImport",
        "web",
        json!({
            "metadata": {"namespace": "demo"},
            "spec": {
                "type": "ClusterSetIP", "ips": ["10.250.0.1"],
                "ports": [{"name": "http", "protocol": "TCP", "port": 80}],
            },
        }),
    )
}

fn slice(endpoints: &[&str]) -> Value {
    let endpoints: Vec<Value> = endpoints.iter().map(|e| json!({"addresses": [e]})).collect();
    object(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        "green-web",
        json!({
            "metadata": {"namespace": "demo", "labels": {
                "endpointslice.kubernetes.io/managed-by": "strait.dev",
                "multicluster.kubernetes.io/service-name": "web",
                "multicluster.kubernetes.io/source-cluster": "green",
            }},
            "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        }),
    )
}

fn way_to_green(state: &ActualState) -> bool {
    state.routes.iter().any(|r| {
        r.table == MAIN_TABLE
            && r.destination.to_string() == "10.2.0.0/16"
            && matches!(&r.kind, RouteKind::Unicast { next_hops, .. }
                if next_hops[0].via == Some("10.254.1.2".parse().unwrap()))
    })
}

fn vips(state: &ActualState) -> BTreeSet<String> {
    let sets = state.nft.iter().flat_map(|t| t.sets.values());
    let elements = sets.flat_map(|s| &s.elements);
    elements
        .filter_map(|e| match e {
            Element::Vip(vip, protocol, port, _) => Some(format!("{vip} {protocol} {port}")),
            _ => None,
        })
        .collect()
}

/// Where demo/web's connections go.
fn balancing(state: &ActualState) -> Vec<String> {
    let sets = state.nft.iter().flat_map(|t| t.sets.values());
    let elements = sets.flat_map(|s| &s.elements);
    elements
        .filter(|e| matches!(e, Element::Endpoint(..)))
        .map(ToString::to_string)
        .collect()
}

#[test]
fn records_become_routes_and_the_plan_is_empty_then() {
    in_world(
        "records_become_routes_and_the_plan_is_empty_then",
        |mut world| async move {
            world.apply(&joined()).await;
            let before = world.plan().await;
            assert!(
                before
                    .iter()
                    .any(|l| l == "+ route 10.2.0.0/16 unreachable metric 8383"),
                "{before:#?}"
            );
            world.start_agent();
            world.kernel_is("a way to green", way_to_green).await;
            world.becomes_ready().await;
            assert_eq!(world.plan().await, [""; 0]);
            let overlay = world.kernel.read().await.unwrap().overlay.unwrap();
            assert_eq!(
                (overlay.local.to_string().as_str(), overlay.mtu),
                ("192.0.2.1", 1350)
            );
            world.stop_agent().await;
            world.kernel_is("everything as before", way_to_green).await;
        },
    );
}

#[test]
fn an_endpoint_reaches_the_kernel_without_waiting_for_the_periodic_pass() {
    in_world(
        "an_endpoint_reaches_the_kernel_without_waiting_for_the_periodic_pass",
        |mut world| async move {
            world.apply(&joined()).await;
            world.apply(&[import(), slice(&["10.2.0.1"])]).await;
            world.start_agent();
            world
                .kernel_is("a VIP", |s| {
                    vips(s) == BTreeSet::from(["10.250.0.1 tcp 80".to_owned()])
                })
                .await;
            let mut times = Vec::new();
            for n in 2..12 {
                let before = balancing(&world.kernel.read().await.unwrap());
                world.apply(&[slice(&["10.2.0.1", &format!("10.2.0.{n}")])]).await;
                times.push(world.kernel_is("new endpoints", |s| balancing(s) != before).await);
            }
            times.sort();
            println!("from record to kernel, sorted: {times:?}");
            // The periodic pass comes every 30 s: changes that waited for it would take half of that.
            assert!(times[times.len() / 2] < Duration::from_secs(5), "{times:?}");
            world.apply(&[slice(&[])]).await;
            world
                .kernel_is("no VIP without endpoints", |s| vips(s).is_empty())
                .await;
            world.stop_agent().await;
        },
    );
}

#[test]
fn what_somebody_else_takes_away_comes_back() {
    in_world(
        "what_somebody_else_takes_away_comes_back",
        |mut world| async move {
            world.apply(&joined()).await;
            world.start_agent();
            world.kernel_is("a way to green", way_to_green).await;
            world.becomes_ready().await;
            let state = world.kernel.read().await.unwrap();
            let route = state.routes.iter().find(|r| {
                way_to_green(&ActualState {
                    routes: BTreeSet::from([(*r).clone()]),
                    ..ActualState::default()
                })
            });
            world
                .links
                .remove_route(route.unwrap(), strait_core::kernel::ROUTE_PROTOCOL)
                .unwrap();
            assert!(
                !way_to_green(&world.kernel.read().await.unwrap()),
                "it is gone for a moment"
            );
            let repaired = world.kernel_is("the way again", way_to_green).await;
            assert!(
                repaired < Duration::from_secs(5),
                "not only by the full sync: {repaired:?}"
            );
            world.links.remove("strait-overlay").unwrap();
            world
                .kernel_is("the overlay again", |s| s.overlay.is_some() && way_to_green(s))
                .await;
            world.stop_agent().await;
        },
    );
}

#[test]
fn it_starts_from_what_it_knew_where_the_api_server_is_away() {
    in_world(
        "it_starts_from_what_it_knew_where_the_api_server_is_away",
        |mut world| async move {
            world.apply(&joined()).await;
            world.start_agent();
            world.kernel_is("a way to green", way_to_green).await;
            let saved = world.dir.path().join("state/route-agent");
            let kinds = [
                "nodes",
                "clusters",
                "gateways",
                "members",
                "serviceimports",
                "endpointslices",
            ];
            let begun = Instant::now();
            while !kinds.iter().all(|k| saved.join(format!("{k}.json")).exists()) {
                assert!(
                    begun.elapsed() < LIMIT,
                    "{:?}",
                    std::fs::read_dir(&saved).unwrap().collect::<Vec<_>>()
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            world.stop_agent().await;
            world.server.take().unwrap().shutdown().await;
            // As after a reboot: the kernel has nothing.
            assert!(world.kernel.uninstall().await.unwrap().is_ok());
            assert_eq!(world.kernel.read().await.unwrap(), ActualState::default());
            world.start_agent();
            world.kernel_is("a way to green", way_to_green).await;
            world.becomes_ready().await;
            world.stop_agent().await;
        },
    );
}

/// A crash loses what came in the second before it; the kernel has it already.
#[test]
fn what_is_saved_does_not_undo_what_came_after_it() {
    in_world(
        "what_is_saved_does_not_undo_what_came_after_it",
        |mut world| async move {
            world.apply(&joined()).await;
            world.start_agent();
            world.kernel_is("a way to green", way_to_green).await;
            world.becomes_ready().await;
            world.stop_agent().await;
            for kind in ["clusters", "members"] {
                let file = world.dir.path().join(format!("state/route-agent/{kind}.json"));
                let mut saved: Vec<Value> = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
                let all = saved.len();
                saved.retain(|object| !object.to_string().contains("green"));
                assert!(saved.len() < all, "{kind}");
                std::fs::write(&file, serde_json::to_vec(&saved).unwrap()).unwrap();
            }

            let mut changes = world.kernel.subscribe().unwrap();
            world.start_agent();
            world.becomes_ready().await;
            let change = tokio::time::timeout(Duration::from_millis(50), changes.next()).await;
            assert!(change.is_err(), "the kernel was touched: {change:?}");
            world.stop_agent().await;
        },
    );
}

#[test]
fn nothing_changes_while_nothing_is_known() {
    in_world("nothing_changes_while_nothing_is_known", |mut world| async move {
        world.apply(&joined()).await;
        world.start_agent();
        world.kernel_is("a way to green", way_to_green).await;
        world.becomes_ready().await;
        world.stop_agent().await;
        let held = world.kernel.read().await.unwrap();

        // The API server is away and the disk was replaced.
        world.server.take().unwrap().shutdown().await;
        std::fs::remove_dir_all(world.dir.path().join("state")).unwrap();
        world.start_agent();
        let begun = Instant::now();
        loop {
            match world.readiness().await {
                Err(why) if why.contains("waiting for the API server") => break,
                other => assert!(begun.elapsed() < LIMIT, "{other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(world.kernel.read().await.unwrap(), held);
        world.stop_agent().await;

        // The API server is back, but of a cluster that has not joined.
        world.start_server().await;
        world
            .apply(&[namespace("strait-system"), node("n1", 1, false)])
            .await;
        world.start_agent();
        let begun = Instant::now();
        loop {
            match world.readiness().await {
                Err(why) if why.contains("strait join") => break,
                other => assert!(begun.elapsed() < LIMIT, "{other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(world.kernel.read().await.unwrap(), held);
        world.stop_agent().await;
    });
}

#[test]
fn uninstalling_leaves_the_node_as_it_was() {
    as_root("uninstalling_leaves_the_node_as_it_was", || {
        let namespace = Netns::new().unwrap();
        let policy = "/proc/sys/net/ipv4/fib_multipath_hash_policy";
        let runtime = namespace.spawn_runtime("world", move || async move {
            let mut world = World::new().await;
            std::fs::write(policy, "2").unwrap();
            world.apply(&joined()).await;
            world.apply(&[node("n3", 3, true), gateway("n3")]).await;
            world.start_agent();
            world
                .kernel_is("two ways to green", |s| s.routes.iter().any(two_ways))
                .await;
            world.becomes_ready().await;
            assert_eq!(std::fs::read_to_string(policy).unwrap().trim(), "1");
            world.stop_agent().await;
            (world.dir, world.kernel)
        });
        let (dir, kernel) = runtime.unwrap().join().unwrap().unwrap();
        let mut args = args(&dir);
        args.node.node_name = None;
        args.uninstall = true;
        let code = namespace.run(|| strait_route_agent::run(args)).unwrap().unwrap();
        assert_eq!(code, ExitCode::SUCCESS);
        assert_eq!(kernel.read_now().unwrap(), ActualState::default());
        let restored = namespace
            .run(|| std::fs::read_to_string(policy))
            .unwrap()
            .unwrap();
        assert_eq!(restored.trim(), "2");
        assert!(!dir.path().join("state/route-agent").exists());
    });
}

fn two_ways(route: &Route) -> bool {
    route.destination.to_string() == "10.2.0.0/16"
        && matches!(&route.kind, RouteKind::Unicast { next_hops, .. } if next_hops.len() == 2)
}
