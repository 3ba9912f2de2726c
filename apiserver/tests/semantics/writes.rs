//! Create and update: names, dry runs, unknown fields, versions, finalizers, status.

use serde_json::{Value, json};
use strait_envtest::{ADMIN_TOKEN, older, older_in_part, since};

use crate::under::{Answer, Under};

fn sized() -> Value {
    json!({"subresources": {"status": {}}, "schema": {"openAPIV3Schema": {"type": "object", "properties": {
        "spec": {"type": "object", "properties": {"size": {"type": "integer"}, "tags": {"type": "array", "items": {"type": "string"}}}},
        "status": {"type": "object", "properties": {"seen": {"type": "integer"}}}}}}})
}

fn widget(u: &Under, name: &str, spec: Value) -> Value {
    json!({"apiVersion": format!("{}/v1", u.group), "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn names_are_made_and_checked() {
    let u = Under::start().await;
    let path = u.path("configmaps");
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let made = u
            .post(&path, json!({"metadata": {"generateName": "gen-"}}))
            .await
            .is(201);
        let name = made.text("/metadata/name");
        assert!(name.starts_with("gen-") && name.len() == 9, "{name}");
        assert_eq!(made.text("/metadata/generateName"), "gen-");
        seen.insert(name);
    }
    assert_eq!(seen.len(), 3);
    let long = "x".repeat(300);
    let made = u.post(&path, json!({"metadata": {"generateName": long}})).await;
    assert!(
        made.status == 422 || made.text("/metadata/name").len() == 63,
        "{}",
        made.body
    );
    let none = u.post(&path, json!({"metadata": {}})).await.is(422);
    assert_eq!(
        none.causes(),
        ["metadata.name: Required value: name or generateName is required"]
    );
    let upper = u
        .post(&path, json!({"metadata": {"name": "Upper"}}))
        .await
        .is(422);
    assert!(
        upper.causes()[0]
            .starts_with("metadata.name: Invalid value: \"Upper\": a lowercase RFC 1123 subdomain"),
        "{:?}",
        upper.causes()
    );
    let labels = u
        .post(
            &path,
            json!({"metadata": {"name": "l", "labels": {"a b": "c", "d": "-"}}}),
        )
        .await
        .is(422);
    assert_eq!(labels.causes().len(), 2, "{:?}", labels.causes());
    u.post(&path, json!({"metadata": {"name": "v", "resourceVersion": "7"}}))
        .await
        .is(500);
    u.end().await;
}

#[tokio::test]
async fn dry_runs_change_nothing() {
    let u = Under::start().await;
    let path = u.path("configmaps");
    let one = format!("{path}/a");
    let before = u
        .post(&path, json!({"metadata": {"name": "a"}, "data": {"k": "1"}}))
        .await
        .is(201);
    let dry = "?dryRun=All";
    u.post(&format!("{path}{dry}"), json!({"metadata": {"name": "b"}}))
        .await
        .is(201);
    u.post(&format!("{path}{dry}"), json!({"metadata": {"name": "a"}}))
        .await
        .is(409);
    u.post(&format!("{path}{dry}"), json!({"metadata": {"name": "B"}}))
        .await
        .is(422);
    let put = u
        .put(
            &format!("{one}{dry}"),
            json!({"metadata": {"name": "a"}, "data": {"k": "2"}}),
        )
        .await
        .is(200);
    assert_eq!(put.text("/data/k"), "2", "it answers what would be");
    u.merge(&format!("{one}{dry}"), json!({"data": {"k": "3"}}))
        .await
        .is(200);
    u.apply(
        &one,
        "me&dryRun=All&force=true",
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "4"}}),
    )
    .await
    .is(200);
    u.delete(&format!("{one}{dry}")).await.is(200);
    u.delete_with(&one, json!({"dryRun": ["All"]})).await.is(200);
    u.delete(&format!("{path}{dry}")).await.is(200);
    for (method, path) in [
        ("POST", path.clone()),
        ("DELETE", one.clone()),
        ("PUT", one.clone()),
    ] {
        let body = if method == "DELETE" {
            Vec::new()
        } else {
            json!({"metadata": {"name": "a"}}).to_string().into_bytes()
        };
        let got = u
            .ask(
                ADMIN_TOKEN,
                method,
                &format!("{path}?dryRun=Some"),
                &[("content-type", "application/json")],
                body,
            )
            .await
            .is(422);
        assert_eq!(
            got.causes(),
            [since(
                31,
                "dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"",
                "dryRun: Unsupported value: []string{\"Some\"}: supported values: \"All\""
            )],
            "{method}"
        );
    }
    let after = u.get(&one).await.is(200);
    assert_eq!(after.body, before.body);
    u.get(&format!("{path}/b")).await.is(404);
    u.end().await;
}

#[tokio::test]
async fn unknown_fields_are_dropped_warned_of_or_refused() {
    if older(25, "fieldValidation") {
        return;
    }
    let u = Under::start().await;
    let widgets = u.define("widgets", "Widget", sized()).await;
    let services = u.path("services");
    let service = |name: &str| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"port": 80, "nope": 1}]}, "extra": {}});
    let bad = |name: &str| {
        let mut w = widget(&u, name, json!({"size": 1, "nope": 2}));
        w["metadata"]["what"] = "x".into();
        w
    };
    for (mode, status, warned) in [
        ("Ignore", 201, 0),
        ("Warn", 201, 2),
        ("", 201, 2),
        ("Strict", 400, 0),
    ] {
        let name = format!("a{}", mode.to_lowercase());
        let got = u
            .post(&format!("{widgets}?fieldValidation={mode}"), bad(&name))
            .await
            .is(status);
        assert_eq!(got.warnings.len(), warned, "{mode}: {:?}", got.warnings);
        if status == 201 {
            assert_eq!(got.body["spec"], json!({"size": 1}), "{mode}");
            assert!(got.body["metadata"].get("what").is_none());
        } else {
            assert!(
                got.message().contains("strict decoding error: ")
                    && got.message().contains("unknown field \"spec.nope\""),
                "{}",
                got.message()
            );
        }
        let got = u
            .post(&format!("{services}?fieldValidation={mode}"), service(&name))
            .await
            .is(status);
        assert_eq!(got.warnings.len(), warned, "{mode}: {:?}", got.warnings);
    }
    let strict = u
        .post(&format!("{services}?fieldValidation=Strict"), service("s"))
        .await;
    assert_eq!(
        strict.message(),
        "Service in version \"v1\" cannot be handled as a Service: strict decoding error: unknown field \"extra\", unknown field \"spec.ports[0].nope\""
    );
    // Fields that stand twice.
    let twice = br#"{"metadata": {"name": "twice"}, "data": {"a": "1", "a": "2"}}"#.to_vec();
    let media = [("content-type", "application/json")];
    let maps = u.path("configmaps");
    let refused = u
        .ask(
            ADMIN_TOKEN,
            "POST",
            &format!("{maps}?fieldValidation=Strict"),
            &media,
            twice.clone(),
        )
        .await
        .is(400);
    assert!(
        refused
            .message()
            .ends_with("strict decoding error: duplicate field \"data.a\""),
        "{}",
        refused.message()
    );
    let warned = u.ask(ADMIN_TOKEN, "POST", &maps, &media, twice).await.is(201);
    assert_eq!(warned.warnings, ["299 - \"duplicate field \\\"data.a\\\"\""]);
    // Patches and applies are looked at in the same way.
    let one = format!("{widgets}/awarn");
    u.merge(
        &format!("{one}?fieldValidation=Strict"),
        json!({"spec": {"nope": 1}}),
    )
    .await
    .is(422);
    let got = u.merge(&one, json!({"spec": {"nope": 1}})).await.is(200);
    assert_eq!(got.warnings.len(), 1, "{:?}", got.warnings);
    u.apply(
        &one,
        "me&fieldValidation=Strict",
        widget(&u, "awarn", json!({"nope": 1})),
    )
    .await
    .is(400);
    let wrong = u
        .post(
            &format!("{widgets}?fieldValidation=Some"),
            widget(&u, "x", json!({})),
        )
        .await
        .is(422);
    assert_eq!(
        wrong.causes(),
        ["fieldValidation: Unsupported value: \"Some\": supported values: \"Ignore\", \"Warn\", \"Strict\""]
    );
    u.end().await;
}

#[tokio::test]
async fn updates_are_pinned_to_what_they_name() {
    let u = Under::start().await;
    let path = u.path("configmaps");
    let one = format!("{path}/a");
    let made = u
        .post(&path, json!({"metadata": {"name": "a"}, "data": {"k": "1"}}))
        .await
        .is(201);
    let with = |rv: &str, uid: &str, k: &str| json!({"metadata": {"name": "a", "resourceVersion": rv, "uid": uid}, "data": {"k": k}});
    let changed = u.put(&one, with(&made.rv(), "", "2")).await.is(200);
    let stale = u.put(&one, with(&made.rv(), "", "3")).await;
    stale.says(409, "Conflict", "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again");
    let again = u.put(&one, with("", "", "2")).await.is(200);
    assert_eq!(again.rv(), changed.rv(), "what changes nothing is no change");
    u.put(&one, with("", "00000000-0000-0000-0000-000000000000", "4"))
        .await
        .is(409);
    let bad = u.put(&one, with("abc", "", "4")).await;
    let old = since(
        24,
        false,
        (bad.status, bad.message()) == (500, "strconv.ParseUint: parsing \"abc\": invalid syntax"),
    );
    assert!(bad.status == 422 || bad.status == 400 || old, "{}", bad.body);
    u.put(&format!("{path}/b"), json!({"metadata": {"name": "b"}}))
        .await
        .is(404);
    u.put(&one, json!({"metadata": {"name": "b"}})).await.says(
        400,
        "BadRequest",
        "the name of the object (b) does not match the name on the URL (a)",
    );
    // A lease is made by an update, and needs its version for the next one.
    let leases = u.path("coordination.k8s.io/v1/leases");
    let lease = |rv: &str| json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l", "resourceVersion": rv}, "spec": {"holderIdentity": "a", "leaseDurationSeconds": 15}});
    let made = u.put(&format!("{leases}/l"), lease("")).await.is(201);
    u.put(&format!("{leases}/l"), lease("")).await.is(422);
    u.put(&format!("{leases}/l"), lease(&made.rv())).await.is(200);
    let mut bad = lease(&made.rv());
    bad["spec"]["leaseDurationSeconds"] = 0.into();
    assert_eq!(
        u.put(&format!("{leases}/l"), bad).await.is(422).causes(),
        ["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"]
    );
    u.end().await;
}

#[tokio::test]
async fn status_and_specification_keep_apart() {
    let u = Under::start().await;
    let widgets = u.define("widgets", "Widget", sized()).await;
    let one = format!("{widgets}/w");
    let mut w = widget(&u, "w", json!({"size": 1}));
    w["status"] = json!({"seen": 9});
    let made = u.post(&widgets, w).await.is(201);
    assert!(made.body.get("status").is_none());
    let number = |a: &Answer, p: &str| a.body.pointer(p).and_then(Value::as_i64);
    assert_eq!(number(&made, "/metadata/generation"), Some(1));
    let mut full = made.body.clone();
    full["spec"]["size"] = 2.into();
    full["status"] = json!({"seen": 1});
    full["metadata"]["labels"] = json!({"a": "b"});
    let status = u.put(&format!("{one}/status"), full.clone()).await.is(200);
    assert_eq!(
        (number(&status, "/spec/size"), number(&status, "/status/seen")),
        (Some(1), Some(1))
    );
    assert!(
        status.body["metadata"].get("labels").is_none(),
        "metadata is not the status's"
    );
    assert_eq!(number(&status, "/metadata/generation"), Some(1));
    full["metadata"]["resourceVersion"] = status.rv().into();
    full["status"] = json!({"seen": 5});
    let spec = u.put(&one, full).await.is(200);
    assert_eq!(
        (number(&spec, "/spec/size"), number(&spec, "/status/seen")),
        (Some(2), Some(1))
    );
    assert_eq!(number(&spec, "/metadata/generation"), Some(2));
    let labelled = u
        .merge(&one, json!({"metadata": {"labels": {"a": "c"}}}))
        .await
        .is(200);
    assert_eq!(
        number(&labelled, "/metadata/generation"),
        Some(2),
        "metadata does not count"
    );
    let wrong = u
        .merge(&format!("{one}/status"), json!({"status": {"seen": "x"}}))
        .await
        .is(422);
    assert_eq!(
        wrong.causes(),
        ["status.seen: Invalid value: \"string\": status.seen in body must be of type integer: \"string\""]
    );
    u.delete(&format!("{one}/status")).await.is(405);
    u.get(&format!("{one}/scale")).await.is(404);
    u.end().await;
}

#[tokio::test]
async fn finalizers_hold_and_the_last_one_lets_go() {
    let u = Under::start().await;
    let widgets = u.define("widgets", "Widget", sized()).await;
    let one = format!("{widgets}/w");
    let mut w = widget(&u, "w", json!({"size": 1}));
    w["metadata"]["finalizers"] = json!(["plain", "test.dev/f"]);
    let made = u.post(&widgets, w).await.is(201);
    let told = [
        "299 - \"metadata.finalizers: \\\"plain\\\": prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers\"",
    ];
    assert!(
        older_in_part(25, "warning of a finalizer's name") || made.warnings == told,
        "{:?}",
        made.warnings
    );
    let held = u.delete(&one).await.is(200);
    assert_eq!(held.text("/kind"), "Widget");
    let time = held.text("/metadata/deletionTimestamp");
    assert!(!time.is_empty());
    assert_eq!(held.body["metadata"]["deletionGracePeriodSeconds"], 0);
    let patched = u.merge(&one, json!({"metadata": {"deletionTimestamp": null, "finalizers": ["test.dev/f"]}, "spec": {"size": 3}})).await.is(200);
    assert_eq!(
        patched.text("/metadata/deletionTimestamp"),
        time,
        "nothing takes a deletion back"
    );
    u.merge(
        &one,
        json!({"metadata": {"finalizers": ["test.dev/f", "test.dev/g"]}}),
    )
    .await
    .is(422);
    let mut watch = u
        .watch(&format!("{widgets}?watch=1&resourceVersion={}", patched.rv()))
        .await;
    u.merge(&one, json!({"metadata": {"finalizers": null}}))
        .await
        .is(200);
    watch.expect(&["DELETED w"]).await;
    u.get(&one).await.is(404);
    let bad = u
        .post(
            &u.path("configmaps"),
            json!({"metadata": {"name": "x", "finalizers": ["plain"]}}),
        )
        .await
        .is(422);
    assert_eq!(
        bad.causes(),
        [
            "metadata.finalizers[0]: Invalid value: \"plain\": name is neither a standard finalizer name nor is it fully qualified"
        ]
    );
    u.end().await;
}
