//! CustomResourceDefinitions: what follows their creation and change.

use std::sync::Arc;

use serde_json::Value;

use crate::api::Api;
use crate::catalog::{CRDS, Resource, crd};
use crate::rest::update::Place;
use crate::rest::{meta, now, patch};
use crate::status::{ApiResult, Cause};

/// Accepts the names of a definition, or does not, and serves it from then on.
pub(super) async fn settle(api: &Arc<Api>, resource: &Arc<Resource>, object: &Value) -> ApiResult<()> {
    let others: Vec<Value> = api.store.list(CRDS, "").items.iter().map(|o| o.value()).collect();
    let status = crd::settle(object, &others, &now());
    let name = meta::text(object, "name");
    let place = Place {
        resource,
        namespace: "",
        name,
        subresource: "status",
    };
    // Boxed: this write is part of another one.
    Box::pin(patch::set_status(api, place, status)).await?;
    api.catalogs.current();
    Ok(())
}

/// After a definition is gone: others may have waited for its names.
pub(crate) async fn resettle(api: &Arc<Api>, resource: &Arc<Resource>, gone: &Value) -> ApiResult<()> {
    let group = gone.pointer("/spec/group");
    for other in api.store.list(CRDS, "").items {
        let other = other.value();
        if other.pointer("/spec/group") == group && !crd::established(&other) {
            settle(api, resource, &other).await?;
        }
    }
    Ok(())
}

pub(super) fn validate_update(old: &Value, new: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    for (field, pointer) in [
        ("spec.group", "/spec/group"),
        ("spec.names.plural", "/spec/names/plural"),
        ("spec.names.kind", "/spec/names/kind"),
        ("spec.scope", "/spec/scope"),
    ] {
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
