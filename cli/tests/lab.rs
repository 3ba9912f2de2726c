//! The lab as a user sees it: it comes up, can be worked in, and leaves nothing behind.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Labs of one test, in a state directory of its own. What still runs at the end is taken down.
struct Labs {
    runtime: tempfile::TempDir,
}

impl Labs {
    fn new() -> Self {
        // In /tmp, not below a deep target directory: paths of sockets are short.
        Self {
            runtime: tempfile::Builder::new()
                .prefix("strait-test-")
                .tempdir_in("/tmp")
                .unwrap(),
        }
    }

    fn strait(&self, lab: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strait"));
        command.arg("lab").args(["--name", lab]).args(args);
        command
            .env("XDG_RUNTIME_DIR", self.runtime.path())
            .env_remove("KUBECONFIG")
            .stdin(Stdio::null());
        command
    }

    /// Without a name.
    fn bare(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strait"));
        command.arg("lab").args(args);
        command
            .env("XDG_RUNTIME_DIR", self.runtime.path())
            .env_remove("STRAIT_LAB")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, lab: &str, args: &[&str]) -> Output {
        self.strait(lab, args).output().unwrap()
    }

    /// Runs and expects success; returns what was printed.
    fn ok(&self, lab: &str, args: &[&str]) -> String {
        let output = self.run(lab, args);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(
            output.status.success(),
            "strait lab --name {lab} {args:?} failed:\n{out}\n{err}"
        );
        out
    }

    /// Runs and expects failure; returns the complaint.
    fn fails(&self, lab: &str, args: &[&str]) -> String {
        let output = self.run(lab, args);
        assert!(
            !output.status.success(),
            "strait lab --name {lab} {args:?} succeeded"
        );
        text(&output.stderr)
    }

    fn dir(&self, lab: &str) -> PathBuf {
        self.runtime.path().join("strait-lab").join(lab)
    }

    fn file(&self, lab: &str) -> Value {
        serde_json::from_slice(&fs::read(self.dir(lab).join("lab.json")).unwrap()).unwrap()
    }

    fn status(&self, lab: &str) -> Value {
        serde_json::from_str(&self.ok(lab, &["status", "--output", "json"])).unwrap()
    }

    fn process(&self, lab: &str, id: &str) -> Value {
        let status = self.status(lab);
        let found = status["processes"]
            .as_array()
            .unwrap()
            .iter()
            .find(|p| p["id"] == id)
            .cloned();
        found.unwrap_or_else(|| panic!("no process {id} in {status}"))
    }
}

impl Drop for Labs {
    fn drop(&mut self) {
        let _ = self.strait("any", &["down", "--all"]).output();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Processes that have this text in their arguments or environment, and are not dead.
fn processes_with(mark: &Path) -> Vec<String> {
    let mark = mark.to_str().unwrap();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let path = entry.unwrap().path();
        let read = |name: &str| text(&fs::read(path.join(name)).unwrap_or_default());
        if path
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .parse::<i32>()
            .is_err()
        {
            continue;
        }
        if read("cmdline").contains(mark) || read("environ").contains(mark) {
            found.push(format!(
                "{}: {}",
                path.display(),
                read("cmdline").replace('\0', " ")
            ));
        }
    }
    found
}

fn wait_for(mut child: Child) -> Output {
    let deadline = Instant::now() + Duration::from_secs(120);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("strait does not end");
        }
        thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

#[test]
fn a_lab_can_be_worked_in_and_leaves_nothing() {
    let labs = Labs::new();
    labs.ok("work", &["up", "--clusters", "1"]);

    // All daemons run, each once.
    let status = labs.status("work");
    for id in [
        "gateway-1/gateway",
        "gateway-1/route-agent",
        "worker-1/route-agent",
        "worker-1/agent",
        "worker-1/dns",
    ] {
        let process = labs.process("work", &format!("blue/{id}"));
        assert!(process["pid"].is_i64(), "{id} does not run: {status}");
        assert_eq!(
            process["restarts"],
            0,
            "{id} was restarted: {}",
            labs.ok("work", &["logs", &format!("blue/{id}")])
        );
    }

    // A pod, and commands in it and on nodes.
    labs.ok("work", &["run", "blue/gateway-1", "a"]);
    let address = labs.ok(
        "work",
        &[
            "run",
            "blue/worker-1",
            "b",
            "--labels",
            "app=b",
            "--port",
            "8080",
            "--",
            env!("CARGO_BIN_EXE_strait"),
            "lab-tool",
            "serve",
        ],
    );
    let page = labs.ok(
        "work",
        &[
            "exec",
            "blue/a",
            "--",
            "strait",
            "lab-tool",
            "get",
            &format!("{}:8080", address.trim()),
        ],
    );
    let page: Value = serde_json::from_str(&page).unwrap();
    assert_eq!(
        (page["cluster"].as_str(), page["pod"].as_str()),
        (Some("blue"), Some("b"))
    );
    assert_eq!(page["client_ip"], "10.1.1.10");
    for (command, code) in [
        (&["sh", "-c", "exit 7"][..], 7),
        (&["/nonexistent/program"], 127),
        (&["/etc/passwd"], 126),
    ] {
        let exec = [&["exec", "blue/gateway-1", "--"][..], command].concat();
        let output = labs.run("work", &exec);
        assert_eq!(output.status.code(), Some(code), "{command:?}: {output:?}");
    }

    // Without `--` too; every place has a host name of its own.
    for (place, name) in [
        ("blue/a", "a"),
        ("blue/worker-1", "worker-1"),
        ("blue/gateway-1/gateway", "gateway-1"),
        ("blue/worker-1/dns", "strait-dns-0"),
    ] {
        let told = labs.ok("work", &["exec", place, "cat", "/proc/sys/kernel/hostname"]);
        assert_eq!(told.trim(), name, "{place}");
    }
    // Who may not list what the plan is made from is told so, once and at once.
    let said = labs.fails(
        "work",
        &["exec", "blue/gateway-1/gateway", "--", "strait", "plan"],
    );
    assert!(
        said.starts_with("strait: these credentials may not list ")
            && said.contains("CLUSTER/NODE/route-agent")
            && said.lines().count() == 1,
        "{said}"
    );

    // A command that ends before its port answers is not waited for.
    let said = labs.fails(
        "work",
        &["run", "blue/worker-1", "c", "--port", "80", "--", "false"],
    );
    assert!(
        said.contains("blue/c ended (exit code 1) before its ports answered"),
        "{said}"
    );
    // What cannot be printed is an error.
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = labs.strait("work", &["status"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        text(&output.stderr).contains("cannot write to standard output"),
        "{output:?}"
    );

    // Names are resolved in a pod as kubelet sets it up, and on a node as on the machine.
    let read = |place: &str| labs.ok("work", &["exec", place, "--", "cat", "/etc/resolv.conf"]);
    assert_eq!(
        read("blue/a"),
        "search default.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.101.0.10\n\
         options ndots:5\n"
    );
    assert!(read("blue/worker-1/dns").starts_with("search strait-system.svc.cluster.local "));
    let machine = fs::read_to_string("/etc/resolv.conf").unwrap();
    assert_eq!(read("blue/worker-1"), machine);
    assert_eq!(read("blue/gateway-1/gateway"), machine);
    let lookup = |name: &str| {
        let lookup = ["exec", "blue/a", "--", "strait", "lab-tool", "lookup", name];
        labs.run("work", &lookup)
    };
    for name in [
        "kubernetes.default.svc.cluster.local",
        "kubernetes",
        "kube-dns.kube-system",
    ] {
        let output = lookup(name);
        let found: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
        let address = found["addresses"][0].as_str().unwrap_or_default().to_owned();
        assert!(address.starts_with("10.101."), "{name} is {found}");
    }
    assert!(!lookup("nothing.default.svc.cluster.local").status.success());
    assert!(!lookup("example.com").status.success());
    assert!(labs.ok("work", &["logs", "blue/b"]).contains("serves b of blue"));

    // A daemon that is killed comes back, and the status says so.
    let before = labs.process("work", "blue/worker-1/route-agent")["pid"].clone();
    labs.ok("work", &["kill", "blue/worker-1/route-agent", "--signal", "KILL"]);
    until("a new route agent", || {
        let process = labs.process("work", "blue/worker-1/route-agent");
        process["restarts"] == 1 && process["pid"].is_i64() && process["pid"] != before
    });
    assert_eq!(
        labs.process("work", "blue/worker-1/route-agent")["last_end"],
        "signal 9"
    );

    // Wrong names are answered with the right ones.
    assert!(
        labs.fails("work", &["exec", "blue/nobody", "--", "true"])
            .contains("blue/worker-1")
    );
    assert!(
        labs.fails("work", &["run", "blue/nowhere", "x"])
            .contains("blue/worker-1")
    );
    assert!(
        labs.fails("work", &["run", "blue/worker-1", "b"])
            .contains("already")
    );
    assert!(
        labs.fails("work", &["kill", "blue/worker-1/nothing"])
            .contains("blue/worker-1/route-agent")
    );
    let said = labs.fails("work", &["exec", "blue/worker-1/gateway", "--", "true"]);
    assert!(
        said.contains("blue/gateway-1") && said.contains("blue/gateway-1/gateway"),
        "{said}"
    );
    let said = labs.fails("work", &["logs", "blue/nothing"]);
    assert!(said.contains("blue/gateway-1/gateway"), "{said}");
    assert!(labs.fails("work", &["kubeconfig", "green"]).contains("blue"));
    assert!(labs.fails("work", &["up"]).contains("exists"));
    assert!(labs.fails("work", &["demo"]).contains("exists"));
    let said = labs.fails("work", &["run", "nosuch/worker-1", "x"]);
    assert!(
        said.contains("no cluster \"nosuch\"") && said.contains("blue"),
        "{said}"
    );
    let said = labs.fails("work", &["run", "blue/worker-1", "../x"]);
    assert!(said.contains("no name for a pod"), "{said}");
    let said = labs.fails("work", &["run", "blue/worker-1", "x", "--namespace", "nowhere"]);
    assert_eq!(said.matches("not found").count(), 1, "{said}");
    let said = labs.fails("nosuch", &["logs", "supervisor"]);
    assert!(
        said.contains("no lab named \"nosuch\"") && said.contains("\"work\""),
        "{said}"
    );
    let listed = labs.ok("work", &["list", "-o", "json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(
        (&listed[0]["name"], &listed[0]["state"], &listed[0]["nodes"]),
        (&"work".into(), &"ready".into(), &2.into())
    );
    assert!(labs.ok("work", &["list"]).contains("work"));
    let short = labs.ok("work", &["status", "-o", "json"]);
    assert!(serde_json::from_str::<Value>(&short).unwrap()["pods"].is_array());

    check_snapshot(&labs, "work");

    // A command that still runs in the lab ends with it.
    let mut sleeper = labs
        .strait("work", &["exec", "blue/a", "--", "sleep", "1000"])
        .spawn()
        .unwrap();
    let init = labs.file("work")["init"]["pid"].as_i64().unwrap();
    labs.ok("work", &["down"]);
    assert!(
        !Path::new(&format!("/proc/{init}/ns/net")).exists() || !alive(init),
        "the lab still runs"
    );
    assert!(!sleeper.wait().unwrap().success(), "a command outlived its lab");
    assert!(
        !labs.dir("work").parent().unwrap().exists(),
        "the state directory is left"
    );
    until("the end of all processes", || {
        processes_with(labs.runtime.path()).is_empty()
    });
    labs.ok("work", &["down"]);
    assert!(labs.fails("work", &["status"]).contains("there is no lab"));
}

/// A snapshot has all that is wanted of it, and nothing that must stay in the lab.
fn check_snapshot(labs: &Labs, lab: &str) {
    let archive = labs.runtime.path().join("snapshot.tar.gz");
    let said = labs.ok(lab, &["snapshot", "-o", archive.to_str().unwrap()]);
    assert_eq!(said.trim(), archive.to_str().unwrap());
    let before = fs::read(&archive).unwrap();
    let said = labs.fails(lab, &["snapshot", "-o", archive.to_str().unwrap()]);
    assert!(
        said.contains(archive.to_str().unwrap()) && said.contains("--force"),
        "{said}"
    );
    assert_eq!(fs::read(&archive).unwrap(), before, "it was written over");
    labs.ok(lab, &["snapshot", "--force", "-o", archive.to_str().unwrap()]);
    let file = fs::File::open(&archive).unwrap();
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(flate2::read::GzDecoder::new(file))
        .entries()
        .unwrap()
    {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        files.insert(path.strip_prefix("strait-lab/").unwrap().to_owned(), content);
    }
    for (path, said) in [
        ("README", "Nothing is missing."),
        ("versions.json", env!("CARGO_PKG_VERSION")),
        ("lab.json", "topology"),
        ("status.json", "blue/worker-1/agent"),
        ("objects/broker/members.strait.dev.json", "\"blue\""),
        ("objects/blue/nodes.json", "gateway-1"),
        ("objects/blue/secrets.json", "left out"),
        ("kernel/blue/worker-1.txt", "strait-overlay"),
        ("kernel/blue/worker-1.txt", "table inet strait"),
        ("kernel/blue/gateway-1.txt", "strait-tun"),
        ("kernel/blue/a.txt", "default"),
        ("kernel/router.txt", "lan-blue"),
        ("metrics/blue/worker-1/dns.txt", "strait_dns_imports"),
        ("metrics/blue/gateway-1/gateway.txt", "# TYPE"),
        ("logs/supervisor.log", "joined"),
    ] {
        let content = files
            .get(path)
            .unwrap_or_else(|| panic!("{path} is not in {:?}", files.keys()));
        assert!(
            text(content).contains(said),
            "{path} does not say {said:?}:\n{}",
            text(content)
        );
    }
    for node in ["gateway-1", "worker-1"] {
        let plan = text(&files[&format!("plan/blue/{node}.txt")]);
        assert_eq!(plan, "", "the plan of {node} is not empty");
    }
    let secrets = secrets(&labs.dir(lab));
    assert!(secrets.len() > 15, "{} secrets", secrets.len());
    for (path, content) in &files {
        let content = text(content);
        for (origin, secret) in &secrets {
            assert!(!content.contains(secret), "{path} tells what is in {origin}");
        }
    }
}

/// Texts that are secret, by where they stand: tokens, keys, and what is in Secrets.
fn secrets(lab: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![lab.join("data"), lab.join("kubeconfig")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                folders.push(path);
            } else if ["token", "key"].iter().any(|end| name.ends_with(end)) || name.ends_with(".yaml") {
                let content = fs::read_to_string(&path).unwrap();
                let lines = content.lines().map(|l| l.trim());
                let secret = |l: &&str| match name.ends_with(".yaml") {
                    true => l.starts_with("token:") || l.starts_with("client-key-data:"),
                    false => !l.starts_with("-----"),
                };
                let words = lines.filter(secret).filter_map(|l| l.split(' ').next_back());
                found.extend(words.map(|w| (path.display().to_string(), w.to_owned())));
            }
        }
    }
    strait_daemon::client::install_crypto();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for cluster in ["blue", "broker"] {
        use k8s_openapi::api::core::v1::Secret;
        let path = lab.join("kubeconfig").join(format!("{cluster}.yaml"));
        let secrets = runtime.block_on(async {
            let client = strait_daemon::client::connect(Some(&path), "strait-test")
                .await
                .unwrap();
            kube::Api::<Secret>::all(client)
                .list(&Default::default())
                .await
                .unwrap()
        });
        for secret in secrets {
            for (key, value) in secret.data.unwrap_or_default() {
                let encoded = serde_json::to_string(&value)
                    .unwrap()
                    .trim_matches('"')
                    .to_owned();
                // What is public in there (certificates, names of namespaces) is short or in PEM.
                let value = text(&value.0);
                if value.len() >= 20 && !value.contains("BEGIN CERTIFICATE") && !value.starts_with("http") {
                    let origin = format!("Secret {:?} of {cluster}, {key}", secret.metadata.name);
                    found.push((origin.clone(), value));
                    found.push((origin, encoded));
                }
            }
        }
    }
    found.retain(|(_, secret)| secret.len() >= 16);
    found
}

fn alive(pid: i64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

#[test]
fn kubeconfigs_work_from_the_host() {
    let labs = Labs::new();
    labs.ok("kube", &["up", "--clusters", "1"]);
    let path = labs.ok("kube", &["kubeconfig", "blue", "--path"]);
    let config = kube::config::Kubeconfig::read_from(path.trim()).unwrap();
    assert!(
        labs.ok("kube", &["kubeconfig", "blue"])
            .contains("https://127.0.0.1:")
    );
    strait_daemon::client::install_crypto();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (nodes, daemons) = runtime.block_on(async {
        use k8s_openapi::api::core::v1::{Node, Pod};
        let config = kube::Config::from_custom_kubeconfig(config, &Default::default())
            .await
            .unwrap();
        let client = kube::Client::try_from(config).unwrap();
        let nodes = kube::Api::<Node>::all(client.clone())
            .list(&Default::default())
            .await
            .unwrap();
        let pods = kube::Api::<Pod>::namespaced(client, "strait-system")
            .list(&Default::default())
            .await
            .unwrap();
        (nodes, pods)
    });
    let names: Vec<_> = nodes.iter().map(|n| n.metadata.name.clone().unwrap()).collect();
    assert_eq!(names, ["gateway-1", "worker-1"]);
    assert_eq!(daemons.items.len(), 5, "one pod for each daemon");
    for pod in daemons {
        let conditions = pod.status.unwrap().conditions.unwrap();
        let ready = conditions.iter().find(|c| c.type_ == "Ready").unwrap();
        assert_eq!(ready.status, "True", "{:?}", pod.metadata.name);
    }
}

#[test]
fn a_killed_up_leaves_nothing_running_and_down_removes_the_rest() {
    let labs = Labs::new();
    let mut up = labs
        .strait("killed", &["up"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // As soon as there is something to leave behind.
    until("the lab's first trace", || {
        labs.dir("killed").join("lab.json").exists()
    });
    up.kill().unwrap();
    wait_for(up);
    until("the end of what it had started", || {
        processes_with(&labs.dir("killed")).is_empty()
    });
    assert!(
        labs.fails("killed", &["up"]).contains("down"),
        "the way out is named"
    );
    labs.ok("killed", &["down"]);
    assert!(!labs.dir("killed").exists());
}

#[test]
fn an_interrupted_up_takes_down_what_it_has_made_and_says_so() {
    let labs = Labs::new();
    for (end, code, word) in [
        (None, 130, "interrupted"),
        (Some(["down"]), 143, "strait lab down"),
    ] {
        let up = labs
            .strait("cut", &["up"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        until("the lab's first trace", || {
            labs.dir("cut").join("lab.json").exists()
        });
        match end {
            None => {
                let sent = Command::new("kill").args(["-INT", &up.id().to_string()]).status();
                assert!(sent.unwrap().success());
            }
            Some(args) => assert_eq!(labs.ok("cut", &args), ""),
        }
        let output = wait_for(up);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(
            said.contains(word) && said.contains("everything is taken down"),
            "{said}"
        );
        assert!(!labs.dir("cut").exists());
        until("the end of what it had started", || {
            processes_with(&labs.dir("cut")).is_empty()
        });
    }
}

/// What the end of a terminal does: SIGHUP, and nothing can be written any more.
#[test]
fn a_lab_survives_its_terminal() {
    let labs = Labs::new();
    let mut up = labs
        .strait("alone", &["up", "--clusters", "1", "--nodes", "1"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until("the lab's first trace", || {
        labs.dir("alone").join("lab.json").exists()
    });
    drop(up.stderr.take());
    let hangup = |pid: i64| {
        let sent = Command::new("kill").args(["-HUP", &pid.to_string()]).status();
        assert!(sent.unwrap().success());
    };
    hangup(i64::from(up.id()));
    assert!(up.wait().unwrap().success(), "the lab did not come up");

    // It is in a session of its own, which no terminal is the terminal of.
    let init = labs.file("alone")["init"]["pid"].as_i64().unwrap();
    let stat = fs::read_to_string(format!("/proc/{init}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let (session, terminal) = (fields[3], fields[4]);
    assert_eq!((session, terminal), (init.to_string().as_str(), "0"), "{stat}");
    hangup(init);
    labs.ok("alone", &["exec", "blue/gateway-1", "--", "true"]);
    assert!(labs.process("alone", "blue/gateway-1/route-agent")["pid"].is_i64());
}

#[test]
fn a_lab_whose_supervisor_was_killed_is_cleaned_up() {
    let labs = Labs::new();
    labs.ok("dead", &["up", "--clusters", "1", "--nodes", "1"]);
    let init = labs.file("dead")["init"]["pid"].as_i64().unwrap();
    let killed = Command::new("kill")
        .args(["-KILL", &init.to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    until("the end of all processes", || {
        processes_with(&labs.dir("dead")).is_empty()
    });
    assert!(labs.fails("dead", &["status"]).contains("was killed"));
    // What is left still makes a snapshot.
    let archive = labs.runtime.path().join("dead.tar.gz");
    labs.ok("dead", &["snapshot", "-o", archive.to_str().unwrap()]);
    assert!(fs::metadata(&archive).unwrap().len() > 1000);
    labs.ok("dead", &["down"]);
    assert!(!labs.dir("dead").exists());
}

#[test]
fn labs_side_by_side_do_not_touch_each_other() {
    let labs = Labs::new();
    labs.ok("one", &["up", "--clusters", "1"]);
    labs.ok("two", &["up", "--clusters", "1"]);
    labs.ok("one", &["run", "blue/worker-1", "a"]);
    assert!(
        labs.fails("two", &["exec", "blue/a", "--", "true"])
            .contains("there is no")
    );
    labs.ok("one", &["down"]);
    labs.ok("two", &["exec", "blue/worker-1", "--", "true"]);
    assert!(labs.process("two", "blue/worker-1/dns")["pid"].is_i64());
}

#[test]
fn names_and_numbers_that_make_no_lab_are_refused() {
    let labs = Labs::new();
    assert!(labs.fails("../x", &["up"]).contains("no name for a lab"));
    assert!(
        labs.fails("n", &["up", "--nodes", "1", "--gateways", "2"])
            .contains("--gateways 2")
    );
    assert!(labs.fails("n", &["up", "--clusters", "0"]).contains("1..=12"));
    let file = labs.runtime.path().join("lab.yaml");
    fs::write(&file, "clusters:\n- nodes: 2\n  underlay:\n    mtu: 12\n").unwrap();
    let file = file.to_str().unwrap();
    for command in ["up", "demo"] {
        let said = labs.fails("n", &[command, "--config", file]);
        let wanted = format!("strait: {file}: line 4, clusters[0].underlay.mtu: 12; it takes 1280 to 9000\n");
        assert_eq!(said, wanted, "{command}");
        assert!(
            labs.fails("n", &[command, "--config", file, "--ipv6"])
                .contains("--config")
        );
    }
    assert!(!labs.dir("n").exists());
}

/// What the demonstration must have found, in one family.
fn check_finding(found: &Value) {
    assert_eq!(found["http_status"], 200, "{found}");
    assert_eq!(
        found["served_by"],
        serde_json::json!({ "cluster": "blue", "pod": "web" }),
        "{found}"
    );
    assert_eq!(found["client_ip_seen"], found["client_ip"], "{found}");
    assert!(
        found["client_ip"].is_string() && found["resolved"][0].is_string(),
        "{found}"
    );
    assert_ne!(found["resolved"][0], found["client_ip"], "{found}");
    let path = found["path"].as_array().unwrap();
    assert_eq!(path.len(), 5, "{found}");
    assert!(
        path.iter()
            .all(|hop| hop["address"].is_string() && hop["rtt_ms"].is_f64()),
        "{found}"
    );
    assert!(found["rtt_ms"].as_f64().unwrap() > 0.0, "{found}");
    assert!(found["throughput_mbps"].as_f64().unwrap() > 1.0, "{found}");
}

fn demo(labs: &Labs, args: &[&str]) -> Command {
    let mut all = vec!["demo", "--output", "json"];
    all.extend(args);
    labs.bare(&all)
}

#[test]
fn the_demonstration_shows_a_request_in_both_families() {
    let labs = Labs::new();
    let output = demo(&labs, &["--dual-stack"]).output().unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["ok"], true, "{report}");
    check_finding(&report);
    check_finding(&report["ipv6"]);
    assert!(
        report["client_ip"].as_str().unwrap().contains('.'),
        "IPv4 stands in the upper fields: {report}"
    );
    assert!(
        report["ipv6"]["client_ip"].as_str().unwrap().contains(':'),
        "{report}"
    );
    let steps = report["steps"].as_array().unwrap();
    assert!(
        steps.len() > 10
            && steps
                .iter()
                .all(|s| s["name"].is_string() && s["seconds"].is_f64()),
        "{report}"
    );
    assert!(report["seconds"].as_f64().unwrap() < 60.0, "{report}");
    until("the end of all processes", || {
        processes_with(labs.runtime.path()).is_empty()
    });
    assert!(!labs.runtime.path().join("strait-lab").exists(), "files are left");
}

#[test]
fn the_demonstration_needs_no_rights_outside_its_user_namespace() {
    let labs = Labs::new();
    let mut command = demo(&labs, &["--ipv6"]);
    if strait_linux::userns::is_root() {
        strait_linux::userns::attach(&mut command);
    }
    let output = command.output().unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    check_finding(&report);
    assert!(report["resolved"][0].as_str().unwrap().contains(':'), "{report}");
}

#[test]
fn an_interrupted_demonstration_leaves_nothing() {
    let labs = Labs::new();
    for (signal, name) in [("INT", Some("mine")), ("KILL", None)] {
        let mut command = demo(&labs, &[]);
        if let Some(name) = name {
            command.env("STRAIT_LAB", name);
        }
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lab = labs.dir(&name.map_or(format!("demo-{}", child.id()), str::to_owned));
        until("the lab's first trace", || lab.join("lab.json").exists());
        let killed = Command::new("kill")
            .arg(format!("-{signal}"))
            .arg(child.id().to_string())
            .status();
        assert!(killed.unwrap().success());
        let output = wait_for(child);
        if signal == "INT" {
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(130), "{said}");
            assert!(said.contains("interrupted") && !said.contains("FAILED"), "{said}");
            assert!(output.stdout.is_empty(), "{output:?}");
        }
        until("the end of all processes", || processes_with(&lab).is_empty());
        until("the end of the state directory", || !lab.exists());
    }
}
