//! From watched objects to the plain inputs of `strait_core::node`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher;
use kube::{Client, ResourceExt as _};
use strait_api::ClusterId;
use strait_api::mcs::ServiceImport;
use strait_api::names;
use strait_api::records::{ServiceType, SessionAffinity};
use strait_core::clusterset::{self, Records};
use strait_core::kernel::Protocol;
use strait_core::node::{Node, NodeInputs, Observed, Skipped, VipPort, VipService, VipSlice};
use strait_daemon::{ClustersetInputs, Inputs, Watched};

/// Everything that the route agent watches.
#[derive(Debug, Clone)]
pub(crate) struct Watches {
    nodes: Watched<k8s::Node>,
    clusterset: ClustersetInputs,
    imports: Watched<ServiceImport>,
    slices: Watched<EndpointSlice>,
}

/// The objects at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Objects {
    pub(crate) nodes: Vec<Arc<k8s::Node>>,
    pub(crate) records: Records,
    pub(crate) imports: Vec<Arc<ServiceImport>>,
    pub(crate) slices: Vec<Arc<EndpointSlice>>,
}

impl Watches {
    pub(crate) fn new(inputs: &mut Inputs, client: &Client, namespace: &str) -> Self {
        let ours = format!("{}={}", names::LABEL_SLICE_MANAGED_BY, names::MANAGED_BY);
        Self {
            nodes: inputs.watch_all(client, watcher::Config::default()),
            clusterset: ClustersetInputs::watch(inputs, client, namespace),
            imports: inputs.watch_all(client, watcher::Config::default()),
            slices: inputs.watch_all(client, watcher::Config::default().labels(&ours)),
        }
    }

    pub(crate) fn objects(&self) -> Objects {
        Objects {
            nodes: self.nodes.all(),
            records: self.clusterset.records(),
            imports: self.imports.all(),
            slices: self.slices.all(),
        }
    }
}

impl Objects {
    /// The inputs as they stand for a node, and what in the objects does not count.
    pub(crate) fn inputs(&self, node: &str) -> (NodeInputs, BTreeSet<Skipped>) {
        let mut skipped = BTreeSet::new();
        let inputs = NodeInputs {
            node: node.to_owned(),
            clusterset: clusterset::view(&self.records),
            nodes: self.nodes.iter().map(|n| self::node(n, &mut skipped)).collect(),
            services: services(&self.imports, &self.slices, &mut skipped),
            observed: Observed::default(),
        };
        (inputs, skipped)
    }
}

fn skip(skipped: &mut BTreeSet<Skipped>, object: String, message: String) {
    skipped.insert(Skipped { object, message });
}

/// Those of the texts that can be read; the others are skipped by themselves.
fn parsed<'a, T: std::str::FromStr>(
    texts: impl IntoIterator<Item = &'a str>,
    mut wrong: impl FnMut(&str),
) -> Vec<T> {
    let mut out = Vec::new();
    for text in texts {
        match text.trim().parse() {
            Ok(value) => out.push(value),
            Err(_) => wrong(text),
        }
    }
    out
}

fn node(node: &k8s::Node, skipped: &mut BTreeSet<Skipped>) -> Node {
    let name = node.name_any();
    let mut wrong = |what: &str, text: &str| {
        let message = format!("its {what} {text:?} cannot be read and is ignored");
        skip(skipped, format!("Node/{name}"), message);
    };
    let addresses = node.status.iter().flat_map(|s| s.addresses.iter().flatten());
    let internal = addresses
        .filter(|a| a.type_ == "InternalIP")
        .map(|a| a.address.as_str());
    let addresses: Vec<IpAddr> = parsed(internal, |t| wrong("InternalIP", t));
    let spec = node.spec.as_ref();
    let many = spec.and_then(|s| s.pod_cidrs.as_deref()).unwrap_or_default();
    let one = spec.and_then(|s| s.pod_cidr.as_ref()).filter(|_| many.is_empty());
    let cidrs = many.iter().chain(one).map(String::as_str);
    let pod_prefixes: Vec<IpNet> = parsed(cidrs, |t| wrong("pod CIDR", t));
    let overlay = node.annotations().get(names::ANNOTATION_OVERLAY);
    let overlay = overlay
        .into_iter()
        .flat_map(|t| t.split(','))
        .filter(|t| !t.trim().is_empty());
    let overlay_addresses = parsed(overlay, |t| wrong("overlay address", t));
    Node {
        addresses,
        pod_prefixes,
        overlay_addresses,
        gateway: node
            .labels()
            .get(names::LABEL_GATEWAY_NODE)
            .is_some_and(|v| v == "true"),
        name,
    }
}

fn services(
    imports: &[Arc<ServiceImport>],
    slices: &[Arc<EndpointSlice>],
    skipped: &mut BTreeSet<Skipped>,
) -> Vec<VipService> {
    let mut by_service: BTreeMap<(String, String), Vec<VipSlice>> = BTreeMap::new();
    for slice in slices {
        let Some(service) = slice.labels().get(names::LABEL_MCS_SERVICE) else {
            continue;
        };
        let key = (slice.namespace().unwrap_or_default(), service.clone());
        match self::slice(slice, skipped) {
            Ok(slice) => by_service.entry(key).or_default().push(slice),
            Err(message) => {
                let object = format!("EndpointSlice/{}/{}", key.0, slice.name_any());
                skip(skipped, object, message);
            }
        }
    }
    let mut services = Vec::new();
    for import in imports {
        let vips = import.spec.ips.clone().unwrap_or_default();
        if import.spec.type_ != ServiceType::ClusterSetIP || vips.is_empty() {
            continue;
        }
        let (namespace, name) = (import.namespace().unwrap_or_default(), import.name_any());
        let mut ports = Vec::new();
        for port in &import.spec.ports {
            match protocol(&port.protocol) {
                Some(protocol) => ports.push(VipPort {
                    name: port.name.clone(),
                    protocol,
                    port: port.port,
                }),
                None => {
                    let message = format!("port {} has the unknown protocol {:?}", port.port, port.protocol);
                    skip(skipped, format!("ServiceImport/{namespace}/{name}"), message);
                }
            }
        }
        services.push(VipService {
            vips,
            ports,
            by_source: import.spec.session_affinity == Some(SessionAffinity::ClientIP),
            slices: by_service
                .remove(&(namespace.clone(), name.clone()))
                .unwrap_or_default(),
            namespace,
            name,
        });
    }
    services
}

fn protocol(text: &str) -> Option<Protocol> {
    match text {
        // Kubernetes' default where nothing is written.
        "TCP" | "" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    }
}

fn slice(slice: &EndpointSlice, skipped: &mut BTreeSet<Skipped>) -> Result<VipSlice, String> {
    let cluster = slice
        .labels()
        .get(names::LABEL_MCS_CLUSTER)
        .ok_or_else(|| format!("it has no label {}", names::LABEL_MCS_CLUSTER))?
        .parse::<ClusterId>()
        .map_err(|e| format!("its label {} is wrong: {e}", names::LABEL_MCS_CLUSTER))?;
    let ready = slice.endpoints.iter().filter(|e| {
        // Absent means ready, by the API's definition.
        e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true)
    });
    let texts = ready.filter_map(|e| e.addresses.first().map(String::as_str));
    let object = || {
        format!(
            "EndpointSlice/{}/{}",
            slice.namespace().unwrap_or_default(),
            slice.name_any()
        )
    };
    let endpoints = parsed(texts, |t| {
        skip(
            skipped,
            object(),
            format!("endpoint {t:?} is no address and is left out"),
        );
    });
    let mut ports = Vec::new();
    for port in slice.ports.iter().flatten() {
        let Some(protocol) = protocol(port.protocol.as_deref().unwrap_or_default()) else {
            skip(
                skipped,
                object(),
                format!("protocol {:?} is unknown", port.protocol),
            );
            continue;
        };
        let Some(number) = port.port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0) else {
            skip(
                skipped,
                object(),
                format!("port {:?} is no port number", port.port),
            );
            continue;
        };
        ports.push(VipPort {
            name: port.name.clone().unwrap_or_default(),
            protocol,
            port: number,
        });
    }
    Ok(VipSlice {
        cluster,
        endpoints,
        ports,
    })
}

#[cfg(test)]
mod tests;
