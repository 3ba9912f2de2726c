//! The patches: merge, JSON, and strategic with the keys of built-in lists.

use serde_json::{Value, json};
use strait_envtest::{ADMIN_TOKEN, older_in_part, since};

use crate::under::Under;

fn deployment(name: &str) -> Value {
    let labels = json!({"app": name});
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {"replicas": 2,
        "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {"containers": [
            {"name": "web", "image": "web:1", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
             "ports": [{"containerPort": 80}], "args": ["x"]},
            {"name": "side", "image": "side:1"}]}}}})
}

#[tokio::test]
async fn strategic_patches_merge_lists_by_their_keys() {
    let u = Under::start().await;
    let path = u.path("apps/v1/deployments");
    let one = format!("{path}/d");
    u.post(&path, deployment("d")).await.is(201);
    let spec = |containers: Value| json!({"spec": {"template": {"spec": {"containers": containers}}}});
    let got = u
        .strategic(
            &one,
            spec(json!([{"name": "web", "image": "web:2",
        "env": [{"name": "B", "value": "3"}, {"name": "C", "value": "4"}], "args": ["y"]}])),
        )
        .await
        .is(200);
    let containers = &got.body["spec"]["template"]["spec"]["containers"];
    assert_eq!(containers.as_array().unwrap().len(), 2);
    assert_eq!(
        (containers[0]["image"].as_str(), containers[1]["image"].as_str()),
        (Some("web:2"), Some("side:1"))
    );
    assert_eq!(
        containers[0]["env"],
        json!([{"name": "A", "value": "1"}, {"name": "B", "value": "3"}, {"name": "C", "value": "4"}])
    );
    assert_eq!(
        containers[0]["args"],
        json!(["y"]),
        "lists without a key are replaced"
    );
    let got = u
        .strategic(
            &one,
            spec(json!([{"name": "web", "env": [{"name": "A", "$patch": "delete"}],
        "ports": [{"containerPort": 443, "name": "tls"}]}, {"name": "side", "$patch": "delete"}])),
        )
        .await
        .is(200);
    let containers = &got.body["spec"]["template"]["spec"]["containers"];
    assert_eq!(containers.as_array().unwrap().len(), 1);
    assert_eq!(
        containers[0]["env"],
        json!([{"name": "B", "value": "3"}, {"name": "C", "value": "4"}])
    );
    let ports: Vec<i64> = containers[0]["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["containerPort"].as_i64().unwrap())
        .collect();
    assert_eq!(
        {
            let mut p = ports.clone();
            p.sort();
            p
        },
        [80, 443]
    );
    let got = u.strategic(&one, spec(json!([{"name": "web", "$setElementOrder/env": [{"name": "C"}, {"name": "B"}], "env": [{"name": "B", "value": "5"}]}]))).await.is(200);
    let env = &got.body["spec"]["template"]["spec"]["containers"][0]["env"];
    assert_eq!(
        env,
        &json!([{"name": "C", "value": "4"}, {"name": "B", "value": "5"}])
    );
    let got = u
        .strategic(
            &one,
            spec(json!([{"$patch": "replace"}, {"name": "new", "image": "new:1"}])),
        )
        .await
        .is(200);
    assert_eq!(
        got.body["spec"]["template"]["spec"]["containers"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(got.body["metadata"]["generation"], 5);
    u.strategic(&one, json!({"metadata": {"finalizers": ["a.b/c", "d.e/f"]}}))
        .await
        .is(200);
    let got = u
        .strategic(
            &one,
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a.b/c"]}}),
        )
        .await
        .is(200);
    assert_eq!(got.body["metadata"]["finalizers"], json!(["d.e/f"]));
    u.merge(&one, json!({"metadata": {"finalizers": null}}))
        .await
        .is(200);
    let refused = u
        .strategic(&one, spec(json!([{"name": "new", "image": ""}])))
        .await
        .is(422);
    assert_eq!(
        refused.causes(),
        ["spec.template.spec.containers[0].image: Required value"]
    );
    u.end().await;
}

#[tokio::test]
async fn merge_patches_replace_and_remove() {
    let u = Under::start().await;
    let path = u.path("configmaps");
    let one = format!("{path}/a");
    u.post(
        &path,
        json!({"metadata": {"name": "a", "labels": {"x": "1", "y": "2"}}, "data": {"k": "1", "l": "2"}}),
    )
    .await
    .is(201);
    let got = u
        .merge(
            &one,
            json!({"metadata": {"labels": {"x": null, "z": "3"}}, "data": {"k": null, "m": "4"}}),
        )
        .await
        .is(200);
    assert_eq!(
        (&got.body["metadata"]["labels"], &got.body["data"]),
        (&json!({"y": "2", "z": "3"}), &json!({"l": "2", "m": "4"}))
    );
    let same = u.merge(&one, json!({"data": {"m": "4"}})).await.is(200);
    assert_eq!(same.rv(), got.rv());
    let got = u.merge(&one, json!({"data": null})).await.is(200);
    assert!(got.body.get("data").is_none());
    u.merge(&one, json!({"metadata": {"name": "b"}})).await.is(400);
    u.merge(
        &one,
        json!({"metadata": {"resourceVersion": same.rv()}, "data": {"n": "1"}}),
    )
    .await
    .is(409);
    u.merge(
        &one,
        json!({"metadata": {"uid": "00000000-0000-0000-0000-000000000000"}}),
    )
    .await
    .is(422);
    u.merge(&one, json!([])).await.is(since(24, 400, 422));
    u.merge(&format!("{one}?force=true"), json!({})).await.is(422);
    u.end().await;
}

#[tokio::test]
async fn json_patches_do_all_or_nothing() {
    let u = Under::start().await;
    let path = u.path("configmaps");
    let one = format!("{path}/a");
    u.post(
        &path,
        json!({"metadata": {"name": "a", "annotations": {"a/b": "2"}}, "data": {"k": "1"}}),
    )
    .await
    .is(201);
    let got = u
        .json_patch(
            &one,
            json!([
                {"op": "test", "path": "/data/k", "value": "1"},
                {"op": "copy", "from": "/data/k", "path": "/data/l"},
                {"op": "move", "from": "/metadata/annotations/a~1b", "path": "/data/m"},
                {"op": "replace", "path": "/data/k", "value": "9"},
                {"op": "add", "path": "/metadata/labels", "value": {"x": "y"}},
            ]),
        )
        .await
        .is(200);
    assert_eq!(got.body["data"], json!({"k": "9", "l": "1", "m": "2"}));
    for op in [
        json!({"op": "test", "path": "/data/k", "value": "1"}),
        json!({"op": "remove", "path": "/data/nope"}),
        json!({"op": "replace", "path": "/data/nope", "value": "1"}),
    ] {
        if op["op"] == "replace" && older_in_part(24, "refusing to replace what is not there") {
            continue;
        }
        let refused = u
            .json_patch(&one, json!([{"op": "add", "path": "/data/z", "value": "1"}, op]))
            .await;
        assert_eq!(
            (refused.status, refused.reason()),
            (422, "Invalid"),
            "{op}: {}",
            refused.body
        );
    }
    assert_eq!(u.get(&one).await.body, got.body);
    let many: Vec<Value> = vec![json!({"op": "test", "path": "/data/k", "value": "9"}); 10_001];
    let refused = u.json_patch(&one, Value::Array(many)).await;
    assert!(refused.status == 413 || refused.status == 400, "{}", refused.body);
    u.json_patch(&one, json!([{"op": "replace", "path": "/data", "value": [1]}]))
        .await
        .is(422);
    let unknown = u
        .ask(
            ADMIN_TOKEN,
            "PATCH",
            &one,
            &[("content-type", "application/json")],
            b"{}".to_vec(),
        )
        .await;
    assert_eq!((unknown.status, unknown.reason()), (415, "UnsupportedMediaType"));
    u.end().await;
}
