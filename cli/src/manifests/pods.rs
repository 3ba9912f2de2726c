//! What the pods are made of, and what leads to them.

use std::collections::{BTreeMap, BTreeSet};

use clap::Parser as _;
use k8s_openapi::api::core::v1::Service;
use serde_json::Value;

use super::{BASES, deploy, documents, everything, name, only_container, workloads};
use crate::command::{Cli, Command};

#[test]
fn pods_are_found_and_have_what_they_mount() {
    let all = everything();
    let exists = |wanted: &str| all.iter().any(|(_, o)| name(o) == wanted);
    for (base, workload, template, selector) in workloads() {
        let labels = template.metadata.as_ref().unwrap().labels.clone().unwrap();
        assert!(
            selector.iter().all(|(k, v)| labels.get(k) == Some(v)),
            "{workload}: selector"
        );
        let spec = template.spec.as_ref().unwrap();
        let namespace = if base == "base" {
            "strait-system"
        } else {
            "strait-broker"
        };
        let account = spec.service_account_name.as_deref().unwrap();
        assert!(
            exists(&format!("ServiceAccount {namespace}/{account}")),
            "{workload}: {account}"
        );

        let container = only_container(&template);
        assert_eq!(
            container.image.as_deref(),
            Some("strait"),
            "{workload}: kustomize names the image"
        );
        let volumes: BTreeSet<&str> = spec
            .volumes
            .iter()
            .flatten()
            .map(|volume| volume.name.as_str())
            .collect();
        let mounts: BTreeMap<&str, &str> = container
            .volume_mounts
            .iter()
            .flatten()
            .map(|m| (m.name.as_str(), m.mount_path.as_str()))
            .collect();
        assert_eq!(
            mounts.keys().copied().collect::<BTreeSet<_>>(),
            volumes,
            "{workload}: mounts"
        );
        let on_host: BTreeMap<&str, &str> = spec
            .volumes
            .iter()
            .flatten()
            .filter_map(|v| Some((v.name.as_str(), v.host_path.as_ref()?.path.as_str())))
            .collect();
        for (volume, path) in &on_host {
            assert_eq!(
                mounts[volume], *path,
                "{workload}: {volume} is the same inside and outside"
            );
        }
        assert!(
            base == "broker" || mounts.values().any(|path| *path == "/var/lib/strait"),
            "{workload}: the root is read-only, and a member's daemons keep what they saw"
        );
        let host_network = spec.host_network == Some(true);
        assert_eq!(
            host_network,
            !on_host.is_empty(),
            "{workload}: node daemons keep their state on the node"
        );
        if host_network {
            assert_eq!(
                container.ports, None,
                "{workload}: a declared port keeps a successor off the node"
            );
        } else {
            let security = container.security_context.as_ref().unwrap();
            assert_eq!(security.privileged, None, "{workload}");
            assert_eq!(
                spec.security_context.as_ref().unwrap().run_as_non_root,
                Some(true),
                "{workload}"
            );
        }
    }
}

#[test]
fn services_lead_to_ports_of_their_pods() {
    let services: Vec<Service> = everything()
        .into_iter()
        .filter(|(_, o)| o["kind"] == "Service")
        .map(|(_, o)| serde_json::from_value(o).unwrap())
        .collect();
    assert!(!services.is_empty());
    for service in services {
        let spec = service.spec.unwrap();
        let selector = spec.selector.unwrap();
        let (_, workload, template, _) = workloads()
            .into_iter()
            .find(|(_, _, _, labels)| *labels == selector)
            .unwrap_or_else(|| panic!("no pod for {selector:?}"));
        let ports = only_container(&template).ports.clone().unwrap();
        for port in spec.ports.unwrap() {
            let target = serde_json::to_value(port.target_port.unwrap()).unwrap();
            let found = ports
                .iter()
                .find(|p| p.name.as_deref() == target.as_str())
                .unwrap();
            let protocol = |p: Option<&str>| p.unwrap_or("TCP").to_owned();
            assert_eq!(
                protocol(found.protocol.as_deref()),
                protocol(port.protocol.as_deref()),
                "{workload}"
            );
        }
    }
}

#[test]
fn images_are_those_that_strait_image_writes() {
    for base in BASES {
        let [kustomization] =
            <[Value; 1]>::try_from(documents(&deploy().join(base).join("kustomization.yaml"))).unwrap();
        let image = &kustomization["images"][0];
        assert_eq!(image["name"], "strait", "{base}");
        let tag = format!(
            "{}:{}",
            image["newName"].as_str().unwrap(),
            image["newTag"].as_str().unwrap()
        );
        let cli = Cli::try_parse_from(["strait", "image", "--output", "x"]).unwrap();
        let Command::Image(args) = cli.command else {
            panic!("not strait image")
        };
        assert_eq!(args.tag, tag, "{base}");
    }
}
