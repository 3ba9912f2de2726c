//! Responses.

use axum::body::Body;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WARNING};
use http::{Response, StatusCode};
use serde_json::Value;

use super::negotiate::Encoding;
use crate::status::ApiError;

/// A response with this content.
pub(crate) fn bytes_response(
    status: StatusCode,
    media_type: &'static str,
    bytes: impl Into<Bytes>,
) -> Response<Body> {
    body_response(status, media_type, Body::from(bytes.into()))
}

/// A response with this body.
pub(crate) fn body_response(status: StatusCode, media_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
        .headers_mut()
        .insert("cache-control", HeaderValue::from_static("no-cache, private"));
    response
}

/// Plain text.
pub(crate) fn text_response(status: StatusCode, text: &str) -> Response<Body> {
    bytes_response(status, "text/plain; charset=utf-8", text.to_owned())
}

/// 429, in the words of a real server.
pub(crate) fn too_many() -> Response<Body> {
    let text = "Too many requests, please try again later.\n";
    let mut response = text_response(StatusCode::TOO_MANY_REQUESTS, text);
    response
        .headers_mut()
        .insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// JSON.
pub(crate) fn json_response(status: StatusCode, value: &Value) -> Response<Body> {
    bytes_response(status, "application/json", value.to_string())
}

/// An object in the encoding that was asked for.
pub(crate) fn encoded(status: StatusCode, value: &Value, encoding: Encoding) -> Response<Body> {
    match encoding {
        Encoding::Json => json_response(status, value),
        Encoding::Yaml => match serde_saphyr::to_string(value) {
            Ok(text) => bytes_response(status, "application/yaml", text),
            Err(e) => error(&ApiError::internal(e)),
        },
    }
}

/// A failure.
pub(crate) fn error(e: &ApiError) -> Response<Body> {
    let mut response = json_response(e.code, &e.to_value());
    let retry = e
        .details
        .as_ref()
        .and_then(|d| d.get("retryAfterSeconds"))
        .and_then(Value::as_u64);
    if let Some(seconds) = retry {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Adds warnings.
pub(crate) fn warn(mut response: Response<Body>, warnings: &[String]) -> Response<Body> {
    for w in warnings {
        let text: String = w.chars().filter(|c| !c.is_control()).collect();
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(WARNING, value);
        }
    }
    response
}
