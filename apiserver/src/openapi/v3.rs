//! OpenAPI v3, one document per group and version.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha512};

use crate::catalog::{Catalog, Origin, Resource, builtin};
use crate::schema::builtin::Library;

pub(super) const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// The list of documents.
pub(super) fn index(catalog: &Catalog) -> Value {
    let mut paths = Map::new();
    for group in &catalog.groups {
        for version in &group.versions {
            let path = if group.name.is_empty() {
                format!("api/{}", version.version)
            } else {
                format!("apis/{}/{}", group.name, version.version)
            };
            let document = document(catalog, &path).unwrap_or_default();
            let hash = hex::encode_upper(Sha512::digest(document.to_string().as_bytes()));
            paths.insert(
                path.clone(),
                json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")}),
            );
        }
    }
    json!({"paths": paths})
}

/// One document.
pub(super) fn document(catalog: &Catalog, path: &str) -> Option<Value> {
    let (group, version) = match path.split('/').collect::<Vec<_>>().as_slice() {
        ["api", version] => (String::new(), (*version).to_owned()),
        ["apis", group, version] => ((*group).to_owned(), (*version).to_owned()),
        _ => return None,
    };
    let found = catalog
        .groups
        .iter()
        .find(|g| g.name == group)?
        .versions
        .iter()
        .find(|v| v.version == version)?;
    let mut paths = Map::new();
    let mut schemas = Map::new();
    let library = Library::get().definitions();
    for r in &found.resources {
        let name = definition_name(r);
        match &r.origin {
            Origin::Builtin(_) => reach(library, &name, &mut schemas),
            Origin::Custom { schema_json, .. } => {
                schemas.insert(name.clone(), custom(schema_json));
            }
        }
        if let Some(s) = schemas.get_mut(&name) {
            s["x-kubernetes-group-version-kind"] =
                json!([{"group": r.group, "kind": r.kind, "version": r.version}]);
        }
        // What the lists and the operations refer to.
        for needed in ["ObjectMeta", "ListMeta", "DeleteOptions", "Status", "Patch"] {
            reach(library, &format!("{META}.{needed}"), &mut schemas);
        }
        if r.verbs.contains(&"list") {
            let list = format!("{name}List");
            schemas.insert(list, list_schema(r, &name));
        }
        super::operations::add(r, &name, &mut paths);
    }
    let title = if found.resources.iter().any(|r| r.custom()) {
        "Kubernetes CRD Swagger"
    } else {
        "Kubernetes"
    };
    let version = if found.resources.iter().any(|r| r.custom()) {
        "v0.1.0"
    } else {
        "v1.33.0"
    };
    Some(
        json!({"openapi": "3.0.0", "info": {"title": title, "version": version}, "paths": paths,
        "components": {"schemas": schemas}}),
    )
}

/// The name of a kind's definition: the group's parts backwards, version, kind.
fn definition_name(r: &Resource) -> String {
    if let Origin::Builtin(kind) = &r.origin {
        return builtin::definition(*kind).to_owned();
    }
    let mut parts: Vec<&str> = r.group.split('.').collect();
    parts.reverse();
    format!("{}.{}.{}", parts.join("."), r.version, r.kind)
}

/// Copies a definition and what it refers to.
fn reach(library: &Map<String, Value>, name: &str, out: &mut Map<String, Value>) {
    if out.contains_key(name) {
        return;
    }
    let Some(found) = library.get(name) else { return };
    out.insert(name.to_owned(), found.clone());
    let mut stack = vec![found];
    while let Some(value) = stack.pop() {
        match value {
            Value::Object(map) => {
                if let Some(target) = map.get("$ref").and_then(Value::as_str)
                    && let Some(name) = target.strip_prefix("#/components/schemas/")
                {
                    reach(library, name, out);
                }
                stack.extend(map.values());
            }
            Value::Array(list) => stack.extend(list),
            _ => {}
        }
    }
}

const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";

/// A definition's own schema, with what every object has.
fn custom(schema: &Value) -> Value {
    let mut out = schema.clone();
    if let Some(map) = out.as_object_mut() {
        let props = map.entry("properties").or_insert_with(|| json!({}));
        props["apiVersion"] = json!({"description": API_VERSION, "type": "string"});
        props["kind"] = json!({"description": KIND, "type": "string"});
        props["metadata"] = json!({"description": "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata",
            "allOf": [{"$ref": format!("#/components/schemas/{META}.ObjectMeta")}]});
    }
    out
}

fn list_schema(r: &Resource, name: &str) -> Value {
    json!({"description": format!("{} is a list of {}", r.list_kind, r.kind), "type": "object", "required": ["items"],
        "properties": {
            "apiVersion": {"description": API_VERSION, "type": "string"},
            "items": {"description": format!("List of {}. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md", r.plural),
                "type": "array", "items": {"$ref": format!("#/components/schemas/{name}")}},
            "kind": {"description": KIND, "type": "string"},
            "metadata": {"description": "Standard list metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds",
                "allOf": [{"$ref": format!("#/components/schemas/{META}.ListMeta")}]}},
        "x-kubernetes-group-version-kind": [{"group": r.group, "kind": r.list_kind, "version": r.version}]})
}
