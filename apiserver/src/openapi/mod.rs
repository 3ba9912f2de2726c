//! OpenAPI documents: what kubectl needs to explain and to check objects.

mod operations;
mod v2;
mod v3;

use axum::body::Body;
use http::{Response, StatusCode};

use crate::catalog::Catalog;
use crate::http::respond::bytes_response;

/// Media types of the protobuf form of v2, of newer and older clients.
const PROTOBUF: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
];

/// Answers a path of OpenAPI.
pub(crate) fn serve(catalog: &Catalog, path: &str, accept: &str) -> Option<Response<Body>> {
    let json = |v: &serde_json::Value, media: &'static str| {
        Some(bytes_response(StatusCode::OK, media, v.to_string()))
    };
    if path == "/openapi/v2" {
        let document = v2::document(catalog);
        if PROTOBUF.iter().any(|media| accept.contains(media)) {
            // The old name is no media type that clients can parse; they take the new one as well.
            return Some(bytes_response(StatusCode::OK, PROTOBUF[0], v2::encode(&document)));
        }
        return json(&document, "application/json");
    }
    let rest = path.strip_prefix("/openapi/v3")?;
    match rest.trim_matches('/') {
        "" => json(&v3::index(catalog), "text/plain; charset=utf-8"),
        inner => json(&v3::document(catalog, inner)?, "application/json"),
    }
}
