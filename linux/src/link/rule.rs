//! Policy rules.

use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleHeader, RuleMessage};
use netlink_packet_route::{AddressFamily as Family, RouteNetlinkMessage};
use strait_core::kernel::{AddressFamily, PolicyRule};

use super::Links;
use crate::error::Result;
use crate::netlink::{Message, NLM_F_CREATE, NLM_F_EXCL};

impl Links {
    /// The policy rules of one protocol number.
    pub(crate) fn rules(&self, protocol: u8) -> Result<Vec<PolicyRule>> {
        // All families at once: asking for IPv6 alone fails where the kernel has none.
        let request = RouteNetlinkMessage::GetRule(RuleMessage::default());
        self.with(|socket| {
            socket.list(
                request,
                || "list policy rules".into(),
                |found| match found {
                    RouteNetlinkMessage::NewRule(rule) if is_of(&rule, protocol) => policy_rule(&rule),
                    _ => None,
                },
            )
        })
        .map_err(|e| {
            let remedy = "use one with CONFIG_IP_MULTIPLE_TABLES";
            e.lacking(&[libc::EOPNOTSUPP], "policy routing", remedy)
        })
    }
}

/// Whether the rule bears this protocol number.
pub(crate) fn is_of(rule: &RuleMessage, protocol: u8) -> bool {
    let mark = RuleAttribute::Protocol(RouteProtocol::from(protocol));
    rule.attributes.contains(&mark)
}

pub(crate) fn rule_message(rule: &PolicyRule, protocol: u8, add: bool) -> Message {
    let mut message = RuleMessage::default();
    message.header = RuleHeader {
        family: match rule.family {
            AddressFamily::V4 => Family::Inet,
            AddressFamily::V6 => Family::Inet6,
        },
        table: u8::try_from(rule.table).unwrap_or(0),
        action: RuleAction::ToTable,
        ..RuleHeader::default()
    };
    message.attributes = vec![
        RuleAttribute::Priority(rule.priority),
        RuleAttribute::Table(rule.table),
        RuleAttribute::Protocol(RouteProtocol::from(protocol)),
    ];
    if let Some(device) = &rule.input_device {
        message.attributes.push(RuleAttribute::Iifname(device.clone()));
    }
    if add {
        Message::route(RouteNetlinkMessage::NewRule(message), NLM_F_CREATE | NLM_F_EXCL)
    } else {
        Message::route(RouteNetlinkMessage::DelRule(message), 0)
    }
}

fn policy_rule(message: &RuleMessage) -> Option<PolicyRule> {
    let mut rule = PolicyRule {
        family: match message.header.family {
            Family::Inet => AddressFamily::V4,
            Family::Inet6 => AddressFamily::V6,
            _ => return None,
        },
        priority: 0,
        input_device: None,
        table: u32::from(message.header.table),
    };
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Table(table) => rule.table = *table,
            RuleAttribute::Iifname(device) => rule.input_device = Some(device.clone()),
            _ => {}
        }
    }
    Some(rule)
}
