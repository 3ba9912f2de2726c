//! Services, and the addresses that they get.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::api::Api;
use crate::rest::meta;
use crate::status::{ApiError, ApiResult, Cause};
use crate::store::object_key;

/// Addresses in use.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    taken: Mutex<HashMap<IpAddr, String>>,
}

/// Addresses taken for a write that is not done yet; given back unless it is.
#[derive(Debug, Default)]
pub(crate) struct Claim {
    pool: Option<Arc<Addresses>>,
    taken: Vec<IpAddr>,
}

impl Claim {
    /// The write is done.
    pub(crate) fn keep(mut self) {
        self.taken.clear();
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            let mut map = pool.taken.lock().unwrap_or_else(|e| e.into_inner());
            for ip in &self.taken {
                map.remove(ip);
            }
        }
    }
}

impl Addresses {
    /// Notes the addresses of a service that is stored already.
    pub(crate) fn adopt(&self, service: &Value) {
        let mut map = self.taken.lock().unwrap_or_else(|e| e.into_inner());
        for ip in addresses(service) {
            map.insert(ip, id(service));
        }
    }

    /// Notes that a service is gone.
    pub(crate) fn abandon(&self, service: &Value) {
        let mut map = self.taken.lock().unwrap_or_else(|e| e.into_inner());
        for ip in addresses(service) {
            map.remove(&ip);
        }
    }

    fn take(&self, ip: IpAddr, owner: &str) -> bool {
        let mut map = self.taken.lock().unwrap_or_else(|e| e.into_inner());
        match map.get(&ip) {
            Some(other) => other == owner,
            None => {
                map.insert(ip, owner.to_owned());
                true
            }
        }
    }

    fn release(&self, ip: IpAddr) {
        self.taken.lock().unwrap_or_else(|e| e.into_inner()).remove(&ip);
    }
}

fn id(service: &Value) -> String {
    object_key(meta::text(service, "namespace"), meta::text(service, "name"))
}

fn texts(object: &Value, pointer: &str) -> Vec<String> {
    object
        .pointer(pointer)
        .and_then(Value::as_array)
        .map(|l| l.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect())
        .unwrap_or_default()
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn addresses(service: &Value) -> Vec<IpAddr> {
    texts(service, "/spec/clusterIPs")
        .iter()
        .filter_map(|s| s.parse().ok())
        .collect()
}

pub(super) fn default(object: &mut Value, old: Option<&Value>) {
    if !object.get("spec").is_some_and(Value::is_object) {
        object["spec"] = json!({});
    }
    let single = text(object, "/spec/clusterIP").to_owned();
    let many = texts(object, "/spec/clusterIPs");
    // The two fields say the same; whichever a client changes leads.
    if let Some(old) = old {
        let (old_single, old_many) = (text(old, "/spec/clusterIP"), texts(old, "/spec/clusterIPs"));
        if single != old_single && many == old_many {
            object["spec"]["clusterIPs"] = if single.is_empty() {
                json!([])
            } else {
                json!([single])
            };
        } else if single == old_single && many != old_many {
            object["spec"]["clusterIP"] = many.first().cloned().unwrap_or_default().into();
        }
    }
    let spec = &mut object["spec"];
    let external = spec.get("type").and_then(Value::as_str) == Some("ExternalName");
    let put = |spec: &mut Value, key: &str, value: Value| {
        if spec.get(key).is_none_or(Value::is_null) {
            spec[key] = value;
        }
    };
    put(spec, "type", "ClusterIP".into());
    put(spec, "sessionAffinity", "None".into());
    let kind = spec["type"].as_str().unwrap_or_default().to_owned();
    if !external {
        put(spec, "internalTrafficPolicy", "Cluster".into());
    }
    if kind == "NodePort" || kind == "LoadBalancer" {
        put(spec, "externalTrafficPolicy", "Cluster".into());
    }
    if kind == "LoadBalancer" {
        put(spec, "allocateLoadBalancerNodePorts", true.into());
    }
    if spec["sessionAffinity"] == "ClientIP"
        && spec
            .pointer("/sessionAffinityConfig/clientIP/timeoutSeconds")
            .is_none()
    {
        spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 10800}});
    }
    for p in spec
        .get_mut("ports")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        if !p.is_object() {
            continue;
        }
        if p.get("protocol").is_none_or(Value::is_null) {
            p["protocol"] = "TCP".into();
        }
        if p.get("targetPort")
            .is_none_or(|v| v.is_null() || v == 0 || v == "")
        {
            p["targetPort"] = p.get("port").cloned().unwrap_or_default();
        }
    }
}

pub(super) fn prepare_update(old: &Value, new: &mut Value) {
    // What an update leaves out of the allocation stays as it was.
    if text(new, "/spec/type") == "ExternalName" {
        return;
    }
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let missing = new["spec"]
            .get(field)
            .is_none_or(|v| v.is_null() || v == "" || v.as_array().is_some_and(Vec::is_empty));
        if missing && let Some(v) = old["spec"].get(field) {
            new["spec"][field] = v.clone();
        }
    }
}

pub(super) fn validate(object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let kind = text(object, "/spec/type");
    let known = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    if !known.contains(&kind) {
        causes.push(Cause::not_supported(
            "spec.type",
            &kind.into(),
            &known.map(Value::from),
        ));
    }
    let ports = object
        .pointer("/spec/ports")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let headless = text(object, "/spec/clusterIP") == "None";
    if ports.is_empty() && !headless && kind != "ExternalName" {
        causes.push(Cause::required("spec.ports", ""));
    }
    if kind == "ExternalName" && text(object, "/spec/externalName").is_empty() {
        causes.push(Cause::required("spec.externalName", ""));
    }
    let mut names = Vec::new();
    let mut seen = Vec::new();
    for (i, p) in ports.iter().enumerate() {
        let at = format!("spec.ports[{i}]");
        let name = text(p, "/name");
        if name.is_empty() {
            if ports.len() > 1 {
                causes.push(Cause::required(format!("{at}.name"), ""));
            }
        } else {
            if let Err(e) = crate::rest::names::label(name) {
                causes.push(Cause::invalid(format!("{at}.name"), &name.into(), e));
            }
            if names.contains(&name) {
                causes.push(Cause::duplicate(format!("{at}.name"), &name.into()));
            }
            names.push(name);
        }
        let number = p.get("port").and_then(Value::as_i64).unwrap_or(0);
        if !(1..=65535).contains(&number) {
            causes.push(Cause::invalid(
                format!("{at}.port"),
                &number.into(),
                "must be between 1 and 65535, inclusive",
            ));
        }
        let protocol = text(p, "/protocol");
        if !["TCP", "UDP", "SCTP"].contains(&protocol) {
            causes.push(Cause::not_supported(
                format!("{at}.protocol"),
                &protocol.into(),
                &["SCTP", "TCP", "UDP"].map(Value::from),
            ));
        }
        if let Some(n) = p.get("targetPort").and_then(Value::as_i64)
            && !(1..=65535).contains(&n)
        {
            causes.push(Cause::invalid(
                format!("{at}.targetPort"),
                &n.into(),
                "must be between 1 and 65535, inclusive",
            ));
        }
        let key = (number, protocol.to_owned());
        if seen.contains(&key) {
            causes.push(Cause::duplicate(
                at,
                &json!({"port": number, "protocol": protocol}),
            ));
        }
        seen.push(key);
    }
    let affinity = text(object, "/spec/sessionAffinity");
    if !["None", "ClientIP"].contains(&affinity) {
        causes.push(Cause::not_supported(
            "spec.sessionAffinity",
            &affinity.into(),
            &["ClientIP", "None"].map(Value::from),
        ));
    }
    causes
}

pub(super) fn validate_update(old: &Value, new: &Value) -> Vec<Cause> {
    let (a, b) = (texts(old, "/spec/clusterIPs"), texts(new, "/spec/clusterIPs"));
    let external = |o: &Value| text(o, "/spec/type") == "ExternalName";
    if !a.is_empty() && !b.is_empty() && a[0] != b[0] && !external(old) && !external(new) {
        return vec![Cause::invalid(
            "spec.clusterIPs[0]",
            &json!(b),
            "may not change once set",
        )];
    }
    Vec::new()
}

fn family(ip: &IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn net_family(net: &IpNet) -> &'static str {
    if matches!(net, IpNet::V4(_)) {
        "IPv4"
    } else {
        "IPv6"
    }
}

/// Settles families and addresses of a service.
pub(super) fn claim(api: &Api, old: &Value, new: &mut Value) -> ApiResult<Claim> {
    let mut claim = Claim {
        pool: Some(api.addresses.clone()),
        taken: Vec::new(),
    };
    let owner = id(new);
    let name = meta::text(new, "name").to_owned();
    if new.get("status").is_none() {
        new["status"] = json!({"loadBalancer": {}});
    }
    if text(new, "/spec/type") == "ExternalName" {
        if let Some(spec) = new["spec"].as_object_mut() {
            for field in [
                "clusterIP",
                "clusterIPs",
                "ipFamilies",
                "ipFamilyPolicy",
                "internalTrafficPolicy",
            ] {
                spec.shift_remove(field);
            }
        }
        return Ok(claim);
    }
    let ranges: BTreeMap<&str, IpNet> = {
        let mut map = BTreeMap::new();
        for net in &api.settings.service_cidrs {
            map.entry(net_family(net)).or_insert(*net);
        }
        map
    };
    let available: Vec<&str> = {
        let mut list = Vec::new();
        for net in &api.settings.service_cidrs {
            if !list.contains(&net_family(net)) {
                list.push(net_family(net));
            }
        }
        if list.is_empty() { vec!["IPv4"] } else { list }
    };
    let wrong = |cause: Cause| ApiError::invalid("", "Service", &name, vec![cause]);
    let given: Vec<String> = {
        let many = texts(new, "/spec/clusterIPs");
        let single = text(new, "/spec/clusterIP");
        if many.is_empty() && !single.is_empty() {
            vec![single.to_owned()]
        } else {
            many
        }
    };
    let headless = given.first().is_some_and(|s| s == "None");
    let mut families = texts(new, "/spec/ipFamilies");
    let mut policy = text(new, "/spec/ipFamilyPolicy").to_owned();
    for (i, f) in families.iter().enumerate() {
        if !available.contains(&f.as_str()) {
            return Err(wrong(Cause::invalid(
                format!("spec.ipFamilies[{i}]"),
                &f.as_str().into(),
                "not configured on this cluster",
            )));
        }
    }
    let mut wanted: Vec<Option<IpAddr>> = Vec::new();
    if !headless {
        for (i, text) in given.iter().enumerate() {
            let ip: IpAddr = text.parse().map_err(|_| {
                wrong(Cause::invalid(
                    format!("spec.clusterIPs[{i}]"),
                    &text.as_str().into(),
                    "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                ))
            })?;
            if families.len() <= i {
                families.push(family(&ip).into());
            }
            if families[i] != family(&ip) {
                return Err(wrong(Cause::invalid(
                    format!("spec.clusterIPs[{i}]"),
                    &text.as_str().into(),
                    format!(
                        "expected an {} value as indicated by `ipFamilies[{i}]`",
                        families[i]
                    ),
                )));
            }
            wanted.push(Some(ip));
        }
    }
    if policy.is_empty() {
        policy = if families.len() > 1 || wanted.len() > 1 {
            "RequireDualStack"
        } else {
            "SingleStack"
        }
        .into();
    }
    if families.is_empty() {
        families.push(available[0].into());
    }
    if policy != "SingleStack" && families.len() < 2 {
        if let Some(other) = available.iter().find(|f| **f != families[0]) {
            families.push((*other).into());
        } else if policy == "RequireDualStack" {
            return Err(wrong(Cause::invalid(
                "spec.ipFamilyPolicy",
                &policy.as_str().into(),
                "this cluster is not configured for dual-stack services",
            )));
        }
    }
    if policy == "SingleStack" {
        families.truncate(1);
        wanted.truncate(1);
    }
    new["spec"]["ipFamilies"] = json!(families);
    new["spec"]["ipFamilyPolicy"] = policy.into();
    if headless {
        new["spec"]["clusterIP"] = "None".into();
        new["spec"]["clusterIPs"] = json!(["None"]);
        return Ok(claim);
    }
    if ranges.is_empty() {
        return Ok(claim);
    }
    let before = addresses(old);
    let mut ips: Vec<IpAddr> = Vec::new();
    for (i, f) in families.iter().enumerate() {
        let Some(range) = ranges.get(f.as_str()) else {
            continue;
        };
        match wanted.get(i).copied().flatten() {
            Some(ip) => {
                if !before.contains(&ip) {
                    if !allocatable(range, ip) {
                        let why = format!(
                            "failed to allocate IP {ip}: the provided IP ({ip}) is not in the valid range. The range of valid IPs is {range}"
                        );
                        return Err(wrong(Cause::invalid(
                            "spec.clusterIPs",
                            &json!([ip.to_string()]),
                            why,
                        )));
                    }
                    if !api.addresses.take(ip, &owner) {
                        let why = format!("failed to allocate IP {ip}: provided IP is already allocated");
                        return Err(wrong(Cause::invalid(
                            "spec.clusterIPs",
                            &json!([ip.to_string()]),
                            why,
                        )));
                    }
                    claim.taken.push(ip);
                }
                ips.push(ip);
            }
            None => {
                let ip = pick(range, |ip| api.addresses.take(ip, &owner))
                    .ok_or_else(|| ApiError::internal("failed to allocate a serviceIP: range is full"))?;
                claim.taken.push(ip);
                ips.push(ip);
            }
        }
    }
    let texts: Vec<String> = ips.iter().map(IpAddr::to_string).collect();
    new["spec"]["clusterIP"] = texts.first().cloned().unwrap_or_default().into();
    new["spec"]["clusterIPs"] = json!(texts);
    Ok(claim)
}

/// Whether a service may have this address: neither the network's own nor, in IPv4, that of broadcasts.
fn allocatable(range: &IpNet, ip: IpAddr) -> bool {
    range.contains(&ip) && ip != range.network() && (ip.is_ipv6() || ip != range.broadcast())
}

/// A free address of a range, from a random start on. The first ones are left to those who ask for them.
fn pick(range: &IpNet, take: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let mut seed = [0u8; 8];
    getrandom::fill(&mut seed).ok()?;
    let seed = u64::from_le_bytes(seed);
    let host_bits = u32::from(range.max_prefix_len() - range.prefix_len()).min(16);
    let size = 1u64 << host_bits;
    let reserved = (size / 16).clamp(1, 256).min(size.saturating_sub(2));
    let usable = size.saturating_sub(reserved + 1);
    for low in [false, true] {
        let (from, count) = if low {
            (1, reserved.saturating_sub(1))
        } else {
            (reserved, usable)
        };
        for n in 0..count {
            let offset = from + (seed.wrapping_add(n)) % count;
            let ip = match range.network() {
                IpAddr::V4(base) => {
                    IpAddr::from((u32::from(base).wrapping_add(u32::try_from(offset).ok()?)).to_be_bytes())
                }
                IpAddr::V6(base) => {
                    IpAddr::from((u128::from(base).wrapping_add(u128::from(offset))).to_be_bytes())
                }
            };
            if range.contains(&ip) && take(ip) {
                return Some(ip);
            }
        }
    }
    None
}

/// Gives back the addresses that a service no longer has.
pub(super) fn release_changed(api: &Api, old: &Value, new: &Value) {
    let kept = addresses(new);
    for ip in addresses(old) {
        if !kept.contains(&ip) {
            api.addresses.release(ip);
        }
    }
}
