//! Schemas of objects: what a custom resource definition says, and the same for built-in kinds.
//!
//! A schema says which fields there are (`prune`), what they are when left out (`default`), which values
//! are right (`validate`), and how lists and maps merge (apply, strategic merge).

pub(crate) mod builtin;
pub(crate) mod bytes;
mod compile;
mod decode;
mod format;
mod validate;
mod walk;

use std::collections::BTreeMap;
use std::sync::Arc;

use regex::Regex;
use serde_json::Value;

pub(crate) use compile::compile;
pub(crate) use decode::mismatch;
pub(crate) use validate::{validate, validate_change};
pub(crate) use walk::{default, drop_nulls, prune};

/// JSON type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Type {
    /// Anything.
    #[default]
    Any,
    /// A map.
    Object,
    /// A list.
    Array,
    /// Text.
    String,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// True or false.
    Boolean,
}

impl Type {
    /// As schemas write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Type::Any => "any",
            Type::Object => "object",
            Type::Array => "array",
            Type::String => "string",
            Type::Integer => "integer",
            Type::Number => "number",
            Type::Boolean => "boolean",
        }
    }
}

/// How the items of a list merge.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum ListType {
    /// The list is one value.
    #[default]
    Atomic,
    /// Items are distinct scalars.
    Set,
    /// Items are objects, told apart by these fields.
    Map(Vec<String>),
}

/// Schema of one value.
#[derive(Debug, Clone, Default)]
pub(crate) struct Schema {
    /// Its type.
    pub(crate) kind: Type,
    /// Whether null is a value.
    pub(crate) nullable: bool,
    /// Whether fields that the schema does not name are kept.
    pub(crate) preserve_unknown: bool,
    /// A number or a text.
    pub(crate) int_or_string: bool,
    /// Whether it is an object with apiVersion, kind and metadata.
    pub(crate) embedded: bool,
    /// Fields.
    pub(crate) properties: BTreeMap<String, Arc<Schema>>,
    /// Schema of fields that are not in `properties`.
    pub(crate) additional: Option<Arc<Schema>>,
    /// Schema of items.
    pub(crate) items: Option<Arc<Schema>>,
    /// Fields that must be there.
    pub(crate) required: Vec<String>,
    /// The value when left out.
    pub(crate) default: Option<Value>,
    /// Values that are allowed.
    pub(crate) allowed: Option<Vec<Value>>,
    /// Format of a text or number.
    pub(crate) format: Option<String>,
    /// Pattern of a text, and its source.
    pub(crate) pattern: Option<(String, Regex)>,
    /// Bounds of a number: value, and whether it is itself excluded.
    pub(crate) minimum: Option<(f64, bool)>,
    /// Upper bound.
    pub(crate) maximum: Option<(f64, bool)>,
    /// The number is a multiple of this.
    pub(crate) multiple_of: Option<f64>,
    /// Length of a text.
    pub(crate) min_length: Option<u64>,
    /// Length of a text.
    pub(crate) max_length: Option<u64>,
    /// Number of items.
    pub(crate) min_items: Option<u64>,
    /// Number of items.
    pub(crate) max_items: Option<u64>,
    /// Number of fields.
    pub(crate) min_properties: Option<u64>,
    /// Number of fields.
    pub(crate) max_properties: Option<u64>,
    /// All of these hold as well.
    pub(crate) all_of: Vec<Schema>,
    /// One of these holds at least.
    pub(crate) any_of: Vec<Schema>,
    /// Exactly one of these holds.
    pub(crate) one_of: Vec<Schema>,
    /// This does not hold.
    pub(crate) not: Option<Box<Schema>>,
    /// How a list merges.
    pub(crate) list: ListType,
    /// Whether a map is one value.
    pub(crate) atomic_map: bool,
    /// Built-in kinds: the field a strategic merge patch tells items apart by; `""`: scalars, merged.
    pub(crate) patch_key: Option<&'static str>,
    /// Built-in kinds: an object that is always there, so that it has no owner of its own.
    pub(crate) always: bool,
    /// Built-in kinds: the name of the Go type, for error messages.
    pub(crate) go_type: String,
}

impl Schema {
    /// Schema of a field of an object.
    pub(crate) fn field(&self, name: &str) -> Option<&Arc<Schema>> {
        self.properties.get(name).or(self.additional.as_ref())
    }
}
