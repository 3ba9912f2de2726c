//! Watched records, as they lie on an API server: read or not, none is forgotten.

use std::collections::BTreeMap;
use std::pin::Pin;

use futures::{Stream, StreamExt as _};
use kube::api::{Api, ApiResource, DynamicObject, ObjectMeta};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt as _};

/// Namespace and name.
pub(super) type At = (String, String);

/// Objects of one kind, followed by a watch.
#[derive(Debug, Default)]
pub(super) struct Index {
    objects: BTreeMap<At, DynamicObject>,
    listing: BTreeMap<At, DynamicObject>,
    complete: bool,
}

/// What an event changed.
#[derive(Debug, PartialEq)]
pub(super) enum Fed {
    /// Nothing that can be seen yet.
    Nothing,
    /// An object came or changed.
    Changed(At),
    /// A list has ended: any object may have changed.
    Listed,
    /// The deletion of an object was seen.
    Deleted(At),
}

pub(super) fn at(object: &DynamicObject) -> At {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// A record's version: a number that only grows within one store (KEP-5504). 0 if there is none.
pub(super) fn version(record: &ObjectMeta) -> u64 {
    let version = record.resource_version.as_deref();
    version.and_then(|v| v.parse().ok()).unwrap_or_default()
}

impl Index {
    /// Takes an event of the watch.
    pub(super) fn feed(&mut self, event: Event<DynamicObject>) -> Fed {
        match event {
            Event::Init => {
                self.listing.clear();
                Fed::Nothing
            }
            Event::InitApply(object) => {
                self.listing.insert(at(&object), object);
                Fed::Nothing
            }
            Event::InitDone => {
                self.objects = std::mem::take(&mut self.listing);
                self.complete = true;
                Fed::Listed
            }
            Event::Apply(object) => {
                let at = at(&object);
                if self.put(object) {
                    Fed::Changed(at)
                } else {
                    Fed::Nothing
                }
            }
            Event::Delete(object) => {
                let at = at(&object);
                // Deleted, and made again by ourselves since.
                let newer = self.objects.get(&at).is_some_and(|have| {
                    have.metadata.uid != object.metadata.uid
                        && version(&have.metadata) > version(&object.metadata)
                });
                if newer {
                    return Fed::Nothing;
                }
                self.objects.remove(&at);
                Fed::Deleted(at)
            }
        }
    }

    /// Takes an object, from the watch or as the answer to a write of ours, unless a later state of it is
    /// known: our writes are seen here before the watch tells of them.
    pub(super) fn put(&mut self, object: DynamicObject) -> bool {
        let at = at(&object);
        let older = self.objects.get(&at).is_some_and(|have| {
            have.metadata.uid == object.metadata.uid && version(&object.metadata) < version(&have.metadata)
        });
        if older {
            return false;
        }
        self.objects.insert(at, object);
        true
    }

    pub(super) fn remove(&mut self, at: &At) {
        self.objects.remove(at);
    }

    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<&DynamicObject> {
        self.objects.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// The objects of one namespace whose names begin so.
    pub(super) fn within<'a>(
        &'a self,
        namespace: &'a str,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a At, &'a DynamicObject)> {
        self.objects
            .range((namespace.to_owned(), prefix.to_owned())..)
            .take_while(move |((n, name), _)| n == namespace && name.starts_with(prefix))
    }

    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&At, &DynamicObject)> {
        self.objects.iter()
    }

    /// Whether a list has ended, so that what is not here is not there.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }
}

/// Events of several watches, each with the tag of its own.
pub(super) type Events<T> =
    Pin<Box<dyn Stream<Item = (T, Result<Event<DynamicObject>, watcher::Error>)> + Send>>;

/// Follows one kind, in one namespace or in all.
pub(super) fn follow<T: Copy + Send + 'static>(
    tag: T,
    client: &Client,
    resource: &ApiResource,
    namespace: Option<&str>,
    labels: Option<&str>,
) -> Events<T> {
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, resource),
        None => Api::all_with(client.clone(), resource),
    };
    let config = watcher::Config {
        label_selector: labels.map(str::to_owned),
        ..watcher::Config::default()
    };
    watcher(api, config)
        .backoff(strait_daemon::inputs::Pauses::default())
        .map(move |event| (tag, event))
        .boxed()
}

/// The next event, and all that have come with it.
pub(super) async fn next<T>(
    events: &mut futures::stream::SelectAll<Events<T>>,
) -> Vec<(T, Result<Event<DynamicObject>, watcher::Error>)> {
    use futures::FutureExt as _;
    /// Enough to take a whole list at once, and not to read for ever.
    const MOST: usize = 10_000;
    let mut batch: Vec<_> = events.next().await.into_iter().collect();
    while batch.len() < MOST {
        match events.next().now_or_never() {
            Some(Some(event)) => batch.push(event),
            _ => break,
        }
    }
    batch
}

#[cfg(test)]
mod tests {
    use kube::api::DynamicObject;
    use kube::runtime::watcher::Event;
    use serde_json::json;

    use super::{Fed, Index};

    fn object(name: &str, uid: &str, version: u64) -> DynamicObject {
        let text = json!({"metadata": {"name": name, "namespace": "n", "uid": uid, "resourceVersion": version.to_string()}});
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn a_new_list_replaces_the_index_only_when_it_is_complete() {
        let mut index = Index::default();
        index.feed(Event::Init);
        index.feed(Event::InitApply(object("a", "1", 1)));
        assert!(!index.is_complete() && index.get("n", "a").is_none());
        index.feed(Event::InitDone);
        index.feed(Event::Init);
        assert!(
            index.get("n", "a").is_some(),
            "a list that was begun again hides nothing"
        );
        assert_eq!(index.feed(Event::InitDone), Fed::Listed);
        assert!(index.get("n", "a").is_none());
    }

    #[test]
    fn objects_are_found_by_namespace_and_beginning_of_the_name() {
        let mut index = Index::default();
        for name in ["a.x", "ab.x", "a.y", "b.x"] {
            index.put(object(name, name, 1));
        }
        let names: Vec<&str> = index
            .within("n", "a.")
            .map(|((_, name), _)| name.as_str())
            .collect();
        assert_eq!(names, ["a.x", "a.y"]);
        assert_eq!(
            (
                index.within("n", "").count(),
                index.within("m", "").count(),
                index.len()
            ),
            (4, 0, 4)
        );
    }

    #[test]
    fn late_events_do_not_undo_our_own_writes() {
        let mut index = Index::default();
        assert!(index.put(object("a", "1", 9)));
        assert_eq!(index.feed(Event::Apply(object("a", "1", 8))), Fed::Nothing);
        assert_eq!(index.feed(Event::Delete(object("a", "0", 7))), Fed::Nothing);
        let at = ("n".to_owned(), "a".to_owned());
        assert_eq!(index.feed(Event::Apply(object("a", "1", 10))), Fed::Changed(at));
        assert!(matches!(
            index.feed(Event::Delete(object("a", "1", 11))),
            Fed::Deleted(_)
        ));
    }
}
