//! `fieldSelector=metadata.name=x,spec.nodeName!=y`.

use serde_json::Value;

use crate::store::Stored;

/// A parsed field selector; the empty one takes all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FieldSelector {
    terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    field: String,
    value: String,
    equal: bool,
}

/// Where the field lies in what is stored: events of both groups are stored in the older form.
fn stored(field: &str) -> String {
    match field.strip_prefix("regarding.") {
        Some(rest) => format!("involvedObject.{rest}"),
        None if field == "reportingController" => "reportingComponent".into(),
        None => field.to_owned(),
    }
}

/// What can be selected by, besides name and namespace.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fields<'a> {
    /// These.
    These(&'a [&'a str]),
    /// Nothing, as most built-in kinds say it.
    None,
    /// Whatever is named, where it is not known yet which kind is asked for.
    Any,
}

impl FieldSelector {
    /// Parses a selector.
    pub(crate) fn parse(text: &str, fields: Fields<'_>) -> Result<Self, String> {
        let mut terms = Vec::new();
        for part in split(text) {
            if part.is_empty() {
                continue;
            }
            let (field, value, equal) = if let Some((f, v)) = part.split_once("!=") {
                (f, v, false)
            } else if let Some((f, v)) = part.split_once("==") {
                (f, v, true)
            } else if let Some((f, v)) = part.split_once('=') {
                (f, v, true)
            } else {
                return Err(format!("invalid selector: '{part}'; can't understand '{part}'"));
            };
            let field = field.trim();
            if field.is_empty() && value.is_empty() {
                continue;
            }
            if !["metadata.name", "metadata.namespace"].contains(&field) {
                match fields {
                    Fields::Any => {}
                    Fields::These(fields) if fields.contains(&field) => {}
                    Fields::These(_) => return Err(format!("field label not supported: {field}")),
                    Fields::None => {
                        return Err(format!(
                            "{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
                        ));
                    }
                }
            }
            let value = value
                .replace("\\,", ",")
                .replace("\\=", "=")
                .replace("\\\\", "\\");
            terms.push(Term {
                field: stored(field),
                value,
                equal,
            });
        }
        Ok(FieldSelector { terms })
    }

    /// Whether everything matches.
    pub(crate) fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The one name that can match, if the selector says so.
    pub(crate) fn name(&self) -> Option<&str> {
        self.terms
            .iter()
            .find(|t| t.equal && t.field == "metadata.name")
            .map(|t| t.value.as_str())
    }

    /// Whether the object matches; `kind_fields` reads the kind's own fields out of its JSON.
    pub(crate) fn matches(&self, object: &Stored) -> bool {
        let mut parsed: Option<Value> = None;
        self.terms.iter().all(|t| {
            let equal = match t.field.as_str() {
                "metadata.name" => object.name == t.value,
                "metadata.namespace" => object.namespace == t.value,
                path => {
                    let value = parsed.get_or_insert_with(|| object.value());
                    read(value, path) == t.value
                }
            };
            equal == t.equal
        })
    }
}

fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for c in text.chars() {
        if c == ',' && !escaped {
            parts.push(String::new());
            continue;
        }
        escaped = c == '\\' && !escaped;
        if let Some(last) = parts.last_mut() {
            last.push(c);
        }
    }
    parts
}

fn read(value: &Value, path: &str) -> String {
    let mut at = value;
    for part in path.split('.') {
        match at.get(part) {
            Some(sub) => at = sub,
            None => {
                // What a field is when it is left out.
                return match path {
                    "spec.unschedulable" | "spec.hostNetwork" => "false".into(),
                    _ => String::new(),
                };
            }
        }
    }
    match at {
        Value::String(s) => s.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}
