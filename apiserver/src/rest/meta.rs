//! Rules for `metadata`.

use serde_json::{Map, Value};

use super::delete::{FOREGROUND, ORPHAN};
use super::names;
use crate::catalog::Resource;
use crate::catalog::builtin::Kind;
use crate::status::Cause;

const MAX_ANNOTATIONS: usize = 256 << 10;

/// The metadata of an object, which becomes one if it is none.
pub(crate) fn of(object: &mut Value) -> &mut Map<String, Value> {
    map_of(map_of(object).entry("metadata").or_insert(Value::Null))
}

fn map_of(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("made an object above"),
    }
}

/// A text of the metadata.
pub(crate) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object
        .get("metadata")
        .and_then(|m| m.get(field))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Finalizers.
pub(crate) fn finalizers(object: &Value) -> Vec<String> {
    object
        .pointer("/metadata/finalizers")
        .and_then(Value::as_array)
        .map(|l| l.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect())
        .unwrap_or_default()
}

/// Whether the object is being deleted.
pub(crate) fn deleting(object: &Value) -> bool {
    object
        .pointer("/metadata/deletionTimestamp")
        .is_some_and(|v| !v.is_null())
}

/// Takes out empty maps and lists, as a typed server would not write them.
pub(crate) fn tidy(object: &mut Value) {
    let meta = of(object);
    meta.retain(|_, v| match v {
        Value::Null => false,
        Value::Object(m) => !m.is_empty(),
        Value::Array(l) => !l.is_empty(),
        Value::String(s) => !s.is_empty(),
        _ => true,
    });
}

fn name_rule(resource: &Resource, name: &str) -> Result<(), String> {
    match resource.builtin() {
        Some(Kind::Namespace) => names::label(name),
        Some(Kind::Service) => names::label_1035(name),
        Some(Kind::Role | Kind::RoleBinding | Kind::ClusterRole | Kind::ClusterRoleBinding) => {
            names::path_segment(name)
        }
        _ => names::subdomain(name),
    }
}

/// What to warn of finalizers that a custom object gets.
pub(crate) fn finalizer_warnings(resource: &Resource, old: &Value, new: &Value) -> Vec<String> {
    if !resource.custom() {
        return Vec::new();
    }
    let before = finalizers(old);
    let mut added: Vec<String> = finalizers(new)
        .into_iter()
        .filter(|f| !before.contains(f) && !standard(f))
        .collect();
    added.sort();
    added
        .iter()
        .map(|f| {
            format!(
                "metadata.finalizers: {f:?}: prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers"
            )
        })
        .collect()
}

/// Whether a finalizer names its owner, or is one that all know.
fn standard(finalizer: &str) -> bool {
    finalizer.contains('/') || [ORPHAN, FOREGROUND, "kubernetes"].contains(&finalizer)
}

/// Checks the metadata of a new object.
pub(crate) fn validate(resource: &Resource, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let name = text(object, "name");
    if name.is_empty() {
        causes.push(Cause::required(
            "metadata.name",
            "name or generateName is required",
        ));
    } else if let Err(e) = name_rule(resource, name) {
        causes.push(Cause::invalid("metadata.name", &name.into(), e));
    }
    causes.extend(common(resource, object));
    causes
}

/// Checks what new and changed objects have in common.
fn common(resource: &Resource, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let map = |field: &str| {
        object
            .pointer(&format!("/metadata/{field}"))
            .and_then(Value::as_object)
    };
    for (key, value) in map("labels").into_iter().flatten() {
        if let Err(e) = names::label_key(key) {
            causes.push(Cause::invalid("metadata.labels", &key.clone().into(), e));
        }
        if let Some(Err(e)) = value.as_str().map(names::label_value) {
            causes.push(Cause::invalid("metadata.labels", value, e));
        }
    }
    let mut size = 0;
    for (key, value) in map("annotations").into_iter().flatten() {
        if let Err(e) = names::label_key(&key.to_lowercase()) {
            causes.push(Cause::invalid("metadata.annotations", &key.clone().into(), e));
        }
        size += key.len() + value.as_str().map(str::len).unwrap_or(0);
    }
    if size > MAX_ANNOTATIONS {
        causes.push(Cause::too_long(
            "metadata.annotations",
            MAX_ANNOTATIONS as u64,
            "bytes",
        ));
    }
    let strict = ["", "apps", "batch", "discovery.k8s.io"].contains(&resource.group.as_str());
    for (i, finalizer) in finalizers(object).into_iter().enumerate() {
        if let Err(e) = names::label_key(&finalizer) {
            causes.push(Cause::invalid("metadata.finalizers", &finalizer.into(), e));
        } else if strict && !resource.custom() && !standard(&finalizer) {
            causes.push(Cause::invalid(
                format!("metadata.finalizers[{i}]"),
                &finalizer.into(),
                "name is neither a standard finalizer name nor is it fully qualified",
            ));
        }
    }
    let owners = object
        .pointer("/metadata/ownerReferences")
        .and_then(Value::as_array);
    let mut controllers = 0;
    for (i, owner) in owners.into_iter().flatten().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner.get(field).and_then(Value::as_str).is_none_or(str::is_empty) {
                causes.push(Cause::invalid(
                    format!("metadata.ownerReferences[{i}].{field}"),
                    &"".into(),
                    "must not be empty",
                ));
            }
        }
        controllers += usize::from(owner.get("controller") == Some(&Value::Bool(true)));
    }
    if controllers > 1 {
        causes.push(Cause::invalid(
            "metadata.ownerReferences",
            &Value::Null,
            "Only one reference can have Controller set to true",
        ));
    }
    causes
}

/// Checks the metadata of a changed object.
pub(crate) fn validate_update(resource: &Resource, old: &Value, new: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    for field in ["name", "namespace", "uid"] {
        let (a, b) = (text(old, field), text(new, field));
        if a != b {
            causes.push(Cause::invalid(
                format!("metadata.{field}"),
                &b.into(),
                "field is immutable",
            ));
        }
    }
    if deleting(old) {
        let before = finalizers(old);
        let added: Vec<String> = finalizers(new)
            .into_iter()
            .filter(|f| !before.contains(f))
            .collect();
        if !added.is_empty() {
            let list: Vec<String> = added.iter().map(|f| format!("{f:?}")).collect();
            let cause = Cause::forbidden(
                "metadata.finalizers",
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    list.join(", ")
                ),
            );
            // The real server checks metadata of custom resources twice, and lists both findings.
            if resource.custom() {
                causes.push(cause.clone());
            }
            causes.push(cause);
        }
    }
    causes.extend(common(resource, new));
    causes
}
