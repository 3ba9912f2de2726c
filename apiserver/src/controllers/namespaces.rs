//! Namespaces that are being deleted lose their content, then their finalizer. Definitions likewise.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::Api;
use crate::builtin::crd;
use crate::catalog::{CRDS, reserved};
use crate::rest::delete::{DeleteOptions, delete};
use crate::rest::update::{Place, Settle, change};
use crate::rest::{Context, meta};
use crate::status::ApiResult;

/// One pass; returns how much was done.
pub(super) async fn run(api: &Arc<Api>) -> ApiResult<usize> {
    let catalog = api.catalogs.current();
    let mut done = definitions(api).await? + orphans(api).await?;
    let Some(namespaces) = catalog.find("", "v1", "namespaces").cloned() else {
        return Ok(done);
    };
    for namespace in api.store.list(&namespaces.storage, "").items {
        if !namespace.deleting {
            continue;
        }
        let mut left = 0;
        for resource in catalog.stored().iter().filter(|r| r.namespaced) {
            for object in api.store.list(&resource.storage, &namespace.name).items {
                if !object.deleting {
                    match delete(
                        api,
                        resource,
                        &namespace.name,
                        &object.name,
                        &DeleteOptions::default(),
                    )
                    .await
                    {
                        Ok(_) => done += 1,
                        Err(e) if e.reason == "NotFound" => {}
                        Err(e) => return Err(e),
                    }
                }
            }
            left += api.store.list(&resource.storage, &namespace.name).items.len();
        }
        if left > 0 {
            continue;
        }
        let place = Place {
            resource: &namespaces,
            namespace: "",
            name: &namespace.name,
            subresource: "finalize",
        };
        let release = |old: &Value| {
            let mut new = old.clone();
            let list = old
                .pointer("/spec/finalizers")
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default();
            let rest: Vec<Value> = list.into_iter().filter(|f| f != "kubernetes").collect();
            new["spec"]["finalizers"] = json!(rest);
            Ok(new)
        };
        let before = namespace.rv;
        match change(api, &Context::system(), place, Settle::Patch, release).await {
            Ok(outcome) => {
                let rv = meta::text(&outcome.object, "resourceVersion")
                    .parse()
                    .unwrap_or(0);
                let gone = api.store.get(&namespaces.storage, "", &namespace.name).is_none();
                done += usize::from(gone || rv != before);
            }
            Err(e) if e.reason == "NotFound" => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// Definitions that are being deleted go after their objects; those with names that they may not have lose them.
async fn definitions(api: &Arc<Api>) -> ApiResult<usize> {
    let mut done = 0;
    let resource = api
        .catalogs
        .current()
        .find("apiextensions.k8s.io", "v1", "customresourcedefinitions")
        .cloned();
    let Some(resource) = resource else { return Ok(0) };
    for definition in api.store.list(CRDS, "").items {
        if definition.deleting {
            done += crd::finish(api, &resource, &definition.name).await?;
        } else if reserved::shares_group(&definition.name) {
            done += crd::correct(api, &resource, &definition.value()).await?;
        }
    }
    Ok(done)
}

/// Objects whose definition is gone go too.
pub(crate) async fn orphans(api: &Arc<Api>) -> ApiResult<usize> {
    let known: Vec<Arc<str>> = api
        .catalogs
        .current()
        .stored()
        .iter()
        .map(|r| r.storage.clone())
        .collect();
    let definitions: Vec<Value> = api.store.list(CRDS, "").items.iter().map(|o| o.value()).collect();
    let mut done = 0;
    for storage in api.store.resources() {
        if known.contains(&storage) {
            continue;
        }
        let defined = definitions.iter().any(|d| {
            let text = |p: &str| {
                d.pointer(p)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned()
            };
            format!("{}.{}", text("/spec/names/plural"), text("/spec/group")) == *storage
        });
        if defined {
            continue;
        }
        for object in api.store.list(&storage, "").items {
            let key = crate::store::Key {
                resource: storage.clone(),
                namespace: object.namespace.clone(),
                name: object.name.clone(),
            };
            let write = crate::store::Write {
                key,
                expect: Some(object.rv),
                op: crate::store::Op::Delete,
            };
            if let Err(crate::store::WriteError::Storage(e)) = api.store.write(write).await {
                return Err(crate::status::ApiError::internal(e));
            }
            done += 1;
        }
    }
    Ok(done)
}
