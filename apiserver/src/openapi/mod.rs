//! OpenAPI documents: what kubectl needs to explain and to check objects.

mod operations;
mod v3;

use axum::body::Body;
use http::{Response, StatusCode};

use crate::catalog::Catalog;
use crate::http::respond::bytes_response;

/// Answers a path of OpenAPI.
pub(crate) fn serve(catalog: &Catalog, path: &str, _accept: &str) -> Option<Response<Body>> {
    let json = |v: &serde_json::Value, media: &'static str| {
        Some(bytes_response(StatusCode::OK, media, v.to_string()))
    };
    let rest = path.strip_prefix("/openapi/v3")?;
    match rest.trim_matches('/') {
        "" => json(&v3::index(catalog), "text/plain; charset=utf-8"),
        inner => json(&v3::document(catalog, inner)?, "application/json"),
    }
}
