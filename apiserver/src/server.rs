//! Starting, serving and stopping.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::api::{Api, Settings, ended};
use crate::auth::rbac::Rbac;
use crate::auth::token::Signer;
use crate::auth::{StaticTokens, User, random_token};
use crate::builtin::service::Addresses;
use crate::catalog::Catalogs;
use crate::config::{Config, Data};
use crate::error::Error;
use crate::http::Service;
use crate::rest::shared::{FIRST_STATE, Initials, Lines};
use crate::store::{Location, Store};
use crate::{controllers, files, manifests, tls};

/// Connections served at a time; more wait in the sockets' queues.
const MAX_CONNECTIONS: usize = 8192;
/// Time for a TLS handshake, and for the headers of a request.
const HANDSHAKE: Duration = Duration::from_secs(10);
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
        let dir = match &config.data {
            Data::Directory(dir) => {
                make_private(dir)?;
                Some(dir.clone())
            }
            Data::Memory => None,
        };
        let location = match &dir {
            Some(dir) => Location::File(dir.join("store.redb")),
            None => Location::Memory,
        };
        let window = config.window;
        let store = tokio::task::spawn_blocking(move || Store::open(&location, window))
            .await
            .map_err(|e| Error::Other(e.to_string()))?
            .map_err(Error::Store)?;
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
            },
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
        let material = tls::prepare(&config.tls, dir.as_deref())?;
        let mut tasks = JoinSet::new();
        if config.controllers {
            tasks.spawn(controllers::run(api.clone()));
        }
        tasks.spawn(tidy(api.clone()));
        let mut addrs = Vec::new();
        for listener in config.listeners {
            addrs.push(listener.local_addr().map_err(Error::Listener)?);
            listener.set_nonblocking(true).map_err(Error::Listener)?;
            let listener = tokio::net::TcpListener::from_std(listener).map_err(Error::Listener)?;
            tasks.spawn(serve(
                listener,
                TlsAcceptor::from(material.config.clone()),
                api.clone(),
            ));
        }
        Ok(Server {
            api,
            addrs,
            ca_pem: material.ca_pem,
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

fn make_private(dir: &Path) -> Result<(), Error> {
    let fail = |e| Error::File {
        path: PathBuf::from(dir),
        what: "made".into(),
        source: e,
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(fail)
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
    let path = dir.join("serviceaccount.key");
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

async fn serve(listener: tokio::net::TcpListener, acceptor: TlsAcceptor, api: Arc<Api>) {
    let mut shutdown = api.shutdown.subscribe();
    let graceful = GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let slot = tokio::select! {
            () = ended(&mut shutdown) => break,
            slot = slots.clone().acquire_owned() => match slot { Ok(s) => s, Err(_) => break },
        };
        let stream = tokio::select! {
            () = ended(&mut shutdown) => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(e) => {
                    // Out of file descriptors, or a connection that was gone before it was taken.
                    tracing::warn!(error = %e, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        if let Err(e) = stream.set_nodelay(true) {
            tracing::debug!(error = %e, "a socket option could not be set");
        }
        let acceptor = acceptor.clone();
        let service = hyper_util::service::TowerToHyperService::new(Service::new(api.clone(), None));
        let watcher = graceful.watcher();
        connections.spawn(async move {
            let _slot = slot;
            let tls = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(tls)) => tls,
                Ok(Err(e)) => {
                    tracing::debug!(error = %e, "a TLS handshake failed");
                    return;
                }
                Err(_) => return,
            };
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder
                .http1()
                .timer(TokioTimer::new())
                .header_read_timeout(HANDSHAKE);
            builder
                .http2()
                .timer(TokioTimer::new())
                .max_concurrent_streams(1024)
                .keep_alive_interval(Some(Duration::from_secs(30)))
                .keep_alive_timeout(Duration::from_secs(20));
            let connection = watcher.watch(builder.serve_connection(TokioIo::new(tls), service).into_owned());
            if let Err(e) = connection.await {
                tracing::debug!(error = %e, "a connection ended with an error");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::debug!("connections were still busy at shutdown and are cut");
    }
    connections.shutdown().await;
}
