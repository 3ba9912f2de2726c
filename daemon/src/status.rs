//! Metrics and probes: over HTTP where asked for, and on a socket for `strait probe`.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, UnixListener};

use crate::args::CommonArgs;
use crate::shutdown::Shutdown;

/// A daemon's metrics and its readiness; a cheap handle.
#[derive(Clone)]
pub struct Status(Arc<Inner>);

struct Inner {
    registry: Mutex<Registry>,
    unready: Mutex<Option<String>>,
    before_scrape: Mutex<Vec<Box<dyn Fn() + Send>>>,
}

impl std::fmt::Debug for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Status")
    }
}

impl Default for Status {
    fn default() -> Self {
        Self(Arc::new(Inner {
            registry: Mutex::new(Registry::with_prefix("strait")),
            unready: Mutex::new(Some("starting".to_owned())),
            before_scrape: Mutex::default(),
        }))
    }
}

impl Status {
    /// Registers metrics; names get the prefix `strait_`.
    pub fn register(&self, register: impl FnOnce(&mut Registry)) {
        register(&mut self.0.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Runs before every scrape, to bring gauges up to date.
    pub fn before_scrape(&self, update: impl Fn() + Send + 'static) {
        self.0
            .before_scrape
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Box::new(update));
    }

    /// The daemon does its work.
    pub fn ready(&self) {
        *self.0.unready.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The daemon does not do its work, for this reason.
    pub fn unready(&self, reason: impl Into<String>) {
        *self.0.unready.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.into());
    }

    /// Why the daemon is not ready; `None` if it is.
    pub fn why_unready(&self) -> Option<String> {
        self.0
            .unready
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Serves /metrics, /healthz and /readyz where the flags say, until shut down.
    ///
    /// # Errors
    /// If an address or socket path cannot be listened on; the message names it.
    pub async fn serve(&self, args: &CommonArgs, shutdown: &Shutdown) -> anyhow::Result<()> {
        if let Some(address) = args.metrics_listen {
            self.serve_tcp(address, shutdown).await?;
        }
        if let Some(path) = &args.probe_socket {
            self.serve_socket(path, shutdown)?;
        }
        Ok(())
    }

    async fn serve_tcp(&self, address: SocketAddr, shutdown: &Shutdown) -> anyhow::Result<()> {
        let listener = listen_tcp(address).await.map_err(|e| {
            anyhow::anyhow!("metrics address {address}: {e}; choose another with --metrics-listen")
        })?;
        let (router, shutdown) = (self.router(), shutdown.clone());
        tokio::spawn(async move {
            let served =
                axum::serve(listener, router).with_graceful_shutdown(async move { shutdown.wait().await });
            if let Err(e) = served.await {
                tracing::error!(%address, error = %e, "metrics are no longer served");
            }
        });
        Ok(())
    }

    fn serve_socket(&self, path: &Path, shutdown: &Shutdown) -> anyhow::Result<()> {
        let fail = |e: io::Error| anyhow::anyhow!("probe socket {}: {e}", path.display());
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(fail)?;
        }
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(fail(e)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(fail)?;
        let (router, shutdown) = (self.router(), shutdown.clone());
        tokio::spawn(async move {
            let served =
                axum::serve(listener, router).with_graceful_shutdown(async move { shutdown.wait().await });
            if let Err(e) = served.await {
                tracing::error!(error = %e, "probes are no longer answered");
            }
        });
        Ok(())
    }

    pub(crate) fn router(&self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .with_state(self.clone())
    }
}

async fn metrics(State(status): State<Status>) -> Response {
    for update in status
        .0
        .before_scrape
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .iter()
    {
        update();
    }
    let mut text = String::new();
    match encode(
        &mut text,
        &status.0.registry.lock().unwrap_or_else(PoisonError::into_inner),
    ) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    }
}

/// Listens on an address. `[::]` stands for every address of the machine, also where its kernel was started
/// without IPv6, so that manifests can say it everywhere.
///
/// # Errors
/// If the address cannot be listened on.
pub async fn listen_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(e) if e.raw_os_error() == Some(libc::EAFNOSUPPORT) && address.ip() == Ipv6Addr::UNSPECIFIED => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    }
}

async fn readyz(State(status): State<Status>) -> Response {
    match status.why_unready() {
        None => "ok\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

/// Asks the daemon behind a probe socket whether it is ready (or, with `live`, whether it answers at all).
///
/// # Errors
/// If it is not, or does not answer within two seconds; the message says which.
pub fn probe(socket: &Path, live: bool) -> anyhow::Result<()> {
    let fail = |e: io::Error| anyhow::anyhow!("no daemon answers on {}: {e}", socket.display());
    let mut stream = UnixStream::connect(socket).map_err(fail)?;
    stream
        .set_read_timeout(Some(Duration::from_secs(2)))
        .map_err(fail)?;
    stream
        .set_write_timeout(Some(Duration::from_secs(2)))
        .map_err(fail)?;
    let path = if live { "/healthz" } else { "/readyz" };
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n"
    )
    .map_err(fail)?;
    let mut answer = Vec::new();
    stream.take(64 * 1024).read_to_end(&mut answer).map_err(fail)?;
    judge(&answer).map_err(|why| anyhow::anyhow!("not ready: {why}"))
}

/// Whether an answer to a probe says yes; else why not, in one line.
pub(crate) fn judge(answer: &[u8]) -> Result<(), String> {
    let answer = String::from_utf8_lossy(answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let mut words = head.split_whitespace();
    if !words.next().is_some_and(|version| version.starts_with("HTTP/1.")) {
        return Err("the answer is no HTTP; is another program behind the socket?".to_owned());
    }
    match words.next() {
        Some("200") => Ok(()),
        code => match body.split_whitespace().collect::<Vec<_>>().join(" ") {
            why if why.is_empty() => Err(format!(
                "the answer is {} without a reason",
                code.unwrap_or("cut off")
            )),
            why => Err(why),
        },
    }
}
