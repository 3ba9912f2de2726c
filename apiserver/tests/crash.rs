//! A server that is killed under load forgets nothing that it acknowledged.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use strait_apiserver::{Config, Data, Server};

const CHILD: &str = "STRAIT_CRASH_TEST_DATA";
const WRITERS: usize = 6;
const ROUNDS: usize = 8;

async fn open(dir: &Path) -> Server {
    Server::start(Config::new(Data::Directory(dir.to_owned())))
        .await
        .unwrap()
}

fn map(name: String, count: u64) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([("count".to_owned(), count.to_string())])),
        ..ConfigMap::default()
    }
}

fn count(map: &ConfigMap) -> u64 {
    map.data.as_ref().unwrap()["count"].parse().unwrap()
}

/// Writes until it is killed: each writer counts in one object, makes one more at each step, and deletes
/// the one before. A line on standard output follows each acknowledgement.
async fn write_for_ever(dir: &Path) {
    let server = open(dir).await;
    let client = Client::new(server.admin_service(), "default");
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
        tasks.spawn(async move {
            let counter = format!("counter-{writer}");
            let mut n = match maps.get_opt(&counter).await.unwrap() {
                Some(found) => count(&found),
                None => {
                    maps.create(&PostParams::default(), &map(counter.clone(), 0))
                        .await
                        .unwrap();
                    0
                }
            };
            loop {
                n += 1;
                let patch = Patch::Merge(json!({"data": {"count": n.to_string()}}));
                let done = maps
                    .patch(&counter, &PatchParams::default(), &patch)
                    .await
                    .unwrap();
                println!("\nset {writer} {n} {}", done.resource_version().unwrap());
                let name = format!("step-{writer}-{n}");
                let outcome = maps.create(&PostParams::default(), &map(name, n)).await;
                match outcome {
                    Ok(made) => println!("\nmade {writer} {n} {}", made.resource_version().unwrap()),
                    // Made before a kill, without the counter's next step being so.
                    Err(kube::Error::Api(s)) if s.reason == "AlreadyExists" => {
                        println!("\nmade {writer} {n} 0")
                    }
                    Err(e) => panic!("{e}"),
                }
                if n % 2 == 0 {
                    let name = format!("step-{writer}-{}", n - 1);
                    if maps.get_opt(&name).await.unwrap().is_some() {
                        maps.delete(&name, &DeleteParams::default()).await.unwrap();
                        println!("\ngone {writer} {} 0", n - 1);
                    }
                }
                std::io::stdout().flush().unwrap();
            }
        });
    }
    // A writer ends only by failing.
    tasks.join_next().await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_servers_keep_what_they_acknowledged() {
    if let Ok(dir) = std::env::var(CHILD) {
        write_for_ever(Path::new(&dir)).await;
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut counters = [0u64; WRITERS];
    let mut last_version = 0u64;
    let mut acknowledged = 0;
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "killed_servers_keep_what_they_acknowledged",
                "--nocapture",
            ])
            .env(CHILD, &data)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        // Killed somewhere in the middle of writing, a little later each time.
        let life = Duration::from_millis(120 + 45 * round as u64);
        let reader = std::thread::spawn(move || {
            let mut lines = Vec::new();
            let (mut first, mut killed) = (None, false);
            for line in BufReader::new(stdout).lines() {
                let Ok(line) = line else { break };
                let parts: Vec<String> = line.split(' ').map(str::to_owned).collect();
                if parts.len() == 4 && ["set", "made", "gone"].contains(&parts[0].as_str()) {
                    first.get_or_insert_with(Instant::now);
                    lines.push(parts);
                }
                // What was said before the kill may still be in the pipe: read on to its end.
                if !killed && first.is_some_and(|t: Instant| t.elapsed() > life) {
                    child.kill().unwrap();
                    killed = true;
                }
            }
            child.wait().unwrap();
            lines
        });
        let lines = tokio::task::spawn_blocking(move || reader.join().unwrap())
            .await
            .unwrap();
        assert!(
            !lines.is_empty(),
            "round {round}: the child acknowledged something before it was killed"
        );
        acknowledged += lines.len();

        let server = open(&data).await;
        let client = Client::new(server.admin_service(), "default");
        let maps: Api<ConfigMap> = Api::default_namespaced(client);
        let found: BTreeMap<String, ConfigMap> = maps
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .into_iter()
            .map(|m| (m.name_any(), m))
            .collect();
        let mut steps: BTreeMap<String, bool> = BTreeMap::new();
        let mut highest = last_version;
        for line in &lines {
            let (writer, n, rv): (usize, u64, u64) = (
                line[1].parse().unwrap(),
                line[2].parse().unwrap(),
                line[3].parse().unwrap(),
            );
            if rv > 0 {
                assert!(
                    rv > last_version,
                    "round {round}: version {rv} was given out after {last_version} was"
                );
                highest = highest.max(rv);
            }
            match line[0].as_str() {
                "set" => counters[writer] = n,
                "made" => drop(steps.insert(format!("step-{writer}-{n}"), true)),
                _ => drop(steps.insert(format!("step-{writer}-{n}"), false)),
            }
        }
        for (writer, acked) in counters.iter_mut().enumerate() {
            let stored = count(&found[&format!("counter-{writer}")]);
            assert!(
                stored == *acked || stored == *acked + 1,
                "round {round}: writer {writer} was told {acked}, the store has {stored}"
            );
            *acked = stored;
        }
        let last: BTreeMap<usize, u64> = counters.iter().copied().enumerate().collect();
        for (name, present) in steps {
            // A deletion may have been done without being acknowledged yet.
            let parts: Vec<&str> = name.split('-').collect();
            let (writer, n): (usize, u64) = (parts[1].parse().unwrap(), parts[2].parse().unwrap());
            let in_flight = present && n + 1 >= last[&writer];
            assert!(
                found.contains_key(&name) == present || in_flight,
                "round {round}: {name} should {}be there",
                if present { "" } else { "not " }
            );
        }
        for (name, map) in &found {
            if let Some(n) = name.strip_prefix("step-").and_then(|r| r.split('-').nth(1)) {
                assert_eq!(n.parse::<u64>().unwrap(), count(map), "{name} is whole");
            }
        }
        assert!(
            server.resource_version() >= highest,
            "round {round}: versions never go back"
        );
        last_version = server.resource_version();
        server.shutdown().await;
    }
    println!("{acknowledged} acknowledged writes survived {ROUNDS} kills");
}
