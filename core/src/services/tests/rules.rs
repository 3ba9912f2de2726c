//! One rule a test.

use std::collections::{BTreeMap, BTreeSet};

use strait_api::mcs::ServiceImportStatus;
use strait_api::records::{IpFamily, MemberState, ServiceType, SessionAffinity};

use super::world::*;
use crate::services::*;

#[test]
fn an_export_becomes_a_record_an_import_and_slices() {
    let w = with_web();
    let record = &w.records["web.demo"].record.spec;
    assert_eq!(record.type_, ServiceType::ClusterSetIP);
    assert_eq!(record.endpoints[0].ports, [port("http", 8080)]);
    assert_eq!(w.condition("web", "Valid").1, "Valid");
    assert_eq!(w.condition("web", "Ready").1, "Exported");
    assert_eq!(w.condition("web", "Conflict").1, "NoConflicts");
    let import = w.import("web");
    assert_eq!(import.spec.ports, [port("http", 80)]);
    assert_eq!(import.spec.ip_families, Some(vec![IpFamily::IPv4]));
    assert!(w.vip("web")[0].starts_with("243.0."));
    assert_eq!(import.status.clusters[0].cluster, "blue");
    assert_eq!(import.status.conditions[0].reason, "Ready");
    assert_eq!(
        w.backends("web"),
        BTreeSet::from([backend("blue", "http:8080", &["10.1.0.5"])])
    );
}

#[test]
fn endpoints_follow_and_nothing_else_is_written() {
    let mut w = with_web();
    let before = w.writes;
    w.put(local_slice("web-x1", "web", &["10.1.0.5", "10.1.0.6"]));
    w.settle();
    assert_eq!(w.writes - before, 2, "the record and the slice");
    assert_eq!(
        w.backends("web"),
        BTreeSet::from([backend("blue", "http:8080", &["10.1.0.5", "10.1.0.6"])])
    );
    w.put(local_slice("web-x1", "web", &["10.1.0.5", "10.1.0.6"]));
    w.settle();
    assert_eq!(w.writes - before, 2, "the same again is nothing new");
}

#[test]
fn remote_exports_join_and_leave() {
    let mut w = with_web();
    let vip = w.vip("web");
    w.put(copy(spec("green", "web", "2026-02-02T00:00:00Z", &["10.2.0.5"])));
    w.settle();
    assert_eq!(
        w.backends("web"),
        BTreeSet::from([
            backend("blue", "http:8080", &["10.1.0.5"]),
            backend("green", "http:9090", &["10.2.0.5"])
        ])
    );
    let green = w.slices.values().find(|s| s.name.contains("green")).unwrap();
    assert_eq!(
        green.endpoints[0].node, None,
        "a remote node's name means nothing here"
    );
    let clusters: Vec<_> = w
        .import("web")
        .status
        .clusters
        .iter()
        .map(|c| c.cluster.clone())
        .collect();
    assert_eq!(clusters, ["blue", "green"]);
    assert_eq!(w.admitted("green.web.demo"), ("True".into(), "Admitted".into()));

    w.gone(Kind::Export, "demo", "web");
    w.settle();
    assert!(!w.records.contains_key("web.demo"));
    assert_eq!(
        w.backends("web"),
        BTreeSet::from([backend("green", "http:9090", &["10.2.0.5"])])
    );
    assert_eq!(w.import("web").status.clusters.len(), 1);
    assert_eq!(w.vip("web"), vip);

    w.gone(Kind::Record, "", "green.web.demo");
    w.settle();
    assert!(w.imports.is_empty() && w.slices.is_empty());
}

#[test]
fn exports_that_cannot_be_say_why() {
    let mut w = World::new(&["243.0.0.0/16"]);
    w.put(export("web"));
    w.settle();
    assert_eq!(w.condition("web", "Valid").1, "NoService");
    assert!(w.imports.is_empty() && w.records.is_empty());

    w.put(Object::Service(Service {
        type_: "ExternalName".into(),
        ..service("web")
    }));
    w.settle();
    assert_eq!(w.condition("web", "Valid").1, "InvalidServiceType");

    w.put(Object::Service(Service {
        headless: true,
        ..service("web")
    }));
    w.settle();
    assert_eq!(w.condition("web", "Valid").0, "True");
    assert_eq!(w.import("web").spec.type_, ServiceType::Headless);
    assert_eq!(w.import("web").spec.ips, None);
    assert_eq!(w.import("web").spec.ip_families, Some(vec![IpFamily::IPv4]));

    w.gone(Kind::Service, "demo", "web");
    w.settle();
    assert_eq!(w.condition("web", "Valid").1, "NoService");
    assert!(w.imports.is_empty() && w.records.is_empty() && w.slices.is_empty());
}

#[test]
fn an_export_may_not_carry_what_others_would_choke_on() {
    let mut w = with_web();
    let Object::Export(mut bad) = export("web") else {
        unreachable!()
    };
    bad.labels.insert("not a label".into(), "x".into());
    w.put(Object::Export(bad));
    w.settle();
    let (status, reason, message) = w.condition("web", "Ready");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Failed"));
    assert!(message.contains("not a label"), "{message}");
    assert!(w.records.is_empty() && w.imports.is_empty());
}

#[test]
fn host_network_endpoints_are_left_out_and_named() {
    let mut w = with_web();
    w.put(local_slice("web-x1", "web", &["10.1.0.5", "192.168.1.1"]));
    w.settle();
    assert_eq!(
        w.backends("web"),
        BTreeSet::from([backend("blue", "http:8080", &["10.1.0.5"])])
    );
    assert!(w.condition("web", "Ready").2.contains("192.168.1.1"));
}

#[test]
fn bad_copies_are_refused_alone() {
    let mut w = with_web();
    w.put(copy(spec("green", "web", "2026-02-02T00:00:00Z", &["10.2.0.5"])));
    let mut zero = spec("red", "web", "2026-02-02T00:00:00Z", &["10.3.0.5"]);
    zero.ports[0].port = 0;
    w.put(copy(zero));
    w.put(copy(spec(
        "stranger",
        "web",
        "2020-01-01T00:00:00Z",
        &["10.2.0.66"],
    )));
    w.settle();
    assert_eq!(w.admitted("red.web.demo"), ("False".into(), "Malformed".into()));
    assert_eq!(
        w.admitted("stranger.web.demo"),
        ("False".into(), "NotAMember".into())
    );
    assert_eq!(w.backends("web").len(), 2);
    assert_eq!(w.condition("web", "Conflict").0, "False");

    let Object::Record(mut misnamed) = copy(spec("red", "web", "2026-02-02T00:00:00Z", &["10.3.0.5"])) else {
        unreachable!()
    };
    misnamed.record.name = "red.other.demo".into();
    w.put(Object::Record(misnamed));
    w.put(copy(spec(
        "red",
        "web",
        "2026-02-02T00:00:00Z",
        &["10.3.0.7", "10.2.0.9"],
    )));
    w.settle();
    assert_eq!(w.admitted("red.other.demo").1, "Malformed");
    assert_eq!(
        w.admitted("red.web.demo"),
        ("False".into(), "EndpointNotAdmitted".into())
    );
    assert!(
        w.backends("web")
            .contains(&backend("red", "http:9090", &["10.3.0.7"]))
    );
}

#[test]
fn the_oldest_wins_but_is_never_older_than_its_admission() {
    let mut w = with_web();
    // green claims an age before its own admission; blue (February) still is older than a March claim.
    let mut young = spec("green", "web", "2026-03-01T00:00:00Z", &["10.2.0.5"]);
    young.session_affinity = SessionAffinity::ClientIP;
    young.ports = vec![port("http", 80), port("admin", 81)];
    w.put(copy(young.clone()));
    w.settle();
    let (status, reason, message) = w.condition("web", "Conflict");
    assert_eq!(status, "True");
    assert_eq!(reason, "PortConflict,SessionAffinityConflict");
    assert!(
        message.contains("1/2 clusters disagree with cluster blue"),
        "{message}"
    );
    assert_eq!(w.import("web").spec.session_affinity, Some(SessionAffinity::None));
    assert_eq!(w.import("web").spec.ports, [port("http", 80), port("admin", 81)]);

    young.exported_at = "1999-01-01T00:00:00Z".into();
    w.put(copy(young));
    w.settle();
    assert_eq!(
        w.import("web").spec.session_affinity,
        Some(SessionAffinity::ClientIP),
        "admitted in January, so older"
    );
}

#[test]
fn a_port_that_lost_is_not_reached_through_the_winners() {
    let mut w = with_web();
    // The same name with another number, and the same number under another name.
    let mut other = spec("green", "web", "2026-03-01T00:00:00Z", &["10.2.0.5"]);
    other.ports = vec![port("http", 4242)];
    w.put(copy(other));
    let mut renamed = spec("red", "web", "2026-03-01T00:00:00Z", &["10.3.0.5"]);
    renamed.ports = vec![port("www", 80)];
    renamed.endpoints[0].ports = vec![port("www", 9090)];
    w.put(copy(renamed));
    w.settle();
    assert_eq!(w.import("web").spec.ports, [port("http", 80)]);
    assert_eq!(
        w.backends("web"),
        BTreeSet::from([
            backend("blue", "http:8080", &["10.1.0.5"]),
            backend("green", "", &[]),
            backend("red", "http:9090", &["10.3.0.5"]),
        ])
    );
}

#[test]
fn a_draining_cluster_gets_no_new_connections() {
    let mut w = with_web();
    w.put(copy(spec("green", "web", "2026-02-02T00:00:00Z", &["10.2.0.5"])));
    w.settle();
    let Object::Member(mut m) = member("green", "2026-01-02T00:00:00Z") else {
        unreachable!()
    };
    m.state = MemberState::Draining;
    w.put(Object::Member(m.clone()));
    w.settle();
    assert!(w.backends("web").contains(&backend("green", "http:9090", &[])));
    m.state = MemberState::Evicted;
    w.put(Object::Member(m));
    w.settle();
    assert_eq!(w.backends("web").len(), 1);
    assert_eq!(
        w.admitted("green.web.demo"),
        ("False".into(), "NotAMember".into())
    );
}

#[test]
fn imports_stand_where_the_namespace_does() {
    let mut w = World::new(&["243.0.0.0/16"]);
    let mut far = spec("green", "web", "2026-02-02T00:00:00Z", &["10.2.0.5"]);
    far.namespace = "later".into();
    w.put(copy(far));
    w.settle();
    assert!(w.imports.is_empty() && w.slices.is_empty());
    w.put(namespace("later"));
    w.settle();
    assert_eq!((w.imports.len(), w.slices.len()), (1, 1));
    let before = w.writes;
    w.put(Object::Namespace {
        name: "later".into(),
        terminating: true,
    });
    w.settle();
    assert_eq!(w.writes, before, "what is in a namespace that ends goes with it");
}

#[test]
fn nothing_is_planned_before_this_cluster_has_joined() {
    let mut index = Index::default();
    index.apply(Event::Put(namespace("demo")));
    index.apply(Event::Put(export("web")));
    let mut import = with_web().import("web").clone();
    import.status = ServiceImportStatus::default();
    index.apply(Event::Put(Object::Import(Box::new(import))));
    assert!(index.plan(&index.all(), &BTreeMap::new(), NOW).is_empty());
}

#[test]
fn imports_of_others_are_left_alone() {
    let mut w = with_web();
    let mut foreign = w.import("web").clone();
    foreign.key = ServiceKey::new("demo", "foreign");
    foreign.labels.clear();
    foreign.spec.ips = None;
    w.put(Object::Import(Box::new(foreign)));
    w.settle();
    assert!(w.imports.contains_key(&ServiceKey::new("demo", "foreign")));
}

#[test]
fn a_full_range_is_said_and_hurts_nobody_else() {
    let mut w = World::new(&["243.0.0.0/30"]);
    for name in ["a", "b", "c"] {
        w.put(copy(spec("green", name, "2026-02-02T00:00:00Z", &["10.2.0.5"])));
    }
    w.settle();
    let without: Vec<_> = w.imports.values().filter(|i| i.spec.ips.is_none()).collect();
    assert_eq!(without.len(), 1);
    assert_eq!(without[0].status.conditions[0].reason, "Pending");
    assert!(without[0].status.conditions[0].message.contains("243.0.0.0/30"));
    let lost = without[0].key.name.clone();
    let free = w
        .imports
        .values()
        .find(|i| i.spec.ips.is_some())
        .unwrap()
        .key
        .name
        .clone();
    w.gone(Kind::Record, "", &format!("green.{free}.demo"));
    w.settle();
    assert_eq!(w.vip(&lost).len(), 1);
}

#[test]
fn a_family_without_a_range_is_said() {
    let mut w = World::new(&["243.0.0.0/16"]);
    let mut six = spec("green", "web", "2026-02-02T00:00:00Z", &[]);
    six.ip_families = vec![IpFamily::IPv6];
    w.put(copy(six));
    w.settle();
    assert_eq!(
        w.import("web").status.conditions[0].reason,
        "IPFamilyNotSupported"
    );
    let mut both = spec("green", "web", "2026-02-02T00:00:00Z", &[]);
    both.ip_families = vec![IpFamily::IPv6, IpFamily::IPv4];
    w.put(copy(both));
    w.settle();
    assert_eq!(w.import("web").spec.ip_families, Some(vec![IpFamily::IPv4]));
    assert_eq!(w.vip("web").len(), 1);
}

#[test]
fn dual_stack_addresses_stand_in_the_order_of_families() {
    let mut w = World::new(&["243.0.0.0/16", "fd33::/112"]);
    let mut both = spec("green", "web", "2026-02-02T00:00:00Z", &[]);
    both.ip_families = vec![IpFamily::IPv6, IpFamily::IPv4];
    w.put(copy(both));
    w.settle();
    let import = w.import("web");
    let families: Vec<_> = import
        .spec
        .ips
        .iter()
        .flatten()
        .map(|a| IpFamily::of(*a))
        .collect();
    assert_eq!(Some(families), import.spec.ip_families);
}

#[test]
fn many_endpoints_are_split_and_one_change_touches_one_slice() {
    let mut w = World::new(&["243.0.0.0/16"]);
    let addresses: Vec<String> = (0..2_500)
        .map(|i| format!("10.2.{}.{}", i / 250, i % 250 + 1))
        .collect();
    let list = |n: usize| addresses[..n].iter().map(String::as_str).collect::<Vec<_>>();
    w.put(copy(spec("green", "web", "2026-02-02T00:00:00Z", &list(2_500))));
    w.settle();
    assert!(w.slices.len() >= 3);
    assert!(
        w.slices
            .values()
            .all(|s| s.endpoints.len() <= slices::MAX_ENDPOINTS)
    );
    assert_eq!(w.slices.values().map(|s| s.endpoints.len()).sum::<usize>(), 2_500);
    let before = w.writes;
    w.put(copy(spec("green", "web", "2026-02-02T00:00:00Z", &list(2_499))));
    w.settle();
    // The admission of a new copy is written again: in this world it comes without conditions.
    assert_eq!(w.writes - before, 2);
}

#[test]
fn an_address_held_twice_stays_with_who_had_it_first() {
    let mut w = World::new(&["243.0.0.0/16"]);
    for name in ["a", "b"] {
        w.put(copy(spec("green", name, "2026-02-02T00:00:00Z", &["10.2.0.5"])));
    }
    w.settle();
    let (mut a, b) = (w.import("a").clone(), w.vip("b"));
    a.spec.ips = Some(vec![b[0].parse().unwrap()]);
    a.created_at = "2026-12-01T00:00:00Z".into();
    w.put(Object::Import(Box::new(a)));
    w.settle();
    assert_eq!(w.vip("b"), b);
    assert_ne!(w.vip("a"), b);
}

#[test]
fn a_namespace_that_the_broker_does_not_admit_is_not_published() {
    let mut w = with_web();
    let Object::Member(mut own) = member("blue", "2026-01-01T00:00:00Z") else {
        unreachable!()
    };
    own.export_namespaces = vec!["shop".into()];
    w.put(Object::Member(own.clone()));
    w.settle();
    let (status, reason, message) = w.condition("web", "Ready");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Failed"));
    assert!(message.contains("demo") && message.contains("shop"), "{message}");
    assert!(w.records.is_empty() && w.imports.is_empty() && w.slices.is_empty());
    own.export_namespaces.push("demo".into());
    w.put(Object::Member(own));
    w.settle();
    assert_eq!(w.condition("web", "Ready").1, "Exported");
}

#[test]
fn a_failed_write_of_the_record_is_said_on_the_export() {
    let mut w = World::new(&["243.0.0.0/16"]);
    w.put(Object::Service(service("web")));
    w.put(export("web"));
    let dirty = w.index.take_dirty();
    let failures = BTreeMap::from([(ServiceKey::new("demo", "web"), "no room".to_owned())]);
    let plan = w.index.plan(&dirty, &failures, NOW);
    let said = plan.services[0].1.iter().find_map(|s| match s {
        Step::PutExportStatus(c) => c.iter().find(|c| c.type_ == "Ready").cloned(),
        _ => None,
    });
    let said = said.unwrap();
    assert_eq!(
        (said.status.as_str(), said.reason.as_str(), said.message.as_str()),
        ("False", "Failed", "no room")
    );
    assert!(
        plan.services[0].1.iter().any(|s| matches!(s, Step::PutRecord(_))),
        "and it is tried again"
    );
}

#[test]
fn a_headless_service_keeps_host_names_and_families() {
    let mut w = World::new(&["243.0.0.0/16"]);
    let mut pets = spec("green", "pets", "2026-02-02T00:00:00Z", &["10.2.0.5"]);
    pets.type_ = ServiceType::Headless;
    pets.endpoints[0].endpoints[0].hostname = Some("pet-0".into());
    w.put(copy(pets));
    w.settle();
    assert_eq!(w.import("pets").spec.ips, None);
    assert_eq!(w.import("pets").spec.ip_families, Some(vec![IpFamily::IPv4]));
    let slice = w.slices.values().next().unwrap();
    assert_eq!(slice.endpoints[0].hostname.as_deref(), Some("pet-0"));
}

#[test]
fn a_type_conflict_goes_to_the_oldest_and_shows_on_all() {
    let mut w = with_web();
    let mut other = spec("green", "web", "2026-03-01T00:00:00Z", &["10.2.0.5"]);
    other.type_ = ServiceType::Headless;
    w.put(copy(other));
    w.settle();
    assert_eq!(w.import("web").spec.type_, ServiceType::ClusterSetIP);
    assert_eq!(w.condition("web", "Conflict").1, "TypeConflict");
    w.gone(Kind::Export, "demo", "web");
    w.settle();
    assert_eq!(w.import("web").spec.type_, ServiceType::Headless);
    assert_eq!(w.import("web").spec.ips, None, "the address goes with the type");
}

#[test]
fn a_record_that_would_flood_the_importers_is_refused_in_few_words() {
    let mut w = with_web();
    let sets = |count: u16| {
        let mut flood = spec("green", "web", "2026-02-02T00:00:00Z", &["10.2.0.5"]);
        let set = flood.endpoints[0].clone();
        flood.endpoints = (1..=count)
            .map(|target| {
                let mut set = set.clone();
                for port in &mut set.ports {
                    port.port = target;
                }
                set
            })
            .collect();
        flood
    };
    w.put(copy(sets(64)));
    w.settle();
    assert_eq!(w.admitted("green.web.demo").1, "Admitted");
    assert_eq!(w.backends("web").len(), 65);
    w.put(copy(sets(65)));
    w.settle();
    assert_eq!(w.admitted("green.web.demo").1, "Malformed");
    assert_eq!(w.backends("web").len(), 1, "blue's own endpoints stay");

    let mut long = spec("green", "web", "2026-02-02T00:00:00Z", &["10.2.0.5"]);
    long.ports[0].name = "x".repeat(1 << 20);
    w.put(copy(long));
    w.settle();
    let said = &w.records["green.web.demo"].conditions[0];
    assert_eq!(said.reason, "Malformed");
    assert!(said.message.len() < 32 << 10, "{} bytes", said.message.len());
}
