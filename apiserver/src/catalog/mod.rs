//! What is served: the built-in resources, and those that custom resource definitions add.

pub(crate) mod builtin;
pub(crate) mod crd;
pub(crate) mod reserved;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, RwLock};

use bytes::Bytes;
use serde_json::Value;

use crate::schema::Schema;
use crate::store::{Store, Stored};

/// Where CustomResourceDefinitions are stored.
pub(crate) const CRDS: &str = "customresourcedefinitions.apiextensions.k8s.io";

/// All verbs of a stored built-in resource, in the order that discovery shows.
pub(crate) const BUILTIN_VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
/// The same for custom resources.
pub(crate) const CUSTOM_VERBS: &[&str] = &[
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "create",
    "update",
    "watch",
];

/// A column of a table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Column {
    /// Heading.
    pub(crate) name: String,
    /// `string`, `integer`, `date`, …
    pub(crate) kind: String,
    /// `name`, or empty.
    pub(crate) format: String,
    /// What it shows.
    pub(crate) description: String,
    /// 0: always shown; more: only in wide output.
    pub(crate) priority: i64,
    /// Where its value is found; empty for computed columns.
    pub(crate) path: String,
}

/// A subresource, as discovery shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subresource {
    /// `status`, `token`, …
    pub(crate) name: &'static str,
    /// Kind of its body, if it is another one: group, version, kind.
    pub(crate) kind: Option<(&'static str, &'static str, &'static str)>,
    /// What can be done.
    pub(crate) verbs: &'static [&'static str],
}

/// Where the objects of a resource keep what their scale shows, as JSON pointers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScalePaths {
    /// How many are asked for.
    pub(crate) spec: String,
    /// How many there are.
    pub(crate) status: String,
    /// Which ones: a label selector, or one as text.
    pub(crate) selector: Option<String>,
}

/// The subresource that shows it.
pub(crate) const SCALE: Subresource = Subresource {
    name: "scale",
    kind: Some(("autoscaling", "v1", "Scale")),
    verbs: &["get", "patch", "update"],
};

/// Where a resource comes from.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    /// It is built in.
    Builtin(builtin::Kind),
    /// A custom resource definition made it.
    Custom {
        /// The schema of the version that is stored.
        stored: Arc<Schema>,
        /// The version at which the definition last changed: what is older may lack newer defaults.
        since: u64,
        /// Its printer columns.
        columns: Arc<Vec<Column>>,
        /// The schema as the definition has it.
        schema_json: Arc<Value>,
    },
}

/// One resource in one version.
#[derive(Debug, Clone)]
pub(crate) struct Resource {
    /// API group; empty: core.
    pub(crate) group: String,
    /// Version.
    pub(crate) version: String,
    /// Plural name.
    pub(crate) plural: String,
    /// Singular name.
    pub(crate) singular: String,
    /// Kind.
    pub(crate) kind: String,
    /// Kind of its lists.
    pub(crate) list_kind: String,
    /// Whether objects live in namespaces.
    pub(crate) namespaced: bool,
    /// Short names.
    pub(crate) short_names: Vec<String>,
    /// Categories.
    pub(crate) categories: Vec<String>,
    /// Verbs.
    pub(crate) verbs: &'static [&'static str],
    /// Where it is stored.
    pub(crate) storage: Arc<str>,
    /// apiVersion of what is stored.
    pub(crate) storage_version: String,
    /// Its schema.
    pub(crate) schema: Arc<Schema>,
    /// Subresources.
    pub(crate) subresources: Vec<Subresource>,
    /// What the subresource `scale` shows.
    pub(crate) scale: Option<ScalePaths>,
    /// Where it comes from.
    pub(crate) origin: Origin,
}

impl Resource {
    /// `group/version`, or `version` in the core group.
    pub(crate) fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// Whether status is written through its own subresource.
    pub(crate) fn has_status(&self) -> bool {
        self.subresources.iter().any(|s| s.name == "status")
    }

    /// The built-in kind.
    pub(crate) fn builtin(&self) -> Option<builtin::Kind> {
        match self.origin {
            Origin::Builtin(kind) => Some(kind),
            Origin::Custom { .. } => None,
        }
    }

    /// Whether it is a custom resource.
    pub(crate) fn custom(&self) -> bool {
        matches!(self.origin, Origin::Custom { .. })
    }

    /// The object as it is stored, from this version.
    pub(crate) fn encode(&self, mut value: Value) -> Value {
        if self.group == "events.k8s.io" {
            value = crate::builtin::event::to_core(value);
        }
        if let Some(map) = value.as_object_mut() {
            map.insert("apiVersion".into(), self.storage_version.clone().into());
        }
        if let Origin::Custom { stored, .. } = &self.origin
            && self.storage_version != self.api_version()
        {
            crate::schema::default(&mut value, stored);
        }
        value
    }

    /// The object in this version, from what is stored.
    pub(crate) fn decode(&self, stored: &Stored) -> Value {
        let mut value = stored.value();
        if let Origin::Custom {
            stored: schema,
            since,
            ..
        } = &self.origin
        {
            if stored.rv < *since {
                crate::schema::default(&mut value, schema);
            }
            // What this version does not name is not seen through it.
            if stored.rv < *since || self.storage_version != self.api_version() {
                crate::schema::prune(&mut value, &self.schema, true);
            }
        }
        if self.group == "events.k8s.io" {
            value = crate::builtin::event::from_core(value);
        }
        if let Some(map) = value.as_object_mut()
            && map.get("apiVersion").and_then(Value::as_str) != Some(&self.api_version())
        {
            map.insert("apiVersion".into(), self.api_version().into());
        }
        value
    }

    /// Whether the stored JSON can be sent as it is.
    pub(crate) fn verbatim(&self, object: &Stored) -> bool {
        let fresh = match &self.origin {
            Origin::Custom { since, .. } => object.rv >= *since,
            Origin::Builtin(_) => true,
        };
        fresh && self.group != "events.k8s.io" && self.storage_version == self.api_version()
    }
}

/// `group/version`, or `version` in the core group.
pub(crate) fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

/// A version of a group.
#[derive(Debug, Clone)]
pub(crate) struct GroupVersion {
    /// Name, `v1` for example.
    pub(crate) version: String,
    /// Its resources, by plural name, in the order that discovery shows.
    pub(crate) resources: Vec<Arc<Resource>>,
}

/// A group.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    /// Name; empty: core.
    pub(crate) name: String,
    /// Versions, the preferred one first.
    pub(crate) versions: Vec<GroupVersion>,
}

/// Everything that is served at one moment.
#[derive(Debug)]
pub(crate) struct Catalog {
    /// Groups, in the order that discovery shows; core first.
    pub(crate) groups: Vec<Group>,
    index: BTreeMap<(String, String, String), Arc<Resource>>,
    documents: Mutex<BTreeMap<String, Bytes>>,
}

impl Catalog {
    /// A document about all this, made once: for some lines that are typed, kubectl asks for hundreds of kilobytes.
    /// Only documents that exist are kept, so that these are few.
    pub(crate) fn document(&self, name: &str, make: impl FnOnce() -> Option<Bytes>) -> Option<Bytes> {
        let kept = || self.documents.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(document) = kept().get(name) {
            return Some(document.clone());
        }
        // Made without the lock: two may make the same, but none waits for another one's.
        let document = make()?;
        kept().insert(name.to_owned(), document.clone());
        Some(document)
    }

    /// Finds a resource.
    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.index
            .get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }

    /// Finds a resource by kind.
    pub(crate) fn find_kind(&self, api_version: &str, kind: &str) -> Option<&Arc<Resource>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let group = self.groups.iter().find(|g| g.name == group)?;
        let version = group.versions.iter().find(|v| v.version == version)?;
        version.resources.iter().find(|r| r.kind == kind)
    }

    /// One resource per stored type: in the preferred version of its group.
    pub(crate) fn stored(&self) -> Vec<Arc<Resource>> {
        let mut seen: BTreeMap<Arc<str>, Arc<Resource>> = BTreeMap::new();
        for group in &self.groups {
            for version in &group.versions {
                for r in &version.resources {
                    if r.verbs.contains(&"list") {
                        seen.entry(r.storage.clone()).or_insert_with(|| r.clone());
                    }
                }
            }
        }
        seen.into_values().collect()
    }

    /// Whether a group and version are served.
    pub(crate) fn has_version(&self, group: &str, version: &str) -> bool {
        self.groups
            .iter()
            .any(|g| g.name == group && g.versions.iter().any(|v| v.version == version))
    }

    fn build(custom: &[Arc<Vec<Resource>>]) -> Self {
        let mut groups: Vec<Group> = Vec::new();
        let mut put = |resource: Arc<Resource>| {
            let at = match groups.iter().position(|g| g.name == resource.group) {
                Some(i) => i,
                None => {
                    groups.push(Group {
                        name: resource.group.clone(),
                        versions: Vec::new(),
                    });
                    groups.len() - 1
                }
            };
            let versions = &mut groups[at].versions;
            match versions.iter_mut().find(|v| v.version == resource.version) {
                Some(v) => v.resources.push(resource),
                None => versions.push(GroupVersion {
                    version: resource.version.clone(),
                    resources: vec![resource],
                }),
            }
        };
        for resource in builtin::resources() {
            put(resource.clone());
        }
        for resource in custom.iter().flat_map(|list| list.iter()) {
            put(Arc::new(resource.clone()));
        }
        let mut index = BTreeMap::new();
        for group in &mut groups {
            group
                .versions
                .sort_by(|a, b| crd::version_order(&a.version, &b.version));
            for version in &mut group.versions {
                for r in &version.resources {
                    index.insert((r.group.clone(), r.version.clone(), r.plural.clone()), r.clone());
                }
            }
        }
        Catalog {
            groups,
            index,
            documents: Mutex::default(),
        }
    }
}

type Compiled = BTreeMap<String, (u64, Arc<Vec<Resource>>)>;

/// Keeps the catalog in step with the definitions in the store.
#[derive(Debug)]
pub(crate) struct Catalogs {
    store: Store,
    current: RwLock<(u64, Arc<Catalog>)>,
    /// Compiled definitions by UID, with the resource version that they were compiled from.
    compiled: Mutex<Compiled>,
}

impl Catalogs {
    /// A catalog over this store.
    pub(crate) fn new(store: Store) -> Self {
        let empty = Arc::new(Catalog::build(&[]));
        for resource in empty.stored() {
            store.declare(&resource.storage);
        }
        Catalogs {
            store,
            current: RwLock::new((0, empty)),
            compiled: Mutex::new(BTreeMap::new()),
        }
    }

    /// The catalog as of now.
    pub(crate) fn current(&self) -> Arc<Catalog> {
        let latest = self.store.last_change(CRDS);
        {
            let current = self.current.read().unwrap_or_else(|e| e.into_inner());
            if current.0 >= latest {
                return current.1.clone();
            }
        }
        let mut compiled = self.compiled.lock().unwrap_or_else(|e| e.into_inner());
        let page = self.store.list(CRDS, "");
        let mut next: Compiled = BTreeMap::new();
        for object in &page.items {
            let resources = match compiled.get(&object.uid) {
                Some((rv, done)) if *rv == object.rv => done.clone(),
                _ => Arc::new(crd::resources(&object.value(), object.rv)),
            };
            for r in resources.iter() {
                self.store.declare(&r.storage);
            }
            next.insert(object.uid.clone(), (object.rv, resources));
        }
        *compiled = next;
        // In the order of their names, as discovery shows them.
        let lists: Vec<Arc<Vec<Resource>>> = page
            .items
            .iter()
            .filter_map(|o| compiled.get(&o.uid).map(|(_, r)| r.clone()))
            .collect();
        let catalog = Arc::new(Catalog::build(&lists));
        let mut current = self.current.write().unwrap_or_else(|e| e.into_inner());
        if current.0 < page.rv {
            *current = (page.rv, catalog);
        }
        current.1.clone()
    }
}
