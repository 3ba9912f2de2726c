//! Kinds that are kept and shown, and that nothing here acts on: quotas, disruption budgets, jobs, volumes.

use serde_json::{Map, Value, json};

use crate::catalog::builtin::Kind;
use crate::rest::meta;
use crate::status::Cause;

fn put(map: &mut Map<String, Value>, key: &str, value: Value) {
    map.entry(key).or_insert(value);
}

fn spec(object: &mut Value) -> Option<&mut Map<String, Value>> {
    object.get_mut("spec").and_then(Value::as_object_mut)
}

/// The specification of the pods of a template, with what is left out.
fn template(holder: &mut Value) {
    if let Some(pod) = holder
        .pointer_mut("/template/spec")
        .and_then(Value::as_object_mut)
    {
        // Pods of jobs end; which way has to be said.
        let policy = pod.get("restartPolicy").cloned();
        super::pod::default_spec(pod);
        if let Some(policy) = policy {
            pod.insert("restartPolicy".into(), policy);
        }
    }
}

fn job(holder: &mut Map<String, Value>) {
    put(holder, "completions", 1.into());
    put(holder, "parallelism", 1.into());
    put(holder, "backoffLimit", 6.into());
    put(holder, "completionMode", "NonIndexed".into());
    put(holder, "suspend", false.into());
    put(holder, "podReplacementPolicy", "TerminatingOrFailed".into());
}

pub(super) fn default(kind: Kind, object: &mut Value) {
    let uid = meta::text(object, "uid").to_owned();
    match kind {
        Kind::ReplicationController => {
            if let Some(v) = object.get_mut("spec") {
                template(v);
            }
            let labels = object.pointer("/spec/template/metadata/labels").cloned();
            let Some(spec) = spec(object) else { return };
            put(spec, "replicas", 1.into());
            if let Some(labels) = labels {
                put(spec, "selector", labels);
            }
        }
        Kind::Job => {
            if let Some(v) = object.get_mut("spec") {
                template(v);
            }
            let Some(spec) = spec(object) else { return };
            job(spec);
            if spec.get("manualSelector") != Some(&Value::Bool(true)) && !uid.is_empty() {
                put(
                    spec,
                    "selector",
                    json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}),
                );
            }
        }
        Kind::CronJob => {
            if let Some(v) = object.pointer_mut("/spec/jobTemplate/spec") {
                template(v);
            }
            let Some(spec) = spec(object) else { return };
            put(spec, "concurrencyPolicy", "Allow".into());
            put(spec, "suspend", false.into());
            put(spec, "successfulJobsHistoryLimit", 3.into());
            put(spec, "failedJobsHistoryLimit", 1.into());
        }
        Kind::PersistentVolume => {
            let Some(spec) = spec(object) else { return };
            put(spec, "persistentVolumeReclaimPolicy", "Retain".into());
            put(spec, "volumeMode", "Filesystem".into());
            phase(object, "Pending");
        }
        Kind::PersistentVolumeClaim => {
            let Some(spec) = spec(object) else { return };
            put(spec, "volumeMode", "Filesystem".into());
            phase(object, "Pending");
        }
        _ => {}
    }
}

fn phase(object: &mut Value, phase: &str) {
    if object
        .pointer("/status/phase")
        .and_then(Value::as_str)
        .is_none_or(str::is_empty)
    {
        object["status"]["phase"] = phase.into();
    }
}

pub(super) fn validate(kind: Kind, object: &Value) -> Vec<Cause> {
    match kind {
        Kind::PodDisruptionBudget => budget(object),
        Kind::ResourceQuota => quota(object),
        Kind::CronJob => {
            let mut causes = Vec::new();
            let schedule = object.pointer("/spec/schedule").and_then(Value::as_str);
            if schedule.is_none_or(str::is_empty) {
                causes.push(Cause::required("spec.schedule", ""));
            }
            let at = "spec.jobTemplate.spec.template.spec";
            causes.extend(pods(object, "/spec/jobTemplate/spec/template/spec", at, true));
            causes
        }
        _ => {
            let job = kind == Kind::Job;
            pods(object, "/spec/template/spec", "spec.template.spec", job)
        }
    }
}

fn pods(object: &Value, pointer: &str, at: &str, job: bool) -> Vec<Cause> {
    let spec = object.pointer(pointer).cloned().unwrap_or_default();
    let mut causes = super::pod::validate_spec(&spec, at);
    if job && spec.get("restartPolicy") == Some(&"Always".into()) {
        causes.push(Cause::not_supported(
            format!("{at}.restartPolicy"),
            &"Always".into(),
            &["OnFailure", "Never"].map(Value::from),
        ));
    }
    causes
}

/// A number, or a share in percent.
fn amount(value: &Value) -> Result<(), &'static str> {
    match value {
        Value::Number(n) if n.as_i64().is_some_and(|n| n < 0) => Err("must be greater than or equal to 0"),
        Value::Number(_) => Ok(()),
        Value::String(s) => {
            let digits = s.strip_suffix('%').unwrap_or_default();
            let fine = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            if !fine {
                Err(
                    "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
                )
            } else if digits.parse::<u64>().is_ok_and(|n| n > 100) {
                Err("must not be greater than 100%")
            } else {
                Ok(())
            }
        }
        _ => Err("must be an integer or percentage (e.g '5%%')"),
    }
}

fn budget(object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let spec = object.get("spec").cloned().unwrap_or_default();
    let given = |field: &str| spec.get(field).filter(|v| !v.is_null());
    if given("minAvailable").is_some() && given("maxUnavailable").is_some() {
        causes.push(Cause::invalid(
            "spec",
            &spec,
            "minAvailable and maxUnavailable cannot be both set",
        ));
    }
    for field in ["minAvailable", "maxUnavailable"] {
        if let Some(value) = given(field)
            && let Err(why) = amount(value)
        {
            causes.push(Cause::invalid(format!("spec.{field}"), value, why));
        }
    }
    causes
}

fn quota(object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let hard = object.pointer("/spec/hard").and_then(Value::as_object);
    for (name, value) in hard.into_iter().flatten() {
        let field = format!("spec.hard[{name}]");
        if let Err(e) = crate::rest::names::label_key(name) {
            causes.push(Cause::invalid(field.clone(), &name.as_str().into(), e));
        }
        let negative = match value {
            Value::Number(n) => n.as_f64().is_some_and(|n| n < 0.0),
            Value::String(s) => s.starts_with('-'),
            _ => false,
        };
        if negative {
            causes.push(Cause::invalid(field, value, "must be greater than or equal to 0"));
        }
    }
    causes
}
