//! `/healthz`, `/livez` and `/readyz`, whole and check by check, in the words of a real server.

use std::time::Duration;

use axum::body::Body;
use http::header::{HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Response, StatusCode};

use super::query::Query;
use super::respond::text_response;
use crate::api::Api;

/// How long the store's writer may take to answer: it may be busy with a slow disk.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// The server answers.
    Ping,
    /// The store's writer answers. Not that the disk takes writes: a server on a full disk still serves
    /// reads, and nothing is won by taking it out of service or starting it again.
    Store,
    /// The server is not about to end.
    Shutdown,
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Check::Ping => "ping",
            Check::Store => "etcd",
            Check::Shutdown => "shutdown",
        }
    }

    async fn run(self, api: &Api) -> Result<(), String> {
        match self {
            Check::Ping => Ok(()),
            Check::Store => api.store.ping(PATIENCE).await,
            Check::Shutdown if *api.shutdown.borrow() => Err("process is shutting down".into()),
            Check::Shutdown => Ok(()),
        }
    }
}

/// Whether the path is one of health.
pub(super) fn is(path: &str) -> bool {
    let first = path.trim_matches('/').split('/').next().unwrap_or_default();
    matches!(first, "healthz" | "livez" | "readyz")
}

/// Answers, if the path is one of health.
pub(super) async fn serve(api: &Api, path: &str, query: &Query) -> Option<Response<Body>> {
    let (whole, single) = match path.trim_matches('/').split_once('/') {
        Some((whole, check)) => (whole, Some(check)),
        None => (path.trim_matches('/'), None),
    };
    let (name, checks): (_, &[Check]) = match whole {
        "healthz" => ("healthz", &[Check::Ping, Check::Store]),
        "livez" => ("livez", &[Check::Ping, Check::Store]),
        "readyz" => ("readyz", &[Check::Ping, Check::Store, Check::Shutdown]),
        _ => return None,
    };
    let mut response = match single {
        None => all(api, name, checks, query).await,
        Some(single) => {
            let check = checks.iter().find(|c| c.name() == single)?;
            match check.run(api).await {
                Ok(()) => text_response(StatusCode::OK, "ok"),
                Err(e) => text_response(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    &format!("internal server error: {e}\n"),
                ),
            }
        }
    };
    response
        .headers_mut()
        .insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Some(response)
}

async fn all(api: &Api, name: &str, checks: &[Check], query: &Query) -> Response<Body> {
    let mut excluded = query.all("exclude");
    let mut text = String::new();
    let mut failed = false;
    for check in checks {
        let label = check.name();
        if excluded.contains(&label) {
            excluded.retain(|e| *e != label);
            text.push_str(&format!("[+]{label} excluded: ok\n"));
            continue;
        }
        match check.run(api).await {
            Ok(()) => text.push_str(&format!("[+]{label} ok\n")),
            Err(e) => {
                failed = true;
                // Anybody may ask: why stands in the log.
                tracing::warn!(check = label, error = %e, "a health check fails");
                text.push_str(&format!("[-]{label} failed: reason withheld\n"));
            }
        }
    }
    if !excluded.is_empty() {
        excluded.sort_unstable();
        excluded.dedup();
        let names: Vec<String> = excluded.iter().map(|e| format!("{e:?}")).collect();
        text.push_str(&format!(
            "warn: some health checks cannot be excluded: no matches for {}\n",
            names.join(", ")
        ));
    }
    if failed {
        text.push_str(&format!("{name} check failed\n"));
        return text_response(StatusCode::INTERNAL_SERVER_ERROR, &text);
    }
    if query.get("verbose").is_none() {
        return text_response(StatusCode::OK, "ok");
    }
    text.push_str(&format!("{name} check passed\n"));
    text_response(StatusCode::OK, &text)
}
