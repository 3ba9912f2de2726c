//! Nodes.

use serde_json::{Value, json};

pub(super) fn default(object: &mut Value) {
    let single = object
        .pointer("/spec/podCIDR")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    if !single.is_empty() && object.pointer("/spec/podCIDRs").is_none() {
        object["spec"]["podCIDRs"] = json!([single]);
    }
    if object.get("spec").is_none() {
        object["spec"] = json!({});
    }
    if object.get("status").is_none() {
        object["status"] = json!({});
    }
    let status = &mut object["status"];
    if status.get("daemonEndpoints").is_none() {
        status["daemonEndpoints"] = json!({"kubeletEndpoint": {"Port": 0}});
    }
    if status.get("nodeInfo").is_none() {
        let fields = [
            "machineID",
            "systemUUID",
            "bootID",
            "kernelVersion",
            "osImage",
            "containerRuntimeVersion",
            "kubeletVersion",
            "kubeProxyVersion",
            "operatingSystem",
            "architecture",
        ];
        status["nodeInfo"] = fields
            .iter()
            .map(|f| ((*f).to_owned(), Value::from("")))
            .collect::<serde_json::Map<_, _>>()
            .into();
    }
}

/// New nodes are not ready until something says so.
pub(super) fn admit(object: &mut Value) {
    let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
    let mut taints: Vec<Value> = object
        .pointer("/spec/taints")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    if !taints
        .iter()
        .any(|t| t["key"] == taint["key"] && t["effect"] == taint["effect"])
    {
        taints.push(taint);
    }
    object["spec"]["taints"] = Value::Array(taints);
}
