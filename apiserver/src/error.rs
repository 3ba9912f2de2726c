//! Why a server does not start.

use std::path::PathBuf;

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store cannot be opened.
    #[error("{0}; check that the file belongs to this program and that no other process has it open")]
    Store(String),
    /// A file in the data directory cannot be used.
    #[error("{path} cannot be {what}: {source}; check its owner and the free space")]
    File {
        /// Which file.
        path: PathBuf,
        /// `read` or `written`.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// Certificates cannot be made or read.
    #[error("TLS: {0}")]
    Tls(String),
    /// A listener cannot be used.
    #[error("a listening socket cannot be used: {0}")]
    Listener(std::io::Error),
    /// A manifest cannot be loaded.
    #[error("a manifest cannot be loaded: {0}")]
    Manifest(String),
    /// A backup cannot be made or used.
    #[error("the backup cannot be used: {0}")]
    Backup(String),
    /// A setting is wrong.
    #[error("the configuration is wrong: {0}")]
    Config(String),
    /// Something that should not fail did.
    #[error("{0}")]
    Other(String),
}
