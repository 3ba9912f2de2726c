//! Kubernetes Events for what goes wrong, beside the work and never in its way.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use strait_api::Condition;
use strait_daemon::Shutdown;
use tokio::sync::mpsc;

/// Events that may wait to be sent; more are dropped, as conditions say the same.
const QUEUE: usize = 256;

/// Sends Events.
#[derive(Debug, Clone)]
pub(super) struct Events(mpsc::Sender<(Event, ObjectReference)>);

impl Events {
    pub(super) fn new(client: Client, shutdown: Shutdown) -> Self {
        let (sender, mut queue) = mpsc::channel::<(Event, ObjectReference)>(QUEUE);
        tokio::spawn(async move {
            let recorder = Recorder::new(
                client,
                Reporter {
                    controller: "strait-agent".into(),
                    instance: None,
                },
            );
            loop {
                let next = tokio::select! {
                    next = queue.recv() => next,
                    () = shutdown.wait() => return,
                };
                let Some((event, object)) = next else { return };
                if let Err(e) = recorder.publish(&event, &object).await {
                    tracing::debug!(error = %e, reason = event.reason, "Event not written");
                }
            }
        });
        Self(sender)
    }

    /// Says on an object that something is wrong with it.
    pub(super) fn warn(&self, object: ObjectReference, reason: &str, note: &str) {
        let event = Event {
            type_: EventType::Warning,
            reason: reason.to_owned(),
            // The API takes 1 kB.
            note: Some(note.chars().take(1_000).collect()),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        if self.0.try_send((event, object)).is_err() {
            tracing::debug!(reason, "too many Events wait; one is dropped");
        }
    }

    /// Says what is wrong by these conditions, of which the named ones are good when true.
    pub(super) fn conditions(&self, object: &ObjectReference, conditions: &[Condition], good: &[&str]) {
        for c in conditions {
            let bad = match c.status.as_str() {
                "True" => !good.contains(&c.type_.as_str()),
                "False" => good.contains(&c.type_.as_str()) && c.reason != "Pending",
                _ => false,
            };
            if bad {
                // Conditions may join several reasons with commas, Events take one word.
                let reason = c.reason.split(',').next().unwrap_or(&c.type_);
                self.warn(object.clone(), reason, &c.message);
            }
        }
    }
}
