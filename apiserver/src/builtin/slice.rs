//! EndpointSlices.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::status::Cause;

const MAX_ENDPOINTS: usize = 1000;
const MAX_PORTS: usize = 100;

pub(super) fn default(object: &mut Value) {
    for p in object
        .get_mut("ports")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        if let Some(p) = p.as_object_mut() {
            p.entry("name").or_insert_with(|| "".into());
            p.entry("protocol").or_insert_with(|| "TCP".into());
        }
    }
    if object.get("endpoints").is_none_or(Value::is_null) {
        object["endpoints"] = Value::Null;
    }
    if object.get("ports").is_none() {
        object["ports"] = Value::Null;
    }
    for e in object
        .get_mut("endpoints")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        if e.get("conditions").is_none() && e.is_object() {
            e["conditions"] = json!({});
        }
    }
}

pub(super) fn validate(object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let kind = object
        .get("addressType")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let known = ["FQDN", "IPv4", "IPv6"];
    if kind.is_empty() {
        causes.push(Cause::required("addressType", ""));
    } else if !known.contains(&kind) {
        causes.push(Cause::not_supported(
            "addressType",
            &kind.into(),
            &known.map(Value::from),
        ));
    }
    let endpoints = object
        .get("endpoints")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    if endpoints.len() > MAX_ENDPOINTS {
        causes.push(Cause::too_many(
            "endpoints",
            endpoints.len(),
            MAX_ENDPOINTS as u64,
        ));
        return causes;
    }
    for (i, e) in endpoints.iter().enumerate() {
        let at = format!("endpoints[{i}].addresses");
        let addresses = e
            .get("addresses")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        if addresses.is_empty() {
            causes.push(Cause::required(at.clone(), "must contain at least 1 address"));
        }
        for (n, address) in addresses.iter().enumerate() {
            let text = address.as_str().unwrap_or_default();
            let ip: Option<IpAddr> = text.parse().ok();
            match kind {
                "IPv4" if !ip.is_some_and(|ip| ip.is_ipv4()) => {
                    causes.push(Cause::invalid(at.clone(), address, "must be an IPv4 address"));
                }
                "IPv6" if !ip.is_some_and(|ip| ip.is_ipv6()) => {
                    causes.push(Cause::invalid(at.clone(), address, "must be an IPv6 address"));
                }
                _ => {}
            }
            if let Some(ip) = ip {
                let at = format!("{at}[{n}]");
                if ip.is_unspecified() {
                    causes.push(Cause::invalid(
                        at,
                        address,
                        format!("may not be unspecified ({text})"),
                    ));
                } else if ip.is_loopback() {
                    causes.push(Cause::invalid(
                        at,
                        address,
                        "may not be in the loopback range (127.0.0.0/8, ::1/128)",
                    ));
                } else if link_local(&ip) {
                    causes.push(Cause::invalid(
                        at,
                        address,
                        "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
                    ));
                } else if ip.is_multicast() {
                    causes.push(Cause::invalid(
                        at,
                        address,
                        "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
                    ));
                }
            }
        }
    }
    let ports = object
        .get("ports")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    if ports.len() > MAX_PORTS {
        causes.push(Cause::too_many("ports", ports.len(), MAX_PORTS as u64));
    }
    let mut names = Vec::new();
    for (i, p) in ports.iter().enumerate() {
        let name = p.get("name").and_then(Value::as_str).unwrap_or_default();
        if names.contains(&name) {
            causes.push(Cause::duplicate(format!("ports[{i}].name"), &name.into()));
        }
        names.push(name);
        let protocol = p.get("protocol").and_then(Value::as_str).unwrap_or_default();
        if !["TCP", "UDP", "SCTP"].contains(&protocol) {
            causes.push(Cause::not_supported(
                format!("ports[{i}].protocol"),
                &protocol.into(),
                &["SCTP", "TCP", "UDP"].map(Value::from),
            ));
        }
    }
    causes
}

fn link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => (ip.segments()[0] & 0xffc0) == 0xfe80,
    }
}
