//! Starting, serving and stopping.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::api::{Api, Settings, ended};
use crate::audit::Log;
use crate::auth::rbac::Rbac;
use crate::auth::token::Signer;
use crate::auth::{StaticTokens, User, random_token};
use crate::builtin::service::Addresses;
use crate::catalog::Catalogs;
use crate::config::{Config, Data, Limits, check_service_cidrs};
use crate::error::Error;
use crate::http::{Peer, Service};
use crate::limits::{Gate, Place, Places};
use crate::patient::Patient;
use crate::rest::shared::{FIRST_STATE, Initials, Lines};
use crate::stall::Streams;
use crate::store::{Location, STORE_FILE, Store};
use crate::tls::identity::identity;
use crate::tls::rotate::Rotating;
use crate::{controllers, files, manifests};

/// Time between two lines in the log about connections that are refused.
const COMPLAIN: Duration = Duration::from_secs(10);
/// Signs tokens of service accounts.
const SIGNING_KEY: &str = "serviceaccount.key";
/// Time for requests under way when the server stops.
const DRAIN: Duration = Duration::from_secs(2);

/// A running server. It stops when [`Server::shutdown`] is called, or is cut when it is dropped.
pub struct Server {
    api: Arc<Api>,
    addrs: Vec<SocketAddr>,
    ca_pem: String,
    admin_token: String,
    tasks: JoinSet<()>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the token.
        f.debug_struct("Server")
            .field("addrs", &self.addrs)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Opens the store, loads the manifests, and serves. When this returns, the API answers.
    pub async fn start(config: Config) -> Result<Self, Error> {
        check_service_cidrs(&config.service_cidrs)?;
        let dir = match &config.data {
            Data::Directory(dir) => {
                files::make_private(dir)?;
                not_emptied(dir)?;
                Some(dir.clone())
            }
            Data::Memory => None,
        };
        let location = match &dir {
            Some(dir) => Location::File(dir.join(STORE_FILE)),
            None => Location::Memory,
        };
        let window = config.window;
        let store = tokio::task::spawn_blocking(move || Store::open(&location, window))
            .await
            .map_err(|e| Error::Other(e.to_string()))?
            .map_err(Error::Store)?;
        let started = Self::start_over(store.clone(), config, dir).await;
        if started.is_err() {
            // Whoever tries again finds the file free.
            store.close().await;
        }
        started
    }

    async fn start_over(store: Store, config: Config, dir: Option<PathBuf>) -> Result<Self, Error> {
        let admin_token = admin_token(config.admin_token.clone(), dir.as_deref())?;
        let mut tokens = StaticTokens::default();
        tokens.add(&admin_token, User::admin());
        for (token, user) in &config.tokens {
            tokens.add(token, user.clone());
        }
        let api = Arc::new(Api {
            catalogs: Catalogs::new(store.clone()),
            rbac: Rbac::new(store.clone()),
            tokens,
            signer: signer(dir.as_deref())?,
            addresses: Arc::new(Addresses::default()),
            settings: Settings {
                service_cidrs: config.service_cidrs.clone(),
                pod_grace: config.pod_grace,
                version: config.version.clone(),
                max_body: config.max_body,
                body_time: config.limits.body_time,
                dir: dir.clone(),
            },
            gate: Gate::new(&config.limits),
            audit: config.audit.map(Log::start).transpose()?,
            initials: Initials::default(),
            lines: Lines::default(),
            rights: watch::channel(0).0,
            shutdown: watch::channel(false).0,
            store,
        });
        for service in api.store.list("services", "").items {
            api.addresses.adopt(&service.value());
        }
        manifests::bootstrap(&api).await?;
        for text in &config.manifests {
            manifests::load(&api, text).await?;
        }
        let (certificates, texts) =
            Rotating::start(&config.tls, config.client_ca.as_deref(), dir.as_deref())?;
        let ca_pem = texts.ca.clone();
        let mut tasks = JoinSet::new();
        if config.controllers {
            tasks.spawn(controllers::run(api.clone()));
        }
        tasks.spawn(tidy(api.clone()));
        tasks.spawn(certificates.clone().follow(texts, config.tls_poll, api.clone()));
        let door = Arc::new(Door {
            api: api.clone(),
            certificates,
            connections: Places::new(
                config.limits.connections.min(files::room()),
                config.limits.connections_per_address,
            ),
            limits: config.limits,
        });
        let mut addrs = Vec::new();
        for listener in config.listeners {
            addrs.push(listener.local_addr().map_err(Error::Listener)?);
            listener.set_nonblocking(true).map_err(Error::Listener)?;
            let listener = tokio::net::TcpListener::from_std(listener).map_err(Error::Listener)?;
            tasks.spawn(serve(listener, door.clone()));
        }
        Ok(Server {
            api,
            addrs,
            ca_pem,
            admin_token,
            tasks,
        })
    }

    /// Address of the first socket.
    pub fn addr(&self) -> Option<SocketAddr> {
        self.addrs.first().copied()
    }

    /// Addresses of all sockets.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// The certificate that clients shall trust.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The administrator's token.
    pub fn admin_token(&self) -> &str {
        &self.admin_token
    }

    /// A kubeconfig of the administrator for this URL, `https://127.0.0.1:6443` for example.
    pub fn admin_kubeconfig(&self, url: &str) -> String {
        kubeconfig(url, &self.ca_pem, "admin", &self.admin_token)
    }

    /// The API as a service without a socket. It takes the user from the requests' tokens.
    pub fn service(&self) -> Service {
        Service::new(self.api.clone(), None)
    }

    /// The same, as the administrator: `kube::Client::new(server.admin_service(), "default")`.
    pub fn admin_service(&self) -> Service {
        self.service_as(User::admin())
    }

    /// The same, as this user.
    pub fn service_as(&self, user: User) -> Service {
        Service::new(self.api.clone(), Some(user))
    }

    /// Applies a manifest: YAML, several documents.
    pub async fn apply_manifest(&self, text: &str) -> Result<(), Error> {
        manifests::load(&self.api, text).await
    }

    /// Does once what the controllers do: collects what has lost its owners, and ends namespaces.
    pub async fn collect(&self) -> Result<(), Error> {
        controllers::collect(&self.api)
            .await
            .map_err(|e| Error::Other(e.to_string()))
    }

    #[cfg(test)]
    pub(crate) fn api_for_tests(&self) -> &Api {
        &self.api
    }

    /// The latest resource version.
    pub fn resource_version(&self) -> u64 {
        self.api.store.rv()
    }

    /// Ends watches, lets requests under way finish, and closes the sockets and the store.
    pub async fn shutdown(mut self) {
        self.api.shutdown.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
        self.api.store.close().await;
    }
}

/// A kubeconfig with a token.
pub fn kubeconfig(url: &str, ca_pem: &str, user: &str, token: &str) -> String {
    let ca = STANDARD.encode(ca_pem);
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: strait\n  cluster:\n    server: {url}\n    certificate-authority-data: {ca}\nusers:\n- name: {user}\n  user:\n    token: {token}\ncontexts:\n- name: strait\n  context:\n    cluster: strait\n    user: {user}\ncurrent-context: strait\n"
    )
}

/// Refuses a store that has lost all its content: to begin anew would make that final.
fn not_emptied(dir: &Path) -> Result<(), Error> {
    let store = dir.join(STORE_FILE);
    let empty = std::fs::metadata(&store).is_ok_and(|m| m.len() == 0);
    // The key is made after the store.
    if empty && dir.join(SIGNING_KEY).exists() {
        return Err(Error::Store(format!(
            "the store {} is empty, though its folder was in use: restore a backup into another folder, or remove the file to begin anew",
            store.display()
        )));
    }
    Ok(())
}

fn admin_token(given: Option<String>, dir: Option<&Path>) -> Result<String, Error> {
    if let Some(token) = given {
        if token.is_empty() {
            return Err(Error::Config("the administrator's token is empty".into()));
        }
        return Ok(token);
    }
    let make = || random_token().map_err(|e| Error::Other(format!("no random numbers for a token: {e}")));
    let Some(dir) = dir else { return make() };
    let path = dir.join("admin.token");
    if let Some(token) = files::read(&path)? {
        let token = token.trim().to_owned();
        if !token.is_empty() {
            return Ok(token);
        }
    }
    let token = make()?;
    files::write(&path, token.as_bytes(), true)?;
    Ok(token)
}

fn signer(dir: Option<&Path>) -> Result<Signer, Error> {
    let make = || Signer::generate().map_err(Error::Other);
    let Some(dir) = dir else {
        return Signer::new(&make()?).map_err(Error::Other);
    };
    let path = dir.join(SIGNING_KEY);
    if let Some(text) = files::read(&path)? {
        let key = STANDARD
            .decode(text.trim())
            .map_err(|e| Error::Other(format!("{} holds no key: {e}", path.display())))?;
        return Signer::new(&key).map_err(Error::Other);
    }
    let key = make()?;
    files::write(&path, STANDARD.encode(&key).as_bytes(), true)?;
    Signer::new(&key).map_err(Error::Other)
}

/// Forgets what is kept for a while only.
async fn tidy(api: Arc<Api>) {
    let mut shutdown = api.shutdown.subscribe();
    let mut ticks = tokio::time::interval(FIRST_STATE / 6);
    loop {
        tokio::select! {
            () = ended(&mut shutdown) => return,
            _ = ticks.tick() => api.initials.prune(),
        }
    }
}

/// What all sockets share.
struct Door {
    api: Arc<Api>,
    certificates: Arc<Rotating>,
    connections: Arc<Places<IpAddr>>,
    limits: Limits,
}

async fn serve(listener: tokio::net::TcpListener, door: Arc<Door>) {
    let mut shutdown = door.api.shutdown.subscribe();
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut complaint = Instant::now() - COMPLAIN;
    loop {
        let (stream, address) = tokio::select! {
            () = ended(&mut shutdown) => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => (stream, peer.ip().to_canonical()),
                Err(e) => {
                    // Out of file descriptors, or a connection that was gone before it was taken.
                    tracing::warn!(error = %e, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let Some(place) = door.connections.take(&address) else {
            // One line for many: whoever floods does not fill the log too.
            if complaint.elapsed() >= COMPLAIN {
                complaint = Instant::now();
                tracing::warn!(%address, "there are too many connections, in all or from this address; new ones are closed");
            }
            continue;
        };
        let watcher = graceful.watcher();
        connections.spawn(connection(stream, address, place, door.clone(), watcher));
    }
    drop(listener);
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::debug!("connections were still busy at shutdown and are cut");
    }
    connections.shutdown().await;
}

async fn connection(
    stream: TcpStream,
    address: IpAddr,
    _place: Place<IpAddr>,
    door: Arc<Door>,
    watcher: Watcher,
) {
    let limits = &door.limits;
    if let Err(e) = stream.set_nodelay(true) {
        tracing::debug!(error = %e, "a socket option could not be set");
    }
    let acceptor = TlsAcceptor::from(door.certificates.current());
    let stream = Patient::new(stream, limits.stall_time);
    let tls = match tokio::time::timeout(limits.header_time, acceptor.accept(stream)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(e)) => {
            tracing::debug!(error = %e, "a TLS handshake failed");
            return;
        }
        Err(_) => return,
    };
    let shown = tls.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let peer = Peer {
        address,
        identity: shown.and_then(|certificate| identity(certificate)),
    };
    let service = TowerToHyperService::new(Service::connected(door.api.clone(), peer));
    let mut builder = auto::Builder::new(Streams {
        patience: limits.stall_time,
    });
    builder
        .http1()
        .timer(TokioTimer::new())
        .max_buf_size(limits.header_bytes.max(8192))
        .header_read_timeout(limits.header_time);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(1024)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_send_buf_size(64 << 10)
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(20));
    let connection = watcher.watch(builder.serve_connection(TokioIo::new(tls), service).into_owned());
    if let Err(e) = connection.await {
        tracing::debug!(error = %e, "a connection ended with an error");
    }
}
