//! A server that is killed under load, again and again, forgets nothing that it acknowledged, tears nothing,
//! and never gives out a resource version for a second time.
//!
//! STRAIT_CRASH_KILLS says how often it is killed while it writes; kills while it starts come on top.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use axum::body::Body;
use futures::StreamExt;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use strait_apiserver::{Config, Data, Server};
use tower::ServiceExt;

const CHILD: &str = "STRAIT_CRASH_TEST_DATA";
const KILLS: &str = "STRAIT_CRASH_KILLS";
const DEFAULT_KILLS: u64 = 12;
const WRITERS: usize = 6;
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn call(server: &Server, method: &str, path: &str, body: Value) -> Response<Body> {
    let media = if method == "PATCH" {
        "application/merge-patch+json"
    } else {
        "application/json"
    };
    let body = if body.is_null() {
        Body::empty()
    } else {
        Body::from(body.to_string())
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", media)
        .body(body)
        .unwrap();
    server.admin_service().oneshot(request).await.unwrap()
}

async fn json(response: Response<Body>) -> (StatusCode, Value) {
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap())
}

/// What a map holds besides its count follows from its name and count, so that a torn one shows.
fn data(name: &str, n: u64) -> Value {
    let fill = format!("{name}/{n} ").repeat(1 + (n % 97) as usize);
    json!({"n": n.to_string(), "fill": fill})
}

fn map(name: &str, n: u64) -> Value {
    json!({"metadata": {"name": name}, "data": data(name, n)})
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value
        .pointer(path)
        .and_then(Value::as_str)
        .unwrap_or_else(|| panic!("{path} of {value}"))
}

/// One line, written at once: what is acknowledged is known to the parent.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n@ {line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

fn say_object(word: &str, object: &Value) {
    let name = text(object, "/metadata/name");
    if name.contains('-') {
        let n = text(object, "/data/n");
        say(&format!(
            "{word} {name} {n} {}",
            text(object, "/metadata/resourceVersion")
        ));
    }
}

/// Tells what the store holds, then writes until it is killed: each writer counts in one object, makes one
/// more at each step, and deletes the one before.
async fn live(dir: &Path) {
    let server = Server::start(Config::new(Data::Directory(dir.to_owned())))
        .await
        .unwrap();
    let (status, list) = json(call(&server, "GET", MAPS, Value::Null).await).await;
    assert_eq!(status, StatusCode::OK);
    let mut counts = BTreeMap::new();
    for object in list["items"].as_array().unwrap() {
        let name = text(object, "/metadata/name").to_owned();
        if !name.contains('-') {
            continue;
        }
        let n: u64 = text(object, "/data/n").parse().unwrap();
        assert_eq!(object["data"], data(&name, n), "{name} is whole");
        say_object("have", object);
        counts.insert(name, n);
    }
    say(&format!("all x 0 {}", text(&list, "/metadata/resourceVersion")));
    let mut tasks = tokio::task::JoinSet::new();
    let server = std::sync::Arc::new(server);
    for writer in 0..WRITERS {
        let server = server.clone();
        let counter = format!("counter-{writer}");
        let mut n = counts.get(&counter).copied();
        tasks.spawn(async move {
            loop {
                let next = n.map_or(0, |n| n + 1);
                let (status, done) = match n {
                    None => json(call(&server, "POST", MAPS, map(&counter, 0)).await).await,
                    Some(_) => {
                        let patch = json!({"data": data(&counter, next)});
                        json(call(&server, "PATCH", &format!("{MAPS}/{counter}"), patch).await).await
                    }
                };
                assert!(status.is_success(), "{done}");
                say_object("set", &done);
                n = Some(next);
                let step = format!("step-{writer}-{next}");
                let (status, made) = json(call(&server, "POST", MAPS, map(&step, next)).await).await;
                assert_eq!(status, StatusCode::CREATED, "{made}");
                say_object("set", &made);
                if next > 0 {
                    let old = format!("step-{writer}-{}", next - 1);
                    say(&format!("going {old} 0 0"));
                    let gone = call(&server, "DELETE", &format!("{MAPS}/{old}"), Value::Null).await;
                    // A kill may have come between the counter's step and this one.
                    assert!(
                        gone.status().is_success() || gone.status() == StatusCode::NOT_FOUND,
                        "{}",
                        gone.status()
                    );
                    say(&format!("gone {old} 0 0"));
                }
            }
        });
    }
    let reader = server.clone();
    tasks.spawn(async move {
        loop {
            let (_, list) = json(call(&reader, "GET", &format!("{MAPS}?limit=1"), Value::Null).await).await;
            say(&format!("list x 0 {}", text(&list, "/metadata/resourceVersion")));
            tokio::task::yield_now().await;
        }
    });
    tasks.spawn(async move {
        let path = format!("{MAPS}?watch=1&resourceVersion={}", server.resource_version());
        let watch = call(&server, "GET", &path, Value::Null).await;
        let mut pieces = watch.into_body().into_data_stream();
        let mut rest = Vec::new();
        while let Some(piece) = pieces.next().await {
            rest.extend_from_slice(&piece.unwrap());
            while let Some(end) = rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                let event: Value = serde_json::from_slice(&line).unwrap();
                let word = if event["type"] == "DELETED" { "bye" } else { "seen" };
                say_object(word, &event["object"]);
            }
        }
    });
    // Each of these ends only by failing.
    tasks.join_next().await.unwrap().unwrap();
}

/// What clients of all lives have seen.
#[derive(Default)]
struct Seen {
    /// What must stand at a name: the least count, if it must be there at all, and whether it may be gone.
    objects: BTreeMap<String, (u64, bool)>,
    /// Which object each version was given to.
    versions: BTreeMap<u64, (String, u64)>,
    /// The latest version that anybody saw.
    latest: u64,
    acknowledged: u64,
    verified: u64,
}

impl Seen {
    fn saw(&mut self, rv: u64, name: &str, n: u64, life: u64) {
        self.latest = self.latest.max(rv);
        if name != "x" {
            let first = self.versions.entry(rv).or_insert_with(|| (name.to_owned(), n));
            assert_eq!(
                *first,
                (name.to_owned(), n),
                "life {life}: version {rv} was given out twice"
            );
        }
    }

    /// Takes what one life said. Its start is checked against all former ones.
    fn life(&mut self, life: u64, lines: &[Vec<String>]) {
        let before = self.latest;
        let mut have: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        let mut whole = false;
        for line in lines {
            let (word, name) = (line[0].as_str(), line[1].as_str());
            let (n, rv): (u64, u64) = (line[2].parse().unwrap(), line[3].parse().unwrap());
            match word {
                "have" => drop(have.insert(name.to_owned(), (n, rv))),
                "all" => {
                    whole = true;
                    assert!(
                        rv >= before,
                        "life {life}: the list is at {rv}, after one was seen at {before}"
                    );
                    self.verify(life, &have);
                    self.saw(rv, "x", 0, life);
                }
                "set" | "seen" => {
                    if word == "set" {
                        self.acknowledged += 1;
                        self.objects.insert(name.to_owned(), (n, false));
                    }
                    assert!(rv > before, "life {life}: version {rv} is from before the kill");
                    self.saw(rv, name, n, life);
                }
                "bye" => self.latest = self.latest.max(rv),
                "going" => {
                    if let Some(object) = self.objects.get_mut(name) {
                        object.1 = true;
                    }
                }
                "gone" => {
                    self.acknowledged += 1;
                    self.objects.remove(name);
                }
                "list" => self.saw(rv, "x", 0, life),
                other => panic!("life {life}: {other}"),
            }
            assert!(whole || word == "have", "life {life}: a write before the list");
        }
    }

    fn verify(&mut self, life: u64, have: &BTreeMap<String, (u64, u64)>) {
        self.verified += 1;
        for (name, (n, may_be_gone)) in &self.objects {
            match have.get(name) {
                // A write may have been done without being acknowledged.
                Some((found, _)) => assert!(
                    found == n || (name.starts_with("counter") && *found == n + 1),
                    "life {life}: {name} was acknowledged at {n} and is at {found}"
                ),
                None => assert!(may_be_gone, "life {life}: {name} is lost"),
            }
        }
        for (name, (n, rv)) in have {
            let known = self.objects.get(name);
            if known.is_none() {
                // Made without being acknowledged, by the step that follows the counter's.
                let (writer, step) = name.strip_prefix("step-").map_or((name.as_str(), 0), |rest| {
                    let (writer, step) = rest.split_once('-').unwrap();
                    (writer, step.parse().unwrap())
                });
                let counter = have.get(&format!("counter-{writer}")).map(|c| c.0);
                assert!(
                    name.starts_with("counter") || counter == Some(step),
                    "life {life}: {name} was deleted, or never made"
                );
            }
            if let Some((owner, count)) = self.versions.get(rv) {
                assert_eq!(
                    (owner, count),
                    (name, n),
                    "life {life}: what version {rv} is has changed"
                );
            }
        }
        self.objects = have.iter().map(|(k, (n, _))| (k.clone(), (*n, false))).collect();
        // Older versions cannot come up any more but in error, which `latest` shows.
        while self.versions.len() > 20_000 {
            self.versions.pop_first();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_servers_keep_what_they_acknowledged() {
    if let Ok(dir) = std::env::var(CHILD) {
        live(Path::new(&dir)).await;
        return;
    }
    let kills = std::env::var(KILLS).map_or(DEFAULT_KILLS, |n| n.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("data");
    let mut seen = Seen::default();
    let mut early = 0u64;
    let begun = Instant::now();
    // A fixed sequence: a failure can be run again.
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    // The last life looks at what the others left.
    let (mut life, mut loaded) = (0u64, 0u64);
    while loaded <= kills {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // Most are killed under load, some while they start and mend the file that the last one left.
        let starting = life > 0 && random.is_multiple_of(5);
        let pause = Duration::from_micros(random % if starting { 60_000 } else { 150_000 });
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "killed_servers_keep_what_they_acknowledged",
                "--nocapture",
            ])
            .env(CHILD, &store)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let stderr = child.stderr.take().unwrap();
        let (begin, begins) = std::sync::mpsc::channel();
        let lines = std::thread::spawn(move || {
            let mut lines: Vec<Vec<String>> = Vec::new();
            for line in BufReader::new(stdout).lines() {
                let Ok(line) = line else { break };
                let parts: Vec<String> = line.split(' ').map(str::to_owned).collect();
                if parts.len() == 5 && parts[0] == "@" {
                    if parts[1] == "set" {
                        // Whoever waits for the first write may have stopped to.
                        let _ = begin.send(());
                    }
                    lines.push(parts[1..].to_vec());
                }
            }
            lines
        });
        let errors = std::thread::spawn(move || std::io::read_to_string(stderr).unwrap_or_default());
        if !starting {
            let started = begins.recv_timeout(Duration::from_secs(60));
            if started.is_err() {
                child.kill().unwrap();
                panic!("life {life} writes nothing: {}", errors.join().unwrap());
            }
        }
        std::thread::sleep(pause);
        let ended = child.try_wait().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let errors = errors.join().unwrap();
        assert!(ended.is_none(), "life {life} ended by itself: {errors}");
        // What was said before the kill is still in the pipe, and read to its end; a last line may be cut.
        let lines = lines.join().unwrap();
        if lines.iter().any(|l| l[0] == "set") {
            loaded += 1;
        } else {
            early += 1;
        }
        seen.life(life, &lines);
        life += 1;
    }
    assert!(
        seen.verified > kills,
        "each start after a kill under load is looked at"
    );
    println!(
        "{loaded} kills under load and {early} at the start: {} acknowledged writes kept, {} starts checked, {} s",
        seen.acknowledged,
        seen.verified,
        begun.elapsed().as_secs()
    );
}
