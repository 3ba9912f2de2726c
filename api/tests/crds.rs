//! The definitions in deploy/crds are those of the types, a Kubernetes API server would take them, and the
//! Multi-Cluster Services API's equal upstream's.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};
use strait_api::crds::{crds, digest, file_name, to_yaml};
use strait_api::mcs::{MCS_GROUP, ServiceExport, ServiceImport};

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/crds")
}

fn yaml_files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".yaml") && name != "kustomization.yaml")
        .collect();
    names.sort();
    names
}

#[test]
fn files_are_those_of_the_types() {
    let mut names: Vec<String> = crds().iter().map(file_name).collect();
    names.sort();
    assert_eq!(yaml_files(&dir()), names, "files in deploy/crds and definitions");
    for crd in crds() {
        let file = dir().join(file_name(&crd));
        let found = std::fs::read_to_string(&file).unwrap();
        assert_eq!(
            found,
            to_yaml(&crd).unwrap(),
            "{} is stale: run `cargo run -p strait-api --features kube --bin strait-crds -- deploy/crds`",
            file.display()
        );
        let read: CustomResourceDefinition = serde_saphyr::from_str(&found).unwrap();
        assert_eq!(read, crd, "{} reads back as something else", file.display());
    }
}

/// The rules of structural schemas that the API server enforces, as far as our schemas come near them.
fn structural(at: &str, schema: &Value, wrong: &mut Vec<String>) {
    const KNOWN: &[&str] = &[
        "description",
        "type",
        "format",
        "properties",
        "required",
        "items",
        "additionalProperties",
        "enum",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "maxItems",
        "pattern",
        "x-kubernetes-list-type",
        "x-kubernetes-list-map-keys",
    ];
    let fields = schema.as_object().unwrap();
    let mut say = |what: String| wrong.push(format!("{at}: {what}"));
    for key in fields.keys().filter(|k| !KNOWN.contains(&k.as_str())) {
        say(format!("keyword {key}"));
    }
    let kind = fields.get("type").and_then(Value::as_str).unwrap_or("");
    match kind {
        "object" => {
            if fields.contains_key("properties") && fields.contains_key("additionalProperties") {
                say("both properties and additionalProperties".to_owned());
            }
        }
        "array" => {
            if !fields.contains_key("items") {
                say("array without items".to_owned());
            }
        }
        "integer" => {
            if !matches!(
                fields.get("format").and_then(Value::as_str),
                Some("int32" | "int64")
            ) {
                say(format!("integer format {:?}", fields.get("format")));
            }
        }
        "string" | "boolean" => {}
        other => say(format!("type {other:?}")),
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        if schema["properties"].get(name.as_str().unwrap()).is_none() {
            say(format!("required {name} is no property"));
        }
    }
    for key in schema["x-kubernetes-list-map-keys"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let required = schema["items"]["required"].as_array().into_iter().flatten();
        if !required.into_iter().any(|r| r == key) {
            say(format!("list key {key} is not required"));
        }
    }
    for (name, below) in schema["properties"].as_object().into_iter().flatten() {
        structural(&format!("{at}.{name}"), below, wrong);
    }
    for below in ["items", "additionalProperties"] {
        if let Some(schema) = fields.get(below) {
            structural(&format!("{at}/{below}"), schema, wrong);
        }
    }
}

#[test]
fn schemas_are_structural() {
    let mut wrong = Vec::new();
    for crd in crds() {
        let name = crd.metadata.name.clone().unwrap();
        let value = serde_json::to_value(&crd).unwrap();
        let versions = value["spec"]["versions"].as_array().unwrap();
        assert_eq!(
            versions.iter().filter(|v| v["storage"] == json!(true)).count(),
            1,
            "{name}: exactly one stored version"
        );
        for version in versions {
            structural(&name, &version["schema"]["openAPIV3Schema"], &mut wrong);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn multi_cluster_services_equal_upstream() {
    let file = dir().join("mcs-upstream.digest");
    let upstream = std::fs::read_to_string(&file).unwrap();
    let upstream: Vec<&str> = upstream.lines().filter(|l| !l.starts_with('#')).collect();
    assert!(
        upstream.len() > 100,
        "{} holds {} lines",
        file.display(),
        upstream.len()
    );

    let mut ours = Vec::new();
    for crd in crds().iter().filter(|c| c.spec.group == MCS_GROUP) {
        ours.extend(digest(&serde_json::to_value(crd).unwrap()));
    }
    let added: Vec<&str> = ours
        .iter()
        .map(String::as_str)
        .filter(|l| l.contains(" .status.endpointSliceObjects "))
        .collect();
    assert_eq!(
        added,
        ["v1alpha1", "v1beta1"].map(|v| format!(
            "serviceimports.multicluster.x-k8s.io {v} .status.endpointSliceObjects \
             enum=[\"Absent\",\"Present\"] type=\"string\""
        ))
    );
    let missing: Vec<_> = upstream
        .iter()
        .filter(|l| !ours.iter().any(|o| o == *l))
        .collect();
    let extra: Vec<_> = ours
        .iter()
        .filter(|l| !upstream.contains(&l.as_str()) && !added.contains(&l.as_str()))
        .collect();
    assert!(
        missing.is_empty() && extra.is_empty(),
        "only upstream: {missing:#?}\nonly here: {extra:#?}"
    );
}

#[test]
fn exports_as_people_write_them_are_read() {
    let bare: ServiceExport = serde_json::from_value(json!({
        "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport",
        "metadata": { "name": "web", "namespace": "demo" },
    }))
    .unwrap();
    assert_eq!(bare.spec.exported_labels, None);

    let labelled: ServiceExport = serde_json::from_value(json!({
        "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport",
        "metadata": { "name": "web", "namespace": "demo" },
        "spec": { "exportedLabels": { "team": "red" } },
    }))
    .unwrap();
    assert_eq!(labelled.spec.exported_labels.unwrap()["team"], "red");
    assert_eq!(
        serde_json::to_value(&bare.spec).unwrap(),
        json!({}),
        "nothing is written that was not there"
    );
}

#[test]
fn imports_use_upstreams_field_names() {
    let import = json!({
        "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceImport",
        "metadata": { "name": "web", "namespace": "demo" },
        "spec": {
            "type": "ClusterSetIP",
            "ports": [{ "name": "http", "protocol": "TCP", "port": 80, "appProtocol": "http" }],
            "ips": ["10.9.0.1", "fd00::1"],
            "ipFamilies": ["IPv4", "IPv6"],
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 60 } },
            "internalTrafficPolicy": "Cluster",
            "trafficDistribution": "PreferClose",
        },
        "status": { "clusters": [{ "cluster": "blue" }], "endpointSliceObjects": "Present" },
    });
    let read: ServiceImport = serde_json::from_value(import.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), import);

    let short: ServiceImport = serde_json::from_value(json!({
        "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceImport",
        "metadata": { "name": "web" },
        "spec": { "type": "Headless", "ports": [{ "port": 53 }] },
    }))
    .unwrap();
    assert_eq!(short.spec.ports[0].protocol, "TCP");
}
