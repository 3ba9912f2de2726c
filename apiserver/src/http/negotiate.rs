//! In which form an answer is wanted.

use crate::table::Include;

/// The form of an object or list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum View {
    /// As it is.
    #[default]
    Plain,
    /// As a table.
    Table(Include),
    /// Its metadata only.
    Partial,
}

/// The encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Encoding {
    /// JSON.
    #[default]
    Json,
    /// YAML.
    Yaml,
}

/// Reads an Accept header; `None`: nothing of it can be served.
pub(crate) fn negotiate(accept: &str, list: bool, include: Include) -> Option<(View, Encoding)> {
    if accept.trim().is_empty() {
        return Some((View::Plain, Encoding::Json));
    }
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let encoding = match media {
            "application/json" | "*/*" | "application/*" => Encoding::Json,
            "application/yaml" => Encoding::Yaml,
            _ => continue,
        };
        let params: Vec<(&str, &str)> = parts.filter_map(|p| p.split_once('=')).collect();
        let find = |key: &str| params.iter().find(|(k, _)| *k == key).map(|(_, v)| *v);
        let meta = find("g") == Some("meta.k8s.io") && find("v") == Some("v1");
        let view = match find("as") {
            None => View::Plain,
            Some("Table") if meta => View::Table(include),
            Some("PartialObjectMetadataList") if meta && list => View::Partial,
            Some("PartialObjectMetadata") if meta && !list => View::Partial,
            Some(_) => continue,
        };
        return Some((view, encoding));
    }
    None
}
