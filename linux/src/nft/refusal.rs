//! Rules of foreign forward chains that refuse all that reaches them.

use std::collections::BTreeSet;

use strait_core::kernel::{ForeignAccept, ForeignRefusal, NFT_COMMENT};

use super::expression::{VERDICT_GOTO, VERDICT_JUMP, VERDICT_RETURN, read_verdict};
use super::{
    LIST_ELEMENT, NEW_RULE, RULE_CHAIN, RULE_EXPRESSIONS, RULE_HANDLE, RULE_TABLE, SUBSYSTEM, family_by_name,
    message, read,
};
use crate::error::Result;
use crate::netlink::{Attributes, Socket};

/// Chains that are looked at for one hook; firewalls with more lead there by conditions.
const MOST_CHAINS: usize = 64;

const NAME: u16 = 1;
const DATA: u16 = 2;
const IMMEDIATE_DATA: u16 = 2;
const XT_NAME: u16 = 1;
const ACCEPT: i32 = super::ACCEPT.cast_signed();
const DROP: i32 = super::DROP.cast_signed();

/// What a rule does with every packet.
#[derive(Debug, Clone, PartialEq)]
enum Does {
    /// Nothing that holds for all.
    Passes,
    Accepts,
    Refuses(&'static str),
    Returns,
    Jumps(String),
    Goes(String),
}

/// How a chain ends for a packet that no condition concerns.
enum End {
    Accepted,
    Refused(ForeignRefusal),
    Through,
}

/// The rule of a base chain, or of what it leads to, that refuses all; `None` where there is none before our own.
pub(crate) fn refusal(socket: &mut Socket, place: &ForeignAccept) -> Result<Option<ForeignRefusal>> {
    let mut seen = BTreeSet::new();
    match walk(socket, place, &place.chain, &mut seen)? {
        End::Refused(refusal) => Ok(Some(refusal)),
        End::Accepted | End::Through => Ok(None),
    }
}

fn walk(socket: &mut Socket, place: &ForeignAccept, chain: &str, seen: &mut BTreeSet<String>) -> Result<End> {
    // A chain that was looked at lets packets through, or the way would have ended there.
    if seen.len() >= MOST_CHAINS || !seen.insert(chain.to_owned()) {
        return Ok(End::Through);
    }
    for (handle, does) in rules(socket, place, chain)? {
        let next = match does {
            Does::Passes => continue,
            Does::Accepts => return Ok(End::Accepted),
            Does::Returns => return Ok(End::Through),
            Does::Refuses(verdict) => {
                return Ok(End::Refused(ForeignRefusal {
                    family: place.family.clone(),
                    table: place.table.clone(),
                    base: place.chain.clone(),
                    chain: chain.to_owned(),
                    handle,
                    verdict: verdict.to_owned(),
                }));
            }
            Does::Jumps(to) => match walk(socket, place, &to, seen)? {
                End::Through => continue,
                end => end,
            },
            Does::Goes(to) => walk(socket, place, &to, seen)?,
        };
        return Ok(next);
    }
    Ok(End::Through)
}

fn rules(socket: &mut Socket, place: &ForeignAccept, chain: &str) -> Result<Vec<(u64, Does)>> {
    let Some(family) = family_by_name(&place.family) else {
        return Ok(Vec::new());
    };
    let mut m = message(super::GET_RULE, 0, family);
    m.text(RULE_TABLE, &place.table).text(RULE_CHAIN, chain);
    socket.dump(
        &m,
        || format!("list the nftables rules of chain {} {chain}", place.table),
        |kind, body| {
            if kind != SUBSYSTEM << 8 | NEW_RULE {
                return None;
            }
            let rule = Attributes::after(body, 4);
            // Kernels that do not know the filter tell all.
            if rule.text(RULE_TABLE)? != place.table || rule.text(RULE_CHAIN)? != chain {
                return None;
            }
            let handle = rule.get(RULE_HANDLE)?.try_into().ok().map(u64::from_be_bytes)?;
            Some((handle, does(rule)))
        },
    )
}

fn does(rule: Attributes<'_>) -> Does {
    // Two that belong together, each for one direction: who comes as far as the first has come to both.
    if read::comment_of(rule).as_deref() == Some(NFT_COMMENT) {
        return Does::Accepts;
    }
    let Some(list) = rule.nest(RULE_EXPRESSIONS) else {
        return Does::Passes;
    };
    for (_, element) in list.filter(|(kind, _)| *kind == LIST_ELEMENT) {
        let element = Attributes::new(element);
        let data = element.nest(DATA);
        let xt = data.and_then(|data| data.text(XT_NAME));
        match element.text(NAME).as_deref() {
            Some("counter" | "log") => {}
            Some("match") if xt.as_deref() == Some("comment") => {}
            Some("target") => match xt.as_deref() {
                Some("LOG" | "NFLOG") => {}
                Some("REJECT") => return Does::Refuses("reject"),
                Some("DROP") => return Does::Refuses("drop"),
                _ => return Does::Passes,
            },
            Some("reject") => return Does::Refuses("reject"),
            Some("immediate") => {
                let verdict = data.and_then(|d| d.nest(IMMEDIATE_DATA)).and_then(read_verdict);
                return match verdict {
                    Some((ACCEPT, _)) => Does::Accepts,
                    Some((DROP, _)) => Does::Refuses("drop"),
                    Some((VERDICT_RETURN, _)) => Does::Returns,
                    Some((VERDICT_JUMP, Some(chain))) => Does::Jumps(chain),
                    Some((VERDICT_GOTO, Some(chain))) => Does::Goes(chain),
                    _ => Does::Passes,
                };
            }
            // A condition, or a limit.
            _ => return Does::Passes,
        }
    }
    Does::Passes
}
