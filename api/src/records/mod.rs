//! The records of `strait.dev/v1alpha1`.
//!
//! [`Member`](MemberSpec) is written by the broker alone. [`Cluster`](ClusterSpec), [`Gateway`](GatewaySpec)
//! and [`ExportedService`](ExportedServiceSpec) are written by their cluster: in `strait-system` at home,
//! mirrored to `strait-m-<id>` on the broker, and from there into every other cluster's `strait-system` as
//! `<id>.<name>` with the label `strait.dev/cluster=<id>`. [`JoinRequest`](JoinRequestSpec) lives on the
//! broker until its cluster is a member. Fields are only ever added; no record carries a secret.

mod cluster;
mod exported_service;
mod gateway;
mod join_request;
mod member;

pub use cluster::{ClusterSpec, ClusterStatus, Location};
pub use exported_service::{
    ClientIpConfig, Endpoint, EndpointSet, ExportedServiceSpec, ExportedServiceStatus, IpFamily, ServicePort,
    ServiceType, SessionAffinity,
};
pub use gateway::{GatewayAddresses, GatewaySpec, GatewayStatus, TunnelKeys, TunnelStatus};
pub use join_request::{JoinAcceptance, JoinClaim, JoinRequestSpec, JoinRequestStatus, JoinState};
pub use member::{MemberSpec, MemberState};

#[cfg(feature = "kube")]
pub use {
    cluster::Cluster, exported_service::ExportedService, gateway::Gateway, join_request::JoinRequest,
    member::Member,
};
