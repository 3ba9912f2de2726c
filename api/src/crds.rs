//! The custom resource definitions, as an API server takes them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use crate::mcs::{MCS_GROUP, ServiceExport, ServiceImport};
use crate::names::GROUP;
use crate::records::{Cluster, ExportedService, Gateway, JoinRequest, Member};

/// Labels that upstream puts on the definitions of the Multi-Cluster Services API, so that installers do
/// not replace a newer one by an older.
const MCS_LABELS: [(&str, &str); 2] = [
    ("multicluster.x-k8s.io/crd-schema-revision", "0"),
    ("multicluster.x-k8s.io/release-version", "v0.5.0"),
];

/// Every definition that Strait needs, ready to apply.
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut all = vec![
        Cluster::crd(),
        ExportedService::crd(),
        Gateway::crd(),
        JoinRequest::crd(),
        Member::crd(),
        ServiceExport::crd(),
        ServiceImport::crd(),
    ];
    for crd in &mut all {
        finish(crd);
        if crd.spec.group == MCS_GROUP {
            as_upstream(crd);
        }
    }
    all
}

fn finish(crd: &mut CustomResourceDefinition) {
    for version in &mut crd.spec.versions {
        let Some(schema) = version
            .schema
            .as_mut()
            .and_then(|s| s.open_api_v3_schema.as_mut())
        else {
            continue;
        };
        crate::schema::tidy(schema);
        let properties = schema.properties.get_or_insert_default();
        // The derive's own text says nothing to a reader of `kubectl explain`; the spec's says what it is.
        schema.description = properties.get("spec").and_then(|spec| spec.description.clone());
        for (name, text) in [
            ("apiVersion", "Group and version of the object."),
            ("kind", "Kind of the object."),
        ] {
            let field = properties.entry(name.to_owned()).or_default();
            field.type_ = Some("string".to_owned());
            field.description = Some(text.to_owned());
        }
        properties.entry("metadata".to_owned()).or_default().type_ = Some("object".to_owned());
    }
    let labels = crd.metadata.labels.get_or_insert_default();
    labels.insert("app.kubernetes.io/part-of".to_owned(), "strait".to_owned());
}

/// v1alpha1 served beside the stored v1beta1, with one schema (CoreDNS still reads v1alpha1), and a spec that
/// may be left out.
fn as_upstream(crd: &mut CustomResourceDefinition) {
    for version in &mut crd.spec.versions {
        if let Some(schema) = version
            .schema
            .as_mut()
            .and_then(|s| s.open_api_v3_schema.as_mut())
        {
            schema.required = None;
        }
    }
    if let Some(mut alpha) = crd.spec.versions.first().cloned() {
        alpha.name = "v1alpha1".to_owned();
        alpha.storage = false;
        crd.spec.versions.insert(0, alpha);
    }
    let labels = crd.metadata.labels.get_or_insert_default();
    for (name, value) in MCS_LABELS {
        labels.insert(name.to_owned(), value.to_owned());
    }
}

/// Name of a definition's file in deploy/crds.
pub fn file_name(crd: &CustomResourceDefinition) -> String {
    let (group, plural) = (&crd.spec.group, &crd.spec.names.plural);
    debug_assert!(group == GROUP || group == MCS_GROUP);
    format!("{group}_{plural}.yaml")
}

/// A definition as YAML, with the header that says where it comes from.
pub fn to_yaml(crd: &CustomResourceDefinition) -> Result<String, CrdError> {
    let mut value = serde_json::to_value(crd)?;
    whole_numbers(&mut value);
    let text = serde_saphyr::to_string(&value).map_err(|e| CrdError::Yaml(e.to_string()))?;
    Ok(format!(
        "# Made from the types in api/ by `cargo run -p strait-api --features kube --bin strait-crds`.\n{text}"
    ))
}

/// Why a definition could not be written.
#[derive(Debug, thiserror::Error)]
pub enum CrdError {
    /// Not JSON.
    #[error("a custom resource definition does not turn into JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Not YAML.
    #[error("a custom resource definition does not turn into YAML: {0}")]
    Yaml(String),
}

/// Bounds are floating point in the API's type; as text `65535` reads better than `65535.0`.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(n) => {
            if let Some(f) = n
                .as_f64()
                .filter(|f| n.is_f64() && f.fract() == 0.0 && f.abs() < 9e15)
            {
                *value = Value::from(f as i64);
            }
        }
        Value::Array(all) => all.iter_mut().for_each(whole_numbers),
        Value::Object(all) => all.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

/// What of a definition other programs rely on, one line for each place in it, sorted: names, labels,
/// columns, and of the schema every path with its type and bounds. Texts for people are left out.
///
/// Two definitions with the same digest take and give the same objects.
pub fn digest(crd: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    let name = crd["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if let Some(labels) = crd["metadata"]["labels"].as_object() {
        for (key, value) in labels.iter().filter(|(k, _)| k.starts_with(MCS_GROUP)) {
            lines.push(format!("{name} label {key}={value}"));
        }
    }
    let spec = &crd["spec"];
    lines.push(format!("{name} group={} scope={}", spec["group"], spec["scope"]));
    lines.push(format!("{name} names {}", sorted(&spec["names"])));
    for version in spec["versions"].as_array().into_iter().flatten() {
        let at = format!("{name} {}", version["name"].as_str().unwrap_or_default());
        lines.push(format!(
            "{at} served={} storage={} subresources={}",
            version["served"], version["storage"], version["subresources"]
        ));
        for (i, column) in version["additionalPrinterColumns"]
            .as_array()
            .into_iter()
            .flatten()
            .enumerate()
        {
            lines.push(format!(
                "{at} column {i} {} {} {}",
                column["name"], column["type"], column["jsonPath"]
            ));
        }
        digest_schema(&at, ".", &version["schema"]["openAPIV3Schema"], &mut lines);
    }
    lines.sort();
    lines
}

fn digest_schema(at: &str, path: &str, schema: &Value, lines: &mut Vec<String>) {
    let Some(fields) = schema.as_object() else { return };
    let mut facts: Vec<String> = Vec::new();
    for (key, value) in fields {
        match key.as_str() {
            "description" | "title" => {}
            "properties" => {
                for (name, below) in value.as_object().into_iter().flatten() {
                    let path = format!("{}.{name}", path.trim_end_matches('.'));
                    digest_schema(at, &path, below, lines);
                }
            }
            "items" => digest_schema(at, &format!("{path}[]"), value, lines),
            "additionalProperties" => digest_schema(at, &format!("{path}{{}}"), value, lines),
            _ => facts.push(format!("{key}={}", sorted(value))),
        }
    }
    facts.sort();
    lines.push(format!("{at} {path} {}", facts.join(" ")));
}

/// As JSON text that does not depend on the order of keys, nor on the order of lists that are sets.
fn sorted(value: &Value) -> String {
    match value {
        Value::Array(all) => {
            let mut all: Vec<String> = all.iter().map(sorted).collect();
            all.sort();
            format!("[{}]", all.join(","))
        }
        Value::Object(all) => {
            let mut all: Vec<String> = all.iter().map(|(k, v)| format!("{k}:{}", sorted(v))).collect();
            all.sort();
            format!("{{{}}}", all.join(","))
        }
        Value::Number(n) => match n.as_f64() {
            Some(f) => f.to_string(),
            None => n.to_string(),
        },
        other => other.to_string(),
    }
}
