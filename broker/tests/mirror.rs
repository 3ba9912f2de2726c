//! Records travel both ways, and nothing is taken away because it is missing.

#![allow(clippy::unwrap_used, reason = "a test fails where there is none")]

mod common;

use std::net::SocketAddr;
use std::path::Path;

use common::{Broker, Home, exported_service, gateway, until};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt as _;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::json;
use strait_api::names;
use strait_api::records::{Cluster, ExportedService, Gateway, MemberState};
use strait_broker::leave::leave;
use strait_core::mirror::MAX_GATEWAYS;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Two members with agents.
async fn fleet(broker: &Broker) -> (Home, Home) {
    let (mut blue, mut green) = (Home::start("blue", 1).await, Home::start("green", 2).await);
    blue.join_at(broker).await;
    green.join_at(broker).await;
    blue.start_agent();
    green.start_agent();
    (blue, green)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_travel_both_ways_and_an_unexport_too() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start(&data, None).await;
    let (blue, green) = fleet(&broker).await;
    blue.export("web", "10.1.0.7").await;
    blue.gateways()
        .create(&PostParams::default(), &gateway("blue", "gw", &["240.0.0.1"]))
        .await
        .unwrap();
    green.export("db", "10.2.0.7").await;
    green.copies(&["blue.blue", "blue.gw", "blue.web.demo"]).await;
    blue.copies(&["green.db.demo", "green.green"]).await;
    let copy = green.services().get("blue.web.demo").await.unwrap();
    assert_eq!(
        copy.labels().get(names::LABEL_CLUSTER).map(String::as_str),
        Some("blue")
    );
    assert_eq!(copy.spec, exported_service("blue", "web", "10.1.0.7").spec);
    for home in [&blue, &green] {
        let mut members: Vec<String> = home
            .members()
            .list(&Default::default())
            .await
            .unwrap()
            .iter()
            .map(|m| m.name_any())
            .collect();
        members.sort();
        assert_eq!(members, ["blue", "green"]);
        assert_eq!(home.connected("True").await, "Connected");
    }

    // A change of an endpoint.
    let changed = exported_service("blue", "web", "10.1.0.8").spec;
    let patch = json!({ "spec": changed });
    blue.services()
        .patch("web.demo", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap();
    until("the changed endpoint", || async {
        let copy = green
            .services()
            .get("blue.web.demo")
            .await
            .map_err(|e| e.to_string())?;
        if copy.spec == changed {
            Ok(())
        } else {
            Err(format!("{:?}", copy.spec.endpoints))
        }
    })
    .await;

    // A copy that somebody deletes here comes back; one that its owner deletes does not.
    green
        .services()
        .delete("blue.web.demo", &DeleteParams::default())
        .await
        .unwrap();
    green.copies(&["blue.blue", "blue.gw", "blue.web.demo"]).await;
    blue.services()
        .delete("web.demo", &DeleteParams::default())
        .await
        .unwrap();
    green.copies(&["blue.blue", "blue.gw"]).await;
    // A gateway that is taken away leaves a tombstone on the broker.
    blue.gateways()
        .delete("gw", &DeleteParams::default())
        .await
        .unwrap();
    green.copies(&["blue.blue"]).await;
    let there: Api<Gateway> = Api::namespaced(broker.client.clone(), "strait-m-blue");
    assert!(there.get("gw").await.unwrap().spec.removed_at.is_some());

    let leases: Api<Lease> = Api::namespaced(broker.client.clone(), "strait-m-blue");
    let lease = leases.get(names::AGENT_LEASE).await.unwrap().spec.unwrap();
    assert_eq!(lease.holder_identity.as_deref(), Some("blue-agent"));
    blue.stop().await;
    green.stop().await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_get_overlay_addresses_out_of_the_members_block_and_keep_them() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start(&data, None).await;
    let (blue, green) = fleet(&broker).await;
    let nodes: Api<Node> = Api::all(green.client.clone());
    let address = async |name: &str| {
        until("the node's overlay address", || async {
            let node = nodes.get(name).await.map_err(|e| e.to_string())?;
            node.annotations()
                .get(names::ANNOTATION_OVERLAY)
                .cloned()
                .ok_or("none".to_owned())
        })
        .await
    };
    assert_eq!(address("one").await, "240.0.16.1");
    assert_eq!(address("two").await, "240.0.16.2");
    let node: Node = serde_json::from_value(json!({"metadata": {"name": "another"}})).unwrap();
    nodes.create(&PostParams::default(), &node).await.unwrap();
    assert_eq!(
        address("another").await,
        "240.0.16.3",
        "first in the order of names, but others hold theirs"
    );
    nodes.delete("one", &DeleteParams::default()).await.unwrap();
    let node: Node = serde_json::from_value(json!({"metadata": {"name": "zoo"}})).unwrap();
    nodes.create(&PostParams::default(), &node).await.unwrap();
    assert_eq!(address("zoo").await, "240.0.16.1");
    assert_eq!(address("two").await, "240.0.16.2");
    blue.stop().await;
    green.stop().await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_comes_back_is_found_and_one_that_comes_back_empty_deletes_nothing() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start(&data, None).await;
    let address = broker.address;
    let (blue, green) = fleet(&broker).await;
    blue.export("web", "10.1.0.7").await;
    green.copies(&["blue.blue", "blue.web.demo"]).await;
    blue.copies(&["green.green"]).await;

    broker.stop().await;
    assert_eq!(blue.connected("False").await, "Unreachable");
    assert_eq!(green.connected("False").await, "Unreachable");
    blue.export("while-away", "10.1.0.8").await;
    let broker = Broker::start(&data, Some(address)).await;
    green
        .copies(&["blue.blue", "blue.web.demo", "blue.while-away.demo"])
        .await;

    // The same address, nothing remembered: not the records, not the members, not even the certificate.
    broker.stop().await;
    let empty = tempfile::tempdir().unwrap();
    let broker = Broker::start(&empty, Some(address)).await;
    assert_eq!(green.connected("False").await, "Unreachable");
    let both = ["blue.blue", "blue.web.demo", "blue.while-away.demo"];
    assert_eq!(green.copies_now().await, both);
    // Joined again, green meets a broker that knows of nobody else: still no reason to drop anything.
    green.join_at(&broker).await;
    assert_eq!(green.connected("True").await, "Connected");
    let republished: Api<Cluster> = Api::namespaced(broker.client.clone(), "strait-m-green");
    until("green's records on the new broker", || async {
        republished
            .get("green")
            .await
            .map(|_| ())
            .map_err(|e| e.to_string())
    })
    .await;
    assert_eq!(green.copies_now().await, both);
    // And when blue is back, its owner's word counts again.
    blue.join_at(&broker).await;
    let services: Api<ExportedService> = Api::namespaced(broker.client.clone(), "strait-m-blue");
    until("blue's records on the new broker", || async {
        services
            .get("web.demo")
            .await
            .map(|_| ())
            .map_err(|e| e.to_string())
    })
    .await;
    assert_eq!(green.copies_now().await, both);
    blue.services()
        .delete("web.demo", &DeleteParams::default())
        .await
        .unwrap();
    green.copies(&["blue.blue", "blue.while-away.demo"]).await;
    blue.stop().await;
    green.stop().await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_nobody_saw_is_found_out_by_the_owners_marker() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start(&data, None).await;
    let (mut blue, mut green) = fleet(&broker).await;
    blue.export("web", "10.1.0.7").await;
    blue.export("api", "10.1.0.8").await;
    green
        .copies(&["blue.api.demo", "blue.blue", "blue.web.demo"])
        .await;
    // Green's agent is away while blue unexports.
    green.stop_agent().await;
    blue.services()
        .delete("web.demo", &DeleteParams::default())
        .await
        .unwrap();
    let there: Api<ExportedService> = Api::namespaced(broker.client.clone(), "strait-m-blue");
    let gone = async |name: &str| {
        until("the deletion on the broker", || async {
            match there.get_opt(name).await.map_err(|e| e.to_string())? {
                None => Ok(()),
                Some(_) => Err("still there".to_owned()),
            }
        })
        .await;
    };
    gone("web.demo").await;
    green.start_agent();
    green.copies(&["blue.api.demo", "blue.blue"]).await;
    // And blue's own agent is away while somebody unexports there.
    blue.stop_agent().await;
    blue.services()
        .delete("api.demo", &DeleteParams::default())
        .await
        .unwrap();
    blue.start_agent();
    gone("api.demo").await;
    green.copies(&["blue.blue"]).await;
    blue.stop().await;
    green.stop().await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restored_backup_the_owners_word_counts_not_the_backups() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start(&data, None).await;
    let address = broker.address;
    let (blue, green) = fleet(&broker).await;
    blue.export("early", "10.1.0.6").await;
    green.copies(&["blue.blue", "blue.early.demo"]).await;
    broker.stop().await;
    let backup = tempfile::tempdir().unwrap();
    copy(data.path(), backup.path());
    let broker = Broker::start(&data, Some(address)).await;
    blue.export("kept", "10.1.0.7").await;
    blue.export("ended", "10.1.0.8").await;
    green
        .copies(&[
            "blue.blue",
            "blue.early.demo",
            "blue.ended.demo",
            "blue.kept.demo",
        ])
        .await;

    // While the broker is away it loses two exports, and the owner ends one that it lost and one that it has.
    broker.stop().await;
    // Both have noticed: a restored store that counts its versions anew could else be taken for the old one.
    assert_eq!(blue.connected("False").await, "Unreachable");
    assert_eq!(green.connected("False").await, "Unreachable");
    for name in ["ended.demo", "early.demo"] {
        blue.services()
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
    }
    let broker = Broker::start(&backup, Some(address)).await;
    until("what the owner still exports", || async {
        let have = green.copies_now().await;
        assert!(have.contains(&"blue.kept.demo".to_owned()), "lost: {have:?}");
        if have == ["blue.blue", "blue.kept.demo"] {
            Ok(())
        } else {
            Err(format!("{have:?}"))
        }
    })
    .await;
    blue.stop().await;
    green.stop().await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_replaced_by_a_copy_of_its_data_is_noticed_though_it_never_was_away() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start(&data, None).await;
    let address = broker.address;
    let front = Front::before(address).await;
    let (mut blue, mut green) = (Home::start("blue", 1).await, Home::start("green", 2).await);
    for home in [&blue, &green] {
        let mut token = broker.token(Some(&home.id)).await;
        token.url = format!("https://{}", front.address);
        home.join(&token).await.unwrap();
    }
    broker.stop().await;
    let copied = tempfile::tempdir().unwrap();
    copy(data.path(), copied.path());
    let broker = Broker::start(&data, Some(address)).await;
    blue.start_agent();
    green.start_agent();
    blue.export("kept", "10.1.0.6").await;
    green.copies(&["blue.blue", "blue.kept.demo"]).await;
    // Far more versions than the copy will reach by itself.
    let blues: Api<ExportedService> = Api::namespaced(broker.client.clone(), "strait-m-blue");
    for n in 0..200 {
        let patch = json!({ "metadata": { "annotations": { "turn": n.to_string() } } });
        blues
            .patch("kept.demo", &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .unwrap();
    }
    let other = Broker::start(&copied, None).await;
    front.lead_to(other.address);
    broker.stop().await;
    blue.export("later", "10.1.0.7").await;
    green
        .copies(&["blue.blue", "blue.kept.demo", "blue.later.demo"])
        .await;
    blue.stop().await;
    green.stop().await;
    other.stop().await;
}

/// An address that stays the same whatever is behind it.
struct Front {
    address: SocketAddr,
    behind: watch::Sender<SocketAddr>,
}

impl Front {
    async fn before(behind: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (behind, look) = watch::channel(behind);
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                let mut look = look.clone();
                tokio::spawn(async move {
                    let to = *look.borrow_and_update();
                    let Ok(mut to) = TcpStream::connect(to).await else {
                        return;
                    };
                    tokio::select! {
                        _ = copy_bidirectional(&mut from, &mut to) => {}
                        _ = look.changed() => {}
                    }
                });
            }
        });
        Self { address, behind }
    }

    /// Cuts what is connected; who connects again reaches another.
    fn lead_to(&self, behind: SocketAddr) {
        self.behind.send(behind).unwrap();
    }
}

/// Copies what one folder holds into another.
fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_records_are_refused_with_a_condition_and_the_good_ones_go_on() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start(&data, None).await;
    let (blue, green) = fleet(&broker).await;
    blue.export("web", "10.1.0.7").await;
    // Red holds a valid credential and writes what it likes, with it.
    let red = Home::start("red", 3).await;
    red.join_at(&broker).await;
    let client = red.connect().await.client.clone();
    let post = PostParams::default();
    let services: Api<ExportedService> = Api::namespaced(client.clone(), "strait-m-red");
    let clusters: Api<Cluster> = Api::namespaced(client.clone(), "strait-m-red");
    let gateways: Api<Gateway> = Api::namespaced(client.clone(), "strait-m-red");
    let cluster = json!({"apiVersion": "strait.dev/v1alpha1", "kind": "Cluster", "metadata": {"name": "red"},
        "spec": {"clusterId": "red", "podCidrs": ["10.3.0.0/16", "10.2.0.0/16", "0.0.0.0/0"]}});
    clusters
        .create(&post, &serde_json::from_value(cluster).unwrap())
        .await
        .unwrap();
    services
        .create(&post, &exported_service("red", "honest", "10.3.0.1"))
        .await
        .unwrap();
    services
        .create(&post, &exported_service("red", "thief", "10.2.0.7"))
        .await
        .unwrap();
    services
        .create(&post, &exported_service("blue", "liar", "10.1.0.7"))
        .await
        .unwrap();
    let mut system = exported_service("red", "dns", "10.3.0.1");
    system.spec.namespace = "kube-system".into();
    services.create(&post, &system).await.unwrap();
    gateways
        .create(&post, &gateway("green", "mole", &["240.0.16.1"]))
        .await
        .unwrap();
    gateways
        .create(&post, &gateway("red", "ok", &["240.0.32.1"]))
        .await
        .unwrap();
    let long = "x".repeat(250);
    gateways.create(&post, &gateway("red", &long, &[])).await.unwrap();

    let copies = [
        "blue.blue",
        "blue.web.demo",
        "red.dns.demo",
        "red.honest.demo",
        "red.liar.demo",
        "red.mole",
        "red.ok",
        "red.red",
        "red.thief.demo",
    ];
    green.copies(&copies).await;
    let verdict = async |kind: &str, name: &str| {
        until(&format!("the verdict on {name}"), || async {
            let conditions = match kind {
                "Cluster" => {
                    green
                        .clusters()
                        .get(name)
                        .await
                        .unwrap()
                        .status
                        .unwrap_or_default()
                        .conditions
                }
                "Gateway" => {
                    green
                        .gateways()
                        .get(name)
                        .await
                        .unwrap()
                        .status
                        .unwrap_or_default()
                        .conditions
                }
                _ => {
                    green
                        .services()
                        .get(name)
                        .await
                        .unwrap()
                        .status
                        .unwrap_or_default()
                        .conditions
                }
            };
            let admitted = conditions
                .iter()
                .find(|c| c.type_ == "Admitted")
                .ok_or("none yet")?;
            Ok::<_, String>((
                admitted.status.clone(),
                admitted.reason.clone(),
                admitted.message.clone(),
            ))
        })
        .await
    };
    for (kind, name, reason, names_it) in [
        (
            "ExportedService",
            "red.thief.demo",
            "EndpointNotAdmitted",
            "10.2.0.7",
        ),
        (
            "ExportedService",
            "red.liar.demo",
            "WrongOwner",
            "speaks for cluster blue",
        ),
        (
            "ExportedService",
            "red.dns.demo",
            "NamespaceNotAdmitted",
            "kube-system",
        ),
        ("Gateway", "red.mole", "WrongOwner", "speaks for cluster green"),
        ("Cluster", "red.red", "PrefixNotAdmitted", "0.0.0.0/0"),
    ] {
        let (status, said, message) = verdict(kind, name).await;
        assert_eq!(
            (status.as_str(), said.as_str()),
            ("False", reason),
            "{name}: {message}"
        );
        assert!(message.contains(names_it), "{name}: {message}");
    }
    for (kind, name) in [
        ("ExportedService", "red.honest.demo"),
        ("ExportedService", "blue.web.demo"),
        ("Gateway", "red.ok"),
        ("Cluster", "blue.blue"),
    ] {
        assert_eq!(
            verdict(kind, name).await,
            ("True".into(), "Admitted".into(), String::new()),
            "{name}"
        );
    }
    // What is not copied at all is told of on the copy of its cluster; then red floods.
    let copied = async |name: &str, wanted: &str, part: &str| {
        until(&format!("the condition Copied on {name}"), || async {
            let conditions = green
                .clusters()
                .get(name)
                .await
                .unwrap()
                .status
                .unwrap_or_default()
                .conditions;
            let copied = conditions
                .iter()
                .find(|c| c.type_ == "Copied")
                .ok_or("none yet")?;
            if copied.status == wanted && copied.message.contains(part) {
                Ok(())
            } else {
                Err(format!("{}: {}", copied.status, copied.message))
            }
        })
        .await;
    };
    copied("blue.blue", "True", "").await;
    copied("red.red", "False", "its name leaves no room").await;
    gateways.delete(&long, &DeleteParams::default()).await.unwrap();
    for n in 0..MAX_GATEWAYS {
        let gateway = gateway("red", &format!("flood-{n:03}"), &[]);
        gateways.create(&post, &gateway).await.unwrap();
    }
    let count = MAX_GATEWAYS + 2;
    copied(
        "red.red",
        "False",
        &format!("cluster red publishes {count} records of this kind"),
    )
    .await;
    copied("blue.blue", "True", "").await;
    let reds = green.gateways().list(&Default::default()).await.unwrap();
    let reds: Vec<String> = reds
        .iter()
        .map(|g| g.name_any())
        .filter(|n| n.starts_with("red."))
        .collect();
    assert_eq!(reds.len(), MAX_GATEWAYS);
    assert!(
        reds.contains(&"red.ok".to_owned()),
        "what was there before the flood stays"
    );

    // Everything else keeps working.
    green.export("db", "10.2.0.9").await;
    until("green's export in blue", || async {
        blue.services()
            .get("green.db.demo")
            .await
            .map(|_| ())
            .map_err(|e| e.to_string())
    })
    .await;
    for home in [blue, green, red] {
        home.stop().await;
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_of_a_newer_version_leaves_the_copy_as_it_was_and_the_others_alone() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start(&data, None).await;
    let (blue, green) = fleet(&broker).await;
    let red = Home::start("red", 3).await;
    red.join_at(&broker).await;
    let client = red.connect().await.client.clone();
    let services: Api<ExportedService> = Api::namespaced(client.clone(), "strait-m-red");
    let post = PostParams::default();
    services
        .create(&post, &exported_service("red", "odd", "10.3.0.1"))
        .await
        .unwrap();
    green.copies(&["blue.blue", "red.odd.demo"]).await;

    // The broker's definition comes from a version that knows one more type of service.
    let definitions: Api<CustomResourceDefinition> = Api::all(broker.client.clone());
    let mut definition =
        serde_json::to_value(definitions.get("exportedservices.strait.dev").await.unwrap()).unwrap();
    let types = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/type/enum";
    definition
        .pointer_mut(types)
        .unwrap()
        .as_array_mut()
        .unwrap()
        .push("Future".into());
    let definition = serde_json::from_value(definition).unwrap();
    definitions
        .replace("exportedservices.strait.dev", &post, &definition)
        .await
        .unwrap();
    let future = json!({"spec": {"type": "Future"}});
    let resource = ApiResource::erase::<ExportedService>(&());
    let raw: Api<DynamicObject> = Api::namespaced_with(client, "strait-m-red", &resource);
    until("a record of the newer version", || async {
        let patched = raw
            .patch("odd.demo", &PatchParams::default(), &Patch::Merge(&future))
            .await;
        patched.map(|_| ()).map_err(|e| e.to_string())
    })
    .await;
    services
        .create(&post, &exported_service("red", "even", "10.3.0.2"))
        .await
        .unwrap();
    green
        .copies(&["blue.blue", "red.even.demo", "red.odd.demo"])
        .await;
    let copy = green.services().get("red.odd.demo").await.unwrap();
    assert_eq!(copy.spec, exported_service("red", "odd", "10.3.0.1").spec);
    for home in [blue, green, red] {
        home.stop().await;
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_leaves_or_is_evicted_is_gone_everywhere() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start(&data, None).await;
    let (blue, green) = fleet(&broker).await;
    let mut red = Home::start("red", 3).await;
    red.join_at(&broker).await;
    red.start_agent();
    blue.export("web", "10.1.0.7").await;
    red.export("api", "10.3.0.7").await;
    green.export("db", "10.2.0.7").await;
    green
        .copies(&["blue.blue", "blue.web.demo", "red.api.demo", "red.red"])
        .await;

    // Blue's agent runs on while it leaves.
    leave(&blue.client, names::NAMESPACE, false).await.unwrap();
    green.copies(&["red.api.demo", "red.red"]).await;
    assert_eq!(
        green.members().get("blue").await.unwrap().spec.state,
        MemberState::Evicted
    );
    assert!(blue.copies_now().await.is_empty());
    assert!(
        blue.clusters()
            .list(&Default::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );

    strait_broker::admin::evict(&broker.client, &"red".parse().unwrap())
        .await
        .unwrap();
    green.copies(&[]).await;
    // Red is out, but what it has stays until somebody there decides.
    assert_eq!(red.connected("False").await, "CredentialRefused");
    assert!(red.copies_now().await.contains(&"green.db.demo".to_owned()));
    // Accepted again, all is as before.
    red.join_at(&broker).await;
    green.copies(&["red.api.demo", "red.red"]).await;
    for home in [blue, green, red] {
        home.stop().await;
    }
    broker.stop().await;
}
