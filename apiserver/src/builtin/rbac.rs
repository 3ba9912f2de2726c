//! Roles and bindings.

use serde_json::{Value, json};

use crate::catalog::builtin::Kind;
use crate::rest::names;
use crate::selector;
use crate::status::Cause;

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn default_role(object: &mut Value) {
    if object.get("rules").is_none() {
        object["rules"] = Value::Null;
    }
}

pub(super) fn default_binding(object: &mut Value) {
    if let Some(role) = object.get_mut("roleRef").and_then(Value::as_object_mut)
        && role
            .get("apiGroup")
            .and_then(Value::as_str)
            .is_none_or(str::is_empty)
    {
        role.insert("apiGroup".into(), GROUP.into());
    }
    for s in object
        .get_mut("subjects")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let kind = s
            .get("kind")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        let missing = s
            .get("apiGroup")
            .and_then(Value::as_str)
            .is_none_or(str::is_empty);
        if missing && (kind == "User" || kind == "Group") {
            s["apiGroup"] = GROUP.into();
        }
    }
}

pub(super) fn validate_role(kind: Kind, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let rules = object
        .get("rules")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    for (i, rule) in rules.iter().enumerate() {
        let at = format!("rules[{i}]");
        let empty = |f: &str| rule.get(f).and_then(Value::as_array).is_none_or(Vec::is_empty);
        if empty("verbs") {
            causes.push(Cause::required(
                format!("{at}.verbs"),
                "verbs must contain at least one value",
            ));
        }
        if !empty("nonResourceURLs") {
            if kind == Kind::Role {
                let urls = rule.get("nonResourceURLs").cloned().unwrap_or_default();
                causes.push(Cause::invalid(
                    format!("{at}.nonResourceURLs"),
                    &urls,
                    "namespaced rules cannot apply to non-resource URLs",
                ));
            }
            if !empty("apiGroups") || !empty("resources") || !empty("resourceNames") {
                let urls = rule.get("nonResourceURLs").cloned().unwrap_or_default();
                causes.push(Cause::invalid(
                    format!("{at}.nonResourceURLs"),
                    &urls,
                    "rules cannot apply to both regular resources and non-resource URLs",
                ));
            }
            continue;
        }
        if empty("apiGroups") {
            causes.push(Cause::required(
                format!("{at}.apiGroups"),
                "resource rules must supply at least one api group",
            ));
        }
        if empty("resources") {
            causes.push(Cause::required(
                format!("{at}.resources"),
                "resource rules must supply at least one resource",
            ));
        }
    }
    if let Some(rule) = object.get("aggregationRule").filter(|r| !r.is_null()) {
        causes.extend(check_aggregation(rule));
    }
    causes
}

fn check_aggregation(rule: &Value) -> Vec<Cause> {
    let at = "aggregationRule.clusterRoleSelectors";
    let selectors = rule.get("clusterRoleSelectors").and_then(Value::as_array);
    let Some(selectors) = selectors.filter(|list| !list.is_empty()) else {
        return vec![Cause::required(
            at,
            "at least one clusterRoleSelector required if aggregationRule is non-nil",
        )];
    };
    let mut causes = Vec::new();
    for (i, selector) in selectors.iter().enumerate() {
        let at = format!("{at}[{i}]");
        let found = selector::check(selector, &at);
        if !found.is_empty() {
            causes.extend(found);
            causes.push(Cause::invalid(at, &Value::Null, "invalid label selector."));
        }
    }
    causes
}

pub(super) fn validate_binding(kind: Kind, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let text = |p: &str| object.pointer(p).and_then(Value::as_str).unwrap_or_default();
    if text("/roleRef/apiGroup") != GROUP {
        causes.push(Cause::not_supported(
            "roleRef.apiGroup",
            &text("/roleRef/apiGroup").into(),
            &[GROUP.into()],
        ));
    }
    let role = text("/roleRef/kind");
    let known: &[&str] = if kind == Kind::RoleBinding {
        &["Role", "ClusterRole"]
    } else {
        &["ClusterRole"]
    };
    if !known.contains(&role) {
        let list: Vec<Value> = known.iter().map(|k| Value::from(*k)).collect();
        causes.push(Cause::not_supported("roleRef.kind", &role.into(), &list));
    }
    let name = text("/roleRef/name");
    if name.is_empty() {
        causes.push(Cause::required("roleRef.name", ""));
    } else if let Err(e) = names::path_segment(name) {
        causes.push(Cause::invalid("roleRef.name", &name.into(), e));
    }
    let subjects = object
        .get("subjects")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    for (i, s) in subjects.iter().enumerate() {
        let at = format!("subjects[{i}]");
        let field = |f: &str| s.get(f).and_then(Value::as_str).unwrap_or_default();
        if field("name").is_empty() {
            causes.push(Cause::required(format!("{at}.name"), ""));
        }
        match field("kind") {
            "ServiceAccount" => {
                let name = field("name");
                if !name.is_empty()
                    && let Err(e) = names::subdomain(name)
                {
                    causes.push(Cause::invalid(format!("{at}.name"), &name.into(), e));
                }
                if !field("apiGroup").is_empty() {
                    causes.push(Cause::not_supported(
                        format!("{at}.apiGroup"),
                        &field("apiGroup").into(),
                        &["".into()],
                    ));
                }
                if field("namespace").is_empty() && kind == Kind::ClusterRoleBinding {
                    causes.push(Cause::required(format!("{at}.namespace"), ""));
                }
            }
            "User" | "Group" => {
                if field("apiGroup") != GROUP {
                    causes.push(Cause::not_supported(
                        format!("{at}.apiGroup"),
                        &field("apiGroup").into(),
                        &[GROUP.into()],
                    ));
                }
            }
            other => causes.push(Cause::not_supported(
                format!("{at}.kind"),
                &other.into(),
                &["ServiceAccount", "User", "Group"].map(Value::from),
            )),
        }
    }
    causes
}

pub(super) fn validate_binding_update(old: &Value, new: &Value) -> Vec<Cause> {
    if old.get("roleRef") == new.get("roleRef") {
        return Vec::new();
    }
    let role = new.get("roleRef").cloned().unwrap_or_else(|| json!({}));
    vec![Cause::invalid("roleRef", &role, "cannot change roleRef")]
}
