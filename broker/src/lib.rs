//! Who belongs to the clusterset, and how records travel between a member and the broker.
//!
//! This crate owns both ends of membership: the broker's controllers ([`serve`], [`controllers`]) and its
//! administrator's commands ([`admin`]); a cluster's way in and out ([`join`], [`leave`]); and the mirror
//! that a member's agent runs ([`mirror`]), with the election of that agent ([`leader`]). Everything speaks
//! plain Kubernetes API, so that any cluster can be the broker. It must not decide who is admitted or what
//! a missing record means (`strait_core::{admission, allocation, mirror}` do), and it knows nothing of
//! tunnels or routes. Start reading at [`controllers`] for the broker, at [`mirror`] for a member.

pub mod admin;
pub mod args;
pub mod connection;
pub mod controllers;
pub mod error;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
pub mod join;
pub mod leader;
pub mod leave;
pub mod mirror;
mod output;
pub mod serve;
pub mod token;

pub use args::{BrokerArgs, JoinArgs, LeaveArgs};
pub use error::BrokerError;

use std::process::ExitCode;

fn block_on<F: Future<Output = anyhow::Result<()>>>(task: F) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(task)?;
    Ok(ExitCode::SUCCESS)
}

/// `strait broker …`, to its end.
///
/// # Errors
/// What stopped it, as a sentence for operators.
pub fn run(args: BrokerArgs) -> anyhow::Result<ExitCode> {
    block_on(async move {
        match args.command {
            None => serve::run(args.serve, args.kubeconfig).await,
            Some(command) => admin::run(command, args.kubeconfig.as_deref()).await,
        }
    })
}

/// `strait join …`, to its end.
///
/// # Errors
/// What stopped it, as a sentence for operators.
pub fn run_join(args: JoinArgs) -> anyhow::Result<ExitCode> {
    block_on(join::run(args))
}

/// `strait leave …`, to its end.
///
/// # Errors
/// What stopped it, as a sentence for operators.
pub fn run_leave(args: LeaveArgs) -> anyhow::Result<ExitCode> {
    block_on(leave::run(args))
}
