//! Applying manifests, as `kubectl apply --server-side` does.

use std::time::Duration;

use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{Scope, pinned_kind};
use serde_json::Value;
use tokio::time::Instant;

/// Time for a definition to be served.
const SERVED: Duration = Duration::from_secs(30);

/// Applies every document of a manifest, as the administrator that `client` is; definitions are served when this
/// returns.
pub async fn apply(client: &kube::Client, text: &str) -> Result<(), String> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).map_err(|e| format!("the manifest is no YAML: {e}"))?;
    for document in documents.into_iter().filter(|d| !d.is_null()) {
        one(client, document).await?;
    }
    Ok(())
}

async fn one(client: &kube::Client, mut document: Value) -> Result<(), String> {
    if let Some(map) = document.as_object_mut() {
        map.shift_remove("status");
    }
    let text = |p: &str| document.pointer(p).and_then(Value::as_str).unwrap_or_default();
    let (version, kind, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
    let what = format!("{kind} {name}");
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let gvk = GroupVersionKind::gvk(group, version, kind);
    let end = Instant::now() + SERVED;
    // A kind whose definition has just been applied comes a moment later.
    let (resource, capabilities) = loop {
        match pinned_kind(client, &gvk).await {
            Ok(found) => break found,
            Err(e) if Instant::now() > end => return Err(format!("{what}: {e}")),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    let namespace = match text("/metadata/namespace") {
        "" => "default",
        namespace => namespace,
    };
    let api: Api<DynamicObject> = match capabilities.scope {
        Scope::Cluster => Api::all_with(client.clone(), &resource),
        Scope::Namespaced => Api::namespaced_with(client.clone(), namespace, &resource),
    };
    api.patch(
        name,
        &PatchParams::apply("strait-envtest").force(),
        &Patch::Apply(&document),
    )
    .await
    .map_err(|e| format!("{what}: {e}"))?;
    if kind != "CustomResourceDefinition" {
        return Ok(());
    }
    loop {
        let now = api.get(name).await.map_err(|e| format!("{what}: {e}"))?;
        let conditions = now.data.pointer("/status/conditions").and_then(Value::as_array);
        let served = conditions.is_some_and(|list| {
            list.iter()
                .any(|c| c["type"] == "Established" && c["status"] == "True")
        });
        if served {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(format!("{what} is not established"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
