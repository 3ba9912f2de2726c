//! nftables of anybody's: tables, chains, sets with their elements, and rules as the kernel's expressions.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::error::Result;
use crate::netlink::{Attributes, Socket, be32, ip};
use crate::nft::{
    CHAIN_HOOK, CHAIN_TABLE, GET_CHAIN, GET_ELEMENT, GET_RULE, GET_SET, HOOK_NUMBER, RULE_TABLE, TABLE_NAME,
    comment_of, message,
};

const GET_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_PRIORITY: u16 = 2;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const ELEMENT_LIST: u16 = 3;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_FLAGS: u16 = 3;
const ELEMENT_KEY_END: u16 = 10;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;

const HOOKS: [&str; 6] = [
    "prerouting",
    "input",
    "forward",
    "output",
    "postrouting",
    "ingress",
];

/// A table by family and name.
type Table = (u8, String);

/// Tables in order, each with what is in it.
pub(super) fn read(socket: &mut Socket) -> Result<String> {
    let tables = named(socket, GET_TABLE, "tables", |family, a| {
        Some(((family, a.text(TABLE_NAME)?), String::new()))
    })?;
    let mut bodies: BTreeMap<Table, String> = tables.into_iter().collect();
    for ((family, table), name) in named(socket, GET_SET, "sets", |family, a| {
        Some(((family, a.text(SET_TABLE)?), a.text(SET_NAME)?))
    })? {
        let elements = elements(socket, family, &table, &name)?;
        let body = bodies.entry((family, table)).or_default();
        // Writing to a string cannot fail.
        _ = writeln!(body, "  set {name}: {}", elements.join(", "));
    }
    let rules = named(socket, GET_RULE, "rules", |family, a| {
        let place = (family, a.text(RULE_TABLE)?, a.text(RULE_CHAIN)?);
        Some((place, rule(a)))
    })?;
    for ((table, name), head) in named(socket, GET_CHAIN, "chains", |family, a| {
        let place = (family, a.text(CHAIN_TABLE)?);
        Some(((place, a.text(CHAIN_NAME)?), chain(a)))
    })? {
        let body = bodies.entry(table.clone()).or_default();
        _ = writeln!(body, "  chain {name}{head}");
        let own = rules
            .iter()
            .filter(|((f, t, c), _)| (*f, t) == (table.0, &table.1) && *c == name);
        for (_, rule) in own {
            _ = writeln!(body, "    {rule}");
        }
    }
    let mut all = String::new();
    for ((family, name), body) in bodies {
        let family = match family {
            1 => "inet",
            2 => "ip",
            3 => "arp",
            5 => "netdev",
            7 => "bridge",
            10 => "ip6",
            _ => "unknown",
        };
        _ = write!(all, "table {family} {name}\n{body}");
    }
    Ok(all)
}

fn named<T>(
    socket: &mut Socket,
    kind: u16,
    what: &str,
    mut each: impl FnMut(u8, Attributes<'_>) -> Option<T>,
) -> Result<Vec<T>> {
    socket.dump(
        &message(kind, 0, 0),
        || format!("list nftables {what}"),
        |_, body| each(*body.first()?, Attributes::after(body, 4)),
    )
}

fn chain(a: Attributes<'_>) -> String {
    let Some(hook) = a.nest(CHAIN_HOOK) else {
        return String::new();
    };
    let number = hook.be32(HOOK_NUMBER).unwrap_or(u32::MAX);
    let name = usize::try_from(number).ok().and_then(|n| HOOKS.get(n)).copied();
    let priority = hook.be32(HOOK_PRIORITY).unwrap_or(0).cast_signed();
    let policy = a
        .be32(CHAIN_POLICY)
        .map_or("accept".to_owned(), |p| verdict_name(p.cast_signed()));
    format!(
        " ({}, hook {}, priority {priority}, policy {policy})",
        a.text(CHAIN_TYPE).unwrap_or_default(),
        name.unwrap_or("unknown"),
    )
}

fn elements(socket: &mut Socket, family: u8, table: &str, set: &str) -> Result<Vec<String>> {
    let mut m = message(GET_ELEMENT, 0, family);
    m.text(SET_TABLE, table).text(SET_NAME, set);
    let found = socket.dump(
        &m,
        || format!("list the elements of the nftables set {set}"),
        |_, body| {
            Attributes::after(body, 4).nest(ELEMENT_LIST).map(|list| {
                list.map(|(_, element)| element_text(Attributes::new(element)))
                    .collect::<Vec<_>>()
            })
        },
    )?;
    Ok(found.into_iter().flatten().collect())
}

fn element_text(a: Attributes<'_>) -> String {
    let value = |kind: u16| a.nest(kind).and_then(|d| d.get(DATA_VALUE)).map(bytes);
    let mut text = value(ELEMENT_KEY).unwrap_or_else(|| "*".to_owned());
    if let Some(end) = value(ELEMENT_KEY_END) {
        _ = write!(text, "-{end}");
    }
    if a.be32(ELEMENT_FLAGS).is_some_and(|flags| flags & 1 != 0) {
        text.insert_str(0, "up to ");
    }
    if let Some(data) = a.nest(ELEMENT_DATA) {
        _ = write!(text, " : {}", data_text(data));
    }
    text
}

fn rule(a: Attributes<'_>) -> String {
    let list = a.get(RULE_EXPRESSIONS).map(Attributes::new);
    let mut parts: Vec<String> = list
        .into_iter()
        .flatten()
        .map(|(_, expression)| {
            let e = Attributes::new(expression);
            let name = e.text(EXPRESSION_NAME).unwrap_or_default();
            let data = Attributes::new(e.get(EXPRESSION_DATA).unwrap_or_default());
            expression_text(&name, data)
        })
        .collect();
    if let Some(comment) = comment_of(a) {
        parts.push(format!("comment {comment:?}"));
    }
    parts.join("; ")
}

/// Numbers of attributes are from nf_tables.h.
fn expression_text(name: &str, a: Attributes<'_>) -> String {
    let number = |kind: u16| a.be32(kind).unwrap_or_default();
    let data = |kind: u16| a.nest(kind).map(data_text).unwrap_or_default();
    let counter = |kind: u16| {
        let octets = a.get(kind).and_then(|b| <[u8; 8]>::try_from(b).ok());
        octets.map_or(0, u64::from_be_bytes)
    };
    match name {
        "meta" => match a.be32(3) {
            Some(from) => format!("meta {} set from reg {from}", meta_key(number(2))),
            None => format!("meta {} to reg {}", meta_key(number(2)), number(1)),
        },
        "cmp" => {
            let how = ["==", "!=", "<", "<=", ">", ">="];
            let how = usize::try_from(number(2)).ok().and_then(|n| how.get(n));
            format!("reg {} {} {}", number(1), how.unwrap_or(&"?"), data(3))
        }
        "payload" => {
            let base = ["link", "network", "transport", "inner"];
            let base = usize::try_from(number(2)).ok().and_then(|n| base.get(n));
            let place = format!("{}+{} ({} bytes)", base.unwrap_or(&"?"), number(3), number(4));
            match a.be32(5) {
                Some(from) => format!("payload {place} set from reg {from}"),
                None => format!("payload {place} to reg {}", number(1)),
            }
        }
        "bitwise" => format!(
            "reg {} = reg {} & {} ^ {}",
            number(2),
            number(1),
            data(4),
            data(5)
        ),
        "immediate" => match a.nest(2).and_then(|d| d.nest(DATA_VERDICT)) {
            Some(_) => data(2),
            None => format!("reg {} = {}", number(1), data(2)),
        },
        "lookup" => {
            let not = if number(5) & 1 != 0 { "not in " } else { "" };
            let mut text = format!(
                "reg {} {not}lookup set {}",
                number(2),
                a.text(1).unwrap_or_default()
            );
            if let Some(to) = a.be32(3) {
                _ = write!(text, " to reg {to}");
            }
            text
        }
        "counter" => format!("counter packets {} bytes {}", counter(2), counter(1)),
        "ct" => format!("ct key {} to reg {}", number(2), number(1)),
        "numgen" => format!("numgen type {} mod {} to reg {}", number(3), number(2), number(1)),
        "nat" => {
            let kind = if number(1) == 0 { "snat" } else { "dnat" };
            format!("{kind} to reg {} port reg {}", number(3), number(5))
        }
        _ => {
            let rest: Vec<String> = a
                .map(|(kind, value)| format!("{kind}={}", bytes(value)))
                .collect();
            format!("{name} {}", rest.join(" ")).trim_end().to_owned()
        }
    }
}

fn meta_key(key: u32) -> String {
    match key {
        1 => "protocol".to_owned(),
        3 => "mark".to_owned(),
        4 => "iif".to_owned(),
        5 => "oif".to_owned(),
        6 => "iifname".to_owned(),
        7 => "oifname".to_owned(),
        15 => "nfproto".to_owned(),
        16 => "l4proto".to_owned(),
        other => format!("key {other}"),
    }
}

fn data_text(data: Attributes<'_>) -> String {
    if let Some(verdict) = data.nest(DATA_VERDICT) {
        let code = verdict.be32(VERDICT_CODE).unwrap_or_default().cast_signed();
        let chain = verdict.text(VERDICT_CHAIN).map(|c| format!(" {c}"));
        return verdict_name(code) + &chain.unwrap_or_default();
    }
    data.get(DATA_VALUE).map(bytes).unwrap_or_default()
}

fn verdict_name(code: i32) -> String {
    match code {
        0 => "drop".to_owned(),
        1 => "accept".to_owned(),
        3 => "queue".to_owned(),
        -3 => "jump".to_owned(),
        -4 => "goto".to_owned(),
        -5 => "return".to_owned(),
        other => format!("verdict {other}"),
    }
}

/// Bytes in every way that may say something to a reader.
fn bytes(value: &[u8]) -> String {
    let hex: String = value.iter().map(|b| format!("{b:02x}")).collect();
    let mut text = format!("0x{hex}");
    let printable = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    let word = &value[..printable];
    if word.len() >= 2 && word.iter().all(u8::is_ascii_graphic) && value[printable..].iter().all(|b| *b == 0)
    {
        _ = write!(text, " ({:?})", crate::netlink::text(value));
    } else if let (true, Some(address)) = (value.len() == 16 || value.len() == 4, ip(value)) {
        let number = if value.len() == 4 { be32(value) } else { None };
        let number = number.map(|n| format!(" or {n}")).unwrap_or_default();
        _ = write!(text, " ({address}{number})");
    } else if let [high, low] = value {
        _ = write!(text, " ({})", u16::from_be_bytes([*high, *low]));
    }
    text
}
