//! CustomResourceDefinitions: what follows their creation and change.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::Api;
use crate::catalog::{CRDS, Resource, crd, reserved};
use crate::rest::delete::{self, DeleteOptions};
use crate::rest::update::{Place, Settle, change};
use crate::rest::{Context, meta, now, patch};
use crate::status::{ApiResult, Cause};

/// Holds a definition until its objects are gone.
const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Accepts the names of a definition, or does not, and serves it from then on.
pub(super) async fn settle(api: &Arc<Api>, resource: &Arc<Resource>, object: &Value) -> ApiResult<()> {
    let all: Vec<Value> = api.store.list(CRDS, "").items.iter().map(|o| o.value()).collect();
    let status = crd::settle(object, &all, &now());
    let names = |status: Option<&Value>| status.and_then(|s| s.get("acceptedNames")).cloned();
    let renamed = names(object.get("status")) != names(Some(&status));
    set_status(api, resource, meta::text(object, "name"), status).await?;
    api.catalogs.current();
    if renamed {
        // Names that it had before are free.
        Box::pin(resettle(api, resource, object)).await?;
    }
    Ok(())
}

async fn set_status(api: &Arc<Api>, resource: &Arc<Resource>, name: &str, status: Value) -> ApiResult<()> {
    let place = Place {
        resource,
        namespace: "",
        name,
        subresource: "status",
    };
    // Boxed: this write is part of another one.
    Box::pin(patch::set_status(api, place, status)).await?;
    Ok(())
}

/// After names of a definition are free: others of its group may have waited for them.
async fn resettle(api: &Arc<Api>, resource: &Arc<Resource>, of: &Value) -> ApiResult<()> {
    let group = of.pointer("/spec/group");
    for other in api.store.list(CRDS, "").items {
        let waits = |o: &Value| o.pointer("/spec/group") == group && !crd::holds(o, "NamesAccepted");
        let other = other.value();
        if waits(&other) && meta::text(&other, "name") != meta::text(of, "name") {
            settle(api, resource, &other).await?;
        }
    }
    Ok(())
}

/// After a definition is gone.
pub(crate) async fn gone(api: &Arc<Api>, resource: &Arc<Resource>, old: &Value) -> ApiResult<()> {
    crate::controllers::namespaces::orphans(api).await?;
    resettle(api, resource, old).await
}

/// Marks a definition as one on its way out.
pub(crate) fn end(object: &mut Value, finalizers: &mut Vec<String>) {
    if !finalizers.iter().any(|f| f == CLEANUP) {
        finalizers.push(CLEANUP.to_owned());
    }
    let why = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    if !object["status"].is_object() {
        object["status"] = json!({});
    }
    crd::note(
        &mut object["status"],
        crd::condition("Terminating", true, "InstanceDeletionPending", why),
        &now(),
    );
}

/// Deletes the objects of a definition that is on its way out, and lets it go when the last one is gone.
/// Returns how much was done.
pub(crate) async fn finish(api: &Arc<Api>, resource: &Arc<Resource>, name: &str) -> ApiResult<usize> {
    let Some(stored) = api.store.get(CRDS, "", name) else {
        return Ok(0);
    };
    let definition = stored.value();
    if !stored.deleting || !meta::finalizers(&definition).iter().any(|f| f == CLEANUP) {
        return Ok(0);
    }
    let mut done = 0;
    // What a built-in resource stores under the same name is not the definition's.
    let objects = || {
        if reserved::stores(name) {
            Vec::new()
        } else {
            api.store.list(name, "").items
        }
    };
    if let Some(own) = crd::stored(&definition, stored.rv).map(Arc::new) {
        for object in objects().iter().filter(|o| !o.deleting) {
            let options = DeleteOptions::default();
            match delete::delete(api, &own, &object.namespace, &object.name, &options).await {
                Ok(_) => done += 1,
                Err(e) if e.reason == "NotFound" => {}
                Err(e) => return Err(e),
            }
        }
    }
    if objects().is_empty() {
        let place = Place {
            resource,
            namespace: "",
            name,
            subresource: "",
        };
        let release = |old: &Value| {
            let mut new = old.clone();
            let rest: Vec<String> = meta::finalizers(old)
                .into_iter()
                .filter(|f| f != CLEANUP)
                .collect();
            meta::of(&mut new).insert("finalizers".into(), json!(rest));
            Ok(new)
        };
        return match Box::pin(change(api, &Context::system(), place, Settle::Patch, release)).await {
            Err(e) if e.reason != "NotFound" => Err(e),
            _ => Ok(done + 1),
        };
    }
    let mut status = definition.get("status").cloned().unwrap_or_else(|| json!({}));
    let why = "CustomResource deletion is in progress";
    crd::note(
        &mut status,
        crd::condition("Terminating", true, "InstanceDeletionInProgress", why),
        &now(),
    );
    set_status(api, resource, name, status).await?;
    Ok(done)
}

/// Takes names of built-in resources back that a definition was given by a server that did not look. Returns how
/// much was done.
pub(crate) async fn correct(
    api: &Arc<Api>,
    resource: &Arc<Resource>,
    definition: &Value,
) -> ApiResult<usize> {
    if !crd::takes_builtin(definition) || !crd::holds(definition, "NamesAccepted") {
        return Ok(0);
    }
    tracing::warn!(
        crd = %meta::text(definition, "name"),
        "the definition has the name of a built-in resource and is not served; delete it, or give it another name or group"
    );
    settle(api, resource, definition).await?;
    Ok(1)
}

pub(super) fn validate_update(old: &Value, new: &Value) -> Vec<Cause> {
    let mut causes: Vec<Cause> = reserved::check(old, new).into_iter().collect();
    let mut fixed = vec![
        ("spec.group", "/spec/group"),
        ("spec.names.plural", "/spec/names/plural"),
    ];
    if crd::established(old) {
        fixed.splice(
            ..0,
            [
                ("spec.scope", "/spec/scope"),
                ("spec.names.kind", "/spec/names/kind"),
            ],
        );
    }
    for (field, pointer) in fixed {
        if old.pointer(pointer) != new.pointer(pointer) {
            let value = new.pointer(pointer).cloned().unwrap_or_default();
            causes.push(Cause::invalid(field, &value, "field is immutable"));
        }
    }
    let versions: Vec<&str> = new
        .pointer("/spec/versions")
        .and_then(Value::as_array)
        .map(|l| l.iter().filter_map(|v| v.get("name")?.as_str()).collect())
        .unwrap_or_default();
    let stored = new
        .pointer("/status/storedVersions")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    for (i, version) in stored.iter().enumerate() {
        if !version.as_str().is_some_and(|v| versions.contains(&v)) {
            causes.push(Cause::invalid(
                format!("status.storedVersions[{i}]"),
                version,
                format!(
                    "missing from spec.versions; {0} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {0} and removes {0} from status.storedVersions",
                    version.as_str().unwrap_or_default()
                ),
            ));
        }
    }
    causes
}
