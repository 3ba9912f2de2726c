//! Reading nftables back: our table whole, and of foreign ones the chains on the forward hook.

use std::collections::{BTreeMap, BTreeSet};

use strait_core::kernel::{
    Chain, ChainKind, Element, ForeignAccept, Hook, NFT_TABLE, NftSet, NftTable, RuleDigest, SetKind,
};

use super::{
    CHAIN_HOOK, CHAIN_NAME, CHAIN_POLICY, CHAIN_TABLE, CHAIN_TYPE, DROP, FAMILY_INET, GET_CHAIN, GET_ELEMENT,
    GET_RULE, GET_SET, HOOK_NUMBER, HOOK_PRIORITY, NEW_CHAIN, NEW_ELEMENT, NEW_RULE, NEW_SET, RULE_CHAIN,
    RULE_TABLE, RULE_USERDATA, SET_NAME, SET_TABLE, SUBSYSTEM, TABLE_NAME, family_name, hook_number, message,
    set,
};
use crate::error::Result;
use crate::netlink::{Attributes, Socket, be32};

/// What was found in nftables.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Our table.
    pub(crate) table: Option<NftTable<RuleDigest>>,
    /// Foreign base chains on the forward hook, with whether their policy is drop.
    pub(crate) forward: BTreeMap<ForeignAccept, bool>,
}

struct FoundChain {
    family: u8,
    table: String,
    name: String,
    base: Option<(String, u32, i32)>,
    drops: bool,
}

const GET_TABLE: u16 = 1;

pub(crate) fn read(socket: &mut Socket) -> Result<Found> {
    let mut found = Found::default();
    let all = chains(socket).map_err(|e| {
        let remedy = "load its module nf_tables (CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET)";
        e.lacking(&[libc::EINVAL, libc::EOPNOTSUPP], "nftables", remedy)
    })?;
    for chain in all {
        if chain.family == FAMILY_INET && chain.table == NFT_TABLE {
            let base = chain
                .base
                .map(|(kind, hook, priority)| base(&kind, hook, priority));
            // A chain that hangs where ours never do: it is known by a hook that nobody wants.
            let base = base.map(|b| b.unwrap_or((ChainKind::Filter, Hook::Input, i32::MIN)));
            let ours = Chain {
                base,
                rules: Vec::new(),
            };
            found
                .table
                .get_or_insert_default()
                .chains
                .insert(chain.name, ours);
        } else if let (Some(family), Some((kind, hook, _))) = (family_name(chain.family), &chain.base)
            && kind == "filter"
            && *hook == hook_number(Hook::Forward)
        {
            let place = ForeignAccept {
                family: family.to_owned(),
                table: chain.table,
                chain: chain.name,
            };
            found.forward.insert(place, chain.drops);
        }
    }
    if found.table.is_none() && table_exists(socket)? {
        found.table = Some(NftTable::default());
    }
    let Some(table) = &mut found.table else {
        return Ok(found);
    };
    for (chain, _, comment) in rules(socket, FAMILY_INET, NFT_TABLE, None)? {
        if let Some(chain) = table.chains.get_mut(&chain) {
            chain
                .rules
                .push(RuleDigest::from_comment(&comment.unwrap_or_default()));
        }
    }
    for (name, kind) in sets(socket)? {
        let set = match elements(socket, &name, kind)? {
            Some(elements) => NftSet { kind, elements },
            None => NftSet {
                kind: SetKind::Foreign,
                elements: BTreeSet::new(),
            },
        };
        table.sets.insert(name, set);
    }
    Ok(found)
}

fn base(kind: &str, hook: u32, priority: i32) -> Option<(ChainKind, Hook, i32)> {
    let kind = [ChainKind::Filter, ChainKind::Nat, ChainKind::Route]
        .into_iter()
        .find(|k| k.to_string() == kind)?;
    let hook = [
        Hook::Prerouting,
        Hook::Input,
        Hook::Forward,
        Hook::Output,
        Hook::Postrouting,
    ]
    .into_iter()
    .find(|h| hook_number(*h) == hook)?;
    Some((kind, hook, priority))
}

fn table_exists(socket: &mut Socket) -> Result<bool> {
    let tables = socket.dump(
        &message(GET_TABLE, 0, FAMILY_INET),
        || "list nftables tables".into(),
        |_, body| Attributes::after(body, 4).text(TABLE_NAME),
    )?;
    Ok(tables.iter().any(|name| name == NFT_TABLE))
}

fn chains(socket: &mut Socket) -> Result<Vec<FoundChain>> {
    socket.dump(
        &message(GET_CHAIN, 0, 0),
        || "list nftables chains".into(),
        |kind, body| {
            if kind != SUBSYSTEM << 8 | NEW_CHAIN {
                return None;
            }
            let attributes = Attributes::after(body, 4);
            let base = attributes.nest(CHAIN_HOOK).and_then(|hook| {
                let priority = hook.be32(HOOK_PRIORITY)?.cast_signed();
                Some((attributes.text(CHAIN_TYPE)?, hook.be32(HOOK_NUMBER)?, priority))
            });
            Some(FoundChain {
                family: *body.first()?,
                table: attributes.text(CHAIN_TABLE)?,
                name: attributes.text(CHAIN_NAME)?,
                base,
                drops: attributes.be32(CHAIN_POLICY) == Some(DROP),
            })
        },
    )
}

/// Rules as (chain, handle, comment), in order.
pub(super) fn rules(
    socket: &mut Socket,
    family: u8,
    table: &str,
    chain: Option<&str>,
) -> Result<Vec<(String, u64, Option<String>)>> {
    let mut m = message(GET_RULE, 0, family);
    m.text(RULE_TABLE, table);
    if let Some(chain) = chain {
        m.text(RULE_CHAIN, chain);
    }
    socket.dump(
        &m,
        || format!("list the nftables rules of table {table}"),
        |kind, body| {
            if kind != SUBSYSTEM << 8 | NEW_RULE {
                return None;
            }
            let attributes = Attributes::after(body, 4);
            let (of_table, of_chain) = (attributes.text(RULE_TABLE)?, attributes.text(RULE_CHAIN)?);
            let wanted = of_table == table && chain.is_none_or(|c| c == of_chain);
            let handle = attributes
                .get(super::RULE_HANDLE)?
                .try_into()
                .ok()
                .map(u64::from_be_bytes)?;
            wanted.then(|| (of_chain, handle, comment_of(attributes)))
        },
    )
}

/// The comment in a rule's user data.
pub(crate) fn comment_of(rule: Attributes<'_>) -> Option<String> {
    let mut data = rule.get(RULE_USERDATA)?;
    while let [kind, length, rest @ ..] = data {
        let (value, next) = rest.split_at_checked(usize::from(*length))?;
        if *kind == 0 {
            return Some(crate::netlink::text(value));
        }
        data = next;
    }
    None
}

fn sets(socket: &mut Socket) -> Result<Vec<(String, SetKind)>> {
    let mut m = message(GET_SET, 0, FAMILY_INET);
    m.text(SET_TABLE, NFT_TABLE);
    socket.dump(
        &m,
        || "list nftables sets".into(),
        |kind, body| {
            let attributes = Attributes::after(body, 4);
            (kind == SUBSYSTEM << 8 | NEW_SET)
                .then(|| set::parse_set(attributes))
                .flatten()
        },
    )
}

fn elements(socket: &mut Socket, name: &str, kind: SetKind) -> Result<Option<BTreeSet<Element>>> {
    let mut m = message(GET_ELEMENT, 0, FAMILY_INET);
    m.text(SET_TABLE, NFT_TABLE).text(SET_NAME, name);
    let pieces = socket.dump(
        &m,
        || format!("list the elements of the nftables set {name}"),
        |kind, body| {
            (kind == SUBSYSTEM << 8 | NEW_ELEMENT).then(|| set::parse_elements(Attributes::after(body, 4)))
        },
    )?;
    Ok(set::members(kind, pieces.into_iter().flatten().collect()))
}

/// Whether a chain message in a notification is about a base chain.
pub(crate) fn is_base_chain(body: &[u8]) -> bool {
    Attributes::after(body, 4)
        .nest(CHAIN_HOOK)
        .and_then(|h| h.get(HOOK_NUMBER))
        .and_then(be32)
        .is_some()
}
