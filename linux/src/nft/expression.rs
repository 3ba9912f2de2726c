//! nftables expressions: the kernel's small machine of registers, written one by one.
//!
//! Registers are counted in words of 32 bits: an IPv4 address takes one, an IPv6 address four, anything
//! smaller one, padded with zeros. Numbers of expressions' attributes are from nf_tables.h.

use std::net::IpAddr;

use strait_core::kernel::AddressFamily;

use super::{LIST_ELEMENT, family_number};
use crate::netlink::Message;

pub(super) const CMP_EQ: u32 = 0;
pub(super) const CMP_NEQ: u32 = 1;
pub(super) const CMP_LTE: u32 = 3;
pub(super) const CMP_GT: u32 = 4;
pub(super) const CMP_GTE: u32 = 5;

pub(super) const META_MARK: u32 = 3;
pub(super) const META_IIFNAME: u32 = 6;
pub(super) const META_OIFNAME: u32 = 7;
pub(super) const META_NFPROTO: u32 = 15;
pub(super) const META_L4PROTO: u32 = 16;

pub(super) const NETWORK_HEADER: u32 = 1;
pub(super) const TRANSPORT_HEADER: u32 = 2;

pub(super) const CT_STATE: u32 = 0;
pub(super) const CT_STATUS: u32 = 2;

pub(super) const VERDICT_JUMP: i32 = -3;
pub(super) const VERDICT_GOTO: i32 = -4;
pub(super) const VERDICT_RETURN: i32 = -5;

const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;

/// How a rule ends.
pub(super) enum Verdict<'a> {
    Accept,
    Drop,
    Return,
    Jump(&'a str),
}

pub(super) fn write_verdict(to: &mut Message, kind: u16, verdict: &Verdict<'_>) {
    to.nest(kind, |data| {
        data.nest(DATA_VERDICT, |v| match verdict {
            Verdict::Accept => _ = v.be32(VERDICT_CODE, super::ACCEPT),
            Verdict::Drop => _ = v.be32(VERDICT_CODE, super::DROP),
            Verdict::Return => _ = v.be32(VERDICT_CODE, VERDICT_RETURN.cast_unsigned()),
            Verdict::Jump(chain) => {
                _ = v
                    .be32(VERDICT_CODE, VERDICT_JUMP.cast_unsigned())
                    .text(VERDICT_CHAIN, chain);
            }
        });
    });
}

/// A verdict's code, and the chain that it leads to.
pub(super) fn read_verdict(data: crate::netlink::Attributes<'_>) -> Option<(i32, Option<String>)> {
    let verdict = data.nest(DATA_VERDICT)?;
    Some((
        verdict.be32(VERDICT_CODE)?.cast_signed(),
        verdict.text(VERDICT_CHAIN),
    ))
}

/// The chain that a verdict in a map jumps to.
pub(super) fn jump_target(data: crate::netlink::Attributes<'_>) -> Option<String> {
    let verdict = data.nest(DATA_VERDICT)?;
    (verdict.be32(VERDICT_CODE)? == VERDICT_JUMP.cast_unsigned()).then(|| verdict.text(VERDICT_CHAIN))?
}

pub(super) fn write_value(to: &mut Message, kind: u16, value: &[u8]) {
    to.nest(kind, |data| {
        data.attribute(DATA_VALUE, value);
    });
}

pub(super) fn value(data: crate::netlink::Attributes<'_>) -> Option<&[u8]> {
    data.get(DATA_VALUE)
}

/// The kernel's number of the register at this word.
fn register(word: u32) -> u32 {
    if word.is_multiple_of(4) {
        1 + word / 4
    } else {
        8 + word
    }
}

/// Words that an address takes.
pub(super) fn words(family: AddressFamily) -> u32 {
    match family {
        AddressFamily::V4 => 1,
        AddressFamily::V6 => 4,
    }
}

/// Writes expressions into a rule's list.
pub(super) struct Expressions<'m>(pub(super) &'m mut Message);

impl Expressions<'_> {
    fn put(&mut self, name: &str, fill: impl FnOnce(&mut Message)) {
        self.0.nest(LIST_ELEMENT, |element| {
            element.text(1, name).nest(2, fill);
        });
    }

    pub(super) fn meta(&mut self, key: u32, word: u32) {
        self.put("meta", |e| _ = e.be32(1, register(word)).be32(2, key));
    }

    pub(super) fn set_meta(&mut self, key: u32, word: u32) {
        self.put("meta", |e| _ = e.be32(2, key).be32(3, register(word)));
    }

    pub(super) fn cmp(&mut self, op: u32, word: u32, value: &[u8]) {
        self.put("cmp", |e| {
            e.be32(1, register(word)).be32(2, op);
            write_value(e, 3, value);
        });
    }

    pub(super) fn payload(&mut self, base: u32, offset: u32, length: u32, word: u32) {
        self.put("payload", |e| {
            e.be32(1, register(word))
                .be32(2, base)
                .be32(3, offset)
                .be32(4, length);
        });
    }

    pub(super) fn source(&mut self, family: AddressFamily, word: u32) {
        match family {
            AddressFamily::V4 => self.payload(NETWORK_HEADER, 12, 4, word),
            AddressFamily::V6 => self.payload(NETWORK_HEADER, 8, 16, word),
        }
    }

    pub(super) fn destination(&mut self, family: AddressFamily, word: u32) {
        match family {
            AddressFamily::V4 => self.payload(NETWORK_HEADER, 16, 4, word),
            AddressFamily::V6 => self.payload(NETWORK_HEADER, 24, 16, word),
        }
    }

    pub(super) fn bitwise(&mut self, word: u32, mask: &[u8], xor: &[u8]) {
        let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
        self.put("bitwise", |e| {
            e.be32(1, register(word)).be32(2, register(word)).be32(3, length);
            write_value(e, 4, mask);
            write_value(e, 5, xor);
        });
    }

    pub(super) fn ct(&mut self, key: u32, word: u32) {
        self.put("ct", |e| _ = e.be32(1, register(word)).be32(2, key));
    }

    /// `fib daddr type`.
    pub(super) fn destination_type(&mut self, word: u32) {
        const RESULT_ADDRESS_TYPE: u32 = 3;
        const DADDR: u32 = 2;
        self.put("fib", |e| {
            _ = e
                .be32(1, register(word))
                .be32(2, RESULT_ADDRESS_TYPE)
                .be32(3, DADDR)
        });
    }

    /// Looks the key at `word` up; `into` says where a map's data goes, in words (0 and `verdict`: jump).
    pub(super) fn lookup(&mut self, set: &SetName<'_>, word: u32, into: Into, inverted: bool) {
        self.put("lookup", |e| {
            match set {
                SetName::Named(name) => _ = e.text(1, name),
                SetName::Anonymous(name, id) => _ = e.text(1, name).be32(4, *id),
            }
            e.be32(2, register(word));
            match into {
                Into::Nothing => {}
                Into::Word(to) => _ = e.be32(3, register(to)),
                Into::Verdict => _ = e.be32(3, 0),
            }
            if inverted {
                e.be32(5, 1);
            }
        });
    }

    pub(super) fn immediate(&mut self, word: u32, value: &[u8]) {
        self.put("immediate", |e| {
            e.be32(1, register(word));
            write_value(e, 2, value);
        });
    }

    pub(super) fn verdict(&mut self, verdict: &Verdict<'_>) {
        self.put("immediate", |e| {
            e.be32(1, 0);
            write_verdict(e, 2, verdict);
        });
    }

    /// `nat`; the kernel derives the range flags from the registers that are given.
    pub(super) fn nat(
        &mut self,
        source: bool,
        family: AddressFamily,
        address_word: u32,
        port_word: Option<u32>,
    ) {
        self.put("nat", |e| {
            e.be32(1, u32::from(!source))
                .be32(2, u32::from(family_number(family)));
            e.be32(3, register(address_word));
            if let Some(word) = port_word {
                e.be32(5, register(word));
            }
        });
    }

    pub(super) fn masquerade(&mut self) {
        self.put("masq", |_| {});
    }

    pub(super) fn notrack(&mut self) {
        self.put("notrack", |_| {});
    }

    pub(super) fn counter(&mut self) {
        self.put("counter", |_| {});
    }

    /// `reject with icmpx`: the code fits either family.
    pub(super) fn reject(&mut self, code: u8) {
        const ICMPX: u32 = 2;
        self.put("reject", |e| _ = e.be32(1, ICMPX).attribute(2, &[code]));
    }

    pub(super) fn reset(&mut self) {
        const TCP_RST: u32 = 1;
        self.put("reject", |e| _ = e.be32(1, TCP_RST));
    }

    pub(super) fn random(&mut self, modulus: u32, word: u32) {
        const RANDOM: u32 = 1;
        self.put("numgen", |e| {
            _ = e.be32(1, register(word)).be32(2, modulus).be32(3, RANDOM)
        });
    }

    /// Jenkins' hash of `length` bytes at `from`, scaled to `modulus`; the seed is fixed, so that a client
    /// keeps its endpoint over restarts and on every node.
    pub(super) fn hash(&mut self, from: u32, length: u32, modulus: u32, into: u32) {
        const JENKINS: u32 = 0;
        const SEED: u32 = 0x5354_5241;
        self.put("hash", |e| {
            e.be32(1, register(from))
                .be32(2, register(into))
                .be32(3, length)
                .be32(4, modulus);
            e.be32(5, SEED).be32(7, JENKINS);
        });
    }

    pub(super) fn load_mss(&mut self, word: u32) {
        self.put("exthdr", |e| {
            e.be32(1, register(word));
            mss_option(e);
        });
    }

    pub(super) fn store_mss(&mut self, word: u32) {
        self.put("exthdr", |e| {
            mss_option(e);
            e.be32(7, register(word));
        });
    }
}

/// Two bytes at offset 2 of TCP option 2.
fn mss_option(e: &mut Message) {
    const TCP_OPTION: u32 = 1;
    e.attribute(2, &[2]).be32(3, 2).be32(4, 2).be32(6, TCP_OPTION);
}

/// Where a lookup's data goes.
#[derive(Clone, Copy)]
pub(super) enum Into {
    Nothing,
    Word(u32),
    Verdict,
}

/// A set, by name or (made in the same batch) by its number there.
pub(super) enum SetName<'a> {
    Named(&'a str),
    Anonymous(&'static str, u32),
}

pub(super) fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}
