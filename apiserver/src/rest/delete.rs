//! Delete, of one object and of many.

use std::sync::Arc;

use serde_json::{Value, json};

use super::decode::{self, Body};
use super::list::{ListOptions, select};
use super::update::finished;
use super::{ATTEMPTS, Context, Written, commit, key, meta, now, read};
use crate::api::Api;
use crate::builtin;
use crate::catalog::Resource;
use crate::catalog::builtin::Kind;
use crate::status::{ApiError, ApiResult, Cause, deleted};
use crate::store::Op;

/// The finalizer of an owner whose dependents stay.
pub(crate) const ORPHAN: &str = "orphan";
/// The finalizer of an owner whose dependents go first.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";

/// What becomes of dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Propagation {
    /// The collector removes them afterwards.
    Background,
    /// They go first.
    Foreground,
    /// They stay.
    Orphan,
}

/// How to delete.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeleteOptions {
    /// Only the object with this UID.
    pub(crate) uid: Option<String>,
    /// Only the object at this version.
    pub(crate) resource_version: Option<String>,
    /// What becomes of dependents; `None`: as finalizers of the object say already, or in the background.
    pub(crate) propagation: Option<Propagation>,
    /// Seconds that a pod gets to end.
    pub(crate) grace: Option<i64>,
    /// Only try.
    pub(crate) dry_run: bool,
}

impl DeleteOptions {
    /// From the body, and from the query where there is none.
    pub(crate) fn parse(body: &Body, query: &crate::http::query::Query) -> ApiResult<Self> {
        let mut out = DeleteOptions::default();
        let mut options = json!({});
        if !body.bytes.is_empty() {
            let (value, _) = decode::parse(body, "DeleteOptions")?;
            let kind = value
                .get("kind")
                .and_then(Value::as_str)
                .unwrap_or("DeleteOptions");
            if !value.is_object() || kind != "DeleteOptions" {
                return Err(ApiError::bad_request(format!(
                    "the body of a deletion must be DeleteOptions, not {kind}"
                )));
            }
            options = value;
        }
        for field in ["propagationPolicy", "gracePeriodSeconds", "orphanDependents"] {
            if options.get(field).is_none()
                && let Some(v) = query.get(field)
            {
                options[field] = v.parse::<i64>().map(Value::from).unwrap_or_else(|_| match v {
                    "true" => true.into(),
                    "false" => false.into(),
                    _ => v.into(),
                });
            }
        }
        let text = |p: &str| options.pointer(p).and_then(Value::as_str).map(str::to_owned);
        out.uid = text("/preconditions/uid");
        out.resource_version = text("/preconditions/resourceVersion");
        out.grace = options.get("gracePeriodSeconds").and_then(Value::as_i64);
        let mut causes = Vec::new();
        let orphan = options.get("orphanDependents").and_then(Value::as_bool);
        let policy = options.get("propagationPolicy").and_then(Value::as_str);
        let policy = policy.filter(|p| !p.is_empty());
        if let (Some(_), Some(policy)) = (orphan, policy) {
            causes.push(Cause::invalid(
                "propagationPolicy",
                &policy.into(),
                "orphanDependents and deletionPropagation cannot be both set",
            ));
        }
        out.propagation = match (policy, orphan) {
            (Some("Background"), _) | (None, Some(false)) => Some(Propagation::Background),
            (Some("Foreground"), _) => Some(Propagation::Foreground),
            (Some("Orphan"), _) | (None, Some(true)) => Some(Propagation::Orphan),
            (None, None) => None,
            (Some(other), _) => {
                let known = ["Foreground", "Background", "Orphan", "nil"].map(Value::from);
                causes.push(Cause::not_supported("propagationPolicy", &other.into(), &known));
                None
            }
        };
        let mut dry: Vec<Value> = options
            .get("dryRun")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        dry.extend(query.get("dryRun").filter(|v| !v.is_empty()).map(Value::from));
        if dry.iter().any(|v| v != "All") {
            causes.push(Cause::not_supported("dryRun", &dry.into(), &["All".into()]));
        } else {
            out.dry_run = !dry.is_empty();
        }
        if causes.is_empty() {
            Ok(out)
        } else {
            Err(ApiError::invalid("meta.k8s.io", "DeleteOptions", "", causes))
        }
    }
}

/// What a deletion answers.
#[derive(Debug)]
pub(crate) enum Deleted {
    /// It is gone: a `Status`.
    Gone(Value),
    /// It waits for its finalizers: the object.
    Waiting(Value),
}

fn check(options: &DeleteOptions, resource: &Resource, object: &Value) -> ApiResult<()> {
    let name = meta::text(object, "name");
    if let Some(uid) = &options.uid {
        let have = meta::text(object, "uid");
        if uid != have {
            let why = format!(
                "the UID in the precondition ({uid}) does not match the UID in record ({have}). The object might have been deleted and then recreated"
            );
            return Err(ApiError::conflict(&resource.group, &resource.kind, name, &why));
        }
    }
    if let Some(rv) = &options.resource_version {
        let have = meta::text(object, "resourceVersion");
        if rv != have {
            let why = format!(
                "the ResourceVersion in the precondition ({rv}) does not match the ResourceVersion in record ({have}). The object might have been modified"
            );
            return Err(ApiError::conflict(&resource.group, &resource.kind, name, &why));
        }
    }
    Ok(())
}

/// Deletes one object.
pub(crate) async fn delete(
    api: &Arc<Api>,
    resource: &Arc<Resource>,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
) -> ApiResult<Deleted> {
    for _ in 0..ATTEMPTS {
        let stored = read(api, resource, namespace, name)?;
        let old = resource.decode(&stored);
        check(options, resource, &old)?;
        if resource.builtin() == Some(Kind::Namespace) && builtin::namespace::PERMANENT.contains(&name) {
            return Err(ApiError::forbidden(
                "",
                "namespaces",
                name,
                "this namespace may not be deleted",
            ));
        }
        let mut new = old.clone();
        let definition = resource.builtin() == Some(Kind::Crd);
        let mut list = finalizers(&old, options.propagation);
        if definition && !meta::deleting(&old) {
            builtin::crd::end(&mut new, &mut list);
        }
        if list != meta::finalizers(&old) {
            meta::of(&mut new).insert("finalizers".into(), json!(list));
        }
        let grace = grace(api, resource, &old, options);
        let marked = meta::deleting(&old);
        let namespace_kind = resource.builtin() == Some(Kind::Namespace);
        if !marked {
            let m = meta::of(&mut new);
            m.insert("deletionTimestamp".into(), later(grace).into());
            if !namespace_kind {
                m.insert("deletionGracePeriodSeconds".into(), grace.into());
            }
            if let Some(n) = old
                .pointer("/metadata/generation")
                .and_then(Value::as_i64)
                .filter(|n| *n > 0)
            {
                m.insert("generation".into(), (n + 1).into());
            }
            if namespace_kind {
                new["status"]["phase"] = "Terminating".into();
            }
        } else if grace == 0
            && old
                .pointer("/metadata/deletionGracePeriodSeconds")
                .is_some_and(|v| v != 0)
        {
            let m = meta::of(&mut new);
            m.insert("deletionGracePeriodSeconds".into(), 0.into());
            m.insert("deletionTimestamp".into(), now().into());
        }
        if finished(resource, &new) {
            if !options.dry_run {
                let done = commit(
                    api,
                    resource,
                    key(resource, namespace, name),
                    Some(stored.rv),
                    Op::Delete,
                )
                .await?;
                if let Written::Raced = done {
                    continue;
                }
                builtin::removed(api, resource, &old);
                if definition {
                    Box::pin(builtin::crd::gone(api, resource, &old)).await?;
                }
            }
            // Some deletions answer the object itself.
            if resource.builtin().is_some_and(builtin::answers_deleted) {
                return Ok(Deleted::Waiting(new));
            }
            return Ok(Deleted::Gone(deleted(
                &resource.group,
                &resource.plural,
                name,
                &stored.uid,
            )));
        }
        if new == old || options.dry_run {
            return Ok(Deleted::Waiting(new));
        }
        let op = Op::Put(resource.encode(new));
        match commit(api, resource, key(resource, namespace, name), Some(stored.rv), op).await? {
            Written::Done(stored) => {
                if definition {
                    // Boxed: its objects are deleted.
                    Box::pin(builtin::crd::finish(api, resource, name)).await?;
                }
                return Ok(Deleted::Waiting(resource.decode(&stored)));
            }
            Written::Raced => {}
        }
    }
    Err(ApiError::stale(&resource.group, &resource.plural, name))
}

/// The finalizers of an object that is deleted so: of those two that concern its dependents, the one that is
/// asked for, or that stood there before.
fn finalizers(object: &Value, propagation: Option<Propagation>) -> Vec<String> {
    let before = meta::finalizers(object);
    let has = |f: &str| before.iter().any(|b| b == f);
    let propagation = propagation.unwrap_or(if has(ORPHAN) {
        Propagation::Orphan
    } else if has(FOREGROUND) {
        Propagation::Foreground
    } else {
        Propagation::Background
    });
    let wanted = match propagation {
        Propagation::Background => None,
        Propagation::Foreground => Some(FOREGROUND),
        Propagation::Orphan => Some(ORPHAN),
    };
    if wanted.is_some_and(has) && !(has(ORPHAN) && has(FOREGROUND)) {
        return before;
    }
    let mut list: Vec<String> = before
        .into_iter()
        .filter(|f| f != ORPHAN && f != FOREGROUND)
        .collect();
    list.extend(wanted.map(str::to_owned));
    list
}

fn later(seconds: i64) -> String {
    let at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Seconds that the object gets: only pods on a node get any, and only where something ends them.
fn grace(api: &Api, resource: &Resource, object: &Value, options: &DeleteOptions) -> i64 {
    if resource.builtin() != Some(Kind::Pod) || !api.settings.pod_grace {
        return 0;
    }
    let on_node = object
        .pointer("/spec/nodeName")
        .and_then(Value::as_str)
        .is_some_and(|n| !n.is_empty());
    let phase = object
        .pointer("/status/phase")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if !on_node || phase == "Succeeded" || phase == "Failed" {
        return 0;
    }
    let own = object
        .pointer("/spec/terminationGracePeriodSeconds")
        .and_then(Value::as_i64)
        .unwrap_or(30);
    options.grace.unwrap_or(own).max(0)
}

/// Deletes what a list would show, and answers the list.
pub(crate) async fn delete_collection(
    api: &Arc<Api>,
    cx: &Context,
    resource: &Arc<Resource>,
    namespace: &str,
    list: &ListOptions,
    options: &DeleteOptions,
) -> ApiResult<Value> {
    let page = api.store.list(&resource.storage, namespace);
    let mut items = Vec::new();
    for stored in page.items.iter().filter(|o| select(o, list)) {
        let options = DeleteOptions {
            dry_run: options.dry_run || cx.dry_run,
            ..options.clone()
        };
        match delete(api, resource, &stored.namespace, &stored.name, &options).await {
            Ok(_) => items.push(resource.decode(stored)),
            Err(e) if e.reason == "NotFound" => {}
            Err(e) => return Err(e),
        }
    }
    Ok(super::list::wrap(resource, items, api.store.rv(), "", None))
}
