//! nftables over netlink: our table's language turned into the kernel's expressions, and read back.
//!
//! Written here, for of the sixteen expressions that we use netlink-packet-netfilter has types for six, and
//! leaves the others (`nat`, `ct`, `fib`, `numgen`, …) to be written as bytes anyway.

mod batch;
mod expression;
mod foreign;
mod read;
mod refusal;
mod rule;
mod set;

use strait_core::kernel::{AddressFamily, Hook};

use crate::netlink::Message;

pub(crate) use batch::{apply, commit_all, replace_table};
pub(crate) use foreign::{add_accepts, has_accepts, remove_accepts};
pub(crate) use read::{comment_of, is_base_chain, read};
pub(crate) use refusal::refusal;

/// nfnetlink's number for nftables, in the upper byte of a message type.
pub(crate) const SUBSYSTEM: u16 = 10;
pub(crate) const NEW_TABLE: u16 = 0;
pub(crate) const DEL_TABLE: u16 = 2;
pub(crate) const NEW_CHAIN: u16 = 3;
pub(crate) const GET_CHAIN: u16 = 4;
pub(crate) const DEL_CHAIN: u16 = 5;
pub(crate) const NEW_RULE: u16 = 6;
pub(crate) const GET_RULE: u16 = 7;
pub(crate) const DEL_RULE: u16 = 8;
pub(crate) const NEW_SET: u16 = 9;
pub(crate) const GET_SET: u16 = 10;
pub(crate) const DEL_SET: u16 = 11;
pub(crate) const NEW_ELEMENT: u16 = 12;
pub(crate) const GET_ELEMENT: u16 = 13;
pub(crate) const DEL_ELEMENT: u16 = 14;

pub(crate) const FAMILY_INET: u8 = 1;
pub(crate) const FAMILY_IPV4: u8 = 2;
pub(crate) const FAMILY_IPV6: u8 = 10;

const LIST_ELEMENT: u16 = 1;
pub(crate) const TABLE_NAME: u16 = 1;
pub(crate) const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
pub(crate) const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
pub(crate) const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
pub(crate) const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
pub(crate) const RULE_USERDATA: u16 = 7;
const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;

const ACCEPT: u32 = 1;
const DROP: u32 = 0;

/// A request about nftables.
pub(crate) fn message(kind: u16, flags: u16, family: u8) -> Message {
    Message::new(SUBSYSTEM << 8 | kind, flags, &[family, 0, 0, 0])
}

fn family_number(family: AddressFamily) -> u8 {
    match family {
        AddressFamily::V4 => FAMILY_IPV4,
        AddressFamily::V6 => FAMILY_IPV6,
    }
}

/// The families that chains on the forward hook of IP packets can have, by nft's names.
fn family_by_name(name: &str) -> Option<u8> {
    match name {
        "inet" => Some(FAMILY_INET),
        "ip" => Some(FAMILY_IPV4),
        "ip6" => Some(FAMILY_IPV6),
        _ => None,
    }
}

/// Whether nft calls a family so in which IP packets are forwarded.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn is_ip_family(name: &str) -> bool {
    family_by_name(name).is_some()
}

fn family_name(number: u8) -> Option<&'static str> {
    match number {
        FAMILY_INET => Some("inet"),
        FAMILY_IPV4 => Some("ip"),
        FAMILY_IPV6 => Some("ip6"),
        _ => None,
    }
}

pub(crate) fn hook_number(hook: Hook) -> u32 {
    match hook {
        Hook::Prerouting => 0,
        Hook::Input => 1,
        Hook::Forward => 2,
        Hook::Output => 3,
        Hook::Postrouting => 4,
    }
}

/// A comment as nft writes it into a rule's user data: type 0, length, text with NUL.
fn comment(text: &str) -> Vec<u8> {
    let mut bytes = vec![0, u8::try_from(text.len() + 1).unwrap_or(u8::MAX)];
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0);
    bytes
}
