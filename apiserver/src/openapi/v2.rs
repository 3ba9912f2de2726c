//! OpenAPI v2, which older clients check objects with: as JSON, and in the protobuf form that kubectl asks
//! for.

use serde_json::{Map, Value, json};

use super::v3;
use crate::catalog::Catalog;
use crate::proto::Writer;

/// The whole document.
pub(super) fn document(catalog: &Catalog) -> Value {
    let mut definitions = Map::new();
    let mut paths = Map::new();
    for group in &catalog.groups {
        for version in &group.versions {
            let path = if group.name.is_empty() {
                format!("api/{}", version.version)
            } else {
                format!("apis/{}/{}", group.name, version.version)
            };
            let Some(document) = v3::document(catalog, &path) else {
                continue;
            };
            let schemas = document.pointer("/components/schemas").and_then(Value::as_object);
            for (name, schema) in schemas.into_iter().flatten() {
                definitions.entry(name.clone()).or_insert_with(|| lower(schema));
            }
            for (path, item) in document["paths"].as_object().into_iter().flatten() {
                paths.insert(path.clone(), path_item(item));
            }
        }
    }
    json!({"swagger": "2.0", "info": {"title": "Kubernetes", "version": "v1.33.0"}, "paths": paths, "definitions": definitions})
}

/// A schema without what v2 does not know.
fn lower(schema: &Value) -> Value {
    match schema {
        Value::Object(map) => {
            let mut out = Map::new();
            for (key, value) in map {
                match key.as_str() {
                    "$ref" => {
                        let target = value.as_str().unwrap_or_default();
                        let target = target.replace("#/components/schemas/", "#/definitions/");
                        out.insert("$ref".into(), target.into());
                    }
                    // A reference with a description is just a reference.
                    "allOf" if value.pointer("/0/$ref").is_some() => {
                        if let Value::Object(inner) = lower(&value[0]) {
                            out.extend(inner);
                        }
                    }
                    // What v2 cannot say, it leaves open.
                    "anyOf" | "oneOf" | "not" | "allOf" | "nullable" => {}
                    "properties" => {
                        let fields: Map<String, Value> = value
                            .as_object()
                            .into_iter()
                            .flatten()
                            .map(|(k, v)| (k.clone(), lower(v)))
                            .collect();
                        out.insert(key.clone(), Value::Object(fields));
                    }
                    "default" | "enum" | "example" => {
                        out.insert(key.clone(), value.clone());
                    }
                    _ => {
                        out.insert(key.clone(), lower(value));
                    }
                }
            }
            // Unknown fields would be refused by clients that only look at the properties.
            let open = out.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true))
                || out.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true))
                || schema.get("nullable") == Some(&Value::Bool(true));
            if open {
                for key in ["type", "properties", "required", "items"] {
                    out.shift_remove(key);
                }
            }
            Value::Object(out)
        }
        Value::Array(list) => list.iter().map(lower).collect(),
        other => other.clone(),
    }
}

/// Of a path, what its operations take.
fn path_item(item: &Value) -> Value {
    let mut out = Map::new();
    for (verb, operation) in item.as_object().into_iter().flatten() {
        if verb == "parameters" {
            continue;
        }
        let parameters: Vec<Value> = operation
            .get("parameters")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter(|p| p["in"] == "query")
            .map(|p| json!({"name": p["name"], "in": "query", "description": p["description"],
                "type": p.pointer("/schema/type").cloned().unwrap_or_else(|| "string".into()), "uniqueItems": true}))
            .collect();
        let mut op = Map::new();
        for key in [
            "description",
            "operationId",
            "tags",
            "x-kubernetes-action",
            "x-kubernetes-group-version-kind",
        ] {
            if let Some(v) = operation.get(key) {
                op.insert(key.into(), v.clone());
            }
        }
        op.insert("parameters".into(), Value::Array(parameters));
        op.insert("responses".into(), json!({"200": {"description": "OK"}}));
        out.insert(verb.clone(), Value::Object(op));
    }
    Value::Object(out)
}

fn text<'a>(v: &'a Value, key: &str) -> &'a str {
    v.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The document in gnostic's protobuf form.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let mut w = Writer::default();
    w.text(1, text(document, "swagger"));
    let mut info = Writer::default();
    info.text(1, text(&document["info"], "title"));
    info.text(2, text(&document["info"], "version"));
    w.message(2, &info);
    let mut paths = Writer::default();
    for (name, item) in document["paths"].as_object().into_iter().flatten() {
        let mut named = Writer::default();
        named.text(1, name);
        named.message(2, &encode_path(item));
        paths.message(2, &named);
    }
    w.message(8, &paths);
    let mut definitions = Writer::default();
    for (name, schema) in document["definitions"].as_object().into_iter().flatten() {
        definitions.message(1, &named(name, schema));
    }
    w.message(9, &definitions);
    w.finish()
}

fn named(name: &str, schema: &Value) -> Writer {
    let mut w = Writer::default();
    w.text(1, name);
    w.message(2, &encode_schema(schema));
    w
}

/// A value as YAML; JSON is.
fn any(value: &Value) -> Writer {
    let mut w = Writer::default();
    w.text(2, &value.to_string());
    w
}

fn extensions(w: &mut Writer, field: u32, value: &Value) {
    for (key, v) in value
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(k, _)| k.starts_with("x-"))
    {
        let mut named = Writer::default();
        named.text(1, key);
        named.message(2, &any(v));
        w.message(field, &named);
    }
}

fn encode_path(item: &Value) -> Writer {
    let mut w = Writer::default();
    for (verb, field) in [("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("patch", 8)] {
        let Some(operation) = item.get(verb) else { continue };
        let mut op = Writer::default();
        for tag in operation["tags"].as_array().into_iter().flatten() {
            op.text(1, tag.as_str().unwrap_or_default());
        }
        op.text(3, text(operation, "description"));
        op.text(5, text(operation, "operationId"));
        for p in operation["parameters"].as_array().into_iter().flatten() {
            let mut query = Writer::default();
            query.text(2, "query");
            query.text(3, text(p, "description"));
            query.text(4, text(p, "name"));
            query.text(6, text(p, "type"));
            // Parameter item, parameter, no body, query.
            let mut wrapped = query;
            for field in [3, 2, 1] {
                let mut outer = Writer::default();
                outer.message(field, &wrapped);
                wrapped = outer;
            }
            op.message(8, &wrapped);
        }
        let mut response = Writer::default();
        response.text(1, "OK");
        let mut value = Writer::default();
        value.message(1, &response);
        let mut code = Writer::default();
        code.text(1, "200");
        code.message(2, &value);
        let mut responses = Writer::default();
        responses.message(1, &code);
        op.message(9, &responses);
        extensions(&mut op, 13, operation);
        w.message(field, &op);
    }
    w
}

fn encode_schema(s: &Value) -> Writer {
    let mut w = Writer::default();
    let number = |key: &str| s.get(key).and_then(Value::as_f64).unwrap_or(0.0);
    let count = |key: &str| s.get(key).and_then(Value::as_i64).unwrap_or(0);
    let flag = |key: &str| i64::from(s.get(key).and_then(Value::as_bool).unwrap_or(false));
    w.text(1, text(s, "$ref"));
    w.text(2, text(s, "format"));
    w.text(3, text(s, "title"));
    w.text(4, text(s, "description"));
    if let Some(d) = s.get("default") {
        w.message(5, &any(d));
    }
    w.double(6, number("multipleOf"));
    w.double(7, number("maximum"));
    w.number(8, flag("exclusiveMaximum"));
    w.double(9, number("minimum"));
    w.number(10, flag("exclusiveMinimum"));
    w.number(11, count("maxLength"));
    w.number(12, count("minLength"));
    w.text(13, text(s, "pattern"));
    w.number(14, count("maxItems"));
    w.number(15, count("minItems"));
    w.number(16, flag("uniqueItems"));
    w.number(17, count("maxProperties"));
    w.number(18, count("minProperties"));
    for r in s["required"].as_array().into_iter().flatten() {
        w.text(19, r.as_str().unwrap_or_default());
    }
    for e in s["enum"].as_array().into_iter().flatten() {
        w.message(20, &any(e));
    }
    match s.get("additionalProperties") {
        Some(Value::Bool(b)) => {
            let mut item = Writer::default();
            item.number(2, i64::from(*b));
            w.message(21, &item);
        }
        Some(sub @ Value::Object(_)) => {
            let mut item = Writer::default();
            item.message(1, &encode_schema(sub));
            w.message(21, &item);
        }
        _ => {}
    }
    if !text(s, "type").is_empty() {
        let mut item = Writer::default();
        item.text(1, text(s, "type"));
        w.message(22, &item);
    }
    if let Some(items) = s.get("items").filter(|v| v.is_object()) {
        let mut item = Writer::default();
        item.message(1, &encode_schema(items));
        w.message(23, &item);
    }
    if let Some(properties) = s.get("properties").and_then(Value::as_object) {
        let mut all = Writer::default();
        for (name, sub) in properties {
            all.message(1, &named(name, sub));
        }
        w.message(25, &all);
    }
    extensions(&mut w, 31, s);
    w
}
