//! The controllers against an API server.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::{World, until};
use futures::{StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams, Patch, PatchParams, WatchEvent, WatchParams};
use serde_json::json;
use strait_api::mcs::{EndpointSliceObjects, ServiceExport, ServiceImport};
use strait_api::names;
use strait_api::records::{ExportedService, ServiceType};

async fn web(world: &World) {
    world.service("web").await;
    world.endpoints("web", &["10.1.0.5"]).await;
    world.export("web").await;
}

/// Carries the ExportedServices of one cluster to another, as the mirror does by way of the broker.
fn mirror(from: &World, to: &World) -> tokio::task::JoinHandle<()> {
    let source: Api<ExportedService> = from.api(names::NAMESPACE);
    let target: Api<ExportedService> = to.api(names::NAMESPACE);
    let owner = from.id.clone();
    tokio::spawn(async move {
        let copy_name = |name: &str| format!("{owner}.{name}");
        let events = source.watch(&WatchParams::default(), "0").await.unwrap();
        pin_mut!(events);
        while let Some(event) = events.next().await {
            match event.unwrap() {
                WatchEvent::Added(r) | WatchEvent::Modified(r)
                    if !r.labels().contains_key(names::LABEL_CLUSTER) =>
                {
                    let mut copy = ExportedService::new(&copy_name(&r.name_any()), r.spec);
                    copy.metadata.labels = Some([(names::LABEL_CLUSTER.to_owned(), owner.clone())].into());
                    let params = PatchParams::apply("mirror").force();
                    target
                        .patch(&copy.name_any(), &params, &Patch::Apply(&copy))
                        .await
                        .unwrap();
                }
                WatchEvent::Deleted(r) => {
                    target
                        .delete(&copy_name(&r.name_any()), &Default::default())
                        .await
                        .unwrap();
                }
                _ => {}
            }
        }
    })
}

#[tokio::test]
async fn an_export_is_published_and_imported() {
    let mut blue = World::new("blue", 1).await;
    blue.start();
    web(&blue).await;
    blue.export_is("web", "Ready", "True Exported").await;
    blue.export_is("web", "Valid", "True Valid").await;
    blue.export_is("web", "Conflict", "False NoConflicts").await;
    blue.backends_are("web", &["blue 10.1.0.5"]).await;

    let record = blue.record("web.demo").await.unwrap();
    assert_eq!(record.spec.cluster_id.as_str(), "blue");
    assert_eq!(record.spec.endpoints[0].ports[0].port, 8080);
    let import = until("the import has a status", || async {
        blue.import("web")
            .await
            .filter(|i| i.status.as_ref().is_some_and(|s| !s.conditions.is_empty()))
    })
    .await;
    assert_eq!(import.spec.type_, ServiceType::ClusterSetIP);
    assert!(import.spec.ips.unwrap()[0].to_string().starts_with("243.0."));
    let status = import.status.unwrap();
    assert_eq!(status.clusters[0].cluster, "blue");
    assert_eq!(status.endpoint_slice_objects, Some(EndpointSliceObjects::Present));
    assert_eq!(
        (
            status.conditions[0].status.as_str(),
            status.conditions[0].reason.as_str()
        ),
        ("True", "Ready")
    );
    let slice = blue.slices("web").await.remove(0);
    assert_eq!(
        slice.labels()["service.kubernetes.io/service-proxy-name"],
        "strait.dev"
    );
    assert_eq!(
        slice.labels()["endpointslice.kubernetes.io/managed-by"],
        "strait.dev"
    );
    assert!(!slice.labels().contains_key("kubernetes.io/service-name"));
    blue.stop().await;
}

#[tokio::test]
async fn what_is_withdrawn_goes() {
    let mut blue = World::new("blue", 1).await;
    blue.start();
    web(&blue).await;
    blue.backends_are("web", &["blue 10.1.0.5"]).await;
    blue.export_is("web", "Ready", "True Exported").await;
    let vip = blue.import("web").await.unwrap().spec.ips;

    blue.delete::<Service>("demo", "web").await;
    let why = blue.export_is("web", "Valid", "False NoService").await;
    assert!(why.contains("demo/web"), "{why}");
    until("record, import and slices are gone", || async {
        (blue.record("web.demo").await.is_none()
            && blue.import("web").await.is_none()
            && blue.slices("web").await.is_empty())
        .then_some(())
    })
    .await;

    blue.service("web").await;
    blue.backends_are("web", &["blue 10.1.0.5"]).await;
    assert_eq!(
        until("the import is back", || blue.import("web")).await.spec.ips,
        vip
    );

    blue.delete::<ServiceExport>("demo", "web").await;
    until("all is gone again", || async {
        (blue.record("web.demo").await.is_none()
            && blue.import("web").await.is_none()
            && blue.slices("web").await.is_empty())
        .then_some(())
    })
    .await;
    blue.stop().await;
}

#[tokio::test]
async fn an_endpoint_reaches_the_far_cluster_by_watch() {
    let mut blue = World::new("blue", 1).await;
    let mut green = World::new("green", 2).await;
    green.cluster("blue", 1, Some("blue")).await;
    blue.start();
    green.start();
    let carried = mirror(&blue, &green);
    web(&blue).await;
    green.backends_are("web", &["blue 10.1.0.5"]).await;
    let mut worst = Duration::ZERO;
    for round in 1..=20u8 {
        let address = format!("10.1.1.{round}");
        let started = Instant::now();
        blue.endpoints("web", &[&address]).await;
        green.backends_are("web", &[&format!("blue {address}")]).await;
        worst = worst.max(started.elapsed());
    }
    println!("slowest of 20 changes: {worst:?}");

    // Both export: both clusters see both, and the oldest wins what they differ in.
    green.service("web").await;
    green.endpoints("web", &["10.2.0.5"]).await;
    green.export("web").await;
    green
        .backends_are("web", &["blue 10.1.1.20", "green 10.2.0.5"])
        .await;
    let clusters = green.import("web").await.unwrap().status.unwrap().clusters;
    assert_eq!(clusters.len(), 2);

    blue.delete::<ServiceExport>("demo", "web").await;
    green.backends_are("web", &["green 10.2.0.5"]).await;
    carried.abort();
    blue.stop().await;
    green.stop().await;
}

#[tokio::test]
async fn a_restart_changes_nothing() {
    let mut blue = World::new("blue", 1).await;
    blue.start();
    web(&blue).await;
    blue.export_is("web", "Ready", "True Exported").await;
    blue.backends_are("web", &["blue 10.1.0.5"]).await;
    until("the import has a status", || async {
        blue.import("web").await?.status
    })
    .await;
    blue.stop().await;

    blue.wire.lock().unwrap().writes.clear();
    blue.start();
    // A second export shows that the controllers have done their round.
    blue.service("other").await;
    blue.export("other").await;
    blue.export_is("other", "Ready", "True Exported").await;
    let touched: Vec<String> = blue.writes().into_iter().filter(|w| w.contains("web")).collect();
    assert!(touched.is_empty(), "{touched:?}");
    blue.stop().await;
}

#[tokio::test]
async fn what_others_spoil_is_repaired() {
    let mut blue = World::new("blue", 1).await;
    blue.start();
    web(&blue).await;
    blue.backends_are("web", &["blue 10.1.0.5"]).await;
    let slice = blue.slices("web").await.remove(0).name_any();
    blue.delete::<EndpointSlice>("demo", &slice).await;
    blue.backends_are("web", &["blue 10.1.0.5"]).await;

    let vip = until("the import stands", || blue.import("web")).await.spec.ips;
    blue.delete::<ServiceImport>("demo", "web").await;
    let again = until("the import is back", || blue.import("web")).await;
    assert_eq!(again.spec.ips, vip);

    let spoil = json!({ "spec": { "type": "Headless" } });
    blue.api::<ServiceImport>("demo")
        .patch("web", &PatchParams::default(), &Patch::Merge(&spoil))
        .await
        .unwrap();
    until("the type is put right", || async {
        (blue.import("web").await?.spec.type_ == ServiceType::ClusterSetIP).then_some(())
    })
    .await;
    blue.delete::<ExportedService>(names::NAMESPACE, "web.demo").await;
    until("the record is back", || blue.record("web.demo")).await;
    blue.stop().await;
}

#[tokio::test]
async fn a_list_that_cannot_be_read_deletes_nothing() {
    let mut blue = World::new("blue", 1).await;
    blue.start();
    web(&blue).await;
    blue.export_is("web", "Ready", "True Exported").await;
    blue.backends_are("web", &["blue 10.1.0.5"]).await;
    blue.stop().await;

    blue.wire.lock().unwrap().writes.clear();
    blue.refuse(Some("GET /apis/multicluster.x-k8s.io/v1beta1/serviceexports"));
    blue.start();
    // Time to do the wrong thing: the other lists have long been read.
    tokio::time::sleep(Duration::from_millis(300)).await;
    blue.refuse(None);
    blue.service("other").await;
    blue.export("other").await;
    blue.export_is("other", "Ready", "True Exported").await;
    let deleted: Vec<String> = blue
        .writes()
        .into_iter()
        .filter(|w| w.starts_with("DELETE"))
        .collect();
    assert!(deleted.is_empty(), "{deleted:?}");
    assert!(blue.import("web").await.is_some());
    blue.stop().await;
}

#[tokio::test]
async fn a_write_that_fails_is_said_and_tried_again() {
    let mut blue = World::new("blue", 1).await;
    blue.refuse(Some(
        "PATCH /apis/strait.dev/v1alpha1/namespaces/strait-system/exportedservices/web.demo",
    ));
    blue.start();
    web(&blue).await;
    let why = blue.export_is("web", "Ready", "False Failed").await;
    assert!(why.contains("refused by the test"), "{why}");
    // What does not depend on it goes on.
    blue.service("other").await;
    blue.export("other").await;
    blue.export_is("other", "Ready", "True Exported").await;
    until("an Event says it on the export", || async {
        let events = blue
            .api::<Event>("demo")
            .list(&ListParams::default())
            .await
            .unwrap();
        events.into_iter().find(|e| {
            let on = e.regarding.as_ref().unwrap();
            on.kind.as_deref() == Some("ServiceExport")
                && on.name.as_deref() == Some("web")
                && e.reason.as_deref() == Some("Failed")
        })
    })
    .await;
    blue.refuse(None);
    blue.export_is("web", "Ready", "True Exported").await;
    blue.stop().await;
}

#[tokio::test]
async fn a_namespace_that_comes_back_gets_its_imports_back() {
    let mut green = World::new("green", 2).await;
    green.cluster("blue", 1, Some("blue")).await;
    green.start();
    let record = json!({
        "apiVersion": "strait.dev/v1alpha1", "kind": "ExportedService",
        "metadata": { "name": "blue.web.later", "labels": { names::LABEL_CLUSTER: "blue" } },
        "spec": {
            "clusterId": "blue", "namespace": "later", "name": "web", "type": "ClusterSetIP", "ipFamilies": ["IPv4"],
            "ports": [{ "name": "http", "protocol": "TCP", "port": 80 }], "exportedAt": "2026-02-01T00:00:00Z",
            "endpoints": [{ "family": "IPv4", "ports": [{ "name": "http", "protocol": "TCP", "port": 8080 }],
                "endpoints": [{ "address": "10.1.0.5", "ready": true, "serving": true, "terminating": false }] }],
        },
    });
    green
        .create::<ExportedService>(names::NAMESPACE, &serde_json::from_value(record).unwrap())
        .await;
    let imports: Api<ServiceImport> = green.api("later");
    for _ in 0..2 {
        green.namespace("later").await;
        until("the import stands in the namespace", || async {
            imports.get_opt("web").await.unwrap()
        })
        .await;
        let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(green.direct.clone());
        namespaces.delete("later", &Default::default()).await.unwrap();
        until("the namespace is gone", || async {
            namespaces.get_opt("later").await.unwrap().is_none().then_some(())
        })
        .await;
    }
    let record = green.record("blue.web.later").await.unwrap();
    assert_eq!(record.status.unwrap().conditions[0].reason, "Admitted");
    green.stop().await;
}
