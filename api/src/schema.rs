//! What the derived schemas cannot say by themselves.

use schemars::Schema;
use serde_json::{Value, json};

fn set(schema: &mut Schema, path: &[&str], key: &str, value: Value) {
    let mut at = schema.as_object_mut();
    for step in path {
        at = at.and_then(|o| o.get_mut(*step)).and_then(Value::as_object_mut);
    }
    if let Some(o) = at {
        o.insert(key.to_owned(), value);
    }
}

/// A list keyed by `type`.
pub fn list_map_by_type(schema: &mut Schema) {
    schema.insert("x-kubernetes-list-type".into(), json!("map"));
    schema.insert("x-kubernetes-list-map-keys".into(), json!(["type"]));
}

/// A list keyed by `cluster`.
pub fn list_map_by_cluster(schema: &mut Schema) {
    schema.insert("x-kubernetes-list-type".into(), json!("map"));
    schema.insert("x-kubernetes-list-map-keys".into(), json!(["cluster"]));
}

/// The bounds of `metav1.Condition`.
pub fn condition(schema: &mut Schema) {
    set(
        schema,
        &["properties", "status"],
        "enum",
        json!(["True", "False", "Unknown"]),
    );
    set(schema, &["properties", "reason"], "minLength", json!(1));
    set(schema, &["properties", "reason"], "maxLength", json!(1024));
    set(
        schema,
        &["properties", "reason"],
        "pattern",
        json!("^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"),
    );
    set(schema, &["properties", "message"], "maxLength", json!(32768));
    set(schema, &["properties", "type"], "maxLength", json!(316));
    set(
        schema,
        &["properties", "lastTransitionTime"],
        "format",
        json!("date-time"),
    );
}
