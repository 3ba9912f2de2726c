//! What a path and a method ask for.

use http::Method;

use super::query::{Query, decode_path};
use crate::auth::rbac::Attributes;
use crate::rest::names::path_segment;
use crate::selector::{FieldSelector, Fields};

/// A request for a resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Target {
    /// `get`, `list`, …
    pub(crate) verb: String,
    /// Group.
    pub(crate) group: String,
    /// Version.
    pub(crate) version: String,
    /// Namespace, or empty.
    pub(crate) namespace: String,
    /// Resource.
    pub(crate) plural: String,
    /// Name, or empty.
    pub(crate) name: String,
    /// Subresource, or empty.
    pub(crate) subresource: String,
    /// Name that a field selector asks for, of lists.
    pub(crate) selected: String,
}

impl Target {
    /// As access control sees it.
    pub(crate) fn attributes(&self) -> Attributes {
        Attributes {
            verb: self.verb.clone(),
            group: self.group.clone(),
            resource: self.plural.clone(),
            subresource: self.subresource.clone(),
            name: if self.name.is_empty() {
                self.selected.clone()
            } else {
                self.name.clone()
            },
            namespace: self.namespace.clone(),
            path: None,
        }
    }
}

/// What a path is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// A resource.
    Resource(Target),
    /// Something else, and the verb.
    Path(String),
}

/// Takes a path apart.
pub(crate) fn parse(method: &Method, path: &str, query: &Query) -> Route {
    let other = || Route::Path(method.as_str().to_lowercase());
    let parts: Vec<String> = path.trim_matches('/').split('/').map(decode_path).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
        ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
        _ => return other(),
    };
    let (namespace, rest): (&str, &[&str]) = match rest {
        ["namespaces", namespace, more @ ..]
            if !more.is_empty() && !matches!(more, ["status" | "finalize"]) =>
        {
            (namespace, more)
        }
        // A namespace is itself in its namespace, for access control.
        ["namespaces", name, ..] if group.is_empty() => (name, rest),
        _ => ("", rest),
    };
    let (plural, name, subresource) = match rest {
        [plural] => (*plural, "", ""),
        [plural, name] => (*plural, *name, ""),
        [plural, name, sub @ ..] => (*plural, *name, sub[0]),
        [] => return other(),
    };
    let watch = query.flag("watch");
    let verb = match (method.as_str(), name.is_empty()) {
        ("GET" | "HEAD", false) => "get",
        ("GET" | "HEAD", true) if watch => "watch",
        ("GET" | "HEAD", true) => "list",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", false) => "delete",
        ("DELETE", true) => "deletecollection",
        // No method of the API: a verb of its name would be judged as that verb.
        _ => "",
    };
    let selected = match verb {
        "list" | "watch" => query
            .get("fieldSelector")
            .and_then(|t| FieldSelector::parse(t, Fields::Any).ok())
            .and_then(|s| s.name().map(str::to_owned))
            .filter(|name| path_segment(name).is_ok())
            .unwrap_or_default(),
        _ => String::new(),
    };
    Route::Resource(Target {
        verb: verb.into(),
        group: group.into(),
        version: version.into(),
        namespace: namespace.into(),
        plural: plural.into(),
        name: name.into(),
        subresource: subresource.into(),
        selected,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(method: Method, url: &str) -> Target {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        match parse(&method, path, &Query::parse(query)) {
            Route::Resource(t) => t,
            Route::Path(_) => panic!("{url} is a resource"),
        }
    }

    #[test]
    fn paths_of_resources() {
        let t = target(Method::GET, "/apis/apps/v1/namespaces/a/deployments/b/status");
        assert_eq!(
            (
                t.verb.as_str(),
                t.group.as_str(),
                t.namespace.as_str(),
                t.plural.as_str(),
                t.name.as_str(),
                t.subresource.as_str()
            ),
            ("get", "apps", "a", "deployments", "b", "status")
        );
        let t = target(Method::PUT, "/api/v1/namespaces/a/finalize");
        assert_eq!(
            (t.plural.as_str(), t.name.as_str(), t.subresource.as_str()),
            ("namespaces", "a", "finalize")
        );
        let t = target(Method::GET, "/api/v1/namespaces/a");
        assert_eq!(
            (t.plural.as_str(), t.name.as_str(), t.namespace.as_str()),
            ("namespaces", "a", "a")
        );
        let t = target(
            Method::GET,
            "/api/v1/pods?watch=1&fieldSelector=metadata.name%3Dx",
        );
        assert_eq!((t.verb.as_str(), t.attributes().name.as_str()), ("watch", "x"));
        for (selector, name) in [
            ("metadata.name%3Dx,type%3DOpaque", "x"),
            ("type%3DOpaque,metadata.name%3D%3Dx", "x"),
            ("metadata.name!%3Dx,type%3DOpaque", ""),
            ("type%3Dmetadata.name", ""),
            ("metadata.name%3Da/b", ""),
            ("metadata.name", ""),
        ] {
            let t = target(Method::GET, &format!("/api/v1/secrets?fieldSelector={selector}"));
            assert_eq!(t.attributes().name, name, "{selector}");
        }
        assert_eq!(
            target(Method::DELETE, "/api/v1/namespaces/a/pods").verb,
            "deletecollection"
        );
    }

    #[test]
    fn other_paths() {
        for path in [
            "/",
            "/api",
            "/api/v1",
            "/apis/apps",
            "/apis/apps/v1",
            "/healthz",
            "/openapi/v3",
        ] {
            assert_eq!(
                parse(&Method::GET, path, &Query::default()),
                Route::Path("get".into()),
                "{path}"
            );
        }
    }

    #[test]
    fn a_method_is_no_verb() {
        for name in ["LIST", "list", "WATCH", "DELETECOLLECTION", "ESCALATE", "OPTIONS"] {
            let method = Method::from_bytes(name.as_bytes()).unwrap();
            let t = target(method, "/api/v1/namespaces/a/configmaps/one");
            assert_eq!(t.verb, "", "{name}");
        }
    }
}
