//! Merging an applied configuration into the live object, and taking fields out again.

use serde_json::{Map, Value};

use super::compare::{element, field, granular_list, granular_map, item};
use super::set::FieldSet;
use crate::schema::Schema;

/// The live object with the configuration laid over it.
pub(super) fn merge(live: &Value, config: &Value, schema: &Schema) -> Value {
    match (live, config) {
        (Value::Object(a), Value::Object(b)) if granular_map(schema) => {
            let mut out = a.clone();
            for (name, sub) in b {
                let merged = match a.get(name) {
                    Some(old) => merge(old, sub, field(schema, name)),
                    None => sub.clone(),
                };
                out.insert(name.clone(), merged);
            }
            Value::Object(out)
        }
        (Value::Array(a), Value::Array(b)) if granular_list(schema) => {
            Value::Array(merge_lists(a, b, schema))
        }
        _ => config.clone(),
    }
}

/// Items keep the live order, and new ones follow the item that precedes them in the configuration.
fn merge_lists(live: &[Value], config: &[Value], schema: &Schema) -> Vec<Value> {
    let mut out: Vec<Value> = live.to_vec();
    let key = |v: &Value| element(v, schema);
    let mut after: Option<String> = None;
    for entry in config {
        let id = key(entry);
        match out.iter().position(|v| key(v) == id) {
            Some(i) => out[i] = merge(&out[i], entry, item(schema)),
            None => {
                let place = match &after {
                    Some(prev) => out
                        .iter()
                        .position(|v| key(v).as_ref() == Some(prev))
                        .map(|i| i + 1),
                    None => None,
                };
                let last = out.len();
                // The first new item of a configuration goes to the end, as do those after the last.
                out.insert(place.unwrap_or(last), entry.clone());
            }
        }
        after = id;
    }
    out
}

/// Takes the members of `gone` out of `value`.
pub(super) fn remove(value: &Value, gone: &FieldSet, schema: &Schema) -> Value {
    match value {
        Value::Object(map) if granular_map(schema) => {
            let mut out = Map::new();
            for (name, sub) in map {
                match gone.children.get(&format!("f:{name}")) {
                    None => {
                        out.insert(name.clone(), sub.clone());
                    }
                    Some(node) if node.member && node.children.is_empty() => {}
                    Some(node) => {
                        let rest = remove(sub, node, field(schema, name));
                        // A container goes with its last field if it was owned itself.
                        if !(node.member && hollow(&rest)) {
                            out.insert(name.clone(), rest);
                        }
                    }
                }
            }
            Value::Object(out)
        }
        Value::Array(list) if granular_list(schema) => {
            let mut out = Vec::new();
            for entry in list {
                let node = element(entry, schema).and_then(|k| gone.children.get(&k));
                match node {
                    None => out.push(entry.clone()),
                    Some(node) if node.member => {}
                    Some(node) => out.push(remove(entry, node, item(schema))),
                }
            }
            Value::Array(out)
        }
        other => other.clone(),
    }
}

fn hollow(value: &Value) -> bool {
    match value {
        Value::Object(m) => m.is_empty(),
        Value::Array(l) => l.is_empty(),
        _ => false,
    }
}
