//! JSON patch (RFC 6902).

use serde_json::Value;

/// More operations than this are refused, as in Kubernetes.
const MAX_OPERATIONS: usize = 10_000;

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
    for operation in operations {
        let text = |key: &str| operation.get(key).and_then(Value::as_str);
        let path = pointer(text("path").ok_or(Refused::Failed)?)?;
        let value = || operation.get("value").cloned().unwrap_or(Value::Null);
        match text("op") {
            Some("add") => add(&mut doc, &path, value())?,
            Some("remove") => {
                remove(&mut doc, &path)?;
            }
            Some("replace") => {
                *find(&mut doc, &path).ok_or(Refused::Failed)? = value();
            }
            Some("move") => {
                let from = pointer(text("from").ok_or(Refused::Failed)?)?;
                if path.len() > from.len() && path.starts_with(&from) {
                    return Err(Refused::Failed);
                }
                let moved = remove(&mut doc, &from)?;
                add(&mut doc, &path, moved)?;
            }
            Some("copy") => {
                let from = pointer(text("from").ok_or(Refused::Failed)?)?;
                let copied = find(&mut doc, &from).ok_or(Refused::Failed)?.clone();
                add(&mut doc, &path, copied)?;
            }
            Some("test") => {
                let have = find(&mut doc, &path).cloned().unwrap_or(Value::Null);
                if have != value() {
                    return Err(Refused::Failed);
                }
            }
            _ => return Err(Refused::Failed),
        }
    }
    Ok(doc)
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
