//! Events: one thing, stored once, served in an old and a new form.

use serde_json::{Map, Value, json};

use crate::catalog::builtin::Kind;
use crate::rest::meta;
use crate::status::Cause;

/// Fields by their new and their old name.
const NAMES: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

fn rename(value: Value, forward: bool) -> Value {
    let Value::Object(map) = value else { return value };
    let mut out = Map::new();
    for (key, v) in map {
        let name = NAMES.iter().find_map(|(new, old)| {
            let (from, to) = if forward { (new, old) } else { (old, new) };
            (*from == key).then(|| (*to).to_owned())
        });
        out.insert(name.unwrap_or(key), v);
    }
    Value::Object(out)
}

/// The stored form of a new event.
pub(crate) fn to_core(value: Value) -> Value {
    let mut v = rename(value, true);
    v["apiVersion"] = "v1".into();
    v
}

/// The new form of a stored event.
pub(crate) fn from_core(value: Value) -> Value {
    let mut v = rename(value, false);
    v["apiVersion"] = "events.k8s.io/v1".into();
    v
}

fn put(object: &mut Value, key: &str, value: Value) {
    if object.get(key).is_none() {
        object[key] = value;
    }
}

pub(super) fn default_core(object: &mut Value) {
    put(object, "source", json!({}));
    put(object, "firstTimestamp", Value::Null);
    put(object, "lastTimestamp", Value::Null);
    put(object, "eventTime", Value::Null);
    put(object, "reportingComponent", "".into());
    put(object, "reportingInstance", "".into());
}

pub(super) fn default_new(object: &mut Value) {
    put(object, "deprecatedSource", json!({}));
    put(object, "deprecatedFirstTimestamp", Value::Null);
    put(object, "deprecatedLastTimestamp", Value::Null);
}

pub(super) fn validate(kind: Kind, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let (about, reporter) = match kind {
        Kind::Event => ("involvedObject", "reportingComponent"),
        _ => ("regarding", "reportingController"),
    };
    let given = |field: &str| object.get(field).is_some_and(|v| !v.is_null());
    let timed = given("eventTime");
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
    let namespace = object
        .pointer(&format!("/{about}/namespace"))
        .and_then(Value::as_str)
        .unwrap_or_default();
    let own = meta::text(object, "namespace");
    // Events about objects without a namespace have their own places; one with a time of its own may tell of what
    // lies elsewhere.
    let fits = match namespace {
        "" => own == "default" || (timed && own == "kube-system"),
        namespace => timed || namespace == own,
    };
    if !fits {
        causes.push(Cause::invalid(
            "involvedObject.namespace",
            &namespace.into(),
            "does not match event.namespace",
        ));
    }
    if timed {
        for (field, place) in [
            (reporter, "reportingController"),
            ("reportingInstance", "reportingInstance"),
            ("action", "action"),
            ("reason", "reason"),
        ] {
            if text(field).is_empty() {
                causes.push(Cause::required(place, ""));
            }
        }
    }
    if kind == Kind::NewEvent {
        if !timed && !given("deprecatedFirstTimestamp") {
            causes.push(Cause::required("eventTime", ""));
        }
        if timed {
            if !["Normal", "Warning"].contains(&text("type")) {
                causes.push(Cause::invalid(
                    "type",
                    &text("type").into(),
                    "has invalid value: ",
                ));
            }
            if text("note").len() > 1024 {
                causes.push(Cause::invalid(
                    "message",
                    &"".into(),
                    "can have at most 1024 characters",
                ));
            }
        }
    }
    causes
}
