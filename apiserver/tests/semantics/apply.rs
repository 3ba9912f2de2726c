//! Server-side apply: owners, conflicts, force, and what goes with its owner.

use serde_json::{Value, json};
use strait_envtest::{older, older_in_part, since};

use crate::under::{Answer, Under};

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data})
}

/// `manager operation` of every entry, and its fields.
fn owners(a: &Answer) -> Vec<(String, Value)> {
    let mut list: Vec<(String, Value)> = a.body["metadata"]["managedFields"]
        .as_array()
        .cloned()
        .unwrap_or_default()
        .iter()
        .map(|m| {
            let text = |k: &str| m[k].as_str().unwrap_or_default();
            let sub = if text("subresource").is_empty() {
                String::new()
            } else {
                format!("/{}", text("subresource"))
            };
            (
                format!("{} {}{sub}", text("manager"), text("operation")),
                m["fieldsV1"].clone(),
            )
        })
        .collect();
    list.sort_by(|a, b| a.0.cmp(&b.0));
    list
}

#[tokio::test]
async fn owners_conflict_share_and_give_up() {
    let u = Under::start().await;
    let path = format!("{}/a", u.path("configmaps"));
    let made = u
        .apply(&path, "one", map(json!({"k": "1", "l": "1"})))
        .await
        .is(201);
    let same = u
        .apply(&path, "one", map(json!({"k": "1", "l": "1"})))
        .await
        .is(200);
    assert_eq!(same.rv(), made.rv(), "applying the same again changes nothing");
    let refused = u
        .apply(&path, "two", map(json!({"k": "2", "l": "2", "m": "2"})))
        .await
        .is(409);
    assert_eq!(
        refused.message(),
        "Apply failed with 2 conflicts: conflicts with \"one\":\n- .data.k\n- .data.l"
    );
    assert_eq!(
        refused.causes(),
        [".data.k: conflict with \"one\"", ".data.l: conflict with \"one\""]
    );
    assert_eq!(refused.text("/details/causes/0/reason"), "FieldManagerConflict");
    // The same value is shared, not fought over.
    let shared = u
        .apply(&path, "two", map(json!({"k": "1", "m": "2"})))
        .await
        .is(200);
    assert_eq!(shared.body["data"], json!({"k": "1", "l": "1", "m": "2"}));
    let kept = u.apply(&path, "one", map(json!({"l": "1"}))).await.is(200);
    assert_eq!(
        kept.body["data"],
        json!({"k": "1", "l": "1", "m": "2"}),
        "two still owns k"
    );
    let forced = u.force(&path, "three", map(json!({"m": "3"}))).await.is(200);
    assert_eq!(forced.body["data"]["m"], "3");
    let fields = |keys: &[&str]| {
        let mut all = serde_json::Map::new();
        for k in keys {
            all.insert(format!("f:{k}"), json!({}));
        }
        json!({"f:data": all})
    };
    assert_eq!(
        owners(&forced),
        [
            ("one Apply".into(), fields(&["l"])),
            ("three Apply".into(), fields(&["m"])),
            ("two Apply".into(), fields(&["k"])),
        ]
    );
    let gone = u
        .apply(
            &path,
            "two",
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}),
        )
        .await
        .is(200);
    assert_eq!(
        gone.body["data"],
        json!({"l": "1", "m": "3"}),
        "what two alone owned is gone"
    );
    u.end().await;
}

#[tokio::test]
async fn updates_own_what_they_change() {
    let u = Under::start().await;
    let path = u.path("configmaps");
    let one = format!("{path}/a");
    u.apply(&one, "one", map(json!({"k": "1", "l": "1"})))
        .await
        .is(201);
    let changed = u
        .merge(&format!("{one}?fieldManager=hand"), json!({"data": {"k": "2"}}))
        .await
        .is(200);
    assert_eq!(
        owners(&changed),
        [
            ("hand Update".into(), json!({"f:data": {"f:k": {}}})),
            ("one Apply".into(), json!({"f:data": {"f:l": {}}}))
        ]
    );
    let refused = u
        .apply(&one, "one", map(json!({"k": "1", "l": "1"})))
        .await
        .is(409);
    assert_eq!(
        refused.message(),
        "Apply failed with 1 conflict: conflict with \"hand\" using v1: .data.k"
    );
    let back = u
        .force(&one, "one", map(json!({"k": "1", "l": "1"})))
        .await
        .is(200);
    assert_eq!(owners(&back).len(), 1, "who owns nothing is not listed");
    // Giving up all ownership.
    let reset = u
        .json_patch(
            &one,
            json!([{"op": "replace", "path": "/metadata/managedFields", "value": [{}]}]),
        )
        .await
        .is(200);
    assert_eq!(owners(&reset).len(), 0);
    u.end().await;
}

#[tokio::test]
async fn kubectl_hands_over_what_it_applied_as_a_client() {
    if older(26, "that the server takes over what kubectl applied as a client") {
        return;
    }
    const NOTE: &str = "kubectl.kubernetes.io/last-applied-configuration";
    let u = Under::start().await;
    let path = u.path("configmaps");
    let one = format!("{path}/a");
    let mut made = map(json!({"k": "1", "l": "1"}));
    made["metadata"]["annotations"] = json!({NOTE: made.to_string()});
    u.post(&format!("{path}?fieldManager=kubectl-client-side-apply"), made)
        .await
        .is(201);
    u.merge(&format!("{one}?fieldManager=hand"), json!({"data": {"l": "2"}}))
        .await
        .is(200);
    // Other managers conflict with the client; kubectl itself only where somebody else came between.
    u.apply(&one, "other", map(json!({"k": "3"}))).await.is(409);
    let refused = u
        .apply(&one, "kubectl", map(json!({"k": "3", "l": "3"})))
        .await
        .is(409);
    assert!(
        refused.message().contains("1 conflict: conflict with \"hand\""),
        "{}",
        refused.message()
    );
    let applied = u.apply(&one, "kubectl", map(json!({"k": "3"}))).await.is(200);
    assert_eq!(applied.body["data"], json!({"k": "3", "l": "2"}));
    let noted: Value =
        serde_json::from_str(applied.body["metadata"]["annotations"][NOTE].as_str().unwrap()).unwrap();
    assert_eq!(noted["data"], json!({"k": "3"}), "the annotation follows");
    // It joins both of its own with a list of its own making.
    let kept: Vec<Value> = applied.body["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|m| m["manager"] != "kubectl-client-side-apply")
        .cloned()
        .collect();
    assert_eq!(kept.len(), 2);
    let patch = |list: &Value| json!([{"op": "replace", "path": "/metadata/managedFields", "value": list}]);
    let joined = u.json_patch(&one, patch(&json!(kept))).await.is(200);
    let names = |a: &Answer| owners(a).into_iter().map(|(n, _)| n).collect::<Vec<_>>();
    assert_eq!(names(&joined), ["hand Update", "kubectl Apply"]);
    // A list that says nothing readable is not taken.
    for nonsense in [
        json!([]),
        json!([{"manager": "x", "operation": "Update", "fieldsType": "FieldsV2", "fieldsV1": {}}]),
    ] {
        let same = u.json_patch(&one, patch(&nonsense)).await.is(200);
        assert_eq!(names(&same), names(&joined), "{nonsense}");
    }
    u.end().await;
}

#[tokio::test]
async fn lists_with_keys_have_owners_item_by_item() {
    let u = Under::start().await;
    let schema = json!({"schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "port": {"type": "integer"}, "proto": {"type": "string", "default": "TCP"}}}},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "atom": {"type": "array", "items": {"type": "string"}},
        "whole": {"type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": {"type": "string"}}}}}}}});
    let widgets = u.define("widgets", "Widget", schema).await;
    let one = format!("{widgets}/w");
    let config = |spec: Value| json!({"apiVersion": format!("{}/v1", u.group), "kind": "Widget", "metadata": {"name": "w"}, "spec": spec});
    u.apply(
        &one,
        "one",
        config(
            json!({"ports": [{"name": "a", "port": 1}], "set": ["x"], "atom": ["p"], "whole": {"k": "1"}}),
        ),
    )
    .await
    .is(201);
    let both = u
        .apply(
            &one,
            "two",
            config(json!({"ports": [{"name": "b", "port": 2}], "set": ["y"]})),
        )
        .await
        .is(200);
    assert_eq!(
        both.body["spec"]["ports"],
        json!([{"name": "a", "port": 1, "proto": "TCP"}, {"name": "b", "port": 2, "proto": "TCP"}])
    );
    assert_eq!(both.body["spec"]["set"], json!(["x", "y"]));
    for (spec, field) in [
        (
            json!({"ports": [{"name": "a", "port": 9}]}),
            ".spec.ports[name=\"a\"].port",
        ),
        (json!({"atom": ["q"]}), ".spec.atom"),
        (json!({"whole": {"l": "2"}}), ".spec.whole"),
    ] {
        let refused = u.apply(&one, "three", config(spec)).await.is(409);
        assert_eq!(
            refused.message(),
            format!("Apply failed with 1 conflict: conflict with \"one\": {field}")
        );
    }
    let fields = owners(&both)
        .into_iter()
        .find(|(m, _)| m == "two Apply")
        .unwrap()
        .1;
    assert_eq!(
        fields,
        json!({"f:spec": {"f:ports": {"k:{\"name\":\"b\"}": {".": {}, "f:name": {}, "f:port": {}}}, "f:set": {"v:\"y\"": {}}}})
    );
    let less = u.apply(&one, "one", config(json!({"set": ["x"]}))).await.is(200);
    assert_eq!(
        less.body["spec"],
        json!({"ports": [{"name": "b", "port": 2, "proto": "TCP"}], "set": ["x", "y"]})
    );
    u.end().await;
}

#[tokio::test]
async fn applies_are_checked_before_they_are_done() {
    let u = Under::start().await;
    let path = format!("{}/a", u.path("configmaps"));
    let made = u.apply(&path, "one", map(json!({"k": "1"}))).await.is(201);
    let mut pinned = map(json!({"k": "2"}));
    pinned["metadata"]["resourceVersion"] = made.rv().into();
    let changed = u.apply(&path, "one", pinned.clone()).await.is(200);
    assert_ne!(changed.rv(), made.rv());
    pinned["data"]["k"] = "3".into();
    u.apply(&path, "one", pinned).await.is(409);
    let mut managed = map(json!({}));
    managed["metadata"]["managedFields"] = json!([{"manager": "x", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {}}]);
    u.apply(&path, "one", managed)
        .await
        .says(400, "BadRequest", "metadata.managedFields must be nil");
    let long = "m".repeat(129);
    assert_eq!(
        u.apply(&path, &long, map(json!({}))).await.is(422).causes(),
        [since(
            32,
            "fieldManager: Too long: may not be more than 128 bytes",
            "fieldManager: Too long: must have at most 128 bytes"
        )]
    );
    let mut other = map(json!({}));
    other["metadata"]["name"] = "b".into();
    u.apply(&path, "one", other).await.is(400);
    u.apply(&path, "one", json!({"metadata": {"name": "a"}}))
        .await
        .is(400);
    // Status has owners of its own.
    let nodes = "/api/v1/nodes";
    let name = u.namespace.clone();
    let node =
        |spec: Value| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": spec});
    u.apply(
        &format!("{nodes}/{name}"),
        "one",
        node(json!({"unschedulable": true})),
    )
    .await
    .is(201);
    let mut status = node(json!({}));
    status["status"] = json!({"conditions": [{"type": "Ready", "status": "True"}]});
    let got = u
        .apply(&format!("{nodes}/{name}/status"), "two", status)
        .await
        .is(200);
    assert!(
        older_in_part(22, "the name of a subresource in managedFields")
            || owners(&got).iter().any(|(m, _)| m == "two Apply/status"),
        "{:?}",
        owners(&got)
    );
    assert_eq!(got.body["spec"]["unschedulable"], true);
    u.delete(&format!("{nodes}/{name}")).await.is(200);
    u.end().await;
}
