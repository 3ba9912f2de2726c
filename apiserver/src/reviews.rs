//! Kinds that are questions: who am I, may I, and give me a token.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::api::Api;
use crate::apply::record_update;
use crate::auth::rbac::Attributes;
use crate::auth::token::{Claims, ISSUER, Named, Private};
use crate::auth::{User, uuid};
use crate::catalog::Resource;
use crate::catalog::builtin::Kind;
use crate::rest::decode::{self, Body};
use crate::rest::{Context, Outcome, meta, now, read};
use crate::schema::builtin::Library;
use crate::status::{ApiError, ApiResult, Cause};

const MIN_SECONDS: i64 = 600;
const DEFAULT_SECONDS: i64 = 3600;
const MAX_SECONDS: i64 = 1 << 32;

/// Answers a review; `None`: the resource is none.
pub(crate) async fn serve(
    api: &Arc<Api>,
    user: &User,
    cx: &Context,
    resource: &Arc<Resource>,
    namespace: &str,
    body: &Body,
) -> Option<ApiResult<Outcome>> {
    let kind = resource.builtin()?;
    let known = matches!(
        kind,
        Kind::SelfSubjectReview
            | Kind::TokenReview
            | Kind::SelfSubjectAccessReview
            | Kind::SubjectAccessReview
            | Kind::LocalSubjectAccessReview
            | Kind::SelfSubjectRulesReview
    );
    known.then(|| review(api, user, cx, resource, kind, namespace, body))
}

fn review(
    api: &Api,
    user: &User,
    cx: &Context,
    resource: &Resource,
    kind: Kind,
    namespace: &str,
    body: &Body,
) -> ApiResult<Outcome> {
    let (mut object, warnings) = decode::read(body, resource, cx.validation)?;
    object.as_object_mut().map(|m| m.shift_remove("status"));
    meta::tidy(&mut object);
    if kind == Kind::SelfSubjectReview {
        meta::of(&mut object).insert("creationTimestamp".into(), now().into());
        object["status"] = json!({"userInfo": user.to_value()});
        return Ok(Outcome {
            object,
            warnings,
            created: true,
        });
    }
    record_update(
        &json!({}),
        &mut object,
        &resource.schema,
        &cx.manager_of(resource, ""),
        true,
    );
    let spec = object.get("spec").cloned().unwrap_or_default();
    object["status"] = match kind {
        Kind::TokenReview => {
            let token = spec.get("token").and_then(Value::as_str).unwrap_or_default();
            let audiences: Vec<String> =
                serde_json::from_value(spec.get("audiences").cloned().unwrap_or_default())
                    .unwrap_or_default();
            let audience = audiences.first().map(String::as_str).unwrap_or(ISSUER);
            match api.authenticate_for(token, audience) {
                Some(who) => json!({"authenticated": true, "user": who.to_value(), "audiences": [audience]}),
                None => json!({"user": {}, "error": "invalid bearer token"}),
            }
        }
        Kind::SelfSubjectRulesReview => {
            let namespace = spec.get("namespace").and_then(Value::as_str).unwrap_or_default();
            rules(api, user, namespace)
        }
        _ => {
            let asked = if kind == Kind::SelfSubjectAccessReview {
                user.clone()
            } else {
                subject(&spec)
            };
            let mut a = attributes(&spec, resource, &object)?;
            if kind == Kind::LocalSubjectAccessReview {
                a.namespace = namespace.to_owned();
            }
            match api.rbac.reason(&asked, &a) {
                None => json!({"allowed": false}),
                Some(why) if why.is_empty() => json!({"allowed": true}),
                Some(why) => json!({"allowed": true, "reason": why}),
            }
        }
    };
    Ok(Outcome {
        object,
        warnings,
        created: true,
    })
}

fn subject(spec: &Value) -> User {
    let text = |k: &str| spec.get(k).and_then(Value::as_str).unwrap_or_default().to_owned();
    let groups = spec.get("groups").cloned().unwrap_or_default();
    User {
        name: text("user"),
        uid: text("uid"),
        groups: serde_json::from_value(groups).unwrap_or_default(),
        ..User::default()
    }
}

fn attributes(spec: &Value, resource: &Resource, object: &Value) -> ApiResult<Attributes> {
    let wrong = |why: &str| {
        ApiError::invalid(
            &resource.group,
            &resource.kind,
            meta::text(object, "name"),
            vec![Cause::invalid("spec.resourceAttributes", &Value::Null, why)],
        )
    };
    match (spec.get("resourceAttributes"), spec.get("nonResourceAttributes")) {
        (Some(r), None) => {
            let text = |k: &str| r.get(k).and_then(Value::as_str).unwrap_or_default().to_owned();
            Ok(Attributes {
                verb: text("verb"),
                group: text("group"),
                resource: text("resource"),
                subresource: text("subresource"),
                name: text("name"),
                namespace: text("namespace"),
                path: None,
            })
        }
        (None, Some(n)) => {
            let text = |k: &str| n.get(k).and_then(Value::as_str).unwrap_or_default().to_owned();
            Ok(Attributes {
                verb: text("verb"),
                path: Some(text("path")),
                ..Attributes::default()
            })
        }
        _ => Err(wrong(
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
    }
}

fn rules(api: &Api, user: &User, namespace: &str) -> Value {
    let mut resource_rules = Vec::new();
    let mut other_rules = Vec::new();
    for rule in api.rbac.rules(user, namespace) {
        if rule.non_resource_urls.is_empty() {
            let mut r = Map::new();
            r.insert("verbs".into(), json!(rule.verbs));
            r.insert("apiGroups".into(), json!(rule.api_groups));
            r.insert("resources".into(), json!(rule.resources));
            if !rule.resource_names.is_empty() {
                r.insert("resourceNames".into(), json!(rule.resource_names));
            }
            resource_rules.push(Value::Object(r));
        } else {
            other_rules.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls}));
        }
    }
    json!({"resourceRules": resource_rules, "nonResourceRules": other_rules, "incomplete": false})
}

/// Makes a token for a service account.
pub(crate) async fn token_request(
    api: &Arc<Api>,
    cx: &Context,
    namespace: &str,
    name: &str,
    body: &Body,
) -> ApiResult<Outcome> {
    let catalog = api.catalogs.current();
    let accounts = catalog
        .find("", "v1", "serviceaccounts")
        .ok_or_else(ApiError::no_resource)?;
    let account = read(api, accounts, namespace, name)?;
    let (mut request, _) = decode::parse(body, "TokenRequest")?;
    if !request.is_object() {
        return Err(ApiError::bad_request("TokenRequest must be an object"));
    }
    let kind = request
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or("TokenRequest");
    if kind != "TokenRequest" {
        return Err(ApiError::bad_request(format!(
            "{kind} in the body of a request for a token; it must be TokenRequest"
        )));
    }
    let spec = request.get("spec").cloned().unwrap_or_else(|| json!({}));
    let seconds = spec
        .get("expirationSeconds")
        .and_then(Value::as_i64)
        .unwrap_or(DEFAULT_SECONDS);
    let wrong = |cause| {
        ApiError::invalid(
            "authentication.k8s.io",
            "TokenRequest",
            meta::text(&request, "name"),
            vec![cause],
        )
    };
    if seconds < MIN_SECONDS {
        return Err(wrong(Cause::invalid(
            "spec.expirationSeconds",
            &seconds.into(),
            "may not specify a duration less than 10 minutes",
        )));
    }
    if seconds > MAX_SECONDS {
        return Err(wrong(Cause::invalid(
            "spec.expirationSeconds",
            &seconds.into(),
            "may not specify a duration larger than 2^32 seconds",
        )));
    }
    let mut audiences: Vec<String> =
        serde_json::from_value(spec.get("audiences").cloned().unwrap_or_default()).unwrap_or_default();
    if audiences.is_empty() {
        audiences.push(ISSUER.into());
    }
    let mut private = Private {
        namespace: namespace.into(),
        serviceaccount: Named {
            name: name.into(),
            uid: account.uid.clone(),
        },
        pod: None,
        secret: None,
        node: None,
    };
    let bound = spec.get("boundObjectRef").cloned().unwrap_or_default();
    if bound.is_object() {
        let text = |k: &str| {
            bound
                .get(k)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let (plural, place) = match text("kind").as_str() {
            "Pod" => ("pods", namespace),
            "Secret" => ("secrets", namespace),
            "Node" => ("nodes", ""),
            other => {
                let why = format!(
                    "cannot bind token to object of type {}/{other}",
                    text("apiVersion")
                );
                return Err(ApiError::bad_request(why));
            }
        };
        let resource = catalog.find("", "v1", plural).ok_or_else(ApiError::no_resource)?;
        let object = read(api, resource, place, &text("name"))?;
        let uid = text("uid");
        if !uid.is_empty() && uid != object.uid {
            let why = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            );
            return Err(ApiError::conflict("", plural, &object.name, &why));
        }
        let named = Some(Named {
            name: object.name.clone(),
            uid: object.uid.clone(),
        });
        match plural {
            "pods" => {
                let pod = object.value();
                let own = pod
                    .pointer("/spec/serviceAccountName")
                    .and_then(Value::as_str)
                    .unwrap_or_default();
                if own != name {
                    let why = format!(
                        "cannot bind token for serviceaccount {name:?} to pod running with different serviceaccount name."
                    );
                    return Err(ApiError::bad_request(why));
                }
                private.pod = named;
            }
            "secrets" => private.secret = named,
            _ => private.node = named,
        }
    }
    let issued = jiff::Timestamp::now();
    let until = issued + jiff::SignedDuration::from_secs(seconds);
    let claims = Claims {
        aud: audiences.clone(),
        exp: until.as_second(),
        iat: issued.as_second(),
        iss: ISSUER.into(),
        jti: uuid(),
        nbf: issued.as_second(),
        private,
        sub: format!("system:serviceaccount:{namespace}:{name}"),
    };
    let token = api.signer.sign(&claims).map_err(ApiError::internal)?;
    request["apiVersion"] = "authentication.k8s.io/v1".into();
    request["kind"] = "TokenRequest".into();
    {
        let m = meta::of(&mut request);
        m.clear();
        m.insert("name".into(), name.into());
        m.insert("namespace".into(), namespace.into());
        m.insert("uid".into(), account.uid.clone().into());
        m.insert("creationTimestamp".into(), now().into());
    }
    let schema = Library::get().schema("io.k8s.api.authentication.v1.TokenRequest");
    let mut manager = cx.manager_of(accounts, "token");
    manager.api_version = "authentication.k8s.io/v1".into();
    record_update(&json!({}), &mut request, &schema, &manager, true);
    request["spec"] = json!({"audiences": audiences, "expirationSeconds": seconds,
        "boundObjectRef": if bound.is_object() { bound } else { Value::Null }});
    request["status"] =
        json!({"token": token, "expirationTimestamp": until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()});
    Ok(Outcome {
        object: request,
        warnings: Vec::new(),
        created: true,
    })
}
