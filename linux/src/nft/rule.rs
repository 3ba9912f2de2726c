//! From our language of matches and actions to expressions.

use std::net::SocketAddr;

use ipnet::IpNet;
use strait_core::kernel::{
    Action, AddressFamily, Concat, CtState, Key, Match, Protocol, RejectWith, Rule, RuleDigest,
};

use super::expression::{
    CMP_EQ, CMP_GT, CMP_GTE, CMP_LTE, CMP_NEQ, CT_STATE, CT_STATUS, Expressions, Into, META_IIFNAME,
    META_L4PROTO, META_MARK, META_NFPROTO, META_OIFNAME, SetName, TRANSPORT_HEADER, Verdict, bytes, words,
};
use super::set::{ANONYMOUS_MAP, ANONYMOUS_SET, icmp_types, numbered_targets};
use super::{
    FAMILY_INET, NEW_RULE, RULE_CHAIN, RULE_EXPRESSIONS, RULE_TABLE, RULE_USERDATA, comment, family_number,
    message,
};
use crate::netlink::{Message, NLM_F_APPEND, NLM_F_CREATE};

const IFNAMSIZ: usize = 16;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const TCP: u8 = 6;
const RTN_LOCAL: u32 = 2;
const IPS_DST_NAT: u32 = 1 << 5;

/// The messages that append a rule to a chain: its anonymous sets, then itself. `next_id` numbers the
/// batch's sets. `Err` says why the rule makes no sense.
pub(super) fn append(
    table: &str,
    chain: &str,
    rule: &Rule,
    next_id: &mut u32,
) -> Result<Vec<Message>, String> {
    let mut messages = Vec::new();
    let mut m = message(NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, FAMILY_INET);
    m.text(RULE_TABLE, table).text(RULE_CHAIN, chain);
    let mut wrong = Ok(());
    m.nest(RULE_EXPRESSIONS, |list| {
        let mut writer = Writer {
            table,
            out: Expressions(list),
            sets: &mut messages,
            next_id,
        };
        wrong = (rule.matches.iter().try_for_each(|m| writer.condition(m)))
            .and_then(|()| rule.actions.iter().try_for_each(|a| writer.action(a)));
    });
    wrong?;
    m.attribute(RULE_USERDATA, &comment(RuleDigest::of(rule).as_str()));
    messages.push(m);
    Ok(messages)
}

/// Modules that hold expressions of this rule, as far as they are not nf_tables' own.
pub(super) fn modules(rule: &Rule) -> impl Iterator<Item = &'static &'static str> {
    let by_match = rule.matches.iter().map(|m| match m {
        Match::DestinationIsLocal | Match::DestinationIsNotLocal => &["nft_fib_inet"][..],
        Match::CtState(_) | Match::CtStatusDnat => &["nft_ct"],
        _ => &[],
    });
    let by_action = rule.actions.iter().map(|a| match a {
        Action::Reject(_) => &["nft_reject_inet"][..],
        Action::Notrack => &["nft_ct"],
        Action::SnatIdentity(_) | Action::Snat(_) => &["nft_nat"],
        Action::Masquerade => &["nft_masq"],
        Action::BalanceRandom(_) => &["nft_numgen", "nft_nat"],
        Action::BalanceBySource(_) => &["nft_hash", "nft_nat"],
        Action::Balance { by_source, .. } => {
            if *by_source {
                &["nft_hash", "nft_nat"]
            } else {
                &["nft_numgen", "nft_nat"]
            }
        }
        _ => &[],
    });
    by_match.chain(by_action).flatten()
}

/// Matches devices whose name begins with `prefix`; what foreign chains get too.
pub(super) fn device_prefix(out: &mut Expressions<'_>, input: bool, prefix: &str) {
    out.meta(if input { META_IIFNAME } else { META_OIFNAME }, 0);
    out.cmp(CMP_EQ, 0, prefix.as_bytes());
}

struct Writer<'a, 'm> {
    table: &'a str,
    out: Expressions<'m>,
    sets: &'a mut Vec<Message>,
    next_id: &'a mut u32,
}

impl Writer<'_, '_> {
    fn id(&mut self) -> u32 {
        *self.next_id += 1;
        *self.next_id
    }

    fn device(&mut self, key: u32, op: u32, name: &str) -> Result<(), String> {
        self.out.meta(key, 0);
        match name.strip_suffix('*') {
            Some(prefix) if prefix.is_empty() || prefix.len() >= IFNAMSIZ => {
                return Err(format!("{name:?} is no device pattern"));
            }
            Some(prefix) => self.out.cmp(op, 0, prefix.as_bytes()),
            None if name.is_empty() || name.len() >= IFNAMSIZ => {
                return Err(format!("{name:?} is no device name"));
            }
            None => {
                let mut padded = [0; IFNAMSIZ];
                padded[..name.len()].copy_from_slice(name.as_bytes());
                self.out.cmp(op, 0, &padded);
            }
        }
        Ok(())
    }

    fn family(&mut self, family: AddressFamily) {
        self.out.meta(META_NFPROTO, 0);
        self.out.cmp(CMP_EQ, 0, &[family_number(family)]);
    }

    /// Loads an address, after making sure that the packet has one of that family.
    fn key(&mut self, key: Key) -> AddressFamily {
        let (Key::Source(family) | Key::Destination(family)) = key;
        self.family(family);
        match key {
            Key::Source(family) => self.out.source(family, 0),
            Key::Destination(family) => self.out.destination(family, 0),
        }
        family
    }

    fn prefix(&mut self, key: Key, prefix: &IpNet, op: u32) -> Result<(), String> {
        let family = self.key(key);
        if matches!(prefix, IpNet::V4(_)) != (family == AddressFamily::V4) {
            return Err(format!("{prefix} is not of the family {family}"));
        }
        if prefix.prefix_len() < prefix.max_prefix_len() {
            let mask = bytes(prefix.netmask());
            self.out.bitwise(0, &mask, &vec![0; mask.len()]);
        }
        self.out.cmp(op, 0, &bytes(prefix.network()));
        Ok(())
    }

    fn protocol(&mut self, number: u8) {
        self.out.meta(META_L4PROTO, 0);
        self.out.cmp(CMP_EQ, 0, &[number]);
    }

    /// `key & mask != 0`, on a number in host order.
    fn any_bit(&mut self, mask: u32) {
        self.out.bitwise(0, &mask.to_ne_bytes(), &[0; 4]);
        self.out.cmp(CMP_NEQ, 0, &[0; 4]);
    }

    fn condition(&mut self, condition: &Match) -> Result<(), String> {
        match condition {
            Match::InputDevice(name) => self.device(META_IIFNAME, CMP_EQ, name)?,
            Match::NotInputDevice(name) => self.device(META_IIFNAME, CMP_NEQ, name)?,
            Match::OutputDevice(name) => self.device(META_OIFNAME, CMP_EQ, name)?,
            Match::NotOutputDevice(name) => self.device(META_OIFNAME, CMP_NEQ, name)?,
            Match::Family(family) => self.family(*family),
            Match::In(key, prefix) => self.prefix(*key, prefix, CMP_EQ)?,
            Match::NotIn(key, prefix) => self.prefix(*key, prefix, CMP_NEQ)?,
            Match::InSet(key, set) => {
                self.key(*key);
                self.out.lookup(&SetName::Named(set), 0, Into::Nothing, false);
            }
            Match::NotInSet(key, set) => {
                self.key(*key);
                self.out.lookup(&SetName::Named(set), 0, Into::Nothing, true);
            }
            Match::ConcatInSet(Concat::SourceDestination(family), set) => {
                self.family(*family);
                self.out.source(*family, 0);
                self.out.destination(*family, words(*family));
                self.out.lookup(&SetName::Named(set), 0, Into::Nothing, false);
            }
            Match::DestinationIsLocal => {
                self.out.destination_type(0);
                self.out.cmp(CMP_EQ, 0, &RTN_LOCAL.to_ne_bytes());
            }
            Match::DestinationIsNotLocal => {
                self.out.destination_type(0);
                self.out.cmp(CMP_NEQ, 0, &RTN_LOCAL.to_ne_bytes());
            }
            Match::Protocol(protocol) => self.protocol(match protocol {
                Protocol::Tcp => TCP,
                Protocol::Udp => 17,
                Protocol::Sctp => 132,
            }),
            Match::DestinationPort(port) => {
                self.out.payload(TRANSPORT_HEADER, 2, 2, 0);
                self.out.cmp(CMP_EQ, 0, &port.to_be_bytes());
            }
            Match::EchoRequest(family) => {
                let (protocol, kind) = match family {
                    AddressFamily::V4 => (ICMP, 8),
                    AddressFamily::V6 => (ICMPV6, 128),
                };
                self.icmp(*family, protocol);
                self.out.cmp(CMP_EQ, 0, &[kind]);
            }
            Match::IcmpError(AddressFamily::V4) => {
                self.icmp(AddressFamily::V4, ICMP);
                let id = self.id();
                self.sets.extend(icmp_types(self.table, id, &[3, 11, 12]));
                self.out
                    .lookup(&SetName::Anonymous(ANONYMOUS_SET, id), 0, Into::Nothing, false);
            }
            Match::IcmpError(AddressFamily::V6) => {
                self.icmp(AddressFamily::V6, ICMPV6);
                self.out.cmp(CMP_GTE, 0, &[1]);
                self.out.cmp(CMP_LTE, 0, &[4]);
            }
            Match::CtState(states) => {
                let mask = states.iter().fold(0, |mask, state| {
                    mask | match state {
                        CtState::Established => 2,
                        CtState::Related => 4,
                        CtState::New => 8,
                        CtState::Untracked => 64,
                    }
                });
                self.out.ct(CT_STATE, 0);
                self.any_bit(mask);
            }
            Match::CtStatusDnat => {
                self.out.ct(CT_STATUS, 0);
                self.any_bit(IPS_DST_NAT);
            }
            Match::TcpSyn => {
                const SYN: u8 = 2;
                const RST: u8 = 4;
                self.protocol(TCP);
                self.out.payload(TRANSPORT_HEADER, 13, 1, 0);
                self.out.bitwise(0, &[SYN | RST], &[0]);
                self.out.cmp(CMP_EQ, 0, &[SYN]);
            }
        }
        Ok(())
    }

    /// Loads the type of an ICMP message.
    fn icmp(&mut self, family: AddressFamily, protocol: u8) {
        self.family(family);
        self.protocol(protocol);
        self.out.payload(TRANSPORT_HEADER, 0, 1, 0);
    }

    fn action(&mut self, action: &Action) -> Result<(), String> {
        match action {
            Action::Counter => self.out.counter(),
            Action::Accept => self.out.verdict(&Verdict::Accept),
            Action::Drop => self.out.verdict(&Verdict::Drop),
            Action::Reject(RejectWith::PortUnreachable) => self.out.reject(1),
            Action::Reject(RejectWith::AdminProhibited) => self.out.reject(3),
            Action::Reject(RejectWith::TcpReset) => self.out.reset(),
            Action::Return => self.out.verdict(&Verdict::Return),
            Action::Jump(chain) => self.out.verdict(&Verdict::Jump(chain)),
            Action::Notrack => self.out.notrack(),
            Action::SnatIdentity(family) => {
                self.family(*family);
                self.out.source(*family, 0);
                self.out.nat(true, *family, 0, None);
            }
            Action::Snat(address) => {
                let family = if address.is_ipv4() {
                    AddressFamily::V4
                } else {
                    AddressFamily::V6
                };
                self.family(family);
                self.out.immediate(0, &bytes(*address));
                self.out.nat(true, family, 0, None);
            }
            Action::Masquerade => self.out.masquerade(),
            Action::ClampMss(size) => {
                // Only lower it: a smaller value that the sender chose stays.
                self.out.load_mss(0);
                self.out.cmp(CMP_GT, 0, &size.to_be_bytes());
                self.out.immediate(0, &size.to_be_bytes());
                self.out.store_mss(0);
            }
            Action::VipLookup(family, map) => {
                self.family(*family);
                self.vip(*family);
                self.out.lookup(&SetName::Named(map), 0, Into::Verdict, false);
            }
            Action::BalanceRandom(targets) => {
                let (family, count) = self.targets(targets)?;
                if count > 1 {
                    self.out.random(count, 0);
                }
                self.translate(family, targets);
            }
            Action::BalanceBySource(targets) => {
                let (family, count) = self.targets(targets)?;
                if count > 1 {
                    self.out.source(family, 0);
                    self.out.hash(0, words(family) * 4, count, 0);
                }
                self.translate(family, targets);
            }
            Action::Balance {
                map,
                family,
                count,
                by_source,
            } => self.balance(map, *family, *count, *by_source)?,
            Action::SetMark { value, mask } => {
                self.out.meta(META_MARK, 0);
                self.out.bitwise(0, &(!mask).to_ne_bytes(), &value.to_ne_bytes());
                self.out.set_meta(META_MARK, 0);
            }
        }
        Ok(())
    }

    /// Loads destination . protocol . destination port from word 0 on.
    fn vip(&mut self, family: AddressFamily) {
        let address = words(family);
        self.out.destination(family, 0);
        self.out.meta(META_L4PROTO, address);
        self.out.payload(TRANSPORT_HEADER, 2, 2, address + 1);
    }

    fn targets(&mut self, targets: &[SocketAddr]) -> Result<(AddressFamily, u32), String> {
        let Some(first) = targets.first() else {
            return Err("there is no endpoint to balance over".into());
        };
        if targets.iter().any(|t| t.is_ipv4() != first.is_ipv4()) {
            return Err("endpoints of both families stand in one rule".into());
        }
        let family = if first.is_ipv4() {
            AddressFamily::V4
        } else {
            AddressFamily::V6
        };
        self.family(family);
        Ok((
            family,
            u32::try_from(targets.len()).map_err(|_| "too many endpoints".to_owned())?,
        ))
    }

    /// The VIP, protocol and port of the packet, and a number behind them, are the key.
    fn balance(
        &mut self,
        map: &str,
        family: AddressFamily,
        count: u32,
        by_source: bool,
    ) -> Result<(), String> {
        let address = words(family);
        let number = address + 2;
        self.family(family);
        match count {
            0 => return Err("there is no endpoint to balance over".into()),
            1 => self.out.immediate(number, &0u32.to_ne_bytes()),
            _ if by_source => {
                self.out.source(family, 0);
                self.out.hash(0, address * 4, count, number);
            }
            _ => self.out.random(count, number),
        }
        self.vip(family);
        self.out.lookup(&SetName::Named(map), 0, Into::Word(0), false);
        self.out.nat(false, family, 0, Some(address));
        Ok(())
    }

    /// Translates the destination to the target whose number is in word 0, or to the only one.
    fn translate(&mut self, family: AddressFamily, targets: &[SocketAddr]) {
        let port = words(family);
        if let [only] = targets {
            self.out.immediate(0, &bytes(only.ip()));
            self.out.immediate(port, &only.port().to_be_bytes());
        } else {
            let id = self.id();
            self.sets
                .extend(numbered_targets(self.table, id, family, targets));
            self.out
                .lookup(&SetName::Anonymous(ANONYMOUS_MAP, id), 0, Into::Word(0), false);
        }
        self.out.nat(false, family, 0, Some(port));
    }
}
