//! Bodies in protobuf, which typed Kubernetes clients send for built-in kinds.
//!
//! Only requests: answers are JSON, which the same clients accept.

use std::collections::HashMap;
use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::proto::{Reader, Wire};

/// What every body in this form begins with.
const MAGIC: &[u8] = b"k8s\0";
/// Messages nest no deeper in any kind.
const MAX_DEPTH: usize = 32;
/// Fields whose own fields stand in their place in JSON.
const INLINE: &[&str] = &[
    "volumeSource",
    "persistentVolumeSource",
    "handler",
    "localObjectReference",
    "ephemeralContainerCommon",
    "ingressRuleValue",
];
/// Numbers and flags that are something even when they are zero: pointers in the published types. All
/// others are always sent, and zero means that they were left out.
const OPTIONAL: &[&str] = &[
    "activeDeadlineSeconds",
    "allowPrivilegeEscalation",
    "automountServiceAccountToken",
    "backoffLimit",
    "backoffLimitPerIndex",
    "blockOwnerDeletion",
    "completions",
    "controller",
    "defaultMode",
    "enableServiceLinks",
    "expirationSeconds",
    "failedJobsHistoryLimit",
    "fsGroup",
    "gracePeriodSeconds",
    "hostUsers",
    "immutable",
    "leaseDurationSeconds",
    "leaseTransitions",
    "manualSelector",
    "maxFailedIndexes",
    "maxSurge",
    "maxUnavailable",
    "mode",
    "optional",
    "orphanDependents",
    "parallelism",
    "partition",
    "privileged",
    "progressDeadlineSeconds",
    "readOnlyRootFilesystem",
    "ready",
    "replicas",
    "revisionHistoryLimit",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "serving",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "startingDeadlineSeconds",
    "succeededCount",
    "successfulJobsHistoryLimit",
    "suspend",
    "terminating",
    "terminationGracePeriodSeconds",
    "tolerationSeconds",
    "ttlSecondsAfterFinished",
];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Type {
    Text,
    Bytes,
    Flag,
    Whole,
    Double,
    Message(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Shape {
    One,
    List,
    Map,
}

#[derive(Debug)]
struct Field {
    name: &'static str,
    shape: Shape,
    kind: Type,
}

type Messages = HashMap<&'static str, HashMap<u32, Field>>;

fn messages() -> &'static Messages {
    static ALL: OnceLock<Messages> = OnceLock::new();
    ALL.get_or_init(|| {
        include_str!("protobuf.txt")
            .lines()
            .filter(|l| !l.starts_with('#'))
            .filter_map(|line| {
                let (name, fields) = line.split_once(": ")?;
                Some((name, fields.split(' ').filter_map(field).collect()))
            })
            .collect()
    })
}

fn field(text: &'static str) -> Option<(u32, Field)> {
    let (name, rest) = text.split_once('=')?;
    let (number, kind) = rest.split_once(':')?;
    let (shape, kind) = match kind.as_bytes().first()? {
        b'*' => (Shape::List, &kind[1..]),
        b'%' => (Shape::Map, &kind[1..]),
        _ => (Shape::One, kind),
    };
    let kind = match kind {
        "s" => Type::Text,
        "y" => Type::Bytes,
        "b" => Type::Flag,
        "i" => Type::Whole,
        "d" => Type::Double,
        message => Type::Message(message),
    };
    Some((number.parse().ok()?, Field { name, shape, kind }))
}

/// Reads a body.
pub(crate) fn parse(body: &[u8]) -> Result<Value, String> {
    let rest = body
        .strip_prefix(MAGIC)
        .ok_or("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")?;
    let mut envelope = Reader::new(rest);
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    while let Some((number, wire)) = envelope.next()? {
        match (number, wire) {
            (1, Wire::Bytes(meta)) => {
                let mut meta = Reader::new(meta);
                while let Some((number, wire)) = meta.next()? {
                    if let Wire::Bytes(text) = wire {
                        let text = String::from_utf8_lossy(text).into_owned();
                        match number {
                            1 => api_version = text,
                            2 => kind = text,
                            _ => {}
                        }
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let name = message_name(&api_version, &kind).ok_or_else(|| {
        format!("no kind {kind:?} is registered for version {api_version:?} in protobuf form")
    })?;
    let mut object = match message(name, raw, 0)? {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.into());
    Ok(Value::Object(object))
}

fn message_name(api_version: &str, kind: &str) -> Option<&'static str> {
    let group = match api_version.split_once('/') {
        None => "core",
        Some((group, _)) => group.split('.').next()?,
    };
    // Options of requests are known in every group.
    let wanted = if kind == "DeleteOptions" {
        "meta.DeleteOptions".to_owned()
    } else {
        format!("{group}.{kind}")
    };
    messages().keys().find(|k| **k == wanted).copied()
}

fn message(name: &'static str, bytes: &[u8], depth: usize) -> Result<Value, String> {
    if depth > MAX_DEPTH {
        return Err("proto: messages nest too deep".into());
    }
    let fields = messages()
        .get(name)
        .ok_or_else(|| format!("proto: {name} is not known"))?;
    let mut out = Map::new();
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.next()? {
        let Some(field) = fields.get(&number) else {
            continue;
        };
        match field.shape {
            Shape::Map => {
                let Wire::Bytes(entry) = wire else {
                    return Err(wrong(name, field));
                };
                let (key, value) = entry_of(name, field, entry, depth)?;
                let map = out.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
                if let Some(map) = map.as_object_mut() {
                    map.insert(key, value);
                }
            }
            Shape::List => {
                let value = value(name, field, wire, depth)?;
                let list = out.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
                if let Some(list) = list.as_array_mut() {
                    list.push(value);
                }
            }
            Shape::One => {
                let value = value(name, field, wire, depth)?;
                if INLINE.contains(&field.name) {
                    if let Value::Object(inner) = value {
                        out.extend(inner);
                    }
                } else if !left_out(field, &value) {
                    out.insert(field.name.into(), value);
                }
            }
        }
    }
    Ok(plain(name, out))
}

fn wrong(name: &str, field: &Field) -> String {
    format!("proto: wrong wire type in field {} of {name}", field.name)
}

fn left_out(field: &Field, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Number(n) => n.as_f64() == Some(0.0) && !OPTIONAL.contains(&field.name),
        Value::Bool(b) => !b && !OPTIONAL.contains(&field.name),
        Value::Object(m) => m.is_empty() && ["status", "metadata", "creationTimestamp"].contains(&field.name),
        Value::Array(_) => false,
    }
}

fn entry_of(name: &str, field: &Field, bytes: &[u8], depth: usize) -> Result<(String, Value), String> {
    let mut reader = Reader::new(bytes);
    let (mut key, mut found) = (String::new(), None);
    while let Some((number, wire)) = reader.next()? {
        match (number, wire) {
            (1, Wire::Bytes(text)) => key = String::from_utf8_lossy(text).into_owned(),
            (2, wire) => found = Some(value(name, field, wire, depth)?),
            _ => {}
        }
    }
    Ok((key, found.unwrap_or_else(|| "".into())))
}

fn value(name: &str, field: &Field, wire: Wire<'_>, depth: usize) -> Result<Value, String> {
    Ok(match (field.kind, wire) {
        (Type::Text, Wire::Bytes(b)) => std::str::from_utf8(b)
            .map_err(|e| format!("proto: field {} of {name}: {e}", field.name))?
            .into(),
        (Type::Bytes, Wire::Bytes(b)) if field.name == "raw" || field.name == "Raw" => {
            serde_json::from_slice(b).unwrap_or(Value::Null)
        }
        (Type::Bytes, Wire::Bytes(b)) => STANDARD.encode(b).into(),
        (Type::Flag, Wire::Varint(n)) => (n != 0).into(),
        (Type::Whole, Wire::Varint(n)) => (n as i64).into(),
        (Type::Double, Wire::Fixed64(n)) => f64::from_bits(n).into(),
        (Type::Message(inner), Wire::Bytes(b)) => message(inner, b, depth + 1)?,
        _ => return Err(wrong(name, field)),
    })
}

/// Messages that are plain values in JSON.
fn plain(name: &str, mut map: Map<String, Value>) -> Value {
    let number = |map: &Map<String, Value>, key: &str| map.get(key).and_then(Value::as_i64).unwrap_or(0);
    match name {
        "meta.Time" | "meta.MicroTime" => {
            if map.is_empty() {
                return Value::Null;
            }
            let nanos = i32::try_from(number(&map, "nanos")).unwrap_or(0);
            match jiff::Timestamp::new(number(&map, "seconds"), nanos) {
                Ok(t) if name == "meta.Time" => t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into(),
                Ok(t) => t.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string().into(),
                Err(_) => Value::Null,
            }
        }
        "resource.Quantity" => map.shift_remove("string").unwrap_or_else(|| "0".into()),
        "intstr.IntOrString" => {
            if number(&map, "type") == 1 {
                map.shift_remove("strVal").unwrap_or_else(|| "".into())
            } else {
                number(&map, "intVal").into()
            }
        }
        "meta.FieldsV1" => map.shift_remove("Raw").unwrap_or(Value::Null),
        "runtime.RawExtension" => map.shift_remove("raw").unwrap_or(Value::Null),
        n if n.ends_with(".ExtraValue") => map
            .shift_remove("items")
            .unwrap_or_else(|| Value::Array(Vec::new())),
        _ => Value::Object(map),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Writer;
    use serde_json::json;

    fn envelope(api_version: &str, kind: &str, raw: Writer) -> Vec<u8> {
        let mut meta = Writer::default();
        meta.text(1, api_version);
        meta.text(2, kind);
        let mut w = Writer::default();
        w.message(1, &meta);
        w.message(2, &raw);
        [MAGIC, &w.finish()].concat()
    }

    #[test]
    fn a_service_reads_as_its_json() {
        let mut port = Writer::default();
        port.text(2, "TCP");
        port.number(3, 80);
        let mut target = Writer::default();
        target.number(1, 1);
        target.text(3, "http");
        port.message(4, &target);
        let mut entry = Writer::default();
        entry.text(1, "app");
        entry.text(2, "web");
        let mut spec = Writer::default();
        spec.message(1, &port);
        spec.message(2, &entry);
        let mut meta = Writer::default();
        meta.text(1, "web");
        let mut raw = Writer::default();
        raw.message(1, &meta);
        raw.message(2, &spec);
        assert_eq!(
            parse(&envelope("v1", "Service", raw)),
            Ok(
                json!({"metadata": {"name": "web"}, "spec": {"ports": [{"protocol": "TCP", "port": 80, "targetPort": "http"}],
                "selector": {"app": "web"}}, "apiVersion": "v1", "kind": "Service"})
            )
        );
    }

    #[test]
    fn what_is_not_known_or_broken_is_refused() {
        assert!(parse(b"{}").is_err());
        assert!(parse(&envelope("example.dev/v1", "Widget", Writer::default())).is_err());
        let mut raw = Writer::default();
        raw.number(1, 7);
        assert!(
            parse(&envelope("v1", "Service", raw)).is_err(),
            "metadata is a message, not a number"
        );
        let mut cut = envelope("v1", "Service", Writer::default());
        cut.truncate(cut.len() - 1);
        assert!(parse(&cut).is_err());
    }

    #[test]
    fn every_kind_that_is_served_is_known_with_all_it_holds() {
        for resource in crate::catalog::builtin::resources() {
            // Definitions come as JSON or YAML.
            if resource.kind != "CustomResourceDefinition" {
                let version = match resource.group.as_str() {
                    "" => "v1".to_owned(),
                    group => format!("{group}/v1"),
                };
                assert!(
                    message_name(&version, &resource.kind).is_some(),
                    "{version} {}",
                    resource.kind
                );
            }
        }
        for (name, fields) in messages() {
            for field in fields.values() {
                if let Type::Message(inner) = field.kind {
                    assert!(messages().contains_key(inner), "{name}.{}: {inner}", field.name);
                }
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = parse(&bytes);
            let mut raw = envelope("v1", "Pod", Writer::default());
            raw.extend(&bytes);
            let _ = parse(&raw);
        }
    }
}
