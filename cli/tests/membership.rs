//! Becoming a member by the commands that people type: a broker, a token, join, accept, an agent, evict.
//! The cluster that joins is the broker's own, as it may be.

#![allow(clippy::unwrap_used, reason = "a test fails where there is none")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// A process that ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; there is nobody left to tell either way.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn strait(kubeconfig: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strait"));
    command.args(args).env_clear().env("KUBECONFIG", kubeconfig);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn ran(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

fn until<T>(what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(said) => assert!(Instant::now() < end, "{what}: {said}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// As on a disk that is full, for the log at least.
#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("broker");
    let kubeconfig = data.join("admin.kubeconfig");
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = strait(
        &kubeconfig,
        &[
            "--log",
            "debug",
            "broker",
            "--standalone",
            "--listen",
            "127.0.0.1:0",
            "--data-dir",
        ],
    );
    let mut broker = Process(command.arg(&data).stderr(full).spawn().unwrap());
    let token = until("a token", || {
        let made = strait(&kubeconfig, &["broker", "token", "create"])
            .output()
            .unwrap();
        if made.status.success() {
            return Ok(text(&made.stdout));
        }
        assert_eq!(broker.0.try_wait().unwrap(), None, "the broker goes on");
        Err(text(&made.stderr))
    });
    assert!(!token.trim().is_empty() && token.lines().count() == 1, "{token}");
    assert_eq!(broker.0.try_wait().unwrap(), None, "the broker goes on");
}

#[test]
fn a_cluster_becomes_a_member_by_the_commands_of_the_readme() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("broker");
    let kubeconfig = data.join("admin.kubeconfig");
    let mut command = strait(
        &kubeconfig,
        &["broker", "--standalone", "--listen", "127.0.0.1:0", "--data-dir"],
    );
    let mut broker = Process(command.arg(&data).spawn().unwrap());
    // It says on its log when it serves; the rest of the log must not fill the pipe.
    let mut log = BufReader::new(broker.0.stderr.take().unwrap()).lines();
    let serves = log
        .by_ref()
        .map(Result::unwrap)
        .find(|line| line.contains("the broker serves"));
    assert!(
        serves
            .as_ref()
            .is_some_and(|line| line.contains("admin.kubeconfig")),
        "{serves:?}"
    );
    std::thread::spawn(move || log.for_each(drop));
    let run = |args: &[&str]| strait(&kubeconfig, args).output().unwrap();

    // Nothing but the token goes to standard output.
    let token = ran(&run(&["broker", "token", "create", "--ttl", "1h"]));
    assert_eq!(token.lines().count(), 1, "{token}");
    let listed = ran(&run(&["broker", "token", "list"]));
    let request = listed
        .split_whitespace()
        .find(|w| w.starts_with("join-"))
        .unwrap()
        .to_owned();
    assert!(!listed.contains(token.trim()));
    // For whom a token is good at once stands beside it.
    ran(&run(&["broker", "token", "create", "--preapprove", "spoke"]));
    let listed = ran(&run(&["broker", "requests"]));
    let column = listed.find("PREAPPROVED").unwrap();
    let approved: Vec<&str> = listed
        .lines()
        .skip(1)
        .map(|line| line[column..].split_whitespace().next().unwrap())
        .collect();
    assert!(approved.contains(&"-") && approved.contains(&"spoke"), "{listed}");

    let mut joining = strait(
        &kubeconfig,
        &[
            "join",
            "--cluster-id",
            "hub",
            "--pod-cidr",
            "10.9.0.0/16",
            "--output",
            "json",
        ],
    );
    let mut joining = joining.stdin(Stdio::piped()).spawn().unwrap();
    joining.stdin.take().unwrap().write_all(token.as_bytes()).unwrap();
    let mut said = BufReader::new(joining.stderr.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let line = said.find(|line| line.contains("fingerprint")).unwrap();
    let fingerprint = line.split_whitespace().last().unwrap().to_owned();

    let other = run(&["broker", "accept", &request, "--fingerprint", "SHA256:other"]);
    assert!(
        !other.status.success() && text(&other.stderr).contains(&fingerprint),
        "{other:?}"
    );
    let nobody = run(&["broker", "accept", &request]);
    assert!(
        text(&nobody.stderr).contains("--fingerprint"),
        "without a terminal nobody can be asked: {nobody:?}"
    );
    ran(&run(&[
        "broker",
        "accept",
        &request,
        "--fingerprint",
        &fingerprint,
    ]));
    let joined = joining.wait_with_output().unwrap();
    let joined: serde_json::Value = serde_json::from_str(&ran(&joined)).unwrap();
    assert_eq!(joined["ok"], true);
    assert_eq!(
        (&joined["clusterId"], &joined["nodeBlocks"][0]),
        (&"hub".into(), &"240.0.0.0/20".into())
    );

    // With its agent it is heard of.
    let mut agent = strait(&kubeconfig, &["agent", "--state-dir"]);
    let agent = agent
        .arg(folder.path().join("agent"))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let _agent = Process(agent.spawn().unwrap());
    let member = until("the member is seen", || {
        let members = ran(&run(&["broker", "members"]));
        let line = members
            .lines()
            .find(|l| l.starts_with("hub"))
            .ok_or(members.clone())?;
        // The last column: when its agent was heard of.
        if line.trim_end().ends_with('Z') {
            Ok(line.to_owned())
        } else {
            Err(line.to_owned())
        }
    });
    assert!(
        member.contains("Active") && member.contains("10.9.0.0/16"),
        "{member}"
    );

    // Whoever wrote something is named, over the network and within the broker's process.
    let client = |path: std::path::PathBuf| {
        let client = strait_daemon::client::connect(Some(&path), "strait-test");
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map(|runtime| {
                let client = runtime.block_on(client).unwrap();
                (runtime, client)
            })
    };
    let (runtime, client) = client(kubeconfig.clone()).unwrap();
    let mut managers = std::collections::BTreeSet::new();
    for path in [
        "/apis/strait.dev/v1alpha1/members",
        "/apis/strait.dev/v1alpha1/joinrequests",
        "/apis/strait.dev/v1alpha1/clusters",
        "/api/v1/secrets",
        "/api/v1/namespaces",
        "/apis/coordination.k8s.io/v1/leases",
        "/apis/rbac.authorization.k8s.io/v1/rolebindings",
    ] {
        let request = http::Request::get(path).body(Vec::new()).unwrap();
        let list: serde_json::Value = runtime.block_on(client.request(request)).unwrap();
        for item in list["items"].as_array().unwrap() {
            for fields in item["metadata"]["managedFields"].as_array().into_iter().flatten() {
                let manager = fields["manager"].as_str().unwrap().to_owned();
                assert!(manager != "unknown", "{path}: {}", item["metadata"]["name"]);
                managers.insert(manager);
            }
        }
    }
    for manager in ["strait-broker", "strait-agent", "strait-join"] {
        assert!(
            managers.contains(manager),
            "{manager} wrote nothing: {managers:?}"
        );
    }

    // Who leaves by itself was not evicted.
    ran(&run(&["leave"]));
    let members = ran(&run(&["broker", "members"]));
    assert!(
        members.contains("Left") && !members.contains("Evicted"),
        "{members}"
    );
    let token = ran(&run(&["broker", "token", "create", "--preapprove", "hub"]));
    let mut joining = strait(
        &kubeconfig,
        &["join", "--cluster-id", "hub", "--pod-cidr", "10.9.0.0/16"],
    );
    let mut joining = joining.stdin(Stdio::piped()).spawn().unwrap();
    joining.stdin.take().unwrap().write_all(token.as_bytes()).unwrap();
    ran(&joining.wait_with_output().unwrap());
    let members = ran(&run(&["broker", "members"]));
    assert!(members.contains("Active"), "{members}");

    ran(&run(&["broker", "evict", "hub"]));
    let shown = ran(&run(&["broker", "members"]));
    assert!(shown.contains("Evicted"), "{shown}");
    let members = ran(&run(&["broker", "members", "--output", "json"]));
    let members: serde_json::Value = serde_json::from_str(&members).unwrap();
    assert_eq!(members[0]["spec"]["state"], "Evicted");
    let gone = run(&["broker", "evict", "nobody"]);
    assert!(
        text(&gone.stderr).contains("there is no member nobody"),
        "{gone:?}"
    );
}

/// A member has the records of members, too: copies, which nobody but its agent may write.
#[test]
fn what_is_no_broker_is_not_administrated_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let mut command = strait(&kubeconfig, &["apiserver", "--listen-stdin", "--data-dir"]);
    command.arg(folder.path().join("data"));
    command.arg("--write-kubeconfig");
    command.arg(format!("{url}={}", kubeconfig.display()));
    command.stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)));
    let mut server = Process(command.spawn().unwrap());
    let mut log = BufReader::new(server.0.stderr.take().unwrap()).lines();
    let serves = log
        .by_ref()
        .map(Result::unwrap)
        .find(|l| l.contains("serving at"));
    assert!(serves.is_some(), "the API server ended");
    std::thread::spawn(move || log.for_each(drop));
    let broker_url = "https://192.0.2.1:6443";
    for args in [
        &["token", "create", "--url", broker_url][..],
        &["token", "list"],
        &["token", "delete", "join-1"],
        &["requests"],
        &["accept", "join-1", "--yes"],
        &["reject", "join-1"],
        &["members"],
        &["evict", "blue"],
    ] {
        let args = [&["broker"], args].concat();
        let output = strait(&kubeconfig, &args).output().unwrap();
        let said = text(&output.stderr);
        assert!(!output.status.success(), "{args:?}: {said}");
        let named = format!("the cluster of kubeconfig {} is no broker", kubeconfig.display());
        assert!(
            said.contains(&named) && said.contains("--kubeconfig"),
            "{args:?}: {said}"
        );
    }
}

#[test]
fn what_is_missing_is_named() {
    let nowhere = Path::new("/nonexistent/kubeconfig");
    for args in [&["broker", "members"][..], &["leave"][..], &["broker"][..]] {
        let output = strait(nowhere, args).output().unwrap();
        let said = text(&output.stderr);
        assert!(
            !output.status.success() && said.contains("/nonexistent/kubeconfig"),
            "{args:?}: {said}"
        );
    }
    let output = strait(nowhere, &["join", "--cluster-id", "blue"])
        .output()
        .unwrap();
    assert!(
        text(&output.stderr).contains("no join token: it is empty"),
        "{output:?}"
    );
    let output = strait(nowhere, &["join", "--cluster-id", "Not_An_ID"])
        .output()
        .unwrap();
    assert!(text(&output.stderr).contains("is no cluster ID"), "{output:?}");
    let output = strait(
        nowhere,
        &[
            "join",
            "--cluster-id",
            "blue",
            "--token-file",
            "/nonexistent/token",
        ],
    )
    .output()
    .unwrap();
    assert!(text(&output.stderr).contains("/nonexistent/token"), "{output:?}");
}
