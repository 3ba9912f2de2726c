//! The one thread that writes.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, RwLock, mpsc};

use super::disk::{self, Disk};
use super::{Answer, Change, Event, Job, Key, Op, State, Stored, Window, Write, WriteError, object_key};

/// Writes that share one sync, at most.
const BATCH: usize = 256;

pub(super) struct Writer {
    state: Arc<RwLock<State>>,
    disk: Option<Disk>,
    window: Window,
    /// Last version given out, also by batches that failed: versions never go back.
    rv: u64,
    /// Keys whose state on disk is unknown since a commit failed; written again with the next batch.
    unsure: BTreeSet<(Arc<str>, String)>,
}

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
        }
    }

    /// Works until the store is closed, or every handle to it is dropped.
    pub(super) fn run(mut self, inbox: mpsc::Receiver<Job>) {
        while let Ok(first) = inbox.recv() {
            let mut batch = Vec::new();
            let mut close = None;
            let mut next = Some(first);
            while let Some(job) = next {
                match job {
                    Job::Write(write, answer) => batch.push((write, answer)),
                    Job::Close(answer) => {
                        close = Some(answer);
                        break;
                    }
                }
                next = if batch.len() < BATCH {
                    inbox.try_recv().ok()
                } else {
                    None
                };
            }
            self.batch(batch);
            if let Some(answer) = close {
                self.disk = None;
                drop(inbox);
                let _ = answer.send(());
                return;
            }
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
        if let Err(e) = self.persist(&done) {
            tracing::error!(error = %e, writes = done.len(), "a batch of writes was refused by the disk");
            for (d, answer) in done {
                self.unsure
                    .insert((d.key.resource.clone(), object_key(&d.key.namespace, &d.key.name)));
                let _ = answer.send(Err(WriteError::Storage(e.clone())));
            }
            return;
        }
        let mut answers = Vec::with_capacity(done.len());
        {
            let mut state = self.state.write().unwrap_or_else(|e| e.into_inner());
            for (d, answer) in done {
                let object = d.event.object.clone();
                apply(&mut state, &self.window, d);
                answers.push((answer, object));
            }
        }
        for (answer, object) in answers {
            let _ = answer.send(Ok(object));
        }
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
        self.rv = rv;
        overlay.insert(key.clone(), (change != Change::Deleted).then(|| object.clone()));
        Ok(Done {
            key,
            event: Event {
                rv,
                change,
                object,
                prev: current,
            },
        })
    }

    fn persist(&mut self, done: &[(Done, Answer)]) -> Result<(), String> {
        let Some(disk) = &mut self.disk else { return Ok(()) };
        let mut changes = Vec::with_capacity(done.len() + self.unsure.len());
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
        for (d, _) in done {
            let path = format!("{}/{}", d.key.resource, object_key(&d.key.namespace, &d.key.name));
            changes.push(match d.event.change {
                Change::Deleted => disk::Change::Remove(path),
                _ => disk::Change::Put(path, d.event.object.json.clone()),
            });
        }
        disk.commit(&changes, self.rv)?;
        self.unsure.clear();
        Ok(())
    }
}

fn apply(state: &mut State, window: &Window, done: Done) {
    let Done { key, event } = done;
    let rv = event.rv;
    let object_key = object_key(&key.namespace, &key.name);
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
        r.objects.remove(&object_key);
    } else {
        r.objects.insert(object_key, event.object.clone());
    }
    r.log_bytes += event.object.json.len();
    r.log.push_back(Arc::new(event));
    while r.log.len() > window.events || (r.log_bytes > window.bytes && r.log.len() > 1) {
        if let Some(old) = r.log.pop_front() {
            r.log_bytes -= old.object.json.len();
            r.floor = old.rv;
        }
    }
    r.last_rv = rv;
    state.rv = rv;
    if let Some(r) = state.resources.get(&key.resource) {
        r.changed.send_replace(rv);
    }
}
