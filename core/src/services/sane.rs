//! Whether a record can be carried over into Kubernetes objects at all.
//!
//! One bad name in a record would make the API server refuse the whole object that it is merged into, and
//! so hurt the other exporters of the service. Such a record is refused as a whole instead.

use std::collections::BTreeMap;

use strait_api::records::ExportedServiceSpec;
use strait_api::{Condition, names};

use crate::clusterset::{Clusterset, Record};

const MAX_PORTS: usize = 100;
/// Every set of endpoints becomes an EndpointSlice in each importing cluster.
const MAX_SETS: usize = 64;
const MAX_METADATA: usize = 64 * 1024;

/// What of a copy counts here, if anything, and its condition `Admitted`. All who judge a copy do it by
/// this, so that no two of them write different things.
pub fn verdict(
    set: &Clusterset,
    record: &Record<ExportedServiceSpec>,
) -> (Option<ExportedServiceSpec>, Condition) {
    let admitted = set.admit_service(record);
    let malformed = admitted.service.as_ref().and_then(|_| problem(record));
    match (malformed, admitted.refusal) {
        (Some(problem), _) => (
            None,
            Condition::new("Admitted", false, "Malformed", short(problem)),
        ),
        (None, Some(r)) => (
            admitted.service,
            Condition::new("Admitted", false, r.reason, short(r.message)),
        ),
        (None, None) => (admitted.service, Condition::new("Admitted", true, "Admitted", "")),
    }
}

/// A condition's message holds 32 KiB; a hostile record can make a longer one.
pub(crate) fn short(mut message: String) -> String {
    const MOST: usize = 4096;
    if message.len() > MOST {
        let end = (0..=MOST)
            .rev()
            .find(|i| message.is_char_boundary(*i))
            .unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
    message
}

/// What is wrong with a record, as a sentence; `None` if nothing.
pub fn problem(record: &Record<ExportedServiceSpec>) -> Option<String> {
    let spec = &record.spec;
    if !dns_label(&spec.namespace) {
        return Some(format!("{:?} is no namespace name", spec.namespace));
    }
    if !dns_label(&spec.name) {
        return Some(format!("{:?} is no Service name", spec.name));
    }
    let own_name = names::exported_service_name(&spec.name, &spec.namespace);
    let expected = match &record.owner {
        None => own_name,
        Some(owner) => names::copy_name(owner, &own_name),
    };
    if record.name != expected {
        return Some(format!(
            "the record is named {} but speaks of {}/{}, which belongs into {expected}",
            record.name, spec.namespace, spec.name
        ));
    }
    ports(spec)
        .or_else(|| policies(spec))
        .or_else(|| metadata("label", &spec.exported_labels, true))
        .or_else(|| metadata("annotation", &spec.exported_annotations, false))
        .or_else(|| hostnames(spec))
}

fn ports(spec: &ExportedServiceSpec) -> Option<String> {
    if spec.endpoints.len() > MAX_SETS {
        return Some(format!(
            "{} sets of endpoints with ports of their own are too many, {MAX_SETS} are allowed",
            spec.endpoints.len()
        ));
    }
    let lists = std::iter::once(&spec.ports).chain(spec.endpoints.iter().map(|e| &e.ports));
    for list in lists {
        if list.len() > MAX_PORTS {
            return Some(format!(
                "{} ports are too many, {MAX_PORTS} are allowed",
                list.len()
            ));
        }
        for port in list {
            if port.port == 0 {
                return Some(format!("port {:?} has the number 0", port.name));
            }
            if !matches!(port.protocol.as_str(), "TCP" | "UDP" | "SCTP") {
                return Some(format!(
                    "port {:?} has the unknown protocol {:?}",
                    port.name, port.protocol
                ));
            }
            if !(port.name.is_empty() || dns_label(&port.name)) {
                return Some(format!("{:?} is no port name", port.name));
            }
            if let Some(app) = port.app_protocol.as_deref().filter(|a| !qualified_name(a)) {
                return Some(format!(
                    "port {:?} has the malformed appProtocol {app:?}",
                    port.name
                ));
            }
        }
    }
    None
}

fn policies(spec: &ExportedServiceSpec) -> Option<String> {
    if let Some(c) = spec
        .client_ip
        .filter(|c| !(1..=86_400).contains(&c.timeout_seconds))
    {
        return Some(format!(
            "session affinity of {} s is outside 1 to 86400",
            c.timeout_seconds
        ));
    }
    if let Some(p) = &spec.internal_traffic_policy
        && !matches!(p.as_str(), "Cluster" | "Local")
    {
        return Some(format!(
            "internalTrafficPolicy {p:?} is neither Cluster nor Local"
        ));
    }
    if let Some(d) = &spec.traffic_distribution
        && !qualified_name(d)
    {
        return Some(format!("{d:?} is no trafficDistribution"));
    }
    None
}

fn metadata(what: &str, map: &BTreeMap<String, String>, is_label: bool) -> Option<String> {
    let mut size = 0;
    for (key, value) in map {
        size += key.len() + value.len();
        if !qualified_name(key) {
            return Some(format!("{key:?} is no {what} key"));
        }
        if is_label && !label_value(value) {
            return Some(format!("label {key} has the malformed value {value:?}"));
        }
    }
    (size > MAX_METADATA)
        .then(|| format!("the exported {what}s take {size} bytes, {MAX_METADATA} are allowed"))
}

fn hostnames(spec: &ExportedServiceSpec) -> Option<String> {
    let endpoints = || spec.endpoints.iter().flat_map(|s| &s.endpoints);
    if let Some(e) = endpoints().find(|e| e.hostname.as_deref().is_some_and(|h| !dns_label(h))) {
        return Some(format!(
            "endpoint {} has the malformed host name {:?}",
            e.address, e.hostname
        ));
    }
    endpoints()
        .find(|e| e.zone.as_deref().is_some_and(|z| !label_value(z)))
        .map(|e| format!("endpoint {} has the malformed zone {:?}", e.address, e.zone))
}

/// A DNS label in lower case (RFC 1123).
pub fn dns_label(text: &str) -> bool {
    let b = text.as_bytes();
    (1..=63).contains(&b.len())
        && b.iter()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'-')
        && b.first() != Some(&b'-')
        && b.last() != Some(&b'-')
}

fn label_value(text: &str) -> bool {
    text.is_empty() || name_part(text)
}

fn name_part(text: &str) -> bool {
    let b = text.as_bytes();
    (1..=63).contains(&b.len())
        && b.iter()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
        && b.first().is_some_and(u8::is_ascii_alphanumeric)
        && b.last().is_some_and(u8::is_ascii_alphanumeric)
}

fn qualified_name(text: &str) -> bool {
    match text.split_once('/') {
        None => name_part(text),
        Some((prefix, name)) => prefix.len() <= 253 && prefix.split('.').all(dns_label) && name_part(name),
    }
}
