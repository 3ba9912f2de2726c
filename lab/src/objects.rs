//! Objects of any kind, to an API server.

use std::path::Path;

use anyhow::{Context as _, Result};
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind, TypeMeta};
use kube::{Api, Client};
use serde_json::Value;

/// Who writes the lab's objects.
pub(crate) const FIELD_MANAGER: &str = "strait-lab";

/// A client by kubeconfig.
pub(crate) async fn client(kubeconfig: &Path) -> Result<Client> {
    Ok(strait_daemon::client::connect(Some(kubeconfig), FIELD_MANAGER).await?)
}

/// Applies an object of any kind, as `kubectl apply --server-side` does.
pub(crate) async fn apply(client: &Client, object: &Value) -> Result<()> {
    let types: TypeMeta = serde_json::from_value(object.clone()).context("an object without a kind")?;
    let gvk = GroupVersionKind::try_from(&types).context("an object with a strange apiVersion")?;
    let resource = ApiResource::from_gvk(&gvk);
    let object: DynamicObject = serde_json::from_value(object.clone())?;
    let name = object
        .metadata
        .name
        .clone()
        .with_context(|| format!("a {} without a name", gvk.kind))?;
    let api: Api<DynamicObject> = match &object.metadata.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    api.patch(
        &name,
        &PatchParams::apply(FIELD_MANAGER).force(),
        &Patch::Apply(&object),
    )
    .await
    .with_context(|| format!("cannot apply the {} {name}", gvk.kind))?;
    Ok(())
}
