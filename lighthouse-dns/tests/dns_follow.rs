//! `strait dns` behind an API server, with the controllers beside it.

#![allow(clippy::unwrap_used)]

mod common;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use clap::Parser;
use common::{World, until};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use serde_json::json;
use strait_api::mcs::ServiceExport;
use strait_daemon::Shutdown;
use strait_lighthouse_dns::dns::{Args, Daemon};
use tokio::net::UdpSocket;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

struct Dns {
    address: SocketAddr,
    shutdown: Shutdown,
    status: strait_daemon::Status,
    served: tokio::task::JoinHandle<anyhow::Result<()>>,
    state: tempfile::TempDir,
}

impl Dns {
    async fn start(world: &World) -> Self {
        let dns = Self::start_in(world, tempfile::tempdir().unwrap()).await;
        until("the DNS server is ready", || async {
            dns.status.why_unready().is_none().then_some(())
        })
        .await;
        dns
    }

    /// It need not answer yet.
    async fn start_in(world: &World, state: tempfile::TempDir) -> Self {
        let flags = [
            "dns",
            "--listen",
            "127.0.0.1:0",
            "--cluster-id",
            &world.id,
            "--state-dir",
            state.path().to_str().unwrap(),
        ];
        let args = Cli::try_parse_from(flags).unwrap().args;
        let shutdown = Shutdown::default();
        let daemon = Daemon::start_with(&args, world.dns_client.clone(), shutdown.clone())
            .await
            .unwrap();
        let (address, status) = (daemon.addresses()[0], daemon.status().clone());
        let served = tokio::spawn(daemon.serve());
        Self {
            address,
            status,
            shutdown,
            served,
            state,
        }
    }

    /// Response code and addresses.
    async fn ask(&self, name: &str) -> (ResponseCode, Vec<String>) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut message = Message::new(1, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        socket
            .send_to(&message.to_vec().unwrap(), self.address)
            .await
            .unwrap();
        let mut buffer = [0; 512];
        let received = tokio::time::timeout(Duration::from_secs(10), socket.recv(&mut buffer)).await;
        let answer = Message::from_vec(&buffer[..received.unwrap().unwrap()]).unwrap();
        (
            answer.metadata.response_code,
            answer.answers.iter().map(|r| r.data.to_string()).collect(),
        )
    }

    async fn answers(&self, name: &str, code: ResponseCode, addresses: &[&str]) {
        until(&format!("{name} is answered {code} {addresses:?}"), || async {
            let (c, a) = self.ask(name).await;
            (c == code && a == addresses).then_some(())
        })
        .await;
    }

    async fn stop(self) {
        self.shutdown.trigger();
        self.served.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn an_export_is_answered_within_a_second_and_no_longer_than_it_lasts() {
    let mut blue = World::new("blue", 1).await;
    blue.start();
    let dns = Dns::start(&blue).await;
    let name = "web.demo.svc.clusterset.local.";
    assert_eq!(dns.ask(name).await, (ResponseCode::NXDomain, vec![]));
    blue.service("web").await;
    blue.endpoints("web", &["10.1.0.5"]).await;
    let started = Instant::now();
    blue.export("web").await;
    let vip = until("the import stands", || async {
        blue.import("web").await?.spec.ips
    })
    .await[0]
        .to_string();
    dns.answers(name, ResponseCode::NoError, &[&vip]).await;
    println!("answered after {:?}", started.elapsed());
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "{:?}",
        started.elapsed()
    );
    blue.delete::<ServiceExport>("demo", "web").await;
    dns.answers(name, ResponseCode::NXDomain, &[]).await;
    assert_eq!(
        dns.ask("demo.svc.clusterset.local.").await.0,
        ResponseCode::NoError
    );
    dns.stop().await;
    blue.stop().await;
}

#[tokio::test]
async fn a_headless_service_is_answered_from_its_slices() {
    let mut blue = World::new("blue", 1).await;
    blue.start();
    let dns = Dns::start(&blue).await;
    let spec = json!({ "clusterIP": "None", "clusterIPs": ["None"], "ipFamilies": ["IPv4"], "ports": [{ "name": "http", "port": 80 }] });
    let service = json!({ "metadata": { "name": "web", "namespace": "demo" }, "spec": spec });
    blue.create::<k8s_openapi::api::core::v1::Service>("demo", &serde_json::from_value(service).unwrap())
        .await;
    blue.endpoints("web", &["10.1.0.5", "10.1.0.6"]).await;
    blue.export("web").await;
    dns.answers(
        "web.demo.svc.clusterset.local.",
        ResponseCode::NoError,
        &["10.1.0.5", "10.1.0.6"],
    )
    .await;
    dns.answers(
        "10-1-0-6.blue.web.demo.svc.clusterset.local.",
        ResponseCode::NoError,
        &["10.1.0.6"],
    )
    .await;
    blue.endpoints("web", &["10.1.0.6"]).await;
    dns.answers(
        "web.demo.svc.clusterset.local.",
        ResponseCode::NoError,
        &["10.1.0.6"],
    )
    .await;
    dns.stop().await;
    blue.stop().await;
}

#[tokio::test]
async fn the_roles_under_these_tests_are_enforced() {
    let blue = World::new("blue", 1).await;
    for client in [&blue.dns_client, &blue.client] {
        let secrets: kube::Api<k8s_openapi::api::core::v1::Secret> = kube::Api::all(client.clone());
        match secrets.list(&Default::default()).await {
            Err(kube::Error::Api(status)) => assert_eq!(status.code, 403, "{status:?}"),
            other => panic!("a daemon may list all secrets: {other:?}"),
        }
    }
}

/// A crash loses what came shortly before it: a name that the API server knows is not denied meanwhile.
#[tokio::test]
async fn what_is_saved_denies_nothing_that_came_after_it() {
    let mut blue = World::new("blue", 1).await;
    blue.start();
    blue.service("web").await;
    blue.endpoints("web", &["10.1.0.5"]).await;
    blue.export("web").await;
    let vip = until("the import stands", || async {
        blue.import("web").await?.spec.ips
    })
    .await[0]
        .to_string();
    let state = tempfile::tempdir().unwrap();
    let folder = state.path().join("dns");
    std::fs::create_dir(&folder).unwrap();
    for kind in ["serviceimports", "endpointslices", "namespaces"] {
        std::fs::write(folder.join(format!("{kind}.json")), "[]").unwrap();
    }
    let dns = Dns::start_in(&blue, state).await;
    let first = until("it answers", || async {
        let (code, addresses) = dns.ask("web.demo.svc.clusterset.local.").await;
        (code != ResponseCode::ServFail).then_some((code, addresses))
    })
    .await;
    assert_eq!(first, (ResponseCode::NoError, vec![vip]));
    dns.stop().await;
    blue.stop().await;
}

/// A kill within a second of a change does not lose it.
#[tokio::test]
async fn a_change_is_on_disk_soon_after_it() {
    let mut blue = World::new("blue", 1).await;
    blue.start();
    let dns = Dns::start(&blue).await;
    let file = dns.state.path().join("dns/serviceimports.json");
    let mut slowest = Vec::new();
    // A machine that is busy may be late once, not always.
    for name in ["web", "api", "shop", "mail"] {
        // What was written just before has its rest, so that this is a change after a calm.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        blue.service(name).await;
        blue.export(name).await;
        until("the import stands", || async {
            blue.import(name).await?.spec.ips
        })
        .await;
        let began = Instant::now();
        until("it is on disk", || async {
            let text = std::fs::read_to_string(&file).ok()?;
            text.contains(&format!("\"name\":\"{name}\"")).then_some(())
        })
        .await;
        slowest.push(began.elapsed());
        if began.elapsed() < Duration::from_millis(600) {
            dns.stop().await;
            blue.stop().await;
            return;
        }
    }
    panic!("changes are saved after {slowest:?} only");
}
