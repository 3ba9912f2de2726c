//! Pruning and defaulting.

use serde_json::{Map, Value};

use super::{Schema, Type};

/// Fields of an object that every object has.
const ENVELOPE: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Takes out the fields that the schema does not name and returns their paths. `root`: the envelope is
/// left alone.
pub(crate) fn prune(value: &mut Value, schema: &Schema, root: bool) -> Vec<String> {
    let mut unknown = Vec::new();
    prune_at(value, schema, root, "", &mut unknown);
    unknown
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn prune_at(value: &mut Value, schema: &Schema, envelope: bool, path: &str, unknown: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            let envelope = envelope || schema.embedded;
            if !schema.preserve_unknown && schema.additional.is_none() && schema.kind != Type::Any {
                let doomed: Vec<String> = map
                    .keys()
                    .filter(|k| !schema.properties.contains_key(*k))
                    .filter(|k| !(envelope && ENVELOPE.contains(&k.as_str())))
                    .cloned()
                    .collect();
                for key in doomed {
                    map.shift_remove(&key);
                    unknown.push(join(path, &key));
                }
            }
            for (key, sub) in map.iter_mut() {
                if envelope && path.is_empty() && ENVELOPE.contains(&key.as_str()) {
                    continue;
                }
                if let Some(s) = schema.field(key) {
                    prune_at(sub, s, false, &join(path, key), unknown);
                }
            }
        }
        Value::Array(list) => {
            if let Some(s) = &schema.items {
                for (i, item) in list.iter_mut().enumerate() {
                    prune_at(item, s, false, &format!("{path}[{i}]"), unknown);
                }
            }
        }
        _ => {}
    }
}

/// Takes out nulls where null is not a value; what has a default gets it.
pub(crate) fn drop_nulls(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(map) => {
            map.retain(|key, sub| {
                let field = schema.field(key);
                !sub.is_null() || field.is_none_or(|s| s.nullable || s.default.is_some())
            });
            for (key, sub) in map.iter_mut() {
                if let Some(s) = schema.field(key) {
                    fill(sub, s);
                    drop_nulls(sub, s);
                }
            }
        }
        Value::Array(list) => {
            if let Some(s) = &schema.items {
                for item in list {
                    fill(item, s);
                    drop_nulls(item, s);
                }
            }
        }
        _ => {}
    }
}

fn fill(value: &mut Value, schema: &Schema) {
    if value.is_null()
        && !schema.nullable
        && let Some(d) = &schema.default
    {
        *value = d.clone();
    }
}

/// Puts in what was left out.
pub(crate) fn default(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(map) => {
            for (key, s) in &schema.properties {
                if !map.contains_key(key)
                    && let Some(d) = &s.default
                {
                    map.insert(key.clone(), d.clone());
                }
            }
            default_fields(map, schema);
        }
        Value::Array(list) => {
            if let Some(s) = &schema.items {
                for item in list {
                    default(item, s);
                }
            }
        }
        _ => {}
    }
}

fn default_fields(map: &mut Map<String, Value>, schema: &Schema) {
    for (key, sub) in map.iter_mut() {
        if let Some(s) = schema.field(key) {
            default(sub, s);
        }
    }
}
