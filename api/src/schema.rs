//! What the derived schemas cannot say by themselves.
//!
//! The first half is used by the types' own derives (`schemars(transform = …)`); [`tidy`] then goes over a
//! whole schema and takes out what a Kubernetes API server would warn of or act upon against our will.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use schemars::{Schema, SchemaGenerator, json_schema};
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
    let field = |name| ["properties", name];
    set(
        schema,
        &field("status"),
        "enum",
        json!(["True", "False", "Unknown"]),
    );
    set(schema, &field("reason"), "minLength", json!(1));
    set(schema, &field("reason"), "maxLength", json!(1024));
    set(
        schema,
        &field("reason"),
        "pattern",
        json!("^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"),
    );
    set(schema, &field("message"), "maxLength", json!(32768));
    set(schema, &field("type"), "maxLength", json!(316));
    set(
        schema,
        &field("type"),
        "pattern",
        json!(
            r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$"
        ),
    );
    set(schema, &field("lastTransitionTime"), "format", json!("date-time"));
    set(schema, &field("observedGeneration"), "minimum", json!(0));
}

/// At most one of each address family.
pub fn at_most_two(schema: &mut Schema) {
    schema.insert("maxItems".into(), json!(2));
}

/// Ports of a ServiceImport: looser than our own records' ports, since upstream's schema is.
pub fn import_ports(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "x-kubernetes-list-type": "atomic",
        "items": {
            "description": "A port of the service.",
            "type": "object",
            "required": ["port"],
            "properties": {
                "name": { "description": "DNS label; may be left out if it is the only port.", "type": "string" },
                "protocol": { "description": "`TCP`, `UDP` or `SCTP`; `TCP` if left out.", "type": "string" },
                "port": { "description": "The port's number.", "type": "integer", "format": "int32" },
                "appProtocol": { "description": "The application protocol, if stated.", "type": "string" },
            },
        },
    })
}

/// Makes a derived schema fit for an API server, all the way down:
/// - no `default`: readers fill in what is missing, and a default that a server once stored cannot change;
/// - no `nullable`: we leave out what is not there, and the Multi-Cluster Services API has none;
/// - no integer formats but `int32` and `int64`, the only ones that Kubernetes knows.
pub fn tidy(schema: &mut JSONSchemaProps) {
    schema.default = None;
    schema.nullable = None;
    schema.title = None;
    if let Some(text) = &mut schema.description {
        *text = text.replace('\n', " ");
    }
    let (format, highest) = match schema.format.as_deref() {
        Some("uint8") => ("int32", Some(f64::from(u8::MAX))),
        Some("uint16") => ("int32", Some(f64::from(u16::MAX))),
        Some("uint32") => ("int64", Some(f64::from(u32::MAX))),
        Some("uint64" | "uint") => ("int64", None),
        _ => ("", None),
    };
    if !format.is_empty() {
        schema.format = Some(format.to_owned());
        schema.minimum.get_or_insert(0.0);
        if schema.maximum.is_none() {
            schema.maximum = highest;
        }
    }
    for below in schema.properties.iter_mut().flat_map(|all| all.values_mut()) {
        tidy(below);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => tidy(items),
        Some(JSONSchemaPropsOrArray::Schemas(all)) => all.iter_mut().for_each(tidy),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        tidy(values);
    }
}
