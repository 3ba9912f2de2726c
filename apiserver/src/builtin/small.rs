//! Kinds with little of their own.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::Api;
use crate::catalog::builtin::Kind;
use crate::rest::{Context, create, meta};
use crate::status::{ApiResult, Cause};

/// A field that may not change.
pub(super) fn immutable(old: &Value, new: &Value, pointer: &str, field: &str) -> Vec<Cause> {
    if old.pointer(pointer) == new.pointer(pointer) {
        return Vec::new();
    }
    let value = new.pointer(pointer).cloned().unwrap_or_default();
    vec![Cause::invalid(field, &value, "field is immutable")]
}

pub(super) fn validate_lease(object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let spec = object.get("spec").cloned().unwrap_or_default();
    if let Some(n) = spec.get("leaseDurationSeconds").and_then(Value::as_i64)
        && n <= 0
    {
        causes.push(Cause::invalid(
            "spec.leaseDurationSeconds",
            &n.into(),
            "must be greater than 0",
        ));
    }
    if let Some(n) = spec.get("leaseTransitions").and_then(Value::as_i64)
        && n < 0
    {
        causes.push(Cause::invalid(
            "spec.leaseTransitions",
            &n.into(),
            "must be greater than or equal to 0",
        ));
    }
    causes
}

/// Deployments and their like: stored and shown; nothing here runs them.
pub(super) fn workload(kind: Kind, object: &mut Value) {
    if let Some(spec) = object
        .pointer_mut("/spec/template/spec")
        .and_then(Value::as_object_mut)
    {
        super::pod::default_spec(spec);
    }
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    let put = |spec: &mut serde_json::Map<String, Value>, key: &str, value: Value| {
        spec.entry(key).or_insert(value);
    };
    if kind != Kind::DaemonSet {
        put(spec, "replicas", 1.into());
    }
    match kind {
        Kind::Deployment => {
            rolling(
                spec,
                "strategy",
                &[("maxUnavailable", "25%".into()), ("maxSurge", "25%".into())],
            );
            put(spec, "revisionHistoryLimit", 10.into());
            put(spec, "progressDeadlineSeconds", 600.into());
        }
        Kind::DaemonSet => {
            rolling(
                spec,
                "updateStrategy",
                &[("maxUnavailable", 1.into()), ("maxSurge", 0.into())],
            );
            put(spec, "revisionHistoryLimit", 10.into());
        }
        Kind::StatefulSet => {
            put(spec, "podManagementPolicy", "OrderedReady".into());
            rolling(spec, "updateStrategy", &[("partition", 0.into())]);
            put(spec, "revisionHistoryLimit", 10.into());
        }
        _ => {}
    }
}

/// How a workload goes from one version to the next, where that is not said.
fn rolling(spec: &mut serde_json::Map<String, Value>, field: &str, defaults: &[(&str, Value)]) {
    let slot = spec.entry(field).or_insert_with(|| json!({}));
    let Some(strategy) = slot.as_object_mut() else {
        return;
    };
    strategy.entry("type").or_insert_with(|| "RollingUpdate".into());
    if strategy["type"] != "RollingUpdate" {
        return;
    }
    let rolling = strategy.entry("rollingUpdate").or_insert_with(|| json!({}));
    if let Some(rolling) = rolling.as_object_mut() {
        for (key, value) in defaults {
            rolling.entry(*key).or_insert_with(|| value.clone());
        }
    }
}

pub(super) fn validate_workload(object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let selector = object
        .pointer("/spec/selector")
        .filter(|s| s.as_object().is_some_and(|m| !m.is_empty()));
    match selector {
        None => causes.push(Cause::required("spec.selector", "")),
        Some(selector) => {
            let labels = object
                .pointer("/spec/template/metadata/labels")
                .cloned()
                .unwrap_or_default();
            let wanted = selector.get("matchLabels").and_then(Value::as_object);
            if wanted
                .into_iter()
                .flatten()
                .any(|(k, v)| labels.get(k) != Some(v))
            {
                causes.push(Cause::invalid(
                    "spec.template.metadata.labels",
                    &labels,
                    "`selector` does not match template `labels`",
                ));
            }
        }
    }
    let spec = object.pointer("/spec/template/spec").cloned().unwrap_or_default();
    causes.extend(super::pod::validate_spec(&spec, "spec.template.spec"));
    causes
}

/// Every namespace has a service account `default`, unless the namespace is on its way out.
pub(super) async fn default_account(api: &Arc<Api>, namespace: &Value) -> ApiResult<()> {
    let name = meta::text(namespace, "name");
    let Some(resource) = api.catalogs.current().find("", "v1", "serviceaccounts").cloned() else {
        return Ok(());
    };
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    // Boxed: creating a namespace creates an account.
    let made = Box::pin(create::create_object(
        api,
        &Context::system(),
        &resource,
        name,
        account,
        false,
    ))
    .await;
    match made {
        Err(e) if !["AlreadyExists", "NotFound", "Forbidden"].contains(&e.reason) => Err(e),
        _ => Ok(()),
    }
}
