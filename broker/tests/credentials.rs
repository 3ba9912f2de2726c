//! The wall between members: what each credential can do, and all the rest that it cannot.

#![allow(clippy::unwrap_used, reason = "a test fails where there is none")]

mod common;

use std::time::Duration;

use common::{Broker, Home, exported_service, gateway, joiner, until};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, Error};
use serde_json::json;
use strait_api::names;
use strait_api::records::{Cluster, ExportedService, Gateway, JoinRequest, Member};
use strait_broker::connection::{Bearer, Membership, mint};

/// The HTTP status of a refusal; 200 if it was none.
fn outcome<T>(result: Result<T, Error>) -> u16 {
    match result {
        Ok(_) => 200,
        Err(Error::Api(status)) => status.code,
        Err(e) => panic!("not an answer of the API: {e}"),
    }
}

fn namespaced<K>(client: &Client, namespace: &str) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    Api::namespaced(client.clone(), namespace)
}

fn post() -> PostParams {
    PostParams::default()
}

async fn token_for(client: &Client, namespace: &str, account: &str) -> u16 {
    let accounts: Api<ServiceAccount> = namespaced(client, namespace);
    let request = TokenRequest {
        spec: TokenRequestSpec::default(),
        ..TokenRequest::default()
    };
    outcome(accounts.create_token_request(account, &post(), &request).await)
}

/// Tries everything that is nobody's business but the administrator's.
async fn everything_else_is_refused(client: &Client, whose: &str) {
    let mut tried: Vec<(&str, u16)> = Vec::new();
    let all = ListParams::default();
    let secrets: Api<Secret> = Api::all(client.clone());
    tried.push(("list secrets", outcome(secrets.list(&all).await)));
    for namespace in [
        "strait-m-blue",
        "strait-m-green",
        names::BROKER_NAMESPACE,
        "kube-system",
    ] {
        let secrets: Api<Secret> = namespaced(client, namespace);
        tried.push(("list secrets in a namespace", outcome(secrets.list(&all).await)));
        let maps: Api<ConfigMap> = namespaced(client, namespace);
        tried.push(("list config maps", outcome(maps.list(&all).await)));
        let pods: Api<Pod> = namespaced(client, namespace);
        tried.push(("list pods", outcome(pods.list(&all).await)));
        let accounts: Api<ServiceAccount> = namespaced(client, namespace);
        tried.push(("list accounts", outcome(accounts.list(&all).await)));
        let account = serde_json::from_value(json!({"metadata": {"name": "mine"}})).unwrap();
        tried.push((
            "create an account",
            outcome(accounts.create(&post(), &account).await),
        ));
        let roles: Api<Role> = namespaced(client, namespace);
        tried.push(("list roles", outcome(roles.list(&all).await)));
        let role = serde_json::from_value(json!({"metadata": {"name": "mine"}, "rules": []})).unwrap();
        tried.push(("create a role", outcome(roles.create(&post(), &role).await)));
        let bindings: Api<RoleBinding> = namespaced(client, namespace);
        let binding = json!({"metadata": {"name": "mine"}, "subjects": [],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}});
        let binding = serde_json::from_value(binding).unwrap();
        tried.push((
            "create a binding",
            outcome(bindings.create(&post(), &binding).await),
        ));
        tried.push((
            "delete a binding",
            outcome(bindings.delete("strait-member", &DeleteParams::default()).await),
        ));
        let requests: Api<JoinRequest> = namespaced(client, namespace);
        tried.push(("list join requests", outcome(requests.list(&all).await)));
        let request = JoinRequest::new("mine", Default::default());
        tried.push((
            "create a join request",
            outcome(requests.create(&post(), &request).await),
        ));
        let leases: Api<Lease> = namespaced(client, namespace);
        tried.push(("list leases", outcome(leases.list(&all).await)));
    }
    let nodes: Api<Node> = Api::all(client.clone());
    tried.push(("list nodes", outcome(nodes.list(&all).await)));
    let namespaces: Api<Namespace> = Api::all(client.clone());
    tried.push(("list namespaces", outcome(namespaces.list(&all).await)));
    tried.push((
        "delete a namespace",
        outcome(
            namespaces
                .delete("strait-m-green", &DeleteParams::default())
                .await,
        ),
    ));
    let roles: Api<ClusterRole> = Api::all(client.clone());
    tried.push(("list cluster roles", outcome(roles.list(&all).await)));
    let bindings: Api<ClusterRoleBinding> = Api::all(client.clone());
    tried.push((
        "delete a cluster role binding",
        outcome(
            bindings
                .delete("strait-member-reader:green", &DeleteParams::default())
                .await,
        ),
    ));
    let members: Api<Member> = Api::all(client.clone());
    let grab = json!({"spec": {"prefixes": ["0.0.0.0/0"], "state": "Active"}});
    for id in ["blue", "green"] {
        let patched = members
            .patch(id, &PatchParams::default(), &Patch::Merge(&grab))
            .await;
        tried.push(("patch a member", outcome(patched)));
        tried.push((
            "delete a member",
            outcome(members.delete(id, &DeleteParams::default()).await),
        ));
    }
    for (what, code) in tried {
        assert_eq!(code, 403, "{whose} could {what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_writes_its_own_kinds_in_its_own_namespace_and_nothing_else() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start(&data, None).await;
    let (blue, green) = (Home::start("blue", 1).await, Home::start("green", 2).await);
    blue.join_at(&broker).await;
    green.join_at(&broker).await;
    let client = blue.connect().await.client.clone();

    // What it may.
    let own: Api<ExportedService> = namespaced(&client, "strait-m-blue");
    let record = exported_service("blue", "web", "10.1.0.1");
    assert_eq!(outcome(own.create(&post(), &record).await), 200);
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    assert_eq!(
        outcome(
            own.patch("web.demo", &PatchParams::default(), &Patch::Merge(&label))
                .await
        ),
        200
    );
    let gateways: Api<Gateway> = namespaced(&client, "strait-m-blue");
    assert_eq!(
        outcome(gateways.create(&post(), &gateway("blue", "gw", &[])).await),
        200
    );
    let clusters: Api<Cluster> = namespaced(&client, "strait-m-blue");
    assert_eq!(outcome(clusters.list(&ListParams::default()).await), 200);
    let everywhere: Api<ExportedService> = Api::all(client.clone());
    assert_eq!(
        everywhere.list(&ListParams::default()).await.unwrap().items.len(),
        1
    );
    let members: Api<Member> = Api::all(client.clone());
    assert_eq!(members.list(&ListParams::default()).await.unwrap().items.len(), 2);
    let leases: Api<Lease> = namespaced(&client, "strait-m-blue");
    let beat = json!({"spec": {"holderIdentity": "me"}});
    assert_eq!(
        outcome(
            leases
                .patch(names::AGENT_LEASE, &PatchParams::default(), &Patch::Merge(&beat))
                .await
        ),
        200
    );
    assert_eq!(
        outcome(own.delete("web.demo", &DeleteParams::default()).await),
        200
    );

    // What it may not: its own kinds, elsewhere.
    broker_record(&broker, "green").await;
    let theirs: Api<ExportedService> = namespaced(&client, "strait-m-green");
    assert_eq!(
        outcome(theirs.get("web.demo").await),
        200,
        "it reads the others' records"
    );
    assert_eq!(
        outcome(
            theirs
                .create(&post(), &exported_service("green", "evil", "10.2.0.1"))
                .await
        ),
        403
    );
    assert_eq!(
        outcome(
            theirs
                .patch("web.demo", &PatchParams::default(), &Patch::Merge(&label))
                .await
        ),
        403
    );
    assert_eq!(
        outcome(
            theirs
                .replace("web.demo", &post(), &exported_service("green", "web", "10.2.0.1"))
                .await
        ),
        403
    );
    assert_eq!(
        outcome(theirs.delete("web.demo", &DeleteParams::default()).await),
        403
    );
    let gone = json!({"spec": {"removedAt": "2026-01-01T00:00:00Z"}});
    let their_cluster: Api<Cluster> = namespaced(&client, "strait-m-green");
    assert_eq!(
        outcome(
            their_cluster
                .patch("green", &PatchParams::default(), &Patch::Merge(&gone))
                .await
        ),
        403
    );
    for namespace in ["default", "kube-system", names::BROKER_NAMESPACE] {
        let elsewhere: Api<ExportedService> = namespaced(&client, namespace);
        assert_eq!(
            outcome(elsewhere.create(&post(), &record).await),
            403,
            "{namespace}"
        );
    }
    let status = json!({"status": {"conditions": []}});
    assert_eq!(
        outcome(
            gateways
                .patch_status("gw", &PatchParams::default(), &Patch::Merge(&status))
                .await
        ),
        403
    );
    // Other objects of its own namespace, and tokens.
    let lease = serde_json::from_value(json!({"metadata": {"name": "other"}})).unwrap();
    assert_eq!(outcome(leases.create(&post(), &lease).await), 403);
    for (namespace, account) in [
        ("strait-m-blue", "renew"),
        ("strait-m-blue", "member"),
        ("strait-m-green", "member"),
        ("strait-m-green", "renew"),
    ] {
        assert_eq!(
            token_for(&client, namespace, account).await,
            403,
            "a token for {namespace}/{account}"
        );
    }
    everything_else_is_refused(&client, "a member").await;
    blue.stop().await;
    green.stop().await;
    broker.stop().await;
}

async fn broker_record(broker: &Broker, cluster: &str) {
    let records: Api<ExportedService> = namespaced(&broker.client, &format!("strait-m-{cluster}"));
    records
        .create(&post(), &exported_service(cluster, "web", "10.2.0.1"))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_renewal_credential_makes_member_tokens_and_nothing_else() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start(&data, None).await;
    let (blue, green) = (Home::start("blue", 1).await, Home::start("green", 2).await);
    let joined = blue.join_at(&broker).await;
    green.join_at(&broker).await;
    let until: jiff::Timestamp = joined.credential_until.parse().unwrap();
    assert!(
        until.as_second() - jiff::Timestamp::now().as_second() > 300 * 24 * 3600,
        "outlives a long outage: {until}"
    );

    let membership = Membership::load(&blue.client, names::NAMESPACE).await.unwrap();
    let client = membership
        .place
        .client(&Bearer::new(membership.renewal.to_string()))
        .unwrap();
    let (_, expires) = mint(&client, "strait-m-blue", "member", Duration::from_secs(24 * 3600))
        .await
        .unwrap();
    assert!(expires.as_second() - jiff::Timestamp::now().as_second() <= 24 * 3600);
    assert_eq!(token_for(&client, "strait-m-blue", "renew").await, 403);
    assert_eq!(token_for(&client, "strait-m-green", "member").await, 403);
    // A living client goes on with the token that it is given.
    let bearer = Bearer::new("no token");
    let living = membership.place.client(&bearer).unwrap();
    let read: Api<Member> = Api::all(living);
    assert_eq!(outcome(read.list(&ListParams::default()).await), 401);
    let (token, _) = mint(&client, "strait-m-blue", "member", Duration::from_secs(3600))
        .await
        .unwrap();
    bearer.replace(token);
    assert_eq!(outcome(read.list(&ListParams::default()).await), 200);
    let own: Api<ExportedService> = namespaced(&client, "strait-m-blue");
    assert_eq!(outcome(own.list(&ListParams::default()).await), 403);
    assert_eq!(
        outcome(
            own.create(&post(), &exported_service("blue", "web", "10.1.0.1"))
                .await
        ),
        403
    );
    let members: Api<Member> = Api::all(client.clone());
    assert_eq!(outcome(members.list(&ListParams::default()).await), 403);
    everything_else_is_refused(&client, "the renewal credential").await;
    blue.stop().await;
    green.stop().await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_token_sees_its_own_request_and_nothing_else() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start(&data, None).await;
    let green = Home::start("green", 2).await;
    green.join_at(&broker).await;
    let (token, other) = (broker.token(None).await, broker.token(None).await);
    let client = joiner(&token);
    let requests: Api<JoinRequest> = namespaced(&client, names::BROKER_NAMESPACE);
    assert_eq!(outcome(requests.get(&token.request).await), 200);
    assert_eq!(outcome(requests.get(&other.request).await), 403);
    let claim = json!({"spec": {"preapproved": "blue"}});
    assert_eq!(
        outcome(
            requests
                .patch(&other.request, &PatchParams::default(), &Patch::Merge(&claim))
                .await
        ),
        403
    );
    let accept = json!({"status": {"state": "Accepted", "preapproved": "blue"}});
    assert_eq!(
        outcome(
            requests
                .patch_status(&token.request, &PatchParams::default(), &Patch::Merge(&accept))
                .await
        ),
        403
    );
    assert_eq!(
        outcome(requests.delete(&token.request, &DeleteParams::default()).await),
        403
    );
    let members: Api<Member> = Api::all(client.clone());
    assert_eq!(
        outcome(members.list(&ListParams::default()).await),
        403,
        "nothing is readable before acceptance"
    );
    let clusters: Api<Cluster> = Api::all(client.clone());
    assert_eq!(outcome(clusters.list(&ListParams::default()).await), 403);
    assert_eq!(token_for(&client, "strait-m-green", "renew").await, 403);
    assert_eq!(
        token_for(&client, names::BROKER_NAMESPACE, &other.request).await,
        403
    );
    everything_else_is_refused(&client, "a join token").await;
    green.stop().await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_evicted_members_credentials_are_refused_at_once() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start(&data, None).await;
    let blue = Home::start("blue", 1).await;
    blue.join_at(&broker).await;
    let membership = Membership::load(&blue.client, names::NAMESPACE).await.unwrap();
    let client = blue.connect().await.client.clone();
    let members: Api<Member> = Api::all(client);
    members.get("blue").await.unwrap();
    strait_broker::admin::evict(&broker.client, &"blue".parse().unwrap())
        .await
        .unwrap();
    let code = until("the refusal", || async {
        match outcome(members.get("blue").await) {
            200 => Err("still answered".to_owned()),
            code => Ok(code),
        }
    })
    .await;
    // A real server remembers for some seconds who a token belongs to, but not what they may.
    assert!(code == 401 || code == 403, "{code}");
    until("the end of the token", || async {
        match outcome(members.get("blue").await) {
            401 => Ok(()),
            403 => Err("refused, but known".to_owned()),
            code => panic!("{code} after a refusal"),
        }
    })
    .await;
    let e = membership.connect().await.unwrap_err().to_string();
    assert!(
        e.contains("refuses this cluster's credential") && e.contains("evicted"),
        "{e}"
    );
    blue.stop().await;
    broker.stop().await;
}
