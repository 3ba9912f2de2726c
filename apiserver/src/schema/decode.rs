//! Whether a value could be read into a built-in type at all, in the words of Go's JSON decoder.

use serde_json::Value;

use super::{Schema, Type, bytes};
use crate::json::go_kind;

/// The first value that does not fit its type.
pub(crate) fn mismatch(value: &Value, schema: &Schema) -> Option<String> {
    at(value, schema, "", "")
}

fn go_type(schema: &Schema) -> String {
    match schema.kind {
        Type::String => "string".into(),
        Type::Boolean => "bool".into(),
        Type::Integer => schema.format.clone().unwrap_or_else(|| "int".into()),
        Type::Number => "float64".into(),
        Type::Array => {
            format!(
                "[]{}",
                schema
                    .items
                    .as_ref()
                    .map(|i| go_type(i))
                    .unwrap_or_else(|| "interface {}".into())
            )
        }
        Type::Object if !schema.go_type.is_empty() => format!("v1.{}", schema.go_type),
        Type::Object => "map[string]string".into(),
        Type::Any => "interface {}".into(),
    }
}

fn at(value: &Value, schema: &Schema, owner: &str, path: &str) -> Option<String> {
    if value.is_null() || schema.int_or_string {
        return None;
    }
    let fits = match schema.kind {
        Type::Any => true,
        Type::Object => value.is_object(),
        Type::Array => value.is_array(),
        Type::String => value.is_string(),
        Type::Boolean => value.is_boolean(),
        Type::Integer => match schema.format.as_deref() {
            Some("int32") => value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
            _ => value.is_i64() || value.is_u64(),
        },
        Type::Number => value.is_number(),
    };
    // Quantities may be written as numbers.
    let quantity = schema.go_type == "Quantity" && value.is_number();
    if !fits && !quantity {
        let mut kind = go_kind(value).to_owned();
        if value.is_number() && schema.kind == Type::Integer {
            kind = format!("number {value}");
        }
        let field = if path.is_empty() {
            String::new()
        } else {
            format!(" field {owner}.{path}")
        };
        return Some(format!(
            "json: cannot unmarshal {kind} into Go struct{field} of type {}",
            go_type(schema)
        ));
    }
    match value {
        Value::String(text) if schema.format.as_deref() == Some("byte") => bytes::decode(text)
            .err()
            .map(|at| format!("illegal base64 data at input byte {at}")),
        Value::Object(map) => map.iter().find_map(|(name, sub)| {
            let s = schema.field(name)?;
            let owner = if schema.go_type.is_empty() {
                owner
            } else {
                &schema.go_type
            };
            // Keys of maps are no part of a field's path.
            let path = if !schema.properties.contains_key(name) {
                path.to_owned()
            } else if path.is_empty() {
                name.clone()
            } else {
                format!("{path}.{name}")
            };
            at(sub, s, owner, &path)
        }),
        Value::Array(list) => {
            let s = schema.items.as_ref()?;
            list.iter().find_map(|item| at(item, s, owner, path))
        }
        _ => None,
    }
}
