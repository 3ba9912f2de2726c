//! `strait dns`: answers `clusterset.local` from an immutable snapshot of the ServiceImports here.
//!
//! [`names`] follows the API server and swaps snapshots in; [`handler`] answers one question out of the one
//! that is current; [`server`] holds the sockets. The server answers SERVFAIL until the first snapshot is
//! complete, and goes on answering from the last one while the API server is away (it is kept on disk too).

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
pub mod handler;
mod metrics;
mod names;
pub mod server;
mod wire;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::Context as _;
use kube::Client;
use strait_api::ClusterId;
use strait_core::dns::Zone;
use strait_daemon::{CommonArgs, Shutdown, Status};

pub use handler::Handler;
pub use metrics::Metrics;

/// Flags of `strait dns`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Flags of every daemon.
    #[command(flatten)]
    pub common: CommonArgs,

    /// Answer on these addresses, by UDP and TCP. On a host with several addresses name each, as answers to
    /// a wildcard leave from whichever address the route prefers
    #[arg(
        long,
        env = "STRAIT_DNS_LISTEN",
        value_delimiter = ',',
        default_value = "[::]:53",
        value_name = "ADDR:PORT"
    )]
    pub listen: Vec<SocketAddr>,

    /// The zone to answer
    #[arg(
        long,
        env = "STRAIT_DNS_ZONE",
        default_value = "clusterset.local",
        value_name = "NAME"
    )]
    pub zone: Zone,

    /// UDP sockets of each address; as many as there are cores unless said
    #[arg(long, env = "STRAIT_DNS_WORKERS", value_name = "N")]
    pub workers: Option<NonZeroUsize>,

    /// This cluster's ID: its own endpoints of headless services are answered first
    #[arg(long, env = "STRAIT_CLUSTER_ID", value_name = "ID")]
    pub cluster_id: Option<ClusterId>,
}

/// Runs `strait dns` until SIGTERM or SIGINT, on a run time of its own.
///
/// # Errors
/// If an address cannot be listened on, or the kubeconfig cannot be used.
pub fn run(args: Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(args.workers())
        .enable_all()
        .build()
        .context("run time")?;
    runtime.block_on(async {
        let shutdown = Shutdown::on_signals().context("signal handlers")?;
        Daemon::start(&args, shutdown).await?.serve().await
    })
}

impl Args {
    fn workers(&self) -> usize {
        self.workers
            .or_else(|| std::thread::available_parallelism().ok())
            .map_or(1, NonZeroUsize::get)
    }
}

/// A DNS server that listens, and follows the API server.
pub struct Daemon {
    server: server::Server,
    handler: Handler,
    status: Status,
    client: Client,
    saved_in: Option<PathBuf>,
    shutdown: Shutdown,
}

impl std::fmt::Debug for Daemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Daemon")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

impl Daemon {
    /// Listens. Nothing is answered before [`Daemon::serve`].
    ///
    /// # Errors
    /// As [`run`].
    pub async fn start(args: &Args, shutdown: Shutdown) -> anyhow::Result<Self> {
        let client = strait_daemon::client::connect(args.common.kubeconfig.as_deref(), "strait-dns").await?;
        Self::start_with(args, client, shutdown).await
    }

    /// The same, with a client at hand.
    ///
    /// # Errors
    /// If an address cannot be listened on.
    pub async fn start_with(args: &Args, client: Client, shutdown: Shutdown) -> anyhow::Result<Self> {
        let (status, metrics) = (Status::default(), Metrics::default());
        status.register(|r| metrics.register(r));
        status.unready("the list of ServiceImports is not complete yet");
        let handler = Handler::new(args.zone.clone(), args.cluster_id.clone(), metrics.clone());
        status.before_scrape(move || metrics.measure_age());
        let server = server::Server::start(&args.listen, args.workers(), handler.clone())?;
        status.serve(&args.common, &shutdown).await?;
        Ok(Self {
            server,
            handler,
            status,
            client,
            saved_in: saved_in(args.common.state_dir.join("dns")),
            shutdown,
        })
    }

    /// The addresses, with their ports.
    pub fn addresses(&self) -> &[SocketAddr] {
        self.server.addresses()
    }

    /// Whether it answers from names yet.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Answers until shut down.
    ///
    /// # Errors
    /// If a socket fails for good.
    pub async fn serve(self) -> anyhow::Result<()> {
        let follow = names::follow(
            self.client,
            self.saved_in.as_deref(),
            self.handler,
            self.status,
            self.shutdown.clone(),
        );
        tokio::pin!(follow);
        tokio::select! {
            ended = self.server.serve(&self.shutdown) => {
                if self.shutdown.is_triggered() {
                    // It writes what it saw last.
                    follow.await;
                }
                ended
            }
            () = &mut follow => Ok(()),
        }
    }
}

/// The folder for saved inputs, if it can be written.
fn saved_in(dir: PathBuf) -> Option<PathBuf> {
    match std::fs::create_dir_all(&dir) {
        Ok(()) => Some(dir),
        Err(e) => {
            tracing::warn!(
                dir = %dir.display(),
                error = %e,
                "names are not kept on disk: a restart without the API server will answer SERVFAIL; set --state-dir to keep them"
            );
            None
        }
    }
}
