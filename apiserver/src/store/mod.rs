//! The store: every object in memory, every write on disk before it is seen or acknowledged.
//!
//! One thread writes. It takes what waits as one batch, checks each write against the state so far,
//! commits the batch with one sync, and only then changes what readers see and what watchers get.
//! Each resource keeps a window of its last events: watches read from it at their own pace, so a slow
//! reader costs nothing and, once the window has passed it, is told 410. The same window, read
//! backwards, gives lists at an older resource version. Lists work on snapshots ([`Objects`]), outside
//! of the lock that the writer needs.

mod disk;
mod object;
mod objects;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock, RwLockReadGuard, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::{oneshot, watch};

pub(crate) use object::{Stored, object_key};
pub(crate) use objects::Objects;

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// It came to be.
    Added,
    /// It changed.
    Modified,
    /// It is gone.
    Deleted,
}

/// One entry of a resource's window.
#[derive(Debug)]
pub(crate) struct Event {
    /// Resource version of the change.
    pub(crate) rv: u64,
    /// What happened.
    pub(crate) change: Change,
    /// The object after the change; of a deletion its last state, at the deletion's version.
    pub(crate) object: Arc<Stored>,
    /// The object before the change.
    pub(crate) prev: Option<Arc<Stored>>,
    /// When it was written.
    at: Instant,
}

/// Where an object stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// `plural.group`.
    pub(crate) resource: Arc<str>,
    /// Namespace, or empty.
    pub(crate) namespace: String,
    /// Name.
    pub(crate) name: String,
}

/// What a write does.
#[derive(Debug)]
pub(crate) enum Op {
    /// The object as it shall be.
    Put(Value),
    /// Remove it.
    Delete,
}

/// A write, and what it expects to find.
#[derive(Debug)]
pub(crate) struct Write {
    /// Where.
    pub(crate) key: Key,
    /// Resource version of the object that it replaces; `None`: nothing stands there.
    pub(crate) expect: Option<u64>,
    /// What to do.
    pub(crate) op: Op,
}

/// Why a write was not done.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum WriteError {
    /// Something stands where nothing should.
    #[error("the object exists already")]
    Exists,
    /// The object is not there.
    #[error("the object does not exist")]
    Missing,
    /// The object is at another version.
    #[error("the object is at resource version {0}")]
    Version(u64),
    /// The disk refused.
    #[error("{0}")]
    Storage(String),
}

/// How much history a resource keeps for watches and old lists.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// Events per resource.
    pub events: usize,
    /// Bytes of JSON that the events of a resource may hold. What the first change of an object replaced is
    /// kept too, so that it may be twice as much.
    pub bytes: usize,
    /// Age of events.
    pub age: Duration,
}

impl Default for Window {
    fn default() -> Self {
        Window {
            events: 16_384,
            bytes: 32 << 20,
            age: Duration::from_secs(600),
        }
    }
}

struct Resource {
    objects: Objects,
    log: VecDeque<Arc<Event>>,
    log_bytes: usize,
    /// Events up to this version are no longer in the log.
    floor: u64,
    last_rv: u64,
    changed: watch::Sender<u64>,
}

struct State {
    rv: u64,
    resources: HashMap<Arc<str>, Resource>,
    /// Last changes of resources that were known when the store was opened, and the version since which
    /// all of them are known: up to there nothing can be said.
    lasts: HashMap<String, u64>,
    since: u64,
    /// Last write that the collector has to look at: a deletion, or an object with owners.
    collectable: watch::Sender<u64>,
}

impl State {
    fn resource(&mut self, name: &Arc<str>) -> &mut Resource {
        let known = self.lasts.get(&**name).copied();
        let last = known.unwrap_or(0);
        let floor = known.map_or(self.rv, |last| self.since.max(last));
        self.resources.entry(name.clone()).or_insert_with(|| Resource {
            objects: Objects::default(),
            log: VecDeque::new(),
            log_bytes: 0,
            floor,
            last_rv: last,
            changed: watch::channel(0).0,
        })
    }
}

/// One page of a list.
pub(crate) struct Page {
    /// The objects.
    pub(crate) items: Vec<Arc<Stored>>,
    /// The version that the list shows.
    pub(crate) rv: u64,
}

/// A resource's objects at one version.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    /// The objects.
    pub(crate) objects: Objects,
    /// The version.
    pub(crate) rv: u64,
}

/// A resource version that the window no longer covers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TooOld {
    /// Oldest version that is still covered.
    pub(crate) floor: u64,
}

/// Name of the store's file in a data directory.
pub(crate) const STORE_FILE: &str = "store.redb";

/// What a replacement of all objects did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Replaced {
    /// Objects that were made or changed.
    pub(crate) written: usize,
    /// Objects that were removed.
    pub(crate) removed: usize,
    /// Objects that were the same.
    pub(crate) kept: usize,
}

/// Makes a store's file that holds these objects, at this version. All of it comes to be, or nothing.
pub(crate) fn make(path: &Path, objects: Vec<(String, Bytes)>, rv: u64) -> Result<(), String> {
    let new = path.with_extension("new");
    match std::fs::remove_file(&new) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(format!("{} cannot be removed: {e}", new.display()));
        }
        _ => {}
    }
    let (mut disk, _) = disk::Disk::open(&new)?;
    let changes: Vec<_> = objects
        .into_iter()
        .map(|(resource, json)| {
            let stored = Stored::from_json(json)?;
            let path = format!("{resource}/{}", stored.key);
            Ok(disk::Change::Put(path, stored.json))
        })
        .collect::<Result<_, String>>()?;
    disk.commit(&changes, &HashMap::new(), rv)?;
    drop(disk);
    std::fs::rename(&new, path).map_err(|e| format!("{} cannot be made: {e}", path.display()))?;
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::File::open(dir)
        .and_then(|d| d.sync_all())
        .map_err(|e| format!("{} cannot be written: {e}", dir.display()))
}

/// Where the objects are kept.
#[derive(Debug, Clone)]
pub(crate) enum Location {
    /// Nowhere: they end with the process.
    Memory,
    /// In this file.
    File(PathBuf),
}

type Answer = oneshot::Sender<Result<Arc<Stored>, WriteError>>;

enum Job {
    Write(Write, Answer),
    /// Make the objects these, each of a resource.
    Replace(
        Vec<(String, Bytes)>,
        oneshot::Sender<Result<Replaced, WriteError>>,
    ),
    /// Say that the writer works.
    Ping(oneshot::Sender<()>),
    #[cfg(test)]
    Panic,
    /// Close the file, and say so.
    Close(oneshot::Sender<()>),
}

/// The store. Clones share it.
#[derive(Clone)]
pub(crate) struct Store {
    state: Arc<RwLock<State>>,
    jobs: mpsc::Sender<Job>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("rv", &self.rv())
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store and starts its writer.
    pub(crate) fn open(location: &Location, window: Window) -> Result<Self, String> {
        let mut state = State {
            rv: 1,
            resources: HashMap::new(),
            lasts: HashMap::new(),
            since: 1,
            collectable: watch::channel(0).0,
        };
        let disk = match location {
            Location::Memory => None,
            Location::File(path) => {
                let (disk, loaded) = disk::Disk::open(path)?;
                state.rv = loaded.rv.max(1);
                state.since = loaded.since;
                state.lasts = loaded.lasts;
                for (key, json) in loaded.objects {
                    let (resource, _) = key
                        .split_once('/')
                        .ok_or_else(|| format!("the store holds a key of an unknown form: {key}"))?;
                    let stored = Stored::from_json(json)
                        .map_err(|e| format!("the store holds an unreadable object at {key}: {e}"))?;
                    let name: Arc<str> = Arc::from(resource);
                    let slot = state.resource(&name);
                    slot.last_rv = slot.last_rv.max(stored.rv);
                    slot.objects.insert(Arc::new(stored));
                }
                Some(disk)
            }
        };
        let state = Arc::new(RwLock::new(state));
        let (jobs, inbox) = mpsc::channel();
        let writer = writer::Writer::new(state.clone(), disk, window);
        std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run(inbox))
            .map_err(|e| format!("the store's writer thread cannot start: {e}"))?;
        Ok(Store { state, jobs })
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(|e| e.into_inner())
    }

    /// The latest resource version.
    pub(crate) fn rv(&self) -> u64 {
        self.read().rv
    }

    /// The version of the latest change of one resource.
    pub(crate) fn last_change(&self, resource: &str) -> u64 {
        self.read()
            .resources
            .get(resource)
            .map(|r| r.last_rv)
            .unwrap_or(0)
    }

    /// One object.
    pub(crate) fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Stored>> {
        self.read()
            .resources
            .get(resource)?
            .objects
            .get(&object_key(namespace, name))
            .cloned()
    }

    /// A resource's objects as of now.
    pub(crate) fn snapshot(&self, resource: &str) -> Snapshot {
        let state = self.read();
        let objects = state
            .resources
            .get(resource)
            .map(|r| r.objects.clone())
            .unwrap_or_default();
        Snapshot {
            objects,
            rv: state.rv,
        }
    }

    /// How many objects of a resource there are, in one namespace or in all.
    pub(crate) fn count(&self, resource: &str, namespace: &str) -> usize {
        self.snapshot(resource).objects.count_within(namespace, "")
    }

    /// All objects of a resource, of one namespace or of all, as of now.
    pub(crate) fn list(&self, resource: &str, namespace: &str) -> Page {
        let Snapshot { objects, rv } = self.snapshot(resource);
        Page {
            items: objects.within(namespace, "").cloned().collect(),
            rv,
        }
    }

    /// A resource's objects as they stood at `rv`.
    pub(crate) fn snapshot_at(&self, resource: &str, rv: u64) -> Result<Snapshot, TooOld> {
        let (mut objects, undo) = {
            let state = self.read();
            let Some(r) = state.resources.get(resource) else {
                return Ok(Snapshot {
                    objects: Objects::default(),
                    rv,
                });
            };
            if rv < r.floor {
                return Err(TooOld { floor: r.floor });
            }
            let later = r.log.partition_point(|e| e.rv <= rv);
            let undo: Vec<_> = r.log.range(later..).cloned().collect();
            (r.objects.clone(), undo)
        };
        for event in undo.iter().rev() {
            match &event.prev {
                Some(prev) => objects.insert(prev.clone()),
                None => objects.remove(&event.object.key),
            }
        }
        Ok(Snapshot { objects, rv })
    }

    /// Makes sure that a resource has a window, which begins now if it is new.
    pub(crate) fn declare(&self, resource: &Arc<str>) {
        if self.read().resources.contains_key(resource) {
            return;
        }
        self.state
            .write()
            .unwrap_or_else(|e| e.into_inner())
            .resource(resource);
    }

    /// Tells of changes of a resource.
    pub(crate) fn subscribe(&self, resource: &Arc<str>) -> watch::Receiver<u64> {
        self.declare(resource);
        let state = self.read();
        match state.resources.get(resource) {
            Some(r) => r.changed.subscribe(),
            None => watch::channel(0).1,
        }
    }

    /// Tells of deletions, of objects that are being deleted, and of new objects with owners.
    pub(crate) fn collectable(&self) -> watch::Receiver<u64> {
        self.read().collectable.subscribe()
    }

    /// Events of a resource after `rv`, and the version up to which they are complete: at most `max`, and
    /// no more once they hold so many bytes.
    pub(crate) fn events_after(
        &self,
        resource: &str,
        rv: u64,
        max: usize,
        bytes: usize,
    ) -> Result<(Vec<Arc<Event>>, u64), TooOld> {
        let state = self.read();
        let Some(r) = state.resources.get(resource) else {
            return Ok((Vec::new(), state.rv));
        };
        if rv < r.floor {
            return Err(TooOld { floor: r.floor });
        }
        let from = r.log.partition_point(|e| e.rv <= rv);
        let mut events = Vec::new();
        let mut held = 0;
        for event in r.log.range(from..) {
            if events.len() == max || held > bytes {
                let upto = events.last().map_or(rv, |e: &Arc<Event>| e.rv);
                return Ok((events, upto));
            }
            held += event.object.json.len();
            events.push(event.clone());
        }
        Ok((events, state.rv))
    }

    /// Names of the resources that hold objects.
    pub(crate) fn resources(&self) -> Vec<Arc<str>> {
        let state = self.read();
        state
            .resources
            .iter()
            .filter(|(_, r)| !r.objects.is_empty())
            .map(|(k, _)| k.clone())
            .collect()
    }

    /// Carries out a write; when this returns `Ok`, it is on disk.
    pub(crate) async fn write(&self, write: Write) -> Result<Arc<Stored>, WriteError> {
        let (answer, wait) = oneshot::channel();
        let gone = || WriteError::Storage("the store has been shut down".into());
        self.jobs.send(Job::Write(write, answer)).map_err(|_| gone())?;
        wait.await.map_err(|_| gone())?
    }

    /// Everything that there is, at one version.
    pub(crate) fn snapshot_all(&self) -> (u64, Vec<(Arc<str>, Objects)>) {
        let state = self.read();
        let mut all: Vec<_> = state
            .resources
            .iter()
            .map(|(name, r)| (name.clone(), r.objects.clone()))
            .collect();
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        (state.rv, all)
    }

    /// Makes the objects these, as one write: what is the same stays as it is, the rest changes at new
    /// versions.
    pub(crate) async fn replace(&self, objects: Vec<(String, Bytes)>) -> Result<Replaced, WriteError> {
        let (answer, wait) = oneshot::channel();
        let gone = || WriteError::Storage("the store has been shut down".into());
        self.jobs
            .send(Job::Replace(objects, answer))
            .map_err(|_| gone())?;
        wait.await.map_err(|_| gone())?
    }

    /// Whether the writer answers.
    pub(crate) async fn ping(&self, patience: Duration) -> Result<(), String> {
        let (answer, wait) = oneshot::channel();
        let gone = || "the store's writer has ended".to_owned();
        self.jobs.send(Job::Ping(answer)).map_err(|_| gone())?;
        match tokio::time::timeout(patience, wait).await {
            Ok(answer) => answer.map_err(|_| gone()),
            Err(_) => Err(format!(
                "the store's writer has not answered for {} s",
                patience.as_secs_f32()
            )),
        }
    }

    /// Finishes the writes under way and closes the file; later writes fail.
    pub(crate) async fn close(&self) {
        let (answer, wait) = oneshot::channel();
        // Either of these fails if the writer has ended already.
        if self.jobs.send(Job::Close(answer)).is_ok() {
            let _ = wait.await;
        }
    }
}
