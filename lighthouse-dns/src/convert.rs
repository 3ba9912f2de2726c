//! Kubernetes objects as the plain structs that `core` decides on, and back.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;
use strait_api::mcs::{ServiceExport, ServiceImport};
use strait_api::names;
use strait_api::records::{Endpoint, IpFamily, ServicePort, SessionAffinity};
use strait_core::services::{Export, ImportObject, LocalSlice, Service, ServiceKey, Slice};

pub(crate) fn key(meta: &ObjectMeta) -> ServiceKey {
    ServiceKey::new(
        meta.namespace.clone().unwrap_or_default(),
        meta.name.clone().unwrap_or_default(),
    )
}

fn created(meta: &ObjectMeta) -> String {
    // An object that was read always has its creation time; one without counts as made last.
    meta.creation_timestamp
        .as_ref()
        .map_or_else(String::new, |t| t.0.to_string())
}

pub(crate) fn now() -> String {
    let now = Timestamp::now();
    now.round(jiff::Unit::Second).unwrap_or(now).to_string()
}

pub(crate) fn export(e: &ServiceExport) -> Export {
    Export {
        key: key(&e.metadata),
        created_at: created(&e.metadata),
        generation: e.metadata.generation,
        labels: e.spec.exported_labels.clone().unwrap_or_default(),
        annotations: e.spec.exported_annotations.clone().unwrap_or_default(),
        conditions: e
            .status
            .as_ref()
            .map(|s| s.conditions.clone())
            .unwrap_or_default(),
    }
}

pub(crate) fn import(i: &ServiceImport) -> ImportObject {
    ImportObject {
        key: key(&i.metadata),
        created_at: created(&i.metadata),
        labels: i.labels().clone(),
        annotations: i.annotations().clone(),
        spec: i.spec.clone(),
        status: i.status.clone().unwrap_or_default(),
    }
}

pub(crate) fn service(s: &core::Service) -> Service {
    let spec = s.spec.clone().unwrap_or_default();
    let cluster_ips: Vec<&String> = spec
        .cluster_ips
        .iter()
        .flatten()
        .chain(&spec.cluster_ip)
        .collect();
    let mut ip_families: Vec<IpFamily> = spec
        .ip_families
        .iter()
        .flatten()
        .filter_map(|f| family(f))
        .collect();
    if ip_families.is_empty() {
        for address in cluster_ips.iter().filter_map(|a| a.parse::<IpAddr>().ok()) {
            if !ip_families.contains(&IpFamily::of(address)) {
                ip_families.push(IpFamily::of(address));
            }
        }
    }
    let ports = spec.ports.iter().flatten().filter_map(|p| {
        Some(ServicePort {
            name: p.name.clone().unwrap_or_default(),
            protocol: p.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port: u16::try_from(p.port).ok()?,
            app_protocol: p.app_protocol.clone(),
        })
    });
    Service {
        key: key(&s.metadata),
        type_: spec.type_.clone().unwrap_or_default(),
        headless: cluster_ips.iter().any(|a| *a == "None"),
        ports: ports.collect(),
        ip_families,
        session_affinity: match spec.session_affinity.as_deref() {
            Some("ClientIP") => SessionAffinity::ClientIP,
            _ => SessionAffinity::None,
        },
        client_ip_timeout: spec
            .session_affinity_config
            .and_then(|c| c.client_ip)
            .and_then(|c| c.timeout_seconds),
        internal_traffic_policy: spec.internal_traffic_policy,
        traffic_distribution: spec.traffic_distribution,
    }
}

fn family(text: &str) -> Option<IpFamily> {
    match text {
        "IPv4" => Some(IpFamily::IPv4),
        "IPv6" => Some(IpFamily::IPv6),
        _ => None,
    }
}

/// An EndpointSlice that matters here.
pub(crate) enum AnySlice {
    /// Of a Service of this cluster.
    Local(LocalSlice),
    /// One of ours.
    Ours(Slice),
}

/// What an EndpointSlice is to us; `None` if nothing.
pub(crate) fn slice(s: &discovery::EndpointSlice) -> Option<AnySlice> {
    let namespace = s.namespace()?;
    let name = s.name_any();
    let family = family(&s.address_type)?;
    let ports = ports(s);
    let endpoints = s.endpoints.iter().filter_map(|e| endpoint(e, family)).collect();
    let labels = s.labels();
    if labels.get(names::LABEL_SLICE_MANAGED_BY).map(String::as_str) == Some(names::MANAGED_BY) {
        let service = labels.get(names::LABEL_MCS_SERVICE)?;
        return Some(AnySlice::Ours(Slice {
            name,
            service: ServiceKey::new(namespace, service.clone()),
            labels: labels.clone(),
            family,
            ports,
            endpoints,
        }));
    }
    let service = labels.get(names::LABEL_SERVICE_NAME)?;
    Some(AnySlice::Local(LocalSlice {
        name,
        service: ServiceKey::new(namespace, service.clone()),
        family,
        ports,
        endpoints,
    }))
}

fn ports(s: &discovery::EndpointSlice) -> Vec<ServicePort> {
    let mut ports: Vec<ServicePort> = s
        .ports
        .iter()
        .flatten()
        .filter_map(|p| {
            Some(ServicePort {
                name: p.name.clone().unwrap_or_default(),
                protocol: p.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                port: u16::try_from(p.port?).ok()?,
                app_protocol: p.app_protocol.clone(),
            })
        })
        .collect();
    ports.sort();
    ports
}

/// An endpoint by its first address: the API allows more, and says that they are the same endpoint.
fn endpoint(e: &discovery::Endpoint, family: IpFamily) -> Option<Endpoint> {
    let address: IpAddr = e.addresses.first()?.parse().ok()?;
    if IpFamily::of(address) != family {
        return None;
    }
    let conditions = e.conditions.clone().unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    Some(Endpoint {
        address,
        ready,
        serving: conditions.serving.unwrap_or(ready),
        terminating: conditions.terminating.unwrap_or(false),
        hostname: e.hostname.clone(),
        node: e.node_name.clone(),
        zone: e.zone.clone(),
    })
}

pub(crate) fn endpoint_slice(s: &Slice) -> discovery::EndpointSlice {
    discovery::EndpointSlice {
        metadata: ObjectMeta {
            name: Some(s.name.clone()),
            namespace: Some(s.service.namespace.clone()),
            labels: Some(s.labels.clone()),
            ..ObjectMeta::default()
        },
        address_type: format!("{:?}", s.family),
        ports: Some(
            s.ports
                .iter()
                .map(|p| discovery::EndpointPort {
                    name: Some(p.name.clone()),
                    protocol: Some(p.protocol.clone()),
                    port: Some(i32::from(p.port)),
                    app_protocol: p.app_protocol.clone(),
                })
                .collect(),
        ),
        endpoints: s.endpoints.iter().map(k8s_endpoint).collect(),
    }
}

fn k8s_endpoint(e: &Endpoint) -> discovery::Endpoint {
    discovery::Endpoint {
        addresses: vec![e.address.to_string()],
        conditions: Some(discovery::EndpointConditions {
            ready: Some(e.ready),
            serving: Some(e.serving),
            terminating: Some(e.terminating),
        }),
        hostname: e.hostname.clone(),
        node_name: e.node.clone(),
        zone: e.zone.clone(),
        ..discovery::Endpoint::default()
    }
}

/// Maps without entries are left out of what is applied.
pub(crate) fn non_empty(map: &BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    (!map.is_empty()).then(|| map.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_of_ours_survives_the_way_there_and_back() {
        let ours = Slice {
            name: "web-blue-0".into(),
            service: ServiceKey::new("demo", "web"),
            labels: [
                (names::LABEL_MCS_SERVICE.to_owned(), "web".to_owned()),
                (
                    names::LABEL_SLICE_MANAGED_BY.to_owned(),
                    names::MANAGED_BY.to_owned(),
                ),
            ]
            .into(),
            family: IpFamily::IPv6,
            ports: vec![ServicePort {
                name: String::new(),
                protocol: "UDP".into(),
                port: 53,
                app_protocol: None,
            }],
            endpoints: vec![Endpoint {
                address: "fd00::1".parse().unwrap(),
                ready: false,
                serving: true,
                terminating: true,
                hostname: Some("pet-0".into()),
                node: None,
                zone: Some("a".into()),
            }],
        };
        match slice(&endpoint_slice(&ours)) {
            Some(AnySlice::Ours(back)) => assert_eq!(back, ours),
            _ => panic!("not recognised as ours"),
        }
    }

    #[test]
    fn endpoints_without_conditions_are_ready() {
        let e = discovery::Endpoint {
            addresses: vec!["10.0.0.1".into(), "10.0.0.2".into()],
            ..discovery::Endpoint::default()
        };
        let e = endpoint(&e, IpFamily::IPv4).unwrap();
        assert!(e.ready && e.serving && !e.terminating);
        assert_eq!(e.address.to_string(), "10.0.0.1");
    }

    #[test]
    fn slices_of_host_names_and_of_nobody_are_nothing_to_us() {
        let mut s = discovery::EndpointSlice {
            metadata: ObjectMeta {
                name: Some("x".into()),
                namespace: Some("demo".into()),
                ..ObjectMeta::default()
            },
            address_type: "IPv4".into(),
            ..discovery::EndpointSlice::default()
        };
        assert!(slice(&s).is_none());
        s.metadata.labels = Some([(names::LABEL_SERVICE_NAME.to_owned(), "web".to_owned())].into());
        assert!(matches!(slice(&s), Some(AnySlice::Local(_))));
        s.address_type = "FQDN".into();
        assert!(slice(&s).is_none());
    }
}
