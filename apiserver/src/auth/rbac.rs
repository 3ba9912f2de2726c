//! Role-based access control: what the roles and bindings in the store allow.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, RwLock};

use serde::Deserialize;

use super::{MASTERS, User};
use crate::selector::LabelSelector;
use crate::store::{Store, Stored};

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

/// Name and labels.
type Labelled = (String, Vec<(String, String)>);

/// The selectors of an aggregation rule.
fn selectors(rule: &serde_json::Value) -> Result<Vec<LabelSelector>, String> {
    let list = rule.get("clusterRoleSelectors").and_then(|v| v.as_array());
    list.into_iter().flatten().map(LabelSelector::of).collect()
}

/// The rules of everything that an aggregated role takes in, directly or by way of other aggregated roles,
/// none twice. Each selector takes roles in the order of their names; roles that take in each other end there.
fn gathered(
    name: &str,
    aggregated: &BTreeMap<String, Vec<LabelSelector>>,
    labels: &[Labelled],
    rules: &HashMap<String, Arc<Vec<Rule>>>,
) -> Vec<Rule> {
    let mut out: Vec<Rule> = Vec::new();
    let mut seen = BTreeSet::from([name]);
    let mut waiting = vec![name];
    while let Some(next) = waiting.pop() {
        let Some(selectors) = aggregated.get(next) else {
            for rule in rules.get(next).into_iter().flat_map(|r| r.iter()) {
                if !out.contains(rule) {
                    out.push(rule.clone());
                }
            }
            continue;
        };
        let mut found = Vec::new();
        for selector in selectors {
            for (other, have) in labels {
                if selector.matches(have) && seen.insert(other.as_str()) {
                    found.push(other.as_str());
                }
            }
        }
        waiting.extend(found.into_iter().rev());
    }
    out
}

/// What cannot be read, and is told of once for each version of it.
#[derive(Default)]
struct Told(Vec<(&'static str, String, u64, String)>);

impl Told {
    fn add(&mut self, what: &'static str, object: &Stored, why: String) {
        let key = format!("{what} {}", object.key());
        self.0.push((what, key, object.rv, why));
    }

    /// Logs what is new against `before`, and remembers the rest.
    fn tell(self, before: &mut BTreeMap<String, u64>) {
        let mut now = BTreeMap::new();
        for (what, key, rv, why) in self.0 {
            if before.get(&key) != Some(&rv) {
                tracing::warn!(object = %key, version = rv, error = %why, "a {what} cannot be read and grants nothing");
            }
            now.insert(key, rv);
        }
        *before = now;
    }
}

/// Decides.
#[derive(Debug)]
pub(crate) struct Rbac {
    store: Store,
    index: RwLock<Arc<Index>>,
    /// What could not be read when the index was last built, by its key, and at which version.
    unreadable: Mutex<BTreeMap<String, u64>>,
}

impl Rbac {
    /// Over the roles in this store.
    pub(crate) fn new(store: Store) -> Self {
        Rbac {
            store,
            index: RwLock::new(Arc::new(Index::default())),
            unreadable: Mutex::new(BTreeMap::new()),
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
        let mut told = Told::default();
        let mut labels: Vec<Labelled> = Vec::new();
        let mut aggregated: BTreeMap<String, Vec<LabelSelector>> = BTreeMap::new();
        for object in self.store.list(cluster_roles, "").items {
            let role: RoleObject = match serde_json::from_slice(&object.json) {
                Ok(role) => role,
                Err(e) => {
                    told.add("ClusterRole", &object, e.to_string());
                    continue;
                }
            };
            if let Some(rule) = role.aggregation_rule {
                match selectors(&rule) {
                    Ok(list) => {
                        aggregated.insert(object.name.clone(), list);
                    }
                    Err(e) => {
                        told.add("ClusterRole", &object, e);
                        continue;
                    }
                }
            }
            labels.push((object.name.clone(), object.labels.clone()));
            index
                .cluster_roles
                .insert(object.name.clone(), Arc::new(role.rules.unwrap_or_default()));
        }
        // In the order of names, whatever order the store lists them in.
        labels.sort();
        let whole: Vec<_> = aggregated
            .keys()
            .map(|name| {
                (
                    name.clone(),
                    gathered(name, &aggregated, &labels, &index.cluster_roles),
                )
            })
            .collect();
        for (name, rules) in whole {
            index.cluster_roles.insert(name, Arc::new(rules));
        }
        for object in self.store.list(roles, "").items {
            match serde_json::from_slice::<RoleObject>(&object.json) {
                Ok(role) => {
                    let key = (object.namespace.clone(), object.name.clone());
                    index.roles.insert(key, Arc::new(role.rules.unwrap_or_default()));
                }
                Err(e) => told.add("Role", &object, e.to_string()),
            }
        }
        for resource in [cluster_role_bindings, role_bindings] {
            for object in self.store.list(resource, "").items {
                let binding: BindingObject = match serde_json::from_slice(&object.json) {
                    Ok(b) => b,
                    Err(e) => {
                        told.add("binding", &object, e.to_string());
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
        told.tell(&mut self.unreadable.lock().unwrap_or_else(|e| e.into_inner()));
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;
    use tracing::span;

    use super::*;
    use crate::store::{Key, Location, Op, Window, Write};

    /// Counts what is logged.
    #[derive(Clone, Default)]
    struct Lines(Arc<AtomicUsize>);

    impl tracing::Subscriber for Lines {
        fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
            metadata.target() == module_path!().trim_end_matches("::tests")
        }
        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }
        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn event(&self, _: &tracing::Event<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_told_of_once_for_each_version_and_hinders_no_other() {
        let store = Store::open(&Location::Memory, Window::default()).unwrap();
        let rbac = Rbac::new(store.clone());
        let lines = Lines::default();
        let _logged = tracing::subscriber::set_default(lines.clone());
        let [roles, role_bindings, cluster_roles, cluster_role_bindings] = RESOURCES;
        let put = async |resource: &str, namespace: &str, name: &str, mut object: serde_json::Value| {
            object["metadata"] = json!({"namespace": namespace, "name": name});
            let key = Key {
                resource: resource.into(),
                namespace: namespace.into(),
                name: name.into(),
            };
            let found = store.get(resource, namespace, name);
            let write = Write {
                key,
                expect: found.map(|f| f.rv),
                op: Op::Put(object),
            };
            store.write(write).await.unwrap();
        };
        let good = json!({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]});
        put(cluster_roles, "", "good", good).await;
        let binding = json!({"roleRef": {"kind": "ClusterRole", "name": "good"}, "subjects": [{"kind": "User", "name": "jane"}]});
        put(cluster_role_bindings, "", "good", binding).await;
        let selector = json!({"matchExpressions": [{"key": "a", "operator": "Is"}]});
        let odd = json!({"aggregationRule": {"clusterRoleSelectors": [selector]}});
        put(cluster_roles, "", "odd", odd).await;
        for (resource, name) in [(cluster_roles, "bad"), (roles, "bad"), (role_bindings, "bad")] {
            put(
                resource,
                if resource == cluster_roles { "" } else { "ns" },
                name,
                json!({"rules": 5, "roleRef": 5}),
            )
            .await;
        }
        let ask = || {
            let a = Attributes {
                verb: "get".into(),
                resource: "pods".into(),
                ..Attributes::default()
            };
            assert!(rbac.allows(&User::new("jane", &[]), &a));
            lines.0.load(Ordering::Relaxed)
        };
        assert_eq!(ask(), 4);
        for n in 0..3 {
            put(roles, "ns", "other", json!({"rules": [], "n": n})).await;
            assert_eq!(ask(), 4, "the index is built anew, and nothing new is wrong");
        }
        put(cluster_roles, "", "bad", json!({"rules": 6})).await;
        assert_eq!(ask(), 5, "another version, another line");
        put(cluster_roles, "", "bad", json!({"rules": []})).await;
        assert_eq!(ask(), 5);
        put(cluster_roles, "", "bad", json!({"rules": 6})).await;
        assert_eq!(ask(), 6);
    }
}
