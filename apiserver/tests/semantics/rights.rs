//! Who may do what, and how a refusal reads.

use serde_json::{Value, json};
use strait_envtest::{ADMIN_TOKEN, DEV_TOKEN, older_in_part};

use crate::under::Under;

const RBAC: &str = "rbac.authorization.k8s.io";

/// Gives `dev` a role of these rules in the test's namespace.
async fn grant(u: &Under, rules: Value) {
    u.post(
        &u.path(&format!("{RBAC}/v1/roles")),
        json!({"metadata": {"name": "r"}, "rules": rules}),
    )
    .await
    .is(201);
    let binding = json!({"metadata": {"name": "b"}, "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": "r"},
        "subjects": [{"kind": "User", "apiGroup": RBAC, "name": "dev"}]});
    u.post(&u.path(&format!("{RBAC}/v1/rolebindings")), binding)
        .await
        .is(201);
    // A real server's rules follow a moment later.
    let review = json!({"spec": {"resourceAttributes": {"namespace": u.namespace, "verb": "get", "resource": "pods", "group": "probe.test"}}});
    u.until("the role counts", async || {
        u.dev(
            "POST",
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            review.clone(),
        )
        .await
        .body["status"]["allowed"]
            == true
    })
    .await;
}

fn with_probe(mut rules: Value) -> Value {
    rules
        .as_array_mut()
        .unwrap()
        .push(json!({"apiGroups": ["probe.test"], "resources": ["pods"], "verbs": ["get"]}));
    rules
}

#[tokio::test]
async fn rights_end_where_their_names_end() {
    let u = Under::start().await;
    grant(&u, with_probe(json!([
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["mine"], "verbs": ["get", "list", "watch", "update", "patch", "delete"]},
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["mine"], "verbs": ["*"]},
    ]))).await;
    let path = u.path("configmaps");
    for name in ["mine", "other"] {
        u.dev("POST", &path, json!({"metadata": {"name": name}}))
            .await
            .is(201);
    }
    let why = |verb: &str, name: &str| {
        format!(
            "configmaps{} is forbidden: User \"dev\" cannot {verb} resource \"configmaps\" in API group \"\" in the namespace {:?}",
            if name.is_empty() {
                String::new()
            } else {
                format!(" {name:?}")
            },
            u.namespace
        )
    };
    u.dev("GET", &format!("{path}/mine"), Value::Null).await.is(200);
    u.dev("GET", &format!("{path}/other"), Value::Null)
        .await
        .says(403, "Forbidden", &why("get", "other"));
    u.dev("GET", &path, Value::Null)
        .await
        .says(403, "Forbidden", &why("list", ""));
    assert_eq!(
        u.dev(
            "GET",
            &format!("{path}?fieldSelector=metadata.name%3Dmine"),
            Value::Null
        )
        .await
        .is(200)
        .names(),
        ["mine"]
    );
    // By name, whatever else is selected by.
    let secrets = u.path("secrets");
    for (selector, status) in [
        ("metadata.name%3Dmine,type%3DOpaque", 200),
        ("type%3DOpaque,metadata.name%3Dmine", 200),
        ("type%3DOpaque,metadata.name%3Dother", 403),
        ("type%3DOpaque", 403),
        ("metadata.name!%3Dmine,type%3DOpaque", 403),
    ] {
        let list = format!("{secrets}?fieldSelector={selector}");
        assert_eq!(
            u.dev("GET", &list, Value::Null).await.status,
            status,
            "{selector}"
        );
    }
    u.dev(
        "GET",
        &format!("{path}?watch=1&timeoutSeconds=1&fieldSelector=metadata.name%3Dmine"),
        Value::Null,
    )
    .await
    .is(200);
    u.dev("PATCH", &format!("{path}/mine"), json!({"data": {"a": "b"}}))
        .await
        .is(200);
    u.dev("PATCH", &format!("{path}/other"), json!({"data": {}}))
        .await
        .is(403);
    u.dev("DELETE", &path, Value::Null)
        .await
        .says(403, "Forbidden", &why("deletecollection", ""));
    // No name limits a creation: the name is not known when rights are asked.
    let secret = u
        .dev("POST", &u.path("secrets"), json!({"metadata": {"name": "mine"}}))
        .await;
    assert_eq!(secret.status, 403, "{}", secret.body);
    let cluster = u.dev("GET", "/api/v1/nodes", Value::Null).await;
    cluster.says(403, "Forbidden", "nodes is forbidden: User \"dev\" cannot list resource \"nodes\" in API group \"\" at the cluster scope");
    let path = u.dev("GET", "/metrics", Value::Null).await;
    path.says(
        403,
        "Forbidden",
        "forbidden: User \"dev\" cannot get path \"/metrics\"",
    );
    u.dev("GET", "/version", Value::Null).await.is(200);
    u.end().await;
}

#[tokio::test]
async fn nobody_grants_more_than_they_hold() {
    let u = Under::start().await;
    grant(&u, with_probe(json!([
        {"apiGroups": [RBAC], "resources": ["roles", "rolebindings"], "verbs": ["create", "get", "patch", "update"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["one"], "verbs": ["get"]},
    ]))).await;
    let roles = u.path(&format!("{RBAC}/v1/roles"));
    let role = |name: &str, rules: Value| json!({"metadata": {"name": name}, "rules": rules});
    u.dev(
        "POST",
        &roles,
        role(
            "same",
            json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]),
        ),
    )
    .await
    .is(201);
    u.dev("POST", &roles, role("named", json!([{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["one"], "verbs": ["get"]}]))).await.is(201);
    let refused = u.dev("POST", &roles, role("more", json!([
        {"apiGroups": [""], "resources": ["pods", "secrets"], "verbs": ["get", "delete"]},
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["two"], "verbs": ["get"]},
    ]))).await;
    refused.says(403, "Forbidden", &format!("roles.{RBAC} \"more\" is forbidden: user \"dev\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{{APIGroups:[\"\"], Resources:[\"configmaps\"], ResourceNames:[\"two\"], Verbs:[\"get\"]}}\n{{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}}\n{{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"delete\"]}}"));
    u.dev(
        "POST",
        &roles,
        role(
            "all",
            json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]),
        ),
    )
    .await
    .is(403);
    u.dev(
        "PATCH",
        &format!("{roles}/same"),
        json!({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["*"]}]}),
    )
    .await
    .is(403);
    u.dev(
        "PATCH",
        &format!("{roles}/same"),
        json!({"metadata": {"labels": {"a": "b"}}}),
    )
    .await
    .is(200);
    let bindings = u.path(&format!("{RBAC}/v1/rolebindings"));
    let binding = |name: &str, kind: &str, role: &str| {
        json!({"metadata": {"name": name}, "roleRef": {"apiGroup": RBAC, "kind": kind, "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}]})
    };
    u.dev("POST", &bindings, binding("held", "Role", "same"))
        .await
        .is(201);
    u.dev(
        "POST",
        &bindings,
        binding("admin", "ClusterRole", "cluster-admin"),
    )
    .await
    .is(403);
    u.dev("POST", &bindings, binding("none", "Role", "nothing"))
        .await
        .is(404);
    // The verbs bind and escalate say otherwise.
    u.merge(&format!("{roles}/r"), json!({"rules": with_probe(json!([
        {"apiGroups": [RBAC], "resources": ["rolebindings"], "verbs": ["create"]},
        {"apiGroups": [RBAC], "resources": ["clusterroles"], "resourceNames": ["view"], "verbs": ["bind"]},
        {"apiGroups": [RBAC], "resources": ["roles"], "verbs": ["create", "escalate"]},
    ]))})).await.is(200);
    u.until("bind counts", async || {
        u.dev(
            "POST",
            &format!("{bindings}?dryRun=All"),
            binding("view", "ClusterRole", "view"),
        )
        .await
        .status
            == 201
    })
    .await;
    // A real server's controllers put together what `edit` holds; before that, and without them, it is nothing that
    // could be refused.
    if u.controllers {
        u.until("edit cannot be given", async || {
            let edit = binding("edit", "ClusterRole", "edit");
            u.dev("POST", &format!("{bindings}?dryRun=All"), edit)
                .await
                .status
                == 403
        })
        .await;
    }
    u.dev(
        "POST",
        &roles,
        role(
            "escalated",
            json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]),
        ),
    )
    .await
    .is(201);
    let changed = u
        .merge(
            &format!("{bindings}/b"),
            json!({"roleRef": {"apiGroup": RBAC, "kind": "Role", "name": "same"}}),
        )
        .await
        .is(422);
    assert!(
        changed.causes()[0].ends_with("cannot change roleRef"),
        "{:?}",
        changed.causes()
    );
    u.end().await;
}

#[tokio::test]
async fn nobody_grants_more_than_they_hold_by_a_label() {
    let u = Under::start().await;
    let id = u.namespace.clone();
    let (roles, bindings) = (
        format!("/apis/{RBAC}/v1/clusterroles"),
        format!("/apis/{RBAC}/v1/clusterrolebindings"),
    );
    let (whole, rich, held) = (format!("{id}-whole"), format!("{id}-rich"), format!("{id}-held"));
    let reads = |what: &str| json!([{"apiGroups": [""], "resources": [what], "verbs": ["get"]}]);
    u.post(
        &roles,
        json!({"metadata": {"name": whole}, "rules": [],
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {&id: "yes"}}]}}),
    )
    .await
    .is(201);
    u.post(
        &roles,
        json!({"metadata": {"name": rich}, "rules": reads("secrets")}),
    )
    .await
    .is(201);
    u.post(&roles, json!({"metadata": {"name": held}, "rules": with_probe(json!([
        {"apiGroups": [RBAC], "resources": ["clusterroles", "clusterrolebindings"], "verbs": ["get", "patch", "update"]}]))}))
        .await
        .is(201);
    let bind = |role: &str| {
        json!({"metadata": {"name": role}, "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "User", "apiGroup": RBAC, "name": "dev"}]})
    };
    for role in [&held, &whole] {
        u.post(&bindings, bind(role)).await.is(201);
    }
    // Somebody else's binding of more than dev has.
    let mut other = bind(&rich);
    other["subjects"][0]["name"] = "jane".into();
    u.post(&bindings, other).await.is(201);
    let label = json!({"metadata": {"labels": {&id: "yes"}}});
    let rich_role = format!("{roles}/{rich}");
    u.until("the role counts", async || {
        u.dev("GET", &rich_role, Value::Null).await.status == 200
    })
    .await;
    let what = "user \"dev\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}";
    u.dev("PATCH", &rich_role, label.clone()).await.says(
        403,
        "Forbidden",
        &format!("clusterroles.{RBAC} \"{rich}\" is forbidden: {what}"),
    );
    let mut put = u.get(&rich_role).await.is(200).body;
    put["metadata"]["labels"] = json!({&id: "yes"});
    u.dev("PUT", &rich_role, put).await.is(403);
    u.dev("PATCH", &format!("{bindings}/{rich}"), label.clone())
        .await
        .says(
            403,
            "Forbidden",
            &format!("clusterrolebindings.{RBAC} \"{rich}\" is forbidden: {what}"),
        );
    u.dev("GET", "/api/v1/namespaces/default/secrets/x", Value::Null)
        .await
        .is(403);
    u.dev("PATCH", &format!("{roles}/{whole}"), label).await.says(
        403,
        "Forbidden",
        &format!("clusterroles.{RBAC} \"{whole}\" is forbidden: must have cluster-admin privileges to use the aggregationRule"),
    );
    // What garbage collection writes needs no such right.
    let kept = json!({"metadata": {"finalizers": ["test.dev/kept"]}});
    for path in [
        &rich_role,
        &format!("{bindings}/{rich}"),
        &format!("{roles}/{whole}"),
    ] {
        u.dev("PATCH", path, kept.clone()).await.is(200);
        u.dev("PATCH", path, json!({"metadata": {"finalizers": null}}))
            .await
            .is(200);
    }
    for role in [&whole, &rich, &held] {
        u.delete(&format!("{bindings}/{role}")).await.is(200);
        u.delete(&format!("{roles}/{role}")).await.is(200);
    }
    u.end().await;
}

#[tokio::test]
async fn reviews_tell_who_may_do_what() {
    let u = Under::start().await;
    grant(
        &u,
        with_probe(json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}])),
    )
    .await;
    let review = async |kind: &str, body: Value, dev: bool| {
        let path = format!("/apis/authorization.k8s.io/v1/{kind}");
        let got = if dev {
            u.dev("POST", &path, body).await
        } else {
            u.post(&path, body).await
        };
        got.is(201).body["status"].clone()
    };
    let attributes = |verb: &str| json!({"resourceAttributes": {"namespace": u.namespace, "verb": verb, "resource": "pods"}});
    let may = review(
        "selfsubjectaccessreviews",
        json!({"spec": attributes("get")}),
        true,
    )
    .await;
    assert_eq!(
        may,
        json!({"allowed": true, "reason": format!("RBAC: allowed by RoleBinding \"b/{}\" of Role \"r\" to User \"dev\"", u.namespace)})
    );
    assert_eq!(
        review(
            "selfsubjectaccessreviews",
            json!({"spec": attributes("list")}),
            true
        )
        .await,
        json!({"allowed": false})
    );
    assert_eq!(
        review(
            "selfsubjectaccessreviews",
            json!({"spec": attributes("list")}),
            false
        )
        .await["allowed"],
        true
    );
    let mut other = json!({"spec": attributes("get")});
    other["spec"]["user"] = "dev".into();
    assert_eq!(
        review("subjectaccessreviews", other.clone(), false).await["allowed"],
        true
    );
    other["spec"]["user"] = "nobody".into();
    assert_eq!(
        review("subjectaccessreviews", other, false).await["allowed"],
        false
    );
    u.dev(
        "POST",
        "/apis/authorization.k8s.io/v1/subjectaccessreviews",
        json!({"spec": attributes("get")}),
    )
    .await
    .is(403);
    let rules = review(
        "selfsubjectrulesreviews",
        json!({"spec": {"namespace": u.namespace}}),
        true,
    )
    .await;
    let mine = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]});
    assert!(
        rules["resourceRules"].as_array().unwrap().contains(&mine),
        "{rules}"
    );
    if older_in_part(28, "SelfSubjectReview") {
        return u.end().await;
    }
    let who = u
        .dev(
            "POST",
            "/apis/authentication.k8s.io/v1/selfsubjectreviews",
            json!({}),
        )
        .await
        .is(201);
    assert_eq!(
        (
            who.text("/status/userInfo/username"),
            &who.body["status"]["userInfo"]["groups"]
        ),
        ("dev".into(), &json!(["system:authenticated"]))
    );
    u.end().await;
}

#[tokio::test]
async fn tokens_of_service_accounts_are_made_and_checked() {
    let u = Under::start().await;
    let accounts = u.path("serviceaccounts");
    u.post(&accounts, json!({"metadata": {"name": "m"}}))
        .await
        .is(201);
    let request =
        |spec: Value| json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    let token = async |spec: Value| u.post(&format!("{accounts}/m/token"), request(spec)).await;
    let made = token(json!({"expirationSeconds": 700})).await.is(201);
    assert_eq!(made.body["spec"]["expirationSeconds"], 700);
    let jwt = made.text("/status/token");
    let user = format!("system:serviceaccount:{}:m", u.namespace);
    if !older_in_part(28, "SelfSubjectReview") {
        let who = u
            .ask(
                &jwt,
                "POST",
                "/apis/authentication.k8s.io/v1/selfsubjectreviews",
                &[("content-type", "application/json")],
                b"{}".to_vec(),
            )
            .await
            .is(201);
        assert_eq!(who.text("/status/userInfo/username"), user);
        assert_eq!(
            who.body["status"]["userInfo"]["groups"],
            json!([
                "system:serviceaccounts",
                format!("system:serviceaccounts:{}", u.namespace),
                "system:authenticated"
            ])
        );
    }
    let refused = u.ask(&jwt, "GET", &u.path("secrets"), &[], Vec::new()).await;
    refused.says(403, "Forbidden", &format!("secrets is forbidden: User {user:?} cannot list resource \"secrets\" in API group \"\" in the namespace {:?}", u.namespace));
    let review = async |token: &str, audiences: Value| {
        u.post(
            "/apis/authentication.k8s.io/v1/tokenreviews",
            json!({"spec": {"token": token, "audiences": audiences}}),
        )
        .await
        .is(201)
        .body["status"]
            .clone()
    };
    assert_eq!(review(&jwt, Value::Null).await["user"]["username"], user.as_str());
    assert_ne!(review(&jwt, json!(["elsewhere"])).await["authenticated"], true);
    assert_ne!(review("nonsense", Value::Null).await["authenticated"], true);
    let elsewhere = token(json!({"audiences": ["elsewhere"]}))
        .await
        .is(201)
        .text("/status/token");
    u.ask(&elsewhere, "GET", "/version", &[], Vec::new())
        .await
        .says(401, "Unauthorized", "Unauthorized");
    for (spec, why) in [
        (
            json!({"expirationSeconds": 10}),
            "spec.expirationSeconds: Invalid value: 10: may not specify a duration less than 10 minutes",
        ),
        (
            json!({"expirationSeconds": 5_000_000_000_i64}),
            "spec.expirationSeconds: Invalid value: 5000000000: may not specify a duration larger than 2^32 seconds",
        ),
    ] {
        assert_eq!(token(spec).await.is(422).causes(), [why]);
    }
    u.post(&u.path("secrets"), json!({"metadata": {"name": "s"}}))
        .await
        .is(201);
    let bound = token(json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Secret", "name": "s"}}))
        .await
        .is(201)
        .text("/status/token");
    u.ask(&bound, "GET", "/version", &[], Vec::new()).await.is(200);
    u.delete(&format!("{}/s", u.path("secrets"))).await.is(200);
    u.until("a token ends with what it is bound to", async || {
        u.ask(&bound, "GET", "/version", &[], Vec::new()).await.status == 401
    })
    .await;
    u.delete(&format!("{accounts}/m")).await.is(200);
    u.until("a token ends with its account", async || {
        u.ask(&jwt, "GET", "/version", &[], Vec::new()).await.status == 401
    })
    .await;
    u.end().await;
}

#[tokio::test]
async fn others_are_impersonated_by_right_only() {
    let u = Under::start().await;
    let path = u.path("configmaps");
    let get =
        async |token: &str, headers: &[(&str, &str)]| u.ask(token, "GET", &path, headers, Vec::new()).await;
    let refused = get(DEV_TOKEN, &[("impersonate-user", "admin")]).await;
    refused.says(403, "Forbidden", "users \"admin\" is forbidden: User \"dev\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope");
    let refused = get(ADMIN_TOKEN, &[("impersonate-user", "dev")]).await;
    refused.says(403, "Forbidden", &format!("configmaps is forbidden: User \"dev\" cannot list resource \"configmaps\" in API group \"\" in the namespace {:?}", u.namespace));
    get(
        ADMIN_TOKEN,
        &[
            ("impersonate-user", "dev"),
            ("impersonate-group", "system:masters"),
        ],
    )
    .await
    .is(200);
    get("nonsense", &[])
        .await
        .says(401, "Unauthorized", "Unauthorized");
    let nobody = get("", &[]).await;
    nobody.says(403, "Forbidden", &format!("configmaps is forbidden: User \"system:anonymous\" cannot list resource \"configmaps\" in API group \"\" in the namespace {:?}", u.namespace));
    u.end().await;
}
