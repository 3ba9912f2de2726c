//! Create.

use std::sync::Arc;

use serde_json::{Value, json};

use super::decode::{self, Body};
use super::{Context, Outcome, Written, commit, key, meta, names, now};
use crate::api::Api;
use crate::apply::record_update;
use crate::auth::{escalation, uuid};
use crate::builtin;
use crate::catalog::{CRDS, Resource};
use crate::schema;
use crate::status::{ApiError, ApiResult, Cause};
use crate::store::{Op, Stored};

/// Creates an object from a body.
pub(crate) async fn create(
    api: &Arc<Api>,
    cx: &Context,
    resource: &Arc<Resource>,
    namespace: &str,
    body: &Body,
) -> ApiResult<Outcome> {
    let (object, warnings) = decode::read(body, resource, cx.validation)?;
    let mut outcome = create_object(api, cx, resource, namespace, object, false).await?;
    outcome.warnings.splice(..0, warnings);
    Ok(outcome)
}

/// Puts the namespace of the request into the object.
pub(crate) fn place(object: &mut Value, resource: &Resource, namespace: &str) -> ApiResult<()> {
    let given = meta::text(object, "namespace").to_owned();
    if !given.is_empty() && given != namespace {
        return Err(ApiError::bad_request(if resource.namespaced {
            "the namespace of the provided object does not match the namespace sent on the request"
        } else {
            "namespace may not be set on cluster-scoped objects"
        }));
    }
    if namespace.is_empty() {
        meta::of(object).shift_remove("namespace");
    } else {
        meta::of(object).insert("namespace".into(), namespace.into());
    }
    Ok(())
}

/// Refuses new objects in namespaces that are not there or on their way out.
pub(crate) fn admit_namespace(api: &Api, resource: &Resource, namespace: &str, name: &str) -> ApiResult<()> {
    if namespace.is_empty() || !resource.namespaced {
        return Ok(());
    }
    let Some(found) = api.store.get("namespaces", "", namespace) else {
        return Err(ApiError::not_found("", "namespaces", namespace));
    };
    if found.deleting {
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        return Err(
            ApiError::forbidden(&resource.group, &resource.plural, name, &why).with_cause(
                "NamespaceTerminating",
                format!("namespace {namespace} is being terminated"),
                "metadata.namespace",
            ),
        );
    }
    Ok(())
}

/// What both create and apply check of an object that is about to be stored.
pub(crate) fn validate(api: &Api, resource: &Resource, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    if resource.custom() {
        let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
        if kind != resource.kind {
            return vec![Cause::invalid(
                "kind",
                &kind.into(),
                format!("must be {}", resource.kind),
            )];
        }
    }
    causes.extend(meta::validate(resource, object));
    if resource.custom() {
        causes.extend(schema::validate(object, &resource.schema, ""));
    }
    if let Some(kind) = resource.builtin() {
        causes.extend(builtin::validate_new(api, kind, object));
    }
    causes
}

/// The refusal of a wrong object.
pub(crate) fn invalid(resource: &Resource, object: &Value, causes: Vec<Cause>) -> Box<ApiError> {
    let kind = object
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or(&resource.kind);
    ApiError::invalid(&resource.group, kind, meta::text(object, "name"), causes)
}

/// Creates an object. `applied`: ownership was settled by an apply already.
pub(crate) async fn create_object(
    api: &Arc<Api>,
    cx: &Context,
    resource: &Arc<Resource>,
    namespace: &str,
    mut object: Value,
    applied: bool,
) -> ApiResult<Outcome> {
    place(&mut object, resource, namespace)?;
    let generate = meta::text(&object, "generateName").to_owned();
    let generated = meta::text(&object, "name").is_empty() && !generate.is_empty();
    if generated {
        meta::of(&mut object).insert("name".into(), names::generate(&generate).into());
    }
    if !meta::text(&object, "resourceVersion").is_empty() && meta::text(&object, "resourceVersion") != "0" {
        return Err(ApiError::internal(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    {
        let m = meta::of(&mut object);
        for field in [
            "uid",
            "selfLink",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
            "resourceVersion",
        ] {
            m.shift_remove(field);
        }
        if !applied {
            m.shift_remove("managedFields");
        }
        m.insert("creationTimestamp".into(), now().into());
        m.insert("uid".into(), uuid().into());
    }
    meta::tidy(&mut object);
    if resource.has_status()
        && let Some(map) = object.as_object_mut()
    {
        map.shift_remove("status");
    }
    if resource.custom() {
        schema::drop_nulls(&mut object, &resource.schema);
        schema::default(&mut object, &resource.schema);
    }
    if let Some(kind) = resource.builtin() {
        builtin::default(kind, &mut object, None);
    }
    if !applied {
        let manager = cx.manager_of(resource, "");
        record_update(
            &json!({}),
            &mut object,
            &resource.schema,
            &manager,
            resource.has_status(),
        );
    }
    let name = meta::text(&object, "name").to_owned();
    // A patch that makes its object is no create, not even then.
    let ending = |crd: &Arc<Stored>| crd.deleting;
    if !applied
        && resource.custom()
        && api
            .store
            .get(CRDS, "", &resource.storage)
            .as_ref()
            .is_some_and(ending)
    {
        return Err(ApiError::terminating(&resource.group, &resource.plural, "create"));
    }
    admit_namespace(api, resource, namespace, &name)?;
    if let Some(kind) = resource.builtin() {
        builtin::admit_create(api, kind, &mut object)?;
        escalation::check(&api.rbac, &cx.user, kind, namespace, &Value::Null, &object)?;
    }
    if resource.custom() || resource.builtin().is_some_and(builtin::uses_generation) {
        meta::of(&mut object).insert("generation".into(), 1.into());
    }
    let causes = validate(api, resource, &object);
    if !causes.is_empty() {
        return Err(invalid(resource, &object, causes));
    }
    let claim = builtin::claim(api, resource, &Value::Null, &mut object).await?;
    if cx.dry_run {
        if api.store.get(&resource.storage, namespace, &name).is_some() {
            return Err(ApiError::already_exists(&resource.group, &resource.plural, &name));
        }
        return Ok(Outcome {
            object,
            warnings: Vec::new(),
            created: true,
        });
    }
    let encoded = resource.encode(object.clone());
    let mut written = commit(
        api,
        resource,
        key(resource, namespace, &name),
        None,
        Op::Put(encoded),
    )
    .await;
    if generated {
        // A generated name that is taken is generated anew.
        for _ in 0..8 {
            match &written {
                Err(e) if e.reason == "AlreadyExists" => {}
                _ => break,
            }
            let name = names::generate(&generate);
            meta::of(&mut object).insert("name".into(), name.clone().into());
            let encoded = resource.encode(object.clone());
            written = commit(
                api,
                resource,
                key(resource, namespace, &name),
                None,
                Op::Put(encoded),
            )
            .await;
        }
    }
    match written? {
        Written::Done(stored) => {
            claim.keep();
            let object = resource.decode(&stored);
            builtin::created(api, resource, &object).await?;
            Ok(Outcome {
                warnings: meta::finalizer_warnings(resource, &Value::Null, &object),
                object,
                created: true,
            })
        }
        Written::Raced => Err(ApiError::already_exists(&resource.group, &resource.plural, &name)),
    }
}
