//! The one thread that writes.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, RwLock, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;

use super::disk::{self, Disk};
use super::{
    Answer, Change, Event, Job, Key, Op, Replaced, State, Stored, Window, Write, WriteError, object_key,
};

/// Writes that share one sync, at most.
const BATCH: usize = 256;
/// How often history is looked through for what is too old.
const SWEEP: Duration = Duration::from_secs(15);
/// How often a disk that refused a write is tried again while there is nothing to write.
const PROBE: Duration = Duration::from_secs(1);

pub(super) struct Writer {
    state: Arc<RwLock<State>>,
    disk: Option<Disk>,
    window: Window,
    /// Last version given out, also by batches that failed: versions never go back.
    rv: u64,
    /// Keys whose state on disk is unknown since a commit failed; written again with the next batch.
    unsure: BTreeSet<(Arc<str>, String)>,
    swept: Instant,
}

/// Resources with changes that watches have not heard of.
type Touched = BTreeSet<Arc<str>>;

struct Done {
    key: Key,
    event: Event,
}

impl Writer {
    pub(super) fn new(state: Arc<RwLock<State>>, disk: Option<Disk>, window: Window) -> Self {
        let rv = state.read().unwrap_or_else(|e| e.into_inner()).rv;
        Writer {
            state,
            disk,
            window,
            rv,
            unsure: BTreeSet::new(),
            swept: Instant::now(),
        }
    }

    /// Works until the store is closed, or every handle to it is dropped.
    pub(super) fn run(mut self, inbox: mpsc::Receiver<Job>) {
        loop {
            let broken = self.disk.as_ref().is_some_and(Disk::broken);
            let mut next = match inbox.recv_timeout(if broken { PROBE } else { SWEEP }) {
                Ok(job) => Some(job),
                Err(mpsc::RecvTimeoutError::Timeout) => None,
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            };
            if next.is_none() && broken {
                self.probe();
            }
            let mut batch = Vec::new();
            let mut pings = Vec::new();
            let mut replace = None;
            let mut close = None;
            while let Some(job) = next {
                match job {
                    Job::Write(write, answer) => batch.push((write, answer)),
                    Job::Ping(answer) => pings.push(answer),
                    Job::Replace(objects, answer) => {
                        replace = Some((objects, answer));
                        break;
                    }
                    Job::Close(answer) => {
                        close = Some(answer);
                        break;
                    }
                    #[cfg(test)]
                    Job::Panic => panic!("as the test wants it"),
                }
                next = if batch.len() < BATCH {
                    inbox.try_recv().ok()
                } else {
                    None
                };
            }
            self.batch(batch);
            if let Some((objects, answer)) = replace {
                // Whoever asked may have stopped waiting, here and below.
                let _ = answer.send(self.replace(objects));
            }
            for answer in pings {
                let _ = answer.send(());
            }
            if self.swept.elapsed() >= SWEEP.min(self.window.age) {
                self.sweep();
            }
            if let Some(answer) = close {
                self.disk = None;
                drop(inbox);
                let _ = answer.send(());
                return;
            }
        }
    }

    /// Tries whether the disk can be written again, and brings it up to date if so.
    fn probe(&mut self) {
        if let Err(e) = self.persist(&[]) {
            tracing::debug!(error = %e, "the store still cannot be written");
        }
    }

    /// Drops history that is too old, also of resources that nobody writes.
    fn sweep(&mut self) {
        self.swept = Instant::now();
        let mut state = self.state.write().unwrap_or_else(|e| e.into_inner());
        for r in state.resources.values_mut() {
            r.trim(&self.window);
        }
    }

    fn batch(&mut self, jobs: Vec<(Write, Answer)>) {
        let mut done: Vec<(Done, _)> = Vec::new();
        let mut overlay: HashMap<Key, Option<Arc<Stored>>> = HashMap::new();
        for (write, answer) in jobs {
            match self.prepare(write, &mut overlay) {
                Ok(d) => done.push((d, answer)),
                Err(e) => {
                    let _ = answer.send(Err(e));
                }
            }
        }
        if done.is_empty() {
            return;
        }
        let (done, answers): (Vec<_>, Vec<_>) = done.into_iter().unzip();
        match self.commit(done) {
            Ok((objects, touched)) => {
                for (answer, object) in answers.into_iter().zip(objects) {
                    let _ = answer.send(Ok(object));
                }
                self.notify(&touched);
            }
            Err(e) => {
                for answer in answers {
                    let _ = answer.send(Err(WriteError::Storage(e.clone())));
                }
            }
        }
    }

    /// Writes changes down, and then shows them. The resources returned have to be told of.
    fn commit(&mut self, done: Vec<Done>) -> Result<(Vec<Arc<Stored>>, Touched), String> {
        if let Err(e) = self.persist(&done) {
            tracing::debug!(error = %e, writes = done.len(), "a batch of writes was refused by the disk");
            for d in done {
                let key = d.event.object.key.to_string();
                self.unsure.insert((d.key.resource, key));
            }
            return Err(e);
        }
        let objects = done.iter().map(|d| d.event.object.clone()).collect();
        let touched = done.iter().map(|d| d.key.resource.clone()).collect();
        let mut state = self.state.write().unwrap_or_else(|e| e.into_inner());
        for d in done {
            apply(&mut state, &self.window, d);
        }
        Ok((objects, touched))
    }

    /// Wakes the watches of these resources: after whoever wrote has their answer, since there may be
    /// thousands of them.
    fn notify(&self, touched: &Touched) {
        let state = self.state.read().unwrap_or_else(|e| e.into_inner());
        for r in touched.iter().filter_map(|name| state.resources.get(name)) {
            r.changed.send_replace(r.last_rv);
        }
    }

    fn replace(&mut self, objects: Vec<(String, Bytes)>) -> Result<Replaced, WriteError> {
        let mut wanted: HashMap<Key, Value> = HashMap::new();
        for (resource, json) in objects {
            let stored = Stored::from_json(json).map_err(WriteError::Storage)?;
            let value = stored.value();
            let key = Key {
                resource: resource.into(),
                namespace: stored.namespace,
                name: stored.name,
            };
            if let Some(twice) = wanted.insert(key, value) {
                let why = format!("an object is there twice: {}", twice["metadata"]["name"]);
                return Err(WriteError::Storage(why));
            }
        }
        let mut present = Vec::new();
        {
            let state = self.state.read().unwrap_or_else(|e| e.into_inner());
            for (resource, r) in &state.resources {
                present.extend(r.objects.from("").map(|o| (resource.clone(), o.clone())));
            }
        }
        let mut replaced = Replaced::default();
        let mut writes = Vec::new();
        for (resource, object) in present {
            let key = Key {
                resource,
                namespace: object.namespace.clone(),
                name: object.name.clone(),
            };
            let op = match wanted.remove(&key) {
                None => {
                    replaced.removed += 1;
                    Op::Delete
                }
                Some(value) if same(&value, &object.value()) => {
                    replaced.kept += 1;
                    continue;
                }
                Some(value) => {
                    replaced.written += 1;
                    Op::Put(value)
                }
            };
            writes.push(Write {
                key,
                expect: Some(object.rv),
                op,
            });
        }
        // In the order of their keys: a namespace's objects come together, and every time alike.
        let mut new: Vec<(Key, Value)> = wanted.into_iter().collect();
        new.sort_by(|(a, _), (b, _)| {
            (&a.resource, &a.namespace, &a.name).cmp(&(&b.resource, &b.namespace, &b.name))
        });
        replaced.written += new.len();
        writes.extend(new.into_iter().map(|(key, value)| Write {
            key,
            expect: None,
            op: Op::Put(value),
        }));
        let mut overlay = HashMap::new();
        let done = writes
            .into_iter()
            .map(|write| self.prepare(write, &mut overlay))
            .collect::<Result<Vec<_>, _>>()?;
        if !done.is_empty() {
            let (_, touched) = self.commit(done).map_err(WriteError::Storage)?;
            self.notify(&touched);
        }
        Ok(replaced)
    }

    fn prepare(
        &mut self,
        write: Write,
        overlay: &mut HashMap<Key, Option<Arc<Stored>>>,
    ) -> Result<Done, WriteError> {
        let Write { key, expect, op } = write;
        let current = match overlay.get(&key) {
            Some(found) => found.clone(),
            None => {
                let state = self.state.read().unwrap_or_else(|e| e.into_inner());
                state
                    .resources
                    .get(&key.resource)
                    .and_then(|r| r.objects.get(&object_key(&key.namespace, &key.name)))
                    .cloned()
            }
        };
        match (expect, &current) {
            (None, Some(_)) => return Err(WriteError::Exists),
            (Some(_), None) => return Err(WriteError::Missing),
            (Some(rv), Some(found)) if found.rv != rv => return Err(WriteError::Version(found.rv)),
            _ => {}
        }
        let rv = self.rv + 1;
        let (change, object) = match op {
            Op::Put(value) => {
                let change = if current.is_some() {
                    Change::Modified
                } else {
                    Change::Added
                };
                (change, Stored::from_value(value, rv))
            }
            Op::Delete => match &current {
                Some(found) => (Change::Deleted, Stored::from_value(found.value(), rv)),
                None => return Err(WriteError::Missing),
            },
        };
        let object = Arc::new(object.map_err(WriteError::Storage)?);
        if *object.key != *object_key(&key.namespace, &key.name) {
            let why = format!("the object at {} calls itself {}", key.name, object.key);
            return Err(WriteError::Storage(why));
        }
        self.rv = rv;
        overlay.insert(key.clone(), (change != Change::Deleted).then(|| object.clone()));
        Ok(Done {
            key,
            event: Event {
                rv,
                change,
                object,
                prev: current,
                at: Instant::now(),
            },
        })
    }

    fn persist(&mut self, done: &[Done]) -> Result<(), String> {
        let Some(disk) = &mut self.disk else { return Ok(()) };
        let mut changes = Vec::with_capacity(done.len() + self.unsure.len());
        let mut lasts: HashMap<&str, u64> = HashMap::new();
        if !self.unsure.is_empty() {
            let state = self.state.read().unwrap_or_else(|e| e.into_inner());
            for (resource, key) in &self.unsure {
                let path = format!("{resource}/{key}");
                let known = state.resources.get(resource).and_then(|r| r.objects.get(key));
                changes.push(match known {
                    Some(object) => disk::Change::Put(path, object.json.clone()),
                    None => disk::Change::Remove(path),
                });
            }
        }
        for d in done {
            let path = format!("{}/{}", d.key.resource, d.event.object.key);
            changes.push(match d.event.change {
                Change::Deleted => disk::Change::Remove(path),
                _ => disk::Change::Put(path, d.event.object.json.clone()),
            });
            lasts.insert(&d.key.resource, d.event.rv);
        }
        disk.commit(&changes, &lasts, self.rv)?;
        self.unsure.clear();
        Ok(())
    }
}

/// Whether two states of an object differ in their versions at most.
fn same(a: &Value, b: &Value) -> bool {
    let without = |v: &Value| {
        let mut v = v.clone();
        if let Some(meta) = v.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.remove("resourceVersion");
        }
        v
    };
    without(a) == without(b)
}

impl super::Resource {
    /// Forgets history beyond the window.
    fn trim(&mut self, window: &Window) {
        let now = Instant::now();
        while let Some(first) = self.log.front() {
            let many = self.log.len() > window.events;
            let much = self.log_bytes > window.bytes && self.log.len() > 1;
            if !many && !much && now.duration_since(first.at) <= window.age {
                return;
            }
            if let Some(old) = self.log.pop_front() {
                self.log_bytes -= old.object.json.len();
                self.floor = old.rv;
            }
        }
    }
}

fn apply(state: &mut State, window: &Window, done: Done) {
    let Done { key, event } = done;
    let rv = event.rv;
    let owners_changed = !event.object.owners.is_empty()
        && event
            .prev
            .as_ref()
            .is_none_or(|p| p.owners != event.object.owners);
    if event.change == Change::Deleted || event.object.deleting || owners_changed {
        state.collectable.send_replace(rv);
    }
    let r = state.resource(&key.resource);
    if event.change == Change::Deleted {
        r.objects.remove(&event.object.key);
    } else {
        r.objects.insert(event.object.clone());
    }
    r.log_bytes += event.object.json.len();
    r.log.push_back(Arc::new(event));
    r.trim(window);
    r.last_rv = rv;
    state.rv = rv;
}
