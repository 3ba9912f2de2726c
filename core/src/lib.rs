//! Strait's decisions, as pure functions: records and observations in, plans out.
//!
//! This crate owns every rule by which Strait decides: which peers to have, what a node's kernel should
//! hold, which service wins a conflict, what a question to the DNS server is answered with. It must not
//! do anything: no async, no clock, no randomness, no sockets, no Kubernetes client, no netlink (times and
//! seeds are arguments; `.ci/walls` checks the dependencies). Start reading at [`clusterset`], then
//! [`services`] and [`dns`], then [`kernel`].

pub mod admission;
pub mod allocation;
pub mod clusterset;
pub mod dns;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
pub mod kernel;
pub mod mirror;
pub mod node;
pub mod rfc3339;
pub mod services;
pub mod tunnels;
