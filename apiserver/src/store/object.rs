//! One stored object: its JSON, and the few parts of it that are looked at without parsing.

use bytes::Bytes;
use serde_json::Value;

/// An object as it stands in the store. Immutable; a write makes a new one.
#[derive(Debug)]
pub(crate) struct Stored {
    /// The key inside its resource.
    pub(crate) key: Box<str>,
    /// Resource version of the write that made it.
    pub(crate) rv: u64,
    /// Namespace, or empty.
    pub(crate) namespace: String,
    /// Name.
    pub(crate) name: String,
    /// UID.
    pub(crate) uid: String,
    /// Labels, sorted by key.
    pub(crate) labels: Vec<(String, String)>,
    /// UIDs of its owners.
    pub(crate) owners: Vec<String>,
    /// Whether it is being deleted.
    pub(crate) deleting: bool,
    /// The object, as JSON.
    pub(crate) json: Bytes,
}

fn text(value: &Value, key: &str) -> String {
    value
        .get(key)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

impl Stored {
    /// Stamps `value` with the resource version and takes it apart.
    pub(crate) fn from_value(mut value: Value, rv: u64) -> Result<Self, String> {
        {
            let meta = value
                .get_mut("metadata")
                .and_then(Value::as_object_mut)
                .ok_or_else(|| "an object without metadata cannot be stored".to_owned())?;
            meta.insert("resourceVersion".into(), Value::String(rv.to_string()));
        }
        let json = serde_json::to_vec(&value).map_err(|e| e.to_string())?;
        Ok(Self::dissect(&value, rv, Bytes::from(json)))
    }

    /// Reads an object back from its JSON.
    pub(crate) fn from_json(json: Bytes) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(&json).map_err(|e| e.to_string())?;
        let rv = value["metadata"]["resourceVersion"]
            .as_str()
            .and_then(|v| v.parse().ok())
            .ok_or_else(|| "a stored object has no resourceVersion".to_owned())?;
        Ok(Self::dissect(&value, rv, json))
    }

    fn dissect(value: &Value, rv: u64, json: Bytes) -> Self {
        let meta = &value["metadata"];
        let mut labels: Vec<(String, String)> = meta["labels"]
            .as_object()
            .map(|m| {
                m.iter()
                    .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())))
                    .collect::<Vec<_>>()
            })
            .unwrap_or_default();
        labels.sort();
        let owners = meta["ownerReferences"]
            .as_array()
            .map(|list| {
                list.iter()
                    .filter_map(|o| Some(o.get("uid")?.as_str()?.to_owned()))
                    .collect()
            })
            .unwrap_or_default();
        let (namespace, name) = (text(meta, "namespace"), text(meta, "name"));
        Stored {
            key: object_key(&namespace, &name).into(),
            rv,
            namespace,
            name,
            uid: text(meta, "uid"),
            labels,
            owners,
            deleting: meta.get("deletionTimestamp").is_some_and(|v| !v.is_null()),
            json,
        }
    }

    /// The object, parsed. What is stored parses: it was serialised here.
    pub(crate) fn value(&self) -> Value {
        serde_json::from_slice(&self.json).unwrap_or(Value::Null)
    }

    /// The key inside its resource.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }
}

/// `namespace/name`, or `name` where there is no namespace.
pub(crate) fn object_key(namespace: &str, name: &str) -> String {
    if namespace.is_empty() {
        name.to_owned()
    } else {
        format!("{namespace}/{name}")
    }
}
