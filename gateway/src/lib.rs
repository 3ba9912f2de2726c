//! The gateway daemon: tunnels to the other clusters' gateways, and their data path.
//!
//! This crate owns the WireGuard engine ([`datapath`]) and what feeds it: the daemon from records ([`run`]),
//! or `wg` over a socket ([`wireguard`]). It must not decide which tunnels there are (`strait_core::tunnels` does) nor program routes
//! (the route agent does). Start reading at [`datapath`] for packets, in `daemon` for records.

mod args;
mod daemon;
pub mod datapath;
mod keyfile;
mod publish;
mod record;
mod report;
pub mod wireguard;

pub use args::Args;
pub use daemon::run;
