//! JSON patch (RFC 6902).

use serde_json::Value;

use crate::json::size;

/// More operations than this are refused, as in Kubernetes.
const MAX_OPERATIONS: usize = 10_000;
/// What all `copy` operations of a patch may add, in bytes: a few of them could double an object without
/// end.
const MAX_COPIED: usize = 3 << 20;
/// No object nests deeper, however it came about; bodies may not either.
const MAX_DEPTH: usize = 127;

/// Why a patch was refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It is not a JSON patch.
    Malformed(String),
    /// An operation cannot be done on this object.
    Failed,
}

/// Carries out a JSON patch on a copy; the object is only changed as a whole.
pub(crate) fn json_patch(target: &Value, patch: &Value) -> Result<Value, Refused> {
    let malformed = |why: &str| Refused::Malformed(why.to_owned());
    let operations = patch
        .as_array()
        .ok_or_else(|| malformed("json: cannot unmarshal object into Go value of type jsonpatch.Patch"))?;
    if operations.len() > MAX_OPERATIONS {
        return Err(malformed(
            "The allowed maximum operations in a JSON patch is 10000",
        ));
    }
    let mut doc = target.clone();
    let mut bounds = Bounds {
        copied: 0,
        depth: depth(&doc),
    };
    for operation in operations {
        let text = |key: &str| operation.get(key).and_then(Value::as_str);
        let path = pointer(text("path").ok_or(Refused::Failed)?)?;
        let value = || operation.get("value").cloned().unwrap_or(Value::Null);
        match text("op") {
            Some("add") => {
                let value = value();
                let deep = depth(&value);
                add(&mut doc, &path, value)?;
                bounds.nested(&doc, path.len() + deep)?;
            }
            Some("remove") => {
                remove(&mut doc, &path)?;
            }
            Some("replace") => {
                let value = value();
                let deep = depth(&value);
                *find(&mut doc, &path).ok_or(Refused::Failed)? = value;
                bounds.nested(&doc, path.len() + deep)?;
            }
            Some("move") => {
                let from = pointer(text("from").ok_or(Refused::Failed)?)?;
                if path.len() > from.len() && path.starts_with(&from) {
                    return Err(Refused::Failed);
                }
                let moved = remove(&mut doc, &from)?;
                add(&mut doc, &path, moved)?;
                bounds.nested(&doc, (path.len() + bounds.depth).saturating_sub(from.len()))?;
            }
            Some("copy") => {
                let from = pointer(text("from").ok_or(Refused::Failed)?)?;
                let source = find(&mut doc, &from).ok_or(Refused::Failed)?;
                bounds.copies(source)?;
                let copied = source.clone();
                add(&mut doc, &path, copied)?;
                bounds.nested(&doc, (path.len() + bounds.depth).saturating_sub(from.len()))?;
            }
            Some("test") => {
                let have = find(&mut doc, &path).map_or(&Value::Null, |v| &*v);
                if have != operation.get("value").unwrap_or(&Value::Null) {
                    return Err(Refused::Failed);
                }
            }
            _ => return Err(Refused::Failed),
        }
    }
    Ok(doc)
}

/// What a patch has used up.
struct Bounds {
    copied: usize,
    /// The document nests no deeper.
    depth: usize,
}

impl Bounds {
    fn copies(&mut self, value: &Value) -> Result<(), Refused> {
        self.copied += size(value);
        if self.copied > MAX_COPIED {
            return Err(Refused::Malformed(format!(
                "the copies that it makes take more than {MAX_COPIED} bytes"
            )));
        }
        Ok(())
    }

    /// Takes note of a place that may nest so deep; looks only where that would be too much.
    fn nested(&mut self, doc: &Value, deep: usize) -> Result<(), Refused> {
        self.depth = self.depth.max(deep);
        if self.depth > MAX_DEPTH {
            self.depth = depth(doc);
        }
        if self.depth > MAX_DEPTH {
            return Err(Refused::Malformed(format!(
                "its result nests deeper than {MAX_DEPTH}"
            )));
        }
        Ok(())
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn pointer(text: &str) -> Result<Vec<String>, Refused> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let rest = text.strip_prefix('/').ok_or(Refused::Failed)?;
    Ok(rest
        .split('/')
        .map(|p| p.replace("~1", "/").replace("~0", "~"))
        .collect())
}

fn index(part: &str, len: usize) -> Option<usize> {
    let i: usize = part.parse().ok()?;
    (i < len).then_some(i)
}

fn find<'a>(doc: &'a mut Value, path: &[String]) -> Option<&'a mut Value> {
    let mut at = doc;
    for part in path {
        at = match at {
            Value::Object(map) => map.get_mut(part)?,
            Value::Array(list) => {
                let i = index(part, list.len())?;
                list.get_mut(i)?
            }
            _ => return None,
        };
    }
    Some(at)
}

fn add(doc: &mut Value, path: &[String], value: Value) -> Result<(), Refused> {
    let Some((last, parent)) = path.split_last() else {
        *doc = value;
        return Ok(());
    };
    match find(doc, parent) {
        Some(Value::Object(map)) => {
            map.insert(last.clone(), value);
            Ok(())
        }
        Some(Value::Array(list)) => {
            let at = if last == "-" {
                list.len()
            } else {
                last.parse::<usize>()
                    .ok()
                    .filter(|i| *i <= list.len())
                    .ok_or(Refused::Failed)?
            };
            list.insert(at, value);
            Ok(())
        }
        _ => Err(Refused::Failed),
    }
}

fn remove(doc: &mut Value, path: &[String]) -> Result<Value, Refused> {
    let (last, parent) = path.split_last().ok_or(Refused::Failed)?;
    match find(doc, parent) {
        Some(Value::Object(map)) => map.shift_remove(last).ok_or(Refused::Failed),
        Some(Value::Array(list)) => {
            let i = index(last, list.len()).ok_or(Refused::Failed)?;
            Ok(list.remove(i))
        }
        _ => Err(Refused::Failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn operations_do_what_the_rfc_says() {
        let doc = json!({"a": [1, 2], "b": {"c": 1}, "x/y": 0});
        let patched = json_patch(
            &doc,
            &json!([
                {"op": "add", "path": "/a/-", "value": 3},
                {"op": "add", "path": "/a/0", "value": 0},
                {"op": "move", "from": "/b/c", "path": "/d"},
                {"op": "copy", "from": "/a", "path": "/b/list"},
                {"op": "replace", "path": "/x~1y", "value": 9},
                {"op": "test", "path": "/d", "value": 1},
                {"op": "remove", "path": "/a/1"},
            ]),
        );
        assert_eq!(
            patched,
            Ok(json!({"a": [0, 2, 3], "b": {"list": [0, 1, 2, 3]}, "x/y": 9, "d": 1}))
        );
    }

    #[test]
    fn a_patch_cannot_make_more_than_it_brings() {
        let doc = json!({"a": ["0123456789"]});
        let twice = json!({"op": "copy", "from": "/a", "path": "/a/-"});
        let refused = json_patch(&doc, &Value::Array(vec![twice.clone(); 40]));
        assert!(
            matches!(&refused, Err(Refused::Malformed(why)) if why.contains("copies")),
            "{refused:?}"
        );
        assert!(json_patch(&doc, &Value::Array(vec![twice; 8])).is_ok());

        // Deeper by one with every three operations, and never with a long path.
        let deeper = [
            json!({"op": "add", "path": "/b", "value": {}}),
            json!({"op": "move", "from": "/a", "path": "/b/a"}),
            json!({"op": "move", "from": "/b", "path": "/a"}),
        ];
        let many: Vec<Value> = deeper.iter().cycle().take(9_000).cloned().collect();
        let refused = json_patch(&doc, &Value::Array(many));
        assert!(
            matches!(&refused, Err(Refused::Malformed(why)) if why.contains("deeper")),
            "{refused:?}"
        );
        let there_and_back = [
            json!({"op": "move", "from": "/a", "path": "/c/d/a"}),
            json!({"op": "move", "from": "/c/d/a", "path": "/a"}),
        ];
        let many: Vec<Value> = there_and_back.iter().cycle().take(1_000).cloned().collect();
        let doc = json!({"a": 1, "c": {"d": {}}});
        assert_eq!(json_patch(&doc, &Value::Array(many)), Ok(doc));
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        let doc = json!({"a": [1]});
        for op in [
            json!({"op": "remove", "path": "/b"}),
            json!({"op": "replace", "path": "/a/7", "value": 1}),
            json!({"op": "add", "path": "/a/7", "value": 1}),
            json!({"op": "add", "path": "/b/c", "value": 1}),
            json!({"op": "test", "path": "/a/0", "value": 2}),
            json!({"op": "move", "from": "/a", "path": "/a/0"}),
            json!({"op": "nope", "path": "/a"}),
            json!({"path": "/a"}),
        ] {
            assert_eq!(json_patch(&doc, &json!([op])), Err(Refused::Failed), "{op}");
        }
    }
}
