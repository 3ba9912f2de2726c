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
    served: tokio::task::JoinHandle<anyhow::Result<()>>,
    _state: tempfile::TempDir,
}

impl Dns {
    async fn start(world: &World) -> Self {
        let state = tempfile::tempdir().unwrap();
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
        until("the DNS server is ready", || async {
            status.why_unready().is_none().then_some(())
        })
        .await;
        Self {
            address,
            shutdown,
            served,
            _state: state,
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
