//! `strait dns`: answers `clusterset.local` from an immutable snapshot of the ServiceImports here.
//!
//! [`names`] follows the API server and swaps snapshots in; [`handler`] answers one question out of the one
//! that is current; [`server`] holds the sockets. The server answers SERVFAIL until the first snapshot is
//! complete, and goes on answering from the last one while the API server is away (it is kept on disk too).

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

/// Runs `strait dns` until SIGTERM or SIGINT.
///
/// # Errors
/// If an address cannot be listened on, or the kubeconfig cannot be used.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let shutdown = Shutdown::on_signals().context("signal handlers")?;
    run_until(args, shutdown).await
}

/// Runs `strait dns` until shut down.
///
/// # Errors
/// As [`run`].
pub async fn run_until(args: Args, shutdown: Shutdown) -> anyhow::Result<()> {
    let status = Status::default();
    let metrics = Metrics::default();
    status.register(|r| metrics.register(r));
    let handler = Handler::new(args.zone.clone(), args.cluster_id.clone(), metrics);
    let workers = args.workers.or_else(|| std::thread::available_parallelism().ok());
    let workers = workers.map_or(1, NonZeroUsize::get);
    let server = server::Server::start(&args.listen, workers, handler.clone())?;
    status.unready("the list of ServiceImports is not complete yet");
    status.before_scrape({
        let handler = handler.clone();
        move || handler.metrics().measure_age()
    });
    status.serve(&args.common, &shutdown).await?;
    let client: Client = strait_daemon::client::connect(args.common.kubeconfig.as_deref()).await?;
    let saved_in = saved_in(args.common.state_dir.join("dns"));
    let follow = names::follow(client, saved_in.as_deref(), handler, status, shutdown.clone());
    tokio::select! {
        ended = server.serve(&shutdown) => ended,
        () = follow => Ok(()),
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
