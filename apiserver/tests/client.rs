//! What kube-rs does with the server, in process and over TLS.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, ObjectMeta, Patch,
    PatchParams, PostParams,
};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Error};
use serde_json::json;
use strait_apiserver::{Config, Data, Server, User};

const CRD: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.test.dev}
spec:
  group: test.dev
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, shortNames: [wd]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              size: {type: integer, minimum: 1}
              colour: {type: string, default: blue}
              ports:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items: {type: object, required: [name], properties: {name: {type: string}, port: {type: integer}}}
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
"#;

fn widget_resource() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("test.dev", "v1", "Widget"))
}

async fn start() -> (Server, Client) {
    let mut config = Config::in_memory();
    config.manifests.push(CRD.into());
    config.service_cidrs.push("10.96.0.0/16".parse().unwrap());
    let server = Server::start(config).await.unwrap();
    let client = Client::new(server.admin_service(), "default");
    (server, client)
}

fn widget(name: &str, spec: serde_json::Value) -> DynamicObject {
    DynamicObject::new(name, &widget_resource()).data(json!({"spec": spec}))
}

#[tokio::test]
async fn objects_of_both_kinds_are_made_read_changed_and_deleted() {
    let (server, client) = start().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let made = maps
        .create(
            &PostParams::default(),
            &ConfigMap {
                metadata: ObjectMeta {
                    name: Some("a".into()),
                    ..ObjectMeta::default()
                },
                data: Some(BTreeMap::from([("k".into(), "v".into())])),
                ..ConfigMap::default()
            },
        )
        .await
        .unwrap();
    assert!(made.metadata.uid.is_some() && made.metadata.resource_version.is_some());
    let patched = maps
        .patch(
            "a",
            &PatchParams::default(),
            &Patch::Merge(json!({"data": {"k": null, "l": "w"}})),
        )
        .await
        .unwrap();
    assert_eq!(patched.data, Some(BTreeMap::from([("l".into(), "w".into())])));

    let widgets: Api<DynamicObject> = Api::default_namespaced_with(client.clone(), &widget_resource());
    let made = widgets
        .create(
            &PostParams::default(),
            &widget("w", json!({"size": 1, "nope": 2})),
        )
        .await
        .unwrap();
    assert_eq!(
        made.data["spec"],
        json!({"size": 1, "colour": "blue"}),
        "defaults are set, unknown fields go"
    );
    let wrong = widgets
        .create(&PostParams::default(), &widget("x", json!({"size": 0})))
        .await;
    match wrong {
        Err(Error::Api(status)) => {
            assert_eq!(status.code, 422);
            assert!(
                status
                    .message
                    .contains("spec.size in body should be greater than or equal to 1"),
                "{status:?}"
            );
        }
        other => panic!("a value below the minimum must be refused, not {other:?}"),
    }
    let status = Patch::Merge(json!({"status": {"seen": 1}, "spec": {"size": 9}}));
    let done = widgets
        .patch_status("w", &PatchParams::default(), &status)
        .await
        .unwrap();
    assert_eq!(done.data["status"], json!({"seen": 1}));
    assert_eq!(
        done.data["spec"]["size"], 1,
        "the status subresource leaves the spec alone"
    );
    assert_eq!(done.metadata.generation, Some(1));

    let mut stale = made.clone();
    stale.data["spec"]["size"] = 5.into();
    match widgets.replace("w", &PostParams::default(), &stale).await {
        Err(Error::Api(status)) => assert_eq!((status.code, status.reason.as_str()), (409, "Conflict")),
        other => panic!("an old version must conflict, not {other:?}"),
    }
    widgets.delete("w", &DeleteParams::default()).await.unwrap();
    match widgets.get("w").await {
        Err(Error::Api(status)) => assert_eq!(status.code, 404),
        other => panic!("it is deleted, not {other:?}"),
    }
    server.shutdown().await;
}

#[tokio::test]
async fn apply_keeps_owners_apart_and_force_takes_over() {
    let (server, client) = start().await;
    let widgets: Api<DynamicObject> = Api::default_namespaced_with(client, &widget_resource());
    let config = |spec: serde_json::Value| {
        Patch::Apply(
            json!({"apiVersion": "test.dev/v1", "kind": "Widget", "metadata": {"name": "s"}, "spec": spec}),
        )
    };
    let one = PatchParams::apply("one");
    let two = PatchParams::apply("two");
    widgets
        .patch(
            "s",
            &one,
            &config(json!({"size": 1, "ports": [{"name": "a", "port": 1}]})),
        )
        .await
        .unwrap();
    match widgets.patch("s", &two, &config(json!({"size": 2}))).await {
        Err(Error::Api(status)) => {
            assert_eq!(status.code, 409);
            assert_eq!(
                status.message,
                "Apply failed with 1 conflict: conflict with \"one\": .spec.size"
            );
        }
        other => panic!("another manager owns the field, but: {other:?}"),
    }
    let forced = widgets
        .patch(
            "s",
            &two.clone().force(),
            &config(json!({"size": 2, "ports": [{"name": "b", "port": 2}]})),
        )
        .await
        .unwrap();
    assert_eq!(
        forced.data["spec"]["ports"],
        json!([{"name": "a", "port": 1}, {"name": "b", "port": 2}])
    );
    let gone = widgets.patch("s", &two, &config(json!({}))).await.unwrap();
    assert_eq!(
        gone.data["spec"]["ports"],
        json!([{"name": "a", "port": 1}]),
        "what two alone applied is gone"
    );
    assert!(gone.data["spec"].get("size").is_none());
    server.shutdown().await;
}

#[tokio::test]
async fn watcher_sees_every_change() {
    let (server, client) = start().await;
    let widgets: Api<DynamicObject> = Api::default_namespaced_with(client, &widget_resource());
    widgets
        .create(&PostParams::default(), &widget("before", json!({"size": 1})))
        .await
        .unwrap();
    for config in [
        watcher::Config::default(),
        watcher::Config::default().streaming_lists(),
    ] {
        let mut events = watcher(widgets.clone(), config).boxed();
        let mut next = async || {
            tokio::time::timeout(Duration::from_secs(10), events.try_next())
                .await
                .expect("an event in time")
                .unwrap()
                .unwrap()
        };
        assert!(matches!(next().await, watcher::Event::Init));
        assert!(
            matches!(next().await, watcher::Event::InitApply(o) if o.metadata.name.as_deref() == Some("before"))
        );
        assert!(matches!(next().await, watcher::Event::InitDone));
        widgets
            .create(&PostParams::default(), &widget("after", json!({"size": 1})))
            .await
            .unwrap();
        assert!(
            matches!(next().await, watcher::Event::Apply(o) if o.metadata.name.as_deref() == Some("after"))
        );
        widgets.delete("after", &DeleteParams::default()).await.unwrap();
        assert!(
            matches!(next().await, watcher::Event::Delete(o) if o.metadata.name.as_deref() == Some("after"))
        );
    }
    server.shutdown().await;
}

#[tokio::test]
async fn reflector_follows_over_tls_and_through_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let begin = async |port: u16| {
        let mut config = Config::new(Data::Directory(dir.path().join("data")));
        config.manifests.push(CRD.into());
        config
            .listeners
            .push(std::net::TcpListener::bind(("127.0.0.1", port)).unwrap());
        Server::start(config).await.unwrap()
    };
    let server = begin(0).await;
    let port = server.addr().unwrap().port();
    let kubeconfig = server.admin_kubeconfig(&format!("https://127.0.0.1:{port}"));
    let config = kube::config::Kubeconfig::from_yaml(&kubeconfig).unwrap();
    let config = kube::Config::from_custom_kubeconfig(config, &Default::default())
        .await
        .unwrap();
    let client = Client::try_from(config).unwrap();
    let widgets: Api<DynamicObject> = Api::default_namespaced_with(client, &widget_resource());
    let (reader, writer) = {
        let writer = kube::runtime::reflector::store::Writer::new(widget_resource());
        (writer.as_reader(), writer)
    };
    let stream = watcher(widgets.clone(), watcher::Config::default())
        .default_backoff()
        .reflect(writer);
    let task = tokio::spawn(stream.for_each(|_| async {}));
    widgets
        .create(&PostParams::default(), &widget("one", json!({"size": 1})))
        .await
        .unwrap();
    let eventually = async |count: usize| {
        let check = async {
            while reader.state().len() != count {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), check)
            .await
            .expect("the reflector follows");
    };
    eventually(1).await;
    server.shutdown().await;
    let server = begin(port).await;
    assert_eq!(
        widgets.get("one").await.unwrap().data["spec"]["size"],
        1,
        "it survived the restart"
    );
    widgets
        .create(&PostParams::default(), &widget("two", json!({"size": 2})))
        .await
        .unwrap();
    eventually(2).await;
    task.abort();
    server.shutdown().await;
}

#[tokio::test]
async fn services_get_addresses_of_the_range_once() {
    let (server, client) = start().await;
    let services: Api<Service> = Api::default_namespaced(client);
    let service = |name: &str, ip: Option<&str>| -> Service {
        serde_json::from_value(
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"clusterIP": ip, "ports": [{"port": 80}]}}),
        )
        .unwrap()
    };
    let ip = |s: &Service| {
        s.spec
            .as_ref()
            .and_then(|s| s.cluster_ip.clone())
            .unwrap_or_default()
    };
    let a = services
        .create(&PostParams::default(), &service("a", None))
        .await
        .unwrap();
    let range: ipnet::IpNet = "10.96.0.0/16".parse().unwrap();
    let address = ip(&a);
    assert!(
        range.contains(&address.parse::<std::net::IpAddr>().unwrap()),
        "{address} is of the range"
    );
    match services
        .create(&PostParams::default(), &service("b", Some(&address)))
        .await
    {
        Err(Error::Api(status)) => assert!(status.message.contains("already allocated"), "{status:?}"),
        other => panic!("an address in use must be refused, not {other:?}"),
    }
    services.delete("a", &DeleteParams::default()).await.unwrap();
    services
        .create(&PostParams::default(), &service("b", Some(&address)))
        .await
        .unwrap();
    // Nor is the network's own one in the range, nor that of broadcasts.
    for address in ["192.0.2.1", "10.96.0.0", "10.96.255.255"] {
        match services
            .create(&PostParams::default(), &service("c", Some(address)))
            .await
        {
            Err(Error::Api(status)) => assert_eq!(
                (status.code, status.message.as_str()),
                (422, format!("Service \"c\" is invalid: spec.clusterIPs: Invalid value: [\"{address}\"]: failed to allocate IP {address}: the provided IP ({address}) is not in the valid range. The range of valid IPs is 10.96.0.0/16").as_str())
            ),
            other => panic!("an address out of the range must be refused, not {other:?}"),
        }
    }
    services
        .create(&PostParams::default(), &service("c", Some("10.96.255.254")))
        .await
        .unwrap();
    server.shutdown().await;
}

#[tokio::test]
async fn deleting_a_namespace_deletes_its_content() {
    let (server, client) = start().await;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let ns = Namespace {
        metadata: ObjectMeta {
            name: Some("demo".into()),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    };
    namespaces.create(&PostParams::default(), &ns).await.unwrap();
    let widgets: Api<DynamicObject> = Api::namespaced_with(client.clone(), "demo", &widget_resource());
    let mut held = widget("held", json!({"size": 1}));
    held.metadata.finalizers = Some(vec!["test.dev/f".into()]);
    widgets.create(&PostParams::default(), &held).await.unwrap();
    namespaces.delete("demo", &DeleteParams::default()).await.unwrap();
    match widgets
        .create(&PostParams::default(), &widget("late", json!({"size": 1})))
        .await
    {
        Err(Error::Api(status)) => {
            assert_eq!(status.code, 403);
            assert!(
                status.message.contains("because it is being terminated"),
                "{status:?}"
            );
        }
        other => panic!("nothing new in a namespace that ends, but: {other:?}"),
    }
    let until = async |what: &str, check: &dyn Fn(usize) -> bool| {
        let poll = async {
            loop {
                let n = namespaces
                    .list(&ListParams::default().fields("metadata.name=demo"))
                    .await
                    .unwrap()
                    .items
                    .len();
                if check(n) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), poll)
            .await
            .unwrap_or_else(|_| panic!("{what}"));
    };
    until("the namespace waits for a finalizer", &|n| n == 1).await;
    let release = Patch::Merge(json!({"metadata": {"finalizers": []}}));
    widgets
        .patch("held", &PatchParams::default(), &release)
        .await
        .unwrap();
    until("the namespace is gone", &|n| n == 0).await;
    server.shutdown().await;
}

#[tokio::test]
async fn dependents_go_with_their_owner() {
    let (server, client) = start().await;
    let widgets: Api<DynamicObject> = Api::default_namespaced_with(client.clone(), &widget_resource());
    let make_pair = async |owner: &str, child: &str| {
        let made = widgets
            .create(&PostParams::default(), &widget(owner, json!({"size": 1})))
            .await
            .unwrap();
        let mut kid = widget(child, json!({"size": 1}));
        kid.metadata.owner_references = Some(vec![
            serde_json::from_value(json!({"apiVersion": "test.dev/v1", "kind": "Widget",
            "name": owner, "uid": made.metadata.uid, "blockOwnerDeletion": true, "controller": true}))
            .unwrap(),
        ]);
        widgets.create(&PostParams::default(), &kid).await.unwrap();
    };
    let gone = async |name: &str| {
        let poll = async {
            while widgets.get_opt(name).await.unwrap().is_some() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), poll)
            .await
            .unwrap_or_else(|_| panic!("{name} should be gone"));
    };
    make_pair("o1", "k1").await;
    widgets.delete("o1", &DeleteParams::background()).await.unwrap();
    gone("k1").await;
    make_pair("o2", "k2").await;
    widgets.delete("o2", &DeleteParams::foreground()).await.unwrap();
    gone("o2").await;
    assert!(
        widgets.get_opt("k2").await.unwrap().is_none(),
        "in the foreground, dependents go first"
    );
    make_pair("o3", "k3").await;
    widgets.delete("o3", &DeleteParams::orphan()).await.unwrap();
    gone("o3").await;
    let orphan = widgets.get("k3").await.unwrap();
    assert_eq!(
        orphan.metadata.owner_references.unwrap_or_default(),
        Vec::new(),
        "an orphan has no owner left"
    );
    server.shutdown().await;
}

#[tokio::test]
async fn leases_and_pods_work_as_their_users_expect() {
    let (server, client) = start().await;
    let leases: Api<Lease> = Api::default_namespaced(client.clone());
    let lease: Lease = serde_json::from_value(
        json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "a", "leaseDurationSeconds": 15,
        "renewTime": "2026-01-01T00:00:00.000000Z"}}),
    )
    .unwrap();
    let made = leases.create(&PostParams::default(), &lease).await.unwrap();
    assert_eq!(made.spec.unwrap().holder_identity.as_deref(), Some("a"));
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "labels": {"app": "x"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}}))
    .unwrap();
    pods.create(&PostParams::default(), &pod).await.unwrap();
    let all: Api<Pod> = Api::all(client);
    let here = all
        .list(&ListParams::default().fields("spec.nodeName=n1").labels("app=x"))
        .await
        .unwrap();
    assert_eq!(here.items.len(), 1);
    let there = all
        .list(&ListParams::default().fields("spec.nodeName=n2"))
        .await
        .unwrap();
    assert_eq!(there.items.len(), 0);
    pods.delete("p", &DeleteParams::default()).await.unwrap();
    assert!(pods.get_opt("p").await.unwrap().is_none());
    server.shutdown().await;
}

#[tokio::test]
async fn users_get_what_their_roles_say() {
    let (server, admin) = start().await;
    server
        .apply_manifest(
            r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: r, namespace: default}
rules:
- {apiGroups: [test.dev], resources: [widgets], verbs: [get, list]}
- {apiGroups: [test.dev], resources: [widgets], resourceNames: [mine], verbs: [patch]}
- {apiGroups: [rbac.authorization.k8s.io], resources: [roles], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: b, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: r}
subjects: [{kind: User, name: dev}]
"#,
        )
        .await
        .unwrap();
    let widgets: Api<DynamicObject> = Api::default_namespaced_with(admin, &widget_resource());
    widgets
        .create(&PostParams::default(), &widget("mine", json!({"size": 1})))
        .await
        .unwrap();
    widgets
        .create(&PostParams::default(), &widget("other", json!({"size": 1})))
        .await
        .unwrap();
    let dev = Client::new(server.service_as(User::new("dev", &[])), "default");
    let widgets: Api<DynamicObject> = Api::default_namespaced_with(dev.clone(), &widget_resource());
    assert_eq!(widgets.list(&ListParams::default()).await.unwrap().items.len(), 2);
    let grow = Patch::Merge(json!({"spec": {"size": 2}}));
    widgets
        .patch("mine", &PatchParams::default(), &grow)
        .await
        .unwrap();
    let refused = |outcome: Result<DynamicObject, Error>| match outcome {
        Err(Error::Api(status)) => {
            assert_eq!(status.code, 403, "{status:?}");
            status.message.clone()
        }
        other => panic!("this must be forbidden: {other:?}"),
    };
    let message = refused(widgets.patch("other", &PatchParams::default(), &grow).await);
    assert_eq!(
        message,
        "widgets.test.dev \"other\" is forbidden: User \"dev\" cannot patch resource \"widgets\" in API group \"test.dev\" in the namespace \"default\""
    );
    refused(widgets.patch_status("mine", &PatchParams::default(), &grow).await);
    let roles: Api<DynamicObject> = Api::default_namespaced_with(
        dev,
        &ApiResource::from_gvk(&GroupVersionKind::gvk("rbac.authorization.k8s.io", "v1", "Role")),
    );
    let role = |verbs: &[&str]| {
        DynamicObject::new(
            "new",
            &ApiResource::from_gvk(&GroupVersionKind::gvk("rbac.authorization.k8s.io", "v1", "Role")),
        )
        .data(json!({"rules": [{"apiGroups": ["test.dev"], "resources": ["widgets"], "verbs": verbs}]}))
    };
    let message = refused(
        roles
            .create(&PostParams::default(), &role(&["get", "delete"]))
            .await,
    );
    assert!(
        message.contains("is attempting to grant RBAC permissions not currently held"),
        "{message}"
    );
    roles
        .create(&PostParams::default(), &role(&["get"]))
        .await
        .unwrap();
    server.shutdown().await;
}
