//! Definitions: versions, defaults, pruning, validation, names, and what they may not say.

use serde_json::{Value, json};
use strait_envtest::since;

use crate::under::Under;

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

fn schema(properties: Value) -> Value {
    json!({"schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}}}})
}

fn widget(u: &Under, version: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": format!("{}/{version}", u.group), "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

fn version(name: &str, storage: bool, mut version: Value) -> Value {
    version["name"] = name.into();
    version["served"] = true.into();
    version["storage"] = storage.into();
    version
}

#[tokio::test]
async fn versions_are_the_same_objects() {
    let u = Under::start().await;
    let small = schema(json!({"size": {"type": "integer", "default": 3}}));
    let big = schema(json!({"size": {"type": "integer"}, "colour": {"type": "string", "default": "red"}}));
    u.define_versions(
        "widgets",
        "Widget",
        json!([
            version("v1beta1", false, small.clone()),
            version("v1", true, big.clone())
        ]),
    )
    .await;
    let path = |v: &str| u.path(&format!("{}/{v}/widgets", u.group));
    let made = u
        .post(
            &path("v1beta1"),
            widget(&u, "v1beta1", "w", json!({"colour": "blue"})),
        )
        .await
        .is(201);
    assert_eq!(
        made.body["spec"],
        json!({"size": 3}),
        "pruned and defaulted by its own version"
    );
    assert_eq!(made.body["apiVersion"], format!("{}/v1beta1", u.group).as_str());
    let other = u.get(&format!("{}/w", path("v1"))).await.is(200);
    assert_eq!(other.body["apiVersion"], format!("{}/v1", u.group).as_str());
    assert_eq!(
        other.body["spec"],
        json!({"size": 3, "colour": "red"}),
        "defaults apply when reading too"
    );
    assert_eq!(
        (other.rv(), other.text("/metadata/uid")),
        (made.rv(), made.text("/metadata/uid"))
    );
    let mut watch = u
        .watch(&format!(
            "{}?watch=1&resourceVersion={}",
            path("v1beta1"),
            made.rv()
        ))
        .await;
    u.merge(&format!("{}/w", path("v1")), json!({"spec": {"size": 4}}))
        .await
        .is(200);
    let event = watch.next().await.unwrap();
    assert_eq!(
        (
            event["object"]["apiVersion"].as_str(),
            event["object"]["spec"]["size"].as_i64()
        ),
        (Some(format!("{}/v1beta1", u.group).as_str()), Some(4))
    );
    // A version that is stored has to stay.
    let name = format!("{CRDS}/widgets.{}", u.group);
    let stored = u.get(&name).await;
    assert_eq!(stored.body["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(stored.body["spec"]["conversion"], json!({"strategy": "None"}));
    let moved = u.merge(&name, json!({"spec": {"versions": [version("v1beta1", true, small.clone()), version("v1", false, big.clone())]}})).await.is(200);
    assert_eq!(moved.body["status"]["storedVersions"], json!(["v1", "v1beta1"]));
    let refused = u
        .merge(
            &name,
            json!({"spec": {"versions": [version("v1beta1", true, small)]}}),
        )
        .await
        .is(422);
    assert_eq!(
        refused.causes(),
        [since(
            31,
            "status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions; v1 was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in v1 and removes v1 from status.storedVersions",
            "status.storedVersions[0]: Invalid value: \"v1\": must appear in spec.versions"
        )]
    );
    u.delete(&name).await.is(200);
    u.until("the kind is gone", async || {
        u.get(&path("v1")).await.status == 404
    })
    .await;
    u.end().await;
}

#[tokio::test]
async fn values_are_checked_in_the_usual_words() {
    let u = Under::start().await;
    let path = u.define("widgets", "Widget", schema(json!({
        "size": {"type": "integer", "minimum": 1, "maximum": 9, "exclusiveMaximum": true, "multipleOf": 2},
        "name": {"type": "string", "minLength": 2, "maxLength": 4, "pattern": "^[a-z]+$"},
        "kind": {"type": "string", "enum": ["a", "b"]},
        "list": {"type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "string"}},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "map": {"type": "object", "minProperties": 1, "maxProperties": 2, "additionalProperties": {"type": "integer"}},
        "port": {"x-kubernetes-int-or-string": true},
        "null": {"type": "string", "nullable": true},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "time": {"type": "string", "format": "date-time"},
        "needs": {"type": "object", "required": ["x"], "properties": {"x": {"type": "string"}}},
        "deep": {"type": "object", "default": {}, "properties": {"a": {"type": "string", "default": "d"}, "b": {"type": "boolean", "default": false}}},
    }))).await;
    let ok = u.post(&path, widget(&u, "v1", "ok", json!({"size": 2, "port": "http", "null": null, "free": {"any": [1]}, "time": "2026-01-01T00:00:00Z"}))).await.is(201);
    assert_eq!(
        ok.body["spec"],
        json!({"size": 2, "port": "http", "null": null, "free": {"any": [1]}, "time": "2026-01-01T00:00:00Z", "deep": {"a": "d", "b": false}})
    );
    for (spec, want) in [
        (
            json!({"size": 0}),
            "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1",
        ),
        (
            json!({"size": 10}),
            "spec.size: Invalid value: 10: spec.size in body should be less than 9",
        ),
        (
            json!({"size": 3}),
            "spec.size: Invalid value: 3: spec.size in body should be a multiple of 2",
        ),
        (
            json!({"size": "x"}),
            "spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \"string\"",
        ),
        (
            json!({"size": 1.5}),
            "spec.size: Invalid value: \"number\": spec.size in body must be of type integer: \"number\"",
        ),
        (
            json!({"name": "x"}),
            "spec.name: Invalid value: \"x\": spec.name in body should be at least 2 chars long",
        ),
        (
            json!({"name": "abcde"}),
            since(
                24,
                since(
                    32,
                    "spec.name: Too long: may not be more than 4 bytes",
                    "spec.name: Too long: may not be longer than 4",
                ),
                "spec.name: Invalid value: \"abcde\": spec.name in body should be at most 4 chars long",
            ),
        ),
        (
            json!({"name": "A1"}),
            "spec.name: Invalid value: \"A1\": spec.name in body should match '^[a-z]+$'",
        ),
        (
            json!({"kind": "c"}),
            "spec.kind: Unsupported value: \"c\": supported values: \"a\", \"b\"",
        ),
        (
            json!({"list": []}),
            "spec.list: Invalid value: 0: spec.list in body should have at least 1 items",
        ),
        (
            json!({"list": ["a", "b", "c"]}),
            since(
                24,
                "spec.list: Too many: 3: must have at most 2 items",
                "spec.list: Invalid value: 3: spec.list in body should have at most 2 items",
            ),
        ),
        (json!({"set": ["a", "a"]}), "spec.set[1]: Duplicate value: \"a\""),
        (
            json!({"map": {"a": "x"}}),
            "spec.map.a: Invalid value: \"string\": spec.map.a in body must be of type integer: \"string\"",
        ),
        (
            json!({"map": {"a": 1, "b": 2, "c": 3}}),
            since(
                24,
                "spec.map: Too many: 3: must have at most 2 items",
                "spec.map: Invalid value: 2: spec.map in body should have at most 2 properties",
            ),
        ),
        (
            json!({"port": true}),
            "spec.port: Invalid value: \"boolean\": spec.port in body must be of type integer,string: \"boolean\"",
        ),
        (
            json!({"time": "noon"}),
            "spec.time: Invalid value: \"noon\": spec.time in body must be of type date-time: \"noon\"",
        ),
        (json!({"needs": {}}), "spec.needs.x: Required value"),
        (
            json!({"list": ["a", null]}),
            since(
                24,
                "spec.list[1]: Invalid value: \"null\": spec.list[1] in body must be of type string: \"null\"",
                "spec.list: Invalid value: \"null\": spec.list in body must be of type string: \"null\"",
            ),
        ),
    ] {
        let refused = u.post(&path, widget(&u, "v1", "bad", spec.clone())).await.is(422);
        assert!(
            refused.causes().iter().any(|c| c == want),
            "{spec}: {:#?}",
            refused.causes()
        );
        assert_eq!(
            (refused.reason(), refused.text("/details/kind").as_str()),
            ("Invalid", "Widget")
        );
    }
    // Where null is no value it is taken for none.
    let made = u
        .post(
            &path,
            widget(
                &u,
                "v1",
                "nulls",
                json!({"kind": null, "map": {"a": null, "b": 1}}),
            ),
        )
        .await
        .is(201);
    assert_eq!(
        (made.body["spec"].get("kind"), &made.body["spec"]["map"]),
        (None, &json!({"b": 1}))
    );
    let typed = u
        .post(
            &path,
            json!({"apiVersion": format!("{}/v2", u.group), "kind": "Widget", "metadata": {"name": "x"}}),
        )
        .await
        .is(400);
    assert_eq!(
        typed.message(),
        format!(
            "the API version in the data ({0}/v2) does not match the expected API version ({0}/v1)",
            u.group
        )
    );
    u.end().await;
}

#[tokio::test]
async fn definitions_that_contradict_themselves_are_refused_by_their_field() {
    let u = Under::start().await;
    // All versions have it in common: there is one.
    let at = "spec.validation.openAPIV3Schema";
    let a = json!({"type": "string"});
    for (schema, want) in [
        (
            json!({"type": "string"}),
            format!("{at}.type: Invalid value: \"string\": must be object at the root"),
        ),
        (
            json!({"type": "object", "properties": {"a": {}}}),
            format!("{at}.properties[a].type: Required value: must not be empty for specified object fields"),
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "array"}}}),
            format!("{at}.properties[a].items: Required value: must be specified"),
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "array", "items": {}}}}),
            format!(
                "{at}.properties[a].items.type: Required value: must not be empty for specified array items"
            ),
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "text"}}}),
            format!(
                "{at}.properties[a].type: Unsupported value: \"text\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\""
            ),
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "object", "properties": {"b": a}, "additionalProperties": a}}}),
            format!(
                "{at}.properties[a].additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive"
            ),
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string", "x-kubernetes-list-type": "set"}}}),
            format!(
                "{at}.properties[a].type: Invalid value: \"string\": must be array if x-kubernetes-list-type is specified"
            ),
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "map"}}}),
            format!(
                "{at}.properties[a].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map"
            ),
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string", "x-kubernetes-map-type": "atomic"}}}),
            format!(
                "{at}.properties[a].type: Invalid value: \"string\": must be object if x-kubernetes-map-type is specified"
            ),
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "object", "x-kubernetes-int-or-string": true, "x-kubernetes-preserve-unknown-fields": true}}}),
            format!(
                "{at}.properties[a].x-kubernetes-preserve-unknown-fields: Invalid value: true: must be false if x-kubernetes-int-or-string is true"
            ),
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string", "uniqueItems": true}}}),
            format!(
                "{at}.properties[a].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
            ),
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string", "anyOf": [{"type": "string"}]}}}),
            format!("{at}.properties[a].anyOf[0].type: Forbidden: must be empty to be structural"),
        ),
        (
            json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}}),
            format!(
                "{at}.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified"
            ),
        ),
    ] {
        let refused = u
            .post(
                CRDS,
                u.crd(
                    "bads",
                    "Bad",
                    json!([version(
                        "v1",
                        true,
                        json!({"schema": {"openAPIV3Schema": schema}})
                    )]),
                ),
            )
            .await
            .is(422);
        assert!(
            refused.causes().contains(&want),
            "{want}: {:#?}",
            refused.causes()
        );
    }
    let ok = json!({"schema": {"openAPIV3Schema": {"type": "object"}}});
    let two = u.crd(
        "bads",
        "Bad",
        json!([version("v1", true, ok.clone()), version("v2", true, ok.clone())]),
    );
    let refused = u.post(CRDS, two).await.is(422);
    assert!(
        refused
            .causes()
            .iter()
            .any(|c| c.ends_with("must have exactly one version marked as storage version")),
        "{:?}",
        refused.causes()
    );
    let twice = u.crd(
        "bads",
        "Bad",
        json!([version("v1", true, ok.clone()), version("v1", false, ok.clone())]),
    );
    let refused = u.post(CRDS, twice).await.is(422);
    assert!(
        refused
            .causes()
            .iter()
            .any(|c| c.ends_with("must contain unique version names")),
        "{:?}",
        refused.causes()
    );
    let defaulted = json!({"schema": {"openAPIV3Schema": {"type": "object", "properties": {"a": {"type": "integer", "default": "x"}}}}});
    let refused = u
        .post(
            CRDS,
            u.crd("bads", "Bad", json!([version("v1", true, defaulted)])),
        )
        .await
        .is(422);
    assert!(
        refused.causes()[0].starts_with(&format!("{at}.properties[a].default: Invalid value: \"string\"")),
        "{:?}",
        refused.causes()
    );
    u.get(&format!("{CRDS}/bads.{}", u.group)).await.is(404);
    u.end().await;
}

#[tokio::test]
async fn names_that_are_taken_are_not_accepted() {
    let u = Under::start().await;
    u.define("widgets", "Widget", crate::open()).await;
    let mut second = u.crd("gadgets", "Widget", json!([version("v1", true, crate::open())]));
    second["spec"]["names"]["listKind"] = "GadgetList".into();
    u.post(CRDS, second).await.is(201);
    let path = format!("{CRDS}/gadgets.{}", u.group);
    let condition = async |kind: &str| {
        let crd = u.get(&path).await;
        let list = crd.body["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        list.into_iter()
            .find(|c| c["type"] == kind)
            .map(|c| (c["status"].clone(), c["reason"].clone(), c["message"].clone()))
    };
    u.until("the names are refused", async || {
        condition("NamesAccepted").await.is_some()
    })
    .await;
    assert_eq!(
        condition("NamesAccepted").await,
        Some((
            json!("False"),
            json!("KindConflict"),
            json!("\"Widget\" is already in use")
        ))
    );
    assert_eq!(
        condition("Established").await.map(|c| (c.0, c.1)),
        Some((json!("False"), json!("NotAccepted")))
    );
    u.get(&u.path(&format!("{}/v1/gadgets", u.group))).await.is(404);
    // The names become free.
    u.delete(&format!("{CRDS}/widgets.{}", u.group)).await.is(200);
    u.until("the names are accepted", async || {
        condition("Established").await.is_some_and(|c| c.0 == "True")
    })
    .await;
    u.until("the kind is served", async || {
        u.get(&u.path(&format!("{}/v1/gadgets", u.group))).await.status == 200
    })
    .await;
    u.end().await;
}

#[tokio::test]
async fn custom_objects_have_a_scale_and_columns() {
    let u = Under::start().await;
    let mut v = schema(json!({"n": {"type": "integer"}, "at": {"type": "string"}}));
    v["schema"]["openAPIV3Schema"]["properties"]["status"] =
        json!({"type": "object", "properties": {"n": {"type": "integer"}, "sel": {"type": "string"}}});
    v["subresources"] = json!({"status": {}, "scale": {"specReplicasPath": ".spec.n", "statusReplicasPath": ".status.n", "labelSelectorPath": ".status.sel"}});
    v["additionalPrinterColumns"] = json!([{"name": "N", "type": "integer", "jsonPath": ".spec.n"}, {"name": "Since", "type": "date", "jsonPath": ".metadata.creationTimestamp", "priority": 1}]);
    let path = u.define("widgets", "Widget", v).await;
    u.post(&path, widget(&u, "v1", "w", json!({"n": 2})))
        .await
        .is(201);
    u.merge(
        &format!("{path}/w/status"),
        json!({"status": {"n": 1, "sel": "a=b"}}),
    )
    .await
    .is(200);
    let scale = u.get(&format!("{path}/w/scale")).await.is(200);
    assert_eq!(
        (scale.text("/kind").as_str(), scale.text("/apiVersion").as_str()),
        ("Scale", "autoscaling/v1")
    );
    assert_eq!(
        (&scale.body["spec"], &scale.body["status"]),
        (
            &json!({"replicas": 2}),
            &json!({"replicas": 1, "selector": "a=b"})
        )
    );
    u.merge(&format!("{path}/w/scale"), json!({"spec": {"replicas": 7}}))
        .await
        .is(200);
    let after = u.get(&format!("{path}/w")).await;
    assert_eq!(
        (&after.body["spec"]["n"], &after.body["metadata"]["generation"]),
        (&json!(7), &json!(2))
    );
    let table = u
        .get_as(&path, "application/json;as=Table;g=meta.k8s.io;v=v1")
        .await;
    let columns: Vec<(&str, i64)> = table.body["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["name"].as_str().unwrap(), c["priority"].as_i64().unwrap()))
        .collect();
    assert_eq!(columns, [("Name", 0), ("N", 0), ("Since", 1)]);
    assert_eq!(table.body["rows"][0]["cells"][1], 7);
    u.end().await;
}
