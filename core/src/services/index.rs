//! What the local API server says, by service.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use strait_api::ClusterId;
use strait_api::records::{ClusterSpec, MemberSpec, ServiceType};

use super::{Export, ExportRecord, ImportObject, LocalSlice, Service, ServiceKey, Slice};
use crate::clusterset::{self, Clusterset, Record, Records};

/// An object that matters here.
#[derive(Debug, Clone)]
pub enum Object {
    /// A namespace of this cluster.
    Namespace {
        /// Its name.
        name: String,
        /// Whether it is on its way out.
        terminating: bool,
    },
    /// A ServiceExport.
    Export(Export),
    /// A Service.
    Service(Service),
    /// An EndpointSlice of a Service of this cluster.
    LocalSlice(LocalSlice),
    /// An EndpointSlice of ours.
    Slice(Slice),
    /// A ServiceImport.
    Import(Box<ImportObject>),
    /// An ExportedService, own or copy.
    Record(Box<ExportRecord>),
    /// A Member.
    Member(MemberSpec),
    /// A Cluster, own or copy.
    Cluster(Box<Record<ClusterSpec>>),
}

/// The kinds that are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Namespaces.
    Namespace,
    /// ServiceExports.
    Export,
    /// Services.
    Service,
    /// EndpointSlices: of Services and ours.
    EndpointSlice,
    /// ServiceImports.
    Import,
    /// ExportedServices in `strait-system`.
    Record,
    /// Members.
    Member,
    /// Clusters in `strait-system`.
    Cluster,
}

/// A change.
#[derive(Debug, Clone)]
pub enum Event {
    /// The object stands so.
    Put(Object),
    /// The object of this kind, namespace (empty if it has none) and name is gone, or is none of ours any more.
    Gone(Kind, String, String),
}

/// All inputs, and which services have changed since they were last asked for.
#[derive(Debug, Clone, Default)]
pub struct Index {
    pub(super) set: Clusterset,
    set_is_stale: bool,
    members: BTreeMap<ClusterId, MemberSpec>,
    clusters: BTreeMap<String, Record<ClusterSpec>>,
    pub(super) namespaces: BTreeMap<String, bool>,
    pub(super) exports: BTreeMap<ServiceKey, Export>,
    pub(super) services: BTreeMap<ServiceKey, Service>,
    pub(super) imports: BTreeMap<ServiceKey, ImportObject>,
    pub(super) local_slices: ByService<LocalSlice>,
    pub(super) slices: ByService<Slice>,
    pub(super) records: ByService<ExportRecord>,
    /// Who holds an address: (created, service).
    pub(super) vips: BTreeMap<IpAddr, BTreeSet<(String, ServiceKey)>>,
    /// Imports that found no address.
    waiting: BTreeSet<ServiceKey>,
    dirty: BTreeSet<ServiceKey>,
}

/// Objects of a service, by (namespace, name) of the object; an object may move to another service.
#[derive(Debug, Clone)]
pub(super) struct ByService<T> {
    objects: BTreeMap<ServiceKey, BTreeMap<String, T>>,
    service_of: BTreeMap<(String, String), ServiceKey>,
}

impl<T> Default for ByService<T> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            service_of: BTreeMap::new(),
        }
    }
}

impl<T> ByService<T> {
    fn put(
        &mut self,
        namespace: &str,
        name: &str,
        service: ServiceKey,
        object: T,
        dirty: &mut BTreeSet<ServiceKey>,
    ) {
        let id = (namespace.to_owned(), name.to_owned());
        if self.service_of.get(&id).is_some_and(|old| *old != service) {
            self.gone(namespace, name, dirty);
        }
        self.service_of.insert(id, service.clone());
        dirty.insert(service.clone());
        self.objects
            .entry(service)
            .or_default()
            .insert(name.to_owned(), object);
    }

    fn gone(&mut self, namespace: &str, name: &str, dirty: &mut BTreeSet<ServiceKey>) {
        let Some(service) = self.service_of.remove(&(namespace.to_owned(), name.to_owned())) else {
            return;
        };
        if let Some(objects) = self.objects.get_mut(&service) {
            objects.remove(name);
            if objects.is_empty() {
                self.objects.remove(&service);
            }
        }
        dirty.insert(service);
    }

    pub(super) fn of(&self, service: &ServiceKey) -> impl Iterator<Item = (&String, &T)> {
        self.objects.get(service).into_iter().flatten()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &ServiceKey> {
        self.objects.keys()
    }
}

impl Index {
    /// Takes a change in.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Put(object) => self.put(object),
            Event::Gone(kind, namespace, name) => self.gone(kind, &namespace, &name),
        }
    }

    /// The services that have changed since the last call. Who takes part is worked out here, once for all
    /// changes of members and clusters since.
    pub fn take_dirty(&mut self) -> BTreeSet<ServiceKey> {
        if std::mem::take(&mut self.set_is_stale) {
            self.look_round();
        }
        std::mem::take(&mut self.dirty)
    }

    /// Marks services as changed, to look at them again.
    pub fn touch(&mut self, services: impl IntoIterator<Item = ServiceKey>) {
        self.dirty.extend(services);
    }

    /// Every service that anything is known of.
    pub fn all(&self) -> BTreeSet<ServiceKey> {
        self.exports
            .keys()
            .chain(self.imports.keys())
            .chain(self.slices.keys())
            .chain(self.records.keys())
            .cloned()
            .collect()
    }

    /// This cluster's ID, once it has joined.
    pub fn own_id(&self) -> Option<&ClusterId> {
        self.set.own.as_ref().map(clusterset::OwnCluster::id)
    }

    /// How many ServiceExports and ServiceImports there are.
    pub fn counts(&self) -> (usize, usize) {
        (self.exports.len(), self.imports.len())
    }

    fn put(&mut self, object: Object) {
        match object {
            Object::Namespace { name, terminating } => {
                if self.namespaces.insert(name.clone(), terminating) != Some(terminating) {
                    self.touch_namespace(&name);
                }
            }
            Object::Export(export) => {
                self.dirty.insert(export.key.clone());
                self.exports.insert(export.key.clone(), export);
            }
            Object::Service(service) => {
                self.dirty.insert(service.key.clone());
                self.services.insert(service.key.clone(), service);
            }
            Object::LocalSlice(slice) => {
                let (namespace, name) = (slice.service.namespace.clone(), slice.name.clone());
                self.slices.gone(&namespace, &name, &mut self.dirty);
                self.local_slices
                    .put(&namespace, &name, slice.service.clone(), slice, &mut self.dirty);
            }
            Object::Slice(slice) => {
                let (namespace, name) = (slice.service.namespace.clone(), slice.name.clone());
                self.local_slices.gone(&namespace, &name, &mut self.dirty);
                self.slices
                    .put(&namespace, &name, slice.service.clone(), slice, &mut self.dirty);
            }
            Object::Import(import) => {
                self.release(&import.key);
                for address in import.spec.ips.iter().flatten() {
                    let holders = self.vips.entry(*address).or_default();
                    self.dirty.extend(holders.iter().map(|(_, key)| key.clone()));
                    holders.insert((import.created_at.clone(), import.key.clone()));
                }
                if import.spec.type_ == ServiceType::ClusterSetIP && import.spec.ips.is_none() {
                    self.waiting.insert(import.key.clone());
                }
                self.dirty.insert(import.key.clone());
                self.imports.insert(import.key.clone(), *import);
            }
            Object::Record(record) => {
                let spec = &record.record.spec;
                let key = ServiceKey::new(spec.namespace.clone(), spec.name.clone());
                let name = record.record.name.clone();
                self.records.put("", &name, key, *record, &mut self.dirty);
            }
            Object::Member(member) => {
                self.members.insert(member.cluster_id.clone(), member);
                self.set_is_stale = true;
            }
            Object::Cluster(cluster) => {
                self.clusters.insert(cluster.name.clone(), *cluster);
                self.set_is_stale = true;
            }
        }
    }

    fn gone(&mut self, kind: Kind, namespace: &str, name: &str) {
        let key = ServiceKey::new(namespace, name);
        match kind {
            Kind::Namespace => {
                if self.namespaces.remove(name).is_some() {
                    self.touch_namespace(name);
                }
            }
            Kind::Export => {
                if self.exports.remove(&key).is_some() {
                    self.dirty.insert(key);
                }
            }
            Kind::Service => {
                if self.services.remove(&key).is_some() {
                    self.dirty.insert(key);
                }
            }
            Kind::EndpointSlice => {
                self.local_slices.gone(namespace, name, &mut self.dirty);
                self.slices.gone(namespace, name, &mut self.dirty);
            }
            Kind::Import => {
                self.release(&key);
                if self.imports.remove(&key).is_some() {
                    self.dirty.insert(key);
                }
            }
            Kind::Record => self.records.gone("", name, &mut self.dirty),
            Kind::Member => {
                self.members.retain(|id, _| id.as_str() != name);
                self.set_is_stale = true;
            }
            Kind::Cluster => {
                self.clusters.remove(name);
                self.set_is_stale = true;
            }
        }
    }

    fn release(&mut self, key: &ServiceKey) {
        self.waiting.remove(key);
        let Some(old) = self.imports.get(key) else { return };
        if old.spec.ips.is_some() {
            self.dirty.extend(self.waiting.iter().cloned());
        }
        for address in old.spec.ips.iter().flatten() {
            if let Some(holders) = self.vips.get_mut(address) {
                holders.retain(|(_, k)| k != key);
                if holders.is_empty() {
                    self.vips.remove(address);
                }
            }
        }
    }

    fn touch_namespace(&mut self, namespace: &str) {
        let all = self.all();
        self.dirty
            .extend(all.into_iter().filter(|k| k.namespace == namespace));
    }

    /// Who takes part has changed: works it out again, and everything if it matters.
    fn look_round(&mut self) {
        let set = clusterset::view(&Records {
            members: self.members.values().cloned().collect(),
            clusters: self.clusters.values().cloned().collect(),
            gateways: Vec::new(),
        });
        if set != self.set {
            self.set = set;
            let all = self.all();
            self.dirty.extend(all);
        }
    }
}
