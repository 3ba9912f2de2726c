//! What definitions may not take: names of built-in resources, and Kubernetes' own groups unless they say that
//! they may (<https://github.com/kubernetes/enhancements/pull/1111>).

use std::collections::BTreeSet;

use serde_json::Value;

use super::builtin;
use super::crd::condition;
use crate::status::Cause;

/// The annotation that says so.
const APPROVED: &str = "api-approved.kubernetes.io";
/// The condition that tells of it.
const CONFORMANT: &str = "KubernetesAPIApprovalPolicyConformant";

/// Names of the built-in resources of a group.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// Plural, singular and short names.
    pub(crate) resources: BTreeSet<String>,
    /// Kinds, and those of lists.
    pub(crate) kinds: BTreeSet<String>,
}

impl Names {
    /// Of one group. A name that anybody has is not empty.
    pub(crate) fn of(group: &str) -> Self {
        let mut names = Names::default();
        for r in builtin::resources().iter().filter(|r| r.group == group) {
            names.resources.extend([r.plural.clone(), r.singular.clone()]);
            names.resources.extend(r.short_names.iter().cloned());
            names.kinds.extend([r.kind.clone(), r.list_kind.clone()]);
        }
        names
    }

    /// Whether the names of a definition, asked for or accepted, are such that serving it would hide a built-in
    /// resource or share what that stores.
    pub(crate) fn clash(&self, names: &Value) -> bool {
        let has = |field: &str, taken: &BTreeSet<String>| {
            names
                .get(field)
                .and_then(Value::as_str)
                .is_some_and(|n| taken.contains(n))
        };
        has("plural", &self.resources)
            || has("singular", &self.resources)
            || has("kind", &self.kinds)
            || has("listKind", &self.kinds)
    }
}

/// Whether built-in resources are stored under this name, which then is no definition's.
pub(crate) fn stores(name: &str) -> bool {
    builtin::resources().iter().any(|r| *r.storage == *name)
}

/// Whether a definition of this name is in a group that has built-in resources.
pub(crate) fn shares_group(name: &str) -> bool {
    name.split_once('.')
        .is_some_and(|(_, group)| builtin::resources().iter().any(|r| r.group == group))
}

/// What a definition says of its approval.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Approval {
    Missing,
    Invalid,
    Bypassed(String),
    Given(String),
}

fn group(crd: &Value) -> &str {
    crd.pointer("/spec/group")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"].iter().any(|g| {
        group
            .strip_suffix(g)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}

fn annotation(crd: &Value) -> &str {
    crd.pointer("/metadata/annotations")
        .and_then(|a| a.get(APPROVED))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn approval(crd: &Value) -> Approval {
    let said = annotation(crd);
    let address = |s: &str| {
        s.parse::<http::Uri>()
            .is_ok_and(|u| u.scheme().is_some() && u.host().is_some_and(|h| !h.is_empty()))
    };
    match said {
        "" => Approval::Missing,
        _ if said.starts_with("unapproved") => Approval::Bypassed(said.to_owned()),
        _ if address(said) => Approval::Given(said.to_owned()),
        _ => Approval::Invalid,
    }
}

impl Approval {
    fn reason(&self) -> String {
        const SEE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";
        match self {
            Approval::Missing => {
                format!("protected groups must have approval annotation {APPROVED:?}, {SEE}")
            }
            Approval::Invalid => format!(
                "protected groups must have approval annotation {APPROVED:?} with either a URL or a reason starting with \"unapproved\", {SEE}"
            ),
            Approval::Bypassed(said) => format!("not approved: {said:?}"),
            Approval::Given(said) => format!("approved in {said}"),
        }
    }
}

/// What is wrong with the approval of a definition. What was so before stays allowed, so that others may change
/// something else.
pub(crate) fn check(old: &Value, new: &Value) -> Option<Cause> {
    if !protected(group(new)) {
        return None;
    }
    let now = approval(new);
    let alike = |old: &Approval| std::mem::discriminant(old) == std::mem::discriminant(&now);
    if !old.is_null() && alike(&approval(old)) {
        return None;
    }
    let field = format!("metadata.annotations[{APPROVED}]");
    match now {
        Approval::Missing => Some(Cause::required(field, &now.reason())),
        Approval::Invalid => Some(Cause::invalid(field, &annotation(new).into(), now.reason())),
        Approval::Bypassed(_) | Approval::Given(_) => None,
    }
}

/// Whether a change is one of the approval.
pub(crate) fn changed(old: &Value, new: &Value) -> bool {
    protected(group(new)) && annotation(old) != annotation(new)
}

/// The condition that tells of the approval, without its time; none outside Kubernetes' own groups.
pub(crate) fn conformant(crd: &Value) -> Option<Value> {
    if !protected(group(crd)) {
        return None;
    }
    let approval = approval(crd);
    let reason = match approval {
        Approval::Missing => "MissingAnnotation",
        Approval::Invalid => "InvalidAnnotation",
        Approval::Bypassed(_) => "UnapprovedAnnotation",
        Approval::Given(_) => "ApprovedAnnotation",
    };
    let given = matches!(approval, Approval::Given(_));
    Some(condition(CONFORMANT, given, reason, &approval.reason()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_groups_are_kubernetes_own() {
        for yes in [
            "k8s.io",
            "kubernetes.io",
            "rbac.authorization.k8s.io",
            "a.kubernetes.io",
        ] {
            assert!(protected(yes), "{yes}");
        }
        for no in [
            "multicluster.x-k8s.io",
            "strait.dev",
            "k8s.io.example.org",
            "notkubernetes.io",
            "",
        ] {
            assert!(!protected(no), "{no}");
        }
    }

    #[test]
    fn an_approval_is_an_address_or_says_that_there_is_none() {
        let crd = |said: &str| json!({"metadata": {"annotations": {APPROVED: said}}, "spec": {"group": "a.k8s.io"}});
        for (said, fine, reason) in [
            (
                "https://github.com/kubernetes/kubernetes/pull/1",
                true,
                "ApprovedAnnotation",
            ),
            ("unapproved, an experiment", true, "UnapprovedAnnotation"),
            ("", false, "MissingAnnotation"),
            ("yes", false, "InvalidAnnotation"),
            ("/pull/1", false, "InvalidAnnotation"),
            ("https://", false, "InvalidAnnotation"),
        ] {
            assert_eq!(check(&Value::Null, &crd(said)).is_none(), fine, "{said}");
            assert_eq!(conformant(&crd(said)).unwrap()["reason"], reason, "{said}");
            assert!(check(&crd(said), &crd(said)).is_none(), "as before: {said}");
        }
    }
}
