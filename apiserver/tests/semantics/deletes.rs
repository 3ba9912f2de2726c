//! Deletion: preconditions, what becomes of dependents, collections, namespaces.

use serde_json::{Value, json};
use strait_envtest::{older_in_part, since};

use crate::under::Under;

async fn made(u: &Under, name: &str, owners: &[(&str, &str)], finalizers: Value) -> String {
    let references: Vec<Value> = owners
        .iter()
        .map(|(n, uid)| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": n, "uid": uid, "blockOwnerDeletion": true}))
        .collect();
    let map = json!({"metadata": {"name": name, "ownerReferences": references, "finalizers": finalizers}});
    u.post(&u.path("configmaps"), map)
        .await
        .is(201)
        .text("/metadata/uid")
}

async fn gone(u: &Under, name: &str) {
    let path = format!("{}/{name}", u.path("configmaps"));
    u.until(&format!("{name} is gone"), async || {
        u.get(&path).await.status == 404
    })
    .await;
}

#[tokio::test]
async fn preconditions_hold_or_refuse() {
    let u = Under::start().await;
    let uid = made(&u, "a", &[], json!([])).await;
    let path = format!("{}/a", u.path("configmaps"));
    let rv = u.get(&path).await.rv();
    let with = |p: Value| json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": p});
    let refused = u.delete_with(&path, with(json!({"uid": "x"}))).await;
    refused.says(409, "Conflict", &format!("Operation cannot be fulfilled on ConfigMap \"a\": the UID in the precondition (x) does not match the UID in record ({uid}). The object might have been deleted and then recreated"));
    let refused = u.delete_with(&path, with(json!({"resourceVersion": "1"}))).await;
    refused.says(409, "Conflict", &format!("Operation cannot be fulfilled on ConfigMap \"a\": the ResourceVersion in the precondition (1) does not match the ResourceVersion in record ({rv}). The object might have been modified"));
    for (options, why) in [
        (
            json!({"propagationPolicy": "Sideways"}),
            "propagationPolicy: Unsupported value: \"Sideways\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"",
        ),
        (
            json!({"propagationPolicy": "Orphan", "orphanDependents": true}),
            "propagationPolicy: Invalid value: \"Orphan\": orphanDependents and deletionPropagation cannot be both set",
        ),
        (
            json!({"dryRun": ["Some"]}),
            since(
                31,
                "dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"",
                "dryRun: Unsupported value: []string{\"Some\"}: supported values: \"All\"",
            ),
        ),
    ] {
        let refused = u.delete_with(&path, options).await.is(422);
        assert_eq!(refused.causes(), [why]);
        assert_eq!(refused.text("/details/kind"), "DeleteOptions");
    }
    let done = u
        .delete_with(&path, with(json!({"uid": uid, "resourceVersion": rv})))
        .await
        .is(200);
    assert_eq!(
        (done.text("/status"), done.text("/details/uid")),
        ("Success".into(), uid)
    );
    u.delete(&path)
        .await
        .says(404, "NotFound", "configmaps \"a\" not found");
    // Some kinds answer the object.
    let services = u.path("services");
    u.post(
        &services,
        json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}),
    )
    .await
    .is(201);
    assert_eq!(
        u.delete(&format!("{services}/s")).await.is(200).text("/kind"),
        since(23, "Service", "Status")
    );
    u.end().await;
}

#[tokio::test]
async fn collections_go_by_selector() {
    let u = Under::start().await;
    let path = u.path("configmaps");
    for (name, label) in [("a", "x"), ("b", "x"), ("c", "y")] {
        u.post(&path, json!({"metadata": {"name": name, "labels": {"l": label}}}))
            .await
            .is(201);
    }
    let dry = u
        .delete(&format!("{path}?labelSelector=l%3Dx&dryRun=All"))
        .await
        .is(200);
    assert_eq!(dry.names(), ["a", "b"]);
    assert_eq!(
        u.get(&format!("{path}?labelSelector=l")).await.names(),
        ["a", "b", "c"]
    );
    let done = u.delete(&format!("{path}?labelSelector=l%3Dx")).await.is(200);
    assert_eq!(
        (done.text("/kind"), done.names()),
        ("ConfigMapList".into(), vec!["a".to_owned(), "b".into()])
    );
    assert_eq!(u.get(&format!("{path}?labelSelector=l")).await.names(), ["c"]);
    u.delete(&format!("{path}?fieldSelector=metadata.name%3Dc"))
        .await
        .is(200);
    assert_eq!(
        u.get(&format!("{path}?labelSelector=l")).await.names(),
        Vec::<String>::new()
    );
    u.delete("/api/v1/namespaces").await.is(405);
    u.end().await;
}

#[tokio::test]
async fn dependents_go_stay_or_go_first() {
    let u = Under::start().await;
    if u.lacks_controllers("dependents_go_stay_or_go_first") {
        return u.end().await;
    }
    let path = |name: &str| format!("{}/{name}", u.path("configmaps"));
    let uid = made(&u, "o1", &[], json!([])).await;
    made(&u, "k1", &[("o1", &uid)], json!([])).await;
    u.delete(&path("o1")).await.is(200);
    gone(&u, "k1").await;

    let uid = made(&u, "o2", &[], json!([])).await;
    made(&u, "k2", &[("o2", &uid)], json!(["test.dev/hold"])).await;
    let waits = u
        .delete_with(&path("o2"), json!({"propagationPolicy": "Foreground"}))
        .await
        .is(200);
    assert_eq!(
        waits.body["metadata"]["finalizers"],
        json!(["foregroundDeletion"])
    );
    u.until("the dependent is being deleted", async || {
        !u.get(&path("k2"))
            .await
            .text("/metadata/deletionTimestamp")
            .is_empty()
    })
    .await;
    u.get(&path("o2")).await.is(200);
    u.merge(&path("k2"), json!({"metadata": {"finalizers": null}}))
        .await
        .is(200);
    gone(&u, "o2").await;
    u.get(&path("k2")).await.is(404);

    let uid = made(&u, "o3", &[], json!([])).await;
    made(&u, "k3", &[("o3", &uid)], json!([])).await;
    let waits = u
        .delete_with(&path("o3"), json!({"propagationPolicy": "Orphan"}))
        .await
        .is(200);
    assert_eq!(waits.body["metadata"]["finalizers"], json!(["orphan"]));
    gone(&u, "o3").await;
    assert!(
        u.get(&path("k3")).await.is(200).body["metadata"]
            .get("ownerReferences")
            .is_none()
    );
    u.end().await;
}

#[tokio::test]
async fn one_owner_is_enough_and_must_be_in_reach() {
    let u = Under::start().await;
    if u.lacks_controllers("one_owner_is_enough_and_must_be_in_reach") {
        return u.end().await;
    }
    let path = |name: &str| format!("{}/{name}", u.path("configmaps"));
    let (a, b) = (
        made(&u, "a", &[], json!([])).await,
        made(&u, "b", &[], json!([])).await,
    );
    made(&u, "kid", &[("a", &a), ("b", &b)], json!([])).await;
    // The dependent does not keep the owner that waits for it: it has another one.
    u.delete_with(&path("a"), json!({"propagationPolicy": "Foreground"}))
        .await
        .is(200);
    gone(&u, "a").await;
    u.until("the lost owner is taken out", async || {
        let kid = u.get(&path("kid")).await;
        kid.body["metadata"]["ownerReferences"].as_array().map(Vec::len) == Some(1)
    })
    .await;
    assert_eq!(
        u.get(&path("kid")).await.text("/metadata/ownerReferences/0/name"),
        "b"
    );
    // An owner in another namespace is none.
    let other = u
        .post(
            "/api/v1/namespaces/default/configmaps",
            json!({"metadata": {"name": u.namespace}}),
        )
        .await
        .is(201);
    let uid = other.text("/metadata/uid");
    made(&u, "far", &[(&u.namespace, &uid)], json!([])).await;
    gone(&u, "far").await;
    u.delete(&format!("/api/v1/namespaces/default/configmaps/{}", u.namespace))
        .await
        .is(200);
    u.end().await;
}

#[tokio::test]
async fn namespaces_end_with_what_is_in_them() {
    let u = Under::start().await;
    for name in ["default", "kube-system", "kube-public"] {
        let refused = u.delete(&format!("/api/v1/namespaces/{name}")).await;
        refused.says(
            403,
            "Forbidden",
            &format!("namespaces {name:?} is forbidden: this namespace may not be deleted"),
        );
    }
    if u.lacks_controllers("namespaces_end_with_what_is_in_them") {
        return u.end().await;
    }
    let name = format!("{}-end", u.namespace);
    let ns = format!("/api/v1/namespaces/{name}");
    let made = u
        .post("/api/v1/namespaces", json!({"metadata": {"name": name}}))
        .await
        .is(201);
    assert!(
        older_in_part(21, "the label with a namespace's name")
            || made.body["metadata"]["labels"]["kubernetes.io/metadata.name"] == name.as_str()
    );
    assert_eq!(
        (made.text("/status/phase"), &made.body["spec"]["finalizers"]),
        ("Active".into(), &json!(["kubernetes"]))
    );
    u.until("the default account is there", async || {
        u.get(&format!("{ns}/serviceaccounts/default")).await.status == 200
    })
    .await;
    u.post(
        &format!("{ns}/configmaps"),
        json!({"metadata": {"name": "held", "finalizers": ["test.dev/hold"]}}),
    )
    .await
    .is(201);
    u.post(&format!("{ns}/secrets"), json!({"metadata": {"name": "s"}}))
        .await
        .is(201);
    let ending = u.delete(&ns).await.is(200);
    assert_eq!(ending.text("/status/phase"), "Terminating");
    let refused = u
        .post(&format!("{ns}/secrets"), json!({"metadata": {"name": "late"}}))
        .await;
    assert_eq!(refused.text("/details/causes/0/reason"), "NamespaceTerminating");
    refused.says(403, "Forbidden", &format!("secrets \"late\" is forbidden: unable to create new content in namespace {name} because it is being terminated"));
    u.until("the rest goes", async || {
        u.get(&format!("{ns}/secrets/s")).await.status == 404
    })
    .await;
    assert_eq!(u.get(&ns).await.is(200).text("/status/phase"), "Terminating");
    u.merge(
        &format!("{ns}/configmaps/held"),
        json!({"metadata": {"finalizers": null}}),
    )
    .await
    .is(200);
    u.until("the namespace is gone", async || u.get(&ns).await.status == 404)
        .await;
    u.get(&format!("{ns}/configmaps")).await.is(200);
    u.end().await;
}
