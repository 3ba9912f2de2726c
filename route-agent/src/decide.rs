//! One step, shared by the route agent and `strait plan`: what was watched and what was read, to a plan.

use std::collections::BTreeSet;

use anyhow::Context as _;
use strait_core::kernel::{self, KernelState, Plan, RuleDigest, TUNNEL_DEVICE};
use strait_core::node::{self, NotYet, Observed, Skipped};

use crate::args::UnderlayMtu;
use crate::objects::Objects;
use crate::underlay;

/// What should be, and how to get there.
#[derive(Debug)]
pub(crate) struct Decision {
    pub(crate) wanted: KernelState,
    pub(crate) plan: Plan,
    pub(crate) skipped: BTreeSet<Skipped>,
}

/// Decides for a node. `Ok(Err)` says that the objects do not tell enough yet: then nothing may change.
///
/// # Errors
/// Where this node's links do not fit what Kubernetes says of it.
pub(crate) fn decide(
    objects: &Objects,
    node: &str,
    underlay: UnderlayMtu,
    actual: &KernelState<RuleDigest>,
) -> anyhow::Result<Result<Decision, NotYet>> {
    let (mut inputs, mut skipped) = objects.inputs(node);
    let outer = node::outer_address(node, &inputs.nodes);
    inputs.observed = Observed {
        tunnel_exists: actual.foreign_links.contains(TUNNEL_DEVICE),
        underlay_mtu: underlay::mtu(underlay, outer).context("the underlay's MTU is not known")?,
        foreign_drops: actual.foreign_drops.clone(),
    };
    let desired = match node::desired(&inputs) {
        Ok(desired) => desired,
        Err(not_yet) => return Ok(Err(not_yet)),
    };
    skipped.extend(desired.skipped);
    for refusal in inputs.clusterset.refusals {
        skipped.insert(Skipped {
            object: format!("{}/{}", refusal.kind, refusal.name),
            message: refusal.message,
        });
    }
    Ok(Ok(Decision {
        plan: kernel::plan(&desired.state, actual),
        wanted: desired.state,
        skipped,
    }))
}
