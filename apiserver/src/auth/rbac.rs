//! Role-based access control: what the roles and bindings in the store allow.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use serde::Deserialize;

use super::{MASTERS, User};
use crate::store::Store;

/// Resources that decide.
pub(crate) const RESOURCES: [&str; 4] = [
    "roles.rbac.authorization.k8s.io",
    "rolebindings.rbac.authorization.k8s.io",
    "clusterroles.rbac.authorization.k8s.io",
    "clusterrolebindings.rbac.authorization.k8s.io",
];

/// A rule of a role.
#[derive(Debug, Clone, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Rule {
    /// Verbs, or `*`.
    #[serde(deserialize_with = "nullable")]
    pub(crate) verbs: Vec<String>,
    /// Groups, or `*`.
    #[serde(deserialize_with = "nullable")]
    pub(crate) api_groups: Vec<String>,
    /// Resources, `resource/subresource`, `*`, or `*/subresource`.
    #[serde(deserialize_with = "nullable")]
    pub(crate) resources: Vec<String>,
    /// Names; none: all.
    #[serde(deserialize_with = "nullable")]
    pub(crate) resource_names: Vec<String>,
    /// Paths that are not resources.
    #[serde(rename = "nonResourceURLs", deserialize_with = "nullable")]
    pub(crate) non_resource_urls: Vec<String>,
}

/// A list for which `null` may stand, as for every list of the API; null in it is an empty text, as in Go.
fn nullable<'de, D: serde::Deserializer<'de>>(list: D) -> Result<Vec<String>, D::Error> {
    let list: Option<Vec<Option<String>>> = Deserialize::deserialize(list)?;
    Ok(list
        .unwrap_or_default()
        .into_iter()
        .map(Option::unwrap_or_default)
        .collect())
}

/// What somebody wants to do.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attributes {
    /// Verb.
    pub(crate) verb: String,
    /// Group.
    pub(crate) group: String,
    /// Resource.
    pub(crate) resource: String,
    /// Subresource, or empty.
    pub(crate) subresource: String,
    /// Name, or empty.
    pub(crate) name: String,
    /// Namespace, or empty.
    pub(crate) namespace: String,
    /// Path, of requests for no resource.
    pub(crate) path: Option<String>,
}

impl Attributes {
    /// `resource/subresource`.
    pub(crate) fn combined(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }
}

fn any(list: &[String], want: &str) -> bool {
    list.iter().any(|v| v == "*" || v == want)
}

impl Rule {
    /// Whether the rule allows this.
    pub(crate) fn allows(&self, a: &Attributes) -> bool {
        if !any(&self.verbs, &a.verb) {
            return false;
        }
        if let Some(path) = &a.path {
            return self.non_resource_urls.iter().any(|u| {
                u == "*" || u == path || u.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
            });
        }
        let combined = a.combined();
        any(&self.api_groups, &a.group)
            && self.resources.iter().any(|r| {
                r == "*"
                    || *r == combined
                    || (!a.subresource.is_empty() && r.strip_prefix("*/") == Some(&a.subresource))
            })
            && (self.resource_names.is_empty() || self.resource_names.contains(&a.name))
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Subject {
    kind: String,
    name: String,
    #[serde(default)]
    namespace: String,
}

fn shown(namespace: &str, name: &str, role: &RoleRef) -> String {
    let (kind, place) = if namespace.is_empty() {
        ("ClusterRoleBinding", String::new())
    } else {
        ("RoleBinding", format!("/{namespace}"))
    };
    format!("{kind} \"{name}{place}\" of {} {:?}", role.kind, role.name)
}

impl Subject {
    fn shown(&self, namespace: &str) -> String {
        let place = match (self.kind.as_str(), self.namespace.as_str()) {
            ("ServiceAccount", "") => format!("/{namespace}"),
            ("ServiceAccount", own) => format!("/{own}"),
            _ => String::new(),
        };
        format!("{} \"{}{place}\"", self.kind, self.name)
    }

    fn is(&self, user: &User, namespace: &str) -> bool {
        match self.kind.as_str() {
            "User" => self.name == user.name,
            "Group" => user.groups.contains(&self.name),
            "ServiceAccount" => {
                let ns = if self.namespace.is_empty() {
                    namespace
                } else {
                    &self.namespace
                };
                user.name
                    .strip_prefix("system:serviceaccount:")
                    .and_then(|rest| rest.split_once(':'))
                    .is_some_and(|(n, name)| n == ns && name == self.name)
            }
            _ => false,
        }
    }
}

/// What a binding points at.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RoleRef {
    /// `Role` or `ClusterRole`.
    pub(crate) kind: String,
    /// Name.
    pub(crate) name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BindingObject {
    #[serde(default)]
    subjects: Option<Vec<Subject>>,
    role_ref: RoleRef,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RoleObject {
    #[serde(default)]
    rules: Option<Vec<Rule>>,
    #[serde(default)]
    aggregation_rule: Option<serde_json::Value>,
}

#[derive(Debug)]
struct Binding {
    /// As reviews name it, but for the subject.
    shown: String,
    subjects: Vec<Subject>,
    rules: Arc<Vec<Rule>>,
}

#[derive(Debug, Default)]
struct Index {
    at: u64,
    cluster: Vec<Binding>,
    namespaced: HashMap<String, Vec<Binding>>,
    cluster_roles: HashMap<String, Arc<Vec<Rule>>>,
    roles: HashMap<(String, String), Arc<Vec<Rule>>>,
}

/// Decides.
#[derive(Debug)]
pub(crate) struct Rbac {
    store: Store,
    index: RwLock<Arc<Index>>,
}

impl Rbac {
    /// Over the roles in this store.
    pub(crate) fn new(store: Store) -> Self {
        Rbac {
            store,
            index: RwLock::new(Arc::new(Index::default())),
        }
    }

    fn index(&self) -> Arc<Index> {
        let latest = RESOURCES
            .iter()
            .map(|r| self.store.last_change(r))
            .max()
            .unwrap_or(0);
        {
            let index = self.index.read().unwrap_or_else(|e| e.into_inner());
            if index.at >= latest {
                return index.clone();
            }
        }
        let built = Arc::new(self.build());
        let mut index = self.index.write().unwrap_or_else(|e| e.into_inner());
        if index.at < built.at {
            *index = built;
        }
        index.clone()
    }

    fn build(&self) -> Index {
        let mut index = Index {
            at: self.store.rv(),
            ..Index::default()
        };
        let [roles, role_bindings, cluster_roles, cluster_role_bindings] = RESOURCES;
        // A role or binding that cannot be read grants nothing, and hinders no other.
        let mut aggregated = Vec::new();
        let mut labels: Vec<(String, Vec<(String, String)>)> = Vec::new();
        for object in self.store.list(cluster_roles, "").items {
            match serde_json::from_slice::<RoleObject>(&object.json) {
                Ok(role) => {
                    if let Some(rule) = role.aggregation_rule {
                        aggregated.push((object.name.clone(), rule));
                    }
                    labels.push((object.name.clone(), object.labels.clone()));
                    index
                        .cluster_roles
                        .insert(object.name.clone(), Arc::new(role.rules.unwrap_or_default()));
                }
                Err(e) => {
                    tracing::warn!(role = %object.name, error = %e, "a ClusterRole cannot be read and grants nothing")
                }
            }
        }
        for (name, rule) in aggregated {
            let selectors = rule["clusterRoleSelectors"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let mut rules: Vec<Rule> = Vec::new();
            for (other, have) in &labels {
                let matches = selectors.iter().any(|s| {
                    s["matchLabels"].as_object().is_some_and(|m| {
                        m.iter()
                            .all(|(k, v)| have.iter().any(|(hk, hv)| hk == k && v.as_str() == Some(hv)))
                    })
                });
                if matches && *other != name {
                    rules.extend(
                        index
                            .cluster_roles
                            .get(other)
                            .map(|r| r.to_vec())
                            .unwrap_or_default(),
                    );
                }
            }
            index.cluster_roles.insert(name, Arc::new(rules));
        }
        for object in self.store.list(roles, "").items {
            match serde_json::from_slice::<RoleObject>(&object.json) {
                Ok(role) => {
                    let key = (object.namespace.clone(), object.name.clone());
                    index.roles.insert(key, Arc::new(role.rules.unwrap_or_default()));
                }
                Err(e) => {
                    tracing::warn!(role = %object.key(), error = %e, "a Role cannot be read and grants nothing")
                }
            }
        }
        for resource in [cluster_role_bindings, role_bindings] {
            for object in self.store.list(resource, "").items {
                let binding: BindingObject = match serde_json::from_slice(&object.json) {
                    Ok(b) => b,
                    Err(e) => {
                        tracing::warn!(binding = %object.key(), error = %e, "a binding cannot be read and grants nothing");
                        continue;
                    }
                };
                let Some(rules) = index.referred(&binding.role_ref, &object.namespace) else {
                    continue;
                };
                let b = Binding {
                    shown: shown(&object.namespace, &object.name, &binding.role_ref),
                    subjects: binding.subjects.unwrap_or_default(),
                    rules,
                };
                if object.namespace.is_empty() {
                    index.cluster.push(b);
                } else {
                    index
                        .namespaced
                        .entry(object.namespace.clone())
                        .or_default()
                        .push(b);
                }
            }
        }
        index
    }

    /// Whether the user may do this.
    pub(crate) fn allows(&self, user: &User, a: &Attributes) -> bool {
        if user.groups.iter().any(|g| g == MASTERS) {
            return true;
        }
        let index = self.index();
        index.bindings(&a.namespace).any(|b| {
            b.rules.iter().any(|r| r.allows(a)) && b.subjects.iter().any(|s| s.is(user, &a.namespace))
        })
    }

    /// The same, in the words of a review: why the user may, which is empty for administrators.
    pub(crate) fn reason(&self, user: &User, a: &Attributes) -> Option<String> {
        if user.groups.iter().any(|g| g == MASTERS) {
            return Some(String::new());
        }
        let index = self.index();
        index.bindings(&a.namespace).find_map(|b| {
            let subject = b.subjects.iter().find(|s| s.is(user, &a.namespace))?;
            let allowed = b.rules.iter().any(|r| r.allows(a));
            allowed.then(|| format!("RBAC: allowed by {} to {}", b.shown, subject.shown(&a.namespace)))
        })
    }

    /// The rules that the user has in a namespace.
    pub(crate) fn rules(&self, user: &User, namespace: &str) -> Vec<Rule> {
        if user.groups.iter().any(|g| g == MASTERS) {
            let all = || vec!["*".to_owned()];
            return vec![
                Rule {
                    verbs: all(),
                    api_groups: all(),
                    resources: all(),
                    ..Rule::default()
                },
                Rule {
                    verbs: all(),
                    non_resource_urls: all(),
                    ..Rule::default()
                },
            ];
        }
        let index = self.index();
        index
            .bindings(namespace)
            .filter(|b| b.subjects.iter().any(|s| s.is(user, namespace)))
            .flat_map(|b| b.rules.iter().cloned())
            .collect()
    }

    /// The rules of a role that a binding refers to.
    pub(crate) fn role_rules(&self, role: &RoleRef, namespace: &str) -> Option<Arc<Vec<Rule>>> {
        self.index().referred(role, namespace)
    }
}

impl Index {
    fn referred(&self, role: &RoleRef, namespace: &str) -> Option<Arc<Vec<Rule>>> {
        match role.kind.as_str() {
            "ClusterRole" => self.cluster_roles.get(&role.name).cloned(),
            "Role" => self
                .roles
                .get(&(namespace.to_owned(), role.name.clone()))
                .cloned(),
            _ => None,
        }
    }

    fn bindings(&self, namespace: &str) -> impl Iterator<Item = &Binding> {
        let local = if namespace.is_empty() {
            None
        } else {
            self.namespaced.get(namespace)
        };
        self.cluster.iter().chain(local.into_iter().flatten())
    }
}
