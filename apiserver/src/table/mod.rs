//! Tables, as kubectl asks for them, and objects without all but their metadata.

mod builtin;
mod jsonpath;

use serde_json::{Map, Value, json};

pub(crate) use jsonpath::Path;

use crate::catalog::{Column, Origin, Resource};

/// How much of each object a table's rows hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Include {
    /// Its metadata.
    #[default]
    Metadata,
    /// All of it.
    Object,
    /// Nothing.
    None,
}

/// The object's metadata only.
pub(crate) fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({}))})
}

/// A table of objects.
pub(crate) fn table(
    resource: &Resource,
    objects: &[Value],
    include: Include,
    rv: &str,
    token: &str,
    remaining: Option<usize>,
) -> Value {
    let columns: Vec<Column> = match &resource.origin {
        Origin::Custom { columns, .. } => columns.to_vec(),
        Origin::Builtin(kind) => builtin::columns(*kind),
    };
    let mut rows = Vec::with_capacity(objects.len());
    for object in objects {
        let cells: Vec<Value> = match &resource.origin {
            Origin::Custom { columns, .. } => columns.iter().map(|c| custom_cell(object, c)).collect(),
            Origin::Builtin(kind) => builtin::cells(*kind, object),
        };
        let mut row = Map::new();
        row.insert("cells".into(), Value::Array(cells));
        match include {
            Include::None => {}
            Include::Metadata => {
                row.insert("object".into(), partial(object));
            }
            Include::Object => {
                row.insert("object".into(), object.clone());
            }
        }
        rows.push(Value::Object(row));
    }
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".into(), rv.into());
    if !token.is_empty() {
        metadata.insert("continue".into(), token.into());
    }
    if let Some(n) = remaining {
        metadata.insert("remainingItemCount".into(), n.into());
    }
    let columns: Vec<Value> = columns
        .iter()
        .map(|c| json!({"name": c.name, "type": c.kind, "format": c.format, "description": c.description, "priority": c.priority}))
        .collect();
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": columns, "rows": rows})
}

fn custom_cell(object: &Value, column: &Column) -> Value {
    let Ok(path) = Path::parse(&column.path) else {
        return Value::Null;
    };
    let found = path.find(object);
    let Some(first) = found.first() else {
        return Value::Null;
    };
    match column.kind.as_str() {
        "integer" => first.as_i64().map(Value::from).unwrap_or(Value::Null),
        "number" => first.as_f64().map(Value::from).unwrap_or(Value::Null),
        "boolean" => first.as_bool().map(Value::from).unwrap_or(Value::Null),
        "date" => first.as_str().map(|t| age(t).into()).unwrap_or(Value::Null),
        _ => {
            let texts: Vec<String> = found.iter().map(|v| text(v)).collect();
            if found.len() == 1 && first.is_null() {
                Value::Null
            } else {
                texts.join(",").into()
            }
        }
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// How long ago a time was, as tables show it.
pub(crate) fn age(time: &str) -> String {
    let Ok(then) = time.parse::<jiff::Timestamp>() else {
        return "<unknown>".into();
    };
    short(jiff::Timestamp::now().as_second() - then.as_second())
}

fn short(seconds: i64) -> String {
    let s = seconds.max(if seconds >= -2 { 0 } else { seconds });
    if s < 0 {
        return "<invalid>".into();
    }
    let (m, h, d) = (s / 60, s / 3600, s / 86_400);
    let both = |a: i64, ua: &str, b: i64, ub: &str| {
        if b == 0 {
            format!("{a}{ua}")
        } else {
            format!("{a}{ua}{b}{ub}")
        }
    };
    if s < 120 {
        format!("{s}s")
    } else if m < 10 {
        both(m, "m", s % 60, "s")
    } else if m < 180 {
        format!("{m}m")
    } else if h < 8 {
        both(h, "h", m % 60, "m")
    } else if h < 48 {
        format!("{h}h")
    } else if d < 8 {
        both(d, "d", h % 24, "h")
    } else if d < 730 {
        format!("{d}d")
    } else if d < 365 * 8 {
        both(d / 365, "y", d % 365, "d")
    } else {
        format!("{}y", d / 365)
    }
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn ages_read_as_in_kubectl() {
        for (seconds, want) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (185, "3m5s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (12_000, "3h20m"),
            (28_800, "8h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (700_000, "8d"),
            (63_072_000, "2y"),
            (-1, "0s"),
            (-100, "<invalid>"),
        ] {
            assert_eq!(short(seconds), want, "{seconds} s");
        }
    }
}
