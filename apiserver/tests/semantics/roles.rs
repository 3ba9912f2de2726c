//! Roles: aggregation, what may not be said in them, and acting as others.

use serde_json::{Value, json};
use strait_envtest::{ADMIN_TOKEN, DEV_TOKEN, older, since};

use crate::under::Under;

const GROUP: &str = "rbac.authorization.k8s.io";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
const WHO: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

/// Makes a ClusterRole, in place of one that an interrupted run left behind.
async fn role(u: &Under, name: &str, labels: Value, more: Value) {
    u.delete(&format!("{ROLES}/{name}")).await;
    let mut role = json!({"metadata": {"name": name, "labels": labels}});
    for (key, value) in more.as_object().unwrap() {
        role[key] = value.clone();
    }
    u.post(ROLES, role).await.is(201);
}

fn reads(resource: &str) -> Value {
    json!({"rules": [{"apiGroups": [""], "resources": [resource], "verbs": ["get"]}]})
}

fn takes(selectors: Value) -> Value {
    json!({"aggregationRule": {"clusterRoleSelectors": selectors}, "rules": []})
}

#[tokio::test]
async fn aggregated_roles_are_the_union_of_what_they_select() {
    let u = Under::start().await;
    if u.lacks_controllers("aggregated_roles_are_the_union_of_what_they_select") {
        return u.end().await;
    }
    let id = u.namespace.clone();
    let name = |n: &str| format!("{id}-{n}");
    let label = |v: &str| json!({&id: v});
    // The names are such that what is taken in comes before and after what takes it.
    role(
        &u,
        &name("a-admin"),
        json!({}),
        takes(json!([{"matchLabels": {&id: "to-admin"}}])),
    )
    .await;
    role(
        &u,
        &name("m-edit"),
        label("to-admin"),
        takes(json!([
            {"matchLabels": {&id: "to-edit"}},
            {"matchExpressions": [{"key": &id, "operator": "In", "values": ["also", "too"]}]},
        ])),
    )
    .await;
    role(
        &u,
        &name("b-view"),
        label("to-edit"),
        takes(json!([{"matchLabels": {&id: "to-view"}}])),
    )
    .await;
    role(&u, &name("z-pods"), label("to-view"), reads("pods")).await;
    role(&u, &name("c-nodes"), label("also"), reads("nodes")).await;
    role(&u, &name("y-secrets"), label("too"), reads("secrets")).await;
    role(&u, &name("x-events"), label("other"), reads("events")).await;
    // All of these, and none of those.
    role(
        &u,
        &name("n-not"),
        json!({}),
        takes(json!([{"matchExpressions": [
            {"key": &id, "operator": "Exists"},
            {"key": &id, "operator": "NotIn", "values": ["to-admin", "to-edit", "to-view", "also", "too", "one", "two"]},
            {"key": "gone", "operator": "DoesNotExist"},
        ]}])),
    )
    .await;
    // Two that take in each other, and something.
    role(
        &u,
        &name("p-one"),
        label("two"),
        takes(json!([{"matchLabels": {&id: "one"}}])),
    )
    .await;
    role(
        &u,
        &name("p-two"),
        label("one"),
        takes(json!([{"matchLabels": {&id: "two"}}, {"matchLabels": {&id: "also"}}])),
    )
    .await;
    let roles = ["a-admin", "m-edit", "b-view", "n-not", "p-one", "p-two"];
    for n in roles {
        let binding = format!("{BINDINGS}/{}", name(n));
        u.delete(&binding).await;
        let subject = json!([{"kind": "User", "apiGroup": GROUP, "name": name(n)}]);
        let reference = json!({"apiGroup": GROUP, "kind": "ClusterRole", "name": name(n)});
        u.post(
            BINDINGS,
            json!({"metadata": {"name": name(n)}, "roleRef": reference, "subjects": subject}),
        )
        .await
        .is(201);
    }
    let may = async |who: &str| {
        let mut list = Vec::new();
        for resource in ["pods", "nodes", "secrets", "events"] {
            let spec =
                json!({"user": name(who), "resourceAttributes": {"verb": "get", "resource": resource}});
            let review = u
                .post(
                    "/apis/authorization.k8s.io/v1/subjectaccessreviews",
                    json!({"spec": spec}),
                )
                .await;
            if review.is(201).body["status"]["allowed"] == true {
                list.push(resource);
            }
        }
        list.join(" ")
    };
    for (who, wanted) in [
        ("a-admin", "pods nodes secrets"),
        ("m-edit", "pods nodes secrets"),
        ("b-view", "pods"),
        ("n-not", "events"),
        ("p-one", "nodes"),
        ("p-two", "nodes"),
    ] {
        u.until(&format!("{who} may get {wanted}"), async || {
            may(who).await == wanted
        })
        .await;
    }
    // What is taken out is gone everywhere.
    u.merge(
        &format!("{ROLES}/{}", name("z-pods")),
        json!({"metadata": {"labels": {&id: null}}}),
    )
    .await
    .is(200);
    u.until("pods are taken back", async || {
        may("a-admin").await == "nodes secrets" && may("b-view").await.is_empty()
    })
    .await;
    for n in roles {
        u.delete(&format!("{BINDINGS}/{}", name(n))).await.is(200);
    }
    for n in roles
        .iter()
        .chain(&["z-pods", "c-nodes", "y-secrets", "x-events"])
    {
        u.delete(&format!("{ROLES}/{}", name(n))).await.is(200);
    }
    u.end().await;
}

#[tokio::test]
async fn roles_and_bindings_are_checked_in_the_usual_words() {
    let u = Under::start().await;
    let own = |kind: &str| u.path(&format!("{GROUP}/v1/{kind}"));
    let roles = own("roles");
    let rule = |rule: Value| json!({"metadata": {"name": "r"}, "rules": [rule]});
    let list = since(31, "[\"/x\"]", "[]string{\"/x\"}");
    let both = "rules cannot apply to both regular resources and non-resource URLs";
    for (path, body, causes) in [
        (
            roles.as_str(),
            rule(json!({"apiGroups": [""], "resources": ["pods"], "verbs": []})),
            vec!["rules[0].verbs: Required value: verbs must contain at least one value".to_owned()],
        ),
        (
            &roles,
            rule(json!({"verbs": ["get"]})),
            vec![
                "rules[0].apiGroups: Required value: resource rules must supply at least one api group".into(),
                "rules[0].resources: Required value: resource rules must supply at least one resource".into(),
            ],
        ),
        (
            &roles,
            rule(json!({"nonResourceURLs": ["/x"], "verbs": ["get"]})),
            vec![format!("rules[0].nonResourceURLs: Invalid value: {list}: namespaced rules cannot apply to non-resource URLs")],
        ),
        (
            ROLES,
            rule(json!({"nonResourceURLs": ["/x"], "resources": ["pods"], "verbs": ["get"]})),
            vec![format!("rules[0].nonResourceURLs: Invalid value: {list}: {both}")],
        ),
        (
            ROLES,
            json!({"metadata": {"name": "r"}, "aggregationRule": {}}),
            vec!["aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if aggregationRule is non-nil".into()],
        ),
    ] {
        let refused = u.post(path, body).await.is(422);
        assert_eq!((refused.reason(), refused.causes()), ("Invalid", causes));
    }
    let at = "aggregationRule.clusterRoleSelectors[0].matchExpressions[0]";
    for (expression, cause) in [
        (
            json!({"key": "a", "operator": "In"}),
            format!("{at}.values: Required value: must be specified when `operator` is 'In' or 'NotIn'"),
        ),
        (
            json!({"key": "a", "operator": "Exists", "values": ["b"]}),
            format!(
                "{at}.values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
            ),
        ),
        (
            json!({"key": "a", "operator": "Is"}),
            format!("{at}.operator: Invalid value: \"Is\": not a valid selector operator"),
        ),
    ] {
        let role = json!({"metadata": {"name": "r"}, "aggregationRule": {"clusterRoleSelectors": [{"matchExpressions": [expression]}]}});
        let refused = u.post(ROLES, role).await.is(422);
        assert_eq!(refused.causes()[0], cause);
    }
    let binding = |reference: Value, subject: Value| json!({"metadata": {"name": "b"}, "roleRef": reference, "subjects": [subject]});
    let good = json!({"apiGroup": GROUP, "kind": "ClusterRole", "name": "view"});
    let dev = json!({"kind": "User", "apiGroup": GROUP, "name": "dev"});
    let supported = format!("supported values: {GROUP:?}");
    for (cluster, reference, subject, cause) in [
        (false, json!({"apiGroup": "a", "kind": "Role", "name": "r"}), &dev, format!("roleRef.apiGroup: Unsupported value: \"a\": {supported}")),
        (false, json!({"kind": "User", "name": "r"}), &dev, "roleRef.kind: Unsupported value: \"User\": supported values: \"Role\", \"ClusterRole\"".into()),
        (true, json!({"kind": "Role", "name": "r"}), &dev, "roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"".into()),
        (false, json!({"kind": "Role", "name": "a/b"}), &dev, "roleRef.name: Invalid value: \"a/b\": may not contain '/'".into()),
        (false, good.clone(), &json!({"kind": "Robot", "name": "x"}), "subjects[0].kind: Unsupported value: \"Robot\": supported values: \"ServiceAccount\", \"User\", \"Group\"".into()),
        (false, good.clone(), &json!({"kind": "User", "apiGroup": "a", "name": "x"}), format!("subjects[0].apiGroup: Unsupported value: \"a\": {supported}")),
        (false, good.clone(), &json!({"kind": "Group", "apiGroup": "a", "name": "x"}), format!("subjects[0].apiGroup: Unsupported value: \"a\": {supported}")),
        (false, good.clone(), &json!({"kind": "ServiceAccount", "apiGroup": "a", "name": "x"}), "subjects[0].apiGroup: Unsupported value: \"a\": supported values: \"\"".into()),
        (true, good.clone(), &json!({"kind": "ServiceAccount", "name": "x"}), "subjects[0].namespace: Required value".into()),
        (false, good.clone(), &json!({"kind": "User", "name": ""}), "subjects[0].name: Required value".into()),
    ] {
        let path = if cluster { BINDINGS.to_owned() } else { own("rolebindings") };
        let refused = u.post(&path, binding(reference, subject.clone())).await.is(422);
        assert_eq!((refused.reason(), refused.causes()), ("Invalid", vec![cause]));
    }
    let refused = u
        .post(
            &own("rolebindings"),
            binding(good, json!({"kind": "ServiceAccount", "name": "Not_a_name"})),
        )
        .await
        .is(422);
    assert!(
        refused.causes()[0]
            .starts_with("subjects[0].name: Invalid value: \"Not_a_name\": a lowercase RFC 1123 subdomain"),
        "{:?}",
        refused.causes()
    );
    u.end().await;
}

#[tokio::test]
async fn every_part_of_another_is_impersonated_by_right_only() {
    if older(28, "SelfSubjectReview") {
        return;
    }
    let u = Under::start().await;
    let ask = async |token: &str, headers: &[(&str, &str)]| {
        let mut all = vec![("content-type", "application/json")];
        all.extend(headers);
        u.ask(token, "POST", WHO, &all, b"{}".to_vec()).await
    };
    for header in ["impersonate-uid", "impersonate-group", "impersonate-extra-team"] {
        let refused = ask(ADMIN_TOKEN, &[(header, "x")]).await;
        assert_eq!(
            (refused.status, refused.reason()),
            (400, "BadRequest"),
            "{header}"
        );
        assert!(
            refused.message().starts_with("requested ")
                && refused.message().contains(" without impersonating a user"),
            "{}",
            refused.message()
        );
    }
    let who = async |token: &str, headers: &[(&str, &str)]| {
        ask(token, headers).await.is(201).body["status"]["userInfo"].clone()
    };
    let whole = [
        ("impersonate-user", "jane"),
        ("impersonate-uid", "u-1"),
        ("impersonate-group", "crew"),
        ("impersonate-extra-team", "blue"),
        ("impersonate-extra-team", "green"),
        ("impersonate-extra-example.dev%2fscope", "one"),
    ];
    assert_eq!(
        who(ADMIN_TOKEN, &whole).await,
        json!({"username": "jane", "uid": "u-1", "groups": ["crew", "system:authenticated"],
            "extra": {"team": ["blue", "green"], "example.dev/scope": ["one"]}})
    );
    let nobody = [
        ("impersonate-user", "system:anonymous"),
        ("impersonate-group", "system:masters"),
    ];
    assert_eq!(
        who(ADMIN_TOKEN, &nobody).await["groups"],
        json!(["system:masters", "system:unauthenticated"])
    );
    let outside = [
        ("impersonate-user", "jane"),
        ("impersonate-group", "system:unauthenticated"),
    ];
    let refused = ask(ADMIN_TOKEN, &outside).await;
    refused.says(403, "Forbidden", "selfsubjectreviews.authentication.k8s.io is forbidden: User \"jane\" cannot create resource \"selfsubjectreviews\" in API group \"authentication.k8s.io\" at the cluster scope");

    // Each part is a right of its own.
    let name = u.namespace.clone();
    let role = async |rules: Value| {
        u.delete(&format!("{ROLES}/{name}")).await;
        u.post(ROLES, json!({"metadata": {"name": &name}, "rules": rules}))
            .await
            .is(201);
    };
    let auth = "authentication.k8s.io";
    let user = json!({"apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"], "resourceNames": ["jane"]});
    role(json!([user])).await;
    let subject = json!([{"kind": "User", "apiGroup": GROUP, "name": "dev"}]);
    let reference = json!({"apiGroup": GROUP, "kind": "ClusterRole", "name": &name});
    u.post(
        BINDINGS,
        json!({"metadata": {"name": &name}, "roleRef": reference, "subjects": subject}),
    )
    .await
    .is(201);
    u.until("jane may be impersonated", async || {
        ask(DEV_TOKEN, &whole[..1]).await.status == 201
    })
    .await;
    for (header, resource, group, name) in [
        (
            ("impersonate-uid", "u-1"),
            "uids",
            auth,
            "uids.authentication.k8s.io \"u-1\"",
        ),
        (("impersonate-group", "crew"), "groups", "", "groups \"crew\""),
        (
            ("impersonate-extra-team", "blue"),
            "userextras/team",
            auth,
            "userextras.authentication.k8s.io \"blue\"",
        ),
    ] {
        ask(DEV_TOKEN, &[whole[0], header]).await.says(
            403,
            "Forbidden",
            &format!("{name} is forbidden: User \"dev\" cannot impersonate resource {resource:?} in API group {group:?} at the cluster scope"),
        );
    }
    role(json!([
        user,
        {"apiGroups": [auth], "resources": ["uids"], "verbs": ["impersonate"], "resourceNames": ["u-1"]},
        {"apiGroups": [auth], "resources": ["userextras/team"], "verbs": ["impersonate"]},
    ]))
    .await;
    let parts = [whole[0], whole[1], whole[3]];
    u.until("the parts may be impersonated", async || {
        ask(DEV_TOKEN, &parts).await.status == 201
    })
    .await;
    assert_eq!(
        who(DEV_TOKEN, &parts).await,
        json!({"username": "jane", "uid": "u-1", "groups": ["system:authenticated"], "extra": {"team": ["blue"]}})
    );
    // Another value, another key: not granted.
    ask(DEV_TOKEN, &[whole[0], ("impersonate-uid", "u-2")])
        .await
        .is(403);
    ask(DEV_TOKEN, &[whole[0], ("impersonate-extra-rank", "blue")])
        .await
        .is(403);
    u.delete(&format!("{BINDINGS}/{name}")).await.is(200);
    u.delete(&format!("{ROLES}/{name}")).await.is(200);
    u.end().await;
}
