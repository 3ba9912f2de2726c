//! The subresource `scale`: how many replicas an object asks for, without the rest of it.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::decode::{self, Body};
use super::update::{Place, Settle, change};
use super::{Context, Outcome, meta, read};
use crate::api::Api;
use crate::catalog::{Resource, ScalePaths};
use crate::patch::{Refused, json_patch, merge_patch};
use crate::status::{ApiError, ApiResult, Cause};

const API_VERSION: &str = "autoscaling/v1";
const PATCHES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

fn paths(resource: &Resource) -> ApiResult<&ScalePaths> {
    resource.scale.as_ref().ok_or_else(ApiError::no_resource)
}

/// The scale of an object.
fn of(object: &Value, paths: &ScalePaths) -> Value {
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let mut metadata = Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(v) = object["metadata"].get(field) {
            metadata.insert(field.into(), v.clone());
        }
    }
    let mut spec = Map::new();
    match number(&paths.spec) {
        0 => {}
        n => {
            spec.insert("replicas".into(), n.into());
        }
    }
    let mut status = json!({"replicas": number(&paths.status)});
    let selector = paths.selector.as_ref().and_then(|p| object.pointer(p));
    if let Some(text) = selector.map(selector_text).filter(|s| !s.is_empty()) {
        status["selector"] = text.into();
    }
    json!({"kind": "Scale", "apiVersion": API_VERSION, "metadata": metadata, "spec": spec, "status": status})
}

/// A label selector as one line.
fn selector_text(selector: &Value) -> String {
    let Some(map) = selector.as_object() else {
        return selector.as_str().unwrap_or_default().to_owned();
    };
    let structured = map.contains_key("matchLabels") || map.contains_key("matchExpressions");
    let labels = if structured {
        map.get("matchLabels").and_then(Value::as_object)
    } else {
        Some(map)
    };
    let mut parts: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    let expressions = map.get("matchExpressions").and_then(Value::as_array);
    for e in expressions.into_iter().flatten().filter(|_| structured) {
        let key = e.get("key").and_then(Value::as_str).unwrap_or_default();
        let values: Vec<&str> = e
            .get("values")
            .and_then(Value::as_array)
            .map(|l| l.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        parts.push(match e.get("operator").and_then(Value::as_str) {
            Some("In") => format!("{key} in ({})", values.join(",")),
            Some("NotIn") => format!("{key} notin ({})", values.join(",")),
            Some("DoesNotExist") => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    parts.sort();
    parts.join(",")
}

/// Reads a scale.
pub(crate) fn get(api: &Api, resource: &Resource, namespace: &str, name: &str) -> ApiResult<Value> {
    let stored = read(api, resource, namespace, name)?;
    Ok(of(&resource.decode(&stored), paths(resource)?))
}

/// Replaces a scale by the one in the body.
pub(crate) async fn update(
    api: &Arc<Api>,
    cx: &Context,
    place: Place<'_>,
    body: &Body,
) -> ApiResult<Outcome> {
    let (scale, _) = decode::parse(body, "Scale")?;
    check_kind(&scale)?;
    let given = meta::text(&scale, "name");
    if !given.is_empty() && given != place.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({})",
            place.name
        )));
    }
    write(api, cx, place, Settle::Record, |_| Ok(scale.clone())).await
}

/// Patches a scale.
pub(crate) async fn patch(api: &Arc<Api>, cx: &Context, place: Place<'_>, body: &Body) -> ApiResult<Outcome> {
    if !PATCHES.contains(&body.media_type.as_str()) {
        return Err(ApiError::unsupported_media_type(PATCHES));
    }
    let parsed: Value = serde_json::from_slice(&body.bytes).map_err(|e| {
        ApiError::bad_request(format!(
            "error decoding patch: {}",
            crate::json::go_error(&body.bytes, &e)
        ))
    })?;
    write(api, cx, place, Settle::Patch, |old| {
        if body.media_type == PATCHES[0] {
            return json_patch(old, &parsed).map_err(|e| match e {
                Refused::Malformed(why) => ApiError::bad_request(format!("error decoding patch: {why}")),
                Refused::Failed => ApiError::patch_failed(),
            });
        }
        let mut new = old.clone();
        merge_patch(&mut new, &parsed);
        Ok(new)
    })
    .await
}

fn check_kind(scale: &Value) -> ApiResult<()> {
    let kind = scale.get("kind").and_then(Value::as_str).unwrap_or("Scale");
    if scale.is_object() && kind == "Scale" {
        return Ok(());
    }
    Err(ApiError::bad_request(format!(
        "{kind} in the body of a request for a scale; it must be Scale"
    )))
}

async fn write(
    api: &Arc<Api>,
    cx: &Context,
    place: Place<'_>,
    settle: Settle,
    make: impl Fn(&Value) -> ApiResult<Value>,
) -> ApiResult<Outcome> {
    let paths = paths(place.resource)?;
    let mut outcome = change(api, cx, place, settle, |old| {
        let scale = make(&of(old, paths))?;
        check_kind(&scale)?;
        let replicas = match scale.pointer("/spec/replicas") {
            None | Some(Value::Null) => 0,
            Some(v) => v.as_i64().ok_or_else(|| {
                ApiError::bad_request(format!(
                    "Scale in version \"v1\" cannot be handled as a Scale: json: cannot unmarshal {v} into Go struct field ScaleSpec.spec.replicas of type int32"
                ))
            })?,
        };
        if replicas < 0 {
            return Err(ApiError::invalid(
                "autoscaling",
                "Scale",
                place.name,
                vec![Cause::invalid(
                    "spec.replicas",
                    &replicas.into(),
                    "must be greater than or equal to 0",
                )],
            ));
        }
        let mut new = old.clone();
        put(&mut new, &paths.spec, replicas.into());
        // The scale's own preconditions.
        let m = meta::of(&mut new);
        for field in ["uid", "resourceVersion"] {
            m.insert(field.into(), meta::text(&scale, field).into());
        }
        Ok(new)
    })
    .await?;
    outcome.object = of(&outcome.object, paths);
    Ok(outcome)
}

/// Sets a field, and makes what it stands in.
fn put(object: &mut Value, pointer: &str, value: Value) {
    let mut at = object;
    for part in pointer.split('/').skip(1) {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[part];
    }
    *at = value;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_one_line() {
        for (selector, want) in [
            (json!({"matchLabels": {"b": "2", "a": "1"}}), "a=1,b=2"),
            (json!({"app": "web"}), "app=web"),
            (json!("app=web"), "app=web"),
            (
                json!({"matchExpressions": [{"key": "t", "operator": "In", "values": ["x", "y"]}, {"key": "s", "operator": "DoesNotExist"}]}),
                "!s,t in (x,y)",
            ),
        ] {
            assert_eq!(selector_text(&selector), want);
        }
    }
}
