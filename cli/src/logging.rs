//! Logging: to stderr, as text for people or one JSON object a line for collectors.

use std::io::IsTerminal as _;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

/// What is logged, and how.
#[derive(Debug, Clone, Args)]
pub(crate) struct LogArgs {
    /// What to log: error, warn, info, debug, trace, or directives such as `info,strait_gateway=debug`
    #[arg(
        long = "log",
        global = true,
        env = "STRAIT_LOG",
        default_value = "info",
        help_heading = "Logging"
    )]
    filter: String,
    /// How to write the log
    #[arg(
        long = "log-format",
        global = true,
        env = "STRAIT_LOG_FORMAT",
        value_enum,
        default_value_t = LogFormat::Text,
        help_heading = "Logging"
    )]
    format: LogFormat,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    /// One line of text for each event
    Text,
    /// One JSON object for each event
    Json,
}

/// Who is to be quiet unless told otherwise: hickory writes two lines of level info for each query; the client and its
/// watcher say each failed call at level error, which whoever made the call says better.
const QUIET: &str = "hickory_server=warn,kube_client::client::builder=off,kube_runtime::watcher=off";

/// Starts logging for this process.
pub(crate) fn start(args: &LogArgs) {
    let (filter, bad) = match EnvFilter::try_new(format!("{QUIET},{}", args.filter)) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(format!("{QUIET},info")), Some(error)),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // A log that cannot be written (a full disk) must end nothing: the report of it would go the same
        // way, and fail with a panic.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    match args.format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().init(),
    }
    if let Some(error) = bad {
        tracing::warn!(
            "--log {:?} is no filter ({error}); logging at level info",
            args.filter
        );
    }
}
