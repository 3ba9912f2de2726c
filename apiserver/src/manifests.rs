//! Loading manifests, and what a new store begins with.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::Api;
use crate::auth::bootstrap::ROLES;
use crate::catalog::Resource;
use crate::error::Error;
use crate::rest::decode::Body;
use crate::rest::update::Place;
use crate::rest::{Context, FieldValidation, create, meta, patch};

/// Makes what every server has: namespaces, roles, and its own Service.
pub(crate) async fn bootstrap(api: &Arc<Api>) -> Result<(), Error> {
    for name in ["kube-system", "kube-public", "kube-node-lease", "default"] {
        ensure(
            api,
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
        )
        .await?;
    }
    for object in crate::yaml::documents(ROLES).map_err(Error::Other)? {
        ensure(api, object).await?;
    }
    if let Some(first) = api.settings.service_cidrs.first() {
        // The first host address; of an IPv6 range, hosts begin with the network's own.
        let network = first.network();
        let ip = first.hosts().find(|ip| *ip != network).unwrap_or(network);
        ensure(
            api,
            json!({"apiVersion": "v1", "kind": "Service",
                "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"component": "apiserver", "provider": "kubernetes"}},
                "spec": {"clusterIP": ip.to_string(), "ipFamilyPolicy": "SingleStack", "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}]}}),
        )
        .await?;
    }
    Ok(())
}

fn resource(api: &Api, object: &Value) -> Result<Arc<Resource>, String> {
    let text = |k: &str| object.get(k).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    api.catalogs
        .current()
        .find_kind(version, kind)
        .cloned()
        .ok_or_else(|| format!("there is no kind {kind:?} in {version:?}; apply its definition first"))
}

fn place<'a>(resource: &Resource, object: &'a Value) -> &'a str {
    let namespace = meta::text(object, "namespace");
    match (resource.namespaced, namespace.is_empty()) {
        (false, _) => "",
        (true, true) => "default",
        (true, false) => namespace,
    }
}

/// Makes an object unless it exists.
async fn ensure(api: &Arc<Api>, object: Value) -> Result<(), Error> {
    let resource = resource(api, &object).map_err(Error::Other)?;
    let namespace = place(&resource, &object).to_owned();
    if api
        .store
        .get(&resource.storage, &namespace, meta::text(&object, "name"))
        .is_some()
    {
        return Ok(());
    }
    let name = meta::text(&object, "name").to_owned();
    match create::create_object(api, &Context::system(), &resource, &namespace, object, false).await {
        Ok(_) => Ok(()),
        Err(e) if e.reason == "AlreadyExists" => Ok(()),
        Err(e) => Err(Error::Other(format!(
            "{} {name} cannot be made: {e}",
            resource.kind
        ))),
    }
}

/// Applies every document of a manifest.
pub(crate) async fn load(api: &Arc<Api>, text: &str) -> Result<(), Error> {
    for object in crate::yaml::documents(text).map_err(Error::Manifest)? {
        let items = match object.get("items").and_then(Value::as_array) {
            Some(items)
                if object
                    .get("kind")
                    .and_then(Value::as_str)
                    .is_some_and(|k| k.ends_with("List")) =>
            {
                items.clone()
            }
            _ => vec![object],
        };
        for item in items {
            apply(api, item).await?;
        }
    }
    Ok(())
}

async fn apply(api: &Arc<Api>, mut object: Value) -> Result<(), Error> {
    let resource = resource(api, &object).map_err(Error::Manifest)?;
    let namespace = place(&resource, &object).to_owned();
    let name = meta::text(&object, "name").to_owned();
    let fail = |e: &dyn std::fmt::Display| Error::Manifest(format!("{} {name:?}: {e}", resource.kind));
    if name.is_empty() {
        return Err(fail(&"it has no name"));
    }
    if let Some(map) = object.as_object_mut() {
        map.shift_remove("status");
    }
    let cx = Context {
        manager: "strait-manifests".into(),
        force: true,
        validation: FieldValidation::Warn,
        ..Context::system()
    };
    let body = Body {
        media_type: "application/apply-patch+yaml".into(),
        bytes: serde_json::to_vec(&object).map_err(|e| fail(&e))?.into(),
    };
    let at = Place {
        resource: &resource,
        namespace: &namespace,
        name: &name,
        subresource: "",
    };
    let outcome = patch::patch(api, &cx, at, &body).await.map_err(|e| fail(&e))?;
    for warning in outcome.warnings {
        tracing::warn!(kind = %resource.kind, %name, %warning, "a manifest was loaded with a warning");
    }
    Ok(())
}
