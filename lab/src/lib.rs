//! The lab: clusters out of network namespaces on one machine, with the real daemons as real processes.
//!
//! This crate owns the wires, nodes and pods of a lab, plays the parts of Kubernetes that are missing there
//! (kubelet, node and endpoint controllers, a small CNI), and keeps the daemons running. It must not decide
//! anything that a daemon decides, nor touch the network outside the namespaces it made. Read [`topology`]
//! for what a lab looks like.

mod alive;
mod args;
mod benchmark;
mod config;
mod container;
mod control;
mod demo;
mod dir;
mod enter;
mod firewall;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
mod handover;
mod interrupt;
mod leaks;
mod line;
mod manifests;
mod names;
mod objects;
mod podfiles;
mod processes;
mod procfs;
mod sandbox;
mod snapshot;
mod space;
mod start;
mod status;
mod supervisor;
mod tool;
pub mod topology;
mod up;
mod wait;
mod wires;

pub use args::{Args, run};
pub use benchmark::{BenchmarkArgs, run_benchmark};
pub use container::{ContainerArgs, run_container};
pub use sandbox::{SupervisorArgs, run_supervisor};
pub use tool::{ToolArgs, run_tool};
