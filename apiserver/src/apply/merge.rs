//! Merging an applied configuration into the live object, and taking fields out again.

use std::collections::{BTreeMap, HashMap};

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
    let key = |v: &Value| element(v, schema);
    let mut out: Vec<Value> = live.to_vec();
    let mut place: HashMap<Option<String>, usize> = HashMap::new();
    for (i, entry) in live.iter().enumerate() {
        place.entry(key(entry)).or_insert(i);
    }
    // New items by the live one that they follow; those that follow none go to the end.
    let mut new: Vec<Value> = Vec::new();
    let mut following: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut after = live.len();
    for entry in config {
        match place.get(&key(entry)) {
            Some(i) if *i < live.len() => {
                out[*i] = merge(&out[*i], entry, item(schema));
                after = *i;
            }
            Some(i) => {
                let n = *i - live.len();
                new[n] = merge(&new[n], entry, item(schema));
            }
            None => {
                place.insert(key(entry), live.len() + new.len());
                following.entry(after).or_default().push(new.len());
                new.push(entry.clone());
            }
        }
    }
    let mut new: Vec<Option<Value>> = new.into_iter().map(Some).collect();
    let mut all = Vec::with_capacity(out.len() + new.len());
    for (i, entry) in out.into_iter().map(Some).chain([None]).enumerate() {
        all.extend(entry);
        let behind = following.remove(&i).unwrap_or_default();
        all.extend(
            behind
                .into_iter()
                .filter_map(|n| new.get_mut(n).and_then(Option::take)),
        );
    }
    all
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::compare::{compare, flaw};
    use super::*;
    use crate::schema::builtin::Library;

    fn ports(numbers: impl IntoIterator<Item = u32>) -> Value {
        let list: Vec<Value> = numbers
            .into_iter()
            .map(|n| json!({"port": n, "protocol": "TCP"}))
            .collect();
        json!({"spec": {"ports": list}})
    }

    #[test]
    fn new_items_follow_the_one_before_them_and_the_rest_keeps_its_place() {
        let schema = Library::get().schema("io.k8s.api.core.v1.Service");
        let merged = merge(&ports([1, 2, 3]), &ports([9, 2, 7, 8, 1, 6]), &schema);
        assert_eq!(merged, ports([1, 6, 2, 7, 8, 3, 9]));
    }

    /// A list as long as a request may hold: pairs of items that are compared would take an hour.
    #[test]
    fn long_lists_are_merged_and_compared_item_by_item() {
        let schema = Library::get().schema("io.k8s.api.core.v1.Service");
        let (live, config) = (ports(0..60_000), ports(30_000..90_000));
        let merged = merge(&live, &config, &schema);
        assert_eq!(merged, ports(0..90_000));
        assert_eq!(
            compare(&live, &merged, &schema).added.children["f:spec"].children["f:ports"]
                .children
                .len(),
            30_000
        );
        assert_eq!(flaw(&merged, &schema, ""), None);
    }

    #[test]
    fn items_that_cannot_be_told_apart_are_named() {
        let schema = Library::get().schema("io.k8s.api.core.v1.Service");
        assert_eq!(
            flaw(
                &json!({"spec": {"ports": [{"port": 1}, {"name": "x"}]}}),
                &schema,
                ""
            )
            .as_deref(),
            Some(
                ".spec.ports: element 1: associative list with keys has an element that omits key field \"port\" (and doesn't have default value)"
            )
        );
        assert_eq!(
            flaw(&ports([1, 1]), &schema, "").as_deref(),
            Some(".spec.ports: duplicate entries for key [port=1,protocol=\"TCP\"]")
        );
    }
}
