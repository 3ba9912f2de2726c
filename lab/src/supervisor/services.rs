//! What kube-controller-manager does and kube-proxy do for Services: EndpointSlices from pods, and a data path
//! for cluster IPs.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt as _};
use strait_api::names::{LABEL_SERVICE_NAME, LABEL_SLICE_MANAGED_BY};
use strait_core::kernel::Protocol;
use strait_daemon::{Inputs, Shutdown};
use tokio::sync::watch;

use super::Lab;
use crate::firewall::{self, Forwardings};
use crate::names::Names;
use crate::objects::FIELD_MANAGER;

/// Who manages the slices, in the words of the real controller: kubectl and Strait expect them.
const MANAGED_BY: &str = "endpointslice-controller.k8s.io";
/// Changes that come together are answered together.
const CALM: Duration = Duration::from_millis(5);

/// Keeps the Services of a cluster until the lab ends, and tells their names to its DNS server.
pub(super) async fn keep(lab: Arc<Lab>, cluster: String, client: Client, names: watch::Sender<Arc<Names>>) {
    let mut inputs = Inputs::new(None, Shutdown::default());
    let services = inputs.watch_all::<Service>(&client, watcher::Config::default());
    let pods = inputs.watch_all::<Pod>(&client, watcher::Config::default());
    let retry = inputs.waker();
    let mut written: BTreeMap<(String, String), EndpointSlice> = BTreeMap::new();
    let mut forwarded: Option<Forwardings> = None;
    services.live().await;
    pods.live().await;
    loop {
        let (services, pods) = (services.all(), pods.all());
        let slices = wanted(&services, &pods);
        let forwardings = forwardings(&services, &slices);
        let now = Arc::new(super::dns::names(&services, slices.values()));
        names.send_if_modified(|names| std::mem::replace(names, Arc::clone(&now)) != now);
        let done = async {
            if forwarded.as_ref() != Some(&forwardings) {
                forward(&lab, &cluster, &forwardings).await?;
                forwarded = Some(forwardings);
            }
            write(&client, &mut written, slices).await
        };
        if let Err(error) = done.await {
            tracing::warn!("Services of {cluster}: {error:#}; tried again");
            let retry = retry.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(500)).await;
                retry.wake();
            });
        }
        inputs.changed(CALM).await;
    }
}

/// The slices that should be.
fn wanted(services: &[Arc<Service>], pods: &[Arc<Pod>]) -> BTreeMap<(String, String), EndpointSlice> {
    let mut slices = BTreeMap::new();
    for service in services {
        let Some(spec) = &service.spec else { continue };
        let Some(selector) = spec.selector.as_ref().filter(|s| !s.is_empty()) else {
            continue;
        };
        let namespace = service.namespace().unwrap_or_default();
        let chosen: Vec<&Arc<Pod>> = pods
            .iter()
            .filter(|p| p.namespace().as_deref() == Some(&namespace))
            .filter(|p| selector.iter().all(|(k, v)| p.labels().get(k) == Some(v)))
            .collect();
        for family in spec.ip_families.iter().flatten() {
            let slice = slice(service, &spec.ports.clone().unwrap_or_default(), family, &chosen);
            slices.insert((namespace.clone(), slice.name_any()), slice);
        }
    }
    slices
}

fn slice(service: &Service, ports: &[ServicePort], family: &str, pods: &[&Arc<Pod>]) -> EndpointSlice {
    let mut endpoints: Vec<Endpoint> = pods.iter().filter_map(|pod| endpoint(pod, family)).collect();
    endpoints.sort_by(|a, b| a.addresses.cmp(&b.addresses));
    let ports = ports
        .iter()
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(target_port(port, pods)?),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    let name = service.name_any();
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{}", family.to_ascii_lowercase())),
            namespace: service.namespace(),
            labels: Some(BTreeMap::from([
                (LABEL_SERVICE_NAME.to_owned(), name.clone()),
                (LABEL_SLICE_MANAGED_BY.to_owned(), MANAGED_BY.to_owned()),
            ])),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Service".to_owned(),
                uid: service.uid().unwrap_or_default(),
                name,
                controller: Some(true),
                block_owner_deletion: Some(true),
            }]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints,
        ports: Some(ports),
    }
}

/// A number, or the name of a container's port.
fn target_port(port: &ServicePort, pods: &[&Arc<Pod>]) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => pods
            .iter()
            .flat_map(|p| p.spec.iter().flat_map(|s| &s.containers))
            .flat_map(|c| c.ports.iter().flatten())
            .find(|p| p.name.as_deref() == Some(name))
            .map(|p| p.container_port),
    }
}

fn endpoint(pod: &Pod, family: &str) -> Option<Endpoint> {
    let status = pod.status.as_ref()?;
    let is_of = |ip: &IpAddr| ip.is_ipv4() == (family == "IPv4");
    let ips = status.pod_ips.iter().flatten().map(|p| p.ip.as_str());
    let address = ips.filter_map(|ip| ip.parse().ok()).find(is_of)?;
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let ready = status
        .conditions
        .iter()
        .flatten()
        .any(|c| c.type_ == "Ready" && c.status == "True");
    Some(Endpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(ready && !terminating),
            serving: Some(ready),
            terminating: Some(terminating),
        }),
        node_name: pod.spec.as_ref().and_then(|s| s.node_name.clone()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.namespace(),
            name: Some(pod.name_any()),
            uid: pod.uid(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    })
}

/// Where connections to cluster IPs go.
fn forwardings(services: &[Arc<Service>], slices: &BTreeMap<(String, String), EndpointSlice>) -> Forwardings {
    let mut all = Forwardings::new();
    for service in services {
        let Some(spec) = &service.spec else { continue };
        let namespace = service.namespace().unwrap_or_default();
        let ips = spec
            .cluster_ips
            .iter()
            .flatten()
            .filter_map(|ip| ip.parse::<IpAddr>().ok());
        for ip in ips {
            let family = if ip.is_ipv4() { "ipv4" } else { "ipv6" };
            let key = (namespace.clone(), format!("{}-{family}", service.name_any()));
            let Some(slice) = slices.get(&key) else { continue };
            for port in spec.ports.iter().flatten() {
                let Some((service_port, protocol)) = port_of(port) else {
                    continue;
                };
                let named =
                    |p: &&EndpointPort| p.name.as_deref().unwrap_or("") == port.name.as_deref().unwrap_or("");
                let target = slice
                    .ports
                    .iter()
                    .flatten()
                    .find(named)
                    .and_then(|p| u16::try_from(p.port?).ok());
                let Some(target) = target else { continue };
                let ready = |e: &&Endpoint| e.conditions.as_ref().is_some_and(|c| c.ready == Some(true));
                let targets: Vec<SocketAddr> = slice
                    .endpoints
                    .iter()
                    .filter(ready)
                    .flat_map(|e| &e.addresses)
                    .filter_map(|a| Some(SocketAddr::new(a.parse().ok()?, target)))
                    .collect();
                if !targets.is_empty() {
                    all.insert((ip, protocol, service_port), targets);
                }
            }
        }
    }
    all
}

fn port_of(port: &ServicePort) -> Option<(u16, Protocol)> {
    let protocol = match port.protocol.as_deref() {
        None | Some("TCP") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        Some(_) => return None,
    };
    Some((u16::try_from(port.port).ok()?, protocol))
}

async fn forward(lab: &Arc<Lab>, cluster: &str, forwardings: &Forwardings) -> Result<()> {
    let nodes = lab
        .topology
        .cluster(cluster)
        .map(|c| c.nodes.as_slice())
        .unwrap_or_default();
    for node in nodes {
        let namespace = lab.network.node(cluster, &node.name)?.clone();
        let forwardings = forwardings.clone();
        tokio::task::spawn_blocking(move || firewall::services(&namespace, &forwardings))
            .await?
            .with_context(|| format!("cannot write the cluster IPs on {cluster}/{}", node.name))?;
    }
    Ok(())
}

/// Writes what differs from what was written, and deletes what is no longer wanted.
async fn write(
    client: &Client,
    written: &mut BTreeMap<(String, String), EndpointSlice>,
    wanted: BTreeMap<(String, String), EndpointSlice>,
) -> Result<()> {
    let api = |namespace: &str| Api::<EndpointSlice>::namespaced(client.clone(), namespace);
    for (key, slice) in &wanted {
        if written.get(key) == Some(slice) {
            continue;
        }
        let (namespace, name) = key;
        api(namespace)
            .patch(
                name,
                &PatchParams::apply(FIELD_MANAGER).force(),
                &Patch::Apply(slice),
            )
            .await
            .with_context(|| format!("cannot write the EndpointSlice {namespace}/{name}"))?;
        written.insert(key.clone(), slice.clone());
    }
    let gone: Vec<_> = written
        .keys()
        .filter(|k| !wanted.contains_key(*k))
        .cloned()
        .collect();
    for key in gone {
        match api(&key.0).delete(&key.1, &DeleteParams::default()).await {
            Ok(_) => {}
            // The garbage collector may have been first.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(e) => {
                return Err(e)
                    .with_context(|| format!("cannot delete the EndpointSlice {}/{}", key.0, key.1));
            }
        }
        written.remove(&key);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, ips: &[&str], ready: bool) -> Arc<Pod> {
        let status = if ready { "True" } else { "False" };
        Arc::new(
            serde_json::from_value(json!({
                "metadata": { "name": name, "namespace": "demo", "labels": { "app": "web" } },
                "spec": { "nodeName": "worker-1", "containers": [{ "name": "c",
                    "ports": [{ "name": "http", "containerPort": 8080 }] }] },
                "status": {
                    "podIPs": ips.iter().map(|ip| json!({ "ip": ip })).collect::<Vec<_>>(),
                    "conditions": [{ "type": "Ready", "status": status }],
                },
            }))
            .unwrap(),
        )
    }

    fn service(families: &[&str]) -> Arc<Service> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": { "name": "web", "namespace": "demo", "uid": "u" },
                "spec": { "selector": { "app": "web" }, "ipFamilies": families,
                    "ports": [{ "port": 80, "targetPort": "http" }] },
            }))
            .unwrap(),
        )
    }

    #[test]
    fn every_family_has_its_slice_and_only_ready_pods_are_ready() {
        let pods = [
            pod("b", &["10.1.2.11", "fd10::b"], false),
            pod("a", &["10.1.2.10", "fd10::a"], true),
        ];
        let slices = wanted(&[service(&["IPv4", "IPv6"])], &pods);
        let v4 = &slices[&("demo".to_owned(), "web-ipv4".to_owned())];
        assert_eq!(v4.address_type, "IPv4");
        assert_eq!(v4.ports.as_ref().unwrap()[0].port, Some(8080));
        let ready: Vec<(&str, Option<bool>)> = v4
            .endpoints
            .iter()
            .map(|e| (e.addresses[0].as_str(), e.conditions.as_ref().unwrap().ready))
            .collect();
        assert_eq!(ready, [("10.1.2.10", Some(true)), ("10.1.2.11", Some(false))]);
        let v6 = &slices[&("demo".to_owned(), "web-ipv6".to_owned())];
        assert_eq!(v6.endpoints[0].addresses, ["fd10::a"]);
    }

    #[test]
    fn connections_to_a_cluster_ip_go_to_ready_pods() {
        let mut service = (*service(&["IPv4"])).clone();
        service.spec.as_mut().unwrap().cluster_ips = Some(vec!["10.101.0.10".to_owned()]);
        let services = [Arc::new(service)];
        let pods = [pod("a", &["10.1.2.10"], true), pod("b", &["10.1.2.11"], false)];
        let all = forwardings(&services, &wanted(&services, &pods));
        let key = ("10.101.0.10".parse().unwrap(), Protocol::Tcp, 80);
        assert_eq!(
            all,
            BTreeMap::from([(key, vec!["10.1.2.10:8080".parse().unwrap()])])
        );
    }

    #[test]
    fn pods_of_other_namespaces_and_labels_are_not_endpoints() {
        let mut other = (*pod("a", &["10.1.2.10"], true)).clone();
        other.metadata.namespace = Some("else".to_owned());
        let mut unlike = (*pod("b", &["10.1.2.11"], true)).clone();
        unlike.metadata.labels = None;
        let slices = wanted(&[service(&["IPv4"])], &[Arc::new(other), Arc::new(unlike)]);
        assert!(slices.values().all(|s| s.endpoints.is_empty()), "{slices:?}");
    }
}
