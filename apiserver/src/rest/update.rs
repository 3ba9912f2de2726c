//! Update, and what every change of an object goes through.

use std::sync::Arc;

use serde_json::Value;

use super::create::{create_object, invalid, place};
use super::decode::{self, Body};
use super::{ATTEMPTS, Context, Outcome, Written, commit, key, may_create, meta, read};
use crate::api::Api;
use crate::apply::record_update;
use crate::auth::escalation;
use crate::builtin;
use crate::catalog::Resource;
use crate::catalog::builtin::Kind;
use crate::schema;
use crate::status::{ApiError, ApiResult, Cause};
use crate::store::Op;

/// Where a change goes: an object, and a subresource of it or none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// Resource.
    pub(crate) resource: &'a Arc<Resource>,
    /// Namespace, or empty.
    pub(crate) namespace: &'a str,
    /// Name.
    pub(crate) name: &'a str,
    /// `status`, `finalize`, `scale`, or empty.
    pub(crate) subresource: &'a str,
}

/// Replaces an object by the one in the body.
pub(crate) async fn update(
    api: &Arc<Api>,
    cx: &Context,
    place_: Place<'_>,
    body: &Body,
) -> ApiResult<Outcome> {
    let resource = place_.resource;
    let (mut object, warnings) = decode::read(body, resource, cx.validation)?;
    let given = meta::text(&object, "name").to_owned();
    if given.is_empty() {
        return Err(ApiError::bad_request("name must be provided"));
    }
    if given != place_.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({})",
            place_.name
        )));
    }
    place(&mut object, resource, place_.namespace)?;
    let missing = api
        .store
        .get(&resource.storage, place_.namespace, place_.name)
        .is_none();
    if missing && place_.subresource.is_empty() && resource.builtin().is_some_and(builtin::create_on_update) {
        may_create(api, cx, resource, place_.namespace, place_.name)?;
        let mut outcome = create_object(api, cx, resource, place_.namespace, object, false).await?;
        outcome.warnings.splice(..0, warnings);
        return Ok(outcome);
    }
    let mut outcome = change(api, cx, place_, Settle::Record, |_| Ok(object.clone())).await?;
    outcome.warnings.splice(..0, warnings);
    Ok(outcome)
}

/// Who settles field ownership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settle {
    /// This change does, from what differs; an update must name the version that it replaces where its
    /// kind asks for that.
    Record,
    /// The same, for patches: without a version in them, they apply to any.
    Patch,
    /// An apply did already.
    Done,
}

/// Changes an object: reads it, lets `make` produce the new one, and stores that by all the rules.
pub(crate) async fn change(
    api: &Arc<Api>,
    cx: &Context,
    place: Place<'_>,
    settle: Settle,
    make: impl Fn(&Value) -> ApiResult<Value>,
) -> ApiResult<Outcome> {
    let Place {
        resource,
        namespace,
        name,
        ..
    } = place;
    for _ in 0..ATTEMPTS {
        let stored = read(api, resource, namespace, name)?;
        let old = resource.decode(&stored);
        let new = make(&old)?;
        let pinned = preconditions(resource, &old, &new, settle)?;
        let new = prepare(api, cx, place, settle, &old, new)?;
        if same(&old, &new) {
            return Ok(Outcome {
                object: old,
                warnings: Vec::new(),
                created: false,
            });
        }
        let mut new = new;
        let claim = if place.subresource.is_empty() {
            builtin::claim(api, resource, &old, &mut new).await?
        } else {
            builtin::Claim::default()
        };
        if cx.dry_run {
            return Ok(Outcome {
                object: new,
                warnings: Vec::new(),
                created: false,
            });
        }
        if meta::deleting(&new) && finished(resource, &new) {
            // The last finalizer is gone, and the object with it.
            let done = commit(
                api,
                resource,
                key(resource, namespace, name),
                Some(stored.rv),
                Op::Delete,
            )
            .await?;
            if let Written::Done(_) = done {
                builtin::removed(api, resource, &old);
                if resource.builtin() == Some(Kind::Crd) {
                    // Boxed: what follows may change other definitions.
                    Box::pin(builtin::crd::gone(api, resource, &old)).await?;
                }
                let mut object = new;
                meta::of(&mut object).insert("resourceVersion".into(), stored.rv.to_string().into());
                return Ok(Outcome {
                    object,
                    warnings: Vec::new(),
                    created: false,
                });
            }
        } else {
            let op = Op::Put(resource.encode(new));
            let done = commit(api, resource, key(resource, namespace, name), Some(stored.rv), op).await?;
            if let Written::Done(stored) = done {
                claim.keep();
                let object = resource.decode(&stored);
                builtin::updated(api, resource, &old, &object).await?;
                return Ok(Outcome {
                    warnings: meta::finalizer_warnings(resource, &old, &object),
                    object,
                    created: false,
                });
            }
        }
        if pinned {
            return Err(ApiError::stale(&resource.group, &resource.plural, name));
        }
    }
    Err(ApiError::stale(&resource.group, &resource.plural, name))
}

/// Whether nothing holds the object back any more.
pub(crate) fn finished(resource: &Resource, object: &Value) -> bool {
    let held = resource.builtin() == Some(Kind::Namespace)
        && object
            .pointer("/spec/finalizers")
            .and_then(Value::as_array)
            .is_some_and(|l| !l.is_empty());
    let graceful = object
        .pointer("/metadata/deletionGracePeriodSeconds")
        .and_then(Value::as_i64)
        .unwrap_or(0)
        > 0;
    meta::finalizers(object).is_empty() && !held && !graceful
}

/// Checks version and UID; returns whether the change is pinned to the version it read.
fn preconditions(resource: &Resource, old: &Value, new: &Value, settle: Settle) -> ApiResult<bool> {
    let name = meta::text(old, "name");
    let uid = meta::text(new, "uid");
    if !uid.is_empty() && uid != meta::text(old, "uid") {
        if settle != Settle::Record {
            // Only an update names the object that it is meant for; in a patch the UID is a field.
            let cause = Cause::invalid("metadata.uid", &uid.into(), "field is immutable");
            return Err(ApiError::invalid(
                &resource.group,
                &resource.kind,
                name,
                vec![cause],
            ));
        }
        let key = format!(
            "/registry/{}/{}",
            if resource.custom() {
                format!("{}/{}", resource.group, resource.plural)
            } else {
                resource.plural.clone()
            },
            crate::store::object_key(meta::text(old, "namespace"), name)
        );
        let why = format!(
            "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            meta::text(old, "uid")
        );
        return Err(ApiError::conflict(&resource.group, &resource.plural, name, &why));
    }
    let rv = meta::text(new, "resourceVersion");
    let unconditional = resource.builtin().is_some_and(builtin::unconditional_update);
    if rv.is_empty() || rv == "0" {
        if settle == Settle::Record && !unconditional {
            return Err(ApiError::invalid(
                &resource.group,
                &resource.plural,
                name,
                vec![Cause::invalid(
                    "metadata.resourceVersion",
                    &0.into(),
                    "must be specified for an update",
                )],
            ));
        }
        return Ok(false);
    }
    if rv.parse::<u64>().is_err() {
        return Err(ApiError::invalid(
            &resource.group,
            &resource.plural,
            name,
            vec![Cause::invalid(
                "metadata.resourceVersion",
                &rv.into(),
                "must be a positive integer",
            )],
        ));
    }
    if rv != meta::text(old, "resourceVersion") {
        return Err(ApiError::stale(&resource.group, &resource.plural, name));
    }
    // Patches take the live version with them: only an update names it on purpose.
    Ok(settle == Settle::Record)
}

/// Whether nothing changed but the times of field managers.
fn same(old: &Value, new: &Value) -> bool {
    let strip = |v: &Value| {
        let mut v = v.clone();
        let m = meta::of(&mut v);
        m.shift_remove("resourceVersion");
        if let Some(list) = m.get_mut("managedFields").and_then(Value::as_array_mut) {
            for entry in list {
                if let Some(e) = entry.as_object_mut() {
                    e.shift_remove("time");
                }
            }
        }
        v
    };
    strip(old) == strip(new)
}

/// Makes the new object one that may be stored: what may not change does not, and what is wrong is
/// refused.
fn prepare(
    api: &Api,
    cx: &Context,
    place: Place<'_>,
    settle: Settle,
    old: &Value,
    mut new: Value,
) -> ApiResult<Value> {
    let Place {
        resource,
        namespace,
        subresource,
        ..
    } = place;
    let name = meta::text(old, "name").to_owned();
    if !new.is_object() {
        return Err(ApiError::bad_request("the patched object is no object"));
    }
    if resource.custom() {
        schema::drop_nulls(&mut new, &resource.schema);
        schema::default(&mut new, &resource.schema);
    }
    if let Some(kind) = resource.builtin() {
        builtin::default(kind, &mut new, Some(old));
    }
    // What only the server writes.
    for field in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "selfLink",
        "resourceVersion",
    ] {
        let before = old["metadata"].get(field).cloned();
        match before {
            Some(v) => meta::of(&mut new).insert(field.into(), v),
            None => meta::of(&mut new).shift_remove(field),
        };
    }
    if meta::text(&new, "name").is_empty() {
        meta::of(&mut new).insert("name".into(), name.clone().into());
    }
    if !namespace.is_empty() && meta::text(&new, "namespace").is_empty() {
        meta::of(&mut new).insert("namespace".into(), namespace.into());
    }
    meta::tidy(&mut new);
    let take = |new: &mut Value, field: &str| {
        if let Some(map) = new.as_object_mut() {
            match old.get(field) {
                Some(v) => map.insert(field.into(), v.clone()),
                None => map.shift_remove(field),
            };
        }
    };
    match subresource {
        "status" => {
            let fields: Vec<String> = old
                .as_object()
                .into_iter()
                .chain(new.as_object())
                .flat_map(|m| m.keys().cloned())
                .filter(|k| !["status", "metadata", "apiVersion", "kind"].contains(&k.as_str()))
                .collect();
            for field in fields {
                take(&mut new, &field);
            }
            // Custom resources keep all of their metadata but managed fields; built-in ones may take more.
            let kept: Vec<String> = if resource.custom() {
                vec![
                    "labels".into(),
                    "annotations".into(),
                    "finalizers".into(),
                    "ownerReferences".into(),
                    "generateName".into(),
                ]
            } else {
                vec!["ownerReferences".into()]
            };
            for field in kept {
                match old["metadata"].get(&field).cloned() {
                    Some(v) => meta::of(&mut new).insert(field, v),
                    None => meta::of(&mut new).shift_remove(&field),
                };
            }
        }
        "finalize" => take(&mut new, "status"),
        _ => {
            if resource.has_status() {
                take(&mut new, "status");
            }
            if resource.builtin() == Some(Kind::Namespace) {
                let finalizers = old
                    .pointer("/spec/finalizers")
                    .cloned()
                    .unwrap_or_else(|| Value::Array(Vec::new()));
                new["spec"]["finalizers"] = finalizers;
            }
        }
    }
    if let Some(kind) = resource.builtin() {
        builtin::prepare_update(kind, subresource, old, &mut new);
    }
    let generation = if resource.custom() {
        true
    } else {
        resource.builtin().is_some_and(builtin::uses_generation)
    };
    let specification = subresource.is_empty() || subresource == "scale";
    if generation && specification && content_changed(resource, old, &new) {
        let next = old
            .pointer("/metadata/generation")
            .and_then(Value::as_i64)
            .unwrap_or(0)
            + 1;
        meta::of(&mut new).insert("generation".into(), next.into());
    }
    if settle != Settle::Done {
        let manager = cx.manager_of(resource, subresource);
        record_update(old, &mut new, &resource.schema, &manager, resource.has_status());
    }
    let mut causes = meta::validate_update(resource, old, &new);
    if resource.custom() {
        let kind = new.get("kind").and_then(Value::as_str).unwrap_or_default();
        if kind != resource.kind {
            causes.push(Cause::invalid(
                "kind",
                &kind.into(),
                format!("must be {}", resource.kind),
            ));
        }
        causes.extend(schema::validate_change(&new, old, &resource.schema));
    }
    if let Some(kind) = resource.builtin() {
        if subresource.is_empty() {
            causes.extend(builtin::validate_change(api, kind, old, &new));
        }
        escalation::check(&api.rbac, &cx.user, kind, namespace, old, &new)?;
    }
    if causes.is_empty() {
        Ok(new)
    } else {
        Err(invalid(resource, &new, causes))
    }
}

/// Whether anything but metadata, and status where it has its own subresource, differs.
fn content_changed(resource: &Resource, old: &Value, new: &Value) -> bool {
    let strip = |v: &Value| {
        let mut v = v.clone();
        if let Some(map) = v.as_object_mut() {
            map.shift_remove("metadata");
            map.shift_remove("apiVersion");
            if resource.has_status() {
                map.shift_remove("status");
            }
        }
        v
    };
    strip(old) != strip(new)
}
