//! Comparing two answers but for what differs in every run.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use regex::Regex;
use serde_json::{Map, Value, json};

/// Values of the recording and what stands for them here.
#[derive(Debug, Default)]
pub(crate) struct Names {
    known: BTreeMap<String, String>,
    back: BTreeMap<String, String>,
    versions: BTreeMap<u64, u64>,
    /// The first version of the recording.
    begun: Option<u64>,
}

impl Names {
    /// Notes that `recorded` is `here`; false if either was something else before.
    fn same(&mut self, recorded: &str, here: &str) -> bool {
        let known = self
            .known
            .entry(recorded.to_owned())
            .or_insert_with(|| here.to_owned());
        let back = self
            .back
            .entry(here.to_owned())
            .or_insert_with(|| recorded.to_owned());
        known == here && back == recorded
    }

    /// The same for resource versions, whose order is theirs too.
    fn same_version(&mut self, recorded: &str, here: &str) -> bool {
        let (Ok(r), Ok(h)) = (recorded.parse::<u64>(), here.parse::<u64>()) else {
            return recorded == here;
        };
        let same = *self.versions.entry(r).or_insert(h) == h;
        // What both servers made before the recording began came about in an order of its own.
        let begun = *self.begun.get_or_insert(r);
        let before = self.versions.range(begun.min(r)..r).next_back();
        let after = self.versions.range((r + 1).max(begun)..).next();
        let before = before.is_none_or(|(_, v)| *v <= h);
        let after = r < begun || after.is_none_or(|(_, v)| *v >= h);
        same && before && after
    }

    fn version(&self, recorded: u64) -> u64 {
        // Versions that objects of the recording never had (1, 2, 99999999) mean themselves.
        self.versions.get(&recorded).copied().unwrap_or(recorded)
    }

    fn token(&self, recorded: &str) -> Option<String> {
        let bytes = URL_SAFE_NO_PAD.decode(recorded).ok()?;
        let mut token: Value = serde_json::from_slice(&bytes).ok()?;
        let rv = token["rv"].as_u64()?;
        token["rv"] = self.version(rv).into();
        Some(URL_SAFE_NO_PAD.encode(token.to_string()))
    }

    /// A request's path with this run's values.
    pub(crate) fn in_path(&self, path: &str) -> String {
        let Some((path, query)) = path.split_once('?') else {
            return path.to_owned();
        };
        let parts: Vec<String> = query
            .split('&')
            .map(|pair| match pair.split_once('=') {
                Some(("resourceVersion", v)) => {
                    format!(
                        "resourceVersion={}",
                        v.parse()
                            .map(|n| self.version(n).to_string())
                            .unwrap_or(v.to_owned())
                    )
                }
                Some(("continue", v)) => format!("continue={}", self.token(v).unwrap_or(v.to_owned())),
                _ => pair.to_owned(),
            })
            .collect();
        format!("{path}?{}", parts.join("&"))
    }

    /// A request's text with this run's values.
    pub(crate) fn in_text(&self, text: &str) -> String {
        self.known.iter().fold(text.to_owned(), |text, (recorded, here)| {
            text.replace(recorded.as_str(), here)
        })
    }

    /// A request's body with this run's values.
    pub(crate) fn in_value(&self, value: &Value) -> Value {
        match value {
            Value::Object(map) => map
                .iter()
                .map(|(k, v)| {
                    let v = match (k.as_str(), v.as_str().and_then(|s| s.parse().ok())) {
                        ("resourceVersion", Some(n)) => self.version(n).to_string().into(),
                        _ => self.in_value(v),
                    };
                    (k.clone(), v)
                })
                .collect::<Map<_, _>>()
                .into(),
            Value::Array(list) => list.iter().map(|v| self.in_value(v)).collect(),
            Value::String(s) => self.in_text(s).into(),
            other => other.clone(),
        }
    }
}

fn regex(text: &str) -> Regex {
    Regex::new(text).unwrap()
}

fn is_uuid(text: &str) -> bool {
    regex("^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$").is_match(text)
}

fn is_recent(text: &str) -> bool {
    regex(r"^2\d{3}-\d\d-\d\dT\d\d:\d\d:\d\dZ$").is_match(text) && !text.starts_with("2026-01-01T")
}

fn is_age(text: &str) -> bool {
    regex(r"^(\d+[smhdy]){1,2}$").is_match(text)
}

fn is_pool_address(text: &str) -> bool {
    text.starts_with("10.96.") && text != "10.96.0.1" && text != "10.96.0.77"
}

/// Sentences with numbers of this run in them.
fn sentence(text: &str) -> String {
    let text = regex(r"current: \d+")
        .replace_all(text, "current: N")
        .into_owned();
    regex(r"too old resource version: (\d+) \(\d+\)")
        .replace_all(&text, "too old resource version: $1 (N)")
        .into_owned()
}

/// Compares two bodies. Problems name the path; what of the recording is not here goes to `narrowed`.
pub(crate) fn compare(
    id: &str,
    recorded: &Value,
    here: &Value,
    names: &mut Names,
    problems: &mut Vec<String>,
    narrowed: &mut BTreeSet<String>,
) {
    let (recorded, here) = super::replay::adapt(id, recorded, here, &mut |what| {
        narrowed.insert(format!("{id}: {what}"));
    });
    at(&recorded, &here, "", "", names, problems);
}

fn at(recorded: &Value, here: &Value, path: &str, key: &str, names: &mut Names, problems: &mut Vec<String>) {
    if problems.len() > 12 {
        return;
    }
    match (recorded, here) {
        (Value::Object(a), Value::Object(b)) => {
            // Owned fields have keys with UIDs in them.
            let a: Map<String, Value> = a.iter().map(|(k, v)| (names.in_text(k), v.clone())).collect();
            for name in a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))) {
                let path = format!("{path}.{name}");
                match (a.get(name), b.get(name)) {
                    (Some(x), Some(y)) => at(x, y, &path, name, names, problems),
                    (Some(x), None) => problems.push(format!("{path}: recorded {x}, missing here")),
                    (None, Some(y)) => problems.push(format!("{path}: not recorded, here {y}")),
                    (None, None) => {}
                }
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            let (mut a, mut b) = (a.clone(), b.clone());
            if key == "managedFields" {
                // Their order depends on whether a second ended between two writes.
                let sort = |l: &mut Vec<Value>| {
                    l.sort_by_key(|m| json!([m["manager"], m["operation"], m["subresource"]]).to_string())
                };
                sort(&mut a);
                sort(&mut b);
            }
            if a.len() != b.len() {
                problems.push(format!(
                    "{path}: recorded {} items, here {}: {}",
                    a.len(),
                    b.len(),
                    here
                ));
                return;
            }
            for (i, (x, y)) in a.iter().zip(&b).enumerate() {
                at(x, y, &format!("{path}[{i}]"), key, names, problems);
            }
        }
        (Value::String(a), Value::String(b)) => {
            if !text(a, b, key, names) {
                problems.push(format!("{path}: recorded {a:?}, here {b:?}"));
            }
        }
        (a, b) if a == b => {}
        (a, b) => problems.push(format!("{path}: recorded {a}, here {b}")),
    }
}

fn text(recorded: &str, here: &str, key: &str, names: &mut Names) -> bool {
    if key == "resourceVersion" {
        return names.same_version(recorded, here);
    }
    if recorded == here {
        return true;
    }
    if is_uuid(recorded) && is_uuid(here) {
        return names.same(recorded, here);
    }
    if is_recent(recorded) && is_recent(here) {
        return true;
    }
    if key == "cells" && is_age(recorded) && is_age(here) {
        return true;
    }
    if is_pool_address(recorded) && is_pool_address(here) {
        return names.same(recorded, here);
    }
    if key == "continue" {
        return names.token(recorded).as_deref() == Some(here);
    }
    if key == "token" {
        return recorded == "<jwt>" && here.split('.').count() == 3 && names.same(recorded, here);
    }
    if key == "name" && recorded.starts_with("gen-") && here.starts_with("gen-") {
        return recorded.len() == here.len() && names.same(recorded, here);
    }
    if recorded.starts_with("JTI=") {
        return is_uuid(here.strip_prefix("JTI=").unwrap_or_default());
    }
    if key == "serverAddress" {
        return true;
    }
    names.in_text(&sentence(recorded)) == sentence(here)
}
