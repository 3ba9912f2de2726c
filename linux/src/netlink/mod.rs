//! Netlink: datagrams of messages, sent and answered in lock step.
//!
//! Messages of the route family are netlink-packet-route's types, built with rtnetlink's builders and made
//! into bytes by netlink-packet-core; [`decode`] reads them back. The sockets are netlink-sys'. What is our
//! own is cutting datagrams and counting their acknowledgements, which batches need, and a writer and a
//! reader of plain attributes, which nftables and connection tracking use.

mod attribute;
mod message;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod other;
mod route;
mod socket;
#[cfg(test)]
mod tests;
mod wire;

pub(crate) use netlink_packet_core::{
    NLA_F_NESTED, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE,
};

pub(crate) use attribute::{Attributes, be16, be32, ip, text};
pub(crate) use message::{Message, messages};
pub(crate) use route::decode;
pub(crate) use socket::{Answer, NETFILTER, ROUTE, Socket, prepare};
