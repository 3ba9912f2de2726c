//! Ownership that moves by the word of clients: lists that they write themselves, and objects that kubectl applied
//! itself before it lets the server apply them.

use serde_json::{Map, Value};

use super::compare::{compare, fields_of, flaw};
use super::manager::Manager;
use super::set::FieldSet;
use crate::schema::Schema;

/// Whose configuration the annotation holds.
const KUBECTL: &str = "kubectl";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// An object's annotations hold no more.
const MAX_ANNOTATIONS: usize = 256 * 1024;

fn list(object: &Value) -> &[Value] {
    object
        .pointer("/metadata/managedFields")
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// Whether the writer gives up all ownership: by a list of one empty entry.
pub(super) fn given_up(new: &Value) -> bool {
    matches!(list(new), [Value::Object(only)] if only.is_empty())
}

/// Whether the writer says who owns what, as kubectl does to join what it owned as a client to what it applies by the
/// server. Lists that cannot be read count as none, so that clients that do not know them spoil nothing; and through
/// subresources nobody changes owners.
pub(super) fn asked(new: &Value, manager: &Manager) -> bool {
    let text = |entry: &Value, key: &str| {
        entry
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let list = list(new);
    manager.subresource.is_empty()
        && !list.is_empty()
        && list.iter().all(|entry| {
            let time = text(entry, "time");
            ["Apply", "Update"].contains(&text(entry, "operation").as_str())
                && text(entry, "fieldsType") == "FieldsV1"
                && entry.get("fieldsV1").is_some_and(Value::is_object)
                && (time.is_empty() || time.parse::<jiff::Timestamp>().is_ok())
        })
}

fn last_applied(object: &Value) -> Option<&str> {
    object
        .pointer("/metadata/annotations")?
        .get(LAST_APPLIED)?
        .as_str()
        .filter(|text| !text.is_empty())
}

/// The fields that kubectl applied itself and that are still as it applied them: it takes these over without a
/// conflict. `ownable` leaves of an object what can have owners.
pub(super) fn applied_by_client(
    live: &Value,
    schema: &Schema,
    manager: &Manager,
    ownable: impl Fn(&Value) -> Value,
) -> FieldSet {
    let config = (manager.name == KUBECTL)
        .then(|| last_applied(live))
        .flatten()
        .and_then(|text| serde_json::from_str::<Value>(text).ok())
        .filter(|config| config.is_object() && flaw(config, schema, "").is_none());
    let Some(config) = config else {
        return FieldSet::default();
    };
    let (config, live) = (ownable(&config), ownable(live));
    let diff = compare(&config, &live, schema);
    fields_of(&config, schema)
        .difference(&diff.modified)
        .difference(&diff.removed)
}

/// Keeps the annotation true, for a kubectl that applies as a client again later.
pub(super) fn note(object: &mut Value, config: &Value, live: &Value, manager: &Manager) {
    if manager.name != KUBECTL || !manager.subresource.is_empty() || last_applied(live).is_none() {
        return;
    }
    let mut config = config.clone();
    if let Some(meta) = config.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.shift_remove("managedFields");
        if let Some(annotations) = meta.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.shift_remove(LAST_APPLIED);
        }
    }
    let text = format!("{}\n", sorted(config));
    if let Some(annotations) = object
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    {
        annotations.shift_remove(LAST_APPLIED);
        let size = |(key, value): (&String, &Value)| key.len() + value.as_str().map_or(0, str::len);
        if annotations.iter().map(size).sum::<usize>() + LAST_APPLIED.len() + text.len() <= MAX_ANNOTATIONS {
            annotations.insert(LAST_APPLIED.into(), text.into());
        }
    }
}

/// With the names of all maps in order, as the annotation is written.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<(String, Value)> = map.into_iter().collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(
                entries
                    .into_iter()
                    .map(|(k, v)| (k, sorted(v)))
                    .collect::<Map<_, _>>(),
            )
        }
        Value::Array(list) => Value::Array(list.into_iter().map(sorted).collect()),
        other => other,
    }
}
