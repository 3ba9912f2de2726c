//! Watches: what they tell, in which form, from when, and how they end.

use serde_json::json;
use strait_envtest::{ADMIN_TOKEN, older, older_in_part, since};

use crate::under::{Under, shown};

#[tokio::test]
async fn what_stops_matching_is_told_as_deleted() {
    let u = Under::start().await;
    let path = u.path("configmaps");
    let start = u.get(&path).await.rv();
    let mut watch = u
        .watch(&format!(
            "{path}?watch=1&labelSelector=a%3Db&resourceVersion={start}"
        ))
        .await;
    let made = u
        .post(
            &path,
            json!({"metadata": {"name": "x", "labels": {"a": "b"}}, "data": {"k": "1"}}),
        )
        .await
        .is(201);
    u.post(&path, json!({"metadata": {"name": "other"}}))
        .await
        .is(201);
    let one = format!("{path}/x");
    u.merge(&one, json!({"data": {"k": "2"}})).await.is(200);
    let left = u
        .merge(
            &one,
            json!({"metadata": {"labels": {"a": "c"}}, "data": {"k": "3"}}),
        )
        .await
        .is(200);
    u.merge(&one, json!({"data": {"k": "4"}})).await.is(200);
    u.merge(&one, json!({"metadata": {"labels": {"a": "b"}}}))
        .await
        .is(200);
    u.delete(&one).await.is(200);
    watch.expect(&["ADDED x", "MODIFIED x"]).await;
    let gone = watch.next().await.unwrap();
    assert_eq!(shown(&gone), "DELETED x");
    assert_eq!(gone["object"]["data"]["k"], "2", "the last state that matched");
    assert_eq!(
        gone["object"]["metadata"]["resourceVersion"],
        left.rv().as_str(),
        "at the version of the change"
    );
    assert_eq!(gone["object"]["metadata"]["uid"], made.body["metadata"]["uid"]);
    watch.expect(&["ADDED x", "DELETED x"]).await;
    u.end().await;
}

#[tokio::test]
async fn field_selectors_have_transitions_too() {
    let u = Under::start().await;
    let path = u.path("secrets");
    let start = u.get(&path).await.rv();
    let mut by_type = u
        .watch(&format!(
            "{path}?watch=1&fieldSelector=type%3Dtest.dev/a&resourceVersion={start}"
        ))
        .await;
    let mut by_name = u
        .watch(&format!(
            "{path}?watch=1&fieldSelector=metadata.name%3Dtwo&resourceVersion={start}"
        ))
        .await;
    u.post(&path, json!({"metadata": {"name": "one"}, "type": "test.dev/a"}))
        .await
        .is(201);
    u.post(&path, json!({"metadata": {"name": "two"}, "type": "test.dev/b"}))
        .await
        .is(201);
    u.delete(&format!("{path}/one")).await.is(200);
    u.delete(&format!("{path}/two")).await.is(200);
    by_type.expect(&["ADDED one", "DELETED one"]).await;
    by_name.expect(&["ADDED two", "DELETED two"]).await;
    let widgets = u.define("widgets", "Widget", crate::open()).await;
    let mut all = u
        .watch(&format!(
            "/apis/{}/v1/widgets?watch=1&fieldSelector=metadata.namespace%3D{}",
            u.group, u.namespace
        ))
        .await;
    let w = json!({"apiVersion": format!("{}/v1", u.group), "kind": "Widget", "metadata": {"name": "w"}});
    u.post(&widgets, w).await.is(201);
    all.expect(&["ADDED w"]).await;
    u.end().await;
}

#[tokio::test]
async fn initial_events_end_with_a_mark() {
    if older(27, "sendInitialEvents") {
        return;
    }
    let u = Under::start().await;
    let path = u.path("configmaps");
    for name in ["a", "b"] {
        u.post(&path, json!({"metadata": {"name": name, "labels": {"w": "x"}}}))
            .await
            .is(201);
    }
    let marked = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    for query in [
        marked,
        "allowWatchBookmarks=true",
        "allowWatchBookmarks=true&resourceVersion=0",
    ] {
        let mut watch = u.watch(&format!("{path}?watch=1&labelSelector=w&{query}")).await;
        watch.expect(&["ADDED a", "ADDED b"]).await;
        let mark = watch.next().await.unwrap();
        assert_eq!(mark["type"], "BOOKMARK", "{query}: {mark}");
        assert_eq!(
            mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true",
            "{query}"
        );
        assert_eq!(mark["object"]["kind"], "ConfigMap");
    }
    // Without bookmarks there is no mark, and without initial events only what comes.
    let mut quiet = u.watch(&format!("{path}?watch=1&labelSelector=w")).await;
    quiet.expect(&["ADDED a", "ADDED b"]).await;
    let mut news = u.watch(&format!("{path}?watch=1&labelSelector=w&sendInitialEvents=false&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true")).await;
    u.post(&path, json!({"metadata": {"name": "c", "labels": {"w": "x"}}}))
        .await
        .is(201);
    quiet.expect(&["ADDED c"]).await;
    news.expect(&["ADDED c"]).await;
    u.end().await;
}

#[tokio::test]
async fn a_bookmark_comes_before_the_end() {
    let u = Under::start().await;
    let path = u.path("configmaps");
    let start = u.get(&path).await.rv();
    let mut watch = u
        .watch(&format!(
            "{path}?watch=1&resourceVersion={start}&allowWatchBookmarks=true&timeoutSeconds=4"
        ))
        .await;
    u.post(&path, json!({"metadata": {"name": "a"}})).await.is(201);
    let begun = std::time::Instant::now();
    let events = watch.all().await;
    assert!(begun.elapsed().as_secs() < 12, "it ends in its time");
    let kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!(kinds.first(), Some(&"ADDED"));
    assert!(
        kinds[1..].iter().all(|k| *k == "BOOKMARK") && kinds.len() > 1,
        "{kinds:?}"
    );
    let rv = |v: &serde_json::Value| {
        v["object"]["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    assert!(
        rv(events.last().unwrap()) >= rv(&events[0]),
        "it says how far the watch has come"
    );
    assert!(
        events.last().unwrap()["object"]["metadata"]
            .get("annotations")
            .is_none()
    );
    u.end().await;
}

#[tokio::test]
async fn a_watch_may_begin_in_the_future_and_not_at_nonsense() {
    let u = Under::start().await;
    let path = u.path("configmaps");
    let now: u64 = u.get(&path).await.rv().parse().unwrap();
    let far = now + 1_000_000;
    let mut watch = u
        .watch(&format!("{path}?watch=1&resourceVersion={far}&timeoutSeconds=1"))
        .await;
    assert_eq!(watch.status, 200);
    u.post(&path, json!({"metadata": {"name": "a"}})).await.is(201);
    assert_eq!(
        watch.all().await,
        Vec::<serde_json::Value>::new(),
        "what is before the version is not told"
    );
    if !older_in_part(27, "sendInitialEvents") {
        let mut initial = u
        .watch(&format!("{path}?watch=1&resourceVersion={far}&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"))
        .await;
        let error = initial.next().await.unwrap();
        assert_eq!(
            (
                error["type"].as_str(),
                error["object"]["code"].as_u64(),
                error["object"]["reason"].as_str()
            ),
            (Some("ERROR"), Some(504), Some("Timeout"))
        );
        assert!(
            error["object"]["message"]
                .as_str()
                .unwrap()
                .starts_with(&format!("Too large resource version: {far}, current: "))
                || error["object"]["message"]
                    .as_str()
                    .unwrap()
                    .starts_with(&format!("Timeout: Too large resource version: {far}, current: ")),
            "{error}"
        );
    }
    for rv in ["abc", "-1", "99999999999999999999"] {
        let reason = if rv.len() > 5 {
            "value out of range"
        } else {
            "invalid syntax"
        };
        let why =
            format!("resourceVersion: Invalid value: {rv:?}: strconv.ParseUint: parsing {rv:?}: {reason}");
        // A real server does not turn this into a better answer.
        u.get(&format!("{path}?watch=1&resourceVersion={rv}"))
            .await
            .says(500, "", &why);
        let listed = u.get(&format!("{path}?resourceVersion={rv}")).await;
        match since(24, true, false) {
            true => listed.says(400, "BadRequest", &format!("invalid resource version: {why}")),
            false => listed.says(500, "", &why),
        };
        u.get(&format!("{path}/a?resourceVersion={rv}"))
            .await
            .says(500, "", &why);
    }
    u.get(&format!("{path}/a?resourceVersion=0")).await.is(200);
    u.end().await;
}

#[tokio::test]
async fn watches_come_as_tables_and_metadata() {
    let u = Under::start().await;
    let path = u.path("configmaps");
    u.post(
        &path,
        json!({"metadata": {"name": "a", "labels": {"f": "1"}}, "data": {"k": "v"}}),
    )
    .await
    .is(201);
    let query = format!("{path}?watch=1&labelSelector=f");
    let mut table = u
        .watch_as(
            ADMIN_TOKEN,
            &query,
            "application/json;as=Table;g=meta.k8s.io;v=v1",
        )
        .await;
    let mut partial = u
        .watch_as(
            ADMIN_TOKEN,
            &query,
            "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
        )
        .await;
    let first = table.next().await.unwrap();
    assert_eq!(first["object"]["kind"], "Table");
    assert_eq!(first["object"]["rows"][0]["cells"][0], "a");
    assert_eq!(first["object"]["columnDefinitions"][0]["name"], "Name");
    partial.expect(&["ADDED a"]).await;
    u.merge(&format!("{path}/a"), json!({"data": {"k": "w"}}))
        .await
        .is(200);
    u.delete(&format!("{path}/a")).await.is(200);
    for kind in ["MODIFIED", "DELETED"] {
        let event = table.next().await.unwrap();
        assert_eq!(
            (
                event["type"].as_str(),
                event["object"]["rows"][0]["cells"][1].as_u64()
            ),
            (Some(kind), Some(1))
        );
        assert!(
            event["object"]["columnDefinitions"].is_null(),
            "columns come once: {event}"
        );
        let event = partial.next().await.unwrap();
        assert_eq!(
            (event["type"].as_str(), event["object"]["kind"].as_str()),
            (Some(kind), Some("PartialObjectMetadata"))
        );
        assert!(event["object"].get("data").is_none());
    }
    u.end().await;
}
