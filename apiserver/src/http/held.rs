//! What a request holds until its answer is sent: its place, and its entry in the audit log.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use crate::audit::{Entry, Log};
use crate::limits::Place;
use crate::stall::{PIECE, Pipe};

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

/// A body that holds them until it is sent. On a stream of HTTP/2 it is given in pieces, and each has its time.
pub(super) struct Holding {
    body: Body,
    rest: Bytes,
    pipe: Option<Arc<Pipe>>,
    _held: Held,
}

impl Holding {
    /// This body, and what is held for it.
    pub(super) fn body(body: Body, held: Held) -> Body {
        Body::new(Holding {
            body,
            rest: Bytes::new(),
            pipe: Pipe::current(),
            _held: held,
        })
    }

    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.pipe.is_none() {
            return Pin::new(&mut self.body).poll_frame(cx);
        }
        if self.rest.is_empty() {
            let frame = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => frame,
                other => return other,
            };
            match frame.into_data() {
                Ok(data) => self.rest = data,
                Err(frame) => return Poll::Ready(Some(Ok(frame))),
            }
        }
        let piece = self.rest.split_to(self.rest.len().min(PIECE));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

impl http_body::Body for Holding {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let next = self.next(cx);
        if let Some(pipe) = &self.pipe {
            pipe.asked(matches!(next, Poll::Ready(Some(Ok(_)))));
        }
        next
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let mut hint = self.body.size_hint();
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint.set_lower(hint.lower().saturating_add(rest));
        hint
    }
}
