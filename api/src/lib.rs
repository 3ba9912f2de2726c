//! Strait's custom resources and the value types that every part shares.
//!
//! This crate owns the records of group `strait.dev/v1alpha1`, the kinds of the Multi-Cluster Services API
//! and the names (labels, annotations, well-known objects) that go with them. It must not decide anything
//! nor talk to anybody; without the feature `kube` it is plain data. Read [`records`] first, then [`mcs`].
//! `strait-crds` writes deploy/crds from these types.

pub mod condition;
#[cfg(feature = "kube")]
pub mod crds;
pub mod ids;
pub mod mcs;
pub mod names;
pub mod records;
#[cfg(feature = "kube")]
pub mod schema;

pub use condition::Condition;
#[cfg(feature = "kube")]
pub use crds::crds;
pub use ids::{ClusterId, InvalidClusterId, InvalidKey, PublicKey};
