//! How the server does with very many objects and watchers: `cargo bench -p strait-apiserver --bench scale`.
//!
//! The server is a process of its own, on a file; this one is all of its clients, over TLS, on the same
//! machine. The last line is the result as JSON. STRAIT_BENCH_OBJECTS and STRAIT_BENCH_WATCHERS change the
//! numbers.

#![allow(clippy::unwrap_used)]

#[path = "../tests/support/wire.rs"]
#[allow(dead_code)]
mod wire;

use std::io::{BufRead, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use strait_apiserver::{Config, Data, Server, allow_many_connections};
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;
use wire::{Wire, client};

const SERVE: &str = "STRAIT_BENCH_SERVE";
const NAMESPACES: usize = 100;
/// Objects that one value of the label `shard` has.
const SHARD: usize = 100;
const WRITERS: usize = 32;
const UPDATES: usize = 100;

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |v| v.parse().unwrap())
}

/// The server's process: serves until its standard input ends.
async fn serve(dir: PathBuf) {
    let begun = Instant::now();
    let mut config = Config::new(Data::Directory(dir));
    config
        .listeners
        .push(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let server = Server::start(config).await.unwrap();
    println!("{} {}", server.addr().unwrap(), begun.elapsed().as_secs_f64());
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()))
        .await
        .unwrap()
        .unwrap();
    server.shutdown().await;
}

struct Running {
    process: Child,
    address: SocketAddr,
    seconds: f64,
    ca: String,
    token: String,
}

impl Running {
    fn start(dir: &Path) -> Running {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .env(SERVE, dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let (address, seconds) = line.trim().split_once(' ').expect("the server starts");
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
        Running {
            process,
            address: address.parse().unwrap(),
            seconds: seconds.parse().unwrap(),
            ca: read("ca.crt"),
            token: read("admin.token"),
        }
    }

    fn rss_mib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.process.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib / 1024
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn stop(mut self) {
        drop(self.process.stdin.take());
        assert!(self.process.wait().unwrap().success());
    }
}

/// Where and how to connect.
#[derive(Clone)]
struct Target {
    address: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    token: Arc<str>,
}

impl Target {
    fn of(server: &Running) -> Target {
        Target {
            address: server.address,
            tls: client(&server.ca, None),
            token: server.token.as_str().into(),
        }
    }

    async fn open(&self) -> Wire {
        Wire::open(self.address, self.tls.clone()).await.unwrap()
    }

    async fn write(&self, wire: &mut Wire, method: &str, path: &str, body: &Value) {
        let media = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let body = body.to_string();
        let text = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: {media}\r\nContent-Length: {}\r\n\r\n{body}",
            self.token,
            body.len()
        );
        wire.send(&text).await.unwrap();
        let (status, _, answer) = wire.answer().await.unwrap();
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
    }

    /// Reads a list to its end: time to its first byte and in all, bytes, and the continue token.
    async fn list(&self, query: &str) -> (Duration, Duration, usize, String) {
        let mut wire = self.open().await;
        let begun = Instant::now();
        let text = format!(
            "GET {query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\r\n",
            self.token
        );
        wire.send(&text).await.unwrap();
        let head = wire.until("\r\n\r\n").await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let first = begun.elapsed();
        let (mut bytes, mut tail) = (0, Vec::new());
        let mut buffer = vec![0; 256 << 10];
        loop {
            let n = wire.stream.read(&mut buffer).await.unwrap_or(0);
            if n == 0 {
                break;
            }
            bytes += n;
            tail.extend_from_slice(&buffer[..n]);
            let keep = tail.len().saturating_sub(1024);
            tail.drain(..keep);
        }
        let tail = String::from_utf8_lossy(&tail).into_owned();
        assert!(tail.contains("\"resourceVersion\""), "the list is whole: {tail}");
        let token = tail
            .rsplit_once("\"continue\":\"")
            .and_then(|(_, rest)| rest.split_once('"'))
            .map(|(token, _)| token.to_owned())
            .unwrap_or_default();
        (first, begun.elapsed(), bytes, token)
    }
}

fn path(n: usize) -> String {
    format!("/api/v1/namespaces/n{}/configmaps", n % NAMESPACES)
}

fn object(n: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": format!("map-{n:06}"), "labels": {"app": format!("app-{}", n % 10), "shard": format!("s{}", n / SHARD)}},
        "data": {"stamp": "0", "fill": "x".repeat(600)}})
}

/// Milliseconds at these quantiles.
fn quantiles(mut all: Vec<Duration>) -> Value {
    all.sort();
    let at = |q: f64| {
        let place = ((all.len() - 1) as f64 * q).round() as usize;
        (all[place].as_secs_f64() * 1e5).round() / 100.0
    };
    json!({"p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1.0)})
}

fn seconds(d: Duration) -> f64 {
    (d.as_secs_f64() * 1e3).round() / 1e3
}

/// Makes all objects; returns the time that each took.
async fn load(target: &Target, objects: usize) -> Vec<Duration> {
    let mut wire = target.open().await;
    for n in 0..NAMESPACES {
        let body = json!({"metadata": {"name": format!("n{n}")}});
        target.write(&mut wire, "POST", "/api/v1/namespaces", &body).await;
    }
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..WRITERS {
        let (target, next) = (target.clone(), next.clone());
        tasks.spawn(async move {
            let mut wire = target.open().await;
            let mut times = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= objects {
                    return times;
                }
                let begun = Instant::now();
                target.write(&mut wire, "POST", &path(n), &object(n)).await;
                times.push(begun.elapsed());
            }
        });
    }
    tasks.join_all().await.concat()
}

async fn update(target: &Target, wire: &mut Wire, n: usize, stamp: &str) -> Duration {
    let body = json!({"data": {"stamp": stamp}});
    let begun = Instant::now();
    let path = format!("{}/map-{n:06}", path(n));
    target.write(wire, "PATCH", &path, &body).await;
    begun.elapsed()
}

async fn lists(target: &Target, objects: usize) -> Value {
    const ALL: &str = "/api/v1/configmaps";
    let median = async |query: &str, runs: usize| {
        let mut times = Vec::new();
        let mut size = 0;
        for _ in 0..runs {
            let (first, all, bytes, _) = target.list(query).await;
            times.push((all, first));
            size = bytes;
        }
        times.sort();
        let (all, first) = times[runs / 2];
        json!({"seconds": seconds(all), "first_byte_ms": (first.as_secs_f64() * 1e4).round() / 10.0,
            "mib": (size as f64 / 104_857.6).round() / 10.0})
    };
    let whole = median(ALL, 3).await;
    let selector = median(&format!("{ALL}?labelSelector=shard%3Ds7"), 20).await;
    let namespace = median("/api/v1/namespaces/n5/configmaps", 20).await;
    let (mut token, mut pages, begun) = (String::new(), Vec::new(), Instant::now());
    loop {
        let more = if token.is_empty() {
            String::new()
        } else {
            format!("&continue={token}")
        };
        let (_, time, _, next) = target.list(&format!("{ALL}?limit=500{more}")).await;
        pages.push(time);
        token = next;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(pages.len(), objects.div_ceil(500).max(1));
    json!({"whole": whole, "selector_100_of_all": selector, "one_namespace": namespace,
        "paged_by_500": {"seconds": seconds(begun.elapsed()), "page": quantiles(pages)}})
}

/// Opens watches on everything, and updates objects; every watch sees every update.
async fn fan_out(target: &Target, server: &Running, watchers: usize) -> Value {
    let begun = Instant::now();
    let clock = Arc::new(Instant::now());
    let starts: Arc<Vec<AtomicU64>> = Arc::new((0..=UPDATES).map(|_| AtomicU64::new(0)).collect());
    let seen = Arc::new(AtomicUsize::new(0));
    let open = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    // A few handshakes at a time, as clients that start would.
    let slots = Arc::new(tokio::sync::Semaphore::new(64));
    for _ in 0..watchers {
        let (target, starts, seen, open) = (target.clone(), starts.clone(), seen.clone(), open.clone());
        let (clock, slots) = (clock.clone(), slots.clone());
        tasks.spawn(async move {
            let slot = slots.acquire().await.unwrap();
            let mut wire = target.open().await;
            let text = format!(
                "GET /api/v1/configmaps?watch=1&resourceVersion=0&sendInitialEvents=false&resourceVersionMatch=NotOlderThan HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\r\n",
                target.token
            );
            wire.send(&text).await.unwrap();
            let head = wire.until("\r\n\r\n").await.unwrap();
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            drop(slot);
            open.fetch_add(1, Ordering::Relaxed);
            let mut times = Vec::with_capacity(UPDATES);
            while times.len() < UPDATES {
                let line = wire.until("\n").await.unwrap();
                let Some((_, rest)) = line.split_once("\"stamp\":\"") else { continue };
                let stamp: usize = rest.split('"').next().unwrap().parse().unwrap();
                let now = u64::try_from(clock.elapsed().as_micros()).unwrap();
                times.push(Duration::from_micros(now - starts[stamp].load(Ordering::Relaxed)));
                seen.fetch_add(1, Ordering::Relaxed);
            }
            times
        });
    }
    while open.load(Ordering::Relaxed) < watchers {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let opened = begun.elapsed();
    let rss = server.rss_mib();
    let mut wire = target.open().await;
    let mut writes = Vec::new();
    for n in 1..=UPDATES {
        let now = u64::try_from(clock.elapsed().as_micros()).unwrap();
        starts[n].store(now, Ordering::Relaxed);
        writes.push(update(target, &mut wire, n * 7, &n.to_string()).await);
        // The next one when all have heard of this one: latency, and not the length of a queue.
        while seen.load(Ordering::Relaxed) < n * watchers {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let times = tasks.join_all().await.concat();
    json!({"watchers": watchers, "opened_seconds": seconds(opened), "rss_mib": rss, "updates": UPDATES,
        "delivery": quantiles(times), "write_meanwhile": quantiles(writes)})
}

async fn measure(objects: usize, watchers: usize) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::start(dir.path());
    let target = Target::of(&server);
    let empty = server.rss_mib();
    let begun = Instant::now();
    let times = load(&target, objects).await;
    let loaded = begun.elapsed();
    eprintln!("{objects} objects after {} s", loaded.as_secs());
    let full = server.rss_mib();
    let mut wire = target.open().await;
    let mut single = Vec::new();
    for n in 0..500 {
        single.push(update(&target, &mut wire, n * 3 % objects, &format!("before{n}")).await);
    }
    let lists = lists(&target, objects).await;
    eprintln!("lists: {lists}");
    let watch = fan_out(&target, &server, watchers).await;
    let after = server.rss_mib();
    server.kill();
    let killed = Running::start(dir.path());
    let (after_kill, restarted) = (killed.seconds, killed.rss_mib());
    killed.stop();
    let clean = Running::start(dir.path());
    let after_stop = clean.seconds;
    clean.stop();
    let file = std::fs::metadata(dir.path().join("store.redb")).unwrap().len() >> 20;
    json!({"objects": objects,
        "write": {"one_writer": quantiles(single), "writers_32": quantiles(times),
            "per_second_32": (objects as f64 / loaded.as_secs_f64()).round()},
        "list": lists, "watch": watch,
        "rss_mib": {"empty": empty, "loaded": full, "at_the_end": after, "restarted": restarted},
        "start_seconds": {"after_kill": after_kill, "after_stop": after_stop}, "file_mib": file})
}

fn main() {
    allow_many_connections();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if let Ok(dir) = std::env::var(SERVE) {
        runtime.block_on(serve(dir.into()));
        return;
    }
    let result = runtime.block_on(measure(
        setting("STRAIT_BENCH_OBJECTS", 100_000),
        setting("STRAIT_BENCH_WATCHERS", 2000),
    ));
    eprintln!("{}", serde_json::to_string_pretty(&result).unwrap());
    println!("{result}");
}
