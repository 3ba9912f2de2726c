//! Streams of HTTP/2 whose peer has to take what is sent. A socket that is read tells nothing of a stream whose
//! window stays shut: its answer would wait in memory, and hold its place, for as long as the client likes.
//!
//! hyper asks an answer's body for more once it has passed on what it got before. So a body that has given
//! something and is not asked again is one that waits, and its stream is reset when it has waited for too long.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// What is given at a time: so much has to be taken in the time that a client has.
pub(crate) const PIECE: usize = 64 << 10;

tokio::task_local! {
    static PIPE: Arc<Pipe>;
}

/// The way of an answer into its stream.
#[derive(Debug, Default)]
pub(crate) struct Pipe {
    given: Mutex<Option<Instant>>,
}

impl Pipe {
    /// That of the stream whose request is served here, if it is one of HTTP/2.
    pub(crate) fn current() -> Option<Arc<Pipe>> {
        PIPE.try_with(Arc::clone).ok()
    }

    /// Notes that the body was asked, and whether it gave something.
    pub(crate) fn asked(&self, gave: bool) {
        *self.given.lock().unwrap_or_else(|e| e.into_inner()) = gave.then(Instant::now);
    }

    fn since(&self) -> Option<Instant> {
        *self.given.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Runs the streams of a connection, and drops those that stall, which resets them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Streams {
    /// How long a stream may take nothing.
    pub(crate) patience: Duration,
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let pipe = Arc::new(Pipe::default());
        tokio::spawn(PIPE.scope(pipe.clone(), run(stream, pipe, self.patience)));
    }
}

async fn run(stream: impl Future<Output = ()>, pipe: Arc<Pipe>, patience: Duration) {
    let mut stream = pin!(stream);
    let mut alarm = pin!(sleep_until(Instant::now() + patience));
    poll_fn(|cx| {
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let Some(since) = pipe.since() else {
            return Poll::Pending;
        };
        if alarm.deadline() != since + patience {
            alarm.as_mut().reset(since + patience);
        }
        alarm
            .as_mut()
            .poll(cx)
            .map(|()| tracing::debug!("a client does not take what is sent on a stream, which is reset"))
    })
    .await;
}
