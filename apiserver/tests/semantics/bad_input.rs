//! What no sane client sends: bounded, answered as a real server answers, and nobody else notices.

use serde_json::{Value, json};
use strait_envtest::{ADMIN_TOKEN, since};

use crate::under::{Answer, Under};

const JSON: (&str, &str) = ("content-type", "application/json");

/// Somebody else's requests, which always work.
async fn others_are_well(u: &Under) {
    let path = u.path("configmaps");
    let made = u
        .post(&path, json!({"metadata": {"generateName": "well-"}}))
        .await
        .is(201);
    u.delete(&format!("{path}/{}", made.text("/metadata/name")))
        .await
        .is(200);
    assert_eq!(u.get("/readyz").await.body, "ok");
}

async fn sent(u: &Under, method: &str, path: &str, media: &str, body: impl Into<Vec<u8>>) -> Answer {
    u.ask(ADMIN_TOKEN, method, path, &[("content-type", media)], body.into())
        .await
}

#[tokio::test]
async fn paths_that_lead_nowhere() {
    let u = Under::start().await;
    for path in [
        "/nope",
        "/api/v2/pods",
        "/apis/nope.dev/v1/things",
        "/apis/apps/v9/deployments",
        "/api/v1/namespaces/default/pods/a/b/c/d/e",
    ] {
        u.get(path).await.is(404);
    }
    u.get(&u.path("things")).await.says(
        404,
        "NotFound",
        "the server could not find the requested resource",
    );
    u.get(&format!("{}/a/nope", u.path("configmaps"))).await.is(404);
    let long = format!(
        "/api/v1/namespaces/{}/configmaps/{}",
        u.namespace,
        "x".repeat(5_000)
    );
    u.get(&long).await.is(404);
    for path in [
        "/api/v1/namespaces/%2e%2e/configmaps",
        "/api/v1/namespaces/default/configmaps/%00",
        "/api/v1/namespaces/default/configmaps/%ff%fe",
        "//api//v1//",
    ] {
        let got = u.get(path).await;
        assert!(
            (300..500).contains(&got.status) || got.items().is_empty(),
            "{path}: {}",
            got.status
        );
    }
    let put = sent(&u, "PUT", &u.path("configmaps"), JSON.1, "{}").await;
    put.says(
        405,
        "MethodNotAllowed",
        "the server does not allow this method on the requested resource",
    );
    let post = sent(&u, "POST", &format!("{}/a", u.path("configmaps")), JSON.1, "{}").await;
    assert_eq!(post.status, 405, "{}", post.body);
    others_are_well(&u).await;
    u.end().await;
}

#[tokio::test]
async fn bodies_that_are_too_large_or_no_objects() {
    let u = Under::start().await;
    let path = u.path("configmaps");
    let big = json!({"metadata": {"name": "big"}, "data": {"a": "x".repeat(10 << 20)}}).to_string();
    for media in [JSON.1, "application/yaml"] {
        let refused = sent(&u, "POST", &path, media, big.clone()).await;
        assert_eq!(
            (refused.status, refused.reason()),
            (413, "RequestEntityTooLarge"),
            "{}",
            refused.message()
        );
        assert!(
            refused
                .message()
                .starts_with("Request entity too large: limit is 3145728"),
            "{}",
            refused.message()
        );
    }
    u.post(&path, json!({"metadata": {"name": "m"}})).await.is(201);
    let refused = sent(
        &u,
        "PATCH",
        &format!("{path}/m"),
        "application/merge-patch+json",
        big,
    )
    .await;
    assert_eq!(refused.status, 413);
    let half = json!({"metadata": {"name": "half"}, "data": {"a": "x".repeat((1 << 20) + 1)}});
    let refused = u.post(&path, half).await.is(422);
    assert!(
        refused.causes()[0].starts_with("[]: Too long: may not be more than 1048576 bytes")
            || refused.causes()[0].contains("Too long"),
        "{:?}",
        refused.causes()
    );
    for body in [
        "",
        "null",
        "[]",
        "7",
        "\"x\"",
        "{",
        "{\"metadata\": 7}",
        "{\"metadata\": {\"name\": 7}}",
        "{\"metadata\": {\"labels\": [1]}}",
        "{\"data\": {\"a\": 1}}",
        "\u{0}",
    ] {
        let got = sent(&u, "POST", &path, JSON.1, body).await;
        assert!(
            (400..500).contains(&got.status),
            "{body:?}: {} {}",
            got.status,
            got.body
        );
    }
    let typed = sent(
        &u,
        "POST",
        &path,
        JSON.1,
        "{\"metadata\": {\"name\": \"x\"}, \"data\": {\"a\": 1}}",
    )
    .await;
    let why = since(
        23,
        "json: cannot unmarshal number into Go struct field ConfigMap.data of type string",
        "v1.ConfigMap.Data: ReadString: expects \" or n, but found 1, error found in #10 byte of ...|\": {\"a\": 1}}|..., bigger context ...|{\"metadata\": {\"name\": \"x\"}, \"data\": {\"a\": 1}}|...",
    );
    typed.says(
        400,
        "BadRequest",
        &format!("ConfigMap in version \"v1\" cannot be handled as a ConfigMap: {why}"),
    );
    others_are_well(&u).await;
    u.end().await;
}

#[tokio::test]
async fn depth_and_aliases_without_end() {
    let u = Under::start().await;
    let path = u.define("widgets", "Widget", crate::open()).await;
    let head = format!(
        "{{\"apiVersion\": \"{}/v1\", \"kind\": \"Widget\", \"metadata\": {{\"name\": \"deep\"}}, \"spec\": ",
        u.group
    );
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let inner = if open == "[" { "" } else { "1" };
        let deep = format!("{head}{}{inner}{}}}", open.repeat(20_000), close.repeat(20_000));
        for media in [JSON.1, "application/yaml"] {
            let got = sent(&u, "POST", &path, media, deep.clone()).await;
            assert!(
                (400..500).contains(&got.status),
                "{media}: {} {}",
                got.status,
                got.message()
            );
        }
        u.post(&path, json!({"apiVersion": format!("{}/v1", u.group), "kind": "Widget", "metadata": {"name": format!("w{}", open.len())}})).await.is(201);
        let patch = format!(
            "{{\"spec\": {}{inner}{}}}",
            open.repeat(20_000),
            close.repeat(20_000)
        );
        let got = sent(
            &u,
            "PATCH",
            &format!("{path}/w{}", open.len()),
            "application/merge-patch+json",
            patch,
        )
        .await;
        let old = since(
            24,
            false,
            (got.status, got.message()) == (500, "Invalid JSON Patch"),
        );
        assert!(
            (400..500).contains(&got.status) || old,
            "{} {}",
            got.status,
            got.message()
        );
    }
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for n in 1..12 {
        bomb.push_str(&format!(
            "a{n}: &a{n} [{}]\n",
            vec![format!("*a{}", n - 1); 9].join(",")
        ));
    }
    let got = sent(&u, "POST", &path, "application/yaml", bomb).await;
    assert!(
        (400..500).contains(&got.status),
        "{} {}",
        got.status,
        got.message()
    );
    others_are_well(&u).await;
    u.end().await;
}

#[tokio::test]
async fn labels_and_annotations_by_the_thousand() {
    let u = Under::start().await;
    let path = u.path("configmaps");
    let labels: serde_json::Map<String, Value> = (0..1000)
        .map(|n| (format!("l{n}"), json!(format!("v{n}"))))
        .collect();
    u.post(&path, json!({"metadata": {"name": "many", "labels": labels}}))
        .await
        .is(201);
    assert_eq!(
        u.get(&format!("{path}?labelSelector=l999%3Dv999,l0"))
            .await
            .names(),
        ["many"]
    );
    let selector: Vec<String> = (0..200).map(|n| format!("l{n}%3Dv{n}")).collect();
    assert_eq!(
        u.get(&format!("{path}?labelSelector={}", selector.join(",")))
            .await
            .names(),
        ["many"]
    );
    let refused = u
        .merge(
            &format!("{path}/many"),
            json!({"metadata": {"labels": {"x".repeat(64): "v", "y": "v".repeat(64)}}}),
        )
        .await
        .is(422);
    assert!(
        refused.causes().len() >= 2
            && refused
                .causes()
                .iter()
                .any(|c| c.contains("name part must be no more than 63")),
        "{:?}",
        refused.causes()
    );
    let refused = u
        .merge(
            &format!("{path}/many"),
            json!({"metadata": {"annotations": {"a": "x".repeat(300_000)}}}),
        )
        .await
        .is(422);
    assert_eq!(
        refused.causes(),
        [since(
            32,
            "metadata.annotations: Too long: may not be more than 262144 bytes",
            "metadata.annotations: Too long: must have at most 262144 bytes"
        )]
    );
    u.merge(
        &format!("{path}/many"),
        json!({"metadata": {"annotations": {"a": "x".repeat(200_000)}}}),
    )
    .await
    .is(200);
    others_are_well(&u).await;
    u.end().await;
}

#[tokio::test]
async fn versions_from_the_future_and_options_without_sense() {
    let u = Under::start().await;
    let path = u.path("configmaps");
    for n in 0..3 {
        u.post(
            &path,
            json!({"metadata": {"name": format!("m{n}"), "labels": {"x": "y"}}}),
        )
        .await
        .is(201);
    }
    let far = u.get(&path).await.rv().parse::<u64>().unwrap() + 1_000_000;
    for query in [
        format!("resourceVersion={far}"),
        format!("resourceVersion={far}&resourceVersionMatch=NotOlderThan"),
    ] {
        let got = u.get(&format!("{path}?{query}")).await.is(504);
        assert_eq!(got.reason(), "Timeout");
        assert!(
            got.message()
                .starts_with(&format!("Timeout: Too large resource version: {far}, current: ")),
            "{}",
            got.message()
        );
        assert_eq!(got.text("/details/causes/0/reason"), "ResourceVersionTooLarge");
    }
    u.get(&format!("{path}/m0?resourceVersion={far}")).await.is(504);
    let stale = u
        .merge(
            &format!("{path}/m0"),
            json!({"metadata": {"resourceVersion": far.to_string()}, "data": {"a": "b"}}),
        )
        .await;
    stale.is(409);
    for (query, why) in [
        ("limit=x", "strconv.ParseInt: parsing \"x\": invalid syntax"),
        ("limit=1e3", "strconv.ParseInt: parsing \"1e3\": invalid syntax"),
        (
            "limit=99999999999999999999",
            "strconv.ParseInt: parsing \"99999999999999999999\": value out of range",
        ),
        (
            "timeoutSeconds=soon",
            "strconv.ParseInt: parsing \"soon\": invalid syntax",
        ),
        (
            "watch=1&timeoutSeconds=-99999999999999999999",
            "strconv.ParseInt: parsing \"-99999999999999999999\": value out of range",
        ),
    ] {
        u.get(&format!("{path}?{query}"))
            .await
            .says(400, "BadRequest", why);
    }
    let names = |a: Answer| {
        a.names()
            .into_iter()
            .filter(|n| n.starts_with('m'))
            .collect::<Vec<_>>()
            .join(" ")
    };
    for query in [
        "limit=-1",
        "limit=0",
        "limit=9223372036854775807",
        "timeoutSeconds=-5",
        "timeoutSeconds=9223372036854775807",
        "unknown=parameter",
        "labelSelector=",
        "fieldSelector=",
    ] {
        assert_eq!(
            names(u.get(&format!("{path}?labelSelector=x&{query}")).await.is(200)),
            "m0 m1 m2",
            "{query}"
        );
    }
    for token in [
        "abc",
        "%00",
        "%C3%A9%C3",
        "e30",
        "eyJ2IjoibWV0YS5rOHMuaW8vdjkiLCJydiI6MSwic3RhcnQiOiIvIn0",
        "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MCwic3RhcnQiOiIvYSJ9",
    ] {
        let got = u.get(&format!("{path}?limit=1&continue={token}")).await.is(400);
        assert!(
            got.message().starts_with("invalid continue token: "),
            "{token}: {}",
            got.message()
        );
    }
    let first = u.get(&format!("{path}?limit=1")).await;
    let token = first.text("/metadata/continue");
    u.get(&format!("{path}?limit=1&continue={token}&resourceVersion=5"))
        .await
        .says(
            400,
            "BadRequest",
            "specifying resource version is not allowed when using continue",
        );
    for selector in [
        "a===b",
        "((",
        "a in",
        "a in (",
        "!",
        "a=b=c",
        "x y",
        &"a,".repeat(10_000),
    ] {
        let encoded: String = selector.bytes().map(|b| format!("%{b:02X}")).collect();
        let got = u.get(&format!("{path}?labelSelector={encoded}")).await;
        assert!(
            (400..500).contains(&got.status),
            "{}: {}",
            &selector[..selector.len().min(20)],
            got.status
        );
    }
    u.get(&format!("{path}?fieldSelector=%3D")).await.is(200);
    for selector in ["data.a=b", "metadata.labels=x", "=a", "x", "metadata.name"] {
        let encoded: String = selector.bytes().map(|b| format!("%{b:02X}")).collect();
        u.get(&format!("{path}?fieldSelector={encoded}")).await.is(400);
    }
    others_are_well(&u).await;
    u.end().await;
}

#[tokio::test]
async fn definitions_that_are_too_much() {
    let u = Under::start().await;
    let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let mut nested = json!({"type": "string"});
    for _ in 0..100 {
        nested = json!({"type": "object", "properties": {"a": nested}});
    }
    let version =
        json!([{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": nested}}]);
    let deep = u.post(crds, u.crd("deeps", "Deep", version)).await;
    assert!(deep.status < 500, "{} {}", deep.status, deep.message());
    let wide: serde_json::Map<String, Value> = (0..5_000)
        .map(|n| (format!("f{n}"), json!({"type": "string", "maxLength": 9})))
        .collect();
    let version = json!([{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "properties": wide}}}]);
    u.post(crds, u.crd("wides", "Wide", version)).await.is(201);
    let pattern = json!([{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}}}}]);
    let refused = u.post(crds, u.crd("bads", "Bad", pattern)).await.is(422);
    assert!(
        refused.causes()[0].contains("must be a valid regular expression, but isn't: "),
        "{:?}",
        refused.causes()
    );
    others_are_well(&u).await;
    u.end().await;
}
