//! `strait agent`: the mirror and the service controllers, in whichever replica holds the Lease.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use kube::Client;
use strait_api::names::AGENT_LEASE;
use strait_broker::{leader, mirror};
use strait_daemon::{CommonArgs, Shutdown, Status, client};
use strait_lighthouse_dns::controllers;

/// Flags of `strait agent`.
#[derive(Debug, Clone, Args)]
pub(crate) struct AgentArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Name of this replica in the Lease that elects one of them [default: the host's name]
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    identity: Option<String>,
}

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(args: AgentArgs) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(args))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(args: AgentArgs) -> Result<()> {
    let shutdown = Shutdown::on_signals().context("no signal handlers")?;
    let status = Status::default();
    status.serve(&args.common, &shutdown).await?;
    let client = client::connect(args.common.kubeconfig.as_deref(), "strait-agent").await?;
    let namespace = &args.common.namespace;
    let identity = identity(args.identity)?;
    let mirror = mirror::Settings {
        namespace: namespace.clone(),
        identity: identity.clone(),
        metrics: mirror::Metrics::default(),
    };
    let services = controllers::Settings {
        namespace: namespace.clone(),
        ..controllers::Settings::default()
    };
    status.register(|registry| {
        mirror.metrics.register(registry);
        services.metrics.register(registry);
    });
    // The replica that waits for the Lease does its work as well.
    status.ready();
    leader::run_while_leading(
        client.clone(),
        namespace,
        AGENT_LEASE,
        &identity,
        shutdown,
        |term| lead(client.clone(), mirror.clone(), services.clone(), term),
    )
    .await
}

async fn lead(
    client: Client,
    mirror: mirror::Settings,
    services: controllers::Settings,
    term: Shutdown,
) -> Result<()> {
    tokio::join!(
        mirror::run(client.clone(), mirror, term.clone()),
        controllers::run(client, services, term),
    );
    Ok(())
}

fn identity(given: Option<String>) -> Result<String> {
    if let Some(name) = given.filter(|n| !n.is_empty()) {
        return Ok(name);
    }
    let file = "/proc/sys/kernel/hostname";
    let host = std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
    // Two processes on one host are two replicas.
    Ok(format!("{}-{}", host.trim(), std::process::id()))
}
