//! `strait broker`: the controllers, and where it is stand-alone the API server that they work on.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use strait_api::names::BROKER_NAMESPACE;
use strait_apiserver::{Audit, Config, Data, Server, Tls, allow_many_connections, write_private};
use strait_core::admission;
use strait_core::allocation::{BLOCK_V4, BLOCK_V6};
use strait_daemon::client::ClientError;
use strait_daemon::{CommonArgs, Shutdown, Status, local};
use tower::ServiceExt as _;

use crate::args::ServeArgs;
use crate::connection::within;
use crate::controllers::{Controllers, FIELD_MANAGER};

/// ConfigMap in the broker's namespace that says how members reach it (keys `url`, `ca.crt`).
pub const ADDRESS_MAP: &str = "strait-broker-address";
/// Port of an API server.
const PORT: u16 = 6443;
/// Bits of the smallest block out of which nodes can be given addresses.
const FEWEST: u8 = 3;

/// Runs the broker until a signal ends it.
pub(crate) async fn run(args: ServeArgs, kubeconfig: Option<PathBuf>) -> anyhow::Result<()> {
    strait_daemon::client::install_crypto();
    let shutdown = Shutdown::on_signals()?;
    let status = Status::default();
    let common = CommonArgs {
        kubeconfig: kubeconfig.clone(),
        namespace: BROKER_NAMESPACE.to_owned(),
        state_dir: args.data_dir.clone(),
        metrics_listen: args.metrics_listen,
        probe_socket: args.probe_socket.clone(),
    };
    status.serve(&common, &shutdown).await?;
    let settings = settings(&args)?;
    if args.standalone {
        allow_many_connections();
        let running = Standalone::start(&args).await?;
        let ready = status.clone();
        let (url, kubeconfig) = (running.url.clone(), running.kubeconfig.clone());
        let controllers = Controllers::new(running.client.clone(), settings);
        let ended = controllers
            .run(shutdown, move || {
                ready.ready();
                tracing::info!(url, kubeconfig = %kubeconfig.display(), "the broker serves");
            })
            .await;
        running.server.shutdown().await;
        Ok(ended?)
    } else {
        let client = match strait_daemon::client::connect(kubeconfig.as_deref(), FIELD_MANAGER).await {
            Err(e @ ClientError::NotInCluster { .. }) => {
                anyhow::bail!(
                    "{e}; where there is no cluster for it, `strait broker --standalone` brings an API server of its own"
                );
            }
            client => client?,
        };
        if let Some(url) = &args.advertise {
            advertise(&client, url, None).await?;
        }
        let ready = status.clone();
        Ok(Controllers::new(client, settings)
            .run(shutdown, move || ready.ready())
            .await?)
    }
}

fn settings(args: &ServeArgs) -> anyhow::Result<admission::Settings> {
    for pool in &args.node_pools {
        anyhow::ensure!(
            pool.trunc() == *pool,
            "--node-pool {pool} has host bits set (write {})",
            pool.trunc()
        );
        let room = pool.max_prefix_len() - FEWEST;
        anyhow::ensure!(
            pool.prefix_len() <= room,
            "--node-pool {pool} is too small for the nodes of a cluster: give one of /{room} or shorter, or rather of /{} or shorter for each cluster's own block",
            if pool.addr().is_ipv4() { BLOCK_V4 } else { BLOCK_V6 }
        );
    }
    Ok(if args.node_pools.is_empty() {
        admission::Settings::default()
    } else {
        admission::Settings {
            node_pools: args.node_pools.clone(),
        }
    })
}

/// A stand-alone broker's API server, with Strait's resources in it.
pub struct Standalone {
    /// The server.
    pub server: Server,
    /// An administrator's client, in process.
    pub client: Client,
    /// URL under which members reach it.
    pub url: String,
    /// Its administrator's kubeconfig.
    pub kubeconfig: PathBuf,
}

impl std::fmt::Debug for Standalone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Standalone")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl Standalone {
    /// Starts it: sockets, store, resource definitions, the administrator's kubeconfig.
    ///
    /// # Errors
    /// If an address or the folder cannot be used; the message names it.
    pub async fn start(args: &ServeArgs) -> anyhow::Result<Self> {
        let listeners = listeners(args)?;
        let addresses = listeners
            .iter()
            .map(TcpListener::local_addr)
            .collect::<Result<Vec<_>, _>>()
            .context("a listening socket has no address")?;
        let local = local::best(&addresses).map(https);
        let url = match &args.advertise {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => addresses
                .iter()
                .find_map(reachable)
                .map(https)
                .or_else(|| local.clone())
                .unwrap_or_default(),
        };
        let mut config = Config::new(Data::Directory(args.data_dir.clone()));
        config.tls = Tls::Generated {
            names: names(args, &addresses, &url),
        };
        config.listeners = listeners;
        config.audit = args.audit_log_path.clone().map(Audit::new);
        for crd in strait_api::crds::crds() {
            config
                .manifests
                .push(strait_api::crds::to_yaml(&crd).context("a resource definition cannot be written")?);
        }
        let server = Server::start(config).await?;
        let (name, agent) = strait_daemon::client::writes_as(FIELD_MANAGER);
        let service =
            server
                .admin_service()
                .map_request(move |mut request: http::Request<kube::client::Body>| {
                    request.headers_mut().insert(name.clone(), agent.clone());
                    request
                });
        let client = Client::new(service, "default");
        advertise_standalone(&client, &url, server.ca_pem()).await?;
        let kubeconfig = args.data_dir.join("admin.kubeconfig");
        write_private(
            &kubeconfig,
            &server.admin_kubeconfig(&local.unwrap_or_else(|| url.clone())),
        )?;
        Ok(Self {
            server,
            client,
            url,
            kubeconfig,
        })
    }
}

fn listeners(args: &ServeArgs) -> anyhow::Result<Vec<TcpListener>> {
    let mut found = Vec::new();
    let default = [SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), PORT)];
    let wanted: &[SocketAddr] = if args.listen.is_empty() && args.listen_fds.is_empty() {
        &default
    } else {
        &args.listen
    };
    for address in wanted {
        let listener = TcpListener::bind(address).with_context(|| {
            format!(
                "cannot listen on {address}; choose another address with --listen, or end what listens there"
            )
        })?;
        found.push(listener);
    }
    for fd in &args.listen_fds {
        let socket = inherited(*fd).with_context(|| format!("--listen-fd {fd} is no inherited socket"))?;
        let listener = TcpListener::from(socket);
        listener
            .local_addr()
            .with_context(|| format!("--listen-fd {fd} is no inherited socket"))?;
        found.push(listener);
    }
    Ok(found)
}

/// A copy of a file descriptor that this process was started with.
fn inherited(fd: i32) -> std::io::Result<OwnedFd> {
    if fd == 0 {
        return std::io::stdin().as_fd().try_clone_to_owned();
    }
    // The one way to take a descriptor by its number that cannot go wrong: the kernel looks it up.
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    Ok(pidfd_getfd(this, fd, PidfdGetfdFlags::empty())?)
}

fn https(address: SocketAddr) -> String {
    format!("https://{address}")
}

/// The address under which others may reach a socket; for one on all addresses, that of the default route.
fn reachable(address: &SocketAddr) -> Option<SocketAddr> {
    if address.ip().is_loopback() {
        return None;
    }
    if !address.ip().is_unspecified() {
        return Some(*address);
    }
    // Connecting a datagram socket sends nothing: it asks for the source address towards the documentation
    // prefixes, which no network routes specially.
    let (from, towards) = if address.is_ipv4() {
        ("0.0.0.0:0", "192.0.2.1:9")
    } else {
        ("[::]:0", "[2001:db8::1]:9")
    };
    let socket = UdpSocket::bind(from).ok()?;
    socket.connect(towards).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified() && !ip.is_loopback()).then(|| SocketAddr::new(ip, address.port()))
}

/// Names for the server's certificate.
fn names(args: &ServeArgs, addresses: &[SocketAddr], url: &str) -> Vec<String> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    names.extend(
        addresses
            .iter()
            .filter(|a| !a.ip().is_unspecified())
            .map(|a| a.ip().to_string()),
    );
    names.extend(addresses.iter().filter_map(reachable).map(|a| a.ip().to_string()));
    if let Some(host) = url.parse::<http::Uri>().ok().as_ref().and_then(http::Uri::host) {
        names.push(host.trim_matches(['[', ']']).to_owned());
    }
    if let Ok(host) = std::fs::read_to_string("/proc/sys/kernel/hostname") {
        let host = host.trim();
        let dns = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        if !host.is_empty() && host.chars().all(dns) {
            names.push(host.to_owned());
        }
    }
    names.extend(args.tls_names.iter().cloned());
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|n| seen.insert(n.clone()));
    names
}

async fn advertise_standalone(client: &Client, url: &str, ca: &str) -> anyhow::Result<()> {
    use k8s_openapi::api::core::v1::Namespace;
    let metadata = ObjectMeta {
        name: Some(BROKER_NAMESPACE.to_owned()),
        ..ObjectMeta::default()
    };
    let namespace = Namespace {
        metadata,
        ..Namespace::default()
    };
    crate::controllers::objects::ensure(&Api::all(client.clone()), &namespace).await?;
    advertise(client, url, Some(ca)).await
}

/// Says how members reach the broker, for those who make tokens.
async fn advertise(client: &Client, url: &str, ca: Option<&str>) -> anyhow::Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), BROKER_NAMESPACE);
    let what = format!("writing ConfigMap {BROKER_NAMESPACE}/{ADDRESS_MAP}");
    let before = within(&what, maps.get_opt(ADDRESS_MAP)).await?;
    let mut data = BTreeMap::from([("url".to_owned(), url.to_owned())]);
    if let Some(ca) = ca {
        data.insert("ca.crt".to_owned(), ca.to_owned());
    }
    let mut map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(ADDRESS_MAP.to_owned()),
            ..ObjectMeta::default()
        },
        data: Some(data),
        ..ConfigMap::default()
    };
    let params = PostParams::default();
    match before {
        None => within(&what, maps.create(&params, &map)).await?,
        Some(before) if before.data == map.data => before,
        Some(before) => {
            map.metadata.resource_version = before.metadata.resource_version;
            within(&what, maps.replace(ADDRESS_MAP, &params, &map)).await?
        }
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsRawFd as _;

    use super::{inherited, reachable};

    #[test]
    fn a_socket_is_taken_over_by_its_number() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let copy = TcpListener::from(inherited(socket.as_raw_fd()).unwrap());
        assert_eq!(copy.local_addr().unwrap(), socket.local_addr().unwrap());
        assert!(inherited(999_999).is_err());
    }

    #[test]
    fn loopback_is_no_address_for_others() {
        assert_eq!(reachable(&"127.0.0.1:6443".parse().unwrap()), None);
        let address = "192.0.2.7:6443".parse().unwrap();
        assert_eq!(reachable(&address), Some(address));
    }
}
