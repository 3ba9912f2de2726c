//! Netlink's wire format: messages of nested, typed, length-prefixed attributes.
//!
//! Written here instead of taken from a crate: nftables has no typed upstream for half of what we use, the
//! crates that exist break their API several times a year, and a batch needs its datagrams cut and its
//! acknowledgements counted by hand anyway.

mod attribute;
mod message;
mod socket;
#[cfg(test)]
mod tests;

pub(crate) use attribute::{Attributes, be16, be32, ne16, ne32, text};
pub(crate) use message::Message;
pub(crate) use socket::{Answer, NETFILTER, ROUTE, Socket};

pub(crate) const NLM_F_REQUEST: u16 = 0x01;
pub(crate) const NLM_F_ACK: u16 = 0x04;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_APPEND: u16 = 0x800;

/// Set in an attribute's type where its payload is attributes again.
pub(crate) const NESTED: u16 = 0x8000;
