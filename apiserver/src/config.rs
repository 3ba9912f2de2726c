//! Settings of a server.

use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::audit::Audit;
use crate::auth::User;
use crate::error::Error;
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
    /// PEM file with the authorities whose certificates clients may show: the common name is the user, the
    /// organisations are the groups. None: clients show tokens only.
    pub client_ca: Option<PathBuf>,
    /// How often the files of certificates are looked at, for new ones.
    pub tls_poll: Duration,
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
    /// What one client may take of the server.
    pub limits: Limits,
    /// Where requests are written down.
    pub audit: Option<Audit>,
}

/// Bounds on what clients may take. Administrators (`system:masters`) are served beyond those on requests.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Requests under way, without watches. More wait for `queue_time`, and are then answered 429.
    pub requests: usize,
    /// Of these, by one user.
    pub requests_per_user: usize,
    /// How long a request may wait for its turn.
    pub queue_time: Duration,
    /// Watches. More are answered 429.
    pub watches: usize,
    /// Of these, by one user.
    pub watches_per_user: usize,
    /// Connections; more are closed at once. Less, if the process may not have so many files open.
    pub connections: usize,
    /// Of these, from one address.
    pub connections_per_address: usize,
    /// Bytes of the headers of a request, with its path.
    pub header_bytes: usize,
    /// Time for a TLS handshake, and for the headers of a request; also how long a connection may be idle.
    pub header_time: Duration,
    /// Time for the body of a request.
    pub body_time: Duration,
    /// How long a client may read nothing of what is sent to it.
    pub stall_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            requests: 400,
            requests_per_user: 200,
            queue_time: Duration::from_secs(10),
            watches: 16_384,
            watches_per_user: 8192,
            connections: 8192,
            connections_per_address: 4096,
            header_bytes: 64 << 10,
            header_time: Duration::from_secs(32),
            body_time: Duration::from_secs(60),
            stall_time: Duration::from_secs(60),
        }
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the tokens.
        f.debug_struct("Config")
            .field("data", &self.data)
            .field("listeners", &self.listeners)
            .field("tls", &self.tls)
            .field("client_ca", &self.client_ca)
            .field("service_cidrs", &self.service_cidrs)
            .field("version", &self.version)
            .field("limits", &self.limits)
            .field("audit", &self.audit)
            .finish_non_exhaustive()
    }
}

/// Fewest addresses that services need to begin with, as on a real server.
const FEWEST: u8 = 3;

/// Checks prefixes for the addresses of services.
pub(crate) fn check_service_cidrs(cidrs: &[IpNet]) -> Result<(), Error> {
    for (i, net) in cidrs.iter().enumerate() {
        let wrong = |why: String| Err(Error::Config(format!("the prefix of Services {net} {why}")));
        if net.max_prefix_len() - net.prefix_len() < FEWEST {
            let most = net.max_prefix_len() - FEWEST;
            return wrong(format!("is too small: give one of /{most} or shorter"));
        }
        if net.trunc() != *net {
            return wrong(format!("has bits set behind its length: write {}", net.trunc()));
        }
        let family = net.max_prefix_len();
        if let Some(other) = cidrs[..i].iter().find(|o| o.max_prefix_len() == family) {
            return wrong(format!(
                "is of one family with {other}: give one of each family at most"
            ));
        }
    }
    Ok(())
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
            client_ca: None,
            tls_poll: Duration::from_secs(10),
            admin_token: None,
            tokens: Vec::new(),
            service_cidrs: Vec::new(),
            version: Version::default(),
            manifests: Vec::new(),
            pod_grace: false,
            controllers: true,
            window: Window::default(),
            max_body: 3 << 20,
            limits: Limits::default(),
            audit: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::check_service_cidrs;

    #[test]
    fn prefixes_of_services_have_room_and_a_family_of_their_own() {
        let check = |list: &[&str]| {
            let list: Vec<_> = list.iter().map(|p| p.parse().unwrap()).collect();
            check_service_cidrs(&list).map_err(|e| e.to_string())
        };
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(&["10.96.0.0/29", "fd00::/125"]), Ok(()));
        for (list, said) in [
            (
                &["10.96.0.1/32"][..],
                "10.96.0.1/32 is too small: give one of /29 or shorter",
            ),
            (
                &["fd00::/126"],
                "fd00::/126 is too small: give one of /125 or shorter",
            ),
            (
                &["10.96.0.1/16"],
                "10.96.0.1/16 has bits set behind its length: write 10.96.0.0/16",
            ),
            (
                &["10.96.0.0/16", "fd00::/112", "10.97.0.0/16"],
                "10.97.0.0/16 is of one family with 10.96.0.0/16",
            ),
        ] {
            let e = check(list).unwrap_err();
            assert!(e.contains(said), "{list:?}: {e}");
        }
    }
}
