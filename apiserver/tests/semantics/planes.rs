//! The way to a real control plane, tried on stand-ins for its programs.

use strait_envtest::{Client, ControlPlane, On, again_in};

use crate::stand_in::{self, write_program};

const ENTRY: &str = "planes::all_of_these_by_way_of_a_control_plane";

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_starts_and_ends_with_its_processes() {
    let assets = stand_in::folder(&["etcd", "kube-apiserver"], ENTRY);
    let mut plane = ControlPlane::start(assets.path()).await.unwrap();
    assert!(!plane.has_controllers());
    plane.alive().unwrap();
    let folder = plane.folder().to_owned();
    let url = plane.url().trim_start_matches("https://").to_owned();
    let account = plane.client(Client::Account("default", "default")).await.unwrap();
    let who = http::Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
        .header("content-type", "application/json")
        .body(b"{}".to_vec())
        .unwrap();
    let who: serde_json::Value = account.request(who).await.unwrap();
    assert_eq!(
        who["status"]["userInfo"]["username"],
        "system:serviceaccount:default:default"
    );
    let admin = plane.client(Client::Admin).await.unwrap();
    strait_envtest::apply(
        &admin,
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {k: v}}",
    )
    .await
    .unwrap();
    let ended = tokio::task::spawn_blocking(move || drop(plane)).await;
    ended.unwrap();
    assert!(!folder.exists(), "its files are gone");
    assert!(
        tokio::net::TcpStream::connect(&url).await.is_err(),
        "nobody listens any more"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_does_not_start_is_named_with_its_last_words() {
    let assets = stand_in::folder(&["etcd"], ENTRY);
    let why = ControlPlane::start(assets.path()).await.unwrap_err();
    assert!(why.starts_with("kube-apiserver cannot be started: "), "{why}");
    let script = "#!/bin/sh\necho no luck today >&2\nexit 3\n";
    write_program(&assets.path().join("kube-apiserver"), script);
    let why = ControlPlane::start(assets.path()).await.unwrap_err();
    assert!(
        why.starts_with("kube-apiserver ended (exit status: 3)") && why.contains("no luck today"),
        "{why}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_these_by_way_of_a_control_plane() {
    if stand_in::acts().await {
        return;
    }
    let assets = stand_in::folder(&["etcd", "kube-apiserver", "kube-controller-manager"], ENTRY);
    again_in(assets.path(), On::One, &crate::NOT_AGAIN).await.unwrap();
}
