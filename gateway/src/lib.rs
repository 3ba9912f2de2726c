//! The gateway daemon: tunnels to the other clusters' gateways, and their data path.
//!
//! This crate owns the WireGuard engine ([`datapath`]) and the daemon that feeds it from records. It must
//! not decide which peers there are (`strait_core` does) nor program routes (the route agent does).
//! Start reading at [`datapath`].

pub mod datapath;
