//! What Strait's daemons share around their decisions.
//!
//! This crate owns the way a daemon lives: [`client`] finds the API server, [`inputs`] watches objects into
//! an index that survives on disk, [`status`] serves metrics and probes, [`shutdown`] ends it. It must not
//! decide anything about networks. A daemon is then one loop: wait for [`inputs::Inputs::changed`], call
//! `core`, apply the plan, report. Read [`inputs`] first.

pub mod args;
pub mod client;
pub mod clusterset;
pub mod errors;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
pub mod inputs;
pub mod local;
mod saved;
pub mod shutdown;
pub mod status;
pub mod stdout;

pub use args::CommonArgs;
pub use clusterset::ClustersetInputs;
pub use inputs::{Inputs, Watched};
pub use shutdown::Shutdown;
pub use status::Status;
