//! A disk that is full, and one that cannot be written: on a small file system of its own.
//!
//! This test is a program without the usual harness, since a process has to be alone to enter a user
//! namespace. Without root it needs those; where it may have neither it fails.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change, mount_remount};
use rustix::thread::UnshareFlags;
use serde_json::{Value, json};
use strait_apiserver::{Audit, Config, Data, Server, User};
use tower::ServiceExt;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PATIENCE: Duration = Duration::from_secs(30);

/// Mounts of this process, which end with it.
fn own_mounts() -> Result<(), String> {
    let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
    let mut flags = UnshareFlags::NEWNS;
    if !uid.is_root() {
        flags |= UnshareFlags::NEWUSER;
    }
    // The safe form is deprecated for what it can do to other threads; there are none.
    #[allow(deprecated)]
    rustix::thread::unshare(flags).map_err(|e| {
        format!(
            "no mount namespace: {e}. Run this as root, or allow user namespaces \
             (sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns=0)"
        )
    })?;
    if !uid.is_root() {
        let write = |file: &str, text: String| {
            std::fs::write(format!("/proc/self/{file}"), text).map_err(|e| format!("{file}: {e}"))
        };
        write("setgroups", "deny".into())?;
        write("uid_map", format!("0 {} 1", uid.as_raw()))?;
        write("gid_map", format!("0 {} 1", gid.as_raw()))?;
    }
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|e| format!("mounts cannot be made private: {e}"))
}

struct Small {
    dir: tempfile::TempDir,
    size: &'static str,
}

impl Small {
    fn new(size: &'static str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let small = Small { dir, size };
        small.mount();
        small
    }

    fn mount(&self) {
        let options = format!("size={},mode=0700", self.size);
        let options = std::ffi::CString::new(options).unwrap();
        mount(
            "tmpfs",
            self.dir.path(),
            "tmpfs",
            MountFlags::empty(),
            options.as_c_str(),
        )
        .unwrap();
    }

    fn remount(&self, flags: MountFlags) -> rustix::io::Result<()> {
        let options = std::ffi::CString::new(format!("size={}", self.size)).unwrap();
        mount_remount(self.dir.path(), flags, options.as_c_str())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Takes all that is left.
    fn fill(&self) {
        use std::io::Write;
        let mut file = std::fs::File::create(self.path("ballast")).unwrap();
        for size in [64 << 10, 4096, 1] {
            let block = vec![7; size];
            while file.write_all(&block).is_ok() {}
        }
    }

    fn empty(&self) {
        std::fs::remove_file(self.path("ballast")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        if let Err(e) = rustix::mount::unmount(self.dir.path(), rustix::mount::UnmountFlags::DETACH) {
            eprintln!("{} stays mounted: {e}", self.dir.path().display());
        }
    }
}

async fn call(server: &Server, method: &str, path: &str, body: Value) -> (StatusCode, Value) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .body(if body.is_null() {
            Body::empty()
        } else {
            Body::from(body.to_string())
        })
        .unwrap();
    let response = server.admin_service().oneshot(request).await.unwrap();
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

fn object(name: &str, size: usize) -> Value {
    json!({"metadata": {"name": name}, "data": {"a": "x".repeat(size)}})
}

async fn names(server: &Server) -> Vec<String> {
    let (status, list) = call(server, "GET", MAPS, Value::Null).await;
    assert_eq!(status, StatusCode::OK, "reads go on");
    let name = |o: &Value| o["metadata"]["name"].as_str().unwrap().to_owned();
    list["items"].as_array().unwrap().iter().map(name).collect()
}

async fn start(dir: &Path) -> Server {
    let mut config = Config::new(Data::Directory(dir.to_owned()));
    config.controllers = false;
    Server::start(config).await.unwrap()
}

/// Writes until it is refused; returns the names written and the refusal.
async fn write_until_refused(server: &Server, kind: &str) -> (Vec<String>, Value) {
    let mut made = Vec::new();
    for n in 0..4000 {
        let name = format!("{kind}{n:04}");
        let (status, answer) = call(server, "POST", MAPS, object(&name, 8000)).await;
        if status != StatusCode::CREATED {
            assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "{answer}");
            return (made, answer);
        }
        made.push(name);
    }
    panic!("the disk never refused a write");
}

async fn recovers(server: &Server, name: &str) {
    let begun = Instant::now();
    loop {
        let (status, answer) = call(server, "POST", MAPS, object(name, 100)).await;
        if status == StatusCode::CREATED {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "it does not recover: {answer}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn full_disk() {
    let small = Small::new("12m");
    let data = small.path("data");
    let server = start(&data).await;
    let (_, before) = call(&server, "POST", MAPS, object("before", 100)).await;
    let watch = Request::get(format!("{MAPS}?watch=1"))
        .body(Body::empty())
        .unwrap();
    let watch = server.admin_service().oneshot(watch).await.unwrap();
    small.fill();
    let (mut made, refusal) = write_until_refused(&server, "w").await;
    made.insert(0, "before".into());
    let message = refusal["message"].as_str().unwrap();
    assert!(message.contains("No space left on device"), "{refusal}");
    assert!(
        !message.contains(data.to_str().unwrap()),
        "paths are the operator's: {message}"
    );
    assert_eq!(refusal["reason"], "InternalError");
    assert_eq!(names(&server).await, made, "what was refused is not there");
    let version = server.resource_version();
    // It goes on refusing, and reads go on, as do watches and readiness.
    for n in 0..5 {
        let (status, _) = call(&server, "POST", MAPS, object(&format!("more{n}"), 8000)).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        let (status, found) = call(&server, "GET", &format!("{MAPS}/before"), Value::Null).await;
        assert_eq!((status, &found), (StatusCode::OK, &before));
    }
    let (status, _) = call(&server, "GET", "/readyz", Value::Null).await;
    assert_eq!(status, StatusCode::OK, "reads are served: it stays in service");
    assert_eq!(server.resource_version(), version);

    small.empty();
    recovers(&server, "after").await;
    made.insert(0, "after".into());
    made.sort();
    assert_eq!(names(&server).await, made);
    assert!(server.resource_version() > version);
    drop(watch);
    let version = server.resource_version();
    server.shutdown().await;
    let server = start(&data).await;
    assert_eq!(names(&server).await, made, "and all of that is on the disk");
    assert!(server.resource_version() >= version);
    server.shutdown().await;
}

/// While writes are refused the file is closed: then it can be swapped, or its disk turn read-only.
async fn read_only_disk_and_swapped_file() {
    let small = Small::new("12m");
    let data = small.path("data");
    let server = start(&data).await;
    call(&server, "POST", MAPS, object("before", 100)).await;
    let other = small.path("other");
    let empty = start(&other).await;
    empty.shutdown().await;
    small.fill();
    let (made, _) = write_until_refused(&server, "w").await;
    let begun = Instant::now();
    while let Err(e) = small.remount(MountFlags::RDONLY) {
        // Busy, while the server tries the file again.
        assert!(begun.elapsed() < PATIENCE, "{e}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let begun = Instant::now();
    loop {
        let (status, answer) = call(&server, "POST", MAPS, object("more", 100)).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "{answer}");
        if answer["message"]
            .as_str()
            .unwrap()
            .contains("Read-only file system")
        {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{answer}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(names(&server).await.len(), made.len() + 1);
    // A start there says what is wrong, and with which file.
    let second = small.path("second");
    let error = Server::start(Config::new(Data::Directory(second.clone())))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(second.to_str().unwrap()) && error.contains("Read-only file system"),
        "{error}"
    );

    // Another file in the store's place is not written: it would hold little of what the server knows.
    let store = data.join("store.redb");
    rustix::mount::mount_bind(other.join("store.redb"), &store).unwrap();
    small.remount(MountFlags::empty()).unwrap();
    small.empty();
    // The bound file took over that its mount was read-only.
    mount_remount(&store, MountFlags::BIND, c"").unwrap();
    let begun = Instant::now();
    loop {
        let (status, answer) = call(&server, "POST", MAPS, object("more", 100)).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "{answer}");
        if answer["message"]
            .as_str()
            .unwrap()
            .contains("written or replaced it")
        {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{answer}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    rustix::mount::unmount(&store, rustix::mount::UnmountFlags::DETACH).unwrap();
    recovers(&server, "after").await;
    server.shutdown().await;
    let server = start(&data).await;
    let found = names(&server).await;
    assert_eq!(found.len(), made.len() + 2, "{found:?}");
    server.shutdown().await;
}

/// The audit log's disk is full: requests are served on, events are lost, and later ones are whole.
async fn full_disk_under_the_audit_log() {
    let small = Small::new("1m");
    let path = small.path("audit.log");
    let mut config = Config::in_memory();
    config.audit = Some(Audit::new(path.clone()));
    let server = Server::start(config).await.unwrap();
    let ask = async |name: &str| {
        let service = server.service_as(User::new(name, &[]));
        let response = service
            .oneshot(Request::get(MAPS).body(Body::empty()).unwrap())
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::FORBIDDEN, "requests are answered");
    };
    let lines = || {
        let text = std::fs::read_to_string(&path).unwrap();
        // A line that is being written is seen up to a page's end.
        text.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .map(|line| {
                let event: Value = serde_json::from_str(line).unwrap();
                event["user"]["username"].as_str().unwrap().to_owned()
            })
            .collect::<Vec<_>>()
    };
    let wait_for = async |name: &str| {
        let begun = Instant::now();
        while !lines().iter().any(|l| l == name) {
            assert!(begun.elapsed() < PATIENCE, "{name} is not in the log");
            ask(name).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    wait_for("first").await;
    small.fill();
    let full = lines().len();
    for _ in 0..200 {
        ask("lost").await;
    }
    // What fits into the last page may still come; all of it cannot.
    assert!(lines().len() < full + 200);
    small.empty();
    wait_for("last").await;
    server.shutdown().await;
}

fn run(name: &str, test: impl Future<Output = ()>) {
    tokio::runtime::Runtime::new().unwrap().block_on(test);
    println!("test {name} ... ok");
}

fn main() {
    if let Err(e) = own_mounts() {
        eprintln!("the tests of full disks cannot run: {e}");
        std::process::exit(1);
    }
    run("full_disk", full_disk());
    run(
        "read_only_disk_and_swapped_file",
        read_only_disk_and_swapped_file(),
    );
    run("full_disk_under_the_audit_log", full_disk_under_the_audit_log());
}
