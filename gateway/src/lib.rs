//! The gateway daemon: tunnels to the other clusters' gateways, and their data path.
//!
//! This crate owns the WireGuard engine ([`datapath`]) and the daemon that feeds it from records
//! ([`run`]). It must not decide which tunnels there are (`strait_core::tunnels` does) nor program routes
//! (the route agent does). Start reading at [`datapath`] for packets, in `daemon` for records.

mod args;
mod daemon;
pub mod datapath;
mod keyfile;
mod publish;
mod record;
mod report;

pub use args::Args;
pub use daemon::run;
