//! The daemon: wait for a change, read the kernel, decide, apply, report.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use strait_core::kernel::{ForeignRefusal, KernelState, NftTable, VipTargets};
use strait_core::node::{NotYet, Skipped};
use strait_daemon::inputs::{Knowledge, Waker};
use strait_daemon::{CommonArgs, Inputs, Shutdown, Status, client};
use strait_linux::{Changes, Kernel};
use tokio::time::Instant;

use crate::args::{Args, UnderlayMtu};
use crate::decide::{Decision, decide};
use crate::metrics::Metrics;
use crate::objects::Watches;

/// How long changes are gathered: long enough for the records of one event, short against a second.
const CALM: Duration = Duration::from_millis(2);
/// The kernel is compared with what it should hold at least this often, whatever it told.
const FULL_SYNC: Duration = Duration::from_secs(30);
/// How long the API server may take at the start, while the kernel keeps what the last run applied.
const PATIENCE: Duration = Duration::from_secs(3);
/// The first wait after a failed round; it doubles.
const FIRST_RETRY: Duration = Duration::from_millis(100);

/// The folder in the state directory.
pub(crate) const STATE: &str = "route-agent";

/// Runs the route agent until SIGTERM, or uninstalls. The kernel keeps what was applied: packets flow on.
///
/// # Errors
/// Where the daemon cannot start: no way to the API server named, a metrics address in use, no right to
/// open netlink. What fails later is reported and tried again.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("the run time cannot be started")?;
    runtime.block_on(async {
        if args.uninstall {
            return uninstall(&state_dir(&args.common)).await;
        }
        let shutdown = Shutdown::on_signals().context("signals cannot be handled")?;
        serve(args, shutdown).await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// [`run`] without `--uninstall`, for callers that have a run time and say when to stop. It works on the
/// network namespace of the thread that polls it first.
///
/// # Errors
/// As [`run`].
pub async fn serve(args: Args, shutdown: Shutdown) -> anyhow::Result<()> {
    let node = args.node.node_name.clone().context("--node-name is missing")?;
    let status = Status::default();
    let metrics = Metrics::new(&status);
    let api = client::connect(args.common.kubeconfig.as_deref(), "strait-route-agent").await?;
    let saved = state_dir(&args.common);
    let kernel = Kernel::open(&saved)?;
    status.serve(&args.common, &shutdown).await?;

    let mut inputs = Inputs::new(Some(&saved), shutdown.clone());
    let watches = Watches::new(&mut inputs, &api, &args.common.namespace);
    let changes = kernel.subscribe()?;
    tokio::spawn(wake_on_changes(changes, kernel.clone(), inputs.waker()));
    status.unready("waiting for the API server, as nothing is saved from an earlier run");

    let mut agent = Agent {
        node,
        underlay: args.node.underlay_mtu,
        watches,
        kernel,
        status,
        metrics,
        held: None,
        hindrance: None,
        skipped: BTreeSet::new(),
        refusals: BTreeSet::new(),
    };
    // Before every kind is known, live or from disk, nothing may be concluded from what is missing.
    tokio::select! {
        () = inputs.first(CALM, PATIENCE) => {}
        () = shutdown.wait() => return Ok(()),
    }
    let mut retry = FIRST_RETRY;
    loop {
        let from_disk = inputs.knowledge() == Knowledge::Saved;
        let next = match agent.round(from_disk).await {
            Ok(()) => {
                retry = FIRST_RETRY;
                FULL_SYNC
            }
            Err(error) => {
                agent.failed(&error);
                let wait = retry;
                retry = (retry * 2).min(FULL_SYNC);
                wait
            }
        };
        let deadline = Instant::now() + next;
        tokio::select! {
            () = inputs.changed(CALM) => {}
            () = tokio::time::sleep_until(deadline) => {}
            () = shutdown.wait() => {
                tracing::info!("stopping; the node keeps its routes");
                inputs.saved().await;
                return Ok(());
            }
        }
    }
}

/// Where the route agent keeps what it saw last and what kernel parameters were before it.
fn state_dir(common: &CommonArgs) -> PathBuf {
    common.state_dir.join(STATE)
}

/// Wakes the loop when somebody else changed what is ours, or a tunnel device came or went.
async fn wake_on_changes(mut changes: Changes, kernel: Kernel, waker: Waker) {
    loop {
        match changes.next().await {
            Ok(what) => {
                tracing::debug!(?what, "the kernel changed");
                waker.wake();
            }
            Err(error) => {
                tracing::error!(%error, "the kernel's notifications failed; subscribing anew");
                // What was missed meanwhile is read by the round that this wakes.
                tokio::time::sleep(FIRST_RETRY).await;
                match kernel.subscribe() {
                    Ok(anew) => changes = anew,
                    Err(error) => {
                        tracing::error!(%error, "no notifications; repairs wait for the periodic full sync");
                        return;
                    }
                }
                waker.wake();
            }
        }
    }
}

/// Leaves the kernel as if Strait had never been here. A gateway's tunnel device goes with its process.
async fn uninstall(state: &Path) -> anyhow::Result<ExitCode> {
    let report = Kernel::open(state)?.uninstall().await?;
    for failure in &report.failed {
        tracing::error!("{failure}");
    }
    if !report.is_ok() {
        bail!(
            "{} of Strait's objects stay in the kernel, see above; run it again",
            report.failed.len()
        );
    }
    // Inputs of a life that is over must not start the next one.
    match std::fs::remove_dir_all(state) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("{} cannot be removed", state.display()));
        }
        _ => {}
    }
    tracing::info!(
        removed = report.done,
        "nothing of Strait is left in this node's kernel"
    );
    Ok(ExitCode::SUCCESS)
}

struct Agent {
    node: String,
    underlay: UnderlayMtu,
    watches: Watches,
    kernel: Kernel,
    status: Status,
    metrics: Metrics,
    /// What the kernel should hold and was last seen to.
    held: Option<KernelState>,
    /// What was last reported as being in the way.
    hindrance: Option<String>,
    skipped: BTreeSet<Skipped>,
    refusals: BTreeSet<ForeignRefusal>,
}

impl Agent {
    async fn round(&mut self, from_disk: bool) -> anyhow::Result<()> {
        let begun = Instant::now();
        self.metrics.reconciles.inc();
        let actual = self
            .kernel
            .read()
            .await
            .context("the kernel's state cannot be read")?;
        let decision = match decide(&self.watches.objects(), &self.node, self.underlay, &actual)? {
            Ok(decision) => decision,
            Err(not_yet) => {
                self.wait_for(&not_yet);
                return Ok(());
            }
        };
        self.report_refusals(&actual.foreign_refusals);
        self.report_skipped(&decision.skipped);
        self.apply(decision).await?;
        self.metrics.seconds.observe(begun.elapsed().as_secs_f64());
        if let Some(hindrance) = self.hindrance.take() {
            tracing::info!(after = hindrance, "all is as wanted again");
        }
        if from_disk {
            tracing::debug!("going by the inputs saved on disk, until the API server answers");
        }
        self.status.ready();
        Ok(())
    }

    async fn apply(&mut self, decision: Decision) -> anyhow::Result<()> {
        let Decision { wanted, plan, .. } = decision;
        if !plan.is_empty() {
            for op in &plan.ops {
                tracing::debug!(%op, "applying");
            }
            let report = self
                .kernel
                .apply(&plan)
                .await
                .context("the plan could not be applied")?;
            let operations = report.done as u64;
            self.metrics.operations.inc_by(operations);
            if let Some(first) = report.failed.first() {
                bail!(
                    "{} of {} changes to the kernel failed, the first: {first}",
                    report.failed.len(),
                    plan.ops.len()
                );
            }
            if self.held.as_ref() == Some(&wanted) {
                self.metrics.drift.inc_by(operations);
                tracing::warn!(operations, first = %plan.ops[0], "repaired what somebody else had changed");
            } else {
                tracing::info!(
                    operations,
                    routes = wanted.routes.len(),
                    "the node's kernel was brought up to date"
                );
            }
        }
        self.forget_stale_flows(wanted.nft.as_ref()).await;
        self.metrics.succeeded(&wanted);
        self.held = Some(wanted);
        Ok(())
    }

    /// Clients of UDP would go on talking to endpoints that are gone. Where the kernel does not show its
    /// connections that is all that is lost, so it stops nothing else.
    async fn forget_stale_flows(&self, wanted: Option<&NftTable>) {
        let targets = |table: Option<&NftTable>| table.map(VipTargets::of);
        let before = self.held.as_ref().and_then(|held| held.nft.as_ref());
        let Some(table) = wanted.filter(|w| targets(Some(w)) != targets(before)) else {
            return;
        };
        match self.kernel.forget_stale_flows(table).await {
            Ok(0) => {}
            Ok(flows) => tracing::info!(flows, "forgot UDP connections to endpoints that are gone"),
            Err(error) => {
                self.metrics.errors.inc();
                tracing::warn!(%error, "UDP clients may go on talking to endpoints that are gone");
            }
        }
    }

    fn report_refusals(&mut self, refusals: &BTreeSet<ForeignRefusal>) {
        for new in refusals.difference(&self.refusals) {
            tracing::warn!("{new}");
        }
        for gone in self.refusals.difference(refusals) {
            let ForeignRefusal {
                family,
                table,
                chain,
                handle,
                ..
            } = gone;
            tracing::info!(
                "chain {family} {table} {chain} no longer refuses the clusterset's packets by rule {handle}"
            );
        }
        self.metrics
            .refusals
            .set(i64::try_from(refusals.len()).unwrap_or(i64::MAX));
        self.refusals.clone_from(refusals);
    }

    fn report_skipped(&mut self, skipped: &BTreeSet<Skipped>) {
        for new in skipped.difference(&self.skipped) {
            tracing::warn!(object = new.object, "{}", new.message);
        }
        self.metrics
            .skipped
            .set(i64::try_from(skipped.len()).unwrap_or(i64::MAX));
        self.skipped.clone_from(skipped);
    }

    fn wait_for(&mut self, not_yet: &NotYet) {
        let text = not_yet.to_string();
        if self.hindrance.as_ref() != Some(&text) {
            tracing::warn!("{text}; leaving the kernel as it is until then");
        }
        self.status.unready(text.clone());
        self.hindrance = Some(text);
    }

    fn failed(&mut self, error: &anyhow::Error) {
        self.metrics.errors.inc();
        // What was applied of the plan is unknown now.
        self.held = None;
        let text = format!("{error:#}");
        if self.hindrance.as_ref() == Some(&text) {
            tracing::debug!("{text}");
        } else {
            tracing::error!("{text}; trying again");
        }
        self.status.unready(text.clone());
        self.hindrance = Some(text);
    }
}
