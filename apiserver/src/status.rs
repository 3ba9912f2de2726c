//! Answers that are errors: the Kubernetes `Status` object, with the wording of a real API server.

use http::StatusCode;
use serde_json::{Map, Value, json};

/// One field that is wrong, as `details.causes` lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cause {
    /// `FieldValueInvalid`, `FieldValueRequired`, …
    pub(crate) reason: &'static str,
    /// What is wrong with the value.
    pub(crate) message: String,
    /// Path of the field.
    pub(crate) field: String,
}

impl Cause {
    fn new(reason: &'static str, field: impl Into<String>, message: String) -> Self {
        Cause {
            reason,
            message,
            field: field.into(),
        }
    }

    /// A value that is not acceptable.
    pub(crate) fn invalid(field: impl Into<String>, value: &Value, detail: impl std::fmt::Display) -> Self {
        Self::new(
            "FieldValueInvalid",
            field,
            format!("Invalid value: {}: {detail}", shown(value)),
        )
    }

    /// A value of the wrong type.
    pub(crate) fn type_invalid(
        field: impl Into<String>,
        value: &Value,
        detail: impl std::fmt::Display,
    ) -> Self {
        Self::new(
            "FieldValueTypeInvalid",
            field,
            format!("Invalid value: {}: {detail}", shown(value)),
        )
    }

    /// A value that has to be there.
    pub(crate) fn required(field: impl Into<String>, detail: &str) -> Self {
        let message = if detail.is_empty() {
            "Required value".to_owned()
        } else {
            format!("Required value: {detail}")
        };
        Self::new("FieldValueRequired", field, message)
    }

    /// A value that may not be given here.
    pub(crate) fn forbidden(field: impl Into<String>, detail: impl std::fmt::Display) -> Self {
        Self::new("FieldValueForbidden", field, format!("Forbidden: {detail}"))
    }

    /// A value out of a fixed set.
    pub(crate) fn not_supported(field: impl Into<String>, value: &Value, supported: &[Value]) -> Self {
        let list: Vec<String> = supported.iter().map(shown).collect();
        Self::new(
            "FieldValueNotSupported",
            field,
            format!(
                "Unsupported value: {}: supported values: {}",
                shown(value),
                list.join(", ")
            ),
        )
    }

    /// A value that stands twice where it may stand once.
    pub(crate) fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self::new(
            "FieldValueDuplicate",
            field,
            format!("Duplicate value: {}", shown(value)),
        )
    }

    /// More items than allowed.
    pub(crate) fn too_many(field: impl Into<String>, have: usize, max: u64) -> Self {
        let items = if max == 1 { "item" } else { "items" };
        Self::new(
            "FieldValueTooMany",
            field,
            format!("Too many: {have}: must have at most {max} {items}"),
        )
    }

    /// A string or object that is too long.
    pub(crate) fn too_long(field: impl Into<String>, max: u64, unit: &str) -> Self {
        let unit = if max == 1 {
            unit.trim_end_matches('s')
        } else {
            unit
        };
        Self::new(
            "FieldValueTooLong",
            field,
            format!("Too long: may not be more than {max} {unit}"),
        )
    }

    fn line(&self) -> String {
        if self.field.is_empty() {
            self.message.clone()
        } else {
            format!("{}: {}", self.field, self.message)
        }
    }

    fn to_value(&self) -> Value {
        let mut map = Map::new();
        map.insert("reason".into(), self.reason.into());
        map.insert("message".into(), self.message.clone().into());
        if !self.field.is_empty() {
            map.insert("field".into(), self.field.clone().into());
        }
        Value::Object(map)
    }
}

/// A value as error messages show it: JSON, with long ones cut.
fn shown(value: &Value) -> String {
    let mut text = value.to_string();
    if text.len() > 512 {
        let mut end = 509;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str("...");
    }
    text
}

/// A failed request.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    /// HTTP status.
    pub(crate) code: StatusCode,
    /// `Status.reason`.
    pub(crate) reason: &'static str,
    /// `Status.message`.
    pub(crate) message: String,
    /// `Status.details`, where there are any.
    pub(crate) details: Option<Map<String, Value>>,
    /// `Status.metadata.continue`: a list goes on from here, though not at the same state.
    pub(crate) go_on: String,
}

/// What handlers return.
pub(crate) type ApiResult<T> = Result<T, Box<ApiError>>;

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

fn about(group: &str, kind: &str, name: &str) -> Map<String, Value> {
    let mut details = Map::new();
    if !name.is_empty() {
        details.insert("name".into(), name.into());
    }
    if !group.is_empty() {
        details.insert("group".into(), group.into());
    }
    if !kind.is_empty() {
        details.insert("kind".into(), kind.into());
    }
    details
}

/// `plural.group`, or `plural` in the core group.
pub(crate) fn qualified(plural: &str, group: &str) -> String {
    if group.is_empty() {
        plural.to_owned()
    } else {
        format!("{plural}.{group}")
    }
}

impl ApiError {
    fn make(
        code: StatusCode,
        reason: &'static str,
        message: String,
        details: Option<Map<String, Value>>,
    ) -> Box<Self> {
        Box::new(ApiError {
            code,
            reason,
            message,
            details,
            go_on: String::new(),
        })
    }

    /// 404 of an object.
    pub(crate) fn not_found(group: &str, plural: &str, name: &str) -> Box<Self> {
        let message = format!("{} {name:?} not found", qualified(plural, group));
        Self::make(
            StatusCode::NOT_FOUND,
            "NotFound",
            message,
            Some(about(group, plural, name)),
        )
    }

    /// 404 of a resource type.
    pub(crate) fn no_resource() -> Box<Self> {
        let message = "the server could not find the requested resource".to_owned();
        Self::make(StatusCode::NOT_FOUND, "NotFound", message, Some(Map::new()))
    }

    /// 405.
    pub(crate) fn method_not_allowed() -> Box<Self> {
        let message = "the server does not allow this method on the requested resource".to_owned();
        Self::make(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            message,
            Some(Map::new()),
        )
    }

    /// 405 while a definition is on its way out.
    pub(crate) fn terminating(group: &str, plural: &str, verb: &str) -> Box<Self> {
        Self::make(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            format!("{verb} not allowed while custom resource definition is terminating"),
            Some(about(group, plural, "")),
        )
    }

    /// 409 of a create.
    pub(crate) fn already_exists(group: &str, plural: &str, name: &str) -> Box<Self> {
        let message = format!("{} {name:?} already exists", qualified(plural, group));
        Self::make(
            StatusCode::CONFLICT,
            "AlreadyExists",
            message,
            Some(about(group, plural, name)),
        )
    }

    /// 409 of a write over a newer version, or against a precondition.
    pub(crate) fn conflict(group: &str, kind: &str, name: &str, why: &str) -> Box<Self> {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: {why}",
            qualified(kind, group)
        );
        Self::make(
            StatusCode::CONFLICT,
            "Conflict",
            message,
            Some(about(group, kind, name)),
        )
    }

    /// 409: the usual conflict.
    pub(crate) fn stale(group: &str, plural: &str, name: &str) -> Box<Self> {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(group, plural, name, why)
    }

    /// 409 of a server-side apply over other managers' fields.
    pub(crate) fn apply_conflict(conflicts: &[(String, String)]) -> Box<Self> {
        // The message groups by manager, as the managers' names read; the causes stay one per field.
        let mut by_manager: Vec<(String, Vec<String>)> = Vec::new();
        for (manager, field) in conflicts {
            match by_manager.iter_mut().find(|(m, _)| m == manager) {
                Some((_, fields)) => fields.push(field.clone()),
                None => by_manager.push((manager.clone(), vec![field.clone()])),
            }
        }
        by_manager.sort();
        let n = conflicts.len();
        let plural = if n == 1 { "conflict" } else { "conflicts" };
        let mut message = format!("Apply failed with {n} {plural}: ");
        if n == 1 {
            let (manager, field) = &conflicts[0];
            message.push_str(&format!("conflict with {manager}: {field}"));
        } else {
            let parts: Vec<String> = by_manager
                .iter()
                .map(|(m, fields)| {
                    let lines: Vec<String> = fields.iter().map(|f| format!("- {f}")).collect();
                    format!("conflicts with {m}:\n{}", lines.join("\n"))
                })
                .collect();
            message.push_str(&parts.join("\n"));
        }
        let causes: Vec<Value> = conflicts
            .iter()
            .map(|(m, f)| json!({"reason": "FieldManagerConflict", "message": format!("conflict with {m}"), "field": f}))
            .collect();
        let mut details = Map::new();
        details.insert("causes".into(), Value::Array(causes));
        Self::make(StatusCode::CONFLICT, "Conflict", message, Some(details))
    }

    /// 422 with the fields that are wrong.
    pub(crate) fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Box<Self> {
        let mut lines: Vec<String> = Vec::new();
        for line in causes.iter().map(Cause::line) {
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        let text = if lines.len() == 1 {
            lines.remove(0)
        } else {
            format!("[{}]", lines.join(", "))
        };
        let message = format!("{} {name:?} is invalid: {text}", qualified(kind, group));
        let mut details = about(group, kind, name);
        details.insert(
            "causes".into(),
            Value::Array(causes.iter().map(Cause::to_value).collect()),
        );
        Self::make(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Invalid",
            message,
            Some(details),
        )
    }

    /// 422 of a JSON patch that cannot be carried out.
    pub(crate) fn patch_failed() -> Box<Self> {
        let message = "the server rejected our request due to an error in our request".to_owned();
        Self::make(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Invalid",
            message,
            Some(Map::new()),
        )
    }

    /// 500 of an error that Kubernetes has no reason for.
    pub(crate) fn untyped(message: String) -> Box<Self> {
        Self::make(StatusCode::INTERNAL_SERVER_ERROR, "", message, None)
    }

    /// 400.
    pub(crate) fn bad_request(message: impl Into<String>) -> Box<Self> {
        Self::make(StatusCode::BAD_REQUEST, "BadRequest", message.into(), None)
    }

    /// 401.
    pub(crate) fn unauthorized() -> Box<Self> {
        Self::make(
            StatusCode::UNAUTHORIZED,
            "Unauthorized",
            "Unauthorized".into(),
            None,
        )
    }

    /// 403 with a reason in words.
    pub(crate) fn forbidden(group: &str, plural: &str, name: &str, why: &str) -> Box<Self> {
        let subject = if name.is_empty() {
            String::new()
        } else {
            format!(" {name:?}")
        };
        let message = format!("{}{subject} is forbidden: {why}", qualified(plural, group));
        Self::make(
            StatusCode::FORBIDDEN,
            "Forbidden",
            message,
            Some(about(group, plural, name)),
        )
    }

    /// 403 of a path that is not a resource.
    pub(crate) fn forbidden_path(user: &str, verb: &str, path: &str) -> Box<Self> {
        let message = format!("forbidden: User {user:?} cannot {verb} path {path:?}");
        Self::make(StatusCode::FORBIDDEN, "Forbidden", message, Some(Map::new()))
    }

    /// The same error with causes added to its details.
    pub(crate) fn with_cause(mut self: Box<Self>, reason: &str, message: String, field: &str) -> Box<Self> {
        let details = self.details.get_or_insert_with(Map::new);
        details.insert(
            "causes".into(),
            json!([{"reason": reason, "message": message, "field": field}]),
        );
        self
    }

    /// 406.
    pub(crate) fn not_acceptable(accepted: &[&str]) -> Box<Self> {
        let message = format!(
            "only the following media types are accepted: {}",
            accepted.join(", ")
        );
        Self::make(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message, None)
    }

    /// 415.
    pub(crate) fn unsupported_media_type(accepted: &[&str]) -> Box<Self> {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::make(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaType",
            message,
            None,
        )
    }

    /// 413.
    pub(crate) fn too_large(limit: usize) -> Box<Self> {
        let message = format!("Request entity too large: limit is {limit}");
        Self::make(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestEntityTooLarge",
            message,
            None,
        )
    }

    /// 504: the request took too long.
    pub(crate) fn timed_out(why: &str) -> Box<Self> {
        let message = format!("Timeout: request did not complete within the allotted timeout: {why}");
        Self::make(StatusCode::GATEWAY_TIMEOUT, "Timeout", message, Some(Map::new()))
    }

    /// 410: a resource version, or a continue token, that is past its time.
    pub(crate) fn expired(message: String) -> Box<Self> {
        Self::make(StatusCode::GONE, "Expired", message, None)
    }

    /// 410 of a continue token whose state is no longer there; `go_on` goes on with the present one.
    pub(crate) fn expired_token(go_on: String) -> Box<Self> {
        let message = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";
        let mut e = Self::expired(message.into());
        e.go_on = go_on;
        e
    }

    /// 500 of an error that a real server does not turn into a better answer.
    pub(crate) fn unexplained(message: String) -> Box<Self> {
        Self::make(StatusCode::INTERNAL_SERVER_ERROR, "", message, None)
    }

    /// 504: a resource version that the server has not seen.
    pub(crate) fn future_version(asked: u64, current: u64) -> Box<Self> {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        let mut details = Map::new();
        details.insert(
            "causes".into(),
            json!([{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]),
        );
        details.insert("retryAfterSeconds".into(), 1.into());
        Self::make(StatusCode::GATEWAY_TIMEOUT, "Timeout", message, Some(details))
    }

    /// 500.
    pub(crate) fn internal(why: impl std::fmt::Display) -> Box<Self> {
        let mut details = Map::new();
        details.insert("causes".into(), json!([{"message": why.to_string()}]));
        let message = format!("Internal error occurred: {why}");
        Self::make(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalError",
            message,
            Some(details),
        )
    }

    /// The `Status` object.
    pub(crate) fn to_value(&self) -> Value {
        let mut map = Map::new();
        map.insert("kind".into(), "Status".into());
        map.insert("apiVersion".into(), "v1".into());
        let metadata = if self.go_on.is_empty() {
            json!({})
        } else {
            json!({"continue": self.go_on})
        };
        map.insert("metadata".into(), metadata);
        map.insert("status".into(), "Failure".into());
        map.insert("message".into(), self.message.clone().into());
        if !self.reason.is_empty() {
            map.insert("reason".into(), self.reason.into());
        }
        if let Some(details) = &self.details {
            map.insert("details".into(), Value::Object(details.clone()));
        }
        map.insert("code".into(), self.code.as_u16().into());
        Value::Object(map)
    }
}

/// The `Status` of a deletion that is done.
pub(crate) fn deleted(group: &str, plural: &str, name: &str, uid: &str) -> Value {
    let mut details = about(group, plural, name);
    details.insert("uid".into(), uid.into());
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}
