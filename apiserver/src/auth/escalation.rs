//! Nobody grants what they do not hold.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::User;
use super::rbac::{Attributes, Rbac, RoleRef, Rule};
use crate::catalog::builtin::Kind;
use crate::status::{ApiError, ApiResult};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Whether a change is only one that garbage collection makes, or its bookkeeping: such a one needs no right but
/// that to write. A label is more: it may put the role into another one.
fn only_collected(old: &Value, new: &Value) -> bool {
    let strip = |v: &Value| {
        let mut v = v.clone();
        if let Some(metadata) = v.get_mut("metadata").and_then(Value::as_object_mut) {
            for field in [
                "ownerReferences",
                "finalizers",
                "managedFields",
                "resourceVersion",
            ] {
                metadata.shift_remove(field);
            }
            // Nothing, whichever way it is written.
            metadata.retain(|_, v| !v.is_null() && *v != json!({}) && *v != json!([]));
        }
        v
    };
    strip(old) == strip(new)
}

/// Checks a write of a role or binding. `old` is null for a new one.
pub(crate) fn check(
    rbac: &Rbac,
    user: &User,
    kind: Kind,
    namespace: &str,
    old: &Value,
    new: &Value,
) -> ApiResult<()> {
    if !matches!(
        kind,
        Kind::Role | Kind::ClusterRole | Kind::RoleBinding | Kind::ClusterRoleBinding
    ) || only_collected(old, new)
    {
        return Ok(());
    }
    let name = new
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let may = |verb: &str, resource: &str, name: &str, namespace: &str| {
        rbac.allows(
            user,
            &Attributes {
                verb: verb.into(),
                group: GROUP.into(),
                resource: resource.into(),
                name: name.into(),
                namespace: namespace.into(),
                ..Attributes::default()
            },
        )
    };
    match kind {
        Kind::Role | Kind::ClusterRole => {
            let plural = if kind == Kind::Role {
                "roles"
            } else {
                "clusterroles"
            };
            if may("escalate", plural, name, namespace) {
                return Ok(());
            }
            let rules: Option<Vec<Rule>> =
                serde_json::from_value(new.get("rules").cloned().unwrap_or_default()).map_err(|e| {
                    ApiError::bad_request(format!("the rules of the {plural:?} object cannot be read: {e}"))
                })?;
            let rules = rules.unwrap_or_default();
            held(rbac, user, namespace, plural, name, &rules)?;
            let aggregates = |v: &Value| v.get("aggregationRule").is_some_and(|r| !r.is_null());
            if !aggregates(old) && !aggregates(new) {
                return Ok(());
            }
            // It can take anything in, and keep a role from becoming less.
            let all = || vec!["*".to_owned()];
            let whole = Rule {
                verbs: all(),
                api_groups: all(),
                resources: all(),
                ..Rule::default()
            };
            let urls = Rule {
                verbs: all(),
                non_resource_urls: all(),
                ..Rule::default()
            };
            held(rbac, user, namespace, plural, name, &[whole, urls]).map_err(|_| {
                let why = "must have cluster-admin privileges to use the aggregationRule";
                ApiError::forbidden(GROUP, plural, name, why)
            })
        }
        Kind::RoleBinding | Kind::ClusterRoleBinding => {
            let plural = if kind == Kind::RoleBinding {
                "rolebindings"
            } else {
                "clusterrolebindings"
            };
            let Ok(role) = serde_json::from_value::<RoleRef>(new.get("roleRef").cloned().unwrap_or_default())
            else {
                return Ok(()); // refused by validation
            };
            let resource = if role.kind == "Role" {
                "roles"
            } else {
                "clusterroles"
            };
            if may("bind", resource, &role.name, namespace) {
                return Ok(());
            }
            let Some(rules) = rbac.role_rules(&role, namespace) else {
                return Err(ApiError::not_found(GROUP, resource, &role.name));
            };
            held(rbac, user, namespace, plural, name, &rules)
        }
        _ => Ok(()),
    }
}

fn covered(have: &[Rule], want: &Attributes, named: bool) -> bool {
    have.iter().any(|r| {
        // A right over all names is not covered by one over some.
        r.allows(want) && (named || r.resource_names.is_empty())
    })
}

fn held(rbac: &Rbac, user: &User, namespace: &str, plural: &str, name: &str, want: &[Rule]) -> ApiResult<()> {
    let have = rbac.rules(user, namespace);
    let mut missing: Vec<Rule> = Vec::new();
    for rule in want {
        for (group, resource, verb) in combinations(rule) {
            let (base, sub) = resource.split_once('/').unwrap_or((resource, ""));
            let names: Vec<Option<&String>> = if rule.resource_names.is_empty() {
                vec![None]
            } else {
                rule.resource_names.iter().map(Some).collect()
            };
            for n in names {
                let attributes = Attributes {
                    verb: verb.clone(),
                    group: group.clone(),
                    resource: base.into(),
                    subresource: sub.into(),
                    name: n.cloned().unwrap_or_default(),
                    ..Attributes::default()
                };
                if !covered(&have, &attributes, n.is_some()) {
                    missing.push(Rule {
                        verbs: vec![verb.clone()],
                        api_groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        resource_names: n.cloned().into_iter().collect(),
                        ..Rule::default()
                    });
                }
            }
        }
        for path in &rule.non_resource_urls {
            for verb in &rule.verbs {
                let literal = have.iter().any(|h| {
                    h.verbs.iter().any(|v| v == "*" || v == verb)
                        && h.non_resource_urls.iter().any(|u| {
                            u == "*" || u == path || u.strip_suffix('*').is_some_and(|p| path.starts_with(p))
                        })
                });
                if !literal {
                    missing.push(Rule {
                        verbs: vec![verb.clone()],
                        non_resource_urls: vec![path.clone()],
                        ..Rule::default()
                    });
                }
            }
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let lines: BTreeSet<String> = compact(missing).iter().map(shown).collect();
    let lines: Vec<String> = lines.into_iter().collect();
    let why = format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        quoted(&user.groups),
        lines.join("\n")
    );
    Err(ApiError::forbidden(GROUP, plural, name, &why))
}

/// Group, resource and verb of everything that a rule allows.
fn combinations(rule: &Rule) -> impl Iterator<Item = (&String, &String, &String)> {
    rule.api_groups.iter().flat_map(move |group| {
        rule.resources
            .iter()
            .flat_map(move |resource| rule.verbs.iter().map(move |verb| (group, resource, verb)))
    })
}

/// A list as Go quotes it.
fn quoted(list: &[String]) -> String {
    let parts: Vec<String> = list.iter().map(|v| format!("{v:?}")).collect();
    format!("[{}]", parts.join(" "))
}

/// Rules about one resource each, without names, that differ in their verb only become one.
fn compact(rules: Vec<Rule>) -> Vec<Rule> {
    let mut out: Vec<Rule> = Vec::new();
    for rule in rules {
        let simple = |r: &Rule| r.resource_names.is_empty() && r.non_resource_urls.is_empty();
        let twin = out.iter_mut().find(|o| {
            simple(o) && simple(&rule) && o.api_groups == rule.api_groups && o.resources == rule.resources
        });
        match twin {
            Some(twin) => twin.verbs.extend(rule.verbs),
            None => out.push(rule),
        }
    }
    out
}

fn shown(rule: &Rule) -> String {
    let mut parts = Vec::new();
    for (name, list) in [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("ResourceNames", &rule.resource_names),
        ("Verbs", &rule.verbs),
    ] {
        if !list.is_empty() {
            parts.push(format!("{name}:{}", quoted(list)));
        }
    }
    format!("{{{}}}", parts.join(", "))
}
