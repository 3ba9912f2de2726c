//! Sets of fields, as `fieldsV1` writes them.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// A set of field paths. A node is a path element; its key is written as in `fieldsV1`: `f:name`,
/// `k:{"name":"x"}`, `v:"x"`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FieldSet {
    /// Whether the path that ends here is itself in the set.
    pub(crate) member: bool,
    /// Paths that go on.
    pub(crate) children: BTreeMap<String, FieldSet>,
}

impl FieldSet {
    /// Reads `fieldsV1`.
    pub(crate) fn from_json(json: &Value) -> Self {
        let mut set = FieldSet::default();
        if let Some(map) = json.as_object() {
            for (key, sub) in map {
                if key == "." {
                    set.member = true;
                } else {
                    let mut child = FieldSet::from_json(sub);
                    if child.children.is_empty() {
                        child.member = true;
                    }
                    set.children.insert(key.clone(), child);
                }
            }
        }
        set
    }

    /// Writes `fieldsV1`.
    pub(crate) fn to_json(&self) -> Value {
        let mut map = Map::new();
        if self.member && !self.children.is_empty() {
            map.insert(".".into(), Value::Object(Map::new()));
        }
        for (key, child) in &self.children {
            map.insert(key.clone(), child.to_json());
        }
        Value::Object(map)
    }

    /// Whether nothing is in the set.
    pub(crate) fn is_empty(&self) -> bool {
        !self.member && self.children.values().all(FieldSet::is_empty)
    }

    /// Puts a path in.
    pub(crate) fn insert(&mut self, path: &[String]) {
        let mut at = self;
        for part in path {
            at = at.children.entry(part.clone()).or_default();
        }
        at.member = true;
    }

    /// Both sets together.
    pub(crate) fn union(&self, other: &FieldSet) -> FieldSet {
        let mut out = self.clone();
        out.member |= other.member;
        for (key, child) in &other.children {
            let merged = match out.children.get(key) {
                Some(mine) => mine.union(child),
                None => child.clone(),
            };
            out.children.insert(key.clone(), merged);
        }
        out
    }

    fn tidy(mut self) -> FieldSet {
        self.children.retain(|_, c| !c.is_empty());
        self
    }

    /// What is in this set and not in the other.
    pub(crate) fn difference(&self, other: &FieldSet) -> FieldSet {
        let mut out = FieldSet {
            member: self.member && !other.member,
            children: BTreeMap::new(),
        };
        for (key, child) in &self.children {
            let rest = match other.children.get(key) {
                Some(theirs) => child.difference(theirs),
                None => child.clone(),
            };
            out.children.insert(key.clone(), rest);
        }
        out.tidy()
    }

    /// What is in both.
    pub(crate) fn intersection(&self, other: &FieldSet) -> FieldSet {
        let mut out = FieldSet {
            member: self.member && other.member,
            children: BTreeMap::new(),
        };
        for (key, child) in &self.children {
            if let Some(theirs) = other.children.get(key) {
                out.children.insert(key.clone(), child.intersection(theirs));
            }
        }
        out.tidy()
    }

    /// All paths in the set, in order.
    pub(crate) fn paths(&self) -> Vec<Vec<String>> {
        let mut out = Vec::new();
        self.collect(&mut Vec::new(), &mut out);
        out
    }

    fn collect(&self, prefix: &mut Vec<String>, out: &mut Vec<Vec<String>>) {
        if self.member {
            out.push(prefix.clone());
        }
        for (key, child) in &self.children {
            prefix.push(key.clone());
            child.collect(prefix, out);
            prefix.pop();
        }
    }
}

/// A path as people write it: `.spec.ports[name="x"].port`.
pub(super) fn shown(path: &[String]) -> String {
    let mut out = String::new();
    for part in path {
        if let Some(name) = part.strip_prefix("f:") {
            out.push('.');
            out.push_str(name);
        } else if let Some(keys) = part.strip_prefix("k:") {
            let map: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let parts: Vec<String> = map.iter().map(|(k, v)| format!("{k}={v}")).collect();
            out.push_str(&format!("[{}]", parts.join(",")));
        } else if let Some(value) = part.strip_prefix("v:") {
            out.push_str(&format!("[={value}]"));
        } else {
            out.push_str(&format!("[{part}]"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_what_it_writes() {
        let json = json!({"f:spec": {".": {}, "f:ports": {"k:{\"name\":\"a\"}": {".": {}, "f:port": {}}}, "f:size": {}}});
        assert_eq!(FieldSet::from_json(&json).to_json(), json);
    }

    #[test]
    fn set_arithmetic() {
        let a = FieldSet::from_json(&json!({"f:a": {}, "f:b": {".": {}, "f:c": {}, "f:d": {}}}));
        let b = FieldSet::from_json(&json!({"f:b": {"f:c": {}}, "f:e": {}}));
        assert_eq!(
            a.difference(&b).to_json(),
            json!({"f:a": {}, "f:b": {".": {}, "f:d": {}}})
        );
        assert_eq!(a.intersection(&b).to_json(), json!({"f:b": {"f:c": {}}}));
    }
}
