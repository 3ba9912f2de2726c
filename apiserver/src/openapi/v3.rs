//! OpenAPI v3, one document per group and version.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha512};

use crate::catalog::{Catalog, Origin, Resource, builtin};
use crate::schema::builtin::Library;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

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
                schemas.insert(name.clone(), custom(schema_json, r));
                for needed in ["ObjectMeta", "ListMeta", "DeleteOptions", "Status"] {
                    reach(library, &format!("{META}.{needed}"), &mut schemas);
                }
            }
        }
        if let Some(s) = schemas.get_mut(&name) {
            s["x-kubernetes-group-version-kind"] =
                json!([{"group": r.group, "kind": r.kind, "version": r.version}]);
        }
        if r.verbs.contains(&"list") {
            let list = format!("{name}List");
            schemas.insert(list, list_schema(r, &name));
        }
        operations(r, &name, &mut paths);
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
                if let Some(target) = map.get("$ref").and_then(Value::as_str) {
                    if let Some(name) = target.strip_prefix("#/components/schemas/") {
                        reach(library, name, out);
                    }
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
fn custom(schema: &Value, r: &Resource) -> Value {
    let mut out = schema.clone();
    if let Some(map) = out.as_object_mut() {
        let props = map.entry("properties").or_insert_with(|| json!({}));
        props["apiVersion"] = json!({"description": API_VERSION, "type": "string"});
        props["kind"] = json!({"description": KIND, "type": "string"});
        props["metadata"] = json!({"description": "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata",
            "allOf": [{"$ref": format!("#/components/schemas/{META}.ObjectMeta")}]});
    }
    let _ = r;
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

/// The operations on a resource: enough for clients to see what a path takes and answers.
fn operations(r: &Resource, name: &str, paths: &mut Map<String, Value>) {
    let root = if r.group.is_empty() {
        format!("/api/{}", r.version)
    } else {
        format!("/apis/{}/{}", r.group, r.version)
    };
    let place = if r.namespaced {
        format!("{root}/namespaces/{{namespace}}/{}", r.plural)
    } else {
        format!("{root}/{}", r.plural)
    };
    let gvk = json!({"group": r.group, "version": r.version, "kind": r.kind});
    let refer = |n: &str| json!({"$ref": format!("#/components/schemas/{n}")});
    let flag = |n: &str| json!({"name": n, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
    let answer = |n: &str| json!({"200": {"description": "OK", "content": {"application/json": {"schema": refer(n)}}}});
    let operation = |action: &str, n: &str, params: &[&str]| {
        json!({"parameters": params.iter().map(|p| flag(p)).collect::<Vec<_>>(), "responses": answer(n),
            "x-kubernetes-action": action, "x-kubernetes-group-version-kind": gvk})
    };
    let body = |mut op: Value, n: &str, types: &[&str]| {
        let content: Map<String, Value> = types
            .iter()
            .map(|t| ((*t).to_owned(), json!({"schema": refer(n)})))
            .collect();
        op["requestBody"] = json!({"content": content, "required": true});
        op
    };
    let writes = ["dryRun", "fieldManager", "fieldValidation"];
    let list = format!("{name}List");
    let lists = [
        "allowWatchBookmarks",
        "continue",
        "fieldSelector",
        "labelSelector",
        "limit",
        "resourceVersion",
        "resourceVersionMatch",
        "sendInitialEvents",
        "timeoutSeconds",
        "watch",
    ];
    let patches: &[&str] = if r.custom() {
        &[
            "application/apply-patch+yaml",
            "application/json-patch+json",
            "application/merge-patch+json",
        ]
    } else {
        &[
            "application/apply-patch+yaml",
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
        ]
    };
    let patch_name = format!("{META}.Patch");
    let patch = |name: &str| {
        let op = operation(
            "patch",
            name,
            &["dryRun", "fieldManager", "fieldValidation", "force"],
        );
        body(op, &patch_name, patches)
    };
    let has = |v: &str| r.verbs.contains(&v);
    let mut collection = Map::new();
    if has("list") {
        collection.insert("get".into(), operation("list", &list, &lists));
    }
    if has("create") {
        collection.insert(
            "post".into(),
            body(operation("post", name, &writes), name, &["*/*"]),
        );
    }
    if has("deletecollection") {
        collection.insert(
            "delete".into(),
            operation("deletecollection", &format!("{META}.Status"), &lists),
        );
    }
    paths.insert(place.clone(), Value::Object(collection));
    if has("get") {
        let mut one = Map::new();
        one.insert("get".into(), operation("get", name, &[]));
        one.insert(
            "put".into(),
            body(operation("put", name, &writes), name, &["*/*"]),
        );
        one.insert("patch".into(), patch(name));
        one.insert(
            "delete".into(),
            operation(
                "delete",
                &format!("{META}.Status"),
                &["dryRun", "gracePeriodSeconds", "propagationPolicy"],
            ),
        );
        paths.insert(format!("{place}/{{name}}"), Value::Object(one));
    }
    for sub in &r.subresources {
        let mut ops = Map::new();
        for verb in sub.verbs {
            match *verb {
                "get" => ops.insert("get".into(), operation("get", name, &[])),
                "update" => ops.insert(
                    "put".into(),
                    body(operation("put", name, &writes), name, &["*/*"]),
                ),
                "patch" => ops.insert("patch".into(), patch(name)),
                _ => ops.insert("post".into(), operation("post", name, &writes)),
            };
        }
        paths.insert(format!("{place}/{{name}}/{}", sub.name), Value::Object(ops));
    }
    if r.namespaced && has("list") {
        paths.insert(
            format!("{root}/{}", r.plural),
            json!({"get": operation("list", &list, &lists)}),
        );
    }
}
