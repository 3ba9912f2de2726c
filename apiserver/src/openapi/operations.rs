//! The operations on a resource: what each path takes and answers.

use std::sync::OnceLock;

use serde_json::{Map, Value, json};

use super::v3::META;
use crate::catalog::Resource;

const LIST: &[&str] = &[
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
const WRITE: &[&str] = &["dryRun", "fieldManager", "fieldValidation"];
const PATCH: &[&str] = &["dryRun", "fieldManager:patch", "fieldValidation", "force"];
const DELETE: &[&str] = &[
    "dryRun",
    "gracePeriodSeconds",
    "orphanDependents",
    "propagationPolicy",
];

/// A parameter, with its description.
fn parameter(name: &str) -> Value {
    static ALL: OnceLock<Map<String, Value>> = OnceLock::new();
    let all = ALL.get_or_init(|| match serde_json::from_str(include_str!("parameters.json")) {
        Ok(map) => map,
        Err(e) => {
            tracing::error!(error = %e, "the built-in descriptions of parameters cannot be read");
            Map::new()
        }
    });
    all.get(name)
        .cloned()
        .unwrap_or_else(|| json!({"name": name, "in": "query", "schema": {"type": "string"}}))
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map(|c| c.to_uppercase().chain(chars).collect())
        .unwrap_or_default()
}

/// A group as one word: `strait-test.dev` is `StraitTestDev`.
fn word(group: &str) -> String {
    let short = group.strip_suffix(".k8s.io").unwrap_or(group);
    if short.is_empty() {
        return "Core".into();
    }
    short.split(['.', '-']).map(capitalised).collect()
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map(|c| c.to_lowercase().chain(chars).collect())
        .unwrap_or_default()
}

struct Maker<'a> {
    r: &'a Resource,
    tag: String,
    subject: String,
}

impl Maker<'_> {
    fn content(&self, definition: &str) -> Value {
        let schema = json!({"schema": {"$ref": format!("#/components/schemas/{definition}")}});
        json!({"application/json": schema, "application/yaml": schema})
    }

    fn responses(&self, definition: &str, codes: &[&str]) -> Value {
        let mut out = Map::new();
        for code in codes {
            let text = match *code {
                "201" => "Created",
                "202" => "Accepted",
                _ => "OK",
            };
            out.insert(
                (*code).to_owned(),
                json!({"description": text, "content": self.content(definition)}),
            );
        }
        out.insert("401".into(), json!({"description": "Unauthorized"}));
        Value::Object(out)
    }

    fn operation(
        &self,
        action: &str,
        id: String,
        description: String,
        parameters: &[&str],
        responses: Value,
    ) -> Value {
        let mut out = Map::new();
        out.insert("tags".into(), json!([self.tag]));
        out.insert("description".into(), description.into());
        out.insert("operationId".into(), id.into());
        if !parameters.is_empty() {
            out.insert(
                "parameters".into(),
                parameters.iter().map(|p| parameter(p)).collect(),
            );
        }
        out.insert("responses".into(), responses);
        out.insert("x-kubernetes-action".into(), action.into());
        out.insert(
            "x-kubernetes-group-version-kind".into(),
            json!({"group": self.r.group, "version": self.r.version, "kind": self.r.kind}),
        );
        Value::Object(out)
    }

    fn body(&self, mut operation: Value, content: Value, required: bool) -> Value {
        let mut body = json!({"content": content});
        if required {
            body["required"] = true.into();
        }
        operation["requestBody"] = body;
        operation
    }

    /// Get, replace and patch of an object or one of its parts.
    fn one(&self, verbs: &[&str], definition: &str, part: &str) -> Map<String, Value> {
        let kind = &self.r.kind;
        let what = if part.is_empty() {
            String::new()
        } else {
            format!("{part} of ")
        };
        let id = |verb: &str| format!("{verb}{}{}", self.subject, capitalised(part));
        let mut out = Map::new();
        for verb in verbs {
            match *verb {
                "get" => {
                    let responses = self.responses(definition, &["200"]);
                    let description = format!("read {what}the specified {kind}");
                    out.insert(
                        "get".into(),
                        self.operation("get", id("read"), description, &["resourceVersion"], responses),
                    );
                }
                "update" => {
                    let responses = self.responses(definition, &["200", "201"]);
                    let description = format!("replace {what}the specified {kind}");
                    let op = self.operation("put", id("replace"), description, WRITE, responses);
                    out.insert("put".into(), self.body(op, self.content(definition), true));
                }
                "patch" => {
                    let responses = self.responses(definition, &["200"]);
                    let description = format!("partially update {what}the specified {kind}");
                    let op = self.operation("patch", id("patch"), description, PATCH, responses);
                    let schema = json!({"schema": {"$ref": format!("#/components/schemas/{META}.Patch")}});
                    let mut content = json!({"application/apply-patch+yaml": schema,
                        "application/json-patch+json": schema, "application/merge-patch+json": schema});
                    if !self.r.custom() {
                        content["application/strategic-merge-patch+json"] = schema;
                    }
                    out.insert("patch".into(), self.body(op, content, true));
                }
                "create" if !part.is_empty() => {
                    let responses = self.responses(definition, &["200", "201", "202"]);
                    let description = format!("create {what}a {kind}");
                    let op = self.operation("post", id("create"), description, WRITE, responses);
                    out.insert("post".into(), self.body(op, self.content(definition), true));
                }
                _ => {}
            }
        }
        out
    }
}

/// Adds the paths of a resource, whose definition is `name`.
pub(super) fn add(r: &Resource, name: &str, paths: &mut Map<String, Value>) {
    let api = if r.group.is_empty() {
        format!("/api/{}", r.version)
    } else {
        format!("/apis/{}/{}", r.group, r.version)
    };
    let place = if r.namespaced {
        format!("{api}/namespaces/{{namespace}}/{}", r.plural)
    } else {
        format!("{api}/{}", r.plural)
    };
    let scope = if r.namespaced { "Namespaced" } else { "" };
    let full = format!("{}{}", word(&r.group), capitalised(&r.version));
    let m = Maker {
        r,
        tag: format!("{}_{}", lower_first(&word(&r.group)), r.version),
        subject: format!("{full}{scope}{}", r.kind),
    };
    let kind = &r.kind;
    let list = format!("{name}List");
    let status = format!("{META}.Status");
    let has = |v: &str| r.verbs.contains(&v);
    let common = |names: &[&str]| -> Value {
        let mut names: Vec<&str> = names.to_vec();
        if r.namespaced {
            names.push("namespace");
        }
        names.push("pretty");
        names.iter().map(|p| parameter(p)).collect()
    };
    let mut all = Map::new();
    if has("list") {
        let responses = m.responses(&list, &["200"]);
        let description = format!("list objects of kind {kind}");
        all.insert(
            "get".into(),
            m.operation("list", format!("list{}", m.subject), description, LIST, responses),
        );
    }
    if has("create") {
        let responses = m.responses(name, &["200", "201", "202"]);
        let op = m.operation(
            "post",
            format!("create{}", m.subject),
            format!("create a {kind}"),
            WRITE,
            responses,
        );
        all.insert("post".into(), m.body(op, m.content(name), true));
    }
    if has("deletecollection") {
        let responses = m.responses(&status, &["200"]);
        let id = format!("delete{full}Collection{scope}{kind}");
        let description = format!("delete collection of {kind}");
        all.insert(
            "delete".into(),
            m.operation("deletecollection", id, description, LIST, responses),
        );
    }
    all.insert("parameters".into(), common(&[]));
    paths.insert(place.clone(), Value::Object(all));
    if has("get") {
        let mut one = m.one(&["get", "update", "patch"], name, "");
        let responses = m.responses(&status, &["200", "202"]);
        let op = m.operation(
            "delete",
            format!("delete{}", m.subject),
            format!("delete a {kind}"),
            DELETE,
            responses,
        );
        one.insert(
            "delete".into(),
            m.body(op, m.content(&format!("{META}.DeleteOptions")), false),
        );
        one.insert("parameters".into(), common(&["name"]));
        paths.insert(format!("{place}/{{name}}"), Value::Object(one));
    }
    for sub in &r.subresources {
        let definition = match sub.kind {
            Some((group, version, kind)) => {
                let group = group.split('.').next().unwrap_or_default();
                format!("io.k8s.api.{group}.{version}.{kind}")
            }
            None => name.to_owned(),
        };
        let mut ops = m.one(sub.verbs, &definition, sub.name);
        ops.insert("parameters".into(), common(&["name"]));
        paths.insert(format!("{place}/{{name}}/{}", sub.name), Value::Object(ops));
    }
    if r.namespaced && has("list") {
        let responses = m.responses(&list, &["200"]);
        let id = format!("list{full}{kind}ForAllNamespaces");
        let op = m.operation("list", id, format!("list objects of kind {kind}"), &[], responses);
        let mut names = LIST.to_vec();
        names.push("pretty");
        names.sort_unstable();
        let parameters: Value = names.iter().map(|p| parameter(p)).collect();
        paths.insert(
            format!("{api}/{}", r.plural),
            json!({"get": op, "parameters": parameters}),
        );
    }
}
