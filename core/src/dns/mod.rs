//! Names of the clusterset: what a question is answered with.
//!
//! The records are those of the MCS DNS specification (schema 1.0.0). A [`Snapshot`] is immutable; the
//! [`answer`] is a pure function of it, the [`Question`] and the cluster that asks. How questions come in
//! and answers go out is the server's affair.

mod answer;
mod snapshot;
#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, Ipv6Addr};

pub use answer::answer;
pub use snapshot::{Endpoint, Namespace, Service, Snapshot, Zone};

/// Time to live of addresses and of negative answers, in seconds: short, as clients must follow a service
/// that goes.
pub const TTL: u32 = 4;
/// Time to live of SRV records of services with a VIP.
pub const TTL_SRV: u32 = 30;
/// Time to live of the version record.
pub const TTL_VERSION: u32 = 28_800;
/// Version of the DNS schema.
pub const SCHEMA_VERSION: &str = "1.0.0";

/// Types of records, as on the wire.
#[allow(missing_docs)]
pub mod types {
    pub const A: u16 = 1;
    pub const SOA: u16 = 6;
    pub const TXT: u16 = 16;
    pub const AAAA: u16 = 28;
    pub const SRV: u16 = 33;
    pub const IXFR: u16 = 251;
    pub const AXFR: u16 = 252;
    pub const ANY: u16 = 255;
}

/// A question in class IN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The name's labels one after another, in lower case.
    text: Vec<u8>,
    /// Where each ends.
    ends: Vec<u8>,
    /// Type, as on the wire.
    pub type_: u16,
}

impl Question {
    /// A question for a name, given label by label, the host first. Case does not matter.
    pub fn new<'a>(labels: impl IntoIterator<Item = &'a [u8]>, type_: u16) -> Self {
        let mut text = Vec::with_capacity(64);
        let mut ends = Vec::with_capacity(8);
        for label in labels {
            text.extend(label.iter().map(u8::to_ascii_lowercase));
            // A name has at most 255 octets; a longer one ends in no label of ours.
            ends.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        }
        Self { text, ends, type_ }
    }

    /// A question for a name in text.
    pub fn of(name: &str, type_: u16) -> Self {
        let labels = name.split('.').filter(|l| !l.is_empty()).map(str::as_bytes);
        Self::new(labels, type_)
    }

    /// The labels, the host first; what is no UTF-8 is an empty label, which no name of ours has.
    fn labels(&self) -> Vec<&str> {
        let mut from = 0;
        self.ends
            .iter()
            .map(|end| {
                let label = self.text.get(from..usize::from(*end)).unwrap_or_default();
                from = usize::from(*end);
                std::str::from_utf8(label).unwrap_or_default()
            })
            .collect()
    }
}

/// Response codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rcode {
    /// The name exists.
    NoError,
    /// It does not.
    NxDomain,
    /// Not ours to answer.
    Refused,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Response code.
    pub rcode: Rcode,
    /// Answer section.
    pub answers: Vec<Record>,
    /// Authority section: the SOA of a negative answer.
    pub authority: Option<Record>,
    /// Additional section.
    pub additionals: Vec<Record>,
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its owner, a dotted name; `None` is the name that was asked for.
    pub owner: Option<String>,
    /// Seconds.
    pub ttl: u32,
    /// What it says.
    pub data: Data,
}

/// Data of a record. Names are dotted and full, without a dot at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// A port on a host.
    Srv {
        /// Lower goes first.
        priority: u16,
        /// Share among equals.
        weight: u16,
        /// Port.
        port: u16,
        /// Host.
        target: String,
    },
    /// Text.
    Txt(String),
    /// Start of authority.
    Soa {
        /// Primary server.
        mname: String,
        /// Mailbox.
        rname: String,
        /// Grows with the snapshots.
        serial: u32,
        /// For how long a negative answer may be kept.
        minimum: u32,
    },
}

impl Data {
    /// The record's type, as on the wire.
    pub fn type_(&self) -> u16 {
        match self {
            Self::A(_) => types::A,
            Self::Aaaa(_) => types::AAAA,
            Self::Srv { .. } => types::SRV,
            Self::Txt(_) => types::TXT,
            Self::Soa { .. } => types::SOA,
        }
    }
}
