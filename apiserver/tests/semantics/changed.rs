//! Definitions that change under their objects, that end before them, and that want the same names.

use serde_json::{Value, json};
use strait_envtest::older;

use crate::under::Under;

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

fn version(name: &str, served: bool, storage: bool, spec: Value) -> Value {
    json!({"name": name, "served": served, "storage": storage,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}})
}

fn object(u: &Under, version: &str, kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": format!("{}/{version}", u.group), "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// Status, reason and message of a condition.
async fn condition(u: &Under, path: &str, kind: &str) -> Option<(String, String, String)> {
    let crd = u.get(path).await;
    let list = crd.body["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let found = list.into_iter().find(|c| c["type"] == kind)?;
    let text = |k: &str| found[k].as_str().unwrap_or_default().to_owned();
    Some((text("status"), text("reason"), text("message")))
}

#[tokio::test]
async fn objects_outlive_a_schema_that_becomes_stricter() {
    if older(30, "that what is not changed may stay wrong") {
        return;
    }
    let u = Under::start().await;
    let spec = |size: Value, more: Value| {
        let part = json!({"type": "object", "properties": {"id": {"type": "string"}, "n": size}});
        let mut spec = json!({"type": "object", "properties": {
            "size": size, "note": {"type": "string"}, "colour": {"type": "string"},
            "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"],
                "items": {"type": "object", "required": ["id"], "properties": part["properties"]}},
            "sizes": {"type": "object", "additionalProperties": size},
        }});
        for (key, value) in more.as_object().unwrap() {
            spec["properties"][key] = value.clone();
        }
        json!([version("v1", true, true, spec)])
    };
    let number = json!({"type": "integer"});
    let small = json!({"type": "integer", "maximum": 100});
    u.define_versions("widgets", "Widget", spec(number, json!({})))
        .await;
    let path = u.path(&format!("{}/v1/widgets", u.group));
    let old = json!({"size": 500, "colour": "green", "note": "a",
        "parts": [{"id": "a", "n": 500}, {"id": "b", "n": 5}], "sizes": {"a": 500, "b": 5}});
    u.post(&path, object(&u, "v1", "Widget", "w", old.clone()))
        .await
        .is(201);
    let at = format!("{path}/w");
    let strict = json!({"colour": {"type": "string", "enum": ["red", "blue"]},
        "more": {"type": "object", "required": ["x"], "properties": {"x": {"type": "string"}}}});
    u.merge(
        &format!("{CRDS}/widgets.{}", u.group),
        json!({"spec": {"versions": spec(small, strict)}}),
    )
    .await
    .is(200);
    u.until("new objects are held to it", async || {
        let dry = format!("{path}?dryRun=All");
        u.post(&dry, object(&u, "v1", "Widget", "new", json!({"size": 500})))
            .await
            .status
            == 422
    })
    .await;
    assert_eq!(
        u.get(&at).await.is(200).body["spec"],
        old,
        "it reads as it was written"
    );
    assert_eq!(u.get(&path).await.names(), ["w"]);
    // What is changed has to be right; what is not may stay.
    u.merge(&at, json!({"metadata": {"labels": {"x": "y"}}}))
        .await
        .is(200);
    u.merge(&at, json!({"spec": {"note": "b"}})).await.is(200);
    let much = "should be less than or equal to 100";
    for (patch, cause) in [
        (
            json!({"size": 501}),
            format!("spec.size: Invalid value: 501: spec.size in body {much}"),
        ),
        (
            json!({"colour": "grey"}),
            "spec.colour: Unsupported value: \"grey\": supported values: \"red\", \"blue\"".into(),
        ),
        (
            json!({"sizes": {"a": 501}}),
            format!("spec.sizes.a: Invalid value: 501: spec.sizes.a in body {much}"),
        ),
        (
            json!({"sizes": {"c": 500}}),
            format!("spec.sizes.c: Invalid value: 500: spec.sizes.c in body {much}"),
        ),
        (json!({"more": {}}), "spec.more.x: Required value".into()),
        (
            json!({"parts": [{"id": "c", "n": 500}, {"id": "a", "n": 500}]}),
            format!("spec.parts[0].n: Invalid value: 500: spec.parts[0].n in body {much}"),
        ),
    ] {
        let refused = u.merge(&at, json!({"spec": patch})).await.is(422);
        assert_eq!((refused.reason(), refused.causes()), ("Invalid", vec![cause]));
    }
    // Beside what is wrong already, in another order, and towards what is right.
    for patch in [
        json!({"sizes": {"b": 6}}),
        json!({"parts": [{"id": "b", "n": 6}, {"id": "a", "n": 500}, {"id": "c", "n": 7}]}),
        json!({"colour": "red"}),
        json!({"size": 50}),
    ] {
        u.merge(&at, json!({"spec": patch})).await.is(200);
    }
    let again = u.merge(&at, json!({"spec": {"size": 500}})).await.is(422);
    assert_eq!(
        again.causes(),
        [format!("spec.size: Invalid value: 500: spec.size in body {much}")]
    );
    u.end().await;
}

#[tokio::test]
async fn versions_and_names_change_and_what_is_stored_stays() {
    let u = Under::start().await;
    let spec = json!({"type": "object", "properties": {"size": {"type": "integer"}}});
    let versions = |a: (bool, bool), b: (bool, bool)| {
        json!([
            version("v1alpha1", a.0, a.1, spec.clone()),
            version("v1", b.0, b.1, spec.clone())
        ])
    };
    u.define_versions("widgets", "Widget", versions((true, true), (true, false)))
        .await;
    let path = |v: &str| u.path(&format!("{}/{v}/widgets", u.group));
    let name = format!("{CRDS}/widgets.{}", u.group);
    u.post(
        &path("v1alpha1"),
        object(&u, "v1alpha1", "Widget", "old", json!({"size": 1})),
    )
    .await
    .is(201);
    let moved = u
        .merge(
            &name,
            json!({"spec": {"versions": versions((true, false), (true, true))}}),
        )
        .await
        .is(200);
    assert_eq!(moved.body["status"]["storedVersions"], json!(["v1alpha1", "v1"]));
    u.merge(
        &name,
        json!({"spec": {"versions": versions((false, false), (true, true))}}),
    )
    .await
    .is(200);
    u.until("the version is not served any more", async || {
        u.get(&path("v1alpha1")).await.status == 404
    })
    .await;
    u.get(&format!("{}/old", path("v1alpha1"))).await.is(404);
    let read = u.get(&format!("{}/old", path("v1"))).await.is(200);
    assert_eq!(
        (read.text("/apiVersion"), &read.body["spec"]),
        (format!("{}/v1", u.group), &json!({"size": 1}))
    );
    u.merge(&format!("{}/old", path("v1")), json!({"spec": {"size": 2}}))
        .await
        .is(200);
    let group = u.get(&format!("/apis/{}", u.group)).await.is(200);
    assert_eq!(group.body["versions"].as_array().unwrap().len(), 1);
    // What may not change once it is served.
    for (patch, field, value) in [
        (json!({"scope": "Cluster"}), "spec.scope", "\"Cluster\""),
        (
            json!({"names": {"kind": "Gadget"}}),
            "spec.names.kind",
            "\"Gadget\"",
        ),
        (json!({"group": "other.dev"}), "spec.group", "\"other.dev\""),
        (
            json!({"names": {"plural": "gadgets"}}),
            "spec.names.plural",
            "\"gadgets\"",
        ),
    ] {
        let refused = u.merge(&name, json!({"spec": patch})).await.is(422);
        assert_eq!(refused.reason(), "Invalid");
        let cause = format!("{field}: Invalid value: {value}: field is immutable");
        assert!(refused.causes().contains(&cause), "{:?}", refused.causes());
    }
    u.merge(
        &name,
        json!({"spec": {"names": {"shortNames": ["wd"], "singular": "widgie", "categories": ["all-of-it"]}}}),
    )
    .await
    .is(200);
    u.until("the new names are shown", async || {
        let resources = u.get(&format!("/apis/{}/v1", u.group)).await.body["resources"][0].clone();
        resources["shortNames"] == json!(["wd"])
            && resources["singularName"] == "widgie"
            && resources["categories"] == json!(["all-of-it"])
    })
    .await;
    u.end().await;
}

#[tokio::test]
async fn a_definition_ends_after_its_objects() {
    let u = Under::start().await;
    let path = u.define("widgets", "Widget", crate::open()).await;
    let name = format!("{CRDS}/widgets.{}", u.group);
    for (n, finalizers) in [("free", json!([])), ("held", json!(["test.dev/hold"]))] {
        let mut widget = object(&u, "v1", "Widget", n, json!({}));
        widget["metadata"]["finalizers"] = finalizers;
        u.post(&path, widget).await.is(201);
    }
    u.delete(&name).await.is(200);
    u.until("all goes that may", async || {
        u.get(&path).await.names() == ["held"]
    })
    .await;
    let crd = u.get(&name).await.is(200);
    assert!(!crd.text("/metadata/deletionTimestamp").is_empty());
    assert_eq!(
        crd.body["metadata"]["finalizers"],
        json!(["customresourcecleanup.apiextensions.k8s.io"])
    );
    assert_eq!(condition(&u, &name, "Terminating").await.unwrap().0, "True");
    let held = u.get(&format!("{path}/held")).await.is(200);
    assert!(!held.text("/metadata/deletionTimestamp").is_empty());
    let refusal = "create not allowed while custom resource definition is terminating";
    u.until("nothing new is taken", async || {
        let dry = format!("{path}?dryRun=All");
        u.post(&dry, object(&u, "v1", "Widget", "new", json!({})))
            .await
            .status
            == 405
    })
    .await;
    u.post(&path, object(&u, "v1", "Widget", "new", json!({})))
        .await
        .says(405, "MethodNotAllowed", refusal);
    // An apply is a patch, also where it makes something.
    let new = format!("{path}/new");
    u.apply(&new, "me", object(&u, "v1", "Widget", "new", json!({})))
        .await
        .is(201);
    let gone = u.delete(&new).await;
    assert!(
        [200, 404].contains(&gone.status),
        "it may be gone already: {}",
        gone.body
    );
    // A second deletion changes nothing, and updates still go through.
    u.delete(&name).await.is(200);
    u.merge(&format!("{path}/held"), json!({"spec": {"a": 1}}))
        .await
        .is(200);
    u.merge(&format!("{path}/held"), json!({"metadata": {"finalizers": null}}))
        .await
        .is(200);
    u.until("the definition goes with its last object", async || {
        u.get(&name).await.status == 404
    })
    .await;
    u.until("the kind is gone", async || u.get(&path).await.status == 404)
        .await;
    // A new definition of the name begins without objects.
    let path = u.define("widgets", "Widget", crate::open()).await;
    assert!(u.get(&path).await.is(200).names().is_empty());
    u.end().await;
}

#[tokio::test]
async fn of_two_definitions_with_the_same_names_the_first_is_served() {
    let u = Under::start().await;
    let open = || {
        let mut v = crate::open();
        v["name"] = "v1".into();
        v["served"] = true.into();
        v["storage"] = true.into();
        json!([v])
    };
    let with = |plural: &str, kind: &str, singular: &str, short: Value| {
        let mut crd = u.crd(plural, kind, open());
        crd["spec"]["names"]["singular"] = singular.into();
        crd["spec"]["names"]["shortNames"] = short;
        crd
    };
    let name = |plural: &str| format!("{CRDS}/{plural}.{}", u.group);
    let accepted = async |plural: &str, wanted: (&str, &str, &str)| {
        let wanted = (wanted.0.to_owned(), wanted.1.to_owned(), wanted.2.to_owned());
        u.until(&format!("{plural}: {wanted:?}"), async || {
            condition(&u, &name(plural), "NamesAccepted").await.as_ref() == Some(&wanted)
        })
        .await;
    };
    let fine = ("True", "NoConflicts", "no conflicts found");
    u.post(CRDS, with("widgets", "Widget", "widget", json!(["wd", "wg"])))
        .await
        .is(201);
    accepted("widgets", fine).await;
    u.post(CRDS, with("gadgets", "Gadget", "widget", json!([])))
        .await
        .is(201);
    accepted(
        "gadgets",
        ("False", "SingularConflict", "\"widget\" is already in use"),
    )
    .await;
    u.post(CRDS, with("gizmos", "Gizmo", "gizmo", json!(["gz", "wg"])))
        .await
        .is(201);
    accepted(
        "gizmos",
        ("False", "ShortNamesConflict", "\"wg\" is already in use"),
    )
    .await;
    for plural in ["gadgets", "gizmos"] {
        let established = condition(&u, &name(plural), "Established").await.unwrap();
        assert_eq!(
            established,
            (
                "False".into(),
                "NotAccepted".into(),
                "not all names are accepted".into()
            )
        );
        u.get(&u.path(&format!("{}/v1/{plural}", u.group))).await.is(404);
    }
    let names = u.get(&name("gizmos")).await.body["status"]["acceptedNames"].clone();
    assert_eq!(
        (&names["plural"], &names["kind"], &names["shortNames"]),
        (&json!("gizmos"), &json!("Gizmo"), &Value::Null)
    );
    // What is not served yet may still become another kind, and be served then.
    let other =
        json!({"spec": {"names": {"kind": "Gimmick", "listKind": "GimmickList", "shortNames": ["gz"]}}});
    u.merge(&name("gizmos"), other).await.is(200);
    accepted("gizmos", fine).await;
    u.until("it is served", async || {
        u.get(&u.path(&format!("{}/v1/gizmos", u.group))).await.status == 200
    })
    .await;
    // What is served is served on, under the names that it has.
    u.merge(
        &name("gizmos"),
        json!({"spec": {"names": {"shortNames": ["gz", "wd"]}}}),
    )
    .await
    .is(200);
    accepted(
        "gizmos",
        ("False", "ShortNamesConflict", "\"wd\" is already in use"),
    )
    .await;
    assert_eq!(
        condition(&u, &name("gizmos"), "Established").await.unwrap().0,
        "True"
    );
    u.get(&u.path(&format!("{}/v1/gizmos", u.group))).await.is(200);
    let names = u.get(&name("gizmos")).await.body["status"]["acceptedNames"].clone();
    assert_eq!(names["shortNames"], json!(["gz"]));
    // Names that are given up, or whose definition goes, are free.
    u.merge(
        &name("widgets"),
        json!({"spec": {"names": {"shortNames": ["wg"]}}}),
    )
    .await
    .is(200);
    accepted("gizmos", fine).await;
    u.delete(&name("widgets")).await.is(200);
    accepted("gadgets", fine).await;
    u.end().await;
}
