//! What clients may send, in any shape. For the fuzzer, and for the replay of what it found.
#![allow(clippy::unwrap_used)]

#[path = "../../fuzz/input.rs"]
mod input;

use std::sync::OnceLock;

use serde_json::{Value, json};

use self::input::Input;
use crate::apply::{self, FieldSet, Manager};
use crate::auth::token::{Claims, ISSUER, Signer};
use crate::catalog::crd;
use crate::json::size;
use crate::patch::{json_patch, merge_patch, strategic_merge_patch};
use crate::schema::builtin::Library;
use crate::schema::{self, Schema};
use crate::selector::{FieldSelector, Fields, LabelSelector};
use crate::store::Stored;
use crate::{json, protobuf, yaml};

/// What copies of one JSON patch may add.
const COPIES: usize = 3 << 20;
/// No object nests deeper.
const DEPTH: usize = 127;

fn depth(value: &Value) -> usize {
    match value {
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn list<const N: usize>(data: &[u8]) -> Option<[Value; N]> {
    serde_json::from_slice::<Vec<Value>>(data).ok()?.try_into().ok()
}

fn service() -> std::sync::Arc<Schema> {
    Library::get().schema("io.k8s.api.core.v1.Service")
}

/// `[object, patch]`: what a patch makes is no larger than what both bring, and nests no deeper.
pub fn patch(data: &[u8]) {
    let Some([object, patch]) = list(data) else { return };
    let brought = size(&object) + size(&patch);
    let deepest = depth(&object).max(depth(&patch));
    if patch.is_array() {
        let before = object.clone();
        if let Ok(new) = json_patch(&object, &patch) {
            assert!(
                size(&new) <= brought + COPIES + 64,
                "{} bytes of {brought}",
                size(&new)
            );
            assert!(depth(&new) <= DEPTH);
        }
        assert_eq!(object, before, "an object is changed as a whole or not at all");
        return;
    }
    let mut new = object.clone();
    merge_patch(&mut new, &patch);
    assert!(size(&new) <= brought + 64 && depth(&new) <= deepest);
    let mut again = new.clone();
    merge_patch(&mut again, &patch);
    assert_eq!(new, again, "the same merge patch again changes something");
    if let Ok(new) = strategic_merge_patch(&object, &patch, &service()) {
        assert!(size(&new) <= brought + 64 && depth(&new) <= deepest, "{new}");
    }
}

fn manager(name: &str, time: &str) -> Manager {
    Manager {
        name: name.into(),
        subresource: String::new(),
        api_version: "v1".into(),
        time: time.into(),
    }
}

/// `[live object, configuration, configuration]`: applying is the same again when it is done again, and
/// sets of fields obey their algebra.
pub fn apply(data: &[u8]) {
    let Some([live, first, second]) = list::<3>(data) else {
        return;
    };
    let schema = service();
    let sets = [&live, &first, &second]
        .map(|v| FieldSet::from_json(v.pointer("/metadata/managedFields/0/fieldsV1").unwrap_or(v)));
    for a in &sets {
        assert_eq!(&FieldSet::from_json(&a.to_json()).to_json(), &a.to_json());
        for b in &sets {
            let (both, rest) = (a.intersection(b), a.difference(b));
            assert!(
                rest.intersection(b).is_empty(),
                "a difference holds what was taken away"
            );
            assert_eq!(both.union(&rest).paths(), a.union(&FieldSet::default()).paths());
            assert_eq!(a.union(b).paths(), b.union(a).paths());
            assert!(a.difference(&a.union(b)).is_empty());
        }
    }
    // What comes here has been read as the kind: its fields have the right types, and lists no doubles.
    let sound = |v: &Value| {
        v.is_object()
            && v.get("metadata").is_none_or(Value::is_object)
            && schema::mismatch(v, &schema).is_none()
            && schema::validate(v, &schema, "").is_empty()
    };
    if ![&live, &first, &second].into_iter().all(sound) {
        return;
    }
    let (one, two) = (
        manager("one", "2026-01-01T00:00:00Z"),
        manager("two", "2026-01-01T00:00:01Z"),
    );
    let apply = |live: &Value, config: &Value, who: &Manager, force| {
        apply::apply(live, config, &schema, who, force, true).map(|done| done.object)
    };
    let mut object = live.clone();
    for (config, who) in [(&first, &one), (&second, &two), (&second, &one)] {
        // Items that cannot be told apart are refused; nothing else is, by force.
        let new = match apply(&object, config, who, true) {
            Ok(new) => new,
            Err(e) => {
                assert!(
                    e.message.starts_with("failed to create typed patch object"),
                    "{}",
                    e.message
                );
                return;
            }
        };
        let again = apply(&new, config, who, false);
        assert_eq!(
            again.ok().as_ref(),
            Some(&new),
            "the same again changes something"
        );
        if let Ok(unforced) = apply(&object, config, who, false) {
            assert_eq!(unforced, new, "force matters without a conflict");
        }
        object = new;
    }
}

/// Label selectors (first byte even) and field selectors.
pub fn selector(data: &[u8]) {
    let mut input = Input::new(data);
    let label = !input.flag();
    let Ok(text) = std::str::from_utf8(input.rest()) else {
        return;
    };
    if label {
        let words: Vec<&str> = text
            .split(|c: char| c.is_whitespace() || "=!(),<>".contains(c))
            .collect();
        let mut labels: Vec<(String, String)> = words
            .chunks(2)
            .map(|pair| (pair[0].to_owned(), pair.get(1).copied().unwrap_or("").to_owned()))
            .collect();
        labels.sort();
        labels.dedup_by(|a, b| a.0 == b.0);
        let Ok(selector) = LabelSelector::parse(text) else {
            return;
        };
        assert_eq!(
            LabelSelector::parse(&format!(" {text} ")).as_ref(),
            Ok(&selector),
            "blanks matter"
        );
        if selector.is_empty() {
            assert!(selector.matches(&labels));
            return;
        }
        // One more condition only takes away.
        let narrower = LabelSelector::parse(&format!("{text},zz")).unwrap();
        assert!(!narrower.matches(&labels) || selector.matches(&labels));
        let other = LabelSelector::parse(&format!("{text},!zz")).unwrap();
        assert_eq!(
            selector.matches(&labels),
            narrower.matches(&labels) != other.matches(&labels)
        );
        return;
    }
    let Ok(selector) = FieldSelector::parse(text, Fields::These(&["spec.nodeName", "spec.hostNetwork"]))
    else {
        return;
    };
    let object = |name: &str| {
        let value = json!({"metadata": {"namespace": "demo", "name": name}, "spec": {"nodeName": "y"}});
        Stored::from_value(value, 1).expect("it has metadata")
    };
    if let Some(name) = selector.name() {
        let other = format!("{name}x");
        assert!(
            !selector.matches(&object(&other)),
            "{name} is the one that can match, and {other} does"
        );
    }
    assert!(!selector.is_empty() || selector.matches(&object("a")));
}

/// Bodies: JSON, YAML, protobuf, streams of YAML, by the first byte.
pub fn body(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.byte() % 4;
    let bytes = input.rest();
    // No text stands for much more than itself.
    let bound = |value: &Value| {
        assert!(
            size(value) <= 64 * bytes.len() + 4096,
            "{} bytes stand for {}",
            bytes.len(),
            size(value)
        );
        assert!(depth(value) <= 2048);
    };
    match kind {
        0 => {
            let theirs = serde_json::from_slice::<Value>(bytes).ok();
            match json::parse(bytes) {
                Ok((value, twice)) => {
                    assert!(twice.len() <= 101 && depth(&value) <= DEPTH);
                    assert_eq!(Some(value), theirs);
                }
                Err(why) => assert!(!why.is_empty() && (theirs.is_none() || why.contains("too many"))),
            }
        }
        1 => {
            if let Ok(value) = std::str::from_utf8(bytes)
                .map_err(drop)
                .and_then(|text| yaml::parse(text).map_err(drop))
            {
                bound(&value);
            }
        }
        2 => {
            if let Ok(value) = protobuf::parse(bytes) {
                bound(&value);
                assert!(value.get("kind").is_some_and(Value::is_string));
            }
        }
        _ => {
            if let Ok(all) = std::str::from_utf8(bytes)
                .map_err(drop)
                .and_then(|text| yaml::documents(text).map_err(drop))
            {
                all.iter().for_each(bound);
            }
        }
    }
}

/// `[schema or custom resource definition, object]`: a schema that is taken can be used on any object.
pub fn crd_schema(data: &[u8]) {
    let Some([mut given, object]) = list::<2>(data) else {
        return;
    };
    if given.get("kind").and_then(Value::as_str) != Some("CustomResourceDefinition") {
        match schema::compile(&given, "spec") {
            Ok(schema) => use_schema(&schema, &object),
            Err(causes) => assert!(causes.iter().all(|c| !c.message.is_empty())),
        }
        return;
    }
    if !given.get("spec").is_some_and(Value::is_object)
        || !given.get("metadata").is_some_and(Value::is_object)
    {
        return;
    }
    crd::complete(&mut given);
    let mut again = given.clone();
    crd::complete(&mut again);
    assert_eq!(given, again, "completing it again changes something");
    if crd::validate(&given).is_empty() {
        let settled = crd::settle(&given, &[], "2026-01-01T00:00:00Z");
        given["status"] = settled;
        for resource in crd::resources(&given, 0) {
            use_schema(&resource.schema, &object);
        }
    }
}

fn use_schema(schema: &Schema, object: &Value) {
    _ = schema::mismatch(object, schema);
    let mut value = object.clone();
    schema::prune(&mut value, schema, true);
    let pruned = value.clone();
    assert!(schema::prune(&mut value, schema, true).is_empty(), "pruned twice");
    assert_eq!(value, pruned);
    schema::drop_nulls(&mut value, schema);
    schema::default(&mut value, schema);
    let defaulted = value.clone();
    schema::default(&mut value, schema);
    assert_eq!(value, defaulted, "defaults are put in twice");
    for cause in schema::validate(&value, schema, "") {
        assert!(!cause.message.is_empty());
    }
}

/// Bearer tokens: none that was not signed here, and none in which anything was changed.
pub fn token(data: &[u8]) {
    static SIGNER: OnceLock<(Signer, String)> = OnceLock::new();
    let (signer, real) = SIGNER.get_or_init(|| {
        let signer = Signer::new(&Signer::generate().unwrap()).unwrap();
        let claims: Claims = serde_json::from_value(json!({
            "aud": [ISSUER], "exp": 2000, "iat": 1000, "iss": ISSUER, "jti": "1", "nbf": 1000,
            "sub": "system:serviceaccount:demo:web",
            "kubernetes.io": {"namespace": "demo", "serviceaccount": {"name": "web", "uid": "1"}},
        }))
        .unwrap();
        let real = signer.sign(&claims).unwrap();
        (signer, real)
    });
    let mut input = Input::new(data);
    if input.byte() % 2 == 1 {
        let text = String::from_utf8_lossy(input.rest()).into_owned();
        assert!(signer.check(&text, 1500).is_none());
        return;
    }
    let mut bytes = real.clone().into_bytes();
    while !input.is_empty() {
        let (at, change) = (input.below(bytes.len()), input.byte());
        bytes[at] = change;
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    assert_eq!(signer.check(&text, 1500).is_some(), text == *real, "{text}");
    for now in [999, 2000, i64::MIN, i64::MAX] {
        assert!(
            signer.check(real, now).is_none(),
            "at {now} the token is not good"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::input::replay;

    #[test]
    fn patches_that_were_found_hold() {
        replay("patch", super::patch);
    }

    #[test]
    fn configurations_that_were_found_hold() {
        replay("apply", super::apply);
    }

    #[test]
    fn selectors_that_were_found_hold() {
        replay("selector", super::selector);
    }

    #[test]
    fn bodies_that_were_found_hold() {
        replay("body", super::body);
    }

    #[test]
    fn schemas_that_were_found_hold() {
        replay("crd_schema", super::crd_schema);
    }

    #[test]
    fn tokens_that_were_found_hold() {
        replay("token", super::token);
    }
}
