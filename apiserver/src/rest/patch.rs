//! The four patches.

use std::sync::Arc;

use serde_json::{Value, json};

use super::create::{create_object, place as put_in_place};
use super::decode::{self, Body};
use super::update::{Place, Settle, change};
use super::{Context, FieldValidation, Outcome, meta};
use crate::api::Api;
use crate::apply;
use crate::patch::{Refused, json_patch, merge_patch, strategic_merge_patch};
use crate::schema;
use crate::status::{ApiError, ApiResult, Cause};

const CUSTOM: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/apply-patch+yaml",
];
const BUILTIN: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/apply-patch+yaml",
    "application/strategic-merge-patch+json",
];

/// Patches an object.
pub(crate) async fn patch(api: &Arc<Api>, cx: &Context, place: Place<'_>, body: &Body) -> ApiResult<Outcome> {
    let resource = place.resource;
    let accepted = if resource.custom() { CUSTOM } else { BUILTIN };
    if !accepted.contains(&body.media_type.as_str()) {
        return Err(ApiError::unsupported_media_type(accepted));
    }
    if body.media_type == "application/apply-patch+yaml" {
        return server_side_apply(api, cx, place, body).await;
    }
    if cx.force {
        return Err(options_invalid(Cause::forbidden(
            "force",
            "may not be specified for non-apply patch",
        )));
    }
    let parsed: Value = serde_json::from_slice(&body.bytes).map_err(|e| {
        ApiError::bad_request(format!(
            "error decoding patch: {}",
            crate::json::go_error(&body.bytes, &e)
        ))
    })?;
    let warnings = std::sync::Mutex::new(Vec::new());
    let mut outcome = change(api, cx, place, Settle::Patch, |old| {
        let mut new = match body.media_type.as_str() {
            "application/json-patch+json" => match json_patch(old, &parsed) {
                Ok(new) => new,
                Err(Refused::Malformed(why)) => return Err(ApiError::bad_request(format!("error decoding patch: {why}"))),
                Err(Refused::Failed) => return Err(ApiError::patch_failed()),
            },
            "application/merge-patch+json" => {
                if !parsed.is_object() {
                    return Err(ApiError::bad_request("error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"));
                }
                let mut new = old.clone();
                merge_patch(&mut new, &parsed);
                new
            }
            _ => strategic_merge_patch(old, &parsed, &resource.schema).map_err(ApiError::bad_request)?,
        };
        let found = decode::check_result(&mut new, resource, cx.validation)?;
        if let Ok(mut warnings) = warnings.lock() {
            *warnings = found;
        }
        same_place(&new, place)?;
        Ok(new)
    })
    .await?;
    let found = warnings.into_inner().unwrap_or_default();
    outcome.warnings.splice(..0, found);
    Ok(outcome)
}

fn same_place(new: &Value, place: Place<'_>) -> ApiResult<()> {
    let name = meta::text(new, "name");
    if name != place.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            place.name
        )));
    }
    let namespace = meta::text(new, "namespace");
    if namespace != place.namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

fn options_invalid(cause: Cause) -> Box<ApiError> {
    ApiError::invalid("meta.k8s.io", "PatchOptions", "", vec![cause])
}

async fn server_side_apply(
    api: &Arc<Api>,
    cx: &Context,
    place: Place<'_>,
    body: &Body,
) -> ApiResult<Outcome> {
    let Place {
        resource,
        namespace,
        name,
        subresource,
    } = place;
    if cx.manager.is_empty() {
        return Err(options_invalid(Cause::required(
            "fieldManager",
            "is required for apply patch",
        )));
    }
    let text = std::str::from_utf8(&body.bytes)
        .map_err(|e| ApiError::bad_request(format!("error decoding YAML: {e}")))?;
    let mut config =
        crate::yaml::parse(text).map_err(|e| ApiError::bad_request(format!("error decoding YAML: {e}")))?;
    if !config.is_object() {
        return Err(ApiError::bad_request(
            "error decoding YAML: the body is no object",
        ));
    }
    for field in ["apiVersion", "kind"] {
        if config
            .get(field)
            .and_then(Value::as_str)
            .is_none_or(str::is_empty)
        {
            let shown = if field == "kind" { "Kind" } else { "apiVersion" };
            return Err(ApiError::bad_request(format!(
                "Object '{shown}' is missing in '{}'",
                crate::json::excerpt(text)
            )));
        }
    }
    let warnings = decode::check(&mut config, resource, cx.validation, Vec::new())?;
    let given = meta::text(&config, "name").to_owned();
    if given.is_empty() {
        meta::of(&mut config).insert("name".into(), name.into());
    } else if given != name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        )));
    }
    put_in_place(&mut config, resource, namespace)?;
    if config
        .pointer("/metadata/managedFields")
        .is_some_and(|v| !v.is_null())
    {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let manager = cx.manager_of(resource, subresource);
    for _ in 0..super::ATTEMPTS {
        let exists = api.store.get(&resource.storage, namespace, name).is_some();
        let done = if exists {
            change(api, cx, place, Settle::Done, |old| {
                let mut config = config.clone();
                let rv = meta::text(&config, "resourceVersion").to_owned();
                if !rv.is_empty() && rv != meta::text(old, "resourceVersion") {
                    return Err(ApiError::stale(&resource.group, &resource.plural, name));
                }
                meta::of(&mut config).shift_remove("resourceVersion");
                let applied = apply::apply(
                    old,
                    &config,
                    &resource.schema,
                    &manager,
                    cx.force,
                    resource.has_status(),
                )?;
                Ok(applied.object)
            })
            .await
        } else {
            if !subresource.is_empty() {
                return Err(ApiError::not_found(&resource.group, &resource.plural, name));
            }
            super::may_create(api, cx, resource, namespace, name)?;
            if !meta::text(&config, "uid").is_empty() {
                return Err(ApiError::stale(&resource.group, &resource.plural, name));
            }
            let api_fields = Value::Null;
            let mut config = config.clone();
            // A version names an object that is not there.
            if !meta::text(&config, "resourceVersion").is_empty() {
                return Err(ApiError::not_found(&resource.group, &resource.plural, name));
            }
            if resource.custom() {
                schema::drop_nulls(&mut config, &resource.schema);
            }
            let applied = apply::apply(
                &api_fields,
                &config,
                &resource.schema,
                &manager,
                cx.force,
                resource.has_status(),
            )?;
            create_object(api, cx, resource, namespace, applied.object, true).await
        };
        match done {
            // Made or deleted by somebody else between the look and the write.
            Err(e) if (!exists && e.reason == "AlreadyExists") || (exists && e.reason == "NotFound") => {
                continue;
            }
            Err(e) => return Err(e),
            Ok(mut outcome) => {
                outcome.warnings.splice(..0, warnings);
                return Ok(outcome);
            }
        }
    }
    Err(ApiError::stale(&resource.group, &resource.plural, name))
}

/// Writes the status of an object from inside the server.
pub(crate) async fn set_status(api: &Arc<Api>, place: Place<'_>, status: Value) -> ApiResult<Outcome> {
    let cx = Context {
        validation: FieldValidation::Ignore,
        ..Context::system()
    };
    let place = Place {
        subresource: "status",
        ..place
    };
    change(api, &cx, place, Settle::Patch, |old| {
        let mut new = old.clone();
        new["status"] = status.clone();
        Ok(new)
    })
    .await
    .map(|mut o| {
        o.warnings = Vec::new();
        o
    })
    .or_else(|e| {
        if e.reason == "NotFound" {
            Ok(Outcome {
                object: json!({}),
                warnings: Vec::new(),
                created: false,
            })
        } else {
            Err(e)
        }
    })
}
