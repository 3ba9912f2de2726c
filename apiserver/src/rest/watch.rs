//! Watches: a stream of events, read from the store's window at the client's own pace.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, Stream};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::list::{ListOptions, select};
use super::shared::Form;
use crate::api::{Api, ended};
use crate::auth::User;
use crate::auth::rbac::Attributes;
use crate::catalog::Resource;
use crate::http::negotiate::View;
use crate::status::{ApiError, ApiResult};
use crate::store::{Change, Event, Snapshot, Stored};
use crate::table;

/// Events sent in one go.
const CHUNK: usize = 128;
/// Objects looked at in one go, for those that are asked for.
const SCAN: usize = 4096;
/// Bytes sent in one go, but for one object that is larger.
const CHUNK_BYTES: usize = 64 << 10;
/// So long before its end a watch hears of the latest version once more.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);
/// How often a quiet watch hears of the latest version.
const BOOKMARKS: Duration = Duration::from_secs(60);
/// How long a watch lasts that names no time, at least; as much again is spread at random by clients.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);
/// No watch lasts longer, whatever it names.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Who watches; looked at again when rights change.
#[derive(Clone)]
pub(crate) struct Watcher {
    /// The user.
    pub(crate) user: User,
    /// The token, to check again.
    pub(crate) token: Option<String>,
    /// What was asked.
    pub(crate) attributes: Attributes,
}

struct Session {
    api: Arc<Api>,
    resource: Arc<Resource>,
    namespace: String,
    options: ListOptions,
    view: View,
    watcher: Watcher,
    cursor: u64,
    changed: watch::Receiver<u64>,
    rights: watch::Receiver<u64>,
    shutdown: watch::Receiver<bool>,
    deadline: Instant,
    bookmark: Instant,
    /// What is left to send of what there was at the start.
    initial: Option<Initial>,
    /// Send the bookmark that ends the initial events.
    announce: bool,
    columns_sent: bool,
    /// Why there is nothing to watch: the only thing that is told.
    refusal: Option<Box<ApiError>>,
    over: bool,
}

/// The state that a watch begins with.
struct Initial {
    /// Gone, if the client takes too long to read it.
    snapshot: Weak<Snapshot>,
    /// Key of the next object.
    next: String,
}

/// Starts a watch. The stream yields lines of JSON.
pub(crate) fn watch(
    api: &Arc<Api>,
    resource: &Arc<Resource>,
    namespace: &str,
    options: ListOptions,
    view: View,
    watcher: Watcher,
) -> ApiResult<impl Stream<Item = Result<Bytes, std::convert::Infallible>> + Send + 'static> {
    let changed = api.store.subscribe(&resource.storage);
    let asked = options.version().map_err(ApiError::unexplained)?;
    let now = api.store.rv();
    let initial = match options.initial {
        Some(flag) => flag,
        None => asked.unwrap_or(0) == 0,
    };
    // A state that is not there yet cannot be told; changes after it can, once they happen.
    let refusal = asked
        .filter(|rv| initial && *rv > now)
        .map(|rv| ApiError::future_version(rv, now));
    let (initial, cursor) = if initial {
        let snapshot = api.initials.share(&resource.storage, &api.store);
        let state = Initial {
            snapshot: Arc::downgrade(&snapshot),
            next: String::new(),
        };
        (Some(state), snapshot.rv)
    } else {
        (None, asked.filter(|rv| *rv > 0).unwrap_or(now))
    };
    let announce = initial.is_some() && options.bookmarks;
    let timeout = match options.timeout {
        None | Some(0) => DEFAULT_TIMEOUT,
        Some(s) => Duration::from_secs(u64::try_from(s).unwrap_or(0)).min(LONGEST),
    };
    // A watch does not outlive the token that it was opened with.
    let left = watcher.token.as_ref().and_then(|t| api.token_lifetime(t));
    let timeout = left.map_or(timeout, |left| timeout.min(left));
    let started = Instant::now();
    let session = Session {
        changed,
        rights: api.rights.subscribe(),
        shutdown: api.shutdown.subscribe(),
        api: api.clone(),
        resource: resource.clone(),
        namespace: namespace.to_owned(),
        options,
        view,
        watcher,
        cursor,
        deadline: started + timeout,
        bookmark: next_bookmark(started, started + timeout),
        initial,
        announce,
        columns_sent: false,
        refusal,
        over: false,
    };
    Ok(stream::unfold(session, |mut s| async move {
        let chunk = s.next().await?;
        Some((Ok(Bytes::from(chunk)), s))
    }))
}

/// When the next bookmark is due.
fn next_bookmark(now: Instant, deadline: Instant) -> Instant {
    let regular = now + BOOKMARKS;
    match deadline.checked_sub(LAST_BOOKMARK) {
        Some(last) if last > now => regular.min(last),
        _ => regular,
    }
}

impl Session {
    async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if self.over {
                return None;
            }
            let mut out = Vec::new();
            if let Some(refusal) = &self.refusal {
                self.over = true;
                line("ERROR", &refusal.to_value().to_string(), &mut out);
                return Some(out);
            }
            if let Some(initial) = self.initial.take() {
                match initial.snapshot.upgrade() {
                    Some(snapshot) => self.begin(initial, &snapshot, &mut out),
                    None => return Some(self.too_old("the first state was not read in time".into())),
                }
                if self.initial.is_some() {
                    if self.lost_rights() {
                        return None;
                    }
                    if out.is_empty() {
                        // Nothing of much was asked for: let others work too.
                        tokio::task::yield_now().await;
                        continue;
                    }
                    return Some(out);
                }
            }
            if self.announce {
                self.announce = false;
                self.emit_bookmark(true, &mut out);
            }
            match self
                .api
                .store
                .events_after(&self.resource.storage, self.cursor, CHUNK, CHUNK_BYTES)
            {
                Err(too_old) => {
                    let why = format!("{} ({})", self.cursor, too_old.floor);
                    out.extend(self.too_old(why));
                    return Some(out);
                }
                Ok((events, upto)) => {
                    // Looked at after the events were read: rights that ended before an event are seen.
                    if self.lost_rights() {
                        return (!out.is_empty()).then_some(out);
                    }
                    for event in &events {
                        self.transition(event, &mut out);
                    }
                    self.cursor = self.cursor.max(upto);
                }
            }
            if !out.is_empty() {
                return Some(out);
            }
            if let Some(out) = self.wait().await {
                return Some(out);
            }
        }
    }

    /// Ends the watch: the client has to list again.
    fn too_old(&mut self, why: String) -> Vec<u8> {
        self.over = true;
        let status = ApiError::expired(format!("too old resource version: {why}")).to_value();
        let mut out = Vec::new();
        line("ERROR", &status.to_string(), &mut out);
        out
    }

    /// Sends a piece of the first state.
    fn begin(&mut self, mut initial: Initial, snapshot: &Snapshot, out: &mut Vec<u8>) {
        for (n, object) in snapshot
            .objects
            .within(&self.namespace, &initial.next)
            .enumerate()
        {
            if out.len() > CHUNK_BYTES || n == SCAN {
                initial.next = object.key.to_string();
                self.initial = Some(initial);
                return;
            }
            if select(object, &self.options) {
                self.emit("ADDED", object, None, out);
            }
        }
    }

    /// Waits for something to do; returns a bookmark if that is what there is to send.
    async fn wait(&mut self) -> Option<Vec<u8>> {
        tokio::select! {
            changed = self.changed.changed() => {
                if changed.is_err() {
                    self.over = true;
                }
            }
            changed = self.rights.changed() => {
                // Whoever has lost the right to watch hears no more.
                if changed.is_err() || !self.still_allowed() {
                    self.over = true;
                }
            }
            () = ended(&mut self.shutdown) => self.over = true,
            () = tokio::time::sleep_until(self.deadline) => self.over = true,
            () = tokio::time::sleep_until(self.bookmark), if self.options.bookmarks => {
                self.bookmark = next_bookmark(Instant::now(), self.deadline);
                if self.cursor <= self.api.store.rv() {
                    let mut out = Vec::new();
                    self.emit_bookmark(false, &mut out);
                    return Some(out);
                }
            }
        }
        None
    }

    /// Ends the watch of somebody who may watch no more.
    fn lost_rights(&mut self) -> bool {
        if self.rights.has_changed().unwrap_or(true) {
            self.rights.mark_unchanged();
            self.over |= !self.still_allowed();
        }
        self.over
    }

    fn still_allowed(&self) -> bool {
        let user = match &self.watcher.token {
            Some(token) => match self.api.authenticate(token) {
                Some(user) => user,
                None => return false,
            },
            None => self.watcher.user.clone(),
        };
        // A definition that is gone takes its watches with it.
        let r = &self.resource;
        self.api
            .catalogs
            .current()
            .find(&r.group, &r.version, &r.plural)
            .is_some()
            && self.api.rbac.allows(&user, &self.watcher.attributes)
    }

    fn transition(&mut self, event: &Event, out: &mut Vec<u8>) {
        if !self.namespace.is_empty() && event.object.namespace != self.namespace {
            return;
        }
        let before = event.prev.as_ref().is_some_and(|p| select(p, &self.options));
        let after = event.change != Change::Deleted && select(&event.object, &self.options);
        match (before, after) {
            (false, true) => self.emit("ADDED", &event.object, None, out),
            (true, true) => self.emit("MODIFIED", &event.object, None, out),
            // What was deleted stands in the store at the version of its deletion.
            (true, false) if event.change == Change::Deleted => {
                self.emit("DELETED", &event.object, None, out);
            }
            (true, false) => {
                // The last state that matched, at the version of the change.
                let last = event.prev.as_ref().unwrap_or(&event.object);
                self.emit("DELETED", &last.clone(), Some(event.rv), out);
            }
            (false, false) => {}
        }
    }

    fn emit(&mut self, kind: &'static str, object: &Arc<Stored>, rv: Option<u64>, out: &mut Vec<u8>) {
        if self.view == View::Plain && rv.is_none() && self.resource.verbatim(object) {
            out.extend_from_slice(b"{\"type\":\"");
            out.extend_from_slice(kind.as_bytes());
            out.extend_from_slice(b"\",\"object\":");
            out.extend_from_slice(&object.json);
            out.extend_from_slice(b"}\n");
            return;
        }
        let form = Form {
            rv: (object.rv, rv.unwrap_or(object.rv)),
            kind,
            resource: self.resource.clone(),
            view: self.view.clone(),
            columns: !self.columns_sent,
        };
        self.columns_sent = matches!(self.view, View::Table(_));
        let made = self.api.lines.get(form.clone(), || form.line(object));
        out.extend_from_slice(&made);
    }

    fn emit_bookmark(&mut self, initial: bool, out: &mut Vec<u8>) {
        let mut metadata = json!({"resourceVersion": self.cursor.to_string()});
        if initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match &self.view {
            View::Plain => {
                let mut o = json!({"kind": self.resource.kind, "apiVersion": self.resource.api_version(), "metadata": metadata});
                if !self.resource.custom() {
                    o["metadata"]["creationTimestamp"] = Value::Null;
                }
                o
            }
            View::Partial => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            View::Table(_) => {
                let partial = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata});
                json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1",
                    "metadata": {"resourceVersion": self.cursor.to_string()}, "columnDefinitions": null,
                    "rows": [{"cells": [], "object": partial}]})
            }
        };
        line("BOOKMARK", &object.to_string(), out);
    }
}

impl Form {
    /// Makes the event's line.
    fn line(&self, object: &Stored) -> Vec<u8> {
        let mut value = self.resource.decode(object);
        if self.rv.0 != self.rv.1 {
            super::meta::of(&mut value).insert("resourceVersion".into(), self.rv.1.to_string().into());
        }
        let shown = match &self.view {
            View::Plain => value,
            View::Partial => table::partial(&value),
            View::Table(include) => {
                let rv = self.rv.1.to_string();
                let mut t = table::table(&self.resource, &[value], *include, &rv, "", None);
                if !self.columns {
                    t["columnDefinitions"] = Value::Null;
                }
                t
            }
        };
        let mut out = Vec::new();
        line(self.kind, &shown.to_string(), &mut out);
        out
    }
}

fn line(kind: &str, object: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n").as_bytes());
}
