//! A real control plane for tests: kube-apiserver with its etcd, out of the folder that `KUBEBUILDER_ASSETS`
//! names, as controller-runtime's envtest has it; with kube-controller-manager where that is there too.
//!
//! It owns how these processes start and end, and how a test binary runs again on them ([`again`]). It knows
//! nothing of Strait, so that every crate's tests may use it; it is part of no program.
//!
//! Read next: `plane` (the processes), `rerun` (the tests), `manifest`.

mod manifest;
mod plane;
mod process;
mod rerun;

pub use manifest::apply;
pub use plane::{ADMIN_TOKEN, Client, ControlPlane, DEV_TOKEN, Version, assets};
pub use rerun::{On, again, again_in, here, older, older_in_part, say, since, skip, wanted};
