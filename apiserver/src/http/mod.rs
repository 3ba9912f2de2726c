//! From HTTP requests to the verbs, and back.

mod health;
mod held;
mod impersonate;
pub(crate) mod negotiate;
pub(crate) mod query;
pub(crate) mod receive;
mod resource;
pub(crate) mod respond;
pub(crate) mod target;

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use axum::body::Body;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use serde_json::json;

use crate::api::Api;
use crate::audit::Entry;
use crate::auth::User;
use crate::auth::rbac::Attributes;
use crate::backup;
use crate::rest::decode;
use crate::rest::watch::Watcher;
use crate::status::{ApiError, ApiResult};
use crate::tls::identity::Identity;
use held::{Held, Holding, Noted};
use query::Query;
use respond::{error, json_response, text_response};
use target::{Route, Target};

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// A request, as the verbs see it.
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    pub(crate) body: decode::Body,
    pub(crate) user: User,
    pub(crate) watcher: Watcher,
    pub(crate) target: Target,
}

/// The API as a service: what a socket serves, and what in-process clients call.
#[derive(Debug, Clone)]
pub struct Service {
    api: Arc<Api>,
    user: Option<User>,
    peer: Option<Peer>,
}

/// The other end of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// Its address.
    pub(crate) address: IpAddr,
    /// Whose certificate it showed.
    pub(crate) identity: Option<Identity>,
}

impl Service {
    pub(crate) fn new(api: Arc<Api>, user: Option<User>) -> Self {
        Service {
            api,
            user,
            peer: None,
        }
    }

    /// For one connection.
    pub(crate) fn connected(api: Arc<Api>, peer: Peer) -> Self {
        Service {
            api,
            user: None,
            peer: Some(peer),
        }
    }

    /// Who it is, before any token is looked at.
    fn known(&self) -> ApiResult<Option<User>> {
        let identity = self.peer.as_ref().and_then(|p| p.identity.as_ref());
        match identity {
            // The handshake may be long past.
            Some(identity) if identity.until <= jiff::Timestamp::now() => Err(ApiError::unauthorized()),
            Some(identity) => Ok(Some(identity.user.clone())),
            None => Ok(self.user.clone()),
        }
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, std::convert::Infallible>> + Send>>;

impl<B> tower::Service<Request<B>> for Service
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Answer {
        let this = self.clone();
        Box::pin(async move {
            let headers = request.headers();
            let noted = Noted::new(this.api.audit.as_ref(), || {
                let id = headers.get(AUDIT_ID).and_then(|v| v.to_str().ok());
                let agent = header(headers, &USER_AGENT);
                let mut entry = Entry::new(request.method(), request.uri(), agent, id);
                entry.source = this.peer.as_ref().map(|p| p.address);
                entry
            });
            let mut held = Held { place: None, noted };
            let mut response = match handle(&this, request, &mut held).await {
                Ok(response) => {
                    let code = response.status().as_u16();
                    held.noted.with(|entry| entry.answered(code, ""));
                    response
                }
                Err(e) => {
                    held.noted.with(|entry| entry.answered(e.code.as_u16(), e.reason));
                    error(&e)
                }
            };
            let mut id = None;
            held.noted
                .with(|entry| id = HeaderValue::from_str(&entry.id).ok());
            if let Some(id) = id {
                response.headers_mut().insert(AUDIT_ID, id);
            }
            Ok(response.map(|body| Holding::body(body, held)))
        })
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers
        .get(name)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default()
}

/// The name that a client's agent string gives for field ownership.
fn manager(headers: &HeaderMap) -> String {
    let agent = header(headers, &USER_AGENT);
    let name: String = agent
        .split('/')
        .next()
        .unwrap_or_default()
        .chars()
        .take(128)
        .collect();
    if name.is_empty() { "unknown".into() } else { name }
}

async fn handle<B>(service: &Service, request: Request<B>, held: &mut Held) -> ApiResult<Response<Body>>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let api = &service.api;
    let (parts, body) = request.into_parts();
    let authorization = header(&parts.headers, &AUTHORIZATION);
    // Also one that is no text: who shows something wrong is not taken for nobody.
    let shown = parts.headers.get_all(AUTHORIZATION).iter().any(|v| !v.is_empty());
    let token = authorization
        .split_once(' ')
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim().to_owned());
    let (user, token) = match (service.known()?, token) {
        (Some(user), _) => (user, None),
        (None, Some(token)) => (
            api.authenticate(&token).ok_or_else(ApiError::unauthorized)?,
            Some(token),
        ),
        (None, None) if shown => return Err(ApiError::unauthorized()),
        (None, None) => (User::anonymous(), None),
    };
    held.noted.with(|entry| entry.user = Some(user.clone()));
    let asking = user.clone();
    let user = impersonate::user(api, user, &parts.headers)?;
    if user != asking {
        held.noted.with(|entry| entry.impersonated = Some(user.clone()));
    }
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let path = parts.uri.path().to_owned();
    let route = target::parse(&parts.method, &path, &query);
    let attributes = match &route {
        Route::Resource(t) => t.attributes(),
        Route::Path(verb) => Attributes {
            verb: verb.clone(),
            path: Some(path.clone()),
            ..Attributes::default()
        },
    };
    let version = match &route {
        Route::Resource(t) => t.version.as_str(),
        Route::Path(_) => "",
    };
    held.noted.with(|entry| entry.asked(&attributes, version));
    let health = attributes.path.as_deref().is_some_and(health::is);
    let watch = attributes.verb == "watch";
    if !health {
        held.place = api.gate.enter(&user.name, watch).await;
        // An administrator comes in always, above all when it is crowded.
        if held.place.is_none() && !user.groups.iter().any(|g| g == crate::auth::MASTERS) {
            return Ok(respond::too_many());
        }
    }
    let allowed = api.rbac.allows(&user, &attributes);
    held.noted.with(|entry| entry.allowed = Some(allowed));
    if !allowed {
        return Err(refusal(&user, &attributes));
    }
    let target = match route {
        Route::Path(verb) => {
            if matches!(verb.as_str(), "get" | "head")
                && let Some(response) = health::serve(api, &path, &query).await
            {
                return Ok(response);
            }
            if let Some(answer) = backup::serve(api, &user, &parts.method, &path, body).await {
                return answer;
            }
            return Ok(plain(api, &parts.method, &path, &parts.headers));
        }
        Route::Resource(t) => t,
    };
    let bytes = receive::body(body, api.settings.max_body, api.settings.body_time).await?;
    let media_type = header(&parts.headers, &CONTENT_TYPE)
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_lowercase();
    let call = Call {
        method: parts.method,
        query,
        headers: parts.headers,
        body: decode::Body { media_type, bytes },
        watcher: Watcher {
            user: user.clone(),
            token,
            attributes,
        },
        user,
        target,
    };
    let response = resource::serve(api, call).await?;
    if watch {
        held.noted
            .with(|entry| entry.answered(response.status().as_u16(), ""));
        held.noted.started();
    }
    Ok(response)
}

/// The refusal of a request, in the usual words.
pub(crate) fn refusal(user: &User, a: &Attributes) -> Box<ApiError> {
    if let Some(path) = &a.path {
        return ApiError::forbidden_path(&user.name, &a.verb, path);
    }
    let place = if a.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", a.namespace)
    };
    let why = format!(
        "User {:?} cannot {} resource {:?} in API group {:?} {place}",
        user.name,
        a.verb,
        a.combined(),
        a.group
    );
    ApiError::forbidden(&a.group, &a.resource, &a.name, &why)
}

/// Paths that are no resources.
fn plain(api: &Api, method: &Method, path: &str, headers: &HeaderMap) -> Response<Body> {
    let accept = header(headers, &ACCEPT);
    let nothing = || text_response(StatusCode::NOT_FOUND, "404 page not found\n");
    if method != Method::GET && method != Method::HEAD {
        return error(&ApiError::method_not_allowed());
    }
    match path.trim_end_matches('/') {
        "/version" => {
            let v = &api.settings.version;
            json_response(
                StatusCode::OK,
                &json!({"major": v.major, "minor": v.minor, "emulationMajor": v.major, "emulationMinor": v.minor,
                    "minCompatibilityMajor": v.major, "minCompatibilityMinor": v.minor, "gitVersion": v.git,
                    "gitCommit": "", "gitTreeState": "", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "",
                    "compiler": "rustc", "platform": format!("{}/{}", std::env::consts::OS, arch())}),
            )
        }
        "/openid/v1/jwks" => json_response(StatusCode::OK, &api.signer.jwks()),
        "/.well-known/openid-configuration" => json_response(
            StatusCode::OK,
            &json!({"issuer": crate::auth::token::ISSUER, "jwks_uri": format!("{}/openid/v1/jwks", crate::auth::token::ISSUER),
                "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256"]}),
        ),
        "" => {
            let mut paths = vec!["/api".to_owned(), "/api/v1".into(), "/apis".into()];
            for g in &api.catalogs.current().groups {
                if !g.name.is_empty() {
                    paths.push(format!("/apis/{}", g.name));
                    paths.extend(
                        g.versions
                            .iter()
                            .map(|v| format!("/apis/{}/{}", g.name, v.version)),
                    );
                }
            }
            for p in [
                "/healthz",
                "/livez",
                "/openapi/v2",
                "/openapi/v3",
                "/readyz",
                "/version",
            ] {
                paths.push(p.to_owned());
            }
            json_response(StatusCode::OK, &json!({"paths": paths}))
        }
        path => {
            let catalog = api.catalogs.current();
            crate::discovery::serve(&catalog, path, accept)
                .or_else(|| crate::openapi::serve(&catalog, path, accept))
                .unwrap_or_else(nothing)
        }
    }
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
