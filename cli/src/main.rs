//! The `strait` binary: one subcommand per role.
//!
//! This crate owns the command line: the tree of subcommands, logging, exit codes, shell completion. The
//! roles themselves live in their crates; nothing is decided here. Read [`command`] for the tree.
//!
//! `main` starts no thread: a role that enters namespaces must still be alone in its process. Every role
//! starts its own run time.

mod agent;
mod apiserver;
mod command;
mod image;
mod logging;
#[cfg(test)]
mod manifests;

use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = command::parse(std::env::args_os());
    match logging::start(&cli.log).and_then(|()| command::dispatch(cli.command)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("strait: {}", strait_daemon::errors::sentence(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}
