//! `strait plan`: what the route agent would change on this node.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use strait_core::kernel::{ForeignRefusal, Plan};
use strait_daemon::{Inputs, Shutdown, client, stdout};
use strait_linux::Kernel;

use crate::agent::STATE;
use crate::args::{Output, PlanArgs};
use crate::decide::decide;
use crate::objects::Watches;

/// Where the right credentials are.
const ELSEWHERE: &str = "run `strait plan` with the route agent's own: on Kubernetes `kubectl -n strait-system exec POD-OF-THE-ROUTE-AGENT -- strait plan`, in a lab `strait lab exec CLUSTER/NODE/route-agent -- strait plan`";

/// How long the API server may take to list everything.
const PATIENCE: Duration = Duration::from_secs(15);

/// Prints the plan; with `--output text` nothing where there is nothing to change.
///
/// # Errors
/// Where the API server or the kernel cannot be read, or the cluster has not joined.
pub fn plan(args: PlanArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("the run time cannot be started")?;
    runtime.block_on(print(args))
}

async fn print(args: PlanArgs) -> anyhow::Result<ExitCode> {
    let (plan, refusals) = planned(&args).await?;
    for refusal in &refusals {
        eprintln!("note: {refusal}");
    }
    match args.output {
        Output::Json => stdout::print(&serde_json::to_string_pretty(&plan)?)?,
        Output::Text if plan.ops.is_empty() => {}
        Output::Text => {
            let ops: Vec<String> = plan.ops.iter().map(ToString::to_string).collect();
            stdout::print(&ops.join("\n"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What the route agent would change on this node, and what of somebody else's would be in its way.
///
/// # Errors
/// As [`plan`].
pub async fn planned(args: &PlanArgs) -> anyhow::Result<(Plan, BTreeSet<ForeignRefusal>)> {
    let api = client::connect(args.kubeconfig.as_deref(), "strait-plan").await?;
    let shutdown = Shutdown::default();
    // Saved nowhere: the files are the route agent's.
    let mut inputs = Inputs::new(None, shutdown.clone());
    let refused = inputs.refused();
    let watches = Watches::new(&mut inputs, &api, &args.namespace);
    let listed = tokio::select! {
        listed = tokio::time::timeout(PATIENCE, inputs.changed(Duration::from_millis(1))) => listed,
        refused = refused => {
            shutdown.trigger();
            bail!("{refused}; {ELSEWHERE}");
        }
    };
    shutdown.trigger();
    listed.with_context(|| {
        format!(
            "the API server did not list all objects within {} s; see the warnings above",
            PATIENCE.as_secs()
        )
    })?;
    let kernel = Kernel::open(&args.state_dir.join(STATE))?;
    let actual = kernel.read().await.context("the kernel's state cannot be read")?;
    let plan = decide(&watches.objects(), &args.node_name, args.underlay_mtu, &actual)??.plan;
    Ok((plan, actual.foreign_refusals))
}
