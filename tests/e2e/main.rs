//! End-to-end scenarios: real daemons in the lab, real packets, and what the far side saw of them.
//!
//! Each test brings up a lab of its own through the `strait` program, as a user would, and takes it down
//! again. They need root or user namespaces, and /dev/net/tun; where these are missing they fail and say
//! what to switch on.

#![allow(clippy::unwrap_used)]

mod benchmark;
mod hostile;
mod kills;
mod lab;
mod members;
mod restarts;
mod services;
mod traffic;
mod underlay;
