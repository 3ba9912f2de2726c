//! From a plan to requests. Neighbouring changes of routes, neighbours and the like travel many to a
//! datagram; a change of device ends such a run, because indices change with it.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use strait_core::kernel::{NftOp, Op, OverlayLink, Plan, ROUTE_PROTOCOL};

use super::Inner;
use crate::error::{Error, Refusal, Result};
use crate::link::{
    Links, address_message, fdb_message, neighbour_message, overlay_change_message, overlay_messages,
    removal, route_message, rule_message,
};
use crate::netlink::Message;
use crate::nft;

/// What became of a plan.
#[derive(Debug, Default)]
pub struct Report {
    /// How many changes were carried out.
    pub done: usize,
    /// Those that were not, with the reason.
    pub failed: Vec<Failure>,
}

impl Report {
    /// Whether everything was carried out.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.failed.is_empty()
    }
}

/// A change that was not carried out.
#[derive(Debug)]
pub struct Failure {
    /// The change, as a plan prints it.
    pub change: String,
    /// Why.
    pub error: Error,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.change, self.error)
    }
}

pub(super) fn apply(kernel: &Inner, plan: &Plan) -> Result<Report> {
    let mut report = Report::default();
    let mut at = 0;
    while at < plan.ops.len() {
        let run = run_from(&plan.ops, at);
        at = run.end;
        match &plan.ops[run.start] {
            Op::Nft(_) => nft_run(kernel, &plan.ops, run, &mut report),
            op if is_route_netlink(op) => netlink_run(kernel, &plan.ops[run], &mut report)?,
            op => single(kernel, op, &mut report),
        }
    }
    Ok(report)
}

/// The changes from `start` on that go together.
fn run_from(ops: &[Op], start: usize) -> Range<usize> {
    let alike = |op: &Op| match &ops[start] {
        Op::Nft(_) => matches!(op, Op::Nft(_)),
        first if is_route_netlink(first) => is_route_netlink(op),
        _ => false,
    };
    let length = ops[start..].iter().take_while(|op| alike(op)).count().max(1);
    start..start + length
}

fn is_route_netlink(op: &Op) -> bool {
    matches!(
        op,
        Op::AddAddress(_)
            | Op::RemoveAddress(_)
            | Op::SetNeighbour(_)
            | Op::RemoveNeighbour(_)
            | Op::SetFdb(_)
            | Op::RemoveFdb(_)
            | Op::AddRoute(_)
            | Op::ReplaceRoute(_)
            | Op::RemoveRoute(_)
            | Op::AddRule(_)
            | Op::RemoveRule(_)
    )
}

fn fail(report: &mut Report, op: &Op, error: Error) {
    report.failed.push(Failure {
        change: op.to_string(),
        error,
    });
}

fn nft_run(kernel: &Inner, ops: &[Op], run: Range<usize>, report: &mut Report) {
    let changes: Vec<&NftOp> = ops[run.clone()]
        .iter()
        .filter_map(|op| {
            if let Op::Nft(change) = op {
                Some(change)
            } else {
                None
            }
        })
        .collect();
    match kernel.with_nft(|socket| nft::apply(socket, &changes)) {
        Ok(()) => report.done += changes.len(),
        Err(failures) => {
            let mut blamed = std::collections::BTreeSet::new();
            for failure in failures {
                // One bad set makes every rule that names it fail too: the first complaint is the cause.
                if blamed.insert(failure.op) {
                    fail(report, &ops[run.start + failure.op], failure.error);
                }
            }
        }
    }
}

fn netlink_run(kernel: &Inner, ops: &[Op], report: &mut Report) -> Result<()> {
    let indices = indices(&kernel.links)?;
    let mut sent = Vec::with_capacity(ops.len());
    let mut messages = Vec::with_capacity(ops.len());
    for op in ops {
        match encode(op, &indices) {
            Ok(message) => {
                sent.push(op);
                messages.push(message);
            }
            Err(error) => fail(report, op, error),
        }
    }
    let answers = kernel.links.with(|socket| socket.pipeline(&messages))?;
    for (op, answer) in sent.into_iter().zip(answers) {
        match answer {
            Ok(()) => report.done += 1,
            Err(refusal) if is_as_wanted(op, &refusal) => report.done += 1,
            Err(refusal) => fail(report, op, refusal.doing("change it")),
        }
    }
    Ok(())
}

/// Gone already, or there already: somebody was quicker, or a device took it along.
fn is_as_wanted(op: &Op, refusal: &Refusal) -> bool {
    match op {
        Op::RemoveAddress(_)
        | Op::RemoveNeighbour(_)
        | Op::RemoveFdb(_)
        | Op::RemoveRoute(_)
        | Op::RemoveRule(_) => {
            matches!(
                refusal.errno,
                // The last one: the device has lost IPv6, and with it all of that family.
                libc::ESRCH | libc::ENOENT | libc::EADDRNOTAVAIL | libc::ENODEV | libc::ENXIO
            )
        }
        Op::AddRule(_) => refusal.errno == libc::EEXIST,
        _ => false,
    }
}

fn indices(links: &Links) -> Result<BTreeMap<String, u32>> {
    Ok(links
        .list()?
        .into_iter()
        .map(|link| (link.name, link.index))
        .collect())
}

fn encode(op: &Op, indices: &BTreeMap<String, u32>) -> Result<Message> {
    let index = |device: &str| {
        let missing = || Error::missing("change it", format!("network device {device}"));
        indices.get(device).copied().ok_or_else(missing)
    };
    Ok(match op {
        Op::AddAddress(x) => address_message(index(&x.device)?, x.address, true),
        Op::RemoveAddress(x) => address_message(index(&x.device)?, x.address, false),
        Op::SetNeighbour(x) => neighbour_message(index(&x.device)?, x.address, x.mac, true),
        Op::RemoveNeighbour(x) => neighbour_message(index(&x.device)?, x.address, x.mac, false),
        Op::SetFdb(x) => fdb_message(index(&x.device)?, x.mac, x.node, true),
        Op::RemoveFdb(x) => fdb_message(index(&x.device)?, x.mac, x.node, false),
        Op::AddRoute(x) | Op::ReplaceRoute(x) => route_message(x, ROUTE_PROTOCOL, indices, true)?,
        Op::RemoveRoute(x) => route_message(x, ROUTE_PROTOCOL, indices, false)?,
        Op::AddRule(x) => rule_message(x, ROUTE_PROTOCOL, true),
        Op::RemoveRule(x) => rule_message(x, ROUTE_PROTOCOL, false),
        other => {
            return Err(Error::Invalid {
                doing: "carry out a change".into(),
                why: format!("{other} is not for route netlink"),
            });
        }
    })
}

fn single(kernel: &Inner, op: &Op, report: &mut Report) {
    let links = &kernel.links;
    let result = match op {
        Op::SetSysctl { name, to, .. } => kernel.sysctls.set(&kernel.namespace, name, to),
        Op::SetUp(device) => match links.set_up(device) {
            // Its process has ended meanwhile.
            Err(e) if e.errno() == Some(libc::ENODEV) => Ok(()),
            other => other,
        },
        Op::AddOverlay(link) => add_overlay(links, link),
        Op::ChangeOverlay(link) => {
            links.request(overlay_change_message(link), || format!("change {}", link.name))
        }
        Op::RemoveOverlay(link) => {
            let doing = || format!("remove {}", link.name);
            match links.request(removal(&link.name), doing) {
                Err(e) if e.errno() == Some(libc::ENODEV) => Ok(()),
                other => other,
            }
        }
        Op::AddForeignAccept(place) => kernel.with_nft(|socket| nft::add_accepts(socket, place)),
        Op::RemoveForeignAccept(place) => kernel.with_nft(|socket| nft::remove_accepts(socket, place)),
        other => Err(Error::Invalid {
            doing: "carry out a change".into(),
            why: format!("{other} does not stand alone"),
        }),
    };
    match result {
        Ok(()) => report.done += 1,
        Err(error) => fail(report, op, error),
    }
}

fn add_overlay(links: &Links, overlay: &OverlayLink) -> Result<()> {
    let doing = || format!("make {}", overlay.name);
    let [make, no_link_local, set_up] = overlay_messages(overlay);
    let vxlan = "VXLAN devices";
    let made = links.request(make, doing);
    made.map_err(|e| e.lacking(&[libc::EOPNOTSUPP], vxlan, "load its module vxlan (CONFIG_VXLAN)"))?;
    match links.request(no_link_local, doing) {
        // A kernel without IPv6 gives no link-local address either.
        Err(e) if e.errno() == Some(libc::EAFNOSUPPORT) => {}
        other => other?,
    }
    links.request(set_up, doing)
}
