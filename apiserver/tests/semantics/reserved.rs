//! What definitions may not take: Kubernetes' own groups, and the names of what is built in.

use serde_json::{Value, json};

use crate::under::{Answer, Under};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const RBAC: &str = "rbac.authorization.k8s.io";
const APPROVED: &str = "api-approved.kubernetes.io";

fn definition(group: &str, version: &str, plural: &str, kind: &str, approved: &str) -> Value {
    let mut v = crate::open();
    v["name"] = version.into();
    v["served"] = true.into();
    v["storage"] = true.into();
    let mut crd = json!({"metadata": {"name": format!("{plural}.{group}")},
        "spec": {"group": group, "scope": "Cluster", "names": {"plural": plural, "kind": kind}, "versions": [v]}});
    if !approved.is_empty() {
        crd["metadata"]["annotations"] = json!({APPROVED: approved});
    }
    crd
}

/// Status and reason of a condition.
fn condition(crd: &Answer, kind: &str) -> (String, String) {
    let list = crd.body["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let found = list
        .iter()
        .find(|c| c["type"] == kind)
        .cloned()
        .unwrap_or_default();
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"))
}

fn is(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

#[tokio::test]
async fn groups_of_kubernetes_need_a_word_that_they_may_be_used() {
    let u = Under::start().await;
    let group = format!("{}.k8s.io", u.namespace);
    let path = format!("{CRDS}/things.{group}");
    let create = async |approved: &str| {
        u.post(CRDS, definition(&group, "v1", "things", "Thing", approved))
            .await
    };
    let field = format!("metadata.annotations[{APPROVED}]");
    let missing = format!(
        "{field}: Required value: protected groups must have approval annotation \"{APPROVED}\", see https://github.com/kubernetes/enhancements/pull/1111"
    );
    let refused = create("").await.is(422);
    assert_eq!(refused.causes(), [missing.as_str()]);
    assert_eq!(
        refused.message(),
        format!("CustomResourceDefinition.apiextensions.k8s.io \"things.{group}\" is invalid: {missing}")
    );
    assert_eq!(
        create("yes").await.is(422).causes(),
        [format!(
            "{field}: Invalid value: \"yes\": protected groups must have approval annotation \"{APPROVED}\" with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111"
        )]
    );
    u.get(&path).await.is(404);
    create("unapproved, a test").await.is(201);
    u.until("it is told that nobody approved", async || {
        condition(&u.get(&path).await, "KubernetesAPIApprovalPolicyConformant")
            == is("False", "UnapprovedAnnotation")
    })
    .await;
    u.until("it is served", async || {
        u.get(&format!("/apis/{group}/v1/things")).await.status == 200
    })
    .await;
    let annotate = async |v: Value| {
        u.merge(&path, json!({"metadata": {"annotations": {APPROVED: v}}}))
            .await
    };
    assert_eq!(annotate(Value::Null).await.is(422).causes(), [missing]);
    annotate(json!("https://github.com/kubernetes/kubernetes/pull/79724"))
        .await
        .is(200);
    u.until("it is told who approved", async || {
        condition(&u.get(&path).await, "KubernetesAPIApprovalPolicyConformant")
            == is("True", "ApprovedAnnotation")
    })
    .await;
    u.delete(&path).await.is(200);
    u.until("it is gone", async || u.get(&path).await.status == 404)
        .await;
    u.end().await;
}

#[tokio::test]
async fn a_group_that_only_looks_like_kubernetes_needs_none() {
    let u = Under::start().await;
    for group in [
        format!("{}.x-k8s.io", u.namespace),
        format!("k8s.io.{}.dev", u.namespace),
    ] {
        u.post(CRDS, definition(&group, "v1", "things", "Thing", ""))
            .await
            .is(201);
        let path = format!("{CRDS}/things.{group}");
        u.until("it is established", async || {
            condition(&u.get(&path).await, "Established").0 == "True"
        })
        .await;
        let conformant = condition(&u.get(&path).await, "KubernetesAPIApprovalPolicyConformant");
        assert_eq!(conformant, is("", ""));
        u.delete(&path).await.is(200);
    }
    u.end().await;
}

/// A definition's status as one says it who may write that, or a server that did not look.
fn forged(version: &str, names: Value) -> Value {
    let condition = |kind: &str| {
        json!({"type": kind, "status": "True", "reason": "Forged", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    json!({"status": {"acceptedNames": names, "storedVersions": [version],
        "conditions": [condition("NamesAccepted"), condition("Established")]}})
}

#[tokio::test]
async fn what_is_built_in_is_no_definitions() {
    let u = Under::start().await;
    let leases = "coordination.k8s.io";
    let lease = u.path(&format!("{leases}/v1/leases"));
    u.post(&lease, json!({"metadata": {"name": "l"}})).await.is(201);
    let roles = format!("/apis/{RBAC}/v1/clusterroles");
    let held = [&lease, &roles, CRDS];
    let count = async || {
        let mut counts = Vec::new();
        for path in held {
            counts.push(u.get(path).await.is(200).names().len());
        }
        counts
    };
    let before = count().await;
    for (group, version, plural, kind, listed, reason) in [
        (RBAC, "v1", "clusterroles", "Own", "", "PluralConflict"),
        (RBAC, "v9", "clusterroles", "ClusterRole", "", "ListKindConflict"),
        (RBAC, "v9", "clusterrolebindings", "Own", "", "PluralConflict"),
        (RBAC, "v1", "owns", "Role", "OwnList", "KindConflict"),
        (RBAC, "v9", "owns", "Own", "RoleList", "ListKindConflict"),
        (leases, "v9", "leases", "Lease", "", "ListKindConflict"),
        (leases, "v1", "lease", "Own", "", "PluralConflict"),
        (
            "apiextensions.k8s.io",
            "v9",
            "customresourcedefinitions",
            "Own",
            "",
            "PluralConflict",
        ),
        (
            "authentication.k8s.io",
            "v1",
            "tokenreviews",
            "Own",
            "",
            "PluralConflict",
        ),
        ("events.k8s.io", "v1", "events", "Own", "", "PluralConflict"),
    ] {
        let mut crd = definition(group, version, plural, kind, "unapproved, a test");
        let name = format!("{plural}.{group}");
        if !listed.is_empty() {
            crd["spec"]["names"]["listKind"] = listed.into();
        }
        // Who makes it has no say in what is accepted.
        crd["status"] = forged(version, crd["spec"]["names"].clone())["status"].clone();
        u.post(CRDS, crd.clone()).await.is(201);
        let path = format!("{CRDS}/{name}");
        let found = u.get(&path).await.is(200);
        assert_eq!(
            condition(&found, "NamesAccepted"),
            is("False", reason),
            "{}",
            found.body
        );
        assert_eq!(
            condition(&found, "Established"),
            is("False", "NotAccepted"),
            "{}",
            found.body
        );
        let refused = async || {
            let here = format!("/apis/{group}/{version}/{plural}");
            if version == "v9" {
                u.get(&here).await.is(404);
                u.post(&here, json!({"metadata": {"name": "x"}, "kind": kind}))
                    .await
                    .is(404);
                u.get(&format!("/apis/{group}/v9")).await.is(404);
            } else {
                let resources = u.get(&format!("/apis/{group}/v1")).await.is(200);
                let list = resources.body["resources"].as_array().cloned().unwrap();
                assert!(
                    list.iter().all(|r| r["kind"] != "Own" && r["name"] != "owns"),
                    "{list:?}"
                );
            }
        };
        refused().await;
        // Not even where somebody wrote that it is.
        let names = found.body["spec"]["names"].clone();
        u.merge(&format!("{path}/status"), forged(version, names))
            .await
            .is(200);
        refused().await;
        u.until("the names are taken back", async || {
            condition(&u.get(&path).await, "NamesAccepted").0 == "False"
        })
        .await;
        let found = u.get(&path).await;
        assert_eq!(condition(&found, "Established").0, "False", "{}", found.body);
        refused().await;
        u.delete(&path).await.is(200);
        u.until("it is gone", async || u.get(&path).await.status == 404)
            .await;
        assert_eq!(count().await, before, "after {name}");
    }
    u.end().await;
}

#[tokio::test]
async fn no_definition_is_a_way_round_the_checks_of_bindings() {
    let u = Under::start().await;
    u.post(
        CRDS,
        definition(
            RBAC,
            "v9",
            "clusterrolebindings",
            "ClusterRoleBinding",
            "unapproved, a test",
        ),
    )
    .await
    .is(201);
    let rights = json!({"metadata": {"name": "dev-binds"}, "rules": [
        {"apiGroups": [RBAC], "resources": ["clusterrolebindings"], "verbs": ["*"]}]});
    u.post(&format!("/apis/{RBAC}/v1/clusterroles"), rights)
        .await
        .is(201);
    let bind = |name: &str, role: &str| {
        json!({"metadata": {"name": name}, "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "User", "apiGroup": RBAC, "name": "dev"}]})
    };
    let bindings = |v: &str| format!("/apis/{RBAC}/{v}/clusterrolebindings");
    u.post(&bindings("v1"), bind("dev-binds", "dev-binds"))
        .await
        .is(201);
    let root = bind("dev-is-root", "cluster-admin");
    u.dev("POST", &bindings("v1"), root.clone()).await.is(403);
    let mut round = root;
    round["apiVersion"] = format!("{RBAC}/v9").into();
    round["kind"] = "ClusterRoleBinding".into();
    u.dev("POST", &bindings("v9"), round).await.is(404);
    u.dev("GET", "/api/v1/secrets", Value::Null).await.is(403);
    u.end().await;
}
