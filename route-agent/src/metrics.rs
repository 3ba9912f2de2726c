//! Metrics of the route agent.

use std::sync::atomic::AtomicU64;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use strait_core::kernel::{Element, KernelState};
use strait_daemon::Status;

/// A cheap handle to all of them.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub(crate) reconciles: Counter,
    pub(crate) errors: Counter,
    pub(crate) operations: Counter,
    pub(crate) drift: Counter,
    pub(crate) seconds: Histogram,
    last_success: Gauge<f64, AtomicU64>,
    routes: Gauge,
    vips: Gauge,
    pub(crate) skipped: Gauge,
    pub(crate) refusals: Gauge,
}

impl Metrics {
    /// Registers them; each is called `strait_route_agent_…`.
    pub(crate) fn new(status: &Status) -> Self {
        let metrics = Self {
            reconciles: Counter::default(),
            errors: Counter::default(),
            operations: Counter::default(),
            drift: Counter::default(),
            seconds: Histogram::new(exponential_buckets(0.001, 2.0, 12)),
            last_success: Gauge::default(),
            routes: Gauge::default(),
            vips: Gauge::default(),
            skipped: Gauge::default(),
            refusals: Gauge::default(),
        };
        let m = metrics.clone();
        status.register(|registry| {
            let registry = registry.sub_registry_with_prefix("route_agent");
            registry.register("reconciles", "Rounds of read, plan and apply", m.reconciles);
            registry.register("errors", "Rounds that failed", m.errors);
            registry.register("plan_ops", "Changes made to the kernel", m.operations);
            registry.register(
                "drift_repairs",
                "Changes that undid what somebody else had changed",
                m.drift,
            );
            registry.register("reconcile_seconds", "Time of a round", m.seconds);
            registry.register(
                "last_success_timestamp_seconds",
                "When a round last succeeded",
                m.last_success,
            );
            registry.register("routes", "Routes that the node should hold", m.routes);
            registry.register("vips", "VIP ports that are balanced", m.vips);
            registry.register(
                "skipped_objects",
                "Objects, or parts of them, that do not count",
                m.skipped,
            );
            registry.register(
                "foreign_refusals",
                "Rules of other firewalls that refuse all forwarded packets before Strait's accepts are asked",
                m.refusals,
            );
        });
        metrics
    }

    /// A round ended well with this state wanted.
    pub(crate) fn succeeded(&self, wanted: &KernelState) {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.routes.set(count(wanted.routes.len()));
        let elements = wanted
            .nft
            .iter()
            .flat_map(|t| t.sets.values())
            .flat_map(|s| &s.elements);
        self.vips
            .set(count(elements.filter(|e| matches!(e, Element::Vip(..))).count()));
        if let Ok(now) = SystemTime::now().duration_since(UNIX_EPOCH) {
            self.last_success.set(now.as_secs_f64());
        }
    }
}
