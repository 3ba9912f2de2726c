//! What of the others' records counts here.
//!
//! Every part reads the clusterset through [`view`]: it takes the records as they lie in this cluster's
//! `strait-system` and says which remote clusters there are, under which prefixes and behind which
//! gateways, and what it refused and why. A bad record is refused by itself; the others go on.

mod admit;
mod prefixes;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use strait_api::ClusterId;
use strait_api::records::{ClusterSpec, ExportedServiceSpec, GatewaySpec, MemberSpec, MemberState};

pub use admit::{AdmittedService, view};
pub use prefixes::{contains, first_overlap, overlap};

/// A record as it lies in `strait-system`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record<S> {
    /// The cluster in whose namespace on the broker it stood (label `strait.dev/cluster`); `None` for a
    /// record of this cluster.
    pub owner: Option<ClusterId>,
    /// The object's name here.
    pub name: String,
    /// What it says.
    pub spec: S,
}

/// The records that say who takes part.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Records {
    /// Members, ours among them.
    pub members: Vec<MemberSpec>,
    /// Clusters, ours among them.
    pub clusters: Vec<Record<ClusterSpec>>,
    /// Gateways, ours among them.
    pub gateways: Vec<Record<GatewaySpec>>,
}

/// The clusterset as it counts here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clusterset {
    /// This cluster; `None` until `strait join` has written its record.
    pub own: Option<OwnCluster>,
    /// The other clusters by ID.
    pub remotes: BTreeMap<ClusterId, RemoteCluster>,
    /// Prefixes of members that left, or are not there yet: nothing is routed to them, and nothing for them
    /// may follow the default route either, for as long as the member's tombstone is kept.
    #[serde(default)]
    pub absent: Vec<IpNet>,
    /// What does not count, and why.
    pub refusals: Vec<Refusal>,
}

/// This cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnCluster {
    /// Its own record.
    pub cluster: ClusterSpec,
    /// As the broker admitted it; `None` until the mirror has brought it.
    pub member: Option<MemberSpec>,
    /// Its gateways by node name.
    pub gateways: BTreeMap<String, GatewaySpec>,
}

impl OwnCluster {
    /// Its ID.
    pub fn id(&self) -> &ClusterId {
        &self.cluster.cluster_id
    }

    /// Prefixes of its nodes' overlay addresses.
    pub fn node_blocks(&self) -> &[IpNet] {
        self.member.as_ref().map_or(&[], |m| &m.node_blocks)
    }
}

/// Another cluster, as far as it is admitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteCluster {
    /// Its ID.
    pub id: ClusterId,
    /// Prefixes of its pods: claimed by it, admitted by the broker, and not in our way.
    pub pod_prefixes: Vec<IpNet>,
    /// Prefixes of its nodes' overlay addresses.
    pub node_blocks: Vec<IpNet>,
    /// Namespaces that it may export from; `*` is all.
    pub export_namespaces: Vec<String>,
    /// When it was admitted (RFC 3339).
    pub admitted_at: String,
    /// Active or draining.
    pub state: MemberState,
    /// Its gateways by node name.
    pub gateways: BTreeMap<String, GatewaySpec>,
}

impl RemoteCluster {
    /// All that is routed to it: pods first, then nodes' overlay addresses.
    pub fn prefixes(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.pod_prefixes.iter().chain(&self.node_blocks).copied()
    }

    /// Whether a packet with this inner source may come from it.
    pub fn owns(&self, address: IpAddr) -> bool {
        self.prefixes().any(|p| p.contains(&address))
    }
}

/// A record, or a part of one, that does not count.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Refusal {
    /// Kind of the record: `Cluster`, `Gateway` or `ExportedService`.
    pub kind: String,
    /// The object's name here.
    pub name: String,
    /// Reason of the condition `Admitted=False`, in CamelCase.
    pub reason: String,
    /// A sentence: what, why, and what to do.
    pub message: String,
    /// Whether the whole record is refused, or only what the message names.
    pub whole: bool,
}

impl Clusterset {
    /// What of an exported service counts; see [`AdmittedService`].
    pub fn admit_service(&self, record: &Record<ExportedServiceSpec>) -> AdmittedService {
        admit::service(self, record)
    }
}
