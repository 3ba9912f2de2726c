//! Strategic merge patch: a merge patch whose lists merge by key, for built-in kinds.

use serde_json::{Map, Value};

use crate::schema::{Schema, Type};

/// Carries out a strategic merge patch.
pub(crate) fn strategic_merge_patch(target: &Value, patch: &Value, schema: &Schema) -> Result<Value, String> {
    let mut doc = target.clone();
    merge(&mut doc, patch, schema)?;
    Ok(doc)
}

fn merge(target: &mut Value, patch: &Value, schema: &Schema) -> Result<(), String> {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return Ok(());
    };
    match patch.get("$patch").and_then(Value::as_str) {
        Some("replace") => {
            let mut new = patch.clone();
            new.shift_remove("$patch");
            *target = Value::Object(new);
            return Ok(());
        }
        Some("delete") => {
            *target = Value::Object(Map::new());
            return Ok(());
        }
        Some("merge") | None => {}
        Some(other) => return Err(format!("invalid patch: unknown $patch type: {other}")),
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(map) = target else { return Ok(()) };
    if let Some(keep) = patch.get("$retainKeys").and_then(Value::as_array) {
        map.retain(|k, _| keep.iter().any(|v| v.as_str() == Some(k)));
    }
    for (key, sub) in patch {
        if let Some(field) = key.strip_prefix("$deleteFromPrimitiveList/") {
            if let (Some(Value::Array(have)), Some(gone)) = (map.get_mut(field), sub.as_array()) {
                have.retain(|v| !gone.contains(v));
            }
            continue;
        }
        if key.starts_with('$') {
            continue;
        }
        if sub.is_null() {
            map.shift_remove(key);
            continue;
        }
        let field = schema.field(key);
        let merged_list = field
            .filter(|s| s.kind == Type::Array)
            .and_then(|s| Some((s, s.patch_key?)));
        match (sub, merged_list) {
            (Value::Array(items), Some((s, merge_key))) => {
                let slot = map.entry(key.clone()).or_insert_with(|| Value::Array(Vec::new()));
                if !slot.is_array() {
                    *slot = Value::Array(Vec::new());
                }
                if let Value::Array(have) = slot {
                    merge_list(have, items, merge_key, s)?;
                }
            }
            (Value::Object(_), _) => {
                let any = Schema::default();
                let s = field.map(|s| s.as_ref()).unwrap_or(&any);
                let slot = map.entry(key.clone()).or_insert(Value::Null);
                merge(slot, sub, s)?;
            }
            _ => {
                map.insert(key.clone(), sub.clone());
            }
        }
    }
    for (key, order) in patch {
        let Some(field) = key.strip_prefix("$setElementOrder/") else {
            continue;
        };
        let merge_key = schema.field(field).and_then(|s| s.patch_key);
        if let (Some(Value::Array(have)), Some(order), Some(merge_key)) =
            (map.get_mut(field), order.as_array(), merge_key)
        {
            reorder(have, order, merge_key);
        }
    }
    Ok(())
}

fn merge_list(have: &mut Vec<Value>, items: &[Value], key: &str, schema: &Schema) -> Result<(), String> {
    if key.is_empty() {
        for item in items {
            if !have.contains(item) {
                have.push(item.clone());
            }
        }
        return Ok(());
    }
    let directive = |v: &Value| v.get("$patch").and_then(Value::as_str).map(str::to_owned);
    if items.iter().any(|i| directive(i).as_deref() == Some("replace")) {
        *have = items
            .iter()
            .filter(|i| i.get("$patch").is_none())
            .cloned()
            .collect();
        return Ok(());
    }
    let any = Schema::default();
    let item_schema = schema.items.as_deref().unwrap_or(&any);
    for item in items {
        let id = item
            .get(key)
            .ok_or_else(|| format!("map: {item} does not contain declared merge key: {key}"))?;
        if directive(item).as_deref() == Some("delete") {
            have.retain(|h| h.get(key) != Some(id));
            continue;
        }
        match have.iter_mut().find(|h| h.get(key) == Some(id)) {
            Some(old) => merge(old, item, item_schema)?,
            None => {
                let mut new = Value::Object(Map::new());
                merge(&mut new, item, item_schema)?;
                have.push(new);
            }
        }
    }
    Ok(())
}

fn reorder(have: &mut [Value], order: &[Value], key: &str) {
    let place = |v: &Value| {
        order.iter().position(|o| {
            if key.is_empty() {
                o == v
            } else {
                o.get(key).is_some() && o.get(key) == v.get(key)
            }
        })
    };
    // Items that the order does not name stay after those it does.
    have.sort_by_key(|v| place(v).unwrap_or(usize::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::builtin::Library;
    use serde_json::json;

    #[test]
    fn lists_merge_by_their_key() {
        let schema = Library::get().schema("io.k8s.api.core.v1.Service");
        let old = json!({"spec": {"ports": [{"port": 80, "protocol": "TCP", "targetPort": 8080}],
            "externalIPs": ["1.1.1.1"]}, "metadata": {"finalizers": ["a", "b"], "labels": {"x": "1", "y": "2"}}});
        let patch = json!({"spec": {"ports": [{"port": 443, "name": "https"}, {"port": 80, "name": "http"}],
            "externalIPs": ["2.2.2.2"], "$setElementOrder/ports": [{"port": 443}, {"port": 80}]},
            "metadata": {"finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["a"], "labels": {"x": null}}});
        let new = strategic_merge_patch(&old, &patch, &schema);
        assert_eq!(
            new,
            Ok(json!({"spec": {"ports": [{"port": 443, "name": "https"},
                {"port": 80, "protocol": "TCP", "targetPort": 8080, "name": "http"}],
                "externalIPs": ["2.2.2.2"]}, "metadata": {"finalizers": ["b", "c"], "labels": {"y": "2"}}}))
        );
    }

    #[test]
    fn directives_delete_and_replace() {
        let schema = Library::get().schema("io.k8s.api.core.v1.Service");
        let old = json!({"spec": {"ports": [{"port": 80}, {"port": 81}], "selector": {"a": "b"}}});
        let patch = json!({"spec": {"ports": [{"port": 80, "$patch": "delete"}],
            "selector": {"$patch": "replace", "c": "d"}}});
        assert_eq!(
            strategic_merge_patch(&old, &patch, &schema),
            Ok(json!({"spec": {"ports": [{"port": 81}], "selector": {"c": "d"}}}))
        );
    }
}
