//! Objects whose owners are gone, and the finalizers of deletions that concern dependents.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::Api;
use crate::catalog::Resource;
use crate::rest::delete::{DeleteOptions, FOREGROUND, ORPHAN, Propagation, delete};
use crate::rest::update::{Place, Settle, change};
use crate::rest::{Context, meta};
use crate::status::ApiResult;
use crate::store::Stored;

/// An owner that exists.
struct Owner {
    namespace: String,
    /// Whether it is being deleted, and waits for its dependents.
    waits: bool,
}

/// One pass; returns how much was done.
pub(super) async fn run(api: &Arc<Api>) -> ApiResult<usize> {
    let catalog = api.catalogs.current();
    let mut dependents: Vec<(Arc<Resource>, Arc<Stored>)> = Vec::new();
    let mut ending: Vec<(Arc<Resource>, Arc<Stored>)> = Vec::new();
    let mut lists = Vec::new();
    for resource in catalog.stored() {
        let items = api.store.list(&resource.storage, "").items;
        for object in &items {
            if !object.owners.is_empty() {
                dependents.push((resource.clone(), object.clone()));
            }
            if object.deleting {
                ending.push((resource.clone(), object.clone()));
            }
        }
        lists.push(items);
    }
    if dependents.is_empty() && ending.is_empty() {
        return Ok(0);
    }
    let wanted: HashSet<&str> = dependents
        .iter()
        .flat_map(|(_, o)| o.owners.iter().map(String::as_str))
        .collect();
    let mut owners: HashMap<String, Owner> = HashMap::new();
    for object in lists.iter().flatten().filter(|o| wanted.contains(o.uid.as_str())) {
        let waits = object.deleting && meta::finalizers(&object.value()).iter().any(|f| f == FOREGROUND);
        let namespace = object.namespace.clone();
        owners.insert(object.uid.clone(), Owner { namespace, waits });
    }
    let mut done = 0;
    for (resource, object) in dependents.iter().filter(|(_, o)| !o.deleting) {
        // An owner in another namespace is no owner.
        let find = |uid: &String| {
            owners.get(uid).filter(|o| {
                o.namespace.is_empty() || object.namespace.is_empty() || o.namespace == object.namespace
            })
        };
        let stays = |uid: &String| find(uid).is_some_and(|o| !o.waits);
        let outcome = if object.owners.iter().all(stays) {
            continue;
        } else if object.owners.iter().any(stays) {
            // It outlives those that are gone or going, and keeps none of them waiting.
            let lost: Vec<String> = object.owners.iter().filter(|u| !stays(u)).cloned().collect();
            disown(api, resource, object, &lost).await
        } else {
            let waited_for = object.owners.iter().any(|uid| find(uid).is_some());
            // Nobody who can come back owns it: the owners' UIDs are gone, and UIDs do not return.
            let options = DeleteOptions {
                uid: Some(object.uid.clone()),
                propagation: (waited_for && wanted.contains(object.uid.as_str()))
                    .then_some(Propagation::Foreground),
                ..DeleteOptions::default()
            };
            delete(api, resource, &object.namespace, &object.name, &options)
                .await
                .map(|_| ())
        };
        match outcome {
            Ok(()) => done += 1,
            Err(e) if e.reason == "NotFound" || e.reason == "Conflict" => {}
            Err(e) => return Err(e),
        }
    }
    for (resource, object) in &ending {
        done += finish(api, resource, object, &dependents).await?;
    }
    Ok(done)
}

/// Handles the finalizers `foregroundDeletion` and `orphan`.
async fn finish(
    api: &Arc<Api>,
    resource: &Arc<Resource>,
    object: &Arc<Stored>,
    dependents: &[(Arc<Resource>, Arc<Stored>)],
) -> ApiResult<usize> {
    let finalizers = meta::finalizers(&object.value());
    let mine = |r: &Arc<Resource>, o: &Arc<Stored>| {
        api.store
            .get(&r.storage, &o.namespace, &o.name)
            .filter(|now| now.owners.contains(&object.uid))
    };
    let finalizer = if finalizers.iter().any(|f| f == ORPHAN) {
        for (r, o) in dependents.iter().filter(|(_, o)| o.owners.contains(&object.uid)) {
            absent_is_fine(disown(api, r, o, std::slice::from_ref(&object.uid)).await)?;
        }
        ORPHAN
    } else if finalizers.iter().any(|f| f == FOREGROUND) {
        let blocked = dependents.iter().any(|(r, o)| {
            mine(r, o).is_some_and(|now| {
                let value = now.value();
                let list = value
                    .pointer("/metadata/ownerReferences")
                    .and_then(Value::as_array);
                list.into_iter().flatten().any(|owner| {
                    owner.get("uid").and_then(Value::as_str) == Some(&object.uid)
                        && owner.get("blockOwnerDeletion") == Some(&Value::Bool(true))
                })
            })
        });
        if blocked {
            return Ok(0);
        }
        FOREGROUND
    } else {
        return Ok(0);
    };
    let place = Place {
        resource,
        namespace: &object.namespace,
        name: &object.name,
        subresource: "",
    };
    let release = |old: &Value| {
        let mut new = old.clone();
        let rest: Vec<String> = meta::finalizers(old)
            .into_iter()
            .filter(|f| f != finalizer)
            .collect();
        meta::of(&mut new).insert("finalizers".into(), json!(rest));
        Ok(new)
    };
    absent_is_fine(change(api, &Context::system(), place, Settle::Patch, release).await)?;
    Ok(1)
}

/// Takes these owners from an object.
async fn disown(
    api: &Arc<Api>,
    resource: &Arc<Resource>,
    object: &Arc<Stored>,
    owners: &[String],
) -> ApiResult<()> {
    let place = Place {
        resource,
        namespace: &object.namespace,
        name: &object.name,
        subresource: "",
    };
    let without = |old: &Value| {
        let mut new = old.clone();
        if let Some(list) = new
            .pointer_mut("/metadata/ownerReferences")
            .and_then(Value::as_array_mut)
        {
            list.retain(|owner| {
                let uid = owner.get("uid").and_then(Value::as_str).unwrap_or_default();
                !owners.iter().any(|o| o == uid)
            });
        }
        Ok(new)
    };
    change(api, &Context::system(), place, Settle::Patch, without)
        .await
        .map(|_| ())
}

fn absent_is_fine<T>(outcome: ApiResult<T>) -> ApiResult<()> {
    match outcome {
        Err(e) if e.reason != "NotFound" => Err(e),
        _ => Ok(()),
    }
}
