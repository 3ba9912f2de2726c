//! A cluster's API server in small: plans are carried out on it and come back as events.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use strait_api::Condition;
use strait_api::records::{
    ClusterSpec, Endpoint, EndpointSet, ExportedServiceSpec, IpFamily, MemberSpec, MemberState, ServicePort,
    ServiceType, SessionAffinity,
};

use crate::clusterset::Record;
use crate::services::*;

pub(super) const NOW: &str = "2026-11-20T12:00:00Z";

pub(super) struct World {
    pub(super) index: Index,
    pub(super) imports: BTreeMap<ServiceKey, ImportObject>,
    pub(super) slices: BTreeMap<String, Slice>,
    pub(super) records: BTreeMap<String, ExportRecord>,
    pub(super) exports: BTreeMap<ServiceKey, Export>,
    pub(super) writes: usize,
}

impl World {
    pub(super) fn new(vip_cidrs: &[&str]) -> Self {
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

    pub(super) fn put(&mut self, object: Object) {
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

    pub(super) fn gone(&mut self, kind: Kind, namespace: &str, name: &str) {
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
    pub(super) fn settle(&mut self) {
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

    pub(super) fn carry_out(&mut self, key: &ServiceKey, step: Step) {
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

    pub(super) fn import(&self, name: &str) -> &ImportObject {
        &self.imports[&ServiceKey::new("demo", name)]
    }

    pub(super) fn vip(&self, name: &str) -> Vec<String> {
        self.import(name)
            .spec
            .ips
            .iter()
            .flatten()
            .map(IpAddr::to_string)
            .collect()
    }

    /// (source cluster, target port, ready addresses) of every slice of a service.
    pub(super) fn backends(&self, name: &str) -> BTreeSet<(String, String, Vec<String>)> {
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

    pub(super) fn condition(&self, name: &str, type_: &str) -> (String, String, String) {
        let export = &self.exports[&ServiceKey::new("demo", name)];
        let c = export.conditions.iter().find(|c| c.type_ == type_).unwrap();
        (c.status.clone(), c.reason.clone(), c.message.clone())
    }

    pub(super) fn admitted(&self, record: &str) -> (String, String) {
        let c = &self.records[record].conditions[0];
        (c.status.clone(), c.reason.clone())
    }

    /// All objects, without times.
    pub(super) fn objects(&self) -> String {
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

pub(super) fn namespace(name: &str) -> Object {
    Object::Namespace {
        name: name.into(),
        terminating: false,
    }
}

pub(super) fn cluster(owner: Option<&str>, id: &str, pods: &str, vips: &[&str]) -> Object {
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

pub(super) fn member(id: &str, admitted: &str) -> Object {
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

pub(super) fn port(name: &str, number: u16) -> ServicePort {
    ServicePort {
        name: name.into(),
        protocol: "TCP".into(),
        port: number,
        app_protocol: None,
    }
}

pub(super) fn endpoint(address: &str) -> Endpoint {
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

pub(super) fn service(name: &str) -> Service {
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

pub(super) fn local_slice(name: &str, service: &str, addresses: &[&str]) -> Object {
    Object::LocalSlice(LocalSlice {
        name: name.into(),
        service: ServiceKey::new("demo", service),
        family: IpFamily::IPv4,
        ports: vec![port("http", 8080)],
        endpoints: addresses.iter().map(|a| endpoint(a)).collect(),
    })
}

pub(super) fn export(name: &str) -> Object {
    Object::Export(Export {
        key: ServiceKey::new("demo", name),
        created_at: "2026-02-01T00:00:00Z".into(),
        generation: Some(1),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        conditions: vec![],
    })
}

pub(super) fn spec(cluster: &str, name: &str, at: &str, addresses: &[&str]) -> ExportedServiceSpec {
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

pub(super) fn copy(spec: ExportedServiceSpec) -> Object {
    Object::Record(Box::new(ExportRecord {
        record: Record {
            owner: Some(spec.cluster_id.clone()),
            name: format!("{}.{}.{}", spec.cluster_id, spec.name, spec.namespace),
            spec,
        },
        conditions: vec![],
    }))
}

pub(super) fn with_web() -> World {
    let mut w = World::new(&["243.0.0.0/16", "fd33::/112"]);
    w.put(Object::Service(service("web")));
    w.put(local_slice("web-x1", "web", &["10.1.0.5"]));
    w.put(export("web"));
    w.settle();
    w
}

pub(super) fn backend(cluster: &str, ports: &str, addresses: &[&str]) -> (String, String, Vec<String>) {
    (
        cluster.into(),
        ports.into(),
        addresses.iter().map(|a| a.to_string()).collect(),
    )
}
