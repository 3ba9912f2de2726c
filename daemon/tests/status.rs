//! Probes over the socket, as the kubelet's exec probe asks them.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use strait_daemon::{CommonArgs, Shutdown, Status, status};

fn args(socket: &Path) -> CommonArgs {
    CommonArgs {
        kubeconfig: None,
        namespace: "strait-system".into(),
        state_dir: "/nonexistent".into(),
        metrics_listen: None,
        probe_socket: Some(socket.to_owned()),
    }
}

async fn probe(socket: &Path, live: bool) -> Result<(), String> {
    let socket = socket.to_owned();
    tokio::task::spawn_blocking(move || status::probe(&socket, live).map_err(|e| e.to_string()))
        .await
        .unwrap()
}

#[tokio::test]
async fn a_probe_says_why_a_daemon_is_not_ready() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("run/probe.sock");
    assert!(
        probe(&socket, false)
            .await
            .unwrap_err()
            .contains("no daemon answers")
    );

    let (status, shutdown) = (Status::default(), Shutdown::default());
    status.serve(&args(&socket), &shutdown).await.unwrap();
    assert_eq!(probe(&socket, false).await, Err("not ready: starting".into()));
    assert_eq!(probe(&socket, true).await, Ok(()));
    status.ready();
    assert_eq!(probe(&socket, false).await, Ok(()));
    status.unready("the tunnel device is gone");
    assert_eq!(
        probe(&socket, false).await,
        Err("not ready: the tunnel device is gone".into())
    );

    // A successor takes the socket over.
    let next = Status::default();
    next.ready();
    next.serve(&args(&socket), &shutdown).await.unwrap();
    assert_eq!(probe(&socket, false).await, Ok(()));
    shutdown.trigger();
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let args = CommonArgs {
        metrics_listen: Some(address),
        probe_socket: None,
        ..args(Path::new(""))
    };
    let error = Status::default()
        .serve(&args, &Shutdown::default())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&address.to_string()) && error.contains("--metrics-listen"),
        "{error}"
    );
}

#[tokio::test]
async fn the_unspecified_address_takes_ipv4_with_and_without_ipv6() {
    let listener = status::listen_tcp("[::]:0".parse().unwrap()).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (accepted, connected) = tokio::join!(
        listener.accept(),
        tokio::net::TcpStream::connect(("127.0.0.1", port))
    );
    let seen = accepted.unwrap().1;
    assert_eq!(
        seen.ip().to_canonical(),
        connected.unwrap().local_addr().unwrap().ip()
    );
}
