//! Built-in kinds: events in both forms, scales, services, configuration.

use serde_json::{Value, json};
use strait_envtest::{older, older_in_part};

use crate::under::Under;

#[tokio::test]
async fn events_are_one_thing_in_two_forms() {
    let u = Under::start().await;
    let (old, new) = (u.path("events"), u.path("events.k8s.io/v1/events"));
    let about = json!({"kind": "ConfigMap", "namespace": u.namespace, "name": "c", "apiVersion": "v1"});
    let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "n"}, "regarding": about, "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "test.dev/c", "reportingInstance": "i", "action": "Do", "reason": "Done", "type": "Normal", "note": "said"});
    u.post(&new, event.clone()).await.is(201);
    let seen = u.get(&format!("{old}/n")).await.is(200);
    assert_eq!(
        (
            seen.text("/apiVersion"),
            seen.text("/message"),
            seen.text("/involvedObject/name"),
            seen.text("/reportingComponent")
        ),
        ("v1".into(), "said".into(), "c".into(), "test.dev/c".into())
    );
    u.post(&old, json!({"metadata": {"name": "o"}, "involvedObject": about, "reason": "Old", "type": "Warning", "message": "m", "count": 2, "source": {"component": "x"}})).await.is(201);
    let seen = u.get(&format!("{new}/o")).await.is(200);
    assert_eq!(
        (
            seen.text("/note"),
            seen.text("/regarding/name"),
            &seen.body["deprecatedCount"],
            seen.text("/deprecatedSource/component")
        ),
        ("m".into(), "c".into(), &json!(2), "x".into())
    );
    assert_eq!(
        u.get(&format!("{old}?fieldSelector=type%3DWarning"))
            .await
            .names(),
        ["o"]
    );
    assert_eq!(
        u.get(&format!(
            "{old}?fieldSelector=involvedObject.name%3Dc,reason%3DDone"
        ))
        .await
        .names(),
        ["n"]
    );
    // A series is a patch of the event.
    let series = u
        .merge(
            &format!("{new}/n"),
            json!({"series": {"count": 3, "lastObservedTime": "2026-01-01T00:01:00.000000Z"}}),
        )
        .await
        .is(200);
    assert_eq!(series.body["series"]["count"], 3);
    for (field, value, why) in [
        ("reason", json!(""), "reason: Required value"),
        ("action", json!(""), "action: Required value"),
        (
            "reportingController",
            json!(""),
            "reportingController: Required value",
        ),
        (
            "regarding",
            json!({"kind": "ConfigMap", "name": "c"}),
            "involvedObject.namespace: Invalid value: \"\": does not match event.namespace",
        ),
    ] {
        let mut bad = event.clone();
        bad["metadata"]["name"] = "bad".into();
        bad[field] = value;
        let refused = u.post(&new, bad).await.is(422);
        assert!(
            refused.causes().iter().any(|c| c.starts_with(why)),
            "{field}: {:?}",
            refused.causes()
        );
    }
    // With a time of their own they may tell of what lies elsewhere; in the old form they may not.
    let mut elsewhere = event;
    elsewhere["metadata"]["name"] = "elsewhere".into();
    elsewhere["regarding"]["namespace"] = "elsewhere".into();
    u.post(&new, elsewhere).await.is(201);
    let refused = u
        .post(&old, json!({"metadata": {"name": "bad"}, "involvedObject": {"kind": "ConfigMap", "namespace": "elsewhere", "name": "c"}, "reason": "Old"}))
        .await
        .is(422);
    assert_eq!(
        refused.causes(),
        ["involvedObject.namespace: Invalid value: \"elsewhere\": does not match event.namespace"]
    );
    u.end().await;
}

#[tokio::test]
async fn workloads_are_scaled_through_their_scale() {
    let u = Under::start().await;
    for kind in ["Deployment", "StatefulSet", "ReplicaSet"] {
        let path = u.path(&format!("apps/v1/{}s", kind.to_lowercase()));
        let labels = json!({"app": "x"});
        let object = json!({"metadata": {"name": "d"}, "spec": {"replicas": 2, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}});
        u.post(&path, object).await.is(201);
        let scale = u.get(&format!("{path}/d/scale")).await.is(200);
        assert_eq!(
            (
                scale.text("/kind"),
                scale.text("/metadata/name"),
                &scale.body["spec"],
                scale.text("/status/selector")
            ),
            (
                "Scale".into(),
                "d".into(),
                &json!({"replicas": 2}),
                "app=x".into()
            ),
            "{kind}"
        );
        let done = u
            .merge(&format!("{path}/d/scale"), json!({"spec": {"replicas": 5}}))
            .await
            .is(200);
        assert_eq!(done.body["spec"]["replicas"], 5);
        let object = u.get(&format!("{path}/d")).await;
        assert_eq!(
            (
                &object.body["spec"]["replicas"],
                &object.body["metadata"]["generation"]
            ),
            (&json!(5), &json!(2))
        );
        let managed = object.body["metadata"]["managedFields"].as_array().unwrap();
        assert!(
            older_in_part(22, "the name of a subresource in managedFields")
                || managed.iter().any(|m| m["subresource"] == "scale")
        );
        let mut full = scale.body.clone();
        u.put(&format!("{path}/d/scale"), full.clone()).await.is(409);
        full["metadata"]["resourceVersion"] = done.rv().into();
        full["spec"] = json!({});
        assert_eq!(
            u.put(&format!("{path}/d/scale"), full.clone()).await.is(200).body["spec"],
            json!({})
        );
        full["metadata"]["resourceVersion"] = "".into();
        full["spec"] = json!({"replicas": -1});
        let refused = u.put(&format!("{path}/d/scale"), full).await.is(422);
        assert_eq!(
            refused.causes(),
            ["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]
        );
        u.get(&format!("{path}/nope/scale")).await.is(404);
    }
    u.get(&format!("{}/x/scale", u.path("configmaps"))).await.is(404);
    u.end().await;
}

#[tokio::test]
async fn partial_strategies_are_completed() {
    let u = Under::start().await;
    let path = u.path("apps/v1/deployments");
    let labels = json!({"app": "x"});
    let deployment = |name: &str, strategy: Value| {
        json!({"metadata": {"name": name}, "spec": {"selector": {"matchLabels": labels}, "strategy": strategy,
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}})
    };
    let made = u
        .post(&path, deployment("a", json!({"rollingUpdate": {"maxSurge": 1}})))
        .await
        .is(201);
    assert_eq!(
        made.body["spec"]["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": 1}})
    );
    let made = u
        .post(&path, deployment("b", json!({"type": "Recreate"})))
        .await
        .is(201);
    assert_eq!(made.body["spec"]["strategy"], json!({"type": "Recreate"}));
    let moved = u.merge(&format!("{path}/a"), json!({"spec": {"selector": {"matchLabels": {"app": "y"}}, "template": {"metadata": {"labels": {"app": "y"}}}}})).await.is(422);
    assert!(
        moved.causes()[0].ends_with("field is immutable"),
        "{:?}",
        moved.causes()
    );
    u.end().await;
}

#[tokio::test]
async fn what_may_not_change_does_not() {
    let u = Under::start().await;
    let secrets = u.path("secrets");
    let made = u
        .post(
            &secrets,
            json!({"metadata": {"name": "s"}, "stringData": {"a": "b"}, "data": {"c": "ZA=="}}),
        )
        .await
        .is(201);
    assert_eq!(
        (&made.body["data"], made.text("/type")),
        (&json!({"a": "Yg==", "c": "ZA=="}), "Opaque".into())
    );
    let refused = u
        .merge(&format!("{secrets}/s"), json!({"type": "other"}))
        .await
        .is(422);
    assert_eq!(
        refused.causes(),
        ["type: Invalid value: \"other\": field is immutable"]
    );
    let maps = u.path("configmaps");
    u.post(
        &maps,
        json!({"metadata": {"name": "c"}, "data": {"a": "1"}, "immutable": true}),
    )
    .await
    .is(201);
    let refused = u
        .merge(&format!("{maps}/c"), json!({"data": {"a": "2"}}))
        .await
        .is(422);
    assert_eq!(
        refused.causes(),
        ["data: Forbidden: field is immutable when `immutable` is set"]
    );
    let refused = u
        .merge(&format!("{maps}/c"), json!({"immutable": false}))
        .await
        .is(422);
    assert_eq!(
        refused.causes(),
        ["immutable: Forbidden: field is immutable when `immutable` is set"]
    );
    u.merge(&format!("{maps}/c"), json!({"metadata": {"labels": {"a": "b"}}}))
        .await
        .is(200);
    let bad = u
        .post(&maps, json!({"metadata": {"name": "k"}, "data": {"a b": "1"}}))
        .await
        .is(422);
    assert!(
        bad.causes()[0].starts_with("data[a b]: Invalid value: \"a b\": a valid config key must consist of"),
        "{:?}",
        bad.causes()
    );
    let services = u.path("services");
    let made = u
        .post(
            &services,
            json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}),
        )
        .await
        .is(201);
    assert_eq!(
        (
            made.text("/spec/type"),
            made.text("/spec/sessionAffinity"),
            &made.body["spec"]["ports"][0]["targetPort"]
        ),
        ("ClusterIP".into(), "None".into(), &json!(80))
    );
    if older_in_part(23, "an update of a Service that does not repeat its address") {
        return u.end().await;
    }
    let same = u
        .put(
            &format!("{services}/s"),
            json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 81}]}}),
        )
        .await
        .is(200);
    assert_eq!(
        same.text("/spec/clusterIP"),
        made.text("/spec/clusterIP"),
        "an update keeps the address"
    );
    u.end().await;
}

#[tokio::test]
async fn quotas_and_budgets_are_kept_and_checked() {
    if older(21, "policy/v1") {
        return;
    }
    let u = Under::start().await;
    let budgets = u.path("policy/v1/poddisruptionbudgets");
    let budget = |spec: Value| json!({"metadata": {"name": "p"}, "spec": spec});
    let refused = u
        .post(&budgets, budget(json!({"minAvailable": 1, "maxUnavailable": 1})))
        .await
        .is(422);
    assert!(
        refused.causes()[0].ends_with("minAvailable and maxUnavailable cannot be both set"),
        "{:?}",
        refused.causes()
    );
    let refused = u
        .post(&budgets, budget(json!({"maxUnavailable": -1})))
        .await
        .is(422);
    assert_eq!(
        refused.causes(),
        ["spec.maxUnavailable: Invalid value: -1: must be greater than or equal to 0"]
    );
    u.post(
        &budgets,
        budget(json!({"maxUnavailable": "50%", "selector": {"matchLabels": {"a": "b"}}})),
    )
    .await
    .is(201);
    let table = u
        .get_as(&budgets, "application/json;as=Table;g=meta.k8s.io;v=v1")
        .await;
    assert_eq!(
        table.body["rows"][0]["cells"].as_array().unwrap()[..4],
        [json!("p"), json!("N/A"), json!("50%"), json!(0)]
    );
    let quotas = u.path("resourcequotas");
    u.post(
        &quotas,
        json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "10", "limits.cpu": "2"}}}),
    )
    .await
    .is(201);
    u.merge(&format!("{quotas}/q/status"), json!({"status": {"hard": {"pods": "10", "limits.cpu": "2"}, "used": {"pods": "1", "limits.cpu": "0"}}})).await.is(200);
    let table = u
        .get_as(
            &format!("{quotas}/q"),
            "application/json;as=Table;g=meta.k8s.io;v=v1",
        )
        .await;
    assert_eq!(
        table.body["rows"][0]["cells"].as_array().unwrap()[..3],
        [json!("q"), json!("pods: 1/10"), json!("limits.cpu: 0/2")]
    );
    u.end().await;
}
