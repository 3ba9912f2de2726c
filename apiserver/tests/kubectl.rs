//! Clients that nobody here wrote, where they are installed: kubectl, and Python's (tests/clients/run).
//!
//! Of several kubectls the oldest and the newest are tried; `STRAIT_KUBECTL=all` tries all.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Stdio};

use strait_apiserver::{Config, Data, Server};
use strait_envtest::{Client, ControlPlane, Version, say};

const RUN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/run");

/// The first version of Kubernetes that serves all that the script asks for: lists as watches.
const SERVES: Version = Version { major: 1, minor: 32 };

async fn serve(dir: &Path) -> Server {
    let mut config = Config::new(Data::Directory(dir.join("data")));
    config
        .listeners
        .push(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    config.service_cidrs.push("10.96.0.0/16".parse().unwrap());
    // So that clients see versions expire.
    config.window.events = 256;
    let server = Server::start(config).await.unwrap();
    let url = format!("https://{}", server.addr().unwrap());
    std::fs::write(dir.join("kubeconfig"), server.admin_kubeconfig(&url)).unwrap();
    server
}

/// Runs the script, and says what it says.
async fn run(kubeconfig: &Path) -> String {
    let mut command = tokio::process::Command::new(RUN);
    command.arg(kubeconfig).stdin(Stdio::null()).kill_on_drop(true);
    if std::env::var("STRAIT_KUBECTL").as_deref() == Ok("all") {
        command.arg("--all");
    }
    let done = command.output().await.unwrap();
    let output = String::from_utf8_lossy(&done.stdout).into_owned();
    say(output.trim_end());
    assert!(
        done.status.success() && output.trim_end().ends_with(" 0 failed"),
        "{output}{}",
        String::from_utf8_lossy(&done.stderr)
    );
    output
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_do_what_people_do_with_them() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path()).await;
    let output = run(&dir.path().join("kubeconfig")).await;
    // Here versions do expire.
    assert!(!output.contains("skipped: 410"), "{output}");
    server.shutdown().await;
}

/// So that the script asks for what is so elsewhere, not for what this server happens to do.
#[tokio::test(flavor = "multi_thread")]
async fn clients_do_the_same_on_a_real_kube_apiserver() {
    let Some(assets) = strait_envtest::assets() else {
        return strait_envtest::skip("clients on kube-apiserver", "KUBEBUILDER_ASSETS is not set");
    };
    let plane = ControlPlane::start(&assets).await.unwrap();
    if !plane.has_controllers() {
        return strait_envtest::skip(
            "clients on kube-apiserver",
            "they need kube-controller-manager, which is not beside it",
        );
    }
    let version = plane.version();
    if version < SERVES {
        let why = format!("it is {version}, and they ask for what {SERVES} serves");
        return strait_envtest::skip("clients on kube-apiserver", &why);
    }
    let file = plane.folder().join("admin.kubeconfig");
    std::fs::write(&file, plane.kubeconfig(Client::Admin)).unwrap();
    run(&file).await;
}

/// The manifests of a member cluster and of a broker, as the README says to apply them.
#[tokio::test(flavor = "multi_thread")]
async fn deploy_applies_with_kubectl() {
    let kubectl = match newest() {
        Ok(kubectl) => kubectl,
        Err(why) => return strait_envtest::skip("kubectl apply -k deploy/base", &why),
    };
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path()).await;
    let apply = async |folder: &str| {
        let mut command = tokio::process::Command::new(&kubectl);
        command
            .args(["apply", "-k"])
            .arg(format!("{}/../deploy/{folder}", env!("CARGO_MANIFEST_DIR")))
            .env("KUBECONFIG", dir.path().join("kubeconfig"))
            .env("HOME", dir.path())
            .stdin(Stdio::null());
        let done = command.output().await.unwrap();
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr)
        );
        assert!(done.status.success(), "{folder}: {text}");
        text
    };
    for (folder, some) in [
        ("base", "resourcequota/strait-critical"),
        ("base", "poddisruptionbudget.policy/strait-agent"),
        ("broker", "deployment.apps/strait-broker"),
    ] {
        let text = apply(folder).await;
        assert!(text.contains(some), "{text}");
    }
    let again = apply("base").await;
    let changed: Vec<&str> = again.lines().filter(|l| !l.ends_with(" unchanged")).collect();
    assert!(changed.is_empty(), "applied again, nothing changes: {changed:#?}");
    server.shutdown().await;
}

/// The newest kubectl, if it reads kustomizations as they are written now: from 1.21.
fn newest() -> Result<String, String> {
    let listed = Command::new(RUN)
        .arg("--list")
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("{RUN}: {e}"))?;
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let Some((version, path)) = text.lines().last().and_then(|l| l.split_once(' ')) else {
        return Err("kubectl is not installed".into());
    };
    let minor: Option<u32> = version.split('.').nth(1).and_then(|m| m.parse().ok());
    if minor.is_some_and(|m| m < 21) {
        return Err(format!("kubectl {version} does not read these kustomizations"));
    }
    Ok(path.to_owned())
}
