//! What watches share, so that a thousand of them cost little more than one: the states that they begin
//! with, and events in forms other than the stored one. Both are bounded.

use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::catalog::Resource;
use crate::http::negotiate::View;
use crate::store::{Snapshot, Store};

/// How long a watch may take to read the state that it begins with.
pub(crate) const FIRST_STATE: Duration = Duration::from_secs(60);
/// Bytes of events that are kept in the forms of watches.
const KEPT: usize = 16 << 20;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

#[derive(Debug)]
struct Initial {
    resource: Arc<str>,
    state: Arc<Snapshot>,
    until: Instant,
}

/// The states that watches begin with. Watches hold them weakly, so that one that does not read holds no
/// memory: they are kept here, for a while.
#[derive(Debug, Default)]
pub(crate) struct Initials {
    states: Mutex<Vec<Initial>>,
}

impl Initials {
    /// The present state of a resource.
    pub(crate) fn share(&self, resource: &Arc<str>, store: &Store) -> Arc<Snapshot> {
        let now = store.snapshot(resource);
        let mut states = lock(&self.states);
        let until = Instant::now() + FIRST_STATE;
        let same = |i: &&mut Initial| i.resource == *resource && i.state.rv == now.rv;
        if let Some(found) = states.iter_mut().find(same) {
            found.until = until;
            return found.state.clone();
        }
        let state = Arc::new(now);
        states.push(Initial {
            resource: resource.clone(),
            state: state.clone(),
            until,
        });
        state
    }

    /// Forgets what has been kept for long enough.
    pub(crate) fn prune(&self) {
        let now = Instant::now();
        let old: Vec<_> = {
            let mut states = lock(&self.states);
            let (keep, old) = states.drain(..).partition(|i| i.until > now);
            *states = keep;
            old
        };
        // Freed without the lock.
        drop(old);
    }
}

/// Which event in which form.
#[derive(Debug, Clone)]
pub(crate) struct Form {
    /// The object's version, which no other object has, and the version that it is shown with.
    pub(crate) rv: (u64, u64),
    /// `ADDED`, …
    pub(crate) kind: &'static str,
    /// The resource in the version asked for.
    pub(crate) resource: Arc<Resource>,
    /// The form.
    pub(crate) view: View,
    /// Whether a table comes with its columns.
    pub(crate) columns: bool,
}

impl Form {
    fn key(&self) -> (u64, u64, &'static str, usize, &View, bool) {
        // The form holds the resource, so that its address stands for nothing else.
        let resource = Arc::as_ptr(&self.resource).addr();
        (
            self.rv.0,
            self.rv.1,
            self.kind,
            resource,
            &self.view,
            self.columns,
        )
    }
}

impl PartialEq for Form {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Form {}

impl Hash for Form {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.rv, self.kind, self.columns).hash(state);
    }
}

#[derive(Debug, Default)]
struct Kept {
    lines: HashMap<Form, Bytes>,
    order: VecDeque<Form>,
    bytes: usize,
}

/// Events as watches send them, made once for all that want them so.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    kept: Mutex<Kept>,
}

impl Lines {
    /// The event's line; `make` makes it, if nobody has.
    pub(crate) fn get(&self, form: Form, make: impl FnOnce() -> Vec<u8>) -> Bytes {
        if let Some(line) = lock(&self.kept).lines.get(&form) {
            return line.clone();
        }
        let line = Bytes::from(make());
        let mut kept = lock(&self.kept);
        kept.bytes += line.len();
        if let Some(other) = kept.lines.insert(form.clone(), line.clone()) {
            kept.bytes -= other.len();
        } else {
            kept.order.push_back(form);
        }
        while kept.bytes > KEPT {
            let Some(oldest) = kept.order.pop_front() else {
                break;
            };
            if let Some(gone) = kept.lines.remove(&oldest) {
                kept.bytes -= gone.len();
            }
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use futures::StreamExt;
    use http::{Request, StatusCode};
    use serde_json::{Value, json};
    use tower::ServiceExt;

    use super::lock;
    use crate::{Config, Server};

    const MAPS: &str = "/api/v1/namespaces/default/configmaps";

    /// Names of the objects in these lines, and the last line.
    fn read(text: &[u8]) -> (Vec<String>, Value) {
        let lines: Vec<Value> = text
            .split(|b| *b == b'\n')
            .filter(|l| !l.is_empty())
            .map(|l| serde_json::from_slice(l).unwrap())
            .collect();
        let name = |e: &Value| Some(e.pointer("/object/metadata/name")?.as_str()?.to_owned());
        (
            lines.iter().filter_map(name).collect(),
            lines.last().unwrap().clone(),
        )
    }

    #[tokio::test]
    async fn a_first_state_is_not_kept_for_whoever_does_not_read_it() {
        let server = Server::start(Config::in_memory()).await.unwrap();
        let fill = "x".repeat(4 << 10);
        for n in 0..100 {
            let body = json!({"metadata": {"name": format!("m{n:02}")}, "data": {"a": fill}}).to_string();
            let request = Request::post(MAPS)
                .header("content-type", "application/json")
                .body(Body::from(body))
                .unwrap();
            let made = server.admin_service().oneshot(request).await.unwrap();
            assert_eq!(made.status(), StatusCode::CREATED);
        }
        let watch = async || {
            let path = format!("{MAPS}?watch=1&resourceVersion=0&timeoutSeconds=1");
            let request = Request::get(path).body(Body::empty()).unwrap();
            let response = server.admin_service().oneshot(request).await.unwrap();
            response.into_body().into_data_stream()
        };
        let rest = async |mut pieces: axum::body::BodyDataStream| {
            let mut text = Vec::new();
            while let Some(piece) = pieces.next().await {
                text.extend_from_slice(&piece.unwrap());
            }
            text
        };
        let (mut slow, quick) = (watch().await, watch().await);
        let initials = &server.api_for_tests().initials;
        assert_eq!(lock(&initials.states).len(), 1, "both share one state");
        let (begun, _) = read(&slow.next().await.unwrap().unwrap());
        assert!((1..50).contains(&begun.len()), "a piece: {}", begun.len());
        let (all, last) = read(&rest(quick).await);
        assert_eq!((all.len(), &last["type"]), (100, &json!("ADDED")));
        initials.prune();
        assert_eq!(lock(&initials.states).len(), 1, "its time is not over");
        // As after a minute.
        lock(&initials.states).clear();
        let (more, last) = read(&rest(slow).await);
        assert!(more.is_empty(), "{more:?}");
        assert_eq!(
            (&last["type"], &last["object"]["code"], &last["object"]["reason"]),
            (&json!("ERROR"), &json!(410), &json!("Expired"))
        );
        server.shutdown().await;
    }
}
