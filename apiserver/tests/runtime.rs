//! What kube-rs's runtime makes of the server: reflectors, controllers, finalizers, recorded events, leases.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Event as OldEvent, Pod};
use k8s_openapi::api::events::v1::Event as NewEvent;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
    PostParams,
};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::finalizer::{Event as Turn, finalizer};
use kube::runtime::reflector::store::Writer;
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Error, Resource, ResourceExt};
use serde_json::{Value, json};
use strait_apiserver::{Config, Server};

/// Whatever is waited for comes within this time.
const SOON: Duration = Duration::from_secs(20);

const CRD: &str = r"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.test.dev}
spec:
  group: test.dev
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
";

fn kind() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("test.dev", "v1", "Widget"))
}

async fn start() -> (Server, Client) {
    let mut config = Config::in_memory();
    config.manifests.push(CRD.into());
    let server = Server::start(config).await.unwrap();
    let client = Client::new(server.admin_service(), "default");
    (server, client)
}

fn widgets(client: &Client) -> Api<DynamicObject> {
    Api::default_namespaced_with(client.clone(), &kind())
}

fn widget(name: &str, size: i64) -> DynamicObject {
    DynamicObject::new(name, &kind()).data(json!({"spec": {"size": size}}))
}

fn merge(value: Value) -> Patch<Value> {
    Patch::Merge(value)
}

async fn until(what: &str, check: impl AsyncFn() -> bool) {
    let poll = async {
        while !check().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, poll)
        .await
        .unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test]
async fn reflectors_hold_what_a_list_shows() {
    let (server, client) = start().await;
    let api = widgets(&client);
    for config in [
        watcher::Config::default(),
        watcher::Config::default().streaming_lists(),
    ] {
        let way = format!("{:?}", config.initial_list_strategy);
        let config = config.labels("in=yes");
        for n in 0..3 {
            let mut made = widget(&format!("w{n}"), n);
            made.metadata.labels = Some(BTreeMap::from([("in".into(), "yes".into())]));
            api.create(&PostParams::default(), &made).await.unwrap();
        }
        let writer = Writer::new(kind());
        let reader = writer.as_reader();
        let stream = watcher(api.clone(), config).default_backoff().reflect(writer);
        let task = tokio::spawn(stream.for_each(async |_| {}));
        tokio::time::timeout(SOON, reader.wait_until_ready())
            .await
            .unwrap()
            .unwrap();
        let held = || {
            let mut held: Vec<(String, Value)> = reader
                .state()
                .iter()
                .map(|w| (w.name_any(), w.data["spec"]["size"].clone()))
                .collect();
            held.sort_by(|a, b| a.0.cmp(&b.0));
            held
        };
        let size = |n: i64| (format!("w{n}"), json!(n));
        assert_eq!(
            held(),
            [size(0), size(1), size(2)],
            "{way}: all is there once it is ready"
        );
        // One is changed, one is deleted, one loses its label.
        api.patch(
            "w0",
            &PatchParams::default(),
            &merge(json!({"spec": {"size": 9}})),
        )
        .await
        .unwrap();
        api.delete("w1", &DeleteParams::default()).await.unwrap();
        api.patch(
            "w2",
            &PatchParams::default(),
            &merge(json!({"metadata": {"labels": {"in": null}}})),
        )
        .await
        .unwrap();
        until(&format!("{way}: the reflector follows"), async || {
            held() == [("w0".to_owned(), json!(9))]
        })
        .await;
        task.abort();
        for name in ["w0", "w2"] {
            api.delete(name, &DeleteParams::default()).await.unwrap();
        }
    }
    server.shutdown().await;
}

/// Keeps one ConfigMap for each Widget, of its size.
async fn keep(widget: Arc<DynamicObject>, cx: Arc<(Client, Mutex<usize>)>) -> Result<Action, Error> {
    *cx.1.lock().unwrap() += 1;
    let owner = widget.controller_owner_ref(&kind()).unwrap();
    let child = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": widget.name_any(), "ownerReferences": [owner]},
        "data": {"size": widget.data["spec"]["size"].to_string()},
    });
    let children: Api<ConfigMap> = Api::default_namespaced(cx.0.clone());
    children
        .patch(
            &widget.name_any(),
            &PatchParams::apply("keeper").force(),
            &Patch::Apply(&child),
        )
        .await?;
    widgets(&cx.0)
        .patch_status(
            &widget.name_any(),
            &PatchParams::default(),
            &merge(json!({"status": {"kept": true}})),
        )
        .await?;
    Ok(Action::await_change())
}

#[tokio::test]
async fn controllers_reconcile_what_changes_and_what_it_owns() {
    let (server, client) = start().await;
    let api = widgets(&client);
    let children: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let cx = Arc::new((client.clone(), Mutex::new(0)));
    let running = Controller::new_with(api.clone(), watcher::Config::default(), kind())
        .owns(children.clone(), watcher::Config::default())
        .run(
            keep,
            |_, error: &Error, _| panic!("a reconciliation failed: {error}"),
            cx.clone(),
        )
        .for_each(async |done| {
            done.unwrap();
        });
    let task = tokio::spawn(running);
    let size = async || {
        let child = children.get_opt("w").await.unwrap()?;
        child.data?.get("size").cloned()
    };
    api.create(&PostParams::default(), &widget("w", 1)).await.unwrap();
    until("what is new is reconciled", async || {
        size().await.as_deref() == Some("1")
    })
    .await;
    until("its status is written", async || {
        api.get("w").await.unwrap().data["status"]["kept"] == true
    })
    .await;
    api.patch("w", &PatchParams::default(), &merge(json!({"spec": {"size": 2}})))
        .await
        .unwrap();
    until("a change is reconciled", async || {
        size().await.as_deref() == Some("2")
    })
    .await;
    children
        .patch(
            "w",
            &PatchParams::default(),
            &merge(json!({"data": {"size": "wrong"}})),
        )
        .await
        .unwrap();
    until("a change of what it owns is undone", async || {
        size().await.as_deref() == Some("2")
    })
    .await;
    let before = children.get("w").await.unwrap();
    children.delete("w", &DeleteParams::default()).await.unwrap();
    until("what it owns is made again", async || {
        children
            .get_opt("w")
            .await
            .unwrap()
            .is_some_and(|c| c.uid() != before.uid())
    })
    .await;
    // It comes to rest: its own writes, which change nothing any more, do not call it again.
    let count = || *cx.1.lock().unwrap();
    let version = children.get("w").await.unwrap().resource_version();
    api.create(&PostParams::default(), &widget("other", 5))
        .await
        .unwrap();
    until("another one is reconciled", async || {
        children.get_opt("other").await.unwrap().is_some()
    })
    .await;
    assert!(count() < 40, "{} reconciliations", count());
    assert_eq!(children.get("w").await.unwrap().resource_version(), version);
    api.delete("w", &DeleteParams::background()).await.unwrap();
    until("what it owns goes with it", async || {
        children.get_opt("w").await.unwrap().is_none()
    })
    .await;
    task.abort();
    server.shutdown().await;
}

#[tokio::test]
async fn finalizers_let_a_controller_clean_up() {
    let (server, client) = start().await;
    let api = widgets(&client);
    let turns: Arc<Mutex<Vec<String>>> = Arc::default();
    let (context, noted) = (api.clone(), turns.clone());
    let running = Controller::new_with(api.clone(), watcher::Config::default(), kind())
        .run(
            move |object, _| {
                let (api, noted) = (context.clone(), noted.clone());
                async move {
                    finalizer(&api, "test.dev/cleanup", object, |turn| async move {
                        noted.lock().unwrap().push(match &turn {
                            Turn::Apply(o) => format!("apply {}", o.data["spec"]["size"]),
                            Turn::Cleanup(o) => format!("cleanup {}", o.data["spec"]["size"]),
                        });
                        Ok::<_, Error>(Action::await_change())
                    })
                    .await
                }
            },
            |_, _, _| Action::requeue(Duration::from_millis(50)),
            Arc::new(()),
        )
        .for_each(async |_| {});
    let task = tokio::spawn(running);
    let made = api.create(&PostParams::default(), &widget("w", 1)).await.unwrap();
    let last = || turns.lock().unwrap().last().cloned().unwrap_or_default();
    until("it is applied once it has its finalizer", async || {
        last() == "apply 1"
    })
    .await;
    assert_eq!(api.get("w").await.unwrap().finalizers(), ["test.dev/cleanup"]);
    api.patch("w", &PatchParams::default(), &merge(json!({"spec": {"size": 2}})))
        .await
        .unwrap();
    until("a change is applied", async || last() == "apply 2").await;
    let left = api.delete("w", &DeleteParams::default()).await.unwrap();
    let waiting = left.left().unwrap();
    assert!(
        waiting.metadata.deletion_timestamp.is_some(),
        "it waits for its finalizer"
    );
    let uid = made.uid().unwrap();
    tokio::time::timeout(
        SOON,
        await_condition(api.clone(), "w", conditions::is_deleted(&uid)),
    )
    .await
    .unwrap()
    .unwrap();
    assert_eq!(last(), "cleanup 2", "and goes when that is done");
    task.abort();
    server.shutdown().await;
}

#[tokio::test]
async fn recorded_events_are_shown_and_repeats_are_a_series() {
    let (server, client) = start().await;
    let about = widgets(&client)
        .create(&PostParams::default(), &widget("w", 1))
        .await
        .unwrap();
    let reporter = Reporter {
        controller: "test.dev/keeper".into(),
        instance: Some("keeper-0".into()),
    };
    let recorder = Recorder::new(client.clone(), reporter);
    let say = |reason: &str| Event {
        type_: EventType::Warning,
        reason: reason.into(),
        note: Some("it is too small".into()),
        action: "Measure".into(),
        secondary: None,
    };
    let reference = about.object_ref(&kind());
    recorder.publish(&say("TooSmall"), &reference).await.unwrap();
    let new: Api<NewEvent> = Api::default_namespaced(client.clone());
    let first = new.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(first.len(), 1);
    assert!(first[0].series.is_none(), "one is no series");
    for _ in 0..2 {
        recorder.publish(&say("TooSmall"), &reference).await.unwrap();
    }
    recorder.publish(&say("Other"), &reference).await.unwrap();
    let shown = new
        .list(
            &ListParams::default()
                .fields("regarding.name=w,reason=TooSmall,reportingController=test.dev/keeper"),
        )
        .await
        .unwrap()
        .items;
    assert_eq!(shown.len(), 1, "repeats are no events of their own");
    let event = &shown[0];
    assert_eq!(event.series.as_ref().map(|s| s.count), Some(3));
    assert_eq!(
        event.event_time, first[0].event_time,
        "the series began then, to the microsecond"
    );
    assert_eq!(event.reporting_controller.as_deref(), Some("test.dev/keeper"));
    assert_eq!(event.regarding.as_ref().and_then(|r| r.uid.clone()), about.uid());
    // The same in the form that kubectl get events and describe read.
    let old: Api<OldEvent> = Api::default_namespaced(client);
    let uid = about.uid().unwrap();
    let described = old
        .list(&ListParams::default().fields(&format!(
            "involvedObject.kind=Widget,involvedObject.name=w,involvedObject.uid={uid}"
        )))
        .await
        .unwrap()
        .items;
    assert_eq!(described.len(), 2);
    let same = described
        .iter()
        .find(|e| e.reason.as_deref() == Some("TooSmall"))
        .unwrap();
    assert_eq!(same.message.as_deref(), Some("it is too small"));
    assert_eq!(same.type_.as_deref(), Some("Warning"));
    assert_eq!(same.series.as_ref().and_then(|s| s.count), Some(3));
    assert_eq!(same.reporting_component.as_deref(), Some("test.dev/keeper"));
    server.shutdown().await;
}

/// Takes the lease, or keeps it, if nobody else holds it: by an update of the version that was read.
async fn contend(leases: &Api<Lease>, read: &Lease, who: &str, now: Timestamp) -> Result<bool, Error> {
    let spec = read.spec.clone().unwrap_or_default();
    let held = spec.holder_identity.clone().filter(|h| !h.is_empty());
    let lasts = i64::from(spec.lease_duration_seconds.unwrap_or(15));
    let runs = spec
        .renew_time
        .as_ref()
        .is_some_and(|t| now.duration_since(t.0).as_secs() < lasts);
    if runs && held.as_deref().is_some_and(|h| h != who) {
        return Ok(false);
    }
    let turn = i32::from(held.as_deref() != Some(who));
    let mut mine = read.clone();
    mine.spec = Some(LeaseSpec {
        holder_identity: Some(who.into()),
        lease_transitions: Some(spec.lease_transitions.unwrap_or(0) + turn),
        renew_time: Some(MicroTime(now)),
        ..spec
    });
    match leases.replace("leader", &PostParams::default(), &mine).await {
        Ok(_) => Ok(true),
        Err(Error::Api(status)) if status.code == 409 && status.reason == "Conflict" => Ok(false),
        Err(e) => Err(e),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_contenders_for_a_lease_one_wins() {
    let (server, client) = start().await;
    let leases: Api<Lease> = Api::default_namespaced(client);
    let free: Lease =
        serde_json::from_value(json!({"metadata": {"name": "leader"}, "spec": {"leaseDurationSeconds": 15}}))
            .unwrap();
    leases.create(&PostParams::default(), &free).await.unwrap();
    let mut now = Timestamp::now();
    for round in 1..=10 {
        // All read the same version, at a time when nobody holds it any more, and reach for it at once.
        let read = leases.get("leader").await.unwrap();
        let reaching = (0..8).map(|n| {
            let (leases, read) = (leases.clone(), read.clone());
            tokio::spawn(async move {
                let who = format!("contender-{n}");
                contend(&leases, &read, &who, now).await.unwrap().then_some(who)
            })
        });
        let winners: Vec<String> = futures::future::join_all(reaching)
            .await
            .into_iter()
            .filter_map(Result::unwrap)
            .collect();
        assert_eq!(winners.len(), 1, "{winners:?}");
        let held = leases.get("leader").await.unwrap();
        let spec = held.spec.clone().unwrap();
        assert_eq!(spec.holder_identity.as_ref(), Some(&winners[0]));
        let transitions = spec.lease_transitions.unwrap();
        assert!(
            transitions <= round,
            "{transitions} transitions in {round} rounds"
        );
        assert_eq!(
            spec.renew_time.unwrap().0.as_microsecond(),
            now.as_microsecond(),
            "times are kept to the microsecond"
        );
        // Who holds it renews it, and nobody else takes it meanwhile.
        now += SignedDuration::from_secs(1);
        assert!(!contend(&leases, &held, "late", now).await.unwrap());
        assert!(contend(&leases, &held, &winners[0], now).await.unwrap());
        now += SignedDuration::from_secs(1);
        let stale = contend(&leases, &held, &winners[0], now).await.unwrap();
        assert!(!stale, "an old version takes nothing");
        now += SignedDuration::from_secs(16);
    }
    server.shutdown().await;
}

#[tokio::test]
async fn conditions_are_awaited() {
    let (server, client) = start().await;
    let soon = async |what: &str, waiting: tokio::task::JoinHandle<()>| {
        tokio::time::timeout(SOON, waiting)
            .await
            .unwrap_or_else(|_| panic!("{what}"))
            .unwrap();
    };
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let gadgets = CRD.replace("widget", "gadget").replace("Widget", "Gadget");
    let waiting = tokio::spawn({
        let definitions = definitions.clone();
        async move {
            let established = conditions::is_crd_established();
            await_condition(definitions, "gadgets.test.dev", established)
                .await
                .unwrap();
        }
    });
    server.apply_manifest(&gadgets).await.unwrap();
    soon("a definition is established", waiting).await;
    let made = ApiResource::from_gvk(&GroupVersionKind::gvk("test.dev", "v1", "Gadget"));
    let gadgets: Api<DynamicObject> = Api::default_namespaced_with(client.clone(), &made);
    gadgets
        .create(&PostParams::default(), &DynamicObject::new("g", &made))
        .await
        .expect("and what it defines can be made");

    let pods: Api<Pod> = Api::default_namespaced(client);
    let pod: Pod = serde_json::from_value(
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "x:1"}]}}),
    )
    .unwrap();
    let made = pods.create(&PostParams::default(), &pod).await.unwrap();
    let waiting = tokio::spawn({
        let pods = pods.clone();
        async move {
            let found = await_condition(pods, "p", conditions::is_pod_running())
                .await
                .unwrap();
            assert_eq!(found.unwrap().status.unwrap().phase.as_deref(), Some("Running"));
        }
    });
    pods.patch_status(
        "p",
        &PatchParams::default(),
        &merge(json!({"status": {"phase": "Running"}})),
    )
    .await
    .unwrap();
    soon("a pod runs", waiting).await;
    let uid = made.uid().unwrap();
    let waiting = tokio::spawn({
        let pods = pods.clone();
        async move {
            await_condition(pods, "p", conditions::is_deleted(&uid))
                .await
                .unwrap();
        }
    });
    pods.delete("p", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    soon("a pod is gone", waiting).await;
    server.shutdown().await;
}
