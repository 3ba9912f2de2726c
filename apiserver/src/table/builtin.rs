//! Columns and cells of the built-in kinds.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde_json::Value;

use super::age;
use crate::catalog::Column;
use crate::catalog::builtin::Kind;

type Raw = BTreeMap<String, Vec<(String, String, String, i64, String)>>;

/// The columns of a kind.
pub(super) fn columns(kind: Kind) -> Vec<Column> {
    static ALL: OnceLock<Raw> = OnceLock::new();
    let all = ALL.get_or_init(|| match serde_json::from_str(include_str!("columns.json")) {
        Ok(raw) => raw,
        Err(e) => {
            tracing::error!(error = %e, "the built-in table columns cannot be read");
            Raw::new()
        }
    });
    let name = match kind {
        Kind::NewEvent => "Event".to_owned(),
        other => format!("{other:?}"),
    };
    let list = all
        .get(&name)
        .or_else(|| all.get("Default"))
        .cloned()
        .unwrap_or_default();
    list.into_iter()
        .map(|(name, kind, format, priority, description)| Column {
            name,
            kind,
            format,
            description,
            priority,
            path: String::new(),
        })
        .collect()
}

fn text<'a>(o: &'a Value, pointer: &str) -> &'a str {
    o.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn number(o: &Value, pointer: &str) -> i64 {
    o.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

fn list<'a>(o: &'a Value, pointer: &str) -> &'a [Value] {
    o.pointer(pointer)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

fn or(text: &str, other: &str) -> Value {
    if text.is_empty() {
        other.into()
    } else {
        text.into()
    }
}

fn size(o: &Value, field: &str) -> usize {
    o.get(field)
        .and_then(Value::as_object)
        .map(serde_json::Map::len)
        .unwrap_or(0)
}

fn joined<I: IntoIterator<Item = String>>(items: I) -> String {
    items.into_iter().collect::<Vec<_>>().join(",")
}

fn pairs(o: &Value, pointer: &str) -> String {
    let map = o.pointer(pointer).and_then(Value::as_object);
    let mut parts: Vec<String> = map
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    parts.sort();
    parts.join(",")
}

/// The cells of one object.
pub(super) fn cells(kind: Kind, o: &Value) -> Vec<Value> {
    let name: Value = text(o, "/metadata/name").into();
    let created = text(o, "/metadata/creationTimestamp");
    let old: Value = age(created).into();
    match kind {
        Kind::Namespace => vec![name, text(o, "/status/phase").into(), old],
        Kind::ConfigMap => vec![name, (size(o, "data") + size(o, "binaryData")).into(), old],
        Kind::Secret => vec![name, text(o, "/type").into(), size(o, "data").into(), old],
        Kind::ServiceAccount => vec![name, list(o, "/secrets").len().into(), old],
        Kind::Lease => vec![name, text(o, "/spec/holderIdentity").into(), old],
        Kind::Service => service(o, name, old),
        Kind::EndpointSlice => slice(o, name, old),
        Kind::Endpoints => endpoints(o, name, old),
        Kind::Node => node(o, name, old),
        Kind::Pod => pod(o, name, old),
        Kind::Event | Kind::NewEvent => event(o, name),
        Kind::RoleBinding | Kind::ClusterRoleBinding => binding(o, name, old),
        Kind::Deployment => {
            let mut row = vec![
                name,
                format!(
                    "{}/{}",
                    number(o, "/status/readyReplicas"),
                    number(o, "/spec/replicas")
                )
                .into(),
                number(o, "/status/updatedReplicas").into(),
                number(o, "/status/availableReplicas").into(),
                old,
            ];
            row.extend(template(o));
            row
        }
        Kind::ReplicaSet => {
            let mut row = vec![
                name,
                number(o, "/spec/replicas").into(),
                number(o, "/status/replicas").into(),
                number(o, "/status/readyReplicas").into(),
                old,
            ];
            row.extend(template(o));
            row
        }
        Kind::StatefulSet => {
            let ready = format!(
                "{}/{}",
                number(o, "/status/readyReplicas"),
                number(o, "/spec/replicas")
            );
            let mut row = vec![name, ready.into(), old];
            row.extend(template(o).into_iter().take(2));
            row
        }
        Kind::ResourceQuota => {
            let (request, limit) = quota(o);
            vec![name, request.into(), limit.into(), old]
        }
        Kind::PodDisruptionBudget => {
            let amount = |p: &str| match o.pointer(p) {
                None | Some(Value::Null) => Value::from("N/A"),
                Some(Value::String(s)) => s.as_str().into(),
                Some(other) => other.to_string().into(),
            };
            vec![
                name,
                amount("/spec/minAvailable"),
                amount("/spec/maxUnavailable"),
                number(o, "/status/disruptionsAllowed").into(),
                old,
            ]
        }
        Kind::DaemonSet => {
            let mut row = vec![name];
            for field in [
                "desiredNumberScheduled",
                "currentNumberScheduled",
                "numberReady",
                "updatedNumberScheduled",
                "numberAvailable",
            ] {
                row.push(number(o, &format!("/status/{field}")).into());
            }
            row.push(or(&pairs(o, "/spec/template/spec/nodeSelector"), "<none>"));
            row.push(old);
            row.extend(template(o));
            row
        }
        _ => vec![name, created.into()],
    }
}

/// What is used and allowed, of requests and of limits.
fn quota(o: &Value) -> (String, String) {
    let shown = |v: Option<&Value>| match v {
        None | Some(Value::Null) => "0".to_owned(),
        Some(Value::String(s)) => s.clone(),
        Some(other) => other.to_string(),
    };
    let hard = o.pointer("/status/hard").and_then(Value::as_object);
    let mut lines: Vec<(&String, String)> = hard
        .into_iter()
        .flatten()
        .map(|(k, v)| {
            let used = shown(o.pointer("/status/used").and_then(|u| u.get(k)));
            (k, format!("{k}: {used}/{}", shown(Some(v))))
        })
        .collect();
    lines.sort();
    let of = |limits: bool| {
        let parts: Vec<String> = lines
            .iter()
            .filter(|(k, _)| k.starts_with("limits") == limits)
            .map(|(_, line)| line.clone())
            .collect();
        parts.join(", ")
    };
    (of(false), of(true))
}

fn template(o: &Value) -> Vec<Value> {
    let containers = list(o, "/spec/template/spec/containers");
    vec![
        joined(containers.iter().map(|c| text(c, "/name").to_owned())).into(),
        joined(containers.iter().map(|c| text(c, "/image").to_owned())).into(),
        or(&pairs(o, "/spec/selector/matchLabels"), "<none>"),
    ]
}

fn service(o: &Value, name: Value, old: Value) -> Vec<Value> {
    let external: Vec<String> = match text(o, "/spec/type") {
        "ExternalName" => vec![text(o, "/spec/externalName").to_owned()],
        kind => {
            let mut ips: Vec<String> = Vec::new();
            if kind == "LoadBalancer" {
                for i in list(o, "/status/loadBalancer/ingress") {
                    let ip = text(i, "/ip");
                    ips.push(if ip.is_empty() {
                        text(i, "/hostname").to_owned()
                    } else {
                        ip.to_owned()
                    });
                }
                if ips.is_empty() {
                    ips.push("<pending>".into());
                }
            }
            ips.extend(
                list(o, "/spec/externalIPs")
                    .iter()
                    .filter_map(|v| v.as_str().map(str::to_owned)),
            );
            ips
        }
    };
    let ports = joined(list(o, "/spec/ports").iter().map(|p| {
        let node = number(p, "/nodePort");
        let node = if node > 0 {
            format!(":{node}")
        } else {
            String::new()
        };
        format!("{}{node}/{}", number(p, "/port"), text(p, "/protocol"))
    }));
    vec![
        name,
        text(o, "/spec/type").into(),
        or(text(o, "/spec/clusterIP"), "<none>"),
        or(&external.join(","), "<none>"),
        or(&ports, "<none>"),
        old,
        or(&pairs(o, "/spec/selector"), "<none>"),
    ]
}

fn some(items: Vec<String>) -> String {
    let n = items.len();
    let mut shown: Vec<String> = items.into_iter().take(3).collect();
    if n > 3 {
        shown.push(format!(" + {} more...", n - 3));
        let tail = shown.pop().unwrap_or_default();
        return format!("{}{tail}", shown.join(","));
    }
    shown.join(",")
}

fn slice(o: &Value, name: Value, old: Value) -> Vec<Value> {
    let ports: Vec<String> = list(o, "/ports")
        .iter()
        .map(|p| {
            p.get("port")
                .and_then(Value::as_i64)
                .map(|n| n.to_string())
                .unwrap_or_else(|| "*".into())
        })
        .collect();
    let addresses: Vec<String> = list(o, "/endpoints")
        .iter()
        .flat_map(|e| list(e, "/addresses"))
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    vec![
        name,
        text(o, "/addressType").into(),
        or(&some(ports), "<unset>"),
        or(&some(addresses), "<unset>"),
        old,
    ]
}

fn endpoints(o: &Value, name: Value, old: Value) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in list(o, "/subsets") {
        for address in list(subset, "/addresses") {
            let ip = text(address, "/ip");
            let ports = list(subset, "/ports");
            if ports.is_empty() {
                all.push(ip.to_owned());
            }
            all.extend(ports.iter().map(|p| format!("{ip}:{}", number(p, "/port"))));
        }
    }
    vec![name, or(&some(all), "<none>"), old]
}

fn node(o: &Value, name: Value, old: Value) -> Vec<Value> {
    let ready = list(o, "/status/conditions")
        .iter()
        .find(|c| text(c, "/type") == "Ready");
    let mut status = match ready.map(|c| text(c, "/status")) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if o.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
        status.push_str(",SchedulingDisabled");
    }
    let labels = o.pointer("/metadata/labels").and_then(Value::as_object);
    let mut roles: Vec<String> = labels
        .into_iter()
        .flatten()
        .filter_map(|(k, v)| match k.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => Some(role.to_owned()),
            _ if k == "kubernetes.io/role" => v.as_str().filter(|r| !r.is_empty()).map(str::to_owned),
            _ => None,
        })
        .collect();
    roles.sort();
    let address = |kind: &str| {
        let found = list(o, "/status/addresses")
            .iter()
            .find(|a| text(a, "/type") == kind);
        or(found.map(|a| text(a, "/address")).unwrap_or_default(), "<none>")
    };
    vec![
        name,
        status.into(),
        or(&roles.join(","), "<none>"),
        old,
        text(o, "/status/nodeInfo/kubeletVersion").into(),
        address("InternalIP"),
        address("ExternalIP"),
        or(text(o, "/status/nodeInfo/osImage"), "<unknown>"),
        or(text(o, "/status/nodeInfo/kernelVersion"), "<unknown>"),
        or(text(o, "/status/nodeInfo/containerRuntimeVersion"), "<unknown>"),
    ]
}

fn pod(o: &Value, name: Value, old: Value) -> Vec<Value> {
    let statuses = list(o, "/status/containerStatuses");
    let ready = statuses
        .iter()
        .filter(|c| c.get("ready") == Some(&Value::Bool(true)))
        .count();
    let restarts: i64 = statuses.iter().map(|c| number(c, "/restartCount")).sum();
    let mut status = text(o, "/status/reason").to_owned();
    if status.is_empty() {
        status = text(o, "/status/phase").to_owned();
    }
    for c in statuses {
        for state in ["waiting", "terminated"] {
            let reason = text(c, &format!("/state/{state}/reason"));
            if !reason.is_empty() {
                status = reason.to_owned();
            }
        }
    }
    if o.pointer("/metadata/deletionTimestamp").is_some() {
        status = "Terminating".into();
    }
    let ips = list(o, "/status/podIPs");
    let ip = ips.first().map(|i| text(i, "/ip")).unwrap_or_default();
    let gates = list(o, "/spec/readinessGates");
    let passed = gates
        .iter()
        .filter(|g| {
            list(o, "/status/conditions")
                .iter()
                .any(|c| text(c, "/type") == text(g, "/conditionType") && text(c, "/status") == "True")
        })
        .count();
    let gates = if gates.is_empty() {
        "<none>".to_owned()
    } else {
        format!("{passed}/{}", gates.len())
    };
    vec![
        name,
        format!("{ready}/{}", list(o, "/spec/containers").len()).into(),
        status.into(),
        restarts.to_string().into(),
        old,
        or(ip, "<none>"),
        or(text(o, "/spec/nodeName"), "<none>"),
        or(text(o, "/status/nominatedNodeName"), "<none>"),
        gates.into(),
    ]
}

fn event(o: &Value, name: Value) -> Vec<Value> {
    // Both forms of events.
    let either = |a: &str, b: &str| {
        let first = text(o, a);
        if first.is_empty() {
            text(o, b).to_owned()
        } else {
            first.to_owned()
        }
    };
    let first = ["/firstTimestamp", "/deprecatedFirstTimestamp", "/eventTime"]
        .iter()
        .map(|p| text(o, p))
        .find(|t| !t.is_empty())
        .unwrap_or_default();
    let last = [
        "/series/lastObservedTime",
        "/lastTimestamp",
        "/deprecatedLastTimestamp",
    ]
    .iter()
    .map(|p| text(o, p))
    .find(|t| !t.is_empty())
    .unwrap_or(first);
    let about = if o.get("involvedObject").is_some() {
        "involvedObject"
    } else {
        "regarding"
    };
    let kind = text(o, &format!("/{about}/kind")).to_lowercase();
    let target = text(o, &format!("/{about}/name"));
    let target = if target.is_empty() {
        kind
    } else {
        format!("{kind}/{target}")
    };
    let component = either("/source/component", "/deprecatedSource/component");
    let host = either("/source/host", "/deprecatedSource/host");
    let component = if component.is_empty() {
        either("/reportingComponent", "/reportingController")
    } else {
        component
    };
    let host = if host.is_empty() {
        text(o, "/reportingInstance").to_owned()
    } else {
        host
    };
    let source = if host.is_empty() {
        component
    } else {
        format!("{component}, {host}")
    };
    let count = [
        number(o, "/series/count"),
        number(o, "/count"),
        number(o, "/deprecatedCount"),
    ]
    .into_iter()
    .find(|n| *n > 0)
    .unwrap_or(1);
    vec![
        age(last).into(),
        text(o, "/type").into(),
        text(o, "/reason").into(),
        target.into(),
        text(o, &format!("/{about}/fieldPath")).into(),
        source.into(),
        either("/message", "/note").trim().into(),
        age(first).into(),
        count.into(),
        name,
    ]
}

fn binding(o: &Value, name: Value, old: Value) -> Vec<Value> {
    let role = format!("{}/{}", text(o, "/roleRef/kind"), text(o, "/roleRef/name"));
    let of = |kind: &str| {
        joined(
            list(o, "/subjects")
                .iter()
                .filter(|s| text(s, "/kind") == kind)
                .map(|s| {
                    let ns = text(s, "/namespace");
                    let n = text(s, "/name");
                    if ns.is_empty() {
                        n.to_owned()
                    } else {
                        format!("{ns}/{n}")
                    }
                }),
        )
    };
    vec![
        name,
        role.into(),
        old,
        of("User").into(),
        of("Group").into(),
        of("ServiceAccount").into(),
    ]
}
