//! Our accepts in somebody else's forward chain.
//!
//! They are written as iptables-nft would write `-i strait-+ -j ACCEPT`, counter included, so that a table
//! which belongs to it still lists.

use strait_core::kernel::{DEVICE_PREFIX, ForeignAccept, NFT_COMMENT};

use super::expression::{Expressions, Verdict};
use super::rule::device_prefix;
use super::{
    DEL_RULE, NEW_RULE, RULE_CHAIN, RULE_EXPRESSIONS, RULE_HANDLE, RULE_TABLE, RULE_USERDATA, batch, comment,
    family_by_name, message, read,
};
use crate::error::{Error, Result};
use crate::netlink::{NLM_F_APPEND, NLM_F_CREATE, Socket};

/// One for each direction.
const RULES: usize = 2;

fn ours(socket: &mut Socket, place: &ForeignAccept) -> Result<(u8, Vec<u64>)> {
    let family = family_by_name(&place.family).ok_or_else(|| Error::Invalid {
        doing: format!("use the nftables table {} {}", place.family, place.table),
        why: format!("there is no family {} for IP packets", place.family),
    })?;
    let rules = read::rules(socket, family, &place.table, Some(&place.chain))?;
    let marked = rules
        .into_iter()
        .filter(|(_, _, comment)| comment.as_deref() == Some(NFT_COMMENT));
    Ok((family, marked.map(|(_, handle, _)| handle).collect()))
}

/// Whether both accepts stand in the chain.
pub(crate) fn has_accepts(socket: &mut Socket, place: &ForeignAccept) -> Result<bool> {
    Ok(ours(socket, place)?.1.len() == RULES)
}

/// Puts them last into the chain, in place of what is left of older ones: they lift its policy for our
/// devices, and whatever its owner's rules refuse stays refused.
pub(crate) fn add_accepts(socket: &mut Socket, place: &ForeignAccept) -> Result<()> {
    let (family, old) = ours(socket, place)?;
    let mut messages = deletions(family, place, &old);
    for input in [false, true] {
        let mut m = message(NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, family);
        m.text(RULE_TABLE, &place.table).text(RULE_CHAIN, &place.chain);
        m.nest(RULE_EXPRESSIONS, |list| {
            let mut out = Expressions(list);
            device_prefix(&mut out, input, DEVICE_PREFIX);
            out.counter();
            out.verdict(&Verdict::Accept);
        });
        m.attribute(RULE_USERDATA, &comment(NFT_COMMENT));
        messages.push(m);
    }
    batch::commit_all(socket, &messages, &format!("add the {place}"))
}

/// Takes them out.
pub(crate) fn remove_accepts(socket: &mut Socket, place: &ForeignAccept) -> Result<()> {
    let (family, old) = ours(socket, place)?;
    if old.is_empty() {
        return Ok(());
    }
    batch::commit_all(
        socket,
        &deletions(family, place, &old),
        &format!("remove the {place}"),
    )
}

fn deletions(family: u8, place: &ForeignAccept, handles: &[u64]) -> Vec<crate::netlink::Message> {
    let deletion = |handle: &u64| {
        let mut m = message(DEL_RULE, 0, family);
        m.text(RULE_TABLE, &place.table).text(RULE_CHAIN, &place.chain);
        m.attribute(RULE_HANDLE, &handle.to_be_bytes());
        m
    };
    handles.iter().map(deletion).collect()
}
