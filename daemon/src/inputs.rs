//! Watched objects, as an index that starts from disk and follows the API server.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{StreamExt, pin_mut};
use kube::core::{DeserializeGuard, NamespaceResourceScope};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::saved::SavedFile;
use crate::shutdown::Shutdown;

/// An object that can be watched and saved.
pub trait Input:
    Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
}
impl<K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static>
    Input for K
{
}

/// All that a daemon watches. One change of any object wakes [`Inputs::changed`].
#[derive(Debug)]
pub struct Inputs {
    saved_in: Option<PathBuf>,
    shutdown: Shutdown,
    changes: watch::Sender<u64>,
    seen: watch::Receiver<u64>,
    /// One flag for each watched kind: whether it is known, live or from disk.
    known: Vec<watch::Receiver<Knowledge>>,
    savers: Vec<JoinHandle<()>>,
    refusals: Refusals,
}

/// An API server does not let these credentials see some objects.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("these credentials may not list {kind}: {said}")]
pub struct Refused {
    /// The kind, in plural.
    pub kind: String,
    /// The API server's words.
    pub said: String,
}

/// Lists that were refused.
#[derive(Debug, Clone, Default)]
struct Refusals {
    first: Arc<watch::Sender<Option<Refused>>>,
    /// Whether somebody will say so.
    asked: Arc<AtomicBool>,
}

/// How much is known of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Knowledge {
    /// Nothing yet.
    Nothing,
    /// What was saved when the daemon last ran.
    Saved,
    /// A complete list from the API server, followed since.
    Live,
}

impl Inputs {
    /// Inputs that are saved under `saved_in` (one file a kind), or nowhere.
    pub fn new(saved_in: Option<&Path>, shutdown: Shutdown) -> Self {
        let (changes, seen) = watch::channel(0);
        Self {
            saved_in: saved_in.map(Path::to_owned),
            shutdown,
            changes,
            seen,
            known: Vec::new(),
            savers: Vec::new(),
            refusals: Refusals::default(),
        }
    }

    /// Watches the objects of one namespace, narrowed by `config`.
    pub fn watch_in<K>(&mut self, client: &Client, namespace: &str, config: watcher::Config) -> Watched<K>
    where
        K: Input + Resource<Scope = NamespaceResourceScope>,
    {
        self.watch(Api::namespaced(client.clone(), namespace), config)
    }

    /// Watches the objects of all namespaces, or cluster-scoped ones, narrowed by `config`.
    pub fn watch_all<K: Input>(&mut self, client: &Client, config: watcher::Config) -> Watched<K> {
        self.watch(Api::all(client.clone()), config)
    }

    fn watch<K: Input>(&mut self, api: Api<DeserializeGuard<K>>, config: watcher::Config) -> Watched<K> {
        let name = K::plural(&()).into_owned();
        let (known, receiver) = watch::channel(Knowledge::Nothing);
        let index = Index {
            objects: Arc::default(),
            known,
            changes: self.changes.clone(),
        };
        let watched = Watched {
            objects: index.objects.clone(),
            known: receiver.clone(),
        };
        self.known.push(receiver);
        let saved = self.saved_in.as_deref().map(|dir| SavedFile::new(dir, &name));
        if let Some(objects) = saved.as_ref().and_then(SavedFile::load::<K>) {
            index.replace(
                objects.into_iter().map(|o| (key(&o), Arc::new(o))).collect(),
                Knowledge::Saved,
            );
        }
        if let Some(file) = saved {
            self.savers.push(tokio::spawn(save(
                watched.clone(),
                file,
                self.changes.subscribe(),
                self.shutdown.clone(),
            )));
        }
        let refusals = self.refusals.clone();
        tokio::spawn(follow(name, api, config, index, refusals, self.shutdown.clone()));
        watched
    }

    /// Waits until the API server refuses to list something. Daemons log that and try again; for a command
    /// that calls this before it watches, it is the answer, and none is logged.
    pub fn refused(&self) -> impl Future<Output = Refused> + use<> {
        self.refusals.asked.store(true, Ordering::SeqCst);
        let mut first = self.refusals.first.subscribe();
        async move {
            let first = first.wait_for(Option::is_some).await;
            match first.ok().and_then(|refused| refused.clone()) {
                Some(refused) => refused,
                // The inputs are gone: nobody asks any more.
                None => std::future::pending().await,
            }
        }
    }

    /// How much is known, of the kind of which least is known.
    pub fn knowledge(&self) -> Knowledge {
        self.known
            .iter()
            .map(|k| *k.borrow())
            .min()
            .unwrap_or(Knowledge::Live)
    }

    /// Waits for a change since the last call, then until `calm` has passed without another, but at most
    /// ten times that. The first call waits until every kind is known. Never returns once shut down.
    pub async fn changed(&mut self, calm: Duration) {
        loop {
            if self.seen.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            let deadline = tokio::time::Instant::now() + calm * 10;
            loop {
                let next = (tokio::time::Instant::now() + calm).min(deadline);
                match tokio::time::timeout_at(next, self.seen.changed()).await {
                    Ok(Ok(())) if next < deadline => {}
                    _ => break,
                }
            }
            if self.knowledge() > Knowledge::Nothing {
                return;
            }
        }
    }

    /// [`Inputs::changed`] for the first time, where what the daemon did outlives it: a crash loses what came
    /// shortly before it, so what is on disk may be older than the deeds. It counts only when the API
    /// server has not told everything after `patience`.
    pub async fn first(&mut self, calm: Duration, patience: Duration) {
        let deadline = tokio::time::Instant::now() + patience;
        self.changed(calm).await;
        while self.knowledge() < Knowledge::Live {
            if tokio::time::timeout_at(deadline, self.changed(calm))
                .await
                .is_err()
            {
                return;
            }
        }
    }

    /// Waits, once shut down, until the last changes are on disk. A daemon that saves its inputs calls it
    /// before it ends, or its next start would lack what came in the last second.
    pub async fn saved(&mut self) {
        for saver in self.savers.drain(..) {
            if let Err(e) = saver.await {
                tracing::warn!(error = %e, "saving inputs failed");
            }
        }
    }

    /// Wakes [`Inputs::changed`] for a cause outside the API server (the kernel, a timer).
    pub fn waker(&self) -> Waker {
        Waker(self.changes.clone())
    }
}

/// Wakes [`Inputs::changed`].
#[derive(Debug, Clone)]
pub struct Waker(watch::Sender<u64>);

impl Waker {
    /// Wakes it.
    pub fn wake(&self) {
        self.0.send_modify(|n| *n = n.wrapping_add(1));
    }
}

type Key = (String, String);
type Objects<K> = BTreeMap<Key, Arc<K>>;

/// The objects of one kind; a cheap handle.
#[derive(Debug)]
pub struct Watched<K> {
    objects: Arc<Mutex<Objects<K>>>,
    known: watch::Receiver<Knowledge>,
}

impl<K> Clone for Watched<K> {
    fn clone(&self) -> Self {
        Self {
            objects: self.objects.clone(),
            known: self.known.clone(),
        }
    }
}

impl<K> Watched<K> {
    /// All objects, by namespace and name.
    pub fn all(&self) -> Vec<Arc<K>> {
        lock(&self.objects).values().cloned().collect()
    }

    /// One object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        lock(&self.objects)
            .get(&(namespace.to_owned(), name.to_owned()))
            .cloned()
    }

    /// How much is known of this kind.
    pub fn knowledge(&self) -> Knowledge {
        *self.known.borrow()
    }

    /// Waits until the API server's list is complete.
    pub async fn live(&self) {
        // The sender lives as long as the watching task; without it there is nothing left to wait for.
        let _ = self.known.clone().wait_for(|k| *k == Knowledge::Live).await;
    }
}

/// The writing side of a [`Watched`].
struct Index<K> {
    objects: Arc<Mutex<Objects<K>>>,
    known: watch::Sender<Knowledge>,
    changes: watch::Sender<u64>,
}

impl<K: Input> Index<K> {
    fn replace(&self, objects: Objects<K>, known: Knowledge) {
        *lock(&self.objects) = objects;
        self.known.send_replace(known);
        self.changed();
    }

    fn changed(&self) {
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
    }
}

// A poisoned lock only means that a reader panicked; the map is whole, since writers swap or insert.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn key<K: Resource>(object: &K) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// Longest pause before a watch is tried again. The client's own half minute and more would be the time for which
/// what happened during an outage of the API server stays unknown after it.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The pauses between the attempts of a watch that fails: the client's own ones, but not as long.
#[derive(Default)]
pub struct Pauses(watcher::DefaultBackoff);

impl Debug for Pauses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pauses").finish_non_exhaustive()
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next().map(|pause| pause.min(LONGEST_PAUSE))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0.reset();
    }
}

async fn follow<K: Input>(
    name: String,
    api: Api<DeserializeGuard<K>>,
    config: watcher::Config,
    index: Index<K>,
    refusals: Refusals,
    shutdown: Shutdown,
) {
    let stream = watcher(api, config).backoff(Pauses::default());
    pin_mut!(stream);
    let mut list = Objects::new();
    let mut failing = false;
    loop {
        let event = tokio::select! {
            event = stream.next() => event,
            () = shutdown.wait() => return,
        };
        let Some(event) = event else { return };
        let event = match event {
            Ok(event) => event,
            Err(e) if failing => {
                tracing::debug!(kind = name, error = causes(&e), "watch still fails");
                continue;
            }
            Err(e) => {
                failing = true;
                if let Some(said) = forbidden(&e) {
                    let kind = name.clone();
                    refusals.first.send_if_modified(|first| {
                        let new = first.is_none();
                        first.get_or_insert(Refused { kind, said });
                        new
                    });
                    if refusals.asked.load(Ordering::SeqCst) {
                        continue;
                    }
                }
                tracing::warn!(
                    kind = name,
                    error = causes(&e),
                    "watch fails; going on with what is known, and trying again"
                );
                continue;
            }
        };
        // The watcher announces every attempt; only an answer says that it works.
        if failing && !matches!(event, Event::Init) {
            failing = false;
            tracing::info!(kind = name, "watch works again");
        }
        match event {
            Event::Init => list.clear(),
            Event::InitApply(object) => {
                let at = key(&object);
                match understood(&name, object) {
                    Some(object) => list.insert(at, Arc::new(object)),
                    None => lock(&index.objects)
                        .get(&at)
                        .and_then(|last| list.insert(at, last.clone())),
                };
            }
            Event::InitDone => index.replace(std::mem::take(&mut list), Knowledge::Live),
            Event::Apply(object) => {
                let at = key(&object);
                if let Some(object) = understood(&name, object) {
                    lock(&index.objects).insert(at, Arc::new(object));
                    index.changed();
                }
            }
            Event::Delete(object) => {
                lock(&index.objects).remove(&key(&object));
                index.changed();
            }
        }
    }
}

/// The API server's words, where it refuses to list.
fn forbidden(error: &watcher::Error) -> Option<String> {
    let (watcher::Error::InitialListFailed(kube::Error::Api(status))
    | watcher::Error::WatchStartFailed(kube::Error::Api(status))) = error
    else {
        return None;
    };
    (status.code == 403).then(|| status.message.clone())
}

/// An error with its causes, outermost first.
fn causes(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |e| e.source()).fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.contains(&cause) {
            text
        } else {
            format!("{text}: {cause}")
        }
    })
}

/// The object, unless it cannot be understood (a newer version's value, a damaged record): then what was
/// known of it before stays in force, and the other objects go on.
fn understood<K: Input>(kind: &str, object: DeserializeGuard<K>) -> Option<K> {
    match object.0 {
        Ok(object) => Some(object),
        Err(e) => {
            let (namespace, name) = (e.metadata.namespace.as_deref(), e.metadata.name.as_deref());
            tracing::warn!(
                kind,
                namespace,
                name,
                error = e.error,
                "object is not understood; skipping it"
            );
            None
        }
    }
}

/// Between two writings of a kind, however much happens.
const REST: Duration = Duration::from_secs(1);
/// Changes that come together are written together; what a crash loses is what came later than this before it.
const TOGETHER: Duration = Duration::from_millis(50);

/// Writes the objects to disk soon after a change, once a second at most, and at the end.
async fn save<K: Input>(
    watched: Watched<K>,
    file: SavedFile,
    mut changes: watch::Receiver<u64>,
    shutdown: Shutdown,
) {
    let mut last: Option<Vec<(Key, Option<String>)>> = None;
    let mut ending = false;
    let mut rested = tokio::time::Instant::now();
    while !ending {
        let pause = async {
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep_until(rested.max(tokio::time::Instant::now() + TOGETHER)).await;
        };
        tokio::select! {
            () = pause => {}
            () = shutdown.wait() => ending = true,
        }
        if watched.knowledge() != Knowledge::Live {
            continue;
        }
        let objects = watched.all();
        let versions: Vec<_> = objects
            .iter()
            .map(|o| (key(o.as_ref()), o.resource_version()))
            .collect();
        if last.as_ref() == Some(&versions) {
            continue;
        }
        let written = tokio::task::spawn_blocking({
            let file = file.clone();
            move || file.store(&objects)
        })
        .await;
        match written {
            Ok(Ok(())) => {
                last = Some(versions);
                rested = tokio::time::Instant::now() + REST;
            }
            Ok(Err(e)) => {
                tracing::warn!(error = %e, ?file, "inputs cannot be saved; a start without the API server would miss them")
            }
            Err(e) => tracing::warn!(error = %e, "saving inputs failed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_long_an_api_server_is_away_it_is_looked_for_every_few_seconds() {
        let mut pauses = Pauses::default();
        let series: Vec<Duration> = pauses.by_ref().take(100).collect();
        assert_eq!(series.len(), 100, "it is never given up");
        assert!(
            series[0] >= Duration::from_millis(500) && series[0] < Duration::from_secs(2),
            "{series:?}"
        );
        assert_eq!(series.iter().max(), Some(&Duration::from_secs(5)), "{series:?}");
        pauses.reset();
        assert!(
            pauses.next() < Some(Duration::from_secs(2)),
            "after an answer it begins anew"
        );
    }
}
