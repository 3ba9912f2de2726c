//! The manifests in deploy/ against the program: objects are what their types say, references meet, and the
//! containers' arguments and environment are those that the roles take.

mod arguments;
mod objects;
mod pods;
mod roles;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Container, PodTemplateSpec};
use serde_json::Value;

/// The bases that users apply.
const BASES: [&str; 2] = ["base", "broker"];

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn documents(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    serde_saphyr::from_multiple(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

/// All objects of a base, as kustomize gathers them; every file of the folder must be named.
fn objects(base: &Path) -> Vec<Value> {
    let [kustomization] = <[Value; 1]>::try_from(documents(&base.join("kustomization.yaml"))).unwrap();
    let listed: BTreeSet<&str> = kustomization["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r.as_str().unwrap())
        .collect();
    for entry in std::fs::read_dir(base).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            !name.ends_with(".yaml") || name == "kustomization.yaml" || listed.contains(name.as_str()),
            "{name} is not in {}'s kustomization",
            base.display()
        );
    }
    let mut all = Vec::new();
    for resource in listed {
        let path = base.join(resource);
        all.extend(if path.is_dir() {
            objects(&path)
        } else {
            documents(&path)
        });
    }
    all
}

fn everything() -> Vec<(&'static str, Value)> {
    BASES
        .iter()
        .flat_map(|base| objects(&deploy().join(base)).into_iter().map(move |o| (*base, o)))
        .collect()
}

fn name(object: &Value) -> String {
    let meta = &object["metadata"];
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    format!(
        "{} {}/{}",
        text(&object["kind"]),
        text(&meta["namespace"]),
        text(&meta["name"])
    )
}

/// Every pod that the manifests start: base, workload's name, template, selector.
fn workloads() -> Vec<(&'static str, String, PodTemplateSpec, BTreeMap<String, String>)> {
    let mut found = Vec::new();
    for (base, object) in everything() {
        let (template, selector) = match object["kind"].as_str() {
            Some("DaemonSet") => {
                let spec = serde_json::from_value::<DaemonSet>(object.clone())
                    .unwrap()
                    .spec
                    .unwrap();
                (spec.template, spec.selector)
            }
            Some("Deployment") => {
                let spec = serde_json::from_value::<Deployment>(object.clone())
                    .unwrap()
                    .spec
                    .unwrap();
                (spec.template, spec.selector)
            }
            _ => continue,
        };
        found.push((base, name(&object), template, selector.match_labels.unwrap()));
    }
    assert_eq!(found.len(), 5, "gateway, route-agent, agent, dns, broker");
    found
}

fn only_container(template: &PodTemplateSpec) -> &Container {
    let spec = template.spec.as_ref().unwrap();
    let [container] = spec.containers.as_slice() else {
        panic!("one container a pod")
    };
    container
}
