//! From the local API into the index.

use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher;
use kube::{Client, ResourceExt as _};
use strait_api::mcs::{ServiceExport, ServiceImport};
use strait_api::records::{Cluster, ExportedService, Member};
use strait_core::services::{Event, ExportRecord, Index, Kind, Object};
use strait_daemon::Inputs;
use strait_daemon::clusterset::record;
use strait_daemon::inputs::Input;

use crate::changes::{Change, Changes};
use crate::convert::{self, AnySlice};

/// All that is watched.
pub(super) struct Watch {
    namespaces: Changes<Namespace>,
    members: Changes<Member>,
    clusters: Changes<Cluster>,
    exports: Changes<ServiceExport>,
    services: Changes<Service>,
    slices: Changes<EndpointSlice>,
    imports: Changes<ServiceImport>,
    records: Changes<ExportedService>,
}

impl Watch {
    pub(super) fn new(inputs: &mut Inputs, client: &Client, namespace: &str) -> Self {
        let all = watcher::Config::default;
        Self {
            namespaces: Changes::of(inputs.watch_all(client, all())),
            members: Changes::of(inputs.watch_all(client, all())),
            clusters: Changes::of(inputs.watch_in(client, namespace, all())),
            exports: Changes::of(inputs.watch_all(client, all())),
            services: Changes::of(inputs.watch_all(client, all())),
            slices: Changes::of(inputs.watch_all(client, all())),
            imports: Changes::of(inputs.watch_all(client, all())),
            records: Changes::of(inputs.watch_in(client, namespace, all())),
        }
    }

    /// Takes the changes since the last call into the index.
    pub(super) fn feed(&mut self, index: &mut Index) {
        feed(index, Kind::Namespace, &mut self.namespaces, |n| {
            let phase = n.status.as_ref().and_then(|s| s.phase.as_deref());
            Some(Object::Namespace {
                name: n.name_any(),
                terminating: n.metadata.deletion_timestamp.is_some() || phase == Some("Terminating"),
            })
        });
        feed(index, Kind::Member, &mut self.members, |m| {
            Some(Object::Member(m.spec.clone()))
        });
        feed(index, Kind::Cluster, &mut self.clusters, |c| {
            record(c, |c| c.spec.clone()).map(|r| Object::Cluster(Box::new(r)))
        });
        feed(index, Kind::Export, &mut self.exports, |e| {
            // One that is being deleted is withdrawn already, whatever its finalizers wait for.
            e.metadata
                .deletion_timestamp
                .is_none()
                .then(|| Object::Export(convert::export(e)))
        });
        feed(index, Kind::Service, &mut self.services, |s| {
            s.metadata
                .deletion_timestamp
                .is_none()
                .then(|| Object::Service(convert::service(s)))
        });
        feed(index, Kind::EndpointSlice, &mut self.slices, |s| {
            Some(match convert::slice(s)? {
                AnySlice::Local(slice) => Object::LocalSlice(slice),
                AnySlice::Ours(slice) => Object::Slice(slice),
            })
        });
        feed(index, Kind::Import, &mut self.imports, |i| {
            Some(Object::Import(Box::new(convert::import(i))))
        });
        feed(index, Kind::Record, &mut self.records, export_record);
    }

    /// Whether the watch of this kind has brought an object that was written here.
    pub(super) fn has(&self, kind: Kind, namespace: &str, name: &str) -> bool {
        match kind {
            Kind::Namespace => self.namespaces.has(namespace, name),
            Kind::Export => self.exports.has(namespace, name),
            Kind::Service => self.services.has(namespace, name),
            Kind::EndpointSlice => self.slices.has(namespace, name),
            Kind::Import => self.imports.has(namespace, name),
            Kind::Record => self.records.has(namespace, name),
            Kind::Member => self.members.has(namespace, name),
            Kind::Cluster => self.clusters.has(namespace, name),
        }
    }

    /// Forgets what was fed, so that the next feed brings everything.
    pub(super) fn forget(&mut self) {
        self.namespaces.forget();
        self.members.forget();
        self.clusters.forget();
        self.exports.forget();
        self.services.forget();
        self.slices.forget();
        self.imports.forget();
        self.records.forget();
    }
}

/// What a record is to the index.
pub(super) fn export_record(e: &ExportedService) -> Option<Object> {
    Some(Object::Record(Box::new(ExportRecord {
        record: record(e, |e| e.spec.clone())?,
        conditions: e
            .status
            .as_ref()
            .map(|s| s.conditions.clone())
            .unwrap_or_default(),
    })))
}

fn feed<K: Input>(
    index: &mut Index,
    kind: Kind,
    changes: &mut Changes<K>,
    object: impl Fn(&K) -> Option<Object>,
) {
    for change in changes.take() {
        index.apply(match change {
            Change::Put(o) => match object(&o) {
                Some(object) => Event::Put(object),
                None => Event::Gone(kind, o.namespace().unwrap_or_default(), o.name_any()),
            },
            Change::Gone(namespace, name) => Event::Gone(kind, namespace, name),
        });
    }
}
