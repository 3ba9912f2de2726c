//! From the body of a request to an object.

use serde_json::{Map, Value};

use super::FieldValidation;
use crate::catalog::Resource;
use crate::json::go_kind;
use crate::schema;
use crate::status::{ApiError, ApiResult, Cause};

/// A body, as it came.
#[derive(Clone, Default)]
pub(crate) struct Body {
    /// Content-Type, without parameters.
    pub(crate) media_type: String,
    /// The bytes.
    pub(crate) bytes: bytes::Bytes,
}

/// How Go prints the type into which kind and version are read.
const VERSION_KIND: &str =
    r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;

/// The refusal of a body that cannot be told to be any kind.
fn unrecognized(body: &Body, kind: &str, why: &str) -> Box<ApiError> {
    ApiError::bad_request(format!(
        "the object provided is unrecognized (must be of type {kind}): {why} ({})",
        crate::json::summary(&body.bytes)
    ))
}

/// Parses a body as JSON or YAML. The second part names fields that stand twice.
pub(crate) fn parse(body: &Body, kind: &str) -> ApiResult<(Value, Vec<String>)> {
    let wrong = |e: String| unrecognized(body, kind, &e);
    let unread = |e: String| wrong(format!("couldn't get version/kind; json parse error: {e}"));
    let (value, twice) = match body.media_type.as_str() {
        "application/json" | "" => crate::json::parse(&body.bytes).map_err(unread)?,
        "application/yaml" | "application/x-yaml" | "text/yaml" => {
            let text = std::str::from_utf8(&body.bytes).map_err(|e| wrong(format!("yaml: {e}")))?;
            (crate::yaml::parse(text).map_err(wrong)?, Vec::new())
        }
        "application/vnd.kubernetes.protobuf" => {
            let value = crate::protobuf::parse(&body.bytes).map_err(ApiError::bad_request)?;
            (value, Vec::new())
        }
        _ => {
            return Err(ApiError::unsupported_media_type(&[
                "application/json",
                "application/yaml",
                "application/vnd.kubernetes.protobuf",
            ]));
        }
    };
    match &value {
        // In Go, null is nothing of whatever type.
        Value::Null => return Ok((Value::Object(Map::new()), twice)),
        Value::Object(map) => {
            for field in ["apiVersion", "kind"] {
                if let Some(v) = map.get(field).filter(|v| !v.is_string() && !v.is_null()) {
                    return Err(unread(format!(
                        "json: cannot unmarshal {} into Go struct field .{field} of type string",
                        go_kind(v)
                    )));
                }
            }
        }
        other => {
            return Err(unread(format!(
                "json: cannot unmarshal {} into Go value of type {VERSION_KIND}",
                go_kind(other)
            )));
        }
    }
    Ok((value, twice))
}

/// Reads an object of a resource from a body.
pub(crate) fn read(
    body: &Body,
    resource: &Resource,
    validation: FieldValidation,
) -> ApiResult<(Value, Vec<String>)> {
    let (mut object, duplicates) = parse(body, &resource.kind)?;
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
    if resource.custom() && kind.is_empty() {
        let text = String::from_utf8_lossy(&body.bytes);
        return Err(unrecognized(
            body,
            &resource.kind,
            &format!("Object 'Kind' is missing in '{}'", crate::json::excerpt(&text)),
        ));
    }
    let warnings = check(&mut object, resource, validation, duplicates)?;
    Ok((object, warnings))
}

/// The refusal of an object that cannot be read as its kind.
pub(crate) fn unreadable(resource: &Resource, why: &str) -> Box<ApiError> {
    ApiError::bad_request(format!(
        "{} in version {:?} cannot be handled as a {}: {why}",
        resource.kind, resource.version, resource.kind
    ))
}

/// Why an object was not taken.
enum Misread {
    /// It cannot be read as its kind.
    Content(String),
    /// It is another kind.
    Other(Box<ApiError>),
}

impl From<Box<ApiError>> for Misread {
    fn from(e: Box<ApiError>) -> Self {
        Misread::Other(e)
    }
}

/// Checks apiVersion and kind, types, and unknown fields; unknown fields are taken out. Returns warnings.
pub(crate) fn check(
    object: &mut Value,
    resource: &Resource,
    validation: FieldValidation,
    duplicates: Vec<String>,
) -> ApiResult<Vec<String>> {
    examine(object, resource, validation, duplicates).map_err(|e| match e {
        Misread::Content(why) => unreadable(resource, &why),
        Misread::Other(e) => e,
    })
}

/// The same of what a patch makes of an object.
pub(crate) fn check_result(
    object: &mut Value,
    resource: &Resource,
    validation: FieldValidation,
) -> ApiResult<Vec<String>> {
    let shown = object.to_string();
    examine(object, resource, validation, Vec::new()).map_err(|e| match e {
        Misread::Content(why) => {
            ApiError::invalid("", "", "", vec![Cause::invalid("patch", &shown.into(), why)])
        }
        Misread::Other(e) => e,
    })
}

fn examine(
    object: &mut Value,
    resource: &Resource,
    validation: FieldValidation,
    duplicates: Vec<String>,
) -> Result<Vec<String>, Misread> {
    let Some(map) = object.as_object() else {
        return Err(Misread::Content(
            "json: cannot unmarshal array into Go value of type map[string]interface {}".into(),
        ));
    };
    let text = |key: &str| {
        map.get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    if !api_version.is_empty() && api_version != resource.api_version() {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({})",
            resource.api_version()
        ))
        .into());
    }
    if resource.custom() {
        if kind.is_empty() {
            return Err(ApiError::bad_request("Object 'Kind' is missing in the request body").into());
        }
    } else if !kind.is_empty() && kind != resource.kind {
        return Err(ApiError::bad_request(format!(
            "{kind} in version {:?} cannot be handled as a {}: no kind {kind:?} is registered for version {:?} in scheme \"k8s.io/kubernetes/pkg/api/legacyscheme/scheme.go:30\"",
            resource.version,
            resource.kind,
            resource.api_version(),
        ))
        .into());
    }
    if let Some(why) = metadata_type(object) {
        return Err(Misread::Content(why));
    }
    if !resource.custom()
        && let Some(why) = schema::mismatch(object, &resource.schema)
    {
        return Err(Misread::Content(why));
    }
    let mut problems: Vec<String> = duplicates
        .into_iter()
        .map(|f| format!("duplicate field {f:?}"))
        .collect();
    let mut unknown = schema::prune(object, &resource.schema, resource.custom());
    if resource.custom() {
        // The definition's own schema says nothing of metadata; its fields are those of every object.
        if let Some(meta) = object.get_mut("metadata")
            && let Some(s) = resource.schema.properties.get("metadata")
        {
            unknown.extend(
                schema::prune(meta, s, false)
                    .into_iter()
                    .map(|f| format!("metadata.{f}")),
            );
        }
    }
    problems.extend(unknown.into_iter().map(|f| format!("unknown field {f:?}")));
    let map = match object {
        Value::Object(map) => map,
        _ => return Err(Misread::Content("it is not an object".into())),
    };
    map.insert("apiVersion".into(), resource.api_version().into());
    if kind.is_empty() {
        map.insert("kind".into(), resource.kind.clone().into());
    }
    match validation {
        FieldValidation::Ignore => Ok(Vec::new()),
        FieldValidation::Warn => Ok(problems),
        FieldValidation::Strict if problems.is_empty() => Ok(Vec::new()),
        FieldValidation::Strict => Err(Misread::Content(format!(
            "strict decoding error: {}",
            problems.join(", ")
        ))),
    }
}

/// The first thing in the metadata that is not of its type.
fn metadata_type(object: &Value) -> Option<String> {
    let meta = object.get("metadata")?;
    let Some(map) = meta.as_object() else {
        return (!meta.is_null()).then(|| {
            format!(
                "json: cannot unmarshal {} into Go struct field .metadata of type v1.ObjectMeta",
                go_kind(meta)
            )
        });
    };
    for field in ["name", "generateName", "namespace", "uid", "resourceVersion"] {
        if let Some(v) = map.get(field).filter(|v| !v.is_string() && !v.is_null()) {
            let kind = if v.is_number() {
                "number".to_owned()
            } else {
                go_kind(v).to_owned()
            };
            let of = if field == "uid" { "types.UID" } else { "string" };
            return Some(format!(
                "json: cannot unmarshal {kind} into Go struct field ObjectMeta.{field} of type {of}"
            ));
        }
    }
    for field in ["labels", "annotations"] {
        let Some(v) = map.get(field).filter(|v| !v.is_null()) else {
            continue;
        };
        let Some(entries) = v.as_object() else {
            return Some(format!(
                "json: cannot unmarshal {} into Go struct field ObjectMeta.{field} of type map[string]string",
                go_kind(v)
            ));
        };
        if let Some(bad) = entries.values().find(|v| !v.is_string()) {
            return Some(format!(
                "json: cannot unmarshal {} into Go struct field ObjectMeta.{field} of type string",
                go_kind(bad)
            ));
        }
    }
    if let Some(v) = map.get("finalizers").filter(|v| !v.is_null()) {
        let fine = v.as_array().is_some_and(|l| l.iter().all(Value::is_string));
        if !fine {
            return Some(format!(
                "json: cannot unmarshal {} into Go struct field ObjectMeta.finalizers of type []string",
                go_kind(v)
            ));
        }
    }
    if let Some(v) = map.get("ownerReferences").filter(|v| !v.is_null()) {
        let fine = v.as_array().is_some_and(|l| l.iter().all(Value::is_object));
        if !fine {
            return Some(format!(
                "json: cannot unmarshal {} into Go struct field ObjectMeta.ownerReferences of type []v1.OwnerReference",
                go_kind(v)
            ));
        }
    }
    None
}
