//! What is over is taken away: members after their tombstone's time, requests after theirs.

#![allow(clippy::unwrap_used, reason = "a test fails where there is none")]

mod common;

use common::{Broker, gateway, until};
use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;
use kube::api::{Api, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;
use strait_api::names::BROKER_NAMESPACE;
use strait_api::records::{Gateway, JoinRequest, JoinRequestSpec, Member};

async fn names<K>(api: Api<K>) -> Vec<String>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let list = api.list(&ListParams::default()).await.unwrap();
    list.items.iter().map(ResourceExt::name_any).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_over_is_cleared_away() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start(&data, None).await;
    let post = PostParams::default();
    let namespaces: Api<Namespace> = Api::all(broker.client.clone());
    let metadata = ObjectMeta {
        name: Some("strait-m-old".to_owned()),
        ..ObjectMeta::default()
    };
    let namespace = Namespace {
        metadata,
        ..Namespace::default()
    };
    namespaces.create(&post, &namespace).await.unwrap();
    let gateways: Api<Gateway> = Api::namespaced(broker.client.clone(), "strait-m-old");
    let mut held = gateway("old", "node", &[]);
    held.metadata.finalizers = Some(vec!["example.com/never-lifted".to_owned()]);
    gateways.create(&post, &held).await.unwrap();
    let member: Member = serde_json::from_value(json!({
        "apiVersion": "strait.dev/v1alpha1", "kind": "Member", "metadata": { "name": "old" },
        "spec": {
            "clusterId": "old", "uid": "u", "prefixes": ["10.9.0.0/16"], "state": "Evicted", "epoch": 7,
            "admittedAt": "2020-01-01T00:00:00Z", "removedAt": "2020-02-01T00:00:00Z",
        },
    }))
    .unwrap();
    broker.members().create(&post, &member).await.unwrap();

    let spec = JoinRequestSpec {
        expires_at: "2020-01-01T00:00:00Z".to_owned(),
        ..JoinRequestSpec::default()
    };
    let requests: Api<JoinRequest> = Api::namespaced(broker.client.clone(), BROKER_NAMESPACE);
    requests
        .create(&post, &JoinRequest::new("join-old", spec))
        .await
        .unwrap();
    let status = json!({ "status": { "expiresAt": "2020-01-01T00:00:00Z" } });
    requests
        .patch_status("join-old", &PatchParams::default(), &Patch::Merge(&status))
        .await
        .unwrap();

    until("the old member and the old request are gone", || async {
        let left = [
            names(broker.members()).await,
            names(requests.clone()).await,
            names(gateways.clone()).await,
        ]
        .concat();
        let namespace = namespaces.get_opt("strait-m-old").await.unwrap();
        let ends = namespace.is_none_or(|n| n.metadata.deletion_timestamp.is_some());
        if left.is_empty() && ends {
            Ok(())
        } else {
            Err(format!("left: {left:?}; the namespace ends: {ends}"))
        }
    })
    .await;
    broker.stop().await;
}
