//! What is served, told to clients: group by group, and all at once.

use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::catalog::{Catalog, Group, GroupVersion, Resource, Subresource};
use crate::http::respond::{bytes_response, json_response};

const AGGREGATED: [(&str, &str); 2] = [
    (
        "v2",
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
    ),
    (
        "v2beta1",
        "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
    ),
];

/// Answers a path of discovery.
pub(crate) fn serve(catalog: &Catalog, path: &str, accept: &str) -> Option<Response<Body>> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let ok = |v: &Value| Some(json_response(StatusCode::OK, v));
    match parts.as_slice() {
        ["api" | "apis"] => {
            let core = parts[0] == "api";
            if let Some((version, media)) = wanted(accept) {
                let value = aggregated(catalog, core, version);
                return Some(bytes_response(StatusCode::OK, media, value.to_string()));
            }
            if core {
                return ok(&json!({"kind": "APIVersions", "versions": ["v1"],
                    "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": ""}]}));
            }
            let groups: Vec<Value> = catalog
                .groups
                .iter()
                .filter(|g| !g.name.is_empty())
                .map(group_entry)
                .collect();
            ok(&json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        ["api", version] => ok(&resource_list(find(catalog, "", version)?, "", version)),
        ["apis", group] => {
            let group = catalog.groups.iter().find(|g| g.name == *group)?;
            let Value::Object(entry) = group_entry(group) else {
                return None;
            };
            let mut out = Map::new();
            out.insert("kind".into(), "APIGroup".into());
            out.insert("apiVersion".into(), "v1".into());
            out.extend(entry);
            ok(&Value::Object(out))
        }
        ["apis", group, version] => ok(&resource_list(find(catalog, group, version)?, group, version)),
        _ => None,
    }
}

fn find<'a>(catalog: &'a Catalog, group: &str, version: &str) -> Option<&'a GroupVersion> {
    catalog
        .groups
        .iter()
        .find(|g| g.name == group)?
        .versions
        .iter()
        .find(|v| v.version == version)
}

/// The form of aggregated discovery that a client asks for first.
fn wanted(accept: &str) -> Option<(&'static str, &'static str)> {
    for range in accept.split(',') {
        let params: Vec<&str> = range.split(';').map(str::trim).collect();
        if params.first() != Some(&"application/json") {
            continue;
        }
        if !params.iter().any(|p| p.starts_with("as=")) {
            return None;
        }
        let has = |p: &str| params.contains(&p);
        if has("g=apidiscovery.k8s.io") && has("as=APIGroupDiscoveryList") {
            for (version, media) in AGGREGATED {
                if has(&format!("v={version}")) {
                    return Some((version, media));
                }
            }
        }
    }
    None
}

fn group_entry(group: &Group) -> Value {
    let versions: Vec<Value> = group
        .versions
        .iter()
        .map(|v| json!({"groupVersion": format!("{}/{}", group.name, v.version), "version": v.version}))
        .collect();
    json!({"name": group.name, "versions": versions, "preferredVersion": versions.first()})
}

/// A short hash of the version that a resource is stored in.
fn storage_hash(r: &Resource) -> String {
    // Both kinds of events are stored as the core kind.
    let (group, version) = match r.storage_version.split_once('/') {
        Some((g, v)) => (g, v),
        None => ("", r.storage_version.as_str()),
    };
    let hash = Sha256::digest(format!("{group}/{version}/{}", r.kind).as_bytes());
    STANDARD.encode(&hash[..8])
}

fn kind_of(sub: &Subresource, parent: &Resource) -> (String, String, String) {
    match sub.kind {
        Some((g, v, k)) => (g.into(), v.into(), k.into()),
        None => (String::new(), String::new(), parent.kind.clone()),
    }
}

fn resource_list(version: &GroupVersion, group: &str, name: &str) -> Value {
    let mut list = Vec::new();
    for r in &version.resources {
        let mut e = Map::new();
        e.insert("name".into(), r.plural.clone().into());
        e.insert("singularName".into(), r.singular.clone().into());
        e.insert("namespaced".into(), r.namespaced.into());
        e.insert("kind".into(), r.kind.clone().into());
        e.insert("verbs".into(), json!(r.verbs));
        if !r.short_names.is_empty() {
            e.insert("shortNames".into(), json!(r.short_names));
        }
        if !r.categories.is_empty() {
            e.insert("categories".into(), json!(r.categories));
        }
        if r.verbs.contains(&"list") {
            e.insert("storageVersionHash".into(), storage_hash(r).into());
        }
        list.push(Value::Object(e));
        for sub in &r.subresources {
            let (g, v, k) = kind_of(sub, r);
            let mut e = Map::new();
            e.insert("name".into(), format!("{}/{}", r.plural, sub.name).into());
            e.insert("singularName".into(), "".into());
            e.insert("namespaced".into(), r.namespaced.into());
            if !g.is_empty() {
                e.insert("group".into(), g.into());
                e.insert("version".into(), v.into());
            }
            e.insert("kind".into(), k.into());
            e.insert("verbs".into(), json!(sub.verbs));
            list.push(Value::Object(e));
        }
    }
    let mut out = Map::new();
    out.insert("kind".into(), "APIResourceList".into());
    if !group.is_empty() {
        out.insert("apiVersion".into(), "v1".into());
    }
    out.insert(
        "groupVersion".into(),
        crate::catalog::api_version(group, name).into(),
    );
    out.insert("resources".into(), Value::Array(list));
    Value::Object(out)
}

fn aggregated(catalog: &Catalog, core: bool, api: &str) -> Value {
    let mut items = Vec::new();
    for group in catalog.groups.iter().filter(|g| g.name.is_empty() == core) {
        let versions: Vec<Value> = group
            .versions
            .iter()
            .map(|v| {
                let resources: Vec<Value> = v.resources.iter().map(|r| aggregated_resource(r)).collect();
                let mut e = Map::new();
                e.insert("version".into(), v.version.clone().into());
                e.insert("resources".into(), Value::Array(resources));
                e.insert("freshness".into(), "Current".into());
                Value::Object(e)
            })
            .collect();
        let metadata = if core {
            json!({})
        } else {
            json!({"name": group.name})
        };
        items.push(json!({"metadata": metadata, "versions": versions}));
    }
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{api}"), "metadata": {}, "items": items})
}

fn aggregated_resource(r: &Resource) -> Value {
    let kind = |g: &str, v: &str, k: &str| json!({"group": g, "version": v, "kind": k});
    let mut e = Map::new();
    e.insert("resource".into(), r.plural.clone().into());
    let own = if r.custom() {
        kind(&r.group, &r.version, &r.kind)
    } else {
        kind("", "", &r.kind)
    };
    e.insert("responseKind".into(), own.clone());
    e.insert(
        "scope".into(),
        if r.namespaced { "Namespaced" } else { "Cluster" }.into(),
    );
    e.insert("singularResource".into(), r.singular.clone().into());
    e.insert("verbs".into(), json!(r.verbs));
    if !r.short_names.is_empty() {
        e.insert("shortNames".into(), json!(r.short_names));
    }
    if !r.categories.is_empty() {
        e.insert("categories".into(), json!(r.categories));
    }
    if !r.subresources.is_empty() {
        let subs: Vec<Value> = r
            .subresources
            .iter()
            .map(|s| {
                let response = match s.kind {
                    Some((g, v, k)) => kind(g, v, k),
                    None => own.clone(),
                };
                json!({"subresource": s.name, "responseKind": response, "verbs": s.verbs})
            })
            .collect();
        e.insert("subresources".into(), Value::Array(subs));
    }
    Value::Object(e)
}
