//! What `strait dns` counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Labels of a query.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Query {
    /// Type asked for; the rare ones together as `other`.
    pub(crate) r#type: &'static str,
    /// Response code.
    pub(crate) rcode: &'static str,
}

/// The counters; a cheap handle.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    queries: Family<Query, Counter>,
    imports: Gauge,
    snapshots: Counter,
    age: Gauge<f64, AtomicU64>,
    taken_at: Arc<AtomicI64>,
}

impl Metrics {
    /// Registers them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "dns_queries",
            "Queries answered, by type and response code",
            self.queries.clone(),
        );
        registry.register(
            "dns_imports",
            "ServiceImports in the snapshot",
            self.imports.clone(),
        );
        registry.register(
            "dns_snapshots",
            "Snapshots taken since the start",
            self.snapshots.clone(),
        );
        registry.register(
            "dns_snapshot_age_seconds",
            "Age of the current snapshot",
            self.age.clone(),
        );
    }

    pub(crate) fn count(&self, r#type: &'static str, rcode: &'static str) {
        self.queries.get_or_create(&Query { r#type, rcode }).inc();
    }

    pub(crate) fn snapshot(&self, services: usize) {
        self.imports.set(i64::try_from(services).unwrap_or(i64::MAX));
        self.snapshots.inc();
        self.taken_at
            .store(Timestamp::now().as_millisecond(), Ordering::Relaxed);
    }

    /// Brings the age of the snapshot up to date.
    pub fn measure_age(&self) {
        let taken = self.taken_at.load(Ordering::Relaxed);
        if taken > 0 {
            let age = Timestamp::now().as_millisecond() - taken;
            self.age.set(age.max(0) as f64 / 1_000.0);
        }
    }
}
