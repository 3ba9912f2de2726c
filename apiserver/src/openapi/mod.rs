//! OpenAPI documents: what kubectl needs to explain and to check objects.

mod operations;
mod v2;
mod v3;

use axum::body::Body;
use bytes::Bytes;
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
    let json = |v: serde_json::Value| Bytes::from(v.to_string());
    if path == "/openapi/v2" {
        if PROTOBUF.iter().any(|media| accept.contains(media)) {
            let made = catalog.document("v2.pb", || Some(v2::encode(&v2::document(catalog)).into()))?;
            // The old name is no media type that clients can parse; they take the new one as well.
            return Some(bytes_response(StatusCode::OK, PROTOBUF[0], made));
        }
        let made = catalog.document("v2", || Some(json(v2::document(catalog))))?;
        return Some(bytes_response(StatusCode::OK, "application/json", made));
    }
    let inner = path.strip_prefix("/openapi/v3")?.trim_matches('/');
    let (media, made) = match inner {
        "" => (
            "text/plain; charset=utf-8",
            catalog.document("v3", || Some(json(v3::index(catalog))))?,
        ),
        inner => (
            "application/json",
            catalog.document(&format!("v3/{inner}"), || v3::document(catalog, inner).map(json))?,
        ),
    };
    Some(bytes_response(StatusCode::OK, media, made))
}
