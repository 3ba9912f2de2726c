//! A cluster's API server in small: plans are carried out on it and come back as events.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;
use strait_api::Condition;
use strait_api::mcs::ServiceImportStatus;
use strait_api::records::{
    ClusterSpec, Endpoint, EndpointSet, ExportedServiceSpec, IpFamily, MemberSpec, MemberState, ServicePort,
    ServiceType, SessionAffinity,
};

use super::*;
use crate::clusterset::Record;

const NOW: &str = "2026-11-20T12:00:00Z";

struct World {
    index: Index,
    imports: BTreeMap<ServiceKey, ImportObject>,
    slices: BTreeMap<String, Slice>,
    records: BTreeMap<String, ExportRecord>,
    exports: BTreeMap<ServiceKey, Export>,
    writes: usize,
}

impl World {
    fn new(vip_cidrs: &[&str]) -> Self {
        let mut world = Self {
            index: Index::default(),
            imports: BTreeMap::new(),
            slices: BTreeMap::new(),
            records: BTreeMap::new(),
            exports: BTreeMap::new(),
            writes: 0,
        };
        world.put(cluster(None, "blue", "10.1.0.0/16", vip_cidrs));
        world.put(namespace("demo"));
        for (id, admitted) in [
            ("blue", "2026-01-01T00:00:00Z"),
            ("green", "2026-01-02T00:00:00Z"),
            ("red", "2026-01-03T00:00:00Z"),
        ] {
            world.put(member(id, admitted));
        }
        world.put(cluster(Some("green"), "green", "10.2.0.0/16", &[]));
        world.put(cluster(Some("red"), "red", "10.3.0.0/16", &[]));
        world
    }

    fn put(&mut self, object: Object) {
        match &object {
            Object::Export(e) => {
                self.exports.insert(e.key.clone(), e.clone());
            }
            Object::Record(r) => {
                self.records.insert(r.record.name.clone(), (**r).clone());
            }
            Object::Import(i) => {
                self.imports.insert(i.key.clone(), (**i).clone());
            }
            _ => {}
        }
        self.index.apply(Event::Put(object));
    }

    fn gone(&mut self, kind: Kind, namespace: &str, name: &str) {
        match kind {
            Kind::Export => {
                self.exports.remove(&ServiceKey::new(namespace, name));
            }
            Kind::Record => {
                self.records.remove(name);
            }
            _ => {}
        }
        self.index.apply(Event::Gone(kind, namespace.into(), name.into()));
    }

    /// Carries out plans until nothing is left to do.
    fn settle(&mut self) {
        for _ in 0..8 {
            let dirty = self.index.take_dirty();
            let plan = self.index.plan(&dirty, &BTreeMap::new(), NOW);
            if plan.is_empty() {
                let rest = self.index.plan(&self.index.all(), &BTreeMap::new(), NOW);
                assert!(rest.is_empty(), "left undone after the increments:\n{rest}");
                return;
            }
            for (key, steps) in plan.services {
                for step in steps {
                    self.carry_out(&key, step);
                }
            }
        }
        panic!("does not settle");
    }

    fn carry_out(&mut self, key: &ServiceKey, step: Step) {
        self.writes += 1;
        match step {
            Step::PutRecord(spec) => {
                let name = format!("{}.{}", key.name, key.namespace);
                let record = Record {
                    owner: None,
                    name,
                    spec: *spec,
                };
                self.put(Object::Record(Box::new(ExportRecord {
                    record,
                    conditions: vec![],
                })));
            }
            Step::DeleteRecord(name) => self.gone(Kind::Record, "", &name),
            Step::PutImport(i) => {
                let status = self
                    .imports
                    .get(key)
                    .map(|o| o.status.clone())
                    .unwrap_or_default();
                let object = ImportObject {
                    key: key.clone(),
                    created_at: NOW.into(),
                    labels: i.labels,
                    annotations: i.annotations,
                    spec: i.spec,
                    status,
                };
                self.put(Object::Import(Box::new(object)));
            }
            Step::PutImportStatus(status) => {
                let mut object = self
                    .imports
                    .get(key)
                    .expect("status of an import that exists")
                    .clone();
                object.status = *status;
                self.put(Object::Import(Box::new(object)));
            }
            Step::DeleteImport => {
                self.imports.remove(key);
                self.gone(Kind::Import, &key.namespace, &key.name);
            }
            Step::PutSlice(slice) => {
                self.slices.insert(slice.name.clone(), (*slice).clone());
                self.index.apply(Event::Put(Object::Slice(*slice)));
            }
            Step::DeleteSlice(name) => {
                assert!(self.slices.remove(&name).is_some());
                self.gone(Kind::EndpointSlice, &key.namespace, &name);
            }
            Step::PutExportStatus(conditions) => {
                let mut export = self
                    .exports
                    .get(key)
                    .expect("status of an export that exists")
                    .clone();
                export.conditions = conditions;
                self.put(Object::Export(export));
            }
            Step::PutRecordStatus(name, conditions) => {
                let mut record = self
                    .records
                    .get(&name)
                    .expect("status of a record that exists")
                    .clone();
                record.conditions = conditions;
                self.put(Object::Record(Box::new(record)));
            }
        }
    }

    fn import(&self, name: &str) -> &ImportObject {
        &self.imports[&ServiceKey::new("demo", name)]
    }

    fn vip(&self, name: &str) -> Vec<String> {
        self.import(name)
            .spec
            .ips
            .iter()
            .flatten()
            .map(IpAddr::to_string)
            .collect()
    }

    /// (source cluster, target port, ready addresses) of every slice of a service.
    fn backends(&self, name: &str) -> BTreeSet<(String, String, Vec<String>)> {
        self.slices
            .values()
            .filter(|s| s.service.name == name)
            .map(|s| {
                let ports: Vec<String> = s.ports.iter().map(|p| format!("{}:{}", p.name, p.port)).collect();
                let ready = s
                    .endpoints
                    .iter()
                    .filter(|e| e.ready)
                    .map(|e| e.address.to_string())
                    .collect();
                (
                    s.labels[strait_api::names::LABEL_MCS_CLUSTER].clone(),
                    ports.join(","),
                    ready,
                )
            })
            .collect()
    }

    fn condition(&self, name: &str, type_: &str) -> (String, String, String) {
        let export = &self.exports[&ServiceKey::new("demo", name)];
        let c = export.conditions.iter().find(|c| c.type_ == type_).unwrap();
        (c.status.clone(), c.reason.clone(), c.message.clone())
    }

    fn admitted(&self, record: &str) -> (String, String) {
        let c = &self.records[record].conditions[0];
        (c.status.clone(), c.reason.clone())
    }

    /// All objects, without times.
    fn objects(&self) -> String {
        let untimed = |list: &[Condition]| -> Vec<String> {
            let mut list: Vec<String> = list
                .iter()
                .map(|c| format!("{} {} {} {}", c.type_, c.status, c.reason, c.message))
                .collect();
            list.sort();
            list
        };
        let imports: Vec<_> = self
            .imports
            .values()
            .map(|i| {
                (
                    &i.key,
                    &i.labels,
                    &i.spec,
                    &i.status.clusters,
                    untimed(&i.status.conditions),
                )
            })
            .collect();
        let exports: Vec<_> = self
            .exports
            .values()
            .map(|e| (&e.key, untimed(&e.conditions)))
            .collect();
        let records: Vec<_> = self
            .records
            .values()
            .map(|r| (&r.record, untimed(&r.conditions)))
            .collect();
        format!("{imports:#?}\n{:#?}\n{exports:#?}\n{records:#?}", self.slices)
    }
}

fn namespace(name: &str) -> Object {
    Object::Namespace {
        name: name.into(),
        terminating: false,
    }
}

fn cluster(owner: Option<&str>, id: &str, pods: &str, vips: &[&str]) -> Object {
    Object::Cluster(Box::new(Record {
        owner: owner.map(|o| o.parse().unwrap()),
        name: owner.map_or(id.to_owned(), |o| format!("{o}.{id}")),
        spec: ClusterSpec {
            cluster_id: id.parse().unwrap(),
            pod_cidrs: vec![
                pods.parse().unwrap(),
                format!("fd{}::/64", id.len()).parse().unwrap(),
            ],
            service_cidrs: vec![],
            global_cidrs: vec![],
            vip_cidrs: vips.iter().map(|v| v.parse().unwrap()).collect(),
            location: None,
            version: String::new(),
            full_sync: None,
            removed_at: None,
        },
    }))
}

fn member(id: &str, admitted: &str) -> Object {
    Object::Member(MemberSpec {
        cluster_id: id.parse().unwrap(),
        uid: id.into(),
        prefixes: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
        node_blocks: vec![],
        export_namespaces: vec!["*".into()],
        state: MemberState::Active,
        epoch: 1,
        admitted_at: admitted.into(),
        key_fingerprint: None,
        removed_at: None,
    })
}

fn port(name: &str, number: u16) -> ServicePort {
    ServicePort {
        name: name.into(),
        protocol: "TCP".into(),
        port: number,
        app_protocol: None,
    }
}

fn endpoint(address: &str) -> Endpoint {
    Endpoint {
        address: address.parse().unwrap(),
        ready: true,
        serving: true,
        terminating: false,
        hostname: None,
        node: Some("worker".into()),
        zone: None,
    }
}

fn service(name: &str) -> Service {
    Service {
        key: ServiceKey::new("demo", name),
        type_: "ClusterIP".into(),
        headless: false,
        ports: vec![port("http", 80)],
        ip_families: vec![IpFamily::IPv4],
        session_affinity: SessionAffinity::None,
        client_ip_timeout: None,
        internal_traffic_policy: Some("Cluster".into()),
        traffic_distribution: None,
    }
}

fn local_slice(name: &str, service: &str, addresses: &[&str]) -> Object {
    Object::LocalSlice(LocalSlice {
        name: name.into(),
        service: ServiceKey::new("demo", service),
        family: IpFamily::IPv4,
        ports: vec![port("http", 8080)],
        endpoints: addresses.iter().map(|a| endpoint(a)).collect(),
    })
}

fn export(name: &str) -> Object {
    Object::Export(Export {
        key: ServiceKey::new("demo", name),
        created_at: "2026-02-01T00:00:00Z".into(),
        generation: Some(1),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        conditions: vec![],
    })
}

fn spec(cluster: &str, name: &str, at: &str, addresses: &[&str]) -> ExportedServiceSpec {
    ExportedServiceSpec {
        cluster_id: cluster.parse().unwrap(),
        namespace: "demo".into(),
        name: name.into(),
        type_: ServiceType::ClusterSetIP,
        ports: vec![port("http", 80)],
        ip_families: vec![IpFamily::IPv4],
        session_affinity: SessionAffinity::None,
        client_ip: None,
        internal_traffic_policy: Some("Cluster".into()),
        traffic_distribution: None,
        exported_labels: BTreeMap::new(),
        exported_annotations: BTreeMap::new(),
        exported_at: at.into(),
        endpoints: vec![EndpointSet {
            family: IpFamily::IPv4,
            ports: vec![port("http", 9090)],
            endpoints: addresses.iter().map(|a| endpoint(a)).collect(),
        }],
        removed_at: None,
    }
}

fn copy(spec: ExportedServiceSpec) -> Object {
    Object::Record(Box::new(ExportRecord {
        record: Record {
            owner: Some(spec.cluster_id.clone()),
            name: format!("{}.{}.{}", spec.cluster_id, spec.name, spec.namespace),
            spec,
        },
        conditions: vec![],
    }))
}

fn with_web() -> World {
    let mut w = World::new(&["243.0.0.0/16", "fd33::/112"]);
    w.put(Object::Service(service("web")));
    w.put(local_slice("web-x1", "web", &["10.1.0.5"]));
    w.put(export("web"));
    w.settle();
    w
}

fn backend(cluster: &str, ports: &str, addresses: &[&str]) -> (String, String, Vec<String>) {
    (
        cluster.into(),
        ports.into(),
        addresses.iter().map(|a| a.to_string()).collect(),
    )
}

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
        ("True".into(), "EndpointNotAdmitted".into())
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

/// The last word on each object, and older words before it.
fn history() -> impl Strategy<Value = Vec<Object>> {
    let object = prop_oneof![
        (0..3usize).prop_map(|n| Object::Service(service(["a", "b", "c"][n]))),
        (0..3usize).prop_map(|n| Object::Service(Service {
            headless: true,
            ..service(["a", "b", "c"][n])
        })),
        (0..3usize).prop_map(|n| Object::Service(Service {
            ports: vec![port("http", 81)],
            ..service(["a", "b", "c"][n])
        })),
        (0..3usize).prop_map(|n| export(["a", "b", "c"][n])),
        (0..3usize, 0..3usize, prop::collection::vec(1..20u8, 0..4)).prop_map(|(n, s, hosts)| {
            let addresses: Vec<String> = hosts.iter().map(|h| format!("10.1.{s}.{h}")).collect();
            let name = ["a", "b", "c"][n];
            local_slice(
                &format!("{name}-{s}"),
                name,
                &addresses.iter().map(String::as_str).collect::<Vec<_>>(),
            )
        }),
        (
            0..3usize,
            0..2usize,
            1..9u8,
            prop::collection::vec(1..20u8, 0..4),
            80..82u16
        )
            .prop_map(|(n, c, month, hosts, number)| {
                let (id, net) = [("green", 2), ("red", 3)][c];
                let addresses: Vec<String> = hosts.iter().map(|h| format!("10.{net}.0.{h}")).collect();
                let mut spec = spec(
                    id,
                    ["a", "b", "c"][n],
                    &format!("2026-0{month}-01T00:00:00Z"),
                    &addresses.iter().map(String::as_str).collect::<Vec<_>>(),
                );
                spec.ports = vec![port("http", number)];
                copy(spec)
            }),
    ];
    prop::collection::vec(object, 1..24)
}

fn identity(object: &Object) -> String {
    match object {
        Object::Service(s) => format!("service {}", s.key),
        Object::Export(e) => format!("export {}", e.key),
        Object::LocalSlice(s) => format!("slice {}", s.name),
        Object::Record(r) => format!("record {}", r.record.name),
        other => format!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Whatever the order of the objects and wherever plans are carried out in between, the same stands in
    /// the end, and no address moves on the way.
    #[test]
    fn order_does_not_matter(history in history(), shuffle in any::<u64>(), pauses in prop::collection::vec(any::<bool>(), 24)) {
        let mut last: BTreeMap<String, Object> = BTreeMap::new();
        for object in &history {
            last.insert(identity(object), object.clone());
        }
        let mut plain = World::new(&["243.0.0.0/16"]);
        for object in last.values() {
            plain.put(object.clone());
        }
        plain.settle();

        let mut shuffled: Vec<Object> = last.values().cloned().collect();
        let n = shuffled.len();
        let mut seed = shuffle;
        for i in (1..n).rev() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            shuffled.swap(i, (seed >> 33) as usize % (i + 1));
        }
        let mut other = World::new(&["243.0.0.0/16"]);
        let mut vips: BTreeMap<ServiceKey, Vec<IpAddr>> = BTreeMap::new();
        for (i, object) in history.iter().cloned().chain(shuffled).enumerate() {
            other.put(object);
            if pauses[i % pauses.len()] {
                other.settle();
                for (key, import) in &other.imports {
                    if let Some(ips) = &import.spec.ips {
                        let first = vips.entry(key.clone()).or_insert_with(|| ips.clone());
                        prop_assert_eq!(first, ips);
                    }
                }
            }
        }
        other.settle();
        prop_assert_eq!(plain.objects(), other.objects());
    }

    /// No two services share an address, however small the range and whatever comes and goes.
    #[test]
    fn addresses_are_unique_and_stay(steps in prop::collection::vec((0..12u8, any::<bool>()), 1..40)) {
        let mut w = World::new(&["243.0.0.0/28"]);
        let mut held: BTreeMap<ServiceKey, Vec<IpAddr>> = BTreeMap::new();
        for (n, comes) in steps {
            let name = format!("s{n}");
            if comes {
                w.put(copy(spec("green", &name, "2026-02-02T00:00:00Z", &["10.2.0.5"])));
            } else {
                w.gone(Kind::Record, "", &format!("green.{name}.demo"));
            }
            w.settle();
            held.retain(|key, _| w.imports.contains_key(key));
            let mut seen = BTreeSet::new();
            for (key, import) in &w.imports {
                let ips = import.spec.ips.clone().unwrap();
                prop_assert!(ips.iter().all(|a| seen.insert(*a)));
                prop_assert_eq!(held.entry(key.clone()).or_insert_with(|| ips.clone()), &ips);
            }
        }
    }

    /// The merge depends on the exports, not on their order.
    #[test]
    fn merging_is_independent_of_order(list in prop::collection::vec((0..5usize, 1..9u8, 80..84u16, any::<bool>()), 0..5), turn in 0..5usize) {
        let ids = ["blue", "green", "red", "teal", "pink"];
        let mut by_cluster = BTreeMap::new();
        for (c, month, number, headless) in list {
            let mut s = spec(ids[c], "web", &format!("2026-0{month}-01T00:00:00Z"), &[]);
            s.ports = vec![port("http", number)];
            if headless {
                s.type_ = ServiceType::Headless;
            }
            by_cluster.insert(ids[c], merge::Constituent { spec: s, admitted_at: None, draining: false });
        }
        let mut list: Vec<_> = by_cluster.into_values().collect();
        let first = merge::merge(&list);
        if !list.is_empty() {
            let turn = turn % list.len();
            list.rotate_left(turn);
        }
        list.reverse();
        prop_assert_eq!(first.clone(), merge::merge(&list));
        if let Some(merged) = first {
            let names: BTreeSet<_> = merged.ports.iter().map(|p| &p.name).collect();
            prop_assert_eq!(names.len(), merged.ports.len());
        }
    }
}
