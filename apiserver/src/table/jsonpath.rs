//! The part of JSONPath that printer columns use: fields, indexes, wildcards and equality filters.

use serde_json::Value;

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    Filter {
        path: Vec<Step>,
        equal: bool,
        value: Value,
    },
}

/// A parsed path.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Path {
    steps: Vec<Step>,
}

impl Path {
    /// Parses `.status.conditions[?(@.type=="Ready")].status`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let inner = text
            .strip_prefix('{')
            .and_then(|t| t.strip_suffix('}'))
            .unwrap_or(text);
        if !inner.starts_with('.') && !inner.starts_with('[') {
            return Err(format!("is an invalid JSON path: {text:?} must begin with a dot"));
        }
        let mut rest = inner;
        let steps = steps(&mut rest)?;
        if rest.is_empty() {
            Ok(Path { steps })
        } else {
            Err(format!("is an invalid JSON path: unexpected {rest:?}"))
        }
    }

    /// Everything that the path leads to.
    pub(crate) fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        find(&self.steps, vec![value])
    }
}

fn steps(rest: &mut &str) -> Result<Vec<Step>, String> {
    let mut out = Vec::new();
    loop {
        if let Some(r) = rest.strip_prefix('.') {
            let mut name = String::new();
            let mut chars = r.char_indices().peekable();
            let mut end = r.len();
            while let Some((i, c)) = chars.next() {
                if c == '\\' {
                    if let Some((_, escaped)) = chars.next() {
                        name.push(escaped);
                    }
                } else if ".[]=!<>() ".contains(c) {
                    end = i;
                    break;
                } else {
                    name.push(c);
                }
            }
            *rest = &r[end..];
            match name.as_str() {
                "" if rest.starts_with('[') => {}
                "" if out.is_empty() && rest.is_empty() => {}
                "" => return Err("is an invalid JSON path: empty field name".into()),
                "*" => out.push(Step::All),
                _ => out.push(Step::Field(name)),
            }
        } else if rest.starts_with('[') {
            let end = close(rest).ok_or("is an invalid JSON path: unterminated array")?;
            let inner = rest[1..end].trim();
            *rest = &rest[end + 1..];
            out.push(bracket(inner)?);
        } else {
            return Ok(out);
        }
    }
}

/// Where the bracket that opens the text closes.
fn close(text: &str) -> Option<usize> {
    let mut depth = 0;
    let mut quote = None;
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), _) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') => {
                depth -= 1;
                if depth == 0 {
                    return Some(i);
                }
            }
            _ => {}
        }
    }
    None
}

fn bracket(inner: &str) -> Result<Step, String> {
    let bad = || format!("is an invalid JSON path: {inner:?} is not understood");
    if inner == "*" {
        return Ok(Step::All);
    }
    if let Ok(i) = inner.parse() {
        return Ok(Step::Index(i));
    }
    for q in ['"', '\''] {
        if let Some(name) = inner.strip_prefix(q).and_then(|t| t.strip_suffix(q)) {
            return Ok(Step::Field(name.to_owned()));
        }
    }
    let filter = inner
        .strip_prefix("?(")
        .and_then(|t| t.strip_suffix(')'))
        .ok_or_else(bad)?;
    let mut rest = filter.trim().strip_prefix('@').ok_or_else(bad)?;
    let path = steps(&mut rest)?;
    let rest = rest.trim();
    let (equal, rest) = if let Some(r) = rest.strip_prefix("==") {
        (true, r)
    } else if let Some(r) = rest.strip_prefix("!=") {
        (false, r)
    } else {
        return Err(bad());
    };
    let rest = rest.trim();
    let value = match rest.strip_prefix('\'').and_then(|t| t.strip_suffix('\'')) {
        Some(text) => Value::from(text),
        None => serde_json::from_str(rest).map_err(|_| bad())?,
    };
    Ok(Step::Filter { path, equal, value })
}

fn find<'a>(steps: &[Step], start: Vec<&'a Value>) -> Vec<&'a Value> {
    let mut at = start;
    for step in steps {
        let mut next = Vec::new();
        for value in at {
            match step {
                Step::Field(name) => next.extend(value.get(name)),
                Step::Index(i) => {
                    if let Some(list) = value.as_array() {
                        let n = i64::try_from(list.len()).unwrap_or(i64::MAX);
                        let i = if *i < 0 { n + i } else { *i };
                        next.extend(usize::try_from(i).ok().and_then(|i| list.get(i)));
                    }
                }
                Step::All => match value {
                    Value::Array(list) => next.extend(list),
                    Value::Object(map) => next.extend(map.values()),
                    _ => {}
                },
                Step::Filter {
                    path,
                    equal,
                    value: want,
                } => {
                    for item in value.as_array().into_iter().flatten() {
                        let found = find(path, vec![item]);
                        if found.first().is_some_and(|v| (*v == want) == *equal) {
                            next.push(item);
                        }
                    }
                }
            }
        }
        at = next;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::Path;
    use serde_json::json;

    #[test]
    fn paths_of_printer_columns() {
        let o = json!({"spec": {"size": 3, "tags": ["a", "b"], "m": {"x.y": 1}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Old", "status": "False"}]}});
        for (path, want) in [
            (".spec.size", json!([3])),
            ("{.spec.size}", json!([3])),
            (".spec.tags[*]", json!(["a", "b"])),
            (".spec.tags[-1]", json!(["b"])),
            (".spec.m.x\\.y", json!([1])),
            (".spec.m['x.y']", json!([1])),
            (".status.conditions[?(@.type==\"Ready\")].status", json!(["True"])),
            (".status.conditions[?(@.type=='Old')].status", json!(["False"])),
            (".status.conditions[?(@.type!='Old')].type", json!(["Ready"])),
            (".nope.deep", json!([])),
        ] {
            let parsed = Path::parse(path).unwrap_or_else(|e| panic!("{path}: {e}"));
            assert_eq!(json!(parsed.find(&o)), want, "{path}");
        }
    }

    #[test]
    fn bad_paths_are_refused() {
        for path in ["", "spec", ".spec[", ".spec[?(x)]", ".a..b"] {
            assert!(Path::parse(path).is_err(), "{path:?} should be refused");
        }
    }
}
