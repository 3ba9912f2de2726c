//! Joining: the double opt-in, and what is refused.

#![allow(clippy::unwrap_used, reason = "a test fails where there is none")]

mod common;

use std::time::Duration;

use common::{Broker, Home, PATIENCE, joiner, until};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::json;
use strait_api::names;
use strait_api::records::{JoinRequest, JoinState, MemberState};
use strait_broker::admin::{accept, delete_token, reject};
use strait_broker::args::{AcceptArgs, RejectArgs};
use strait_broker::controllers::Controllers;
use strait_broker::join::{Progress, join};
use strait_core::admission::Settings;

fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|p| p.parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_joins_once_both_sides_have_agreed() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start(&data, None).await;
    let blue = Home::start("blue", 1).await;
    let token = broker.token(None).await;
    assert_eq!(token.url, broker.url);

    let request = token.request.clone();
    let (joining, shown) = blue.begin_to_join(&token).await;
    let pending = broker
        .request_where(&request, |r| {
            r.status
                .as_ref()
                .is_some_and(|s| s.state == Some(JoinState::Pending))
        })
        .await;
    let claim = pending.spec.claim.clone().unwrap();
    assert_eq!(claim.key_fingerprint, shown);
    assert_eq!(
        claim.pod_cidrs,
        nets(&["10.1.0.0/16"]),
        "the union of the nodes' prefixes"
    );
    assert_eq!(claim.vip_cidrs, nets(&["243.0.0.0/16"]));
    assert!(
        broker
            .members()
            .list(&Default::default())
            .await
            .unwrap()
            .items
            .is_empty(),
        "nothing before the yes"
    );

    let other = AcceptArgs {
        name: request.clone(),
        fingerprint: Some("SHA256:x".into()),
        ..Default::default()
    };
    let refused = accept(&broker.client, &pending, &other)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains(&shown) && refused.contains("SHA256:x"),
        "{refused}"
    );
    let yes = AcceptArgs {
        name: request.clone(),
        fingerprint: Some(shown.clone()),
        ..Default::default()
    };
    accept(&broker.client, &pending, &yes).await.unwrap();

    let joined = joining.await.unwrap().unwrap();
    assert_eq!(joined.node_blocks, nets(&["240.0.0.0/20"]));
    assert_eq!(joined.member_namespace, "strait-m-blue");
    let member = broker.members().get("blue").await.unwrap().spec;
    assert_eq!(
        (member.state, member.prefixes),
        (MemberState::Active, nets(&["10.1.0.0/16"]))
    );
    assert_eq!(member.key_fingerprint, Some(shown));
    let own = blue.clusters().get("blue").await.unwrap();
    assert_eq!(own.spec.pod_cidrs, nets(&["10.1.0.0/16"]));
    assert_eq!(own.spec.service_cidrs, nets(&["10.96.0.0/16"]));
    let secrets: Api<Secret> = Api::namespaced(blue.client.clone(), names::NAMESPACE);
    let keys: Vec<String> = secrets
        .get("strait-broker")
        .await
        .unwrap()
        .data
        .unwrap()
        .into_keys()
        .collect();
    assert_eq!(keys, ["ca.crt", "cluster", "identity", "token", "url"]);

    // A second cluster gets the next block; the first, joining again, keeps all that it had.
    let green = Home::start("green", 2).await;
    assert_eq!(green.join_at(&broker).await.node_blocks, nets(&["240.0.16.0/20"]));
    let again = blue.join_at(&broker).await;
    assert_eq!(
        (again.node_blocks, again.fingerprint),
        (joined.node_blocks, joined.fingerprint)
    );
    blue.stop().await;
    green.stop().await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joiner_that_gave_up_or_was_ended_goes_on_with_the_same_token() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start(&data, None).await;
    let secrets = |home: &Home| Api::<Secret>::namespaced(home.client.clone(), names::NAMESPACE);

    // Nobody accepted in time; then somebody did.
    let blue = Home::start("blue", 1).await;
    let token = broker.token(None).await;
    let mut hasty = blue.options();
    hasty.timeout = Duration::from_millis(100);
    let e = join(&blue.client, &token, &hasty, |_| {})
        .await
        .unwrap_err()
        .to_string();
    assert!(e.contains("again with the same token"), "{e}");
    let asked = broker.accept(&token.request).await.spec.claim.unwrap();
    broker
        .request_where(&token.request, |r| {
            r.status
                .as_ref()
                .is_some_and(|s| s.state == Some(JoinState::Accepted))
        })
        .await;

    // What was accepted is what counts: other ranges are refused by name, with the way on.
    let mut other = blue.options();
    other.pod_cidrs = nets(&["10.9.0.0/16"]);
    let e = join(&blue.client, &token, &other, |_| {})
        .await
        .unwrap_err()
        .to_string();
    assert!(
        e.contains("pods 10.1.0.0/16, here 10.9.0.0/16") && e.contains("--pod-cidr") && !e.contains("UID"),
        "{e}"
    );

    let joined = blue.join(&token).await.unwrap();
    assert_eq!(joined.fingerprint, asked.key_fingerprint);
    assert!(secrets(&blue).get_opt("strait-join").await.unwrap().is_none());

    // Ended while it waited.
    let green = Home::start("green", 2).await;
    let token = broker.token(None).await;
    let (joining, shown) = green.begin_to_join(&token).await;
    joining.abort();
    assert!(joining.await.unwrap_err().is_cancelled());
    broker.accept(&token.request).await;
    assert_eq!(green.join(&token).await.unwrap().fingerprint, shown);

    // A no ends it: nothing is kept.
    let red = Home::start("red", 3).await;
    let token = broker.token(None).await;
    hasty.cluster_id = "red".parse().unwrap();
    hasty.pod_cidrs = nets(&["10.3.0.0/16"]);
    assert!(join(&red.client, &token, &hasty, |_| {}).await.is_err());
    assert!(secrets(&red).get_opt("strait-join").await.unwrap().is_some());
    let no = RejectArgs {
        name: token.request.clone(),
        reason: "no".into(),
    };
    reject(&broker.client, &no).await.unwrap();
    // The broker takes the token back as well: the joiner hears the one or the other.
    let e = join(&red.client, &token, &hasty, |_| {})
        .await
        .unwrap_err()
        .to_string();
    assert!(e.contains("rejected") || e.contains("taken back"), "{e}");
    for home in [blue, green, red] {
        home.stop().await;
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_id_an_overlap_and_a_bad_prefix_are_refused_with_the_reason() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start(&data, None).await;
    let blue = Home::start("blue", 1).await;
    blue.join_at(&broker).await;

    let impostor = Home::start("blue", 2).await;
    let token = broker.token(Some("blue")).await;
    let e = impostor.join(&token).await.unwrap_err().to_string();
    assert!(e.contains("cluster ID blue is taken by another cluster"), "{e}");

    let overlapping = Home::start("green", 1).await;
    let token = broker.token(Some("green")).await;
    let e = overlapping.join(&token).await.unwrap_err().to_string();
    assert!(
        e.contains(
            "pod prefix 10.1.0.0/16 of cluster green overlaps with admitted prefix 10.1.0.0/16 of member blue"
        ),
        "{e}"
    );
    let request = broker.requests().get(&token.request).await.unwrap();
    let status = request.status.unwrap();
    let valid = status.conditions.iter().find(|c| c.type_ == "Valid").unwrap();
    assert_eq!(
        (valid.status.as_str(), valid.reason.as_str()),
        ("False", "PrefixOverlaps")
    );
    assert!(broker.members().get_opt("green").await.unwrap().is_none());

    // The same token serves once the range is changed.
    let mut options = overlapping.options();
    options.pod_cidrs = nets(&["0.0.0.0/0"]);
    let e = join(&overlapping.client, &token, &options, |_| {})
        .await
        .unwrap_err()
        .to_string();
    assert!(e.contains("default route"), "{e}");
    options.pod_cidrs = nets(&["10.7.0.0/16"]);
    join(&overlapping.client, &token, &options, |_| {}).await.unwrap();
    for home in [blue, impostor, overlapping] {
        home.stop().await;
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_deleted_and_foreign_tokens_are_refused_with_a_clear_message() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start(&data, None).await;
    let blue = Home::start("blue", 1).await;
    let short = broker.token_for(Some("blue"), Duration::from_secs(1)).await;
    broker
        .request_where(&short.request, |r| {
            r.status
                .as_ref()
                .is_some_and(|s| s.state == Some(JoinState::Rejected))
        })
        .await;
    let e = blue.join(&short).await.unwrap_err().to_string();
    assert!(
        e.contains(&format!(
            "refused the join token: it expired at {}",
            short.expires
        )),
        "{e}"
    );
    assert!(
        e.contains("strait broker token create") && !e.contains(&short.bearer),
        "{e}"
    );

    // Made out to another cluster: both are named at once, and nobody but an administrator lets it in.
    let (notes, mut noted) = tokio::sync::mpsc::unbounded_channel();
    let (client, mut options) = (blue.client.clone(), blue.options());
    options.timeout = Duration::from_millis(100);
    let foreign = broker.token(Some("red")).await;
    let refused = join(&client, &foreign, &options, |p| {
        if let Progress::Note(note) = p {
            notes.send(note).unwrap();
        }
    })
    .await;
    assert!(refused.is_err());
    let mut told = Vec::new();
    while let Ok(note) = noted.try_recv() {
        told.push(note);
    }
    assert!(
        told.iter()
            .any(|n| n.contains("cluster red") && n.contains("blue") && n.contains("--cluster-id red")),
        "{told:?}"
    );

    let mut forged = broker.token(Some("blue")).await;
    forged.bearer = "forged".into();
    let e = blue.join(&forged).await.unwrap_err().to_string();
    assert!(e.contains("it has expired or was taken back"), "{e}");

    // The certificate is checked against the one that the token names.
    let other_data = tempfile::tempdir().unwrap();
    let other = Broker::start_idle(&other_data, None).await;
    let mut misdirected = broker.token(Some("blue")).await;
    misdirected.url = other.url.clone();
    let e = blue.join(&misdirected).await.unwrap_err().to_string();
    assert!(e.contains("cannot be reached") && e.contains(&other.url), "{e}");
    other.stop().await;

    let rejected = broker.token(None).await;
    let args = RejectArgs {
        name: rejected.request.clone(),
        reason: "who are you?".into(),
    };
    reject(&broker.client, &args).await.unwrap();
    let e = blue.join(&rejected).await.unwrap_err().to_string();
    assert!(
        e.contains("who are you?") || e.contains("it has expired or was taken back"),
        "{e}"
    );
    assert!(
        blue.clusters()
            .list(&Default::default())
            .await
            .unwrap()
            .items
            .is_empty(),
        "nothing was written here"
    );
    blue.stop().await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joiner_cannot_hold_its_request_back_from_deletion() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start_idle(&data, None).await;
    for file in ["broker/member-roles.yaml", "broker/broker.yaml"] {
        broker.apply(file).await;
    }
    let held = async || {
        let token = broker.token(Some("blue")).await;
        let requests: Api<JoinRequest> = Api::namespaced(joiner(&token), names::BROKER_NAMESPACE);
        let claim = json!({"clusterId": "blue", "uid": "u", "podCidrs": ["10.1.0.0/16"], "keyFingerprint": "SHA256:a"});
        let patch = json!({"metadata": {"finalizers": ["example.org/mine"]}, "spec": {"claim": claim}});
        requests
            .patch(&token.request, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .unwrap();
        (token.request, requests)
    };
    // By the administrator's command: it is gone at once, and so is the joiner.
    let (name, requests) = held().await;
    delete_token(&broker.client, &name).await.unwrap();
    assert!(broker.requests().get_opt(&name).await.unwrap().is_none());
    until("the joiner's refusal", async || match requests.get(&name).await {
        Err(kube::Error::Api(status)) if [401, 403].contains(&status.code) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;

    // Deleted by other means it waits; nobody is let in by it, and the controllers let it go.
    let (name, _) = held().await;
    broker
        .requests()
        .delete(&name, &DeleteParams::default())
        .await
        .unwrap();
    let request = broker.requests().get(&name).await.unwrap();
    assert!(request.metadata.deletion_timestamp.is_some());
    let yes = AcceptArgs {
        name: name.clone(),
        yes: true,
        ..Default::default()
    };
    let e = accept(&broker.client, &request, &yes)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        e.contains(&format!("join request {name} is being deleted; make a new token")),
        "{e}"
    );
    // With no more rights than deploy/broker gives them.
    let mut controllers = Controllers::new(broker.account().await, Settings::default());
    controllers.round().await.unwrap();
    assert!(broker.requests().get_opt(&name).await.unwrap().is_none());
    let members = broker.members().list(&Default::default()).await.unwrap().items;
    assert!(members.is_empty(), "{members:?}");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joiner_cannot_grant_itself_anything() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start_idle(&data, None).await;
    let mut controllers = Controllers::new(broker.client.clone(), Settings::default());
    let token = broker.token(None).await;
    let requests: Api<JoinRequest> = Api::namespaced(joiner(&token), names::BROKER_NAMESPACE);
    let claim =
        json!({"clusterId": "blue", "uid": "u", "podCidrs": ["10.1.0.0/16"], "keyFingerprint": "SHA256:a"});
    let patch = async |p: serde_json::Value| {
        requests
            .patch(&token.request, &PatchParams::default(), &Patch::Merge(&p))
            .await
            .unwrap()
    };
    patch(
        json!({"spec": {"claim": claim, "preapproved": "blue", "expiresAt": "2099-01-01T00:00:00Z"},
        "status": {"preapproved": "blue", "state": "Accepted"}}),
    )
    .await;
    controllers.round().await.unwrap();
    let request = broker.requests().get(&token.request).await.unwrap();
    let status = request.status.clone().unwrap();
    assert_eq!(
        status.state,
        Some(JoinState::Pending),
        "spec.preapproved is not what counts"
    );
    assert_eq!(status.expires_at.as_deref(), Some(token.expires.as_str()));

    // What was accepted is the claim that was shown, not one that was put in its place.
    let yes = AcceptArgs {
        name: token.request.clone(),
        yes: true,
        ..Default::default()
    };
    accept(&broker.client, &request, &yes).await.unwrap();
    patch(json!({"spec": {"claim": {"podCidrs": ["10.0.0.0/8"]}}})).await;
    controllers.round().await.unwrap();
    let status = broker
        .requests()
        .get(&token.request)
        .await
        .unwrap()
        .status
        .unwrap();
    assert_eq!(status.state, Some(JoinState::Pending));
    let accepted = status.conditions.iter().find(|c| c.type_ == "Accepted").unwrap();
    assert_eq!(
        (accepted.status.as_str(), accepted.reason.as_str()),
        ("False", "ClaimChanged")
    );
    assert!(
        broker
            .members()
            .list(&Default::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_leaves_and_may_come_back_under_its_id_while_nobody_else_may() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start(&data, None).await;
    let blue = Home::start("blue", 1).await;
    let joined = blue.join_at(&broker).await;
    strait_broker::leave::leave(&blue.client, names::NAMESPACE, false)
        .await
        .unwrap();
    let gone = broker.members().get("blue").await.unwrap().spec;
    assert_eq!(gone.state, MemberState::Evicted);
    assert!(gone.removed_at.is_some());
    assert!(
        blue.clusters()
            .list(&Default::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
    let e = strait_broker::leave::leave(&blue.client, names::NAMESPACE, false)
        .await
        .unwrap_err()
        .to_string();
    assert!(e.contains("no member of a clusterset"), "{e}");

    let other = Home::start("blue", 2).await;
    let token = broker.token(Some("blue")).await;
    let e = other.join(&token).await.unwrap_err().to_string();
    assert!(e.contains("reserved until 30 days after"), "{e}");

    let again = blue.join_at(&broker).await;
    assert_eq!(again.node_blocks, joined.node_blocks);
    let back = broker.members().get("blue").await.unwrap().spec;
    assert!(back.epoch > gone.epoch && back.state == MemberState::Active && back.removed_at.is_none());
    // The tombstone of the time before does not put it out again.
    tokio::time::timeout(PATIENCE, async {
        let mut controllers = Controllers::new(broker.client.clone(), Settings::default());
        controllers.round().await.unwrap();
    })
    .await
    .unwrap();
    assert_eq!(
        broker.members().get("blue").await.unwrap().spec.state,
        MemberState::Active
    );
    blue.stop().await;
    other.stop().await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_member_needs_is_made_again_where_it_was_taken_away() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start(&data, None).await;
    let blue = Home::start("blue", 1).await;
    blue.join_at(&broker).await;
    let bindings: Api<k8s_openapi::api::rbac::v1::RoleBinding> =
        Api::namespaced(broker.client.clone(), "strait-m-blue");
    bindings
        .delete("strait-member", &Default::default())
        .await
        .unwrap();
    let mut controllers = Controllers::new(broker.client.clone(), Settings::default());
    controllers.round().await.unwrap();
    let names: Vec<String> = bindings
        .list(&Default::default())
        .await
        .unwrap()
        .iter()
        .map(|b| b.name_any())
        .collect();
    assert!(names.contains(&"strait-member".to_owned()), "{names:?}");
    until("the member's credential works", || async {
        let api: Api<strait_api::records::Cluster> =
            Api::namespaced(blue.connect().await.client, "strait-m-blue");
        api.list(&Default::default())
            .await
            .map(|_| ())
            .map_err(|e| e.to_string())
    })
    .await;
    blue.stop().await;
    broker.stop().await;
}
