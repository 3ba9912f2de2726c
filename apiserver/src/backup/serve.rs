//! Backups of a running server, for those who may do everything.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures::stream;
use http::{Method, Response, StatusCode};
use serde_json::json;

use super::directory::FILES;
use super::format::{Backup, Writer};
use super::{BACKUP_PATH, RESTORE_PATH};
use crate::api::Api;
use crate::auth::User;
use crate::auth::rbac::Attributes;
use crate::files;
use crate::http::respond::{body_response, json_response};
use crate::http::{receive, refusal};
use crate::status::{ApiError, ApiResult};

/// The largest backup that a running server takes.
const LARGEST: usize = 1 << 30;
/// About how much is made at a time.
const PIECE: usize = 64 << 10;

/// Answers, if the path is one of backups.
pub(crate) async fn serve<B>(
    api: &Arc<Api>,
    user: &User,
    method: &Method,
    path: &str,
    body: B,
) -> Option<ApiResult<Response<Body>>>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match path {
        BACKUP_PATH | RESTORE_PATH => {}
        _ => return None,
    }
    // A backup shows all that there is, and keys besides: the right to a path is not enough.
    let everything = Attributes {
        verb: "*".into(),
        group: "*".into(),
        resource: "*".into(),
        ..Attributes::default()
    };
    if !api.rbac.allows(user, &everything) {
        let path = Attributes {
            verb: method.as_str().to_lowercase(),
            path: Some(path.into()),
            ..Attributes::default()
        };
        return Some(Err(refusal(user, &path)));
    }
    Some(match (path, method) {
        (BACKUP_PATH, &Method::GET) => backup(api).await,
        (RESTORE_PATH, &Method::POST) => restore(api, body).await,
        _ => Err(ApiError::method_not_allowed()),
    })
}

async fn backup(api: &Arc<Api>) -> ApiResult<Response<Body>> {
    let (rv, resources) = api.store.snapshot_all();
    let (mut writer, mut ready) = Writer::begin(rv);
    if let Some(dir) = &api.settings.dir {
        for name in FILES {
            let text = files::read(&dir.join(name)).map_err(ApiError::internal)?;
            if let Some(text) = text {
                ready.extend(writer.file(name, &text));
            }
        }
    }
    let mut objects = resources.into_iter().flat_map(|(resource, objects)| {
        let all: Vec<_> = objects.from("").cloned().collect();
        all.into_iter().map(move |o| (resource.clone(), o))
    });
    let mut writer = Some(writer);
    let pieces = std::iter::from_fn(move || {
        let mut piece = std::mem::take(&mut ready);
        while piece.len() < PIECE
            && let Some(lines) = &mut writer
        {
            match objects.next() {
                Some((resource, object)) => piece.extend(lines.object(&resource, &object)),
                None => piece.extend(writer.take()?.end()),
            }
        }
        (!piece.is_empty()).then(|| Ok::<_, std::convert::Infallible>(Bytes::from(piece)))
    });
    let body = Body::from_stream(stream::iter(pieces));
    Ok(body_response(StatusCode::OK, "application/json-lines", body))
}

async fn restore<B>(api: &Arc<Api>, body: B) -> ApiResult<Response<Body>>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let bytes = receive::body(body, LARGEST, api.settings.body_time * 10).await?;
    let backup = tokio::task::spawn_blocking(move || Backup::read(&bytes[..]))
        .await
        .map_err(ApiError::internal)?
        .map_err(|e| ApiError::bad_request(e.to_string()))?;
    let before = api.store.list("services", "").items;
    let replaced = api
        .store
        .replace(backup.objects)
        .await
        .map_err(ApiError::internal)?;
    let after = api.store.list("services", "").items;
    for service in before {
        if !after.iter().any(|s| s.key == service.key) {
            api.addresses.abandon(&service.value());
        }
    }
    for service in after {
        api.addresses.adopt(&service.value());
    }
    api.rights_changed();
    tracing::warn!(
        taken = %backup.summary.taken,
        version = backup.summary.version,
        written = replaced.written,
        removed = replaced.removed,
        "the objects of a backup have taken the place of those that were here"
    );
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "message": format!("restored {} objects of {}: {} written, {} removed, {} as they were",
            backup.summary.objects, backup.summary.taken, replaced.written, replaced.removed, replaced.kept)});
    Ok(json_response(StatusCode::OK, &status))
}
