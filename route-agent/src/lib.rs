//! `strait route-agent`: keeps one node's kernel as `strait_core::node` wants it.
//!
//! This crate owns the loop round that decision: watched objects into plain inputs, read the kernel, plan,
//! apply, report. It must not decide what a node should hold (that is `core`) nor speak netlink (that
//! is `linux`). `strait plan` is the same without the last step. Read `agent` first.

mod agent;
mod args;
mod decide;
mod metrics;
mod objects;
mod plan;
mod underlay;

pub use agent::{run, serve};
pub use args::{Args, NodeArgs, Output, PlanArgs, UnderlayMtu};
pub use plan::{plan, planned};
