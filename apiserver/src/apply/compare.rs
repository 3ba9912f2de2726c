//! Which fields a value has, and which differ between two values.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::set::FieldSet;
use crate::schema::{ListType, Schema, Type};

/// What to assume where there is no schema: maps merge, lists do not.
pub(super) fn unknown() -> &'static Schema {
    static ANY: std::sync::OnceLock<Schema> = std::sync::OnceLock::new();
    ANY.get_or_init(|| Schema {
        preserve_unknown: true,
        ..Schema::default()
    })
}

pub(super) fn field<'a>(schema: &'a Schema, name: &str) -> &'a Schema {
    schema
        .field(name)
        .map(|s| s.as_ref())
        .unwrap_or_else(|| unknown())
}

pub(super) fn item(schema: &Schema) -> &Schema {
    schema.items.as_deref().unwrap_or_else(|| unknown())
}

/// The path element of a list item, where items have one.
pub(super) fn element(value: &Value, schema: &Schema) -> Option<String> {
    match &schema.list {
        ListType::Atomic => None,
        ListType::Set => Some(format!("v:{value}")),
        ListType::Map(keys) => {
            let mut sorted: Vec<&String> = keys.iter().collect();
            sorted.sort();
            let mut map = Map::new();
            for key in sorted {
                let found = value.get(key).cloned().or_else(|| {
                    let sub = schema.items.as_ref()?.properties.get(key)?;
                    // The one default that built-in keys have.
                    sub.default
                        .clone()
                        .or_else(|| (key == "protocol").then(|| "TCP".into()))
                });
                map.insert(key.clone(), found.unwrap_or(Value::Null));
            }
            Some(format!("k:{}", Value::Object(map)))
        }
    }
}

/// Whether the value is looked into.
pub(super) fn granular_map(schema: &Schema) -> bool {
    !schema.atomic_map && matches!(schema.kind, Type::Object | Type::Any)
}

pub(super) fn granular_list(schema: &Schema) -> bool {
    schema.list != ListType::Atomic
}

/// The fields that an applied configuration names.
pub(super) fn fields_of(value: &Value, schema: &Schema) -> FieldSet {
    let mut set = FieldSet::default();
    collect(value, schema, &mut set);
    set
}

fn collect(value: &Value, schema: &Schema, set: &mut FieldSet) {
    match value {
        Value::Object(map) if granular_map(schema) => {
            if map.is_empty() {
                set.member = true;
                return;
            }
            for (name, sub) in map {
                let child = set.children.entry(format!("f:{name}")).or_default();
                collect(sub, field(schema, name), child);
                let empty = sub.is_null() || sub.as_object().is_some_and(Map::is_empty);
                if empty || !schema.properties.contains_key(name) {
                    child.member = true;
                }
            }
        }
        Value::Array(list) if granular_list(schema) => {
            if list.is_empty() {
                set.member = true;
                return;
            }
            for entry in list {
                let Some(key) = element(entry, schema) else {
                    continue;
                };
                let child = set.children.entry(key).or_default();
                child.member = true;
                if schema.list != ListType::Set {
                    collect(entry, item(schema), child);
                    child.member = true;
                }
            }
        }
        _ => set.member = true,
    }
}

/// Why a configuration has items that cannot be told apart, in the words of Kubernetes.
pub(super) fn flaw(value: &Value, schema: &Schema, path: &str) -> Option<String> {
    match value {
        Value::Object(map) if granular_map(schema) => map
            .iter()
            .find_map(|(name, sub)| flaw(sub, field(schema, name), &format!("{path}.{name}"))),
        Value::Array(list) if granular_list(schema) => {
            let mut seen = HashSet::new();
            list.iter().enumerate().find_map(|(i, entry)| {
                let key = element(entry, schema)?;
                if let ListType::Map(keys) = &schema.list {
                    let named: Value = key.strip_prefix("k:").and_then(|k| serde_json::from_str(k).ok())?;
                    if let Some(missing) = keys.iter().find(|k| named.get(*k).is_none_or(Value::is_null)) {
                        return Some(format!(
                            "{path}: element {i}: associative list with keys has an element that omits key field {missing:?} (and doesn't have default value)"
                        ));
                    }
                }
                if !seen.insert(key.clone()) {
                    return Some(format!("{path}: duplicate entries for key {}", super::set::shown(&[key])));
                }
                flaw(entry, item(schema), &format!("{path}{}", super::set::shown(&[key])))
            })
        }
        _ => None,
    }
}

/// What differs.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    pub(super) added: FieldSet,
    pub(super) modified: FieldSet,
    pub(super) removed: FieldSet,
}

/// Compares two values.
pub(super) fn compare(old: &Value, new: &Value, schema: &Schema) -> Comparison {
    let mut out = Comparison::default();
    walk(Some(old), Some(new), schema, &mut Vec::new(), &mut out);
    out
}

fn empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Object(m)) => m.is_empty(),
        Some(Value::Array(l)) => l.is_empty(),
        _ => false,
    }
}

/// Whether a field that is always there says nothing.
fn blank(value: Option<&Value>) -> bool {
    empty(value) || value.and_then(Value::as_str) == Some("")
}

fn leaf(old: Option<&Value>, new: Option<&Value>, path: &[String], out: &mut Comparison) {
    match (old, new) {
        (None, Some(_)) => out.added.insert(path),
        (Some(_), None) => out.removed.insert(path),
        (Some(a), Some(b)) if a != b => out.modified.insert(path),
        _ => {}
    }
}

fn walk(
    old: Option<&Value>,
    new: Option<&Value>,
    schema: &Schema,
    path: &mut Vec<String>,
    out: &mut Comparison,
) {
    let both_empty = empty(old) && empty(new);
    let kind = |v: Option<&Value>, f: fn(&Value) -> bool| v.is_none_or(|v| v.is_null() || f(v));
    let maps = kind(old, Value::is_object) && kind(new, Value::is_object);
    let lists = kind(old, Value::is_array) && kind(new, Value::is_array);
    if schema.always && blank(old) && blank(new) {
        // Fields that are always there come and go without anybody.
    } else if both_empty {
        leaf(old, new, path, out);
    } else if maps && granular_map(schema) {
        let (a, b) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
        let nothing = Map::new();
        let (a, b) = (a.unwrap_or(&nothing), b.unwrap_or(&nothing));
        for name in a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))) {
            path.push(format!("f:{name}"));
            walk(a.get(name), b.get(name), field(schema, name), path, out);
            path.pop();
        }
        ends(old, new, schema, path, out);
    } else if lists && granular_list(schema) {
        let none = Vec::new();
        let a = old.and_then(Value::as_array).unwrap_or(&none);
        let b = new.and_then(Value::as_array).unwrap_or(&none);
        // Long lists are no rarity in a hostile request: each item is written and looked up once.
        let index = |list: &'_ [Value]| -> Vec<String> {
            list.iter()
                .map(|v| element(v, schema).unwrap_or_default())
                .collect()
        };
        let (old_keys, new_keys) = (index(a), index(b));
        let place = |keys: &[String]| -> HashMap<String, usize> {
            let last_to_first = keys.iter().enumerate().rev();
            last_to_first.map(|(i, key)| (key.clone(), i)).collect()
        };
        let (in_old, in_new) = (place(&old_keys), place(&new_keys));
        let mut seen = HashSet::new();
        for key in old_keys.iter().chain(&new_keys) {
            if !seen.insert(key) {
                continue;
            }
            let (x, y) = (in_old.get(key).map(|i| &a[*i]), in_new.get(key).map(|i| &b[*i]));
            path.push(key.clone());
            walk(x, y, item(schema), path, out);
            path.pop();
        }
        ends(old, new, schema, path, out);
    } else {
        leaf(old, new, path, out);
    }
}

/// A map or list that came or went is itself a change, but for those that are always there.
fn ends(old: Option<&Value>, new: Option<&Value>, schema: &Schema, path: &[String], out: &mut Comparison) {
    if path.is_empty() || schema.always {
        return;
    }
    match (old, new) {
        (None, Some(_)) => out.added.insert(path),
        (Some(_), None) => out.removed.insert(path),
        _ => {}
    }
}
