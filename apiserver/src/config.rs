//! Settings of a server.

use std::net::TcpListener;
use std::path::PathBuf;

use ipnet::IpNet;

use crate::auth::User;
use crate::store::Window;
use crate::tls::Tls;

/// Where the server keeps what it must not forget.
#[derive(Debug, Clone)]
pub enum Data {
    /// In this directory: objects, certificates, keys, and the administrator's token. It is made if it
    /// is not there.
    Directory(PathBuf),
    /// Nowhere: everything ends with the server. For tests.
    Memory,
}

/// What `/version` says.
#[derive(Debug, Clone)]
pub struct Version {
    /// `1`.
    pub major: String,
    /// `33`.
    pub minor: String,
    /// `v1.33.0+strait`.
    pub git: String,
}

impl Default for Version {
    fn default() -> Self {
        Version {
            major: "1".into(),
            minor: "33".into(),
            git: format!("v1.33.0+strait-{}", env!("CARGO_PKG_VERSION")),
        }
    }
}

/// Settings of a server.
pub struct Config {
    /// Where the server keeps its objects.
    pub data: Data,
    /// Sockets that listen already. None: only in-process clients.
    pub listeners: Vec<TcpListener>,
    /// Certificates.
    pub tls: Tls,
    /// The administrator's token. None: made, and kept in the data directory (`admin.token`).
    pub admin_token: Option<String>,
    /// More fixed tokens, and whose they are.
    pub tokens: Vec<(String, User)>,
    /// Ranges for the cluster addresses of services, one per family.
    pub service_cidrs: Vec<IpNet>,
    /// What `/version` says.
    pub version: Version,
    /// Manifests to load at the start: YAML, several documents each. What exists already is updated
    /// (server-side apply).
    pub manifests: Vec<String>,
    /// Whether pods on nodes get time to end, which something like a kubelet then has to confirm by
    /// deleting them with grace 0. Without, deleted pods are gone at once.
    pub pod_grace: bool,
    /// Whether the garbage collector and the namespaces' end run by themselves. Tests may turn them off
    /// and call [`crate::Server::collect`].
    pub controllers: bool,
    /// How much history is kept for watches.
    pub window: Window,
    /// Largest body of a request, in bytes.
    pub max_body: usize,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the tokens.
        f.debug_struct("Config")
            .field("data", &self.data)
            .field("listeners", &self.listeners)
            .field("tls", &self.tls)
            .field("service_cidrs", &self.service_cidrs)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl Config {
    /// A server in memory without sockets, for tests.
    pub fn in_memory() -> Self {
        Config::new(Data::Memory)
    }

    /// A server over this data, with a certificate for the local host and no sockets yet.
    pub fn new(data: Data) -> Self {
        Config {
            data,
            listeners: Vec::new(),
            tls: Tls::Generated {
                names: vec!["localhost".into(), "127.0.0.1".into(), "::1".into()],
            },
            admin_token: None,
            tokens: Vec::new(),
            service_cidrs: Vec::new(),
            version: Version::default(),
            manifests: Vec::new(),
            pod_grace: false,
            controllers: true,
            window: Window::default(),
            max_body: 3 << 20,
        }
    }
}
