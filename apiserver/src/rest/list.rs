//! Lists: selection, paging, and which state they show.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::api::Api;
use crate::builtin;
use crate::catalog::Resource;
use crate::http::query::{Query, go_reason};
use crate::selector::{FieldSelector, Fields, LabelSelector};
use crate::status::{ApiError, ApiResult, Cause};
use crate::store::{Snapshot, Stored, object_key};

/// What a list or watch asks for.
#[derive(Debug, Clone, Default)]
pub(crate) struct ListOptions {
    /// Labels.
    pub(crate) labels: LabelSelector,
    /// Fields.
    pub(crate) fields: FieldSelector,
    /// Objects per page; 0: all.
    pub(crate) limit: usize,
    /// Where the page begins.
    pub(crate) token: String,
    /// As given.
    pub(crate) resource_version: String,
    /// `Exact`, `NotOlderThan`, or empty.
    pub(crate) version_match: String,
    /// Whether it is a watch.
    pub(crate) watch: bool,
    /// Watch: send bookmarks.
    pub(crate) bookmarks: bool,
    /// Watch: begin with what there is.
    pub(crate) initial: Option<bool>,
    /// Watch: end after so many seconds.
    pub(crate) timeout: Option<i64>,
}

impl ListOptions {
    /// From the query.
    pub(crate) fn parse(query: &Query, resource: &Resource) -> ApiResult<Self> {
        let text = |k: &str| query.get(k).unwrap_or_default().to_owned();
        let fields = match resource.builtin().map(builtin::selectable) {
            Some([]) => Fields::None,
            Some(fields) => Fields::These(fields),
            None => Fields::These(&[]),
        };
        let mut out = ListOptions {
            labels: LabelSelector::parse(&text("labelSelector")).map_err(ApiError::bad_request)?,
            fields: FieldSelector::parse(&text("fieldSelector"), fields).map_err(ApiError::bad_request)?,
            token: text("continue"),
            resource_version: text("resourceVersion"),
            version_match: text("resourceVersionMatch"),
            watch: query.flag("watch"),
            bookmarks: query.flag("allowWatchBookmarks"),
            initial: query
                .get("sendInitialEvents")
                .map(|_| query.flag("sendInitialEvents")),
            ..ListOptions::default()
        };
        out.limit = query
            .integer("limit")
            .map_err(ApiError::bad_request)?
            .and_then(|n| usize::try_from(n).ok())
            .unwrap_or(0);
        out.timeout = query.integer("timeoutSeconds").map_err(ApiError::bad_request)?;
        let causes = out.check();
        if !causes.is_empty() {
            return Err(ApiError::invalid("meta.k8s.io", "ListOptions", "", causes));
        }
        Ok(out)
    }

    fn check(&self) -> Vec<Cause> {
        let mut causes = Vec::new();
        let mut forbid = |field: &str, why: &str| causes.push(Cause::forbidden(field, why));
        let field = "resourceVersionMatch";
        let m = self.version_match.as_str();
        if self.watch {
            if self.initial.is_some() && m != "NotOlderThan" {
                forbid(
                    field,
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                );
            }
            if m.is_empty() {
                return causes;
            }
            if self.initial.is_none() {
                forbid(
                    field,
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                );
            }
            if m != "NotOlderThan" {
                causes.push(Cause::not_supported(field, &m.into(), &["NotOlderThan".into()]));
            }
            if !self.token.is_empty() {
                causes.push(Cause::forbidden(
                    field,
                    "resourceVersionMatch is forbidden when continue is provided",
                ));
            }
            return causes;
        }
        if !m.is_empty() {
            if self.resource_version.is_empty() {
                forbid(
                    field,
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                );
            }
            if !self.token.is_empty() {
                forbid(
                    field,
                    "resourceVersionMatch is forbidden when continue is provided",
                );
            }
            if m != "Exact" && m != "NotOlderThan" {
                let known = ["Exact", "NotOlderThan", ""].map(Value::from);
                causes.push(Cause::not_supported(field, &m.into(), &known));
            } else if m == "Exact" && self.resource_version == "0" {
                forbid(
                    field,
                    "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                );
            }
        }
        if self.initial.is_some() {
            causes.push(Cause::forbidden(
                "sendInitialEvents",
                "sendInitialEvents is forbidden for list",
            ));
        }
        causes
    }

    /// The version given, if it is one; otherwise what is wrong with it.
    pub(crate) fn version(&self) -> Result<Option<u64>, String> {
        version(&self.resource_version)
    }

    /// Whether the list has to show the state at the version itself. With a limit, it does even where
    /// nobody says so, but for version 0.
    fn exact(&self) -> bool {
        let named = !self.resource_version.is_empty() && self.resource_version != "0";
        self.version_match == "Exact" || (self.version_match.is_empty() && self.limit > 0 && named)
    }
}

/// A resource version of a request; empty: none.
pub(crate) fn version(text: &str) -> Result<Option<u64>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|e| {
        format!(
            "resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: {}",
            go_reason(&e)
        )
    })
}

/// Whether an object is asked for.
pub(crate) fn select(object: &Stored, options: &ListOptions) -> bool {
    options.labels.matches(&object.labels) && options.fields.matches(object)
}

#[derive(Debug, Serialize, Deserialize)]
struct Token {
    v: String,
    rv: i64,
    start: String,
}

fn token(rv: u64, last: &str) -> String {
    let t = Token {
        v: "meta.k8s.io/v1".into(),
        rv: i64::try_from(rv).unwrap_or(i64::MAX),
        start: format!("/{last}\0"),
    };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&t).unwrap_or_default())
}

/// The same place in whatever state there is.
fn unversioned(t: &Token) -> String {
    let t = Token {
        v: t.v.clone(),
        rv: -1,
        start: t.start.clone(),
    };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&t).unwrap_or_default())
}

fn read_token(text: &str) -> ApiResult<Token> {
    let bad = |why: String| {
        ApiError::bad_request(format!(
            "invalid continue token: continue key is not valid: {why}"
        ))
    };
    let bytes = URL_SAFE_NO_PAD
        .decode(text.trim_end_matches('='))
        .map_err(|_| bad("illegal base64 data".into()));
    // What is no base64 at its end still decodes to something, as in Go.
    let bytes = match bytes {
        Ok(b) => b,
        Err(e) => {
            let cut = text.len() - text.len() % 4;
            let lenient = base64::engine::GeneralPurpose::new(
                &base64::alphabet::URL_SAFE,
                base64::engine::GeneralPurposeConfig::new()
                    .with_decode_allow_trailing_bits(true)
                    .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
            );
            match lenient
                .decode(text)
                .or_else(|_| lenient.decode(&text.as_bytes()[..cut]))
            {
                Ok(b) if !b.is_empty() => b,
                _ => return Err(e),
            }
        }
    };
    let t: Token = serde_json::from_slice(&bytes).map_err(|e| bad(crate::json::go_error(&bytes, &e)))?;
    if t.v != "meta.k8s.io/v1" {
        return Err(ApiError::bad_request(format!(
            "invalid continue token: server does not recognize this encoded version {:?}",
            t.v
        )));
    }
    if t.rv == 0 {
        return Err(ApiError::bad_request(
            "invalid continue token: incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
        ));
    }
    Ok(t)
}

/// A page.
#[derive(Debug)]
pub(crate) struct Listed {
    /// Its objects.
    pub(crate) items: Vec<Arc<Stored>>,
    /// The version that it shows.
    pub(crate) rv: u64,
    /// Where the next one begins; empty: this was the last.
    pub(crate) token: String,
    /// How many there are after this page, where that is known.
    pub(crate) remaining: Option<usize>,
}

/// Lists.
pub(crate) fn list(
    api: &Api,
    resource: &Resource,
    namespace: &str,
    options: &ListOptions,
) -> ApiResult<Listed> {
    let now = api.store.rv();
    let asked = options
        .version()
        .map_err(|why| ApiError::bad_request(format!("invalid resource version: {why}")))?;
    let mut from: Option<String> = None;
    let page: Snapshot = if options.token.is_empty() {
        match asked {
            Some(rv) if rv > now => return Err(ApiError::future_version(rv, now)),
            Some(rv) if options.exact() => api.store.snapshot_at(&resource.storage, rv).map_err(|_| {
                ApiError::expired("The resourceVersion for the provided list is too old.".into())
            })?,
            _ => api.store.snapshot(&resource.storage),
        }
    } else {
        if asked.is_some_and(|rv| rv > 0) {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let t = read_token(&options.token)?;
        from = Some(t.start.trim_start_matches('/').to_owned());
        match u64::try_from(t.rv) {
            // A token without a version goes on with what there is now.
            Err(_) => api.store.snapshot(&resource.storage),
            Ok(rv) if rv > now => return Err(ApiError::future_version(rv, now)),
            Ok(rv) => api
                .store
                .snapshot_at(&resource.storage, rv)
                .map_err(|_| ApiError::expired_token(unversioned(&t)))?,
        }
    };
    // A list of whatever there is comes in one piece.
    let limit = if options.resource_version == "0" && options.token.is_empty() {
        0
    } else {
        options.limit
    };
    let prefix = if namespace.is_empty() {
        String::new()
    } else {
        format!("{namespace}/")
    };
    let begin = from.map(|f| format!("{prefix}{f}")).unwrap_or_default();
    let everything = options.labels.is_empty() && options.fields.is_empty();
    let mut items = Vec::new();
    let mut next: Option<&Arc<Stored>> = None;
    let named = options
        .fields
        .name()
        .filter(|_| !resource.namespaced || !namespace.is_empty());
    if let Some(name) = named {
        // One object at most: no need to look at the others.
        let key = object_key(namespace, name);
        let found = page.objects.get(&key).filter(|o| *o.key >= *begin);
        items.extend(found.filter(|o| select(o, options)).cloned());
    } else {
        let mut selected = page
            .objects
            .within(namespace, &begin)
            .filter(|o| everything || select(o, options));
        let size = if limit == 0 { usize::MAX } else { limit };
        items.extend(selected.by_ref().take(size).cloned());
        next = selected.next();
    }
    let token = match (items.last(), next) {
        (Some(last), Some(_)) => token(
            page.rv,
            last.key.strip_prefix(prefix.as_str()).unwrap_or(&last.key),
        ),
        _ => String::new(),
    };
    let remaining = next
        .filter(|_| everything)
        .map(|next| page.objects.count_within(namespace, &next.key));
    Ok(Listed {
        items,
        rv: page.rv,
        token,
        remaining,
    })
}

/// A list object of these items.
pub(crate) fn wrap(
    resource: &Resource,
    mut items: Vec<Value>,
    rv: u64,
    token: &str,
    remaining: Option<usize>,
) -> Value {
    let mut metadata = Map::new();
    if resource.custom() || !token.is_empty() {
        metadata.insert("continue".into(), token.into());
    }
    if let Some(n) = remaining {
        metadata.insert("remainingItemCount".into(), n.into());
    }
    metadata.insert("resourceVersion".into(), rv.to_string().into());
    if !resource.custom() {
        for item in &mut items {
            if let Some(map) = item.as_object_mut() {
                map.shift_remove("kind");
                map.shift_remove("apiVersion");
            }
        }
    }
    let mut out = Map::new();
    out.insert("apiVersion".into(), resource.api_version().into());
    out.insert("items".into(), Value::Array(items));
    out.insert("kind".into(), resource.list_kind.clone().into());
    out.insert("metadata".into(), Value::Object(metadata));
    Value::Object(out)
}
