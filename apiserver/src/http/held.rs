//! What a request holds until its answer is sent: its place, and its entry in the audit log.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::audit::{Entry, Log};
use crate::limits::Place;

/// An entry in the audit log, which is written when it is dropped: also that of a request whose client has
/// gone away meanwhile.
#[derive(Debug, Default)]
pub(super) struct Noted(Option<(Log, Entry)>);

impl Noted {
    /// An entry, if there is a log.
    pub(super) fn new(log: Option<&Log>, entry: impl FnOnce() -> Entry) -> Self {
        Noted(log.map(|log| (log.clone(), entry())))
    }

    /// Adds to the entry.
    pub(super) fn with(&mut self, change: impl FnOnce(&mut Entry)) {
        if let Some((_, entry)) = &mut self.0 {
            change(entry);
        }
    }

    /// Notes that the answer begins, of one that takes long.
    pub(super) fn started(&self) {
        if let Some((log, entry)) = &self.0 {
            log.note(entry, "ResponseStarted");
        }
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        if let Some((log, entry)) = &self.0 {
            let stage = if std::thread::panicking() {
                "Panic"
            } else {
                "ResponseComplete"
            };
            log.note(entry, stage);
        }
    }
}

/// A place and an entry. Their order is that in which they are dropped.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Where the request was let in.
    pub(super) place: Option<Place<String>>,
    /// Its entry.
    pub(super) noted: Noted,
}

/// A body that holds them until it is sent.
pub(super) struct Holding {
    body: Body,
    _held: Held,
}

impl Holding {
    /// This body, and what is held for it.
    pub(super) fn body(body: Body, held: Held) -> Body {
        Body::new(Holding { body, _held: held })
    }
}

impl http_body::Body for Holding {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
