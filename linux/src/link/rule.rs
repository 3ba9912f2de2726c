//! Policy rules.

use strait_core::kernel::{AddressFamily, PolicyRule};

use super::{Links, family_of};
use crate::error::Result;
use crate::netlink::{Attributes, Message, NLM_F_CREATE, NLM_F_EXCL};

const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;
const FRA_IIFNAME: u16 = 3;
const FRA_PRIORITY: u16 = 6;
const FRA_TABLE: u16 = 15;
const FRA_PROTOCOL: u16 = 21;
const FR_ACT_TO_TBL: u8 = 1;

impl Links {
    /// The policy rules of one protocol number.
    pub(crate) fn rules(&self, protocol: u8) -> Result<Vec<PolicyRule>> {
        // All families at once: asking for IPv6 alone fails where the kernel has none.
        let message = Message::new(RTM_GETRULE, 0, &[0; 12]);
        self.with(|socket| {
            socket.dump(
                &message,
                || "list policy rules".into(),
                |kind, body| (kind == RTM_NEWRULE).then(|| parse(body, protocol)).flatten(),
            )
        })
    }
}

pub(crate) fn rule_message(rule: &PolicyRule, protocol: u8, add: bool) -> Message {
    let mut fixed = [0; 12];
    fixed[0] = match rule.family {
        AddressFamily::V4 => libc::AF_INET,
        AddressFamily::V6 => libc::AF_INET6,
    } as u8;
    fixed[4] = u8::try_from(rule.table).unwrap_or(0);
    fixed[7] = FR_ACT_TO_TBL;
    let (kind, flags) = if add {
        (RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL)
    } else {
        (RTM_DELRULE, 0)
    };
    let mut message = Message::new(kind, flags, &fixed);
    message
        .ne32(FRA_PRIORITY, rule.priority)
        .ne32(FRA_TABLE, rule.table)
        .attribute(FRA_PROTOCOL, &[protocol]);
    if let Some(device) = &rule.input_device {
        message.text(FRA_IIFNAME, device);
    }
    message
}

fn parse(body: &[u8], protocol: u8) -> Option<PolicyRule> {
    let attributes = Attributes::after(body, 12);
    if attributes.get(FRA_PROTOCOL)? != [protocol] {
        return None;
    }
    Some(PolicyRule {
        family: match i32::from(family_of(body)) {
            libc::AF_INET => AddressFamily::V4,
            libc::AF_INET6 => AddressFamily::V6,
            _ => return None,
        },
        priority: attributes.ne32(FRA_PRIORITY).unwrap_or(0),
        input_device: attributes.text(FRA_IIFNAME),
        table: attributes
            .ne32(FRA_TABLE)
            .or_else(|| body.get(4).map(|t| u32::from(*t)))?,
    })
}
