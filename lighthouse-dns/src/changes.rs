//! What has changed in a watched index since the last look.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::ResourceExt as _;
use strait_daemon::Watched;
use strait_daemon::inputs::Input;

/// Remembers what was there at the last look.
#[derive(Debug)]
pub(crate) struct Changes<K> {
    watched: Watched<K>,
    seen: BTreeMap<(String, String), Arc<K>>,
}

/// One change.
#[derive(Debug)]
pub(crate) enum Change<K> {
    /// New, or another version.
    Put(Arc<K>),
    /// No longer there: namespace and name.
    Gone(String, String),
}

impl<K: Input> Changes<K> {
    pub(crate) fn of(watched: Watched<K>) -> Self {
        Self {
            watched,
            seen: BTreeMap::new(),
        }
    }

    /// The changes since the last call.
    pub(crate) fn take(&mut self) -> Vec<Change<K>> {
        let mut now = BTreeMap::new();
        let mut changes = Vec::new();
        for object in self.watched.all() {
            let key = (object.namespace().unwrap_or_default(), object.name_any());
            if !self.seen.get(&key).is_some_and(|old| Arc::ptr_eq(old, &object)) {
                changes.push(Change::Put(object.clone()));
            }
            now.insert(key, object);
        }
        for key in self.seen.keys().filter(|k| !now.contains_key(*k)) {
            changes.push(Change::Gone(key.0.clone(), key.1.clone()));
        }
        self.seen = now;
        changes
    }

    /// Whether an object was there at the last look.
    pub(crate) fn has(&self, namespace: &str, name: &str) -> bool {
        self.seen.contains_key(&(namespace.to_owned(), name.to_owned()))
    }

    /// Forgets what was seen, so that everything counts as changed.
    pub(crate) fn forget(&mut self) {
        self.seen.clear();
    }
}
