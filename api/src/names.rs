//! Names that stand in objects: labels, annotations, namespaces, well-known objects.

/// API group of Strait's own records.
pub const GROUP: &str = "strait.dev";
/// Namespace of Strait in a member cluster: daemons, own records and copies of the others' records.
pub const NAMESPACE: &str = "strait-system";
/// Namespace of the broker's own objects (join requests) on the broker.
pub const BROKER_NAMESPACE: &str = "strait-broker";
/// A member's namespace on the broker is this and the cluster ID.
pub const MEMBER_NAMESPACE_PREFIX: &str = "strait-m-";
/// Label on every copy of another cluster's record: the cluster ID of its owner. Own records lack it.
pub const LABEL_CLUSTER: &str = "strait.dev/cluster";
/// Label of nodes that run a gateway (value `true`).
pub const LABEL_GATEWAY_NODE: &str = "strait.dev/gateway";
/// Node annotation, written by the agent: the node's overlay addresses, comma separated (at most one of
/// each family).
pub const ANNOTATION_OVERLAY: &str = "strait.dev/overlay-addresses";
/// Secret in [`NAMESPACE`]: how to reach the broker (keys `url`, `ca.crt`, `cluster`, `token` — the renewal
/// credential —, `identity` — the key behind the fingerprint shown at admission). Read by the agent, and by
/// `strait join` and `strait leave`.
pub const BROKER_SECRET: &str = "strait-broker";
/// Secret in [`NAMESPACE`]: the key (`identity`) of a cluster that asks to join, until it is a member.
pub const JOIN_SECRET: &str = "strait-join";
/// On a Member that is out: it left by itself, nobody evicted it.
pub const ANNOTATION_LEFT: &str = "strait.dev/left";
/// Lease in [`NAMESPACE`] that elects the agent.
pub const AGENT_LEASE: &str = "strait-agent";
/// Value of `endpointslice.kubernetes.io/managed-by` on EndpointSlices that Strait writes.
pub const MANAGED_BY: &str = "strait.dev";
/// Label of EndpointSlices: who manages them.
pub const LABEL_SLICE_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Label that keeps kube-proxy away from an object (Services and EndpointSlices).
pub const LABEL_SERVICE_PROXY: &str = "service.kubernetes.io/service-proxy-name";
/// Label of EndpointSlices: the ServiceImport they belong to.
pub const LABEL_MCS_SERVICE: &str = "multicluster.kubernetes.io/service-name";
/// Label of EndpointSlices: the cluster whose endpoints they hold.
pub const LABEL_MCS_CLUSTER: &str = "multicluster.kubernetes.io/source-cluster";
/// Label of a local Service's EndpointSlices (Kubernetes' own).
pub const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Field manager of a daemon: this and its role.
pub const FIELD_MANAGER_PREFIX: &str = "strait-";

/// Name of the local copy of another cluster's record: `<cluster>.<record>`. Cluster IDs hold no dot, so
/// this cannot be mistaken.
pub fn copy_name(cluster: &crate::ClusterId, record: &str) -> String {
    format!("{cluster}.{record}")
}

/// Name of the record of an exported service: `<service>.<namespace>` (neither holds a dot).
pub fn exported_service_name(service: &str, namespace: &str) -> String {
    format!("{service}.{namespace}")
}
