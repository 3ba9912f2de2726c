//! Changes to our table, as batches that the kernel takes whole or not at all.
//!
//! One batch is one datagram. Where the send buffer cannot hold it (without CAP_NET_ADMIN in the initial
//! user namespace it ends at some 400 KiB), it is cut at the borders of changes: what nothing refers to
//! yet goes first, so that every piece leaves a table that works.

use std::collections::BTreeSet;

use strait_core::kernel::{ChainKind, Hook, NFT_TABLE, NftOp, SetKind};

use super::{
    ACCEPT, CHAIN_HOOK, CHAIN_NAME, CHAIN_POLICY, CHAIN_TABLE, CHAIN_TYPE, DEL_CHAIN, DEL_RULE, DEL_TABLE,
    FAMILY_INET, HOOK_NUMBER, HOOK_PRIORITY, NEW_CHAIN, NEW_TABLE, RULE_CHAIN, RULE_TABLE, SUBSYSTEM,
    TABLE_NAME, hook_number, message, rule, set,
};
use crate::error::{Error, Refusal, Result};
use crate::netlink::{Answer, Message, NLM_F_ACK, NLM_F_CREATE, Socket};

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

/// Why a batch was not carried out: the change that the kernel (or we) refused.
#[derive(Debug)]
pub(crate) struct NftFailure {
    /// Index of the change.
    pub(crate) op: usize,
    pub(crate) error: Error,
}

/// Messages that belong to one change and must not be parted.
struct Group {
    op: usize,
    messages: Vec<Message>,
}

/// Carries out changes together. On failure none of the batch that failed is done.
pub(crate) fn apply(socket: &mut Socket, ops: &[&NftOp]) -> std::result::Result<(), Vec<NftFailure>> {
    let groups = encode(NFT_TABLE, ops)?;
    let limit = socket.datagram_limit();
    let mut rest = groups.as_slice();
    while !rest.is_empty() {
        let mut size = 64;
        let count = rest
            .iter()
            .take_while(|group| {
                size += group.messages.iter().map(Message::len).sum::<usize>();
                size <= limit
            })
            .count()
            .max(1);
        let (now, later) = rest.split_at(count);
        rest = later;
        let messages: Vec<(usize, &Message)> = now
            .iter()
            .flat_map(|g| g.messages.iter().map(|m| (g.op, m)))
            .collect();
        commit(socket, &messages).map_err(|failures| explained(failures, ops))?;
    }
    Ok(())
}

/// Where a module is missing, the kernel only says that something does not exist.
fn explained(failures: Vec<NftFailure>, ops: &[&NftOp]) -> Vec<NftFailure> {
    let explain = |mut failure: NftFailure| {
        let lacks = match ops.get(failure.op) {
            Some(NftOp::FillChain { name, rules, .. }) => {
                let modules: BTreeSet<&str> = rules.iter().flat_map(rule::modules).copied().collect();
                let modules: Vec<&str> = modules.into_iter().collect();
                let what = format!("nftables expression that a rule of chain {name} needs");
                (!modules.is_empty()).then(|| (what, format!("load the modules {}", modules.join(", "))))
            }
            Some(NftOp::AddChain {
                name,
                base: Some((kind, ..)),
            }) => {
                let what = format!("nftables chains of type {kind}, which {name} is");
                Some((what, "load its module nft_chain_nat (CONFIG_NFT_NAT)".to_owned()))
            }
            _ => None,
        };
        if let Some((feature, remedy)) = lacks {
            let none = [libc::ENOENT, libc::EOPNOTSUPP];
            failure.error = failure.error.lacking(&none, feature, &remedy);
        }
        failure
    };
    failures.into_iter().map(explain).collect()
}

/// Makes a table that is not ours anew, as a whole, in place of one of the same name.
pub(crate) fn replace_table(socket: &mut Socket, table: &str, ops: &[&NftOp]) -> Result<()> {
    let groups = encode(table, ops).map_err(first_error)?;
    let again = [NEW_TABLE, DEL_TABLE, NEW_TABLE].map(|kind| table_message(table, kind));
    let messages: Vec<Message> = again
        .into_iter()
        .chain(groups.into_iter().flat_map(|g| g.messages))
        .collect();
    commit_all(socket, &messages, &format!("make the nftables table {table}"))
}

fn first_error(mut failures: Vec<NftFailure>) -> Error {
    match failures.pop() {
        Some(failure) => failure.error,
        None => Error::Protocol("no reason given".into()),
    }
}

/// Sends one batch of messages that do not come from a plan.
pub(crate) fn commit_all(socket: &mut Socket, messages: &[Message], doing: &str) -> Result<()> {
    let numbered: Vec<(usize, &Message)> = messages.iter().map(|m| (0, m)).collect();
    commit(socket, &numbered).map_err(|mut failures| match failures.pop().map(|f| f.error) {
        Some(Error::Refused { refusal, .. }) => refusal.doing(doing),
        Some(error) => error,
        None => Error::Protocol(format!("cannot {doing}: no reason given")),
    })
}

fn commit(socket: &mut Socket, messages: &[(usize, &Message)]) -> std::result::Result<(), Vec<NftFailure>> {
    let fail = |error| {
        vec![NftFailure {
            op: messages.first().map_or(0, |m| m.0),
            error,
        }]
    };
    let begin = Message::new(BATCH_BEGIN, 0, &[0, 0, 0, SUBSYSTEM as u8]);
    let end = Message::new(BATCH_END, 0, &[0, 0, 0, SUBSYSTEM as u8]);
    let Some(((_, last), before)) = messages.split_last() else {
        return Ok(());
    };
    // Kernels before 6.10 acknowledge neither end of a batch, so its last change is asked for.
    let mut last = (*last).clone();
    last.add_flags(NLM_F_ACK);
    let mut all = vec![&begin];
    all.extend(before.iter().map(|(_, m)| *m));
    all.extend([&last, &end]);
    let answers = socket.transaction(&all).map_err(fail)?;
    let mut acknowledged = false;
    let mut failures = Vec::new();
    for answer in answers {
        match answer {
            Answer::Ack(index) => acknowledged |= index as usize == messages.len(),
            Answer::Refused(index, refusal) => {
                let op = (index as usize).checked_sub(1).and_then(|i| messages.get(i));
                failures.push(NftFailure {
                    op: op.map_or(0, |(op, _)| *op),
                    error: refused(refusal),
                });
            }
        }
    }
    if !failures.is_empty() {
        return Err(failures);
    }
    if !acknowledged {
        return Err(fail(Error::Protocol(
            "an nftables batch was not acknowledged".into(),
        )));
    }
    Ok(())
}

fn refused(refusal: Refusal) -> Error {
    refusal.doing(format!("change the nftables table {NFT_TABLE}"))
}

fn encode(table: &str, ops: &[&NftOp]) -> std::result::Result<Vec<Group>, Vec<NftFailure>> {
    let mut groups: Vec<Group> = Vec::new();
    let mut failures = Vec::new();
    let mut next_id = 0;
    let mut doomed: BTreeSet<&str> = ops
        .iter()
        .filter_map(|op| {
            if let NftOp::RemoveChain { name } = op {
                Some(name.as_str())
            } else {
                None
            }
        })
        .collect();
    for (op, change) in ops.iter().enumerate() {
        if matches!(change, NftOp::RemoveSet { .. } | NftOp::RemoveChain { .. }) && !doomed.is_empty() {
            // Rules hold on to the sets and chains that they name, so all of them go first.
            let messages = std::mem::take(&mut doomed)
                .into_iter()
                .map(|c| flush(table, c))
                .collect();
            groups.push(Group { op, messages });
        }
        match encode_one(table, change, &mut next_id) {
            Ok(pieces) => groups.extend(pieces.into_iter().map(|messages| Group { op, messages })),
            Err(error) => failures.push(NftFailure { op, error }),
        }
    }
    if failures.is_empty() {
        Ok(groups)
    } else {
        Err(failures)
    }
}

/// The messages of a change, in pieces that may be parted.
fn encode_one(table: &str, op: &NftOp, next_id: &mut u32) -> Result<Vec<Vec<Message>>> {
    let one = |m| Ok(vec![vec![m]]);
    let invalid = |why| Error::Invalid {
        doing: format!("change the nftables table {table}"),
        why,
    };
    match op {
        NftOp::AddTable => one(table_message(table, NEW_TABLE)),
        NftOp::RemoveTable => one(table_message(table, DEL_TABLE)),
        NftOp::AddSet { name, kind } => {
            *next_id += 1;
            match set::add_set(table, name, *kind, *next_id) {
                Some(m) => one(m),
                None => Err(invalid(format!(
                    "the set {name} is of a kind that cannot be made"
                ))),
            }
        }
        NftOp::RemoveSet { name } => one(set::remove_set(table, name)),
        NftOp::SetElements {
            set,
            kind: kind @ (SetKind::Vips(_) | SetKind::Endpoints(_)),
            remove,
            add,
        } => set::change_map(table, set, *kind, remove, add).map_err(invalid),
        NftOp::SetElements {
            set,
            kind,
            remove,
            add,
        } => {
            let mut messages = set::change_elements(table, false, set, *kind, remove).map_err(invalid)?;
            messages.extend(set::change_elements(table, true, set, *kind, add).map_err(invalid)?);
            Ok(messages.into_iter().map(|m| vec![m]).collect())
        }
        NftOp::AddChain { name, base } => one(chain(table, name, base.as_ref())),
        NftOp::FillChain { name, before, rules } => {
            let mut messages = Vec::new();
            if *before > 0 {
                messages.push(flush(table, name));
            }
            for wanted in rules {
                let encoded = rule::append(table, name, wanted, next_id).map_err(|why| Error::Rule {
                    chain: name.clone(),
                    why: format!("{wanted}: {why}"),
                })?;
                messages.extend(encoded);
            }
            Ok(vec![messages])
        }
        NftOp::RemoveChain { name } => {
            let mut m = message(DEL_CHAIN, 0, FAMILY_INET);
            m.text(CHAIN_TABLE, table).text(CHAIN_NAME, name);
            one(m)
        }
    }
}

fn table_message(name: &str, kind: u16) -> Message {
    let flags = if kind == NEW_TABLE { NLM_F_CREATE } else { 0 };
    let mut m = message(kind, flags, FAMILY_INET);
    m.text(TABLE_NAME, name);
    m
}

/// Removes all rules of a chain.
fn flush(table: &str, chain: &str) -> Message {
    let mut m = message(DEL_RULE, 0, FAMILY_INET);
    m.text(RULE_TABLE, table).text(RULE_CHAIN, chain);
    m
}

fn chain(table: &str, name: &str, base: Option<&(ChainKind, Hook, i32)>) -> Message {
    let mut m = message(NEW_CHAIN, NLM_F_CREATE, FAMILY_INET);
    m.text(CHAIN_TABLE, table).text(CHAIN_NAME, name);
    if let Some((kind, hook, priority)) = base {
        m.nest(CHAIN_HOOK, |h| {
            h.be32(HOOK_NUMBER, hook_number(*hook))
                .be32(HOOK_PRIORITY, priority.cast_unsigned());
        });
        m.be32(CHAIN_POLICY, ACCEPT).text(CHAIN_TYPE, &kind.to_string());
    }
    m
}
