//! Namespaces.

use serde_json::{Value, json};

use crate::rest::meta;

/// Namespaces that cannot be deleted.
pub(crate) const PERMANENT: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) fn default(object: &mut Value) {
    let name = meta::text(object, "name").to_owned();
    let m = meta::of(object);
    let labels = m.entry("labels").or_insert_with(|| json!({}));
    if !labels.is_object() {
        *labels = json!({});
    }
    labels["kubernetes.io/metadata.name"] = name.into();
}

pub(super) fn admit(object: &mut Value) {
    let mut finalizers: Vec<Value> = object
        .pointer("/spec/finalizers")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    if !finalizers.iter().any(|f| f == "kubernetes") {
        finalizers.push("kubernetes".into());
    }
    object["spec"]["finalizers"] = Value::Array(finalizers);
    object["status"] = json!({"phase": "Active"});
}
