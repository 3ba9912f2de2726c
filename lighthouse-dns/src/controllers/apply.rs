//! Carries plans out.

use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use strait_api::mcs::{ServiceExport, ServiceImport};
use strait_api::names;
use strait_api::records::ExportedService;
use strait_core::services::{Event, Kind, Object, ServiceKey, Step};
use strait_daemon::Shutdown;

use super::events::Events;
use super::{Metrics, Settings, watch};
use crate::convert::{self, AnySlice};

/// How long one write may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What became of a service's writes.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The objects as they stand now.
    pub(super) events: Vec<Event>,
    /// Whether any write failed.
    pub(super) failed: bool,
    /// What the write of its record failed with.
    pub(super) record: Option<String>,
}

/// Why a write failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Api(#[from] kube::Error),
    #[error("no answer from the API server within {} s", TIMEOUT.as_secs())]
    Timeout,
}

pub(super) struct Applier {
    client: Client,
    namespace: String,
    params: PatchParams,
    metrics: Metrics,
    events: Events,
}

impl Applier {
    pub(super) fn new(client: Client, settings: &Settings, shutdown: &Shutdown) -> Self {
        Self {
            events: Events::new(client.clone(), shutdown.clone()),
            client,
            namespace: settings.namespace.clone(),
            params: PatchParams::apply(&format!("{}agent", names::FIELD_MANAGER_PREFIX)).force(),
            metrics: settings.metrics.clone(),
        }
    }

    /// Carries out the writes of one service in order. One that fails stops only those that build on it.
    pub(super) async fn apply(&self, key: &ServiceKey, steps: Vec<Step>) -> Outcome {
        let mut outcome = Outcome::default();
        let mut import_failed = false;
        for step in steps {
            if import_failed && matches!(step, Step::PutImportStatus(_)) {
                continue;
            }
            let kind = kind_of(&step);
            let (is_record, is_import) = (
                matches!(step, Step::PutRecord(_)),
                matches!(step, Step::PutImport(_)),
            );
            let what = step.to_string();
            match self.step(key, step).await {
                Ok(event) => {
                    self.metrics.write(kind, true);
                    outcome.events.extend(event);
                }
                Err(e) => {
                    self.metrics.write(kind, false);
                    outcome.failed = true;
                    import_failed |= is_import;
                    tracing::warn!(service = %key, step = what, error = %e, "write failed; trying again");
                    if is_record {
                        outcome.record = Some(format!("the record of this export cannot be written: {e}"));
                    } else {
                        self.events
                            .warn(self.import(key), "WriteFailed", &format!("{what}: {e}"));
                    }
                }
            }
        }
        outcome
    }

    async fn step(&self, key: &ServiceKey, step: Step) -> Result<Option<Event>, Failure> {
        let (namespace, name) = (key.namespace.as_str(), key.name.as_str());
        Ok(match step {
            Step::PutRecord(spec) => {
                let name = names::exported_service_name(name, namespace);
                let record = ExportedService::new(&name, *spec);
                let written = self.put(&self.namespace, &name, &record).await?;
                watch::export_record(&written).map(Event::Put)
            }
            Step::DeleteRecord(name) => {
                self.delete::<ExportedService>(&self.namespace, &name).await?;
                Some(Event::Gone(Kind::Record, self.namespace.clone(), name))
            }
            Step::PutImport(import) => {
                let mut object = ServiceImport::new(name, import.spec);
                object.metadata.labels = convert::non_empty(&import.labels);
                object.metadata.annotations = convert::non_empty(&import.annotations);
                let written = self.put(namespace, name, &object).await?;
                Some(Event::Put(Object::Import(Box::new(convert::import(&written)))))
            }
            Step::PutImportStatus(status) => {
                let bad: Vec<_> = status.conditions.clone();
                let written: ServiceImport = self
                    .put_status(namespace, name, &json!({ "status": *status }))
                    .await?;
                self.events.conditions(&self.import(key), &bad, &["Ready"]);
                Some(Event::Put(Object::Import(Box::new(convert::import(&written)))))
            }
            Step::DeleteImport => {
                self.delete::<ServiceImport>(namespace, name).await?;
                Some(Event::Gone(Kind::Import, namespace.to_owned(), name.to_owned()))
            }
            Step::PutSlice(slice) => {
                let object = convert::endpoint_slice(&slice);
                let written: EndpointSlice = self.put(namespace, &slice.name, &object).await?;
                match convert::slice(&written) {
                    Some(AnySlice::Ours(slice)) => Some(Event::Put(Object::Slice(slice))),
                    _ => None,
                }
            }
            Step::DeleteSlice(name) => {
                self.delete::<EndpointSlice>(namespace, &name).await?;
                Some(Event::Gone(Kind::EndpointSlice, namespace.to_owned(), name))
            }
            Step::PutExportStatus(conditions) => {
                let status = json!({ "status": { "conditions": conditions } });
                let written: ServiceExport = self.put_status(namespace, name, &status).await?;
                self.events.conditions(
                    &reference::<ServiceExport>(namespace, name),
                    &conditions,
                    &["Valid", "Ready"],
                );
                Some(Event::Put(Object::Export(convert::export(&written))))
            }
            Step::PutRecordStatus(name, conditions) => {
                let status = json!({ "status": { "conditions": conditions } });
                let written: ExportedService = self.put_status(&self.namespace, &name, &status).await?;
                self.events.conditions(
                    &reference::<ExportedService>(&self.namespace, &name),
                    &conditions,
                    &["Admitted"],
                );
                watch::export_record(&written).map(Event::Put)
            }
        })
    }

    fn import(&self, key: &ServiceKey) -> ObjectReference {
        reference::<ServiceImport>(&key.namespace, &key.name)
    }

    fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    async fn put<K>(&self, namespace: &str, name: &str, object: &K) -> Result<K, Failure>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Serialize
            + DeserializeOwned
            + Clone
            + Debug,
    {
        let api = self.api::<K>(namespace);
        within(api.patch(name, &self.params, &Patch::Apply(object))).await
    }

    async fn put_status<K>(
        &self,
        namespace: &str,
        name: &str,
        status: &serde_json::Value,
    ) -> Result<K, Failure>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
    {
        let mut patch = status.clone();
        if let Some(patch) = patch.as_object_mut() {
            patch.insert("apiVersion".into(), K::api_version(&()).into());
            patch.insert("kind".into(), K::kind(&()).into());
        }
        let api = self.api::<K>(namespace);
        within(api.patch_status(name, &self.params, &Patch::Apply(&patch))).await
    }

    /// Deletes an object; one that is gone already is as good.
    async fn delete<K>(&self, namespace: &str, name: &str) -> Result<(), Failure>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
    {
        let api = self.api::<K>(namespace);
        match within(api.delete(name, &DeleteParams::default())).await {
            Err(Failure::Api(kube::Error::Api(status))) if status.is_not_found() => Ok(()),
            other => other.map(|_| ()),
        }
    }
}

async fn within<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Failure> {
    match tokio::time::timeout(TIMEOUT, call).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Failure::Timeout),
    }
}

fn reference<K: Resource<DynamicType = ()>>(namespace: &str, name: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        ..ObjectReference::default()
    }
}

fn kind_of(step: &Step) -> &'static str {
    match step {
        Step::PutRecord(_) | Step::DeleteRecord(_) | Step::PutRecordStatus(..) => "ExportedService",
        Step::PutImport(_) | Step::PutImportStatus(_) | Step::DeleteImport => "ServiceImport",
        Step::PutSlice(_) | Step::DeleteSlice(_) => "EndpointSlice",
        Step::PutExportStatus(_) => "ServiceExport",
    }
}
