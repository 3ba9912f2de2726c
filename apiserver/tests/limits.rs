//! Windows of history, pages, and input that no client would send.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use axum::body::Body;
use futures::StreamExt;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use strait_apiserver::{Config, Server, Window};
use tower::ServiceExt;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn raw(
    server: &Server,
    method: &str,
    path: &str,
    media: &str,
    body: impl Into<Body>,
) -> Response<Body> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", media)
        .body(body.into())
        .unwrap();
    server.admin_service().oneshot(request).await.unwrap()
}

async fn get(server: &Server, path: &str) -> (StatusCode, Value) {
    let response = raw(server, "GET", path, "", Body::empty()).await;
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

async fn post(server: &Server, path: &str, body: Value) -> (StatusCode, Value) {
    let response = raw(server, "POST", path, "application/json", body.to_string()).await;
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

async fn make(server: &Server, names: std::ops::Range<usize>) {
    for n in names {
        let (status, answer) = post(server, MAPS, json!({"metadata": {"name": format!("m{n:03}")}})).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
    }
}

async fn with_window(events: usize) -> Server {
    let mut config = Config::in_memory();
    config.window = Window {
        events,
        bytes: 1 << 20,
        ..Window::default()
    };
    config.controllers = false;
    Server::start(config).await.unwrap()
}

#[tokio::test]
async fn a_watch_that_falls_behind_is_told_and_cut() {
    let server = with_window(8).await;
    make(&server, 0..1).await;
    let start = server.resource_version();
    let watch = raw(
        &server,
        "GET",
        &format!("{MAPS}?watch=1&resourceVersion={start}"),
        "",
        Body::empty(),
    )
    .await;
    assert_eq!(watch.status(), StatusCode::OK);
    // Nobody reads it while more happens than the window holds.
    make(&server, 1..40).await;
    let body = tokio::time::timeout(Duration::from_secs(5), watch.into_body().collect())
        .await
        .expect("the watch ends");
    let text = String::from_utf8(body.unwrap().to_bytes().to_vec()).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(
        (last["type"].as_str(), last["object"]["code"].as_i64()),
        (Some("ERROR"), Some(410)),
        "{text}"
    );
    // Lists at a version that has passed are gone too; the present ones are not.
    let (status, answer) = get(
        &server,
        &format!("{MAPS}?resourceVersion={start}&resourceVersionMatch=Exact"),
    )
    .await;
    assert_eq!(
        (status, answer["reason"].as_str()),
        (StatusCode::GONE, Some("Expired"))
    );
    let recent = server.resource_version() - 3;
    let (status, answer) = get(
        &server,
        &format!("{MAPS}?resourceVersion={recent}&resourceVersionMatch=Exact"),
    )
    .await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        answer["items"].as_array().unwrap().len(),
        37,
        "as it was three writes ago"
    );
    server.shutdown().await;
}

#[tokio::test]
async fn pages_show_one_state_until_it_has_passed() {
    let server = with_window(16).await;
    make(&server, 0..10).await;
    let (_, first) = get(&server, &format!("{MAPS}?limit=4")).await;
    let name = |v: &Value| v["metadata"]["name"].as_str().unwrap().to_owned();
    assert_eq!(first["items"].as_array().unwrap().len(), 4);
    assert_eq!(first["metadata"]["remainingItemCount"], 6);
    make(&server, 100..103).await;
    raw(&server, "DELETE", &format!("{MAPS}/m005"), "", Body::empty()).await;
    let mut token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    let kept = token.clone();
    let mut names: Vec<String> = first["items"].as_array().unwrap().iter().map(name).collect();
    while !token.is_empty() {
        let (status, page) = get(&server, &format!("{MAPS}?limit=4&continue={token}")).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        assert_eq!(
            page["metadata"]["resourceVersion"],
            first["metadata"]["resourceVersion"]
        );
        names.extend(page["items"].as_array().unwrap().iter().map(name));
        token = page["metadata"]["continue"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
    }
    let want: Vec<String> = (0..10).map(|n| format!("m{n:03}")).collect();
    assert_eq!(names, want, "what was deleted or made meanwhile does not show");
    make(&server, 200..220).await;
    let (status, answer) = get(&server, &format!("{MAPS}?limit=4&continue={kept}")).await;
    assert_eq!(
        (status, answer["reason"].as_str()),
        (StatusCode::GONE, Some("Expired"))
    );
    // The answer holds a token that goes on with the present state.
    let next = answer["metadata"]["continue"]
        .as_str()
        .unwrap_or_else(|| panic!("{answer}"))
        .to_owned();
    let (status, page) = get(&server, &format!("{MAPS}?limit=2&continue={next}")).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(name(&page["items"][0]), "m004");
    server.shutdown().await;
}

#[tokio::test]
async fn many_watchers_hear_of_everything_in_order() {
    let server = with_window(1000).await;
    let mut watchers = Vec::new();
    for _ in 0..200 {
        let w = raw(
            &server,
            "GET",
            &format!("{MAPS}?watch=1&resourceVersion={}", server.resource_version()),
            "",
            Body::empty(),
        )
        .await;
        watchers.push(w.into_body().into_data_stream());
    }
    make(&server, 0..5).await;
    for (i, w) in watchers.iter_mut().enumerate() {
        let mut text = String::new();
        while text.lines().count() < 5 {
            let chunk = tokio::time::timeout(Duration::from_secs(10), w.next())
                .await
                .unwrap_or_else(|_| panic!("watcher {i} hears of all"));
            text.push_str(std::str::from_utf8(&chunk.unwrap().unwrap()).unwrap());
        }
        let versions: Vec<u64> = text
            .lines()
            .map(|l| {
                serde_json::from_str::<Value>(l).unwrap()["object"]["metadata"]["resourceVersion"]
                    .as_str()
                    .unwrap()
                    .parse()
                    .unwrap()
            })
            .collect();
        assert!(versions.is_sorted(), "in order: {versions:?}");
    }
    server.shutdown().await;
}

#[tokio::test]
async fn bad_input_is_answered_and_bounded() {
    let server = with_window(1000).await;
    let status = async |method: &str, path: &str, media: &str, body: String| {
        raw(&server, method, path, media, body).await.status()
    };
    let big = format!(
        "{{\"metadata\":{{\"name\":\"x\"}},\"data\":{{\"a\":\"{}\"}}}}",
        "x".repeat(10 << 20)
    );
    assert_eq!(
        status("POST", MAPS, "application/json", big).await,
        StatusCode::PAYLOAD_TOO_LARGE
    );
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(
        status("POST", MAPS, "application/json", deep.clone()).await,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(
        status("POST", MAPS, "application/yaml", deep).await,
        StatusCode::BAD_REQUEST
    );
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned()
        + &(b'b'..=b'i')
            .map(|c| {
                let (c, p) = (char::from(c), char::from(c - 1));
                format!("{c}: &{c} [{}]\n", vec![format!("*{p}"); 9].join(","))
            })
            .collect::<String>();
    assert_eq!(
        status("POST", MAPS, "application/yaml", bomb).await,
        StatusCode::BAD_REQUEST
    );
    for body in [
        "",
        "null",
        "[]",
        "7",
        "\"x\"",
        "{\"metadata\": 7}",
        "{\"metadata\": {\"labels\": [1]}}",
        "{\"data\": {\"a\": 1}}",
    ] {
        let got = status("POST", MAPS, "application/json", body.into()).await;
        assert!(got.is_client_error(), "{body}: {got}");
    }
    let labels: serde_json::Map<String, Value> = (0..1000).map(|n| (format!("l{n}"), json!("v"))).collect();
    let (got, _) = post(
        &server,
        MAPS,
        json!({"metadata": {"name": "labelled", "labels": labels}}),
    )
    .await;
    assert_eq!(
        got,
        StatusCode::CREATED,
        "a thousand labels are many, and allowed"
    );
    let (got, listed) = get(&server, &format!("{MAPS}?labelSelector=l999%3Dv")).await;
    assert_eq!(
        (got, listed["items"].as_array().unwrap().len()),
        (StatusCode::OK, 1)
    );
    for query in [
        "labelSelector=((",
        "labelSelector=a%20in%20(",
        "fieldSelector=x",
        "fieldSelector=spec.a%3D1",
        "limit=x",
        "resourceVersion=-1",
        "continue=%00",
        "continue=%C3%A9%C3",
        "timeoutSeconds=99999999999999999999",
    ] {
        let (got, _) = get(&server, &format!("{MAPS}?{query}")).await;
        assert_eq!(got, StatusCode::BAD_REQUEST, "{query}");
    }
    let endless = format!("{MAPS}?watch=1&timeoutSeconds={}", i64::MAX);
    let endless = raw(&server, "GET", &endless, "", Body::empty()).await;
    assert_eq!(endless.status(), StatusCode::OK);
    for path in [
        "/api/v1/namespaces/default/pods/a/b/c/d",
        "/api//v1",
        "/apis/%2e%2e/v1/x",
        "/api/v1/namespaces//configmaps/%00",
    ] {
        let (got, _) = get(&server, path).await;
        assert!(got.is_client_error(), "{path}: {got}");
    }
    for method in ["OPTIONS", "TRACE", "POST"] {
        let got = status(method, "/version", "", String::new()).await;
        assert!(got.is_client_error(), "{method}: {got}");
    }
    let patch = async |media: &str, body: &str| {
        status("PATCH", &format!("{MAPS}/labelled"), media, body.into()).await
    };
    for (media, body) in [
        ("application/json-patch+json", "{}"),
        ("application/json-patch+json", "[{\"op\":\"add\"}]"),
        ("application/merge-patch+json", "[]"),
        (
            "application/merge-patch+json",
            "{\"metadata\":{\"name\":\"other\"}}",
        ),
        ("application/merge-patch+json", "{\"kind\":\"Pod\"}"),
        ("application/strategic-merge-patch+json", "{\"$patch\":\"nope\"}"),
        ("application/apply-patch+yaml", "x: ["),
        ("text/plain", "x"),
    ] {
        let got = patch(media, body).await;
        assert!(got.is_client_error(), "{media} {body}: {got}");
    }
    const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
    let labels = json!({"a": "b"});
    let grown = json!({"metadata": {"name": "grown"}, "spec": {"selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let (got, answer) = post(&server, DEPLOYMENTS, grown).await;
    assert_eq!(got, StatusCode::CREATED, "{answer}");
    let more = json!([{"op": "add", "path": "/spec/template/spec/containers/0/args",
        "value": ["x".repeat(1 << 20)]}]);
    let and_more = json!([{"op": "add", "path": "/spec/template/spec/containers/0/command",
        "value": ["x".repeat(1 << 20)]}]);
    for (patch, wanted) in [(more, StatusCode::OK), (and_more, StatusCode::PAYLOAD_TOO_LARGE)] {
        let (path, media) = (format!("{DEPLOYMENTS}/grown"), "application/json-patch+json");
        let got = status("PATCH", &path, media, patch.to_string()).await;
        assert_eq!(got, wanted, "patches grow no object beyond the bound");
    }
    let twice = json!({"op": "copy", "from": "/metadata", "path": "/metadata/again"});
    let bomb = Value::Array(vec![twice; 64]).to_string();
    assert_eq!(
        patch("application/json-patch+json", &bomb).await,
        StatusCode::BAD_REQUEST
    );
    // And through all of that the server is well.
    let (got, _) = get(&server, "/readyz").await;
    assert_eq!(got, StatusCode::OK);
    make(&server, 0..1).await;
    server.shutdown().await;
}

#[tokio::test]
async fn definitions_that_contradict_themselves_are_refused() {
    let server = with_window(1000).await;
    let crd = |schema: Value| {
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "xs.test.dev"},
            "spec": {"group": "test.dev", "scope": "Namespaced", "names": {"plural": "xs", "kind": "X"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}})
    };
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let mut nested = json!({"type": "string"});
    for _ in 0..200 {
        nested = json!({"type": "object", "properties": {"a": nested}});
    }
    for (what, schema) in [
        (
            "a default out of its enum",
            json!({"type": "object", "properties": {"a": {"type": "string", "enum": ["x"], "default": "y"}}}),
        ),
        (
            "a default of another type",
            json!({"type": "object", "properties": {"a": {"type": "integer", "default": "y"}}}),
        ),
        (
            "an unknown type",
            json!({"type": "object", "properties": {"a": {"type": "text"}}}),
        ),
        ("no type", json!({"type": "object", "properties": {"a": {}}})),
        (
            "a list without items",
            json!({"type": "object", "properties": {"a": {"type": "array"}}}),
        ),
        (
            "a pattern that is none",
            json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}}),
        ),
        (
            "a map list without keys",
            json!({"type": "object", "properties": {"a": {"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object"}}}}),
        ),
        ("another root", json!({"type": "string"})),
    ] {
        let (got, answer) = post(&server, path, crd(schema)).await;
        assert_eq!(got, StatusCode::UNPROCESSABLE_ENTITY, "{what}: {answer}");
    }
    let (got, answer) = post(&server, path, crd(nested)).await;
    assert_eq!(got, StatusCode::BAD_REQUEST, "depth without end: {answer}");
    let (got, _) = post(
        &server,
        path,
        crd(json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})),
    )
    .await;
    assert_eq!(got, StatusCode::CREATED);
    let (got, made) = post(
        &server,
        "/apis/test.dev/v1/namespaces/default/xs",
        json!({"apiVersion": "test.dev/v1", "kind": "X", "metadata": {"name": "x"}, "any": {"thing": [1]}}),
    )
    .await;
    assert_eq!((got, &made["any"]), (StatusCode::CREATED, &json!({"thing": [1]})));
    server.shutdown().await;
}
