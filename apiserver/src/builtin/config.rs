//! Secrets and ConfigMaps: their data, what the types of secrets ask for, and what is frozen.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::catalog::builtin::Kind;
use crate::schema::bytes;
use crate::status::Cause;

/// Bytes of all values together.
const MAX_DATA: usize = 1 << 20;
const FROZEN: &str = "field is immutable when `immutable` is set";

fn field<'a>(object: &'a Value, name: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    object.get(name).and_then(Value::as_object).into_iter().flatten()
}

/// Texts become data.
pub(super) fn default_secret(object: &mut Value) {
    let texts = object.as_object_mut().and_then(|m| m.shift_remove("stringData"));
    if let Some(Value::Object(texts)) = texts {
        let mut data = object
            .get("data")
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default();
        for (key, text) in texts {
            data.insert(key, STANDARD.encode(text.as_str().unwrap_or_default()).into());
        }
        if !data.is_empty() {
            object["data"] = Value::Object(data);
        }
    }
    if object
        .get("type")
        .and_then(Value::as_str)
        .is_none_or(str::is_empty)
    {
        object["type"] = "Opaque".into();
    }
    rewrite(object, "data");
}

pub(super) fn default_config_map(object: &mut Value) {
    rewrite(object, "binaryData");
}

/// Data as a server writes it that has read it as bytes: without line ends, and null as nothing.
fn rewrite(object: &mut Value, name: &str) {
    for value in object
        .get_mut(name)
        .and_then(Value::as_object_mut)
        .into_iter()
        .flat_map(Map::values_mut)
    {
        match value {
            Value::Null => *value = "".into(),
            Value::String(text) if STANDARD.decode(text.as_bytes()).is_err() => {
                if let Ok(bytes) = bytes::decode(text) {
                    *text = STANDARD.encode(bytes);
                }
            }
            _ => {}
        }
    }
}

fn key_rule(key: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if key.len() > 253 {
        wrong.push("must be no more than 253 characters".to_owned());
    }
    let fine = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if key.is_empty() || !key.bytes().all(fine) {
        wrong.push("a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')".to_owned());
    }
    match key {
        "." | ".." => wrong.push(format!("must not be '{key}'")),
        _ if key.starts_with("..") => wrong.push("must not start with '..'".to_owned()),
        _ => {}
    }
    wrong
}

fn keys(object: &Value, name: &str, causes: &mut Vec<Cause>) {
    for (key, _) in field(object, name) {
        for wrong in key_rule(key) {
            causes.push(Cause::invalid(
                format!("{name}[{key}]"),
                &key.as_str().into(),
                wrong,
            ));
        }
    }
}

/// Bytes of the values that are base64.
fn encoded(object: &Value, name: &str) -> usize {
    field(object, name)
        .filter_map(|(_, v)| bytes::decode(v.as_str()?).ok())
        .map(|b| b.len())
        .sum()
}

pub(super) fn validate_config_map(object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    keys(object, "data", &mut causes);
    for (key, _) in field(object, "data") {
        if field(object, "binaryData").any(|(other, _)| other == key) {
            causes.push(Cause::invalid(
                format!("data[{key}]"),
                &key.as_str().into(),
                "duplicate of key present in binaryData",
            ));
        }
    }
    keys(object, "binaryData", &mut causes);
    let texts: usize = field(object, "data")
        .filter_map(|(_, v)| v.as_str())
        .map(str::len)
        .sum();
    if texts + encoded(object, "binaryData") > MAX_DATA {
        // A real server names no field of the object by this.
        causes.push(Cause::too_long("[]", MAX_DATA as u64, "bytes"));
    }
    causes
}

pub(super) fn validate_secret(object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    keys(object, "data", &mut causes);
    if encoded(object, "data") > MAX_DATA {
        causes.push(Cause::too_long("data", MAX_DATA as u64, "bytes"));
    }
    let has = |key: &str| field(object, "data").any(|(k, _)| k == key);
    let mut need = |at: &str, key: &str| causes.push(Cause::required(format!("{at}[{key}]"), ""));
    match object.get("type").and_then(Value::as_str).unwrap_or_default() {
        "kubernetes.io/service-account-token" => {
            let name = object.pointer("/metadata/annotations/kubernetes.io~1service-account.name");
            if name.and_then(Value::as_str).is_none_or(str::is_empty) {
                need("metadata.annotations", "kubernetes.io/service-account.name");
            }
        }
        "kubernetes.io/dockercfg" => causes.extend(document(object, ".dockercfg")),
        "kubernetes.io/dockerconfigjson" => causes.extend(document(object, ".dockerconfigjson")),
        // In these two the field is written as a real server writes it.
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            need("data[%s]", "username");
            need("data[%s]", "password");
        }
        "kubernetes.io/ssh-auth" => {
            let key = object.pointer("/data/ssh-privatekey").and_then(Value::as_str);
            if key.is_none_or(str::is_empty) {
                need("data[%s]", "ssh-privatekey");
            }
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                if !has(key) {
                    need("data", key);
                }
            }
        }
        _ => {}
    }
    causes
}

/// A value that is there, and a JSON object.
fn document(object: &Value, key: &str) -> Option<Cause> {
    let at = format!("data[{key}]");
    let Some((_, value)) = field(object, "data").find(|(k, _)| *k == key) else {
        return Some(Cause::required(at, ""));
    };
    let bytes = bytes::decode(value.as_str().unwrap_or_default()).ok()?;
    let why = match crate::json::parse(&bytes) {
        Ok((Value::Object(_) | Value::Null, _)) => return None,
        Ok((other, _)) => format!(
            "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            crate::json::go_kind(&other)
        ),
        Err(e) => e,
    };
    Some(Cause::invalid(at, &"<secret contents redacted>".into(), why))
}

/// What is marked immutable stays, and so does a secret's type.
pub(super) fn validate_frozen(kind: Kind, old: &Value, new: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    if kind == Kind::Secret {
        causes.extend(super::small::immutable(old, new, "/type", "type"));
    }
    if old.get("immutable") != Some(&Value::Bool(true)) {
        return causes;
    }
    if new.get("immutable") != Some(&Value::Bool(true)) {
        causes.push(Cause::forbidden("immutable", FROZEN));
    }
    for name in ["data", "binaryData"] {
        let same = field(old, name).count() == field(new, name).count()
            && field(old, name).all(|(k, v)| new[name].get(k) == Some(v));
        if !same {
            causes.push(Cause::forbidden(name, FROZEN));
        }
    }
    causes
}
