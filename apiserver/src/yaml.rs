//! YAML, as Kubernetes reads it.

use serde_json::Value;

/// Parses one document.
pub(crate) fn parse(text: &str) -> Result<Value, String> {
    serde_saphyr::from_str::<Value>(text).map_err(|e| format!("yaml: {e}"))
}

/// Parses a stream of documents, leaving out empty ones.
pub(crate) fn documents(text: &str) -> Result<Vec<Value>, String> {
    let all: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|e| format!("yaml: {e}"))?;
    Ok(all.into_iter().filter(|v| !v.is_null()).collect())
}
