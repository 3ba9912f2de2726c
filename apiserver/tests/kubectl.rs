//! What operators type, with every kubectl that is installed here.
//!
//! Looks on the PATH and where the Google Cloud SDK keeps its versions. The oldest and the newest of these
//! are tried; `STRAIT_KUBECTL=all` tries all. Where there is none, the test says so and has nothing to do:
//! a fresh machine has none.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use regex::Regex;
use strait_apiserver::{Config, Data, Server};

const FILES: [(&str, &str); 5] = [
    (
        "crd.yaml",
        "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: widgets.test.dev}\nspec:\n  group: test.dev\n  scope: Namespaced\n  names: {plural: widgets, singular: widget, kind: Widget, shortNames: [wd]}\n  versions:\n  - name: v1\n    served: true\n    storage: true\n    additionalPrinterColumns: [{name: Size, type: integer, jsonPath: .spec.size}]\n    schema:\n      openAPIV3Schema:\n        type: object\n        properties:\n          spec:\n            type: object\n            properties: {size: {type: integer, minimum: 1}, colour: {type: string}}\n",
    ),
    (
        "widget.yaml",
        "apiVersion: test.dev/v1\nkind: Widget\nmetadata: {name: k, namespace: default}\nspec: {size: 3, colour: red}\n",
    ),
    (
        "bad.yaml",
        "apiVersion: test.dev/v1\nkind: Widget\nmetadata: {name: bad, namespace: default}\nspec: {size: 3, nope: red}\n",
    ),
    (
        "service.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: two}\nspec: {selector: {a: b}, ports: [{name: a, port: 80}]}\n",
    ),
    (
        "service2.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: two}\nspec: {selector: {a: b}, ports: [{name: a, port: 80}, {name: b, port: 81}]}\n",
    ),
];

/// A line as it is typed, and what its output has to match.
const STEPS: &[(&str, &str)] = &[
    ("version", "Server Version"),
    ("api-resources", "endpointslices"),
    ("apply -f crd.yaml", "widgets.test.dev created"),
    (
        "wait --for=condition=Established crd/widgets.test.dev --timeout=10s",
        "condition met",
    ),
    ("apply -f widget.yaml", "k created"),
    ("apply -f widget.yaml", "k unchanged"),
    (
        "apply --server-side --force-conflicts -f widget.yaml",
        "serverside-applied",
    ),
    ("apply -f bad.yaml", "nope"),
    ("get wd", r"NAME +SIZE[\s\S]*k +3"),
    ("get widgets -o wide", "k +3"),
    ("get wd k -o yaml", "colour: red"),
    ("get wd k -o jsonpath={.spec.size}", "^3$"),
    ("describe wd k", "Colour: +red"),
    ("explain widget.spec", "colour"),
    ("explain service.spec", "clusterIP"),
    ("label wd k x=y", "labeled"),
    ("annotate wd k n=m", "annotate"),
    ("get wd -l x=y", "k +3"),
    ("patch wd k --type merge -p {\"spec\":{\"size\":4}}", "patched"),
    (
        "patch wd k --type json -p [{\"op\":\"replace\",\"path\":\"/spec/size\",\"value\":5}]",
        "patched",
    ),
    ("create ns demo", "created"),
    ("create cm c -n demo --from-literal=a=b", "created"),
    ("create secret generic s -n demo --from-literal=a=b", "created"),
    ("create deployment web -n demo --image nginx", "created"),
    ("expose deployment web -n demo --port 80", "exposed"),
    (
        "get svc -n demo -o wide",
        r"web +ClusterIP[\s\S]*80/TCP[\s\S]*app=web",
    ),
    ("describe svc web -n demo", "IP: "),
    ("describe deploy web -n demo", "nginx"),
    (
        "patch deploy web -n demo -p {\"spec\":{\"template\":{\"spec\":{\"containers\":[{\"name\":\"nginx\",\"image\":\"x:1\"}]}}}}",
        "patched",
    ),
    ("apply -n demo -f service.yaml", "created"),
    ("apply -n demo -f service2.yaml", "configured"),
    ("get svc two -n demo -o jsonpath={.spec.ports[*].name}", "^a b$"),
    ("run p -n demo --image x", "created"),
    ("get pods -n demo -o wide", "p +0/1 +Pending"),
    ("describe pod p -n demo", "Image: +x"),
    ("get all -A", "service/kubernetes"),
    ("get cm -A --sort-by=.metadata.name", "demo +c "),
    ("auth can-i create pods", "^yes"),
    ("auth can-i create pods --as dev", "no"),
    (
        "create clusterrolebinding b --clusterrole=view --user=dev",
        "created",
    ),
    ("get cm -n demo --as dev", "NAME"),
    ("get secrets -n demo --as dev", "Forbidden"),
    ("get events -n demo", "No resources|LAST SEEN"),
    ("delete -f widget.yaml", "deleted"),
    ("delete ns demo", "deleted"),
    ("get ns demo", "NotFound"),
    ("delete crd widgets.test.dev", "deleted"),
    ("delete clusterrolebinding b", "deleted"),
];

fn installed() -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = std::env::var_os("PATH")
        .map(|p| std::env::split_paths(&p).collect())
        .unwrap_or_default();
    dirs.extend(["/usr/bin", "/usr/local/bin", "/usr/lib/google-cloud-sdk/bin"].map(PathBuf::from));
    let mut found: Vec<PathBuf> = dirs
        .iter()
        .filter_map(|d| std::fs::read_dir(d).ok())
        .flatten()
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| {
            let name = p.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            name == "kubectl" || name.starts_with("kubectl.1.")
        })
        .filter_map(|p| p.canonicalize().ok())
        .collect();
    found.sort();
    found.dedup();
    // Where versions are installed side by side, a plain `kubectl` is one of them, or picks one.
    let versioned = |p: &PathBuf| p.to_string_lossy().contains("kubectl.1.");
    if found.iter().any(versioned) {
        found.retain(versioned);
    }
    found
}

fn run(kubectl: &Path, dir: &Path, line: &str) -> String {
    let output = Command::new(kubectl)
        .args(line.split(' '))
        .env("KUBECONFIG", dir.join("kubeconfig"))
        .env("HOME", dir)
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_does_what_operators_type() {
    let mut all = installed();
    if all.is_empty() {
        println!("kubectl is not installed here: nothing was tried");
        return;
    }
    if std::env::var("STRAIT_KUBECTL").as_deref() != Ok("all") && all.len() > 2 {
        let skipped = all.split_off(1);
        let last = skipped.last().cloned();
        println!(
            "not tried without STRAIT_KUBECTL=all: {:?}",
            &skipped[..skipped.len() - 1]
        );
        all.extend(last);
    }
    // Each has a server of its own, so that they do not wait for each other.
    let mut tries = tokio::task::JoinSet::new();
    for kubectl in all {
        tries.spawn(all_steps(kubectl));
    }
    while let Some(done) = tries.join_next().await {
        done.unwrap();
    }
}

async fn all_steps(kubectl: PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in FILES {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let mut config = Config::new(Data::Directory(dir.path().join("data")));
    config
        .listeners
        .push(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    config.service_cidrs.push("10.96.0.0/16".parse().unwrap());
    let server = Server::start(config).await.unwrap();
    let url = format!("https://{}", server.addr().unwrap());
    std::fs::write(dir.path().join("kubeconfig"), server.admin_kubeconfig(&url)).unwrap();
    for (line, want) in STEPS {
        let (k, d) = (kubectl.clone(), dir.path().to_owned());
        let output = tokio::task::spawn_blocking(move || run(&k, &d, line))
            .await
            .unwrap();
        let matches = Regex::new(&format!("(?m){want}")).unwrap().is_match(&output);
        assert!(
            matches,
            "{} {line}: {output:?} should match {want:?}",
            kubectl.display()
        );
    }
    println!("{}: {} commands", kubectl.display(), STEPS.len());
    server.shutdown().await;
}
