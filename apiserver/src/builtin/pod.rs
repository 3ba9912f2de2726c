//! Pods.

use serde_json::{Map, Value, json};

use crate::api::Api;
use crate::rest::meta;
use crate::status::{ApiError, ApiResult, Cause};

fn put(map: &mut Map<String, Value>, key: &str, value: Value) {
    map.entry(key).or_insert(value);
}

fn image_policy(image: &str) -> &'static str {
    let name = image.rsplit('/').next().unwrap_or(image);
    if name.contains('@') {
        return "IfNotPresent";
    }
    match name.split_once(':') {
        Some((_, tag)) if tag != "latest" => "IfNotPresent",
        _ => "Always",
    }
}

/// Fills in a pod's specification; also those of templates.
pub(super) fn default_spec(spec: &mut Map<String, Value>) {
    for list in ["initContainers", "containers"] {
        for c in spec
            .get_mut(list)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            let Some(c) = c.as_object_mut() else { continue };
            let image = c
                .get("image")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned();
            put(c, "resources", json!({}));
            put(c, "terminationMessagePath", "/dev/termination-log".into());
            put(c, "terminationMessagePolicy", "File".into());
            put(c, "imagePullPolicy", image_policy(&image).into());
            for p in c
                .get_mut("ports")
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                if let Some(p) = p.as_object_mut() {
                    put(p, "protocol", "TCP".into());
                }
            }
            for e in c
                .get_mut("env")
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                if let Some(f) = e
                    .pointer_mut("/valueFrom/fieldRef")
                    .and_then(Value::as_object_mut)
                {
                    put(f, "apiVersion", "v1".into());
                }
            }
            for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
                if let Some(p) = c.get_mut(probe).and_then(Value::as_object_mut) {
                    put(p, "timeoutSeconds", 1.into());
                    put(p, "periodSeconds", 10.into());
                    put(p, "successThreshold", 1.into());
                    put(p, "failureThreshold", 3.into());
                    if let Some(h) = p.get_mut("httpGet").and_then(Value::as_object_mut) {
                        put(h, "path", "/".into());
                        put(h, "scheme", "HTTP".into());
                    }
                }
            }
        }
    }
    for v in spec
        .get_mut("volumes")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        for kind in ["configMap", "secret", "projected", "downwardAPI"] {
            if let Some(source) = v.get_mut(kind).and_then(Value::as_object_mut) {
                put(source, "defaultMode", 420.into());
            }
        }
        if let Some(path) = v.get_mut("hostPath").and_then(Value::as_object_mut) {
            put(path, "type", "".into());
        }
    }
    put(spec, "restartPolicy", "Always".into());
    put(spec, "terminationGracePeriodSeconds", 30.into());
    put(spec, "dnsPolicy", "ClusterFirst".into());
    put(spec, "securityContext", json!({}));
    put(spec, "schedulerName", "default-scheduler".into());
    if let Some(name) = spec.get("serviceAccountName").cloned() {
        put(spec, "serviceAccount", name);
    } else if let Some(name) = spec.get("serviceAccount").cloned() {
        put(spec, "serviceAccountName", name);
    }
}

pub(super) fn default(object: &mut Value) {
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        default_spec(spec);
        put(spec, "enableServiceLinks", true.into());
    }
}

/// Fields of conditions that are always shown.
pub(super) fn default_status(object: &mut Value) {
    for c in object
        .pointer_mut("/status/conditions")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        if let Some(c) = c.as_object_mut() {
            put(c, "lastProbeTime", Value::Null);
            put(c, "lastTransitionTime", Value::Null);
        }
    }
}

pub(super) fn admit(api: &Api, object: &mut Value) -> ApiResult<()> {
    let namespace = meta::text(object, "namespace").to_owned();
    let name = meta::text(object, "name").to_owned();
    object["status"] = json!({"phase": "Pending", "qosClass": qos(object)});
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else {
        return Ok(());
    };
    let account = spec
        .get("serviceAccountName")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let account = if account.is_empty() {
        "default".to_owned()
    } else {
        account
    };
    if api.store.get("serviceaccounts", &namespace, &account).is_none() {
        let why = format!(
            "error looking up service account {namespace}/{account}: serviceaccount {account:?} not found"
        );
        return Err(ApiError::forbidden("", "pods", &name, &why));
    }
    spec.insert("serviceAccountName".into(), account.clone().into());
    spec.insert("serviceAccount".into(), account.into());
    let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
    if let Some(list) = tolerations.as_array_mut() {
        for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
            let covered = list.iter().any(|t| {
                (t["key"] == key || t.get("key").is_none())
                    && (t["effect"] == "NoExecute" || t.get("effect").is_none())
            });
            if !covered {
                list.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}));
            }
        }
    }
    put(spec, "priority", 0.into());
    put(spec, "preemptionPolicy", "PreemptLowerPriority".into());
    Ok(())
}

fn qos(object: &Value) -> &'static str {
    let containers = object.pointer("/spec/containers").and_then(Value::as_array);
    let mut any = false;
    let mut guaranteed = true;
    for c in containers.into_iter().flatten() {
        let of = |kind: &str| {
            c.pointer(&format!("/resources/{kind}"))
                .and_then(Value::as_object)
        };
        let (limits, requests) = (of("limits"), of("requests"));
        any |= limits.is_some_and(|m| !m.is_empty()) || requests.is_some_and(|m| !m.is_empty());
        let full = limits.is_some_and(|l| {
            ["cpu", "memory"].iter().all(|r| {
                l.contains_key(*r) && requests.is_none_or(|q| q.get(*r).is_none_or(|v| Some(v) == l.get(*r)))
            })
        });
        guaranteed &= full;
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

pub(super) fn validate_spec(spec: &Value, at: &str) -> Vec<Cause> {
    let mut causes = Vec::new();
    let containers = spec
        .get("containers")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    if containers.is_empty() {
        causes.push(Cause::required(format!("{at}.containers"), ""));
    }
    let mut names = Vec::new();
    for (i, c) in containers.iter().enumerate() {
        let at = format!("{at}.containers[{i}]");
        match c.get("name").and_then(Value::as_str).filter(|n| !n.is_empty()) {
            None => causes.push(Cause::required(format!("{at}.name"), "")),
            Some(name) => {
                if let Err(e) = crate::rest::names::label(name) {
                    causes.push(Cause::invalid(format!("{at}.name"), &name.into(), e));
                }
                if names.contains(&name.to_owned()) {
                    causes.push(Cause::duplicate(format!("{at}.name"), &name.into()));
                }
                names.push(name.to_owned());
            }
        }
        if c.get("image").and_then(Value::as_str).is_none_or(str::is_empty) {
            causes.push(Cause::required(format!("{at}.image"), ""));
        }
    }
    let policy = spec
        .get("restartPolicy")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if !["Always", "OnFailure", "Never"].contains(&policy) {
        causes.push(Cause::not_supported(
            format!("{at}.restartPolicy"),
            &policy.into(),
            &["Always", "Never", "OnFailure"].map(Value::from),
        ));
    }
    causes
}

pub(super) fn validate(object: &Value) -> Vec<Cause> {
    validate_spec(object.get("spec").unwrap_or(&Value::Null), "spec")
}

/// Of a pod's specification, hardly anything may change.
pub(super) fn validate_update(old: &Value, new: &Value) -> Vec<Cause> {
    let strip = |o: &Value| {
        let mut spec = o.get("spec").cloned().unwrap_or_default();
        if let Some(map) = spec.as_object_mut() {
            map.shift_remove("activeDeadlineSeconds");
            map.shift_remove("tolerations");
            map.shift_remove("terminationGracePeriodSeconds");
            for list in ["containers", "initContainers"] {
                for c in map
                    .get_mut(list)
                    .and_then(Value::as_array_mut)
                    .into_iter()
                    .flatten()
                {
                    if let Some(c) = c.as_object_mut() {
                        c.shift_remove("image");
                        c.shift_remove("imagePullPolicy");
                    }
                }
            }
        }
        spec
    };
    if strip(old) == strip(new) {
        return Vec::new();
    }
    vec![Cause::forbidden(
        "spec",
        "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
    )]
}
