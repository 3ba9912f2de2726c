//! `strait dns` without an API server to be reached.

#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use strait_daemon::Shutdown;
use strait_lighthouse_dns::dns::{Args, Daemon};
use tokio::net::UdpSocket;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

fn args(kubeconfig: &Path, state: &Path) -> Args {
    let (kubeconfig, state) = (kubeconfig.to_str().unwrap(), state.to_str().unwrap());
    let flags = [
        "dns",
        "--listen",
        "127.0.0.1:0",
        "--kubeconfig",
        kubeconfig,
        "--state-dir",
        state,
    ];
    Cli::try_parse_from(flags).unwrap().args
}

/// A kubeconfig of an API server that refuses connections: nothing listens on the port, as it is held by a
/// socket that does not.
fn dead_api(dir: &Path) -> (PathBuf, socket2::Socket) {
    let held = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    held.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
        .unwrap();
    let port = held.local_addr().unwrap().as_socket().unwrap().port();
    let path = dir.join("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: x\nclusters: [{{name: x, cluster: {{server: 'http://127.0.0.1:{port}'}}}}]\ncontexts: [{{name: x, context: {{cluster: x, user: x}}}}]\nusers: [{{name: x, user: {{}}}}]\n"
    );
    std::fs::write(&path, text).unwrap();
    (path, held)
}

async fn ask(address: SocketAddr, name: &str) -> Message {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let mut message = Message::new(1, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    socket.send_to(&message.to_vec().unwrap(), address).await.unwrap();
    let mut buffer = [0; 512];
    let received = tokio::time::timeout(Duration::from_secs(10), socket.recv(&mut buffer)).await;
    Message::from_vec(&buffer[..received.unwrap().unwrap()]).unwrap()
}

#[tokio::test]
async fn a_first_start_without_the_api_server_fails_questions_and_denies_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (kubeconfig, _held) = dead_api(dir.path());
    let shutdown = Shutdown::default();
    let daemon = Daemon::start(&args(&kubeconfig, dir.path()), shutdown.clone())
        .await
        .unwrap();
    let (address, status) = (daemon.addresses()[0], daemon.status().clone());
    let served = tokio::spawn(daemon.serve());
    let answer = ask(address, "web.demo.svc.clusterset.local.").await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(status.why_unready().unwrap().contains("ServiceImports"));
    shutdown.trigger();
    served.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_restart_without_the_api_server_answers_what_was_known() {
    let dir = tempfile::tempdir().unwrap();
    let (kubeconfig, _held) = dead_api(dir.path());
    let state = dir.path().join("dns");
    std::fs::create_dir(&state).unwrap();
    let import = r#"[{"apiVersion":"multicluster.x-k8s.io/v1beta1","kind":"ServiceImport","metadata":{"name":"web","namespace":"demo"},"spec":{"type":"ClusterSetIP","ips":["243.0.0.7"],"ports":[{"port":80,"protocol":"TCP"}]}}]"#;
    std::fs::write(state.join("serviceimports.json"), import).unwrap();
    std::fs::write(state.join("endpointslices.json"), "[]").unwrap();
    std::fs::write(state.join("namespaces.json"), "[]").unwrap();
    let shutdown = Shutdown::default();
    let daemon = Daemon::start(&args(&kubeconfig, dir.path()), shutdown.clone())
        .await
        .unwrap();
    let (address, status) = (daemon.addresses()[0], daemon.status().clone());
    let served = tokio::spawn(daemon.serve());
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while status.why_unready().is_some() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "{:?}",
            status.why_unready()
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let answer = ask(address, "web.demo.svc.clusterset.local.").await;
    assert_eq!(answer.answers[0].data.to_string(), "243.0.0.7");
    let answer = ask(address, "nope.demo.svc.clusterset.local.").await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    shutdown.trigger();
    served.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_missing_kubeconfig_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("nowhere");
    let error = Daemon::start(&args(&missing, dir.path()), Shutdown::default())
        .await
        .unwrap_err();
    assert!(
        format!("{error:#}").contains(missing.to_str().unwrap()),
        "{error:#}"
    );
}
