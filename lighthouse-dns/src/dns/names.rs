//! From watched objects to snapshots.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher;
use kube::{Client, ResourceExt as _};
use strait_api::mcs::ServiceImport;
use strait_api::names::{LABEL_SLICE_MANAGED_BY, MANAGED_BY};
use strait_core::dns::{Service, Snapshot};
use strait_core::services::{ServiceKey, Slice};
use strait_daemon::{Inputs, Shutdown, Status};

use super::Handler;
use crate::changes::{Change, Changes};
use crate::convert::{self, AnySlice};

/// How long to wait for further changes before a snapshot is taken.
const CALM: Duration = Duration::from_millis(5);
/// How long the API server may take to speak before what was saved is answered.
const PATIENCE: Duration = Duration::from_secs(1);

/// Follows the API server and swaps snapshots into the handler, until shut down.
pub(super) async fn follow(
    client: Client,
    saved_in: Option<&Path>,
    handler: Handler,
    status: Status,
    shutdown: Shutdown,
) {
    let mut inputs = Inputs::new(saved_in, shutdown.clone());
    let everything = watcher::Config::default;
    let ours = everything().labels(&format!("{LABEL_SLICE_MANAGED_BY}={MANAGED_BY}"));
    let mut names = Names {
        imports: Changes::of(inputs.watch_all(&client, everything())),
        slices: Changes::of(inputs.watch_all(&client, ours)),
        namespaces: Changes::of(inputs.watch_all(&client, everything())),
        by_service: BTreeMap::new(),
        service_of: BTreeMap::new(),
        specs: BTreeMap::new(),
        snapshot: Snapshot::empty(handler.zone().clone()),
    };
    loop {
        let first = !handler.has_snapshot();
        let news = async {
            // An answer from what was saved may deny a name that came since, and a client would keep that.
            match first {
                true => inputs.first(CALM, PATIENCE).await,
                false => inputs.changed(CALM).await,
            }
        };
        tokio::select! {
            () = news => {}
            () = shutdown.wait() => return inputs.saved().await,
        }
        if names.update() || first {
            handler.publish(Arc::new(names.snapshot.clone()));
        }
        if first {
            tracing::info!(
                imports = names.snapshot.services(),
                knowledge = ?inputs.knowledge(),
                "first snapshot taken: answering"
            );
            status.ready();
        }
    }
}

struct Names {
    imports: Changes<ServiceImport>,
    slices: Changes<EndpointSlice>,
    namespaces: Changes<Namespace>,
    by_service: BTreeMap<ServiceKey, BTreeMap<String, Slice>>,
    service_of: BTreeMap<(String, String), ServiceKey>,
    specs: BTreeMap<ServiceKey, Arc<ServiceImport>>,
    snapshot: Snapshot,
}

impl Names {
    /// Takes changes in; says whether the snapshot is another one now.
    fn update(&mut self) -> bool {
        let before = self.snapshot.clone();
        for change in self.namespaces.take() {
            match change {
                Change::Put(n) => self.snapshot.set_namespace(&n.name_any(), true),
                Change::Gone(_, name) => self.snapshot.set_namespace(&name, false),
            }
        }
        let mut dirty = BTreeSet::new();
        for change in self.imports.take() {
            match change {
                Change::Put(import) => {
                    let key = convert::key(&import.metadata);
                    dirty.insert(key.clone());
                    self.specs.insert(key, import);
                }
                Change::Gone(namespace, name) => {
                    let key = ServiceKey::new(namespace, name);
                    self.specs.remove(&key);
                    dirty.insert(key);
                }
            }
        }
        for change in self.slices.take() {
            match change {
                Change::Put(slice) => {
                    let at = (slice.namespace().unwrap_or_default(), slice.name_any());
                    self.forget_slice(&at, &mut dirty);
                    if let Some(AnySlice::Ours(slice)) = convert::slice(&slice) {
                        dirty.insert(slice.service.clone());
                        self.service_of.insert(at, slice.service.clone());
                        let of_service = self.by_service.entry(slice.service.clone()).or_default();
                        of_service.insert(slice.name.clone(), slice);
                    }
                }
                Change::Gone(namespace, name) => self.forget_slice(&(namespace, name), &mut dirty),
            }
        }
        for key in dirty {
            let service = self.specs.get(&key).map(|import| {
                let slices = self.by_service.get(&key).into_iter().flat_map(BTreeMap::values);
                Service::new(&import.spec, slices)
            });
            self.snapshot.set_service(&key.namespace, &key.name, service);
        }
        if before == self.snapshot {
            return false;
        }
        self.snapshot.serial = self.snapshot.serial.wrapping_add(1);
        true
    }

    fn forget_slice(&mut self, at: &(String, String), dirty: &mut BTreeSet<ServiceKey>) {
        let Some(service) = self.service_of.remove(at) else {
            return;
        };
        if let Some(slices) = self.by_service.get_mut(&service) {
            slices.remove(&at.1);
            if slices.is_empty() {
                self.by_service.remove(&service);
            }
        }
        dirty.insert(service);
    }
}
