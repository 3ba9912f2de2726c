//! Clients that nobody here wrote, where they are installed: kubectl, and Python's (tests/clients/run).
//!
//! Of several kubectls the oldest and the newest are tried; `STRAIT_KUBECTL=all` tries all.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Stdio};

use strait_apiserver::{Config, Data, Server};
use strait_envtest::say;

async fn serve(dir: &Path) -> Server {
    let mut config = Config::new(Data::Directory(dir.join("data")));
    config
        .listeners
        .push(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    config.service_cidrs.push("10.96.0.0/16".parse().unwrap());
    let server = Server::start(config).await.unwrap();
    let url = format!("https://{}", server.addr().unwrap());
    std::fs::write(dir.join("kubeconfig"), server.admin_kubeconfig(&url)).unwrap();
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_do_what_people_do_with_them() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path()).await;
    let run = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/run");
    let mut command = Command::new(run);
    command.arg(dir.path().join("kubeconfig")).stdin(Stdio::null());
    if std::env::var("STRAIT_KUBECTL").as_deref() == Ok("all") {
        command.arg("--all");
    }
    let done = tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap();
    let output = String::from_utf8_lossy(&done.stdout).into_owned();
    say(output.trim_end());
    assert!(
        done.status.success() && output.contains(" 0 failed"),
        "{output}{}",
        String::from_utf8_lossy(&done.stderr)
    );
    server.shutdown().await;
}

/// The manifests of a member cluster and of a broker, as the README says to apply them.
#[tokio::test(flavor = "multi_thread")]
async fn deploy_applies_with_kubectl() {
    let Some(kubectl) = newest() else {
        strait_envtest::skip("kubectl apply -k deploy/base", "kubectl is not installed");
        return;
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

/// The newest kubectl that can read kustomizations as they are written now.
fn newest() -> Option<String> {
    let mut found: Vec<String> = Vec::new();
    let path = std::env::var("PATH").unwrap_or_default();
    for dir in path
        .split(':')
        .chain(["/usr/local/bin", "/usr/lib/google-cloud-sdk/bin"])
    {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let minor = name
                .strip_prefix("kubectl.1.")
                .and_then(|v| v.parse::<u32>().ok());
            if name == "kubectl" || minor.is_some() {
                found.push(format!("{:04}{}", minor.unwrap_or(0), entry.path().display()));
            }
        }
    }
    found.sort();
    found.pop().map(|f| f[4..].to_owned())
}
