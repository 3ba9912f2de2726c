//! What travels between a member cluster and the broker, and what a missing record means.
//!
//! [`publish`] works out what to write into the member's own namespace on the broker; [`receive`] what to
//! write into this cluster's `strait-system` as copies of the others' records; [`verdicts`] the conditions
//! on those copies. The rule of all three: **absence is not deletion**. A copy goes by a tombstone, by its
//! owner's deletion seen in a watch (exported services), or because a complete republication of its owner,
//! marked in `Cluster.spec.fullSync`, did not hold it. An empty, wiped or restored broker takes nothing away.

mod publish;
mod receive;
#[cfg(test)]
mod tests;
mod verdicts;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use strait_api::ClusterId;
use strait_api::records::{ClusterSpec, ExportedServiceSpec, GatewaySpec};

pub use publish::{Own, Publication, Remote, Write, publish};
pub use receive::{
    Change, CopyIndex, FreshList, Inbox, Incoming, MAX_GATEWAYS, MAX_SERVICES, Problem, Reception, receive,
};
pub use verdicts::{copied, verdicts};

/// How long a tombstone is kept, in microseconds: 30 days.
pub const TOMBSTONE_MICROS: i64 = 30 * 24 * 3600 * 1_000_000;

/// Whether a tombstone of this time has been kept for long enough at `now`. One that holds no time is kept.
pub fn tombstone_is_old(removed_at: &str, now: &str) -> bool {
    match (crate::rfc3339::micros(removed_at), crate::rfc3339::micros(now)) {
        (Some(removed), Some(now)) => now.saturating_sub(removed) > TOMBSTONE_MICROS,
        _ => false,
    }
}

/// The kinds that a member writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// Where and how a gateway is reached.
    Gateway,
    /// An exported service.
    ExportedService,
    /// The cluster's own account. Written last: its marker speaks for the others.
    Cluster,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::Gateway, Kind::ExportedService, Kind::Cluster];

    /// The Kubernetes kind.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Gateway => "Gateway",
            Kind::ExportedService => "ExportedService",
            Kind::Cluster => "Cluster",
        }
    }
}

/// A record's kind, and its name at home.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// The kind.
    pub kind: Kind,
    /// The object's name, in its owner's cluster and namespace.
    pub name: String,
}

impl Key {
    /// A key.
    pub fn new(kind: Kind, name: impl Into<String>) -> Self {
        Self {
            kind,
            name: name.into(),
        }
    }
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Spec {
    /// Of a Gateway.
    Gateway(Box<GatewaySpec>),
    /// Of an ExportedService.
    ExportedService(Box<ExportedServiceSpec>),
    /// Of a Cluster.
    Cluster(Box<ClusterSpec>),
}

impl Spec {
    /// Reads the `spec` of an object. Fields that this version does not know are left out; a value that it
    /// cannot read makes the record count for nothing here.
    pub fn parse(kind: Kind, spec: &Value) -> Result<Self, String> {
        fn read<T: serde::de::DeserializeOwned>(spec: &Value) -> Result<Box<T>, String> {
            T::deserialize(spec).map(Box::new).map_err(|e| e.to_string())
        }
        match kind {
            Kind::Gateway => read(spec).map(Spec::Gateway),
            Kind::ExportedService => read(spec).map(Spec::ExportedService),
            Kind::Cluster => read(spec).map(Spec::Cluster),
        }
    }

    /// The kind.
    pub fn kind(&self) -> Kind {
        match self {
            Spec::Gateway(_) => Kind::Gateway,
            Spec::ExportedService(_) => Kind::ExportedService,
            Spec::Cluster(_) => Kind::Cluster,
        }
    }

    /// For whom the record speaks.
    pub fn cluster_id(&self) -> &ClusterId {
        match self {
            Spec::Gateway(s) => &s.cluster_id,
            Spec::ExportedService(s) => &s.cluster_id,
            Spec::Cluster(s) => &s.cluster_id,
        }
    }

    /// Its tombstone.
    pub fn removed_at(&self) -> Option<&str> {
        match self {
            Spec::Gateway(s) => s.removed_at.as_deref(),
            Spec::ExportedService(s) => s.removed_at.as_deref(),
            Spec::Cluster(s) => s.removed_at.as_deref(),
        }
    }

    /// The same record with a tombstone.
    pub fn removed(&self, at: &str) -> Self {
        let mut spec = self.clone();
        let field = match &mut spec {
            Spec::Gateway(s) => &mut s.removed_at,
            Spec::ExportedService(s) => &mut s.removed_at,
            Spec::Cluster(s) => &mut s.removed_at,
        };
        field.get_or_insert_with(|| at.to_owned());
        spec
    }

    /// The marker of a complete republication; `None` for other kinds than Cluster.
    pub fn full_sync(&self) -> Option<&str> {
        match self {
            Spec::Cluster(s) => s.full_sync.as_deref(),
            _ => None,
        }
    }
}
