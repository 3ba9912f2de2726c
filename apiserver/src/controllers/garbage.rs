//! Objects whose owners are gone, and the finalizers of deletions that concern dependents.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::Api;
use crate::catalog::Resource;
use crate::rest::delete::{DeleteOptions, delete};
use crate::rest::update::{Place, Settle, change};
use crate::rest::{Context, meta};
use crate::status::ApiResult;
use crate::store::Stored;

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
    // Owners that exist, and whether they wait for their dependents.
    let mut owners: HashMap<String, bool> = HashMap::new();
    for object in lists.iter().flatten().filter(|o| wanted.contains(o.uid.as_str())) {
        let foreground = object.deleting
            && meta::finalizers(&object.value())
                .iter()
                .any(|f| f == "foregroundDeletion");
        owners.insert(object.uid.clone(), foreground);
    }
    let mut done = 0;
    for (resource, object) in &dependents {
        let alive = object.owners.iter().any(|uid| owners.get(uid) == Some(&false));
        if alive || object.deleting {
            continue;
        }
        let waited_for = object.owners.iter().any(|uid| owners.get(uid) == Some(&true));
        // Nobody who can come back owns it: the owners' UIDs are gone, and UIDs do not return.
        let options = DeleteOptions {
            uid: Some(object.uid.clone()),
            propagation: if waited_for {
                crate::rest::delete::Propagation::Foreground
            } else {
                Default::default()
            },
            ..DeleteOptions::default()
        };
        match delete(api, resource, &object.namespace, &object.name, &options).await {
            Ok(_) => done += 1,
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
    let finalizer = if finalizers.iter().any(|f| f == "orphan") {
        for (r, o) in dependents.iter().filter(|(_, o)| o.owners.contains(&object.uid)) {
            let place = Place {
                resource: r,
                namespace: &o.namespace,
                name: &o.name,
                subresource: "",
            };
            let disown = |old: &Value| {
                let mut new = old.clone();
                if let Some(list) = new
                    .pointer_mut("/metadata/ownerReferences")
                    .and_then(Value::as_array_mut)
                {
                    list.retain(|owner| owner.get("uid").and_then(Value::as_str) != Some(&object.uid));
                }
                Ok(new)
            };
            absent_is_fine(change(api, &Context::system(), place, Settle::Patch, disown).await)?;
        }
        "orphan"
    } else if finalizers.iter().any(|f| f == "foregroundDeletion") {
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
        "foregroundDeletion"
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

fn absent_is_fine<T>(outcome: ApiResult<T>) -> ApiResult<()> {
    match outcome {
        Err(e) if e.reason != "NotFound" => Err(e),
        _ => Ok(()),
    }
}
