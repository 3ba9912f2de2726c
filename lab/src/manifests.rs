//! The manifests of deploy/base, as the lab runs them: the same objects, arguments, environment, volumes and
//! roles as on a real cluster.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Container, PodSpec, PodTemplateSpec};
use serde_json::Value;

/// In the order in which they are applied.
const FILES: [(&str, &str); 5] = [
    ("namespace.yaml", include_str!("../../deploy/base/namespace.yaml")),
    ("gateway.yaml", include_str!("../../deploy/base/gateway.yaml")),
    (
        "route-agent.yaml",
        include_str!("../../deploy/base/route-agent.yaml"),
    ),
    ("agent.yaml", include_str!("../../deploy/base/agent.yaml")),
    ("dns.yaml", include_str!("../../deploy/base/dns.yaml")),
];

/// Kinds that mean nothing in a lab, and that its API server does not serve.
const WITHOUT_MEANING: [&str; 2] = ["PodDisruptionBudget", "ResourceQuota"];

/// What is applied, and what of it runs.
#[derive(Debug)]
pub(crate) struct Manifests {
    /// Objects for the API server, in order.
    pub(crate) objects: Vec<Value>,
    /// Workloads among them.
    pub(crate) workloads: Vec<Workload>,
}

/// A DaemonSet or Deployment.
#[derive(Debug, Clone)]
pub(crate) struct Workload {
    pub(crate) name: String,
    pub(crate) namespace: String,
    /// Whether it runs on every node that fits.
    pub(crate) everywhere: bool,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) pod: PodSpec,
    pub(crate) container: Container,
}

impl Manifests {
    /// Reads the manifests.
    pub(crate) fn load() -> Result<Self> {
        let mut manifests = Self {
            objects: Vec::new(),
            workloads: Vec::new(),
        };
        for (file, text) in FILES {
            let objects: Vec<Value> = serde_saphyr::from_multiple(text)
                .with_context(|| format!("deploy/base/{file} is not YAML"))?;
            for object in objects {
                manifests
                    .add(object)
                    .with_context(|| format!("deploy/base/{file}"))?;
            }
        }
        Ok(manifests)
    }

    fn add(&mut self, object: Value) -> Result<()> {
        let kind = object["kind"].as_str().unwrap_or_default();
        match kind {
            kind if WITHOUT_MEANING.contains(&kind) => return Ok(()),
            "DaemonSet" => {
                let set: DaemonSet = serde_json::from_value(object.clone())?;
                let spec = set.spec.context("a DaemonSet has no spec")?;
                self.workloads.push(workload(&set.metadata, spec.template, true)?);
            }
            "Deployment" => {
                let deployment: Deployment = serde_json::from_value(object.clone())?;
                let spec = deployment.spec.context("a Deployment has no spec")?;
                self.workloads
                    .push(workload(&deployment.metadata, spec.template, false)?);
            }
            _ => {}
        }
        self.objects.push(object);
        Ok(())
    }
}

fn workload(
    metadata: &kube::core::ObjectMeta,
    template: PodTemplateSpec,
    everywhere: bool,
) -> Result<Workload> {
    let name = metadata.name.clone().context("a workload has no name")?;
    let pod = template.spec.with_context(|| format!("{name} has no pod spec"))?;
    let [container] = pod.containers.as_slice() else {
        bail!("{name} has {} containers; the lab runs one", pod.containers.len());
    };
    Ok(Workload {
        namespace: metadata
            .namespace
            .clone()
            .with_context(|| format!("{name} has no namespace"))?,
        everywhere,
        labels: template.metadata.and_then(|m| m.labels).unwrap_or_default(),
        container: container.clone(),
        pod: pod.clone(),
        name,
    })
}

impl Workload {
    /// Whether it may run on a node with these labels.
    pub(crate) fn fits(&self, labels: &BTreeMap<String, String>) -> bool {
        self.pod
            .node_selector
            .iter()
            .flatten()
            .all(|(k, v)| labels.get(k) == Some(v))
    }

    /// Whether it works on the node's own network.
    pub(crate) fn host_network(&self) -> bool {
        self.pod.host_network == Some(true)
    }

    /// Its ServiceAccount.
    pub(crate) fn service_account(&self) -> &str {
        self.pod.service_account_name.as_deref().unwrap_or("default")
    }

    /// The container's environment in a pod.
    pub(crate) fn environment(&self, pod: &PodFields) -> Result<BTreeMap<String, String>> {
        let mut environment = BTreeMap::new();
        for var in self.container.env.iter().flatten() {
            let value = match (
                &var.value,
                var.value_from.as_ref().and_then(|v| v.field_ref.as_ref()),
            ) {
                (Some(value), _) => value.clone(),
                (None, Some(field)) => pod.field(&field.field_path)?,
                (None, None) => bail!("{}: the lab cannot fill the variable {}", self.name, var.name),
            };
            environment.insert(var.name.clone(), value);
        }
        Ok(environment)
    }
}

/// What the downward API tells of a pod.
#[derive(Debug, Clone)]
pub(crate) struct PodFields {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) node: String,
    pub(crate) pod_ip: String,
    pub(crate) host_ip: String,
}

impl PodFields {
    fn field(&self, path: &str) -> Result<String> {
        Ok(match path {
            "metadata.name" => &self.name,
            "metadata.namespace" => &self.namespace,
            "spec.nodeName" => &self.node,
            "status.podIP" => &self.pod_ip,
            "status.hostIP" => &self.host_ip,
            _ => bail!("the lab does not know a pod's {path}"),
        }
        .clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lab_runs_what_the_manifests_say() {
        let manifests = Manifests::load().unwrap();
        let names: Vec<(&str, bool)> = manifests
            .workloads
            .iter()
            .map(|w| (w.name.as_str(), w.everywhere))
            .collect();
        assert_eq!(
            names,
            [
                ("strait-gateway", true),
                ("strait-route-agent", true),
                ("strait-agent", false),
                ("strait-dns", false)
            ]
        );
        let worker = BTreeMap::from([("kubernetes.io/os".to_owned(), "linux".to_owned())]);
        let gateway = &manifests.workloads[0];
        assert!(!gateway.fits(&worker), "a gateway on a worker");
        let mut labels = worker;
        labels.insert(
            strait_api::names::LABEL_GATEWAY_NODE.to_owned(),
            "true".to_owned(),
        );
        assert!(gateway.fits(&labels));
        let fields = PodFields {
            name: "p".into(),
            namespace: "n".into(),
            node: "gateway-1".into(),
            pod_ip: "10.1.1.1".into(),
            host_ip: "172.31.1.11".into(),
        };
        let environment = gateway.environment(&fields).unwrap();
        assert_eq!(environment["NODE_NAME"], "gateway-1");
        assert!(environment["STRAIT_PROBE_SOCKET"].ends_with(".sock"));
    }

    #[test]
    fn a_variable_that_the_lab_cannot_fill_is_named() {
        let mut workload = Manifests::load().unwrap().workloads.remove(0);
        workload.container.env = Some(vec![k8s_openapi::api::core::v1::EnvVar {
            name: "SECRET_THING".into(),
            ..Default::default()
        }]);
        let fields = PodFields {
            name: String::new(),
            namespace: String::new(),
            node: String::new(),
            pod_ip: String::new(),
            host_ip: String::new(),
        };
        let error = workload.environment(&fields).unwrap_err().to_string();
        assert!(error.contains("SECRET_THING"), "{error}");
    }
}
