//! Requests for resources.

use std::sync::Arc;

use axum::body::Body;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use http::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::negotiate::{Encoding, View, negotiate};
use super::respond::{body_response, encoded, warn};
use super::{Call, header, manager};
use crate::api::Api;
use crate::catalog::Resource;
use crate::rest::delete::{DeleteOptions, Deleted, delete, delete_collection};
use crate::rest::list::{ListOptions, Listed, list, version, wrap};
use crate::rest::update::{Place, update};
use crate::rest::{Context, FieldValidation, Outcome, create, meta, patch, read, scale, send, watch};
use crate::reviews;
use crate::status::{ApiError, ApiResult, Cause};
use crate::table::{self, Include};

/// Serves a request that is authenticated and allowed.
pub(super) async fn serve(api: &Arc<Api>, call: Call) -> ApiResult<Response<Body>> {
    let catalog = api.catalogs.current();
    let t = &call.target;
    let Some(resource) = catalog.find(&t.group, &t.version, &t.plural).cloned() else {
        if catalog.has_version(&t.group, &t.version) {
            return Err(ApiError::no_resource());
        }
        return Ok(super::respond::text_response(
            StatusCode::NOT_FOUND,
            "404 page not found\n",
        ));
    };
    // A namespace's own path names its namespace for access control only.
    let namespace = if resource.namespaced {
        t.namespace.clone()
    } else {
        String::new()
    };
    if !resource.namespaced && !t.namespace.is_empty() && resource.plural != "namespaces" {
        return Err(ApiError::no_resource());
    }
    if resource.namespaced && namespace.is_empty() && !t.name.is_empty() {
        return Err(ApiError::no_resource());
    }
    if !t.subresource.is_empty() {
        return subresource(api, &call, &resource, &namespace).await;
    }
    let verb = t.verb.as_str();
    if !resource.verbs.contains(&verb) {
        return Err(ApiError::method_not_allowed());
    }
    if !t.name.is_empty() && matches!(verb, "list" | "watch" | "deletecollection") {
        return Err(ApiError::method_not_allowed());
    }
    match verb {
        "create" => {
            if !t.name.is_empty() || (resource.namespaced && namespace.is_empty()) {
                return Err(ApiError::method_not_allowed());
            }
            let cx = context(&call, false)?;
            let outcome = match reviews::serve(api, &call.user, &cx, &resource, &namespace, &call.body).await
            {
                Some(review) => review?,
                None => create::create(api, &cx, &resource, &namespace, &call.body).await?,
            };
            answer(&call, &resource, outcome)
        }
        "get" => {
            fresh_enough(api, &call)?;
            let stored = read(api, &resource, &namespace, &t.name)?;
            show(&call, &resource, resource.decode(&stored), StatusCode::OK, &[])
        }
        "list" => lists(api, &call, &resource, &namespace).await,
        "watch" => watches(api, &call, &resource, &namespace),
        "update" | "patch" if t.name.is_empty() => Err(ApiError::method_not_allowed()),
        "update" => {
            let cx = context(&call, false)?;
            let place = Place {
                resource: &resource,
                namespace: &namespace,
                name: &t.name,
                subresource: "",
            };
            let outcome = update(api, &cx, place, &call.body).await?;
            answer(&call, &resource, outcome)
        }
        "patch" => {
            let cx = context(&call, true)?;
            let place = Place {
                resource: &resource,
                namespace: &namespace,
                name: &t.name,
                subresource: "",
            };
            let outcome = patch::patch(api, &cx, place, &call.body).await?;
            answer(&call, &resource, outcome)
        }
        "delete" => {
            let options = DeleteOptions::parse(&call.body, &call.query)?;
            let done = delete(api, &resource, &namespace, &t.name, &options).await?;
            match done {
                Deleted::Gone(status) => Ok(encoded(StatusCode::OK, &status, Encoding::Json)),
                Deleted::Waiting(object) => show(&call, &resource, object, StatusCode::OK, &[]),
            }
        }
        "deletecollection" => {
            let options = DeleteOptions::parse(&call.body, &call.query)?;
            let selection = ListOptions::parse(&call.query, &resource)?;
            let cx = context(&call, false)?;
            let value = delete_collection(api, &cx, &resource, &namespace, &selection, &options).await?;
            Ok(encoded(StatusCode::OK, &value, Encoding::Json))
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// Refuses to read one object at a version that is none, or that has not come yet.
fn fresh_enough(api: &Api, call: &Call) -> ApiResult<()> {
    let asked = version(call.query.get("resourceVersion").unwrap_or_default());
    let now = api.store.rv();
    match asked.map_err(ApiError::unexplained)? {
        Some(rv) if rv > now => Err(ApiError::future_version(rv, now)),
        _ => Ok(()),
    }
}

async fn subresource(
    api: &Arc<Api>,
    call: &Call,
    resource: &Arc<Resource>,
    namespace: &str,
) -> ApiResult<Response<Body>> {
    let t = &call.target;
    let Some(sub) = resource.subresources.iter().find(|s| s.name == t.subresource) else {
        return Err(ApiError::no_resource());
    };
    let verb = match call.method {
        Method::GET | Method::HEAD => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::POST => "create",
        _ => "",
    };
    if !sub.verbs.contains(&verb) {
        return Err(ApiError::method_not_allowed());
    }
    let place = Place {
        resource,
        namespace,
        name: &t.name,
        subresource: sub.name,
    };
    match verb {
        "get" if sub.name == "scale" => {
            let value = scale::get(api, resource, namespace, &t.name)?;
            show(call, resource, value, StatusCode::OK, &[])
        }
        "get" => {
            let stored = read(api, resource, namespace, &t.name)?;
            show(call, resource, resource.decode(&stored), StatusCode::OK, &[])
        }
        "update" if sub.name == "scale" => {
            let outcome = scale::update(api, &context(call, false)?, place, &call.body).await?;
            answer(call, resource, outcome)
        }
        "patch" if sub.name == "scale" => {
            let outcome = scale::patch(api, &context(call, true)?, place, &call.body).await?;
            answer(call, resource, outcome)
        }
        "create" => {
            let cx = context(call, false)?;
            let outcome = reviews::token_request(api, &cx, namespace, &t.name, &call.body).await?;
            answer(call, resource, outcome)
        }
        "update" => {
            let outcome = update(api, &context(call, false)?, place, &call.body).await?;
            answer(call, resource, outcome)
        }
        _ => {
            let outcome = patch::patch(api, &context(call, true)?, place, &call.body).await?;
            answer(call, resource, outcome)
        }
    }
}

/// Options of a write.
fn context(call: &Call, patching: bool) -> ApiResult<Context> {
    let q = &call.query;
    let kind = if patching {
        "PatchOptions"
    } else if call.method == Method::PUT {
        "UpdateOptions"
    } else {
        "CreateOptions"
    };
    let wrong = |cause: Cause| ApiError::invalid("meta.k8s.io", kind, "", vec![cause]);
    let dry_run = match q.get("dryRun") {
        None | Some("") => false,
        Some("All") => true,
        Some(other) => {
            return Err(wrong(Cause::not_supported(
                "dryRun",
                &json!([other]),
                &["All".into()],
            )));
        }
    };
    let validation = match q.get("fieldValidation") {
        None | Some("" | "Warn") => FieldValidation::Warn,
        Some("Ignore") => FieldValidation::Ignore,
        Some("Strict") => FieldValidation::Strict,
        Some(other) => {
            return Err(wrong(Cause::not_supported(
                "fieldValidation",
                &other.into(),
                &["Ignore", "Warn", "Strict"].map(Value::from),
            )));
        }
    };
    let apply = call.body.media_type == "application/apply-patch+yaml";
    let given = q.get("fieldManager").unwrap_or_default();
    if given.len() > 128 {
        return Err(wrong(Cause::too_long("fieldManager", 128, "bytes")));
    }
    // An apply has to say who it is; other writes may go by the client's name.
    let manager = if given.is_empty() && !(apply && patching) {
        manager(&call.headers)
    } else {
        given.to_owned()
    };
    Ok(Context {
        user: call.user.clone(),
        manager,
        dry_run,
        validation,
        force: q.flag("force"),
    })
}

fn view(call: &Call, is_list: bool) -> ApiResult<(View, Encoding)> {
    let include = match call.query.get("includeObject") {
        Some("None") => Include::None,
        Some("Object") => Include::Object,
        _ => Include::Metadata,
    };
    negotiate(header(&call.headers, &ACCEPT), is_list, include)
        .ok_or_else(|| ApiError::not_acceptable(&["application/json", "application/yaml"]))
}

fn answer(call: &Call, resource: &Resource, outcome: Outcome) -> ApiResult<Response<Body>> {
    let status = if outcome.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    show(call, resource, outcome.object, status, &outcome.warnings)
}

fn show(
    call: &Call,
    resource: &Resource,
    object: Value,
    status: StatusCode,
    warnings: &[String],
) -> ApiResult<Response<Body>> {
    let (view, encoding) = view(call, false)?;
    let value = match view {
        View::Plain => object,
        View::Partial => table::partial(&object),
        View::Table(include) => {
            let rv = meta::text(&object, "resourceVersion").to_owned();
            table::table(resource, &[object], include, &rv, "", None)
        }
    };
    Ok(warn(encoded(status, &value, encoding), warnings))
}

/// Objects that are looked at, or shown in another form, between other requests; more are left to a thread.
const MANY: usize = 2048;

async fn lists(
    api: &Arc<Api>,
    call: &Call,
    resource: &Arc<Resource>,
    namespace: &str,
) -> ApiResult<Response<Body>> {
    let (view, encoding) = view(call, true)?;
    let options = ListOptions::parse(&call.query, resource)?;
    let many = api.store.count(&resource.storage, namespace) > MANY;
    let (api, resource, namespace) = (api.clone(), resource.clone(), namespace.to_owned());
    let make = move || {
        shown(
            &resource,
            view,
            encoding,
            list(&api, &resource, &namespace, &options)?,
        )
    };
    if !many {
        return make();
    }
    tokio::task::spawn_blocking(make)
        .await
        .map_err(ApiError::internal)?
}

/// A list in the form that was asked for.
fn shown(
    resource: &Arc<Resource>,
    view: View,
    encoding: Encoding,
    listed: Listed,
) -> ApiResult<Response<Body>> {
    if view == View::Plain && encoding == Encoding::Json {
        return Ok(body_response(
            StatusCode::OK,
            "application/json",
            send::body(resource, listed),
        ));
    }
    let objects: Vec<Value> = listed.items.iter().map(|o| resource.decode(o)).collect();
    let value = match view {
        View::Plain => wrap(resource, objects, listed.rv, &listed.token, listed.remaining),
        View::Table(include) => table::table(
            resource,
            &objects,
            include,
            &listed.rv.to_string(),
            &listed.token,
            listed.remaining,
        ),
        View::Partial => {
            let items: Vec<Value> = objects.iter().map(table::partial).collect();
            let mut metadata = json!({"resourceVersion": listed.rv.to_string()});
            if !listed.token.is_empty() {
                metadata["continue"] = listed.token.clone().into();
            }
            if let Some(n) = listed.remaining {
                metadata["remainingItemCount"] = n.into();
            }
            json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "items": items})
        }
    };
    Ok(encoded(StatusCode::OK, &value, encoding))
}

fn watches(
    api: &Arc<Api>,
    call: &Call,
    resource: &Arc<Resource>,
    namespace: &str,
) -> ApiResult<Response<Body>> {
    // Watches are asked for in the form of single objects, but some clients ask for lists.
    let (form, _) = view(call, false).or_else(|_| view(call, true))?;
    let options = ListOptions::parse(&call.query, resource)?;
    let stream = watch::watch(api, resource, namespace, options, form, call.watcher.clone())?;
    let mut response = Response::new(Body::from_stream(stream));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
        .headers_mut()
        .insert("cache-control", HeaderValue::from_static("no-cache, private"));
    Ok(response)
}
