use std::path::Path;

use serde_json::json;

use super::*;

const MAPS: &str = "configmaps";

fn put(name: &str, expect: Option<u64>) -> Write {
    Write {
        key: Key {
            resource: MAPS.into(),
            namespace: "ns".into(),
            name: name.into(),
        },
        expect,
        op: Op::Put(json!({"metadata": {"namespace": "ns", "name": name}})),
    }
}

fn on_disk(dir: &Path) -> Store {
    Store::open(&Location::File(dir.join("store")), Window::default()).unwrap()
}

fn in_memory(window: Window) -> Store {
    Store::open(&Location::Memory, window).unwrap()
}

#[tokio::test]
async fn a_writer_that_is_gone_shows() {
    let store = in_memory(Window::default());
    let patience = Duration::from_secs(10);
    store.ping(patience).await.unwrap();
    store.jobs.send(Job::Panic).unwrap();
    let error = store.ping(patience).await.unwrap_err();
    assert!(error.contains("writer has ended"), "{error}");
    assert!(matches!(
        store.write(put("a", None)).await,
        Err(WriteError::Storage(_))
    ));
    assert_eq!(store.list(MAPS, "").items.len(), 0, "reads go on");
}

#[tokio::test]
async fn history_ends_with_its_age() {
    let store = in_memory(Window {
        age: Duration::from_millis(200),
        ..Window::default()
    });
    let first = store.write(put("a", None)).await.unwrap().rv;
    let second = store.write(put("b", None)).await.unwrap().rv;
    assert!(store.events_after(MAPS, first, 10, 1 << 20).is_ok());
    let begun = Instant::now();
    // Nothing is written any more: the writer has to look by itself. A ping wakes it.
    loop {
        store.ping(Duration::from_secs(10)).await.unwrap();
        if store.snapshot_at(MAPS, first).is_err() {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "the history stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(store.events_after(MAPS, first, 10, 1 << 20).is_err());
    let (events, _) = store.events_after(MAPS, second, 10, 1 << 20).unwrap();
    assert!(events.is_empty(), "nothing was missed since the last change");
    assert_eq!(store.snapshot_at(MAPS, second).unwrap().rv, second);
}

#[tokio::test]
async fn large_events_come_a_few_at_a_time() {
    let store = in_memory(Window::default());
    for n in 0..6 {
        store.write(put(&format!("m{n}"), None)).await.unwrap();
    }
    let (events, upto) = store.events_after(MAPS, 1, 10, 1).unwrap();
    assert_eq!(
        (events.len(), upto),
        (1, events[0].rv),
        "one is sent, however large"
    );
    let (rest, upto) = store.events_after(MAPS, upto, 10, 1 << 20).unwrap();
    assert_eq!((rest.len(), upto), (5, store.rv()));
}

#[tokio::test]
async fn after_a_restart_history_begins_where_each_resource_changed_last() {
    let dir = tempfile::tempdir().unwrap();
    let store = on_disk(dir.path());
    let first = store.write(put("a", None)).await.unwrap().rv;
    let last = store.write(put("b", None)).await.unwrap().rv;
    let mut other = put("other", None);
    other.key.resource = "secrets".into();
    let other = store.write(other).await.unwrap().rv;
    store.close().await;

    let store = on_disk(dir.path());
    assert_eq!(store.rv(), other);
    assert!(
        store.events_after(MAPS, first, 10, 1 << 20).is_err(),
        "what came after is lost"
    );
    let (events, upto) = store.events_after(MAPS, last, 10, 1 << 20).unwrap();
    assert_eq!(
        (events.len(), upto),
        (0, other),
        "who knows the last change has missed nothing"
    );
    assert_eq!(
        store
            .snapshot_at(MAPS, last)
            .unwrap()
            .objects
            .count_within("", ""),
        2
    );
    store.close().await;
}

#[tokio::test]
async fn a_file_that_is_mostly_empty_is_made_smaller() {
    let dir = tempfile::tempdir().unwrap();
    let size = || std::fs::metadata(dir.path().join("store")).unwrap().len();
    let store = on_disk(dir.path());
    let fill = "x".repeat(64 << 10);
    let puts = (0..160).map(|n| {
        let name = format!("m{n}");
        let mut write = put(&name, None);
        write.op = Op::Put(json!({"metadata": {"namespace": "ns", "name": name}, "data": fill}));
        store.write(write)
    });
    assert!(futures::future::join_all(puts).await.iter().all(Result::is_ok));
    store.write(put("kept", None)).await.unwrap();
    let full = size();
    assert!(full > 10 << 20, "{full}");
    let objects = store.list(MAPS, "").items;
    let deletes = objects.iter().filter(|o| o.name != "kept").map(|object| {
        let mut write = put(&object.name, Some(object.rv));
        write.op = Op::Delete;
        store.write(write)
    });
    assert!(futures::future::join_all(deletes).await.iter().all(Result::is_ok));
    let last = store.rv();
    store.close().await;
    let store = on_disk(dir.path());
    assert!(size() < full / 4, "{full} bytes are {} now", size());
    assert_eq!(store.rv(), last);
    assert_eq!(store.list(MAPS, "").items.len(), 1);
    store.write(put("more", None)).await.unwrap();
    store.close().await;
    assert_eq!(on_disk(dir.path()).list(MAPS, "").items.len(), 2);
}

/// Everything that a store holds.
fn content(store: &Store) -> Vec<(String, u64, Bytes)> {
    let objects = store.list(MAPS, "").items;
    objects
        .iter()
        .map(|o| (o.name.clone(), o.rv, o.json.clone()))
        .collect()
}

#[tokio::test]
async fn damage_is_refused_or_does_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let store = on_disk(dir.path());
    for n in 0..60 {
        let mut write = put(&format!("m{n}"), None);
        if let Op::Put(object) = &mut write.op {
            object["data"] = json!({"a": format!("{n} ").repeat(2000)});
        }
        store.write(write).await.unwrap();
    }
    let (rv, held) = (store.rv(), content(&store));
    assert_eq!(held.len(), 60);
    store.close().await;
    drop(store);
    let whole = std::fs::read(dir.path().join("store")).unwrap();
    let attempt = async |bytes: &[u8]| -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        std::fs::write(&path, bytes).unwrap();
        let mut answers = Vec::new();
        // A second try must not take what the first one refused.
        for _ in 0..2 {
            match Store::open(&Location::File(path.clone()), Window::default()) {
                Ok(store) => {
                    assert_eq!((store.rv(), content(&store)), (rv, held.clone()));
                    store.close().await;
                    answers.push(None);
                }
                Err(e) => {
                    assert!(e.contains(path.to_str().unwrap()), "{e}");
                    answers.push(Some(e));
                }
            }
        }
        assert_eq!(answers[0].is_some(), answers[1].is_some(), "{answers:?}");
        answers.swap_remove(0)
    };
    assert_eq!(attempt(&whole).await, None);
    let flips = (0..16)
        .map(|n| n * 20)
        .chain((1..30).map(|n| whole.len() / 30 * n));
    let mut refused = std::collections::BTreeSet::new();
    for (n, at) in flips.enumerate() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (n % 8);
        if attempt(&bytes).await.is_some() {
            refused.insert(at);
        }
    }
    // The head of the file, and its pages. (What is not in use may be anything.)
    assert!(refused.iter().any(|at| *at < 320), "{refused:?}");
    assert!(
        refused.iter().filter(|at| **at >= 4096).count() > 5,
        "{refused:?}"
    );
    for share in [1, 3, 5, 7, 9] {
        let e = attempt(&whole[..whole.len() * share / 10])
            .await
            .expect("it is cut");
        assert!(e.contains("cannot be opened"), "{e}");
    }
    let e = attempt(b"something else altogether")
        .await
        .expect("it is no store");
    assert!(e.contains("Not a redb database"), "{e}");
}

#[tokio::test]
async fn a_store_of_a_later_version_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = on_disk(dir.path());
    store.write(put("a", None)).await.unwrap();
    store.close().await;
    drop(store);
    let path = dir.path().join("store");
    let table = redb::TableDefinition::<&str, u64>::new("meta");
    let set = |format: u64| {
        let db = redb::Database::create(&path).unwrap();
        let write = db.begin_write().unwrap();
        write.open_table(table).unwrap().insert("format", format).unwrap();
        write.commit().unwrap();
    };
    set(2);
    for _ in 0..2 {
        let e = Store::open(&Location::File(path.clone()), Window::default()).unwrap_err();
        assert!(
            e.contains("has format 2, and this version knows 1 at most: use the version that wrote it"),
            "{e}"
        );
    }
    set(1);
    assert_eq!(content(&on_disk(dir.path())).len(), 1);
}
