//! What the controllers count.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Write {
    kind: &'static str,
    result: &'static str,
}

/// The counters; a cheap handle.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    exports: Gauge,
    imports: Gauge,
    writes: Family<Write, Counter>,
    full_syncs: Counter,
}

impl Metrics {
    /// Registers them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "service_exports",
            "ServiceExports in this cluster",
            self.exports.clone(),
        );
        registry.register(
            "service_imports",
            "ServiceImports in this cluster",
            self.imports.clone(),
        );
        registry.register(
            "service_writes",
            "Writes to the API server for exports and imports, by kind and result",
            self.writes.clone(),
        );
        registry.register(
            "service_full_syncs",
            "Complete passes over all services",
            self.full_syncs.clone(),
        );
    }

    pub(super) fn objects(&self, exports: usize, imports: usize) {
        self.exports.set(i64::try_from(exports).unwrap_or(i64::MAX));
        self.imports.set(i64::try_from(imports).unwrap_or(i64::MAX));
    }

    pub(super) fn write(&self, kind: &'static str, ok: bool) {
        let result = if ok { "ok" } else { "failed" };
        self.writes.get_or_create(&Write { kind, result }).inc();
    }

    pub(super) fn full_sync(&self) {
        self.full_syncs.inc();
    }
}
