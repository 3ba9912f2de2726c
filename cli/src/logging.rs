//! Logging: to stderr or a file, as text for people or one JSON object a line for collectors.

use std::fs::{File, OpenOptions};
use std::io::IsTerminal as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

/// What is logged, and how. Every command has these: their ids are no fields' names, as clap would take the command's
/// own argument of that id for them.
#[derive(Debug, Clone, Args)]
pub(crate) struct LogArgs {
    /// What to log: error, warn, info, debug, trace, or directives such as `info,strait_gateway=debug`
    #[arg(
        id = "log",
        long = "log",
        global = true,
        env = "STRAIT_LOG",
        default_value = "info",
        value_parser = checked,
        help_heading = "Logging"
    )]
    filter: String,
    /// How to write the log
    #[arg(
        id = "log-format",
        long = "log-format",
        global = true,
        env = "STRAIT_LOG_FORMAT",
        value_enum,
        default_value_t = LogFormat::Text,
        help_heading = "Logging"
    )]
    format: LogFormat,
    /// Append the log to this file (made for its owner alone) instead of writing it to standard error
    #[arg(
        id = "log-file",
        long = "log-file",
        global = true,
        env = "STRAIT_LOG_FILE",
        value_name = "FILE",
        help_heading = "Logging"
    )]
    file: Option<PathBuf>,
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

fn filter(wanted: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    EnvFilter::try_new(format!("{QUIET},{wanted}"))
}

/// The directives, if they are such.
fn checked(wanted: &str) -> Result<String, String> {
    filter(wanted)
        .map(|_| wanted.to_owned())
        .map_err(|error| format!("{error}; write a level, or directives such as info,strait_gateway=debug"))
}

/// Starts logging for this process.
///
/// # Errors
/// If the log's file cannot be written.
pub(crate) fn start(args: &LogArgs) -> Result<()> {
    let terminal = args.file.is_none() && std::io::stderr().is_terminal();
    let writer = match &args.file {
        Some(path) => BoxMakeWriter::new(open(path)?),
        None => BoxMakeWriter::new(std::io::stderr),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(&args.filter)?)
        // A log that cannot be written (a full disk) must end nothing: the report of it would go the same
        // way, and fail with a panic.
        .log_internal_errors(false)
        .with_writer(writer);
    match args.format {
        LogFormat::Text => builder.with_ansi(terminal).init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot open the log file {}", path.display()))
}
