//! From the JSON of a custom resource definition's schema.

use std::sync::Arc;

use regex::Regex;
use serde_json::Value;

use super::{ListType, Schema, Type};
use crate::status::Cause;

/// Deeper schemas are refused: nobody writes them, and they cost stack.
const MAX_DEPTH: usize = 64;

/// Compiles a structural schema; `path` is where it stands, for error messages.
pub(crate) fn compile(json: &Value, path: &str) -> Result<Schema, Vec<Cause>> {
    let mut causes = Vec::new();
    let schema = node(json, path, 0, Level::Root, &mut causes);
    if causes.is_empty() {
        Ok(schema)
    } else {
        Err(causes)
    }
}

fn number(json: &Value, key: &str) -> Option<f64> {
    json.get(key).and_then(Value::as_f64)
}

fn count(json: &Value, key: &str) -> Option<u64> {
    json.get(key).and_then(Value::as_u64)
}

fn flag(json: &Value, key: &str) -> bool {
    json.get(key).and_then(Value::as_bool).unwrap_or(false)
}

fn strings(json: &Value, key: &str) -> Vec<String> {
    json.get(key)
        .and_then(Value::as_array)
        .map(|a| a.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect())
        .unwrap_or_default()
}

/// Where a schema stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    /// A field of an object.
    Field,
    /// An item of a list.
    Item,
    /// Below allOf and its like, where only values are restricted.
    Nested,
}

/// What may not stand below allOf and its like.
const STRUCTURE: &[(&str, &str)] = &[
    ("default", "must be undefined to be structural"),
    ("title", "must be empty to be structural"),
    ("description", "must be empty to be structural"),
    ("nullable", "must be false to be structural"),
    ("additionalProperties", "must be undefined to be structural"),
    (
        "x-kubernetes-preserve-unknown-fields",
        "must be false to be structural",
    ),
    ("x-kubernetes-embedded-resource", "must be false to be structural"),
    ("x-kubernetes-int-or-string", "must be false to be structural"),
    ("x-kubernetes-list-map-keys", "must be empty to be structural"),
    ("x-kubernetes-list-type", "must be undefined to be structural"),
    ("x-kubernetes-map-type", "must be undefined to be structural"),
];

/// Whether a value says something.
fn set(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::String(s)) => !s.is_empty(),
        Some(Value::Array(l)) => !l.is_empty(),
        Some(_) => true,
    }
}

/// What a schema's own words contradict, besides types.
fn contradictions(s: &Schema, json: &Value, path: &str, level: Level, causes: &mut Vec<Cause>) {
    let own = json.get("type").and_then(Value::as_str).unwrap_or_default();
    let mut wanted = |key: &str, kind: &str, why: String| {
        if set(json.get(key)) && own != kind {
            let at = format!("{path}.type");
            causes.push(if own.is_empty() {
                Cause::required(at, &why)
            } else {
                Cause::invalid(at, &own.into(), why)
            });
        }
    };
    if level == Level::Nested {
        for (key, why) in STRUCTURE.iter().filter(|(key, _)| set(json.get(*key))) {
            causes.push(Cause::forbidden(format!("{path}.{key}"), why));
        }
        return;
    }
    for (key, kind) in [
        ("x-kubernetes-list-type", "array"),
        ("x-kubernetes-map-type", "object"),
    ] {
        wanted(key, kind, format!("must be {kind} if {key} is specified"));
    }
    wanted(
        "x-kubernetes-embedded-resource",
        "object",
        "must be object if x-kubernetes-embedded-resource is true".into(),
    );
    if s.int_or_string {
        for key in [
            "x-kubernetes-preserve-unknown-fields",
            "x-kubernetes-embedded-resource",
        ] {
            if set(json.get(key)) {
                causes.push(Cause::invalid(
                    format!("{path}.{key}"),
                    &true.into(),
                    "must be false if x-kubernetes-int-or-string is true",
                ));
            }
        }
    }
    if level == Level::Root {
        if set(json.get("additionalProperties")) {
            causes.push(Cause::forbidden(
                format!("{path}.additionalProperties"),
                "must not be used at the root",
            ));
        }
        let metadata = json.pointer("/properties/metadata").and_then(Value::as_object);
        let more = metadata.is_some_and(|m| {
            let properties = m.get("properties").and_then(Value::as_object);
            let known = ["name", "generateName"];
            m.keys()
                .any(|k| !["type", "properties", "description"].contains(&k.as_str()))
                || properties.is_some_and(|p| p.keys().any(|k| !known.contains(&k.as_str())))
        });
        if more {
            causes.push(Cause::forbidden(
                format!("{path}.properties[metadata]"),
                "must not specify anything other than name and generateName, but metadata is implicitly specified",
            ));
        }
    }
}

fn node(json: &Value, path: &str, depth: usize, level: Level, causes: &mut Vec<Cause>) -> Schema {
    let structural = level != Level::Nested;
    let mut s = Schema::default();
    if depth > MAX_DEPTH {
        causes.push(Cause::invalid(
            path,
            &Value::Null,
            format!("schemas may nest {MAX_DEPTH} deep at most"),
        ));
        return s;
    }
    let Some(map) = json.as_object() else {
        causes.push(Cause::type_invalid(path, json, "must be an object"));
        return s;
    };
    s.int_or_string = flag(json, "x-kubernetes-int-or-string");
    s.preserve_unknown = flag(json, "x-kubernetes-preserve-unknown-fields");
    s.embedded = flag(json, "x-kubernetes-embedded-resource");
    s.nullable = flag(json, "nullable");
    s.kind = match map.get("type").and_then(Value::as_str) {
        Some("object") => Type::Object,
        Some("array") => Type::Array,
        Some("string") => Type::String,
        Some("integer") => Type::Integer,
        Some("number") => Type::Number,
        Some("boolean") => Type::Boolean,
        Some(other) => {
            causes.push(Cause::not_supported(
                format!("{path}.type"),
                &other.into(),
                &["array", "boolean", "integer", "number", "object", "string"].map(Value::from),
            ));
            Type::Any
        }
        None => {
            if structural && !s.int_or_string && !s.preserve_unknown {
                let why = match level {
                    Level::Root => "must not be empty at the root",
                    Level::Item => "must not be empty for specified array items",
                    _ => "must not be empty for specified object fields",
                };
                causes.push(Cause::required(format!("{path}.type"), why));
            }
            Type::Any
        }
    };
    contradictions(&s, json, path, level, causes);
    let below = |level_below| if structural { level_below } else { Level::Nested };
    if map.contains_key("$ref") {
        causes.push(Cause::forbidden(format!("{path}.$ref"), "$ref is not supported"));
    }
    if let Some(props) = map.get("properties").and_then(Value::as_object) {
        for (name, sub) in props {
            let at = format!("{path}.properties[{name}]");
            s.properties.insert(
                name.clone(),
                Arc::new(node(sub, &at, depth + 1, below(Level::Field), causes)),
            );
        }
    }
    match map.get("additionalProperties") {
        Some(Value::Bool(true)) => {
            s.additional = Some(Arc::new(Schema {
                preserve_unknown: true,
                nullable: true,
                ..Schema::default()
            }));
        }
        Some(sub @ Value::Object(_)) => {
            let at = format!("{path}.additionalProperties");
            if !s.properties.is_empty() && structural {
                causes.push(Cause::forbidden(
                    at.clone(),
                    "additionalProperties and properties are mutual exclusive",
                ));
            }
            s.additional = Some(Arc::new(node(sub, &at, depth + 1, below(Level::Field), causes)));
        }
        _ => {}
    }
    match map.get("items") {
        Some(sub @ Value::Object(_)) => {
            let at = format!("{path}.items");
            s.items = Some(Arc::new(node(sub, &at, depth + 1, below(Level::Item), causes)));
        }
        Some(other) if !other.is_null() => {
            causes.push(Cause::forbidden(
                format!("{path}.items"),
                "items must be a schema object and not an array",
            ));
        }
        _ if s.kind == Type::Array && structural => {
            causes.push(Cause::required(format!("{path}.items"), "must be specified"));
        }
        _ => {}
    }
    s.required = strings(json, "required");
    s.default = map.get("default").cloned();
    s.allowed = map.get("enum").and_then(Value::as_array).cloned();
    s.format = map.get("format").and_then(Value::as_str).map(str::to_owned);
    if let Some(text) = map.get("pattern").and_then(Value::as_str) {
        match Regex::new(text) {
            Ok(re) => s.pattern = Some((text.to_owned(), re)),
            Err(e) => {
                let why = format!("must be a valid regular expression, but isn't: {e}");
                causes.push(Cause::invalid(format!("{path}.pattern"), &text.into(), why));
            }
        }
    }
    s.minimum = number(json, "minimum").map(|n| (n, flag(json, "exclusiveMinimum")));
    s.maximum = number(json, "maximum").map(|n| (n, flag(json, "exclusiveMaximum")));
    s.multiple_of = number(json, "multipleOf");
    s.min_length = count(json, "minLength");
    s.max_length = count(json, "maxLength");
    s.min_items = count(json, "minItems");
    s.max_items = count(json, "maxItems");
    s.min_properties = count(json, "minProperties");
    s.max_properties = count(json, "maxProperties");
    if flag(json, "uniqueItems") {
        causes.push(Cause::forbidden(
            format!("{path}.uniqueItems"),
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        ));
    }
    let int_or_string = s.int_or_string;
    let int_or_string_all = |key: &str, i: usize, sub: &Value| {
        int_or_string && key == "allOf" && i == 0 && sub.get("anyOf").is_some()
    };
    let several = |key: &str, causes: &mut Vec<Cause>| -> Vec<Schema> {
        let list = map.get(key).and_then(Value::as_array);
        list.map(|subs| {
            subs.iter()
                .enumerate()
                .map(|(i, sub)| {
                    let at = format!("{path}.{key}[{i}]");
                    // One form of saying that a number or a text will do is taken, and nothing else with types.
                    let plain = !(int_or_string && key == "anyOf" || int_or_string_all(key, i, sub));
                    if plain && structural && set(sub.get("type")) {
                        causes.push(Cause::forbidden(
                            format!("{at}.type"),
                            "must be empty to be structural",
                        ));
                    }
                    node(sub, &at, depth + 1, Level::Nested, causes)
                })
                .collect()
        })
        .unwrap_or_default()
    };
    s.all_of = several("allOf", causes);
    s.any_of = several("anyOf", causes);
    s.one_of = several("oneOf", causes);
    s.not = map.get("not").filter(|v| v.is_object()).map(|sub| {
        Box::new(node(
            sub,
            &format!("{path}.not"),
            depth + 1,
            Level::Nested,
            causes,
        ))
    });
    let keys = strings(json, "x-kubernetes-list-map-keys");
    s.list = match map.get("x-kubernetes-list-type").and_then(Value::as_str) {
        Some("set") => ListType::Set,
        Some("map") => {
            if keys.is_empty() {
                causes.push(Cause::required(
                    format!("{path}.x-kubernetes-list-map-keys"),
                    "must not be empty if x-kubernetes-list-type is map",
                ));
            }
            ListType::Map(keys)
        }
        Some("atomic") | None => ListType::Atomic,
        Some(other) => {
            causes.push(Cause::not_supported(
                format!("{path}.x-kubernetes-list-type"),
                &other.into(),
                &["atomic", "map", "set"].map(Value::from),
            ));
            ListType::Atomic
        }
    };
    s.atomic_map = map.get("x-kubernetes-map-type").and_then(Value::as_str) == Some("atomic");
    s
}
