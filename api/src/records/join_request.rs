//! A cluster that asks to become a member.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{ClusterId, Condition};

/// Made by `token create` in the broker's namespace, with an identity that may read and patch this one
/// object only; the joining cluster fills in `claim`, an administrator accepts or rejects.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(kube::CustomResource, schemars::JsonSchema))]
#[cfg_attr(
    feature = "kube",
    kube(
        group = "strait.dev",
        version = "v1alpha1",
        kind = "JoinRequest",
        namespaced,
        status = "JoinRequestStatus",
        derive = "PartialEq",
        category = "strait",
        printcolumn = r#"{"name":"Cluster","type":"string","jsonPath":".spec.claim.clusterId"}"#,
        printcolumn = r#"{"name":"State","type":"string","jsonPath":".status.state"}"#,
        printcolumn = r#"{"name":"Fingerprint","type":"string","jsonPath":".spec.claim.keyFingerprint"}"#,
        printcolumn = r#"{"name":"Expires","type":"string","jsonPath":".spec.expiresAt"}"#,
        printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
    )
)]
#[serde(rename_all = "camelCase")]
pub struct JoinRequestSpec {
    /// When the token ends (RFC 3339). For display: what counts is the same field of the status.
    pub expires_at: String,
    /// Accept without asking once the claim is there, if it fits this cluster ID (for automation; set by
    /// the administrator who made the token). For display: what counts is the same field of the status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preapproved: Option<ClusterId>,
    /// What the joining cluster says of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<JoinClaim>,
}

/// What a joining cluster says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct JoinClaim {
    /// The ID it wants.
    pub cluster_id: ClusterId,
    /// UID of its kube-system namespace.
    pub uid: String,
    /// Prefixes of its pods.
    #[cfg_attr(feature = "kube", schemars(with = "Vec<String>"))]
    pub pod_cidrs: Vec<IpNet>,
    /// Prefixes of its Services.
    #[serde(default)]
    #[cfg_attr(feature = "kube", schemars(with = "Vec<String>"))]
    pub service_cidrs: Vec<IpNet>,
    /// Prefixes of its VIPs.
    #[serde(default)]
    #[cfg_attr(feature = "kube", schemars(with = "Vec<String>"))]
    pub vip_cidrs: Vec<IpNet>,
    /// Fingerprint that the joiner shows to its administrator, to compare before accepting.
    pub key_fingerprint: String,
}

/// Where the request stands. The joining cluster may patch the spec, all of it; only the broker's
/// administrators and controllers write the status, so whatever grants something stands here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct JoinRequestStatus {
    /// Empty until the claim is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<JoinState>,
    /// Once accepted: the member's namespace on the broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member_namespace: Option<String>,
    /// When the token ends (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// The cluster ID that is accepted without asking.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preapproved: Option<ClusterId>,
    /// What an administrator accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acceptance: Option<JoinAcceptance>,
    /// `Valid` (the claim can be admitted; if not, why), `Accepted`.
    #[serde(default)]
    #[cfg_attr(feature = "kube", schemars(transform = crate::schema::list_map_by_type))]
    pub conditions: Vec<Condition>,
}

/// An administrator's yes, bound to the claim as it was shown: a claim changed since then is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct JoinAcceptance {
    /// The claim.
    pub claim: JoinClaim,
    /// Namespaces that the cluster may export services of; `*` stands for all.
    #[serde(default)]
    pub export_namespaces: Vec<String>,
}

/// Where a join request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub enum JoinState {
    /// Waits for an administrator.
    Pending,
    /// The cluster is a member.
    Accepted,
    /// Refused; the conditions say why.
    Rejected,
}
