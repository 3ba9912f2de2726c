//! The services half of `strait agent`: exports out, imports in.
//!
//! One loop: [`watch`] takes changes of the local API into a `core::services::Index`, the index plans the
//! missing writes of the services that changed, [`apply`] carries them out and feeds their results back, so
//! that the next plan knows them before the watch does. Nothing is planned until every list is complete.
//! Other clusters are not seen from here: their records lie in `strait-system`, where the mirror puts them,
//! and ours are taken from there.

mod apply;
mod events;
mod metrics;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::{StreamExt as _, stream};
use kube::Client;
use strait_core::services::{Event, Index, Kind, Object, Plan, ServiceKey};
use strait_daemon::inputs::Knowledge;
use strait_daemon::{Inputs, Shutdown};
use tokio::time::Instant;

use apply::Applier;
pub use metrics::Metrics;

use crate::convert;

/// How long to wait for further changes before a plan is made.
const CALM: Duration = Duration::from_millis(5);
/// Services whose writes are under way at once.
const AT_ONCE: usize = 16;
/// The first wait after a failed write; doubled with each further failure.
const RETRY: Duration = Duration::from_millis(200);
/// The longest.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// The watch has certainly brought back what was written this long ago.
const ECHO: Duration = Duration::from_secs(5);

/// What the controllers need to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the records lie.
    pub namespace: String,
    /// How often everything is looked at again, changed or not.
    pub full_sync: Duration,
    /// What is counted.
    pub metrics: Metrics,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            namespace: strait_api::names::NAMESPACE.to_owned(),
            full_sync: Duration::from_secs(300),
            metrics: Metrics::default(),
        }
    }
}

/// Runs the controllers until shut down. Failures of single writes are reported on the objects that they
/// concern and tried again; they end nothing.
pub async fn run(client: Client, settings: Settings, shutdown: Shutdown) {
    // Nothing is saved: without the API server there is nothing to write to either.
    let mut inputs = Inputs::new(None, shutdown.clone());
    let mut controllers = Controllers {
        watch: watch::Watch::new(&mut inputs, &client, &settings.namespace),
        applier: Applier::new(client, &settings, &shutdown),
        index: Index::default(),
        troubles: BTreeMap::new(),
        unseen: BTreeMap::new(),
        last_write: Instant::now(),
        settings,
    };
    let mut full_sync = Instant::now() + controllers.settings.full_sync;
    loop {
        let wake = controllers.next_wake().map_or(full_sync, |t| t.min(full_sync));
        tokio::select! {
            () = inputs.changed(CALM) => {}
            () = tokio::time::sleep_until(wake) => {}
            () = shutdown.wait() => return,
        }
        if inputs.knowledge() < Knowledge::Live {
            continue;
        }
        if full_sync <= Instant::now() {
            full_sync = controllers.full_sync();
        }
        controllers.watch.feed(&mut controllers.index);
        controllers.drop_unseen();
        tokio::select! {
            () = controllers.settle() => {}
            () = shutdown.wait() => return,
        }
    }
}

/// A service some of whose writes failed.
#[derive(Debug)]
struct Trouble {
    attempts: u32,
    again: Instant,
    /// What the write of its record failed with.
    record: Option<String>,
}

struct Controllers {
    watch: watch::Watch,
    applier: Applier,
    index: Index,
    troubles: BTreeMap<ServiceKey, Trouble>,
    /// What was written and has not come back by the watch yet, and until when it may take.
    unseen: BTreeMap<(Kind, String, String), Instant>,
    last_write: Instant,
    settings: Settings,
}

impl Controllers {
    fn next_wake(&self) -> Option<Instant> {
        let retries = self.troubles.values().map(|t| t.again);
        retries.chain(self.unseen.values().copied()).min()
    }

    /// Takes out what was written here and never came back by the watch: somebody deleted it before the
    /// watch told of it.
    fn drop_unseen(&mut self) {
        let Self {
            watch, index, unseen, ..
        } = self;
        unseen.retain(|(kind, namespace, name), until| {
            if watch.has(*kind, namespace, name) {
                return false;
            }
            let lost = *until <= Instant::now();
            if lost {
                index.apply(Event::Gone(*kind, namespace.clone(), name.clone()));
            }
            !lost
        });
    }

    /// Starts over from what the watches hold, and says when to do so again. Not while they may still lack
    /// what was written last.
    fn full_sync(&mut self) -> Instant {
        let echoed = self.last_write + ECHO;
        if echoed > Instant::now() {
            return echoed;
        }
        self.watch.forget();
        self.index = Index::default();
        self.watch.feed(&mut self.index);
        let all = self.index.all();
        self.index.touch(all);
        self.settings.metrics.full_sync();
        Instant::now() + self.settings.full_sync
    }

    /// Plans and applies until nothing is left but what failed.
    async fn settle(&mut self) {
        let now = Instant::now();
        let due: Vec<ServiceKey> = self
            .troubles
            .iter()
            .filter(|(_, t)| t.again <= now)
            .map(|(key, _)| key.clone())
            .collect();
        self.index.touch(due);
        let mut held = BTreeSet::new();
        loop {
            let mut dirty = self.index.take_dirty();
            dirty.retain(|key| !held.contains(key));
            if dirty.is_empty() {
                break;
            }
            let failures: BTreeMap<ServiceKey, String> = self
                .troubles
                .iter()
                .filter_map(|(key, t)| Some((key.clone(), t.record.clone()?)))
                .collect();
            let plan = self.index.plan(&dirty, &failures, &convert::now());
            for key in &dirty {
                if !plan.services.iter().any(|(planned, _)| planned == key) {
                    self.troubles.remove(key);
                }
            }
            held.extend(self.apply(plan).await);
        }
        let (exports, imports) = self.index.counts();
        self.settings.metrics.objects(exports, imports);
    }

    /// Remembers that the watch is to bring what was just written.
    fn expect(&mut self, event: &Event) {
        let id = match event {
            Event::Put(Object::Slice(s)) => {
                (Kind::EndpointSlice, s.service.namespace.clone(), s.name.clone())
            }
            Event::Put(Object::Import(i)) => (Kind::Import, i.key.namespace.clone(), i.key.name.clone()),
            Event::Put(Object::Record(r)) => (
                Kind::Record,
                self.settings.namespace.clone(),
                r.record.name.clone(),
            ),
            Event::Gone(kind, namespace, name) => {
                self.unseen.remove(&(*kind, namespace.clone(), name.clone()));
                return;
            }
            Event::Put(_) => return,
        };
        if !self.watch.has(id.0, &id.1, &id.2) {
            self.unseen.insert(id, Instant::now() + ECHO);
        }
    }

    /// Carries a plan out. Says which services are to wait for their next attempt, or for a change.
    async fn apply(&mut self, plan: Plan) -> Vec<ServiceKey> {
        let mut wait_for_retry = Vec::new();
        if plan.is_empty() {
            return wait_for_retry;
        }
        tracing::debug!(%plan, "applying");
        let applier = &self.applier;
        let results: Vec<_> = stream::iter(plan.services)
            .map(|(key, steps)| async move {
                let outcome = applier.apply(&key, steps).await;
                (key, outcome)
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        for (key, outcome) in results {
            for event in outcome.events {
                self.expect(&event);
                self.index.apply(event);
            }
            if outcome.failed {
                let before = self.troubles.get(&key);
                let attempts = before.map_or(0, |t| t.attempts);
                let wait = RETRY.saturating_mul(1 << attempts.min(16)).min(RETRY_MAX);
                // That its record cannot be written goes into the export's status at once.
                if outcome.record.is_some() && before.is_none_or(|t| t.record.is_none()) {
                    self.index.touch([key.clone()]);
                } else {
                    wait_for_retry.push(key.clone());
                }
                self.troubles.insert(
                    key,
                    Trouble {
                        attempts: attempts + 1,
                        again: Instant::now() + wait,
                        record: outcome.record,
                    },
                );
            } else {
                self.troubles.remove(&key);
            }
        }
        self.last_write = Instant::now();
        wait_for_retry
    }
}
