//! Whether a value is as its schema says, in the words of a real API server.

use serde_json::{Map, Number, Value};

use super::{ListType, Schema, Type, format};
use crate::status::Cause;

/// More causes than this tell nobody anything.
const MAX_CAUSES: usize = 64;

/// Checks `value`, which stands at `path`.
pub(crate) fn validate(value: &Value, schema: &Schema, path: &str) -> Vec<Cause> {
    let mut causes = Vec::new();
    check(value, None, schema, path, &mut causes);
    // A list's duplicates come after everything else, as a second pass finds them.
    duplicates(value, schema, path, &mut causes);
    causes.truncate(MAX_CAUSES);
    causes
}

/// Checks an object that takes the place of another. What was wrong before, under a schema that has become
/// stricter since, may stay as it was; what changes has to be right.
pub(crate) fn validate_change(value: &Value, old: &Value, schema: &Schema) -> Vec<Cause> {
    let mut causes = Vec::new();
    check(value, Some(old), schema, "", &mut causes);
    let mut twice = Vec::new();
    duplicates(value, schema, "", &mut twice);
    if !twice.is_empty() {
        let mut before = Vec::new();
        duplicates(old, schema, "", &mut before);
        if before.is_empty() {
            causes.extend(twice);
        }
    }
    causes.truncate(MAX_CAUSES);
    causes
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn type_of(value: &Value) -> Type {
    match value {
        Value::Null => Type::Any,
        Value::Bool(_) => Type::Boolean,
        Value::Number(n) if whole(n) => Type::Integer,
        Value::Number(_) => Type::Number,
        Value::String(_) => Type::String,
        Value::Array(_) => Type::Array,
        Value::Object(_) => Type::Object,
    }
}

fn whole(n: &Number) -> bool {
    n.is_i64() || n.is_u64() || n.as_f64().is_some_and(|f| f.fract() == 0.0)
}

/// `old`: what stood in the value's place before, where that can be told.
fn check(value: &Value, old: Option<&Value>, schema: &Schema, path: &str, causes: &mut Vec<Cause>) {
    let before = causes.len();
    inspect(value, old, schema, path, causes);
    if causes.len() > before && old == Some(value) {
        causes.truncate(before);
    }
}

fn inspect(value: &Value, old: Option<&Value>, schema: &Schema, path: &str, causes: &mut Vec<Cause>) {
    if causes.len() >= MAX_CAUSES {
        return;
    }
    if value.is_null() && schema.nullable {
        return;
    }
    let have = type_of(value);
    if schema.int_or_string {
        if !matches!(have, Type::Integer | Type::String) {
            mismatch(value, path, "integer,string", have, causes);
            return;
        }
    } else if schema.kind != Type::Any {
        let fits = schema.kind == have || (schema.kind == Type::Number && have == Type::Integer);
        if !fits {
            mismatch(value, path, schema.kind.name(), have, causes);
            return;
        }
    }
    if let Some(allowed) = &schema.allowed
        && !allowed.contains(value)
    {
        causes.push(Cause::not_supported(path, value, allowed));
    }
    match value {
        Value::String(s) => text(s, value, schema, path, causes),
        Value::Number(n) => numeric(n, value, schema, path, causes),
        Value::Array(list) => array(list, old, schema, path, causes),
        Value::Object(map) => object(map, old, schema, path, causes),
        _ => {}
    }
    combined(value, old, schema, path, causes);
}

fn mismatch(value: &Value, path: &str, want: &str, have: Type, causes: &mut Vec<Cause>) {
    let name = if value.is_null() { "null" } else { have.name() };
    let field = if path.is_empty() { "<nil>" } else { path };
    causes.push(Cause::type_invalid(
        field,
        &name.into(),
        format!("{path} in body must be of type {want}: {name:?}"),
    ));
}

fn text(s: &str, value: &Value, schema: &Schema, path: &str, causes: &mut Vec<Cause>) {
    let length = s.chars().count() as u64;
    if let Some(max) = schema.max_length
        && length > max
    {
        causes.push(Cause::too_long(path, max, "bytes"));
    }
    if let Some(min) = schema.min_length
        && length < min
    {
        causes.push(Cause::invalid(
            path,
            value,
            format!("{path} in body should be at least {min} chars long"),
        ));
    }
    if let Some((source, re)) = &schema.pattern
        && !re.is_match(s)
    {
        causes.push(Cause::invalid(
            path,
            value,
            format!("{path} in body should match '{source}'"),
        ));
    }
    if let Some(f) = &schema.format
        && schema.kind == Type::String
        && !format::holds(f, s)
    {
        causes.push(Cause::invalid(
            path,
            value,
            format!("{path} in body must be of type {f}: {s:?}"),
        ));
    }
}

fn plain(n: f64) -> String {
    if n.fract() == 0.0 && n.abs() < 1e15 {
        format!("{}", n as i64)
    } else {
        format!("{n}")
    }
}

fn numeric(n: &Number, value: &Value, schema: &Schema, path: &str, causes: &mut Vec<Cause>) {
    let f = n.as_f64().unwrap_or(f64::NAN);
    if let Some((min, exclusive)) = schema.minimum
        && (f < min || (exclusive && f <= min))
    {
        let than = if exclusive {
            "greater than"
        } else {
            "greater than or equal to"
        };
        causes.push(Cause::invalid(
            path,
            value,
            format!("{path} in body should be {than} {}", plain(min)),
        ));
    }
    if let Some((max, exclusive)) = schema.maximum
        && (f > max || (exclusive && f >= max))
    {
        let than = if exclusive {
            "less than"
        } else {
            "less than or equal to"
        };
        causes.push(Cause::invalid(
            path,
            value,
            format!("{path} in body should be {than} {}", plain(max)),
        ));
    }
    if let Some(m) = schema.multiple_of
        && m > 0.0
        && (f / m).fract() != 0.0
    {
        causes.push(Cause::invalid(
            path,
            value,
            format!("{path} in body should be a multiple of {}", plain(m)),
        ));
    }
    let range = match schema.format.as_deref() {
        Some("int32") => Some((f64::from(i32::MIN), f64::from(i32::MAX))),
        _ => None,
    };
    if let Some((low, high)) = range
        && (f < low || f > high)
    {
        causes.push(Cause::invalid(
            path,
            value,
            format!("{path} in body must be of type int32: {:?}", n.to_string()),
        ));
    }
}

fn array(list: &[Value], old: Option<&Value>, schema: &Schema, path: &str, causes: &mut Vec<Cause>) {
    if let Some(max) = schema.max_items
        && list.len() as u64 > max
    {
        causes.push(Cause::too_many(path, list.len(), max));
    }
    if let Some(min) = schema.min_items
        && (list.len() as u64) < min
    {
        causes.push(Cause::invalid(
            path,
            &list.len().into(),
            format!("{path} in body should have at least {min} items"),
        ));
    }
    if let Some(s) = &schema.items {
        for (i, item) in list.iter().enumerate() {
            check(
                item,
                former(item, i, old, schema),
                s,
                &format!("{path}[{i}]"),
                causes,
            );
        }
    }
}

/// The item that stood in this one's place.
fn former<'a>(item: &Value, at: usize, old: Option<&'a Value>, schema: &Schema) -> Option<&'a Value> {
    let old = old?.as_array()?;
    match &schema.list {
        ListType::Atomic => old.get(at),
        ListType::Set => None,
        ListType::Map(keys) => old.iter().find(|o| keys.iter().all(|k| o.get(k) == item.get(k))),
    }
}

fn object(
    map: &Map<String, Value>,
    old: Option<&Value>,
    schema: &Schema,
    path: &str,
    causes: &mut Vec<Cause>,
) {
    if let Some(max) = schema.max_properties
        && map.len() as u64 > max
    {
        causes.push(Cause::too_many(path, map.len(), max));
    }
    if let Some(min) = schema.min_properties
        && (map.len() as u64) < min
    {
        causes.push(Cause::invalid(
            path,
            &Value::Object(map.clone()),
            format!("{path} in body should have at least {min} properties"),
        ));
    }
    for name in &schema.required {
        if !map.contains_key(name) {
            causes.push(Cause::required(join(path, name), ""));
        }
    }
    for (name, sub) in map {
        if path.is_empty() && (name == "metadata" || name == "apiVersion" || name == "kind") {
            continue;
        }
        if let Some(s) = schema.field(name) {
            check(sub, old.and_then(|o| o.get(name)), s, &join(path, name), causes);
        }
    }
}

fn combined(value: &Value, old: Option<&Value>, schema: &Schema, path: &str, causes: &mut Vec<Cause>) {
    for s in &schema.all_of {
        check(value, old, s, path, causes);
    }
    let holds = |s: &Schema| {
        let mut found = Vec::new();
        check(value, old, s, path, &mut found);
        found
    };
    let field = if path.is_empty() { "<nil>" } else { path };
    if !schema.any_of.is_empty() {
        let tries: Vec<Vec<Cause>> = schema.any_of.iter().map(holds).collect();
        if tries.iter().all(|t| !t.is_empty()) {
            causes.push(Cause::invalid(
                field,
                &Value::from(""),
                format!("{path:?} must validate at least one schema (anyOf)"),
            ));
            if let Some(best) = tries.into_iter().min_by_key(Vec::len) {
                causes.extend(best);
            }
        }
    }
    if !schema.one_of.is_empty() {
        let n = schema.one_of.iter().filter(|s| holds(s).is_empty()).count();
        if n != 1 {
            let found = if n == 0 {
                "Found none valid".to_owned()
            } else {
                format!("Found {n} valid alternatives")
            };
            causes.push(Cause::invalid(
                field,
                &Value::from(""),
                format!("{path:?} must validate one and only one schema (oneOf). {found}"),
            ));
        }
    }
    if let Some(s) = &schema.not
        && holds(s).is_empty()
    {
        causes.push(Cause::invalid(
            field,
            &Value::from(""),
            format!("{path:?} must not validate the schema (not)"),
        ));
    }
}

fn duplicates(value: &Value, schema: &Schema, path: &str, causes: &mut Vec<Cause>) {
    match value {
        Value::Object(map) => {
            for (name, sub) in map {
                if let Some(s) = schema.field(name) {
                    duplicates(sub, s, &join(path, name), causes);
                }
            }
        }
        Value::Array(list) => {
            let mut seen = std::collections::BTreeSet::new();
            for (i, item) in list.iter().enumerate() {
                let key = match &schema.list {
                    ListType::Atomic => continue,
                    ListType::Set => item.clone(),
                    ListType::Map(keys) => {
                        let mut map = Map::new();
                        for key in keys {
                            let found = item
                                .get(key)
                                .cloned()
                                .or_else(|| schema.items.as_ref()?.properties.get(key)?.default.clone());
                            if let Some(v) = found {
                                map.insert(key.clone(), v);
                            }
                        }
                        Value::Object(map)
                    }
                };
                if !seen.insert(key.to_string()) {
                    causes.push(Cause::duplicate(format!("{path}[{i}]"), &key));
                }
            }
            if let Some(s) = &schema.items {
                for (i, item) in list.iter().enumerate() {
                    duplicates(item, s, &format!("{path}[{i}]"), causes);
                }
            }
        }
        _ => {}
    }
}
