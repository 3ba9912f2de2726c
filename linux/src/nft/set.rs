//! Sets and maps: their types, their elements, and reading both back.
//!
//! Interval sets hold the two ends of each range as elements of their own; the end must be given
//! explicitly, or the kernel refuses the next range as overlapping.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};
use strait_core::kernel::{AddressFamily, Element, Protocol, SetKind};

use super::expression::{Verdict, bytes, jump_target, value, write_value, write_verdict};
use super::{
    DEL_ELEMENT, DEL_SET, FAMILY_INET, LIST_ELEMENT, NEW_ELEMENT, NEW_SET, SET_NAME, SET_TABLE, message,
};
use crate::netlink::{Attributes, Message, NLM_F_CREATE};

const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LENGTH: u16 = 5;
const SET_DATA_TYPE: u16 = 6;
const SET_DATA_LENGTH: u16 = 7;
const SET_DESCRIPTION: u16 = 9;
const SET_ID: u16 = 10;
const SET_USERDATA: u16 = 13;
const DESCRIPTION_SIZE: u16 = 1;

const FLAG_ANONYMOUS: u32 = 1;
const FLAG_CONSTANT: u32 = 2;
const FLAG_INTERVAL: u32 = 4;
const FLAG_MAP: u32 = 8;

const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const LIST_SET_ID: u16 = 4;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_FLAGS: u16 = 3;
const INTERVAL_END: u32 = 1;

/// nft's numbers for data types. The kernel only keeps them, for `nft list` to print elements well.
mod types {
    pub(super) const INTEGER: u32 = 4;
    pub(super) const IPV4: u32 = 7;
    pub(super) const IPV6: u32 = 8;
    pub(super) const PROTOCOL: u32 = 12;
    pub(super) const PORT: u32 = 13;
    pub(super) const ICMP_TYPE: u32 = 14;
    pub(super) const VERDICT: u32 = 0xffff_ff00;

    pub(super) fn concat(parts: &[u32]) -> u32 {
        parts.iter().fold(0, |all, part| all << 6 | part)
    }
}

/// Bytes of elements in one message; an attribute's length has 16 bits.
const CHUNK: usize = 48 << 10;

struct Shape {
    key_type: u32,
    key_length: u32,
    data: Option<(u32, u32)>,
    flags: u32,
    host_order: bool,
}

fn address_type(family: AddressFamily) -> (u32, u32) {
    match family {
        AddressFamily::V4 => (types::IPV4, 4),
        AddressFamily::V6 => (types::IPV6, 16),
    }
}

fn shape(kind: SetKind) -> Option<Shape> {
    let shape = |key_type, key_length, flags, data| {
        Some(Shape {
            key_type,
            key_length,
            data,
            flags,
            host_order: false,
        })
    };
    match kind {
        SetKind::Prefixes(family) => {
            let (of, length) = address_type(family);
            shape(of, length, FLAG_INTERVAL, None)
        }
        SetKind::Addresses(family) => {
            let (of, length) = address_type(family);
            shape(of, length, 0, None)
        }
        SetKind::AddressPairs(family) => {
            let (of, length) = address_type(family);
            shape(types::concat(&[of, of]), 2 * length, 0, None)
        }
        SetKind::Vips(family) => {
            let (of, length) = address_type(family);
            let key = types::concat(&[of, types::PROTOCOL, types::PORT]);
            shape(key, length + 8, FLAG_MAP, Some((types::VERDICT, 0)))
        }
        SetKind::Endpoints(family) => {
            let (of, length) = address_type(family);
            let data = (types::concat(&[of, types::PORT]), length + 4);
            let key = types::concat(&[of, types::PROTOCOL, types::PORT, types::INTEGER]);
            shape(key, length + 12, FLAG_MAP, Some(data))
        }
        SetKind::Foreign => None,
    }
}

fn set_message(table: &str, name: &str, id: u32, size: Option<u32>, shape: &Shape) -> Message {
    let mut m = message(NEW_SET, NLM_F_CREATE, FAMILY_INET);
    m.text(SET_TABLE, table)
        .text(SET_NAME, name)
        .be32(SET_FLAGS, shape.flags);
    m.be32(SET_KEY_TYPE, shape.key_type)
        .be32(SET_KEY_LENGTH, shape.key_length);
    if let Some((data_type, length)) = shape.data {
        m.be32(SET_DATA_TYPE, data_type).be32(SET_DATA_LENGTH, length);
    }
    if let Some(size) = size {
        m.nest(SET_DESCRIPTION, |d| _ = d.be32(DESCRIPTION_SIZE, size));
    }
    m.be32(SET_ID, id);
    // Type 0, four bytes: the key's byte order (1 host, 2 network), for `nft list`.
    let order = if shape.host_order { 1u32 } else { 2 };
    let mut userdata = vec![0, 4];
    userdata.extend_from_slice(&order.to_ne_bytes());
    m.attribute(SET_USERDATA, &userdata);
    m
}

/// Makes an empty named set or map; `None` for a kind that is never ours.
pub(super) fn add_set(table: &str, name: &str, kind: SetKind, id: u32) -> Option<Message> {
    Some(set_message(table, name, id, None, &shape(kind)?))
}

pub(super) fn remove_set(table: &str, name: &str) -> Message {
    let mut m = message(DEL_SET, 0, FAMILY_INET);
    m.text(SET_TABLE, table).text(SET_NAME, name);
    m
}

pub(super) const ANONYMOUS_SET: &str = "__set%d";
pub(super) const ANONYMOUS_MAP: &str = "__map%d";

/// An anonymous set of ICMP types.
pub(super) fn icmp_types(table: &str, id: u32, wanted: &[u8]) -> Vec<Message> {
    let shape = Shape {
        key_type: types::ICMP_TYPE,
        key_length: 1,
        data: None,
        flags: FLAG_ANONYMOUS | FLAG_CONSTANT,
        host_order: false,
    };
    let size = u32::try_from(wanted.len()).unwrap_or(u32::MAX);
    let elements = wanted.iter().map(|t| Raw {
        key: vec![*t],
        end: false,
        data: None,
    });
    let mut messages = vec![set_message(table, ANONYMOUS_SET, id, Some(size), &shape)];
    messages.extend(element_messages(
        table,
        NEW_ELEMENT,
        ANONYMOUS_SET,
        Some(id),
        elements,
    ));
    messages
}

/// An anonymous map from 0, 1, 2 … to address . port.
pub(super) fn numbered_targets(
    table: &str,
    id: u32,
    family: AddressFamily,
    targets: &[SocketAddr],
) -> Vec<Message> {
    let (of, length) = address_type(family);
    let shape = Shape {
        key_type: types::INTEGER,
        key_length: 4,
        data: Some((types::concat(&[of, types::PORT]), length + 4)),
        flags: FLAG_ANONYMOUS | FLAG_CONSTANT | FLAG_MAP,
        host_order: true,
    };
    let size = u32::try_from(targets.len()).unwrap_or(u32::MAX);
    let elements = (0u32..).zip(targets).map(|(n, target)| Raw {
        key: n.to_ne_bytes().to_vec(),
        end: false,
        data: Some(Data::Value(endpoint(target))),
    });
    let mut messages = vec![set_message(table, ANONYMOUS_MAP, id, Some(size), &shape)];
    messages.extend(element_messages(
        table,
        NEW_ELEMENT,
        ANONYMOUS_MAP,
        Some(id),
        elements,
    ));
    messages
}

/// Address . port, as a register holds them.
fn endpoint(target: &SocketAddr) -> Vec<u8> {
    let mut data = bytes(target.ip());
    data.extend_from_slice(&target.port().to_be_bytes());
    data.extend_from_slice(&[0, 0]);
    data
}

enum Data {
    Value(Vec<u8>),
    Jump(String),
}

struct Raw {
    key: Vec<u8>,
    end: bool,
    data: Option<Data>,
}

fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

fn vip_key(address: IpAddr, protocol: Protocol, port: u16) -> Vec<u8> {
    let mut key = bytes(address);
    key.extend_from_slice(&[number(protocol), 0, 0, 0]);
    key.extend_from_slice(&port.to_be_bytes());
    key.extend_from_slice(&[0, 0]);
    key
}

fn raw(element: &Element) -> Vec<Raw> {
    let plain = |key| {
        vec![Raw {
            key,
            end: false,
            data: None,
        }]
    };
    match element {
        Element::Prefix(prefix) => {
            let mut both = plain(bytes(prefix.network()));
            if let Some(end) = after(prefix) {
                both.push(Raw {
                    key: end,
                    end: true,
                    data: None,
                });
            }
            both
        }
        Element::Address(address) => plain(bytes(*address)),
        Element::Pair(source, destination) => {
            let mut key = bytes(*source);
            key.extend(bytes(*destination));
            plain(key)
        }
        Element::Vip(address, protocol, port, chain) => vec![Raw {
            key: vip_key(*address, *protocol, *port),
            end: false,
            data: Some(Data::Jump(chain.clone())),
        }],
        Element::Endpoint(address, protocol, port, number, target) => {
            let mut key = vip_key(*address, *protocol, *port);
            key.extend_from_slice(&number.to_ne_bytes());
            vec![Raw {
                key,
                end: false,
                data: Some(Data::Value(endpoint(target))),
            }]
        }
    }
}

/// The address behind a prefix; none behind the last.
fn after(prefix: &IpNet) -> Option<Vec<u8>> {
    match prefix {
        IpNet::V4(p) => u32::from(p.broadcast())
            .checked_add(1)
            .map(|n| n.to_be_bytes().to_vec()),
        IpNet::V6(p) => u128::from(p.broadcast())
            .checked_add(1)
            .map(|n| n.to_be_bytes().to_vec()),
    }
}

fn fits(kind: SetKind, element: &Element) -> bool {
    let same = |family: AddressFamily, v4: bool| v4 == (family == AddressFamily::V4);
    match (kind, element) {
        (SetKind::Prefixes(family), Element::Prefix(p)) => same(family, matches!(p, IpNet::V4(_))),
        (SetKind::Addresses(family), Element::Address(a)) => same(family, a.is_ipv4()),
        (SetKind::AddressPairs(family), Element::Pair(a, b)) => {
            same(family, a.is_ipv4()) && same(family, b.is_ipv4())
        }
        (SetKind::Vips(family), Element::Vip(a, ..)) => same(family, a.is_ipv4()),
        (SetKind::Endpoints(family), Element::Endpoint(a, .., target)) => {
            same(family, a.is_ipv4()) && same(family, target.is_ipv4())
        }
        _ => false,
    }
}

/// Puts elements into a named set, or takes them out. `Err` names an element of another type.
pub(super) fn change_elements(
    table: &str,
    add: bool,
    set: &str,
    kind: SetKind,
    elements: &BTreeSet<Element>,
) -> Result<Vec<Message>, String> {
    if let Some(wrong) = elements.iter().find(|e| !fits(kind, e)) {
        return Err(format!("{wrong} does not fit the set {set} ({kind})"));
    }
    let message_kind = if add { NEW_ELEMENT } else { DEL_ELEMENT };
    Ok(element_messages(
        table,
        message_kind,
        set,
        None,
        elements.iter().flat_map(raw),
    ))
}

/// A change of a map, in pieces in each of which what takes another's place comes with what makes room
/// for it.
pub(super) fn change_map(
    table: &str,
    set: &str,
    kind: SetKind,
    remove: &BTreeSet<Element>,
    add: &BTreeSet<Element>,
) -> Result<Vec<Vec<Message>>, String> {
    /// A piece stays below the longest attribute.
    const PLACES: usize = 256;
    let mut places: BTreeMap<Vec<u8>, [BTreeSet<Element>; 2]> = BTreeMap::new();
    for (which, elements) in [remove, add].into_iter().enumerate() {
        for element in elements {
            let key = raw(element).into_iter().flat_map(|raw| raw.key).collect();
            places.entry(key).or_default()[which].insert(element.clone());
        }
    }
    let places: Vec<_> = places.into_values().collect();
    let mut pieces = Vec::new();
    for piece in places.chunks(PLACES) {
        let all =
            |which: usize| -> BTreeSet<Element> { piece.iter().flat_map(|p| p[which].clone()).collect() };
        let mut messages = change_elements(table, false, set, kind, &all(0))?;
        messages.extend(change_elements(table, true, set, kind, &all(1))?);
        pieces.push(messages);
    }
    Ok(pieces)
}

fn element_messages(
    table: &str,
    kind: u16,
    set: &str,
    id: Option<u32>,
    elements: impl Iterator<Item = Raw>,
) -> Vec<Message> {
    let flags = if kind == NEW_ELEMENT { NLM_F_CREATE } else { 0 };
    let mut messages = Vec::new();
    let mut elements = elements.peekable();
    while elements.peek().is_some() {
        let mut m = message(kind, flags, FAMILY_INET);
        m.text(LIST_TABLE, table).text(LIST_SET, set);
        if let Some(id) = id {
            m.be32(LIST_SET_ID, id);
        }
        m.nest(LIST_ELEMENTS, |list| {
            let start = list.len();
            while list.len() - start < CHUNK {
                let Some(element) = elements.next() else { break };
                write_element(list, &element);
            }
        });
        messages.push(m);
    }
    messages
}

fn write_element(list: &mut Message, element: &Raw) {
    list.nest(LIST_ELEMENT, |e| {
        write_value(e, ELEMENT_KEY, &element.key);
        match &element.data {
            None => {}
            Some(Data::Value(data)) => write_value(e, ELEMENT_DATA, data),
            Some(Data::Jump(chain)) => write_verdict(e, ELEMENT_DATA, &Verdict::Jump(chain)),
        }
        if element.end {
            e.be32(ELEMENT_FLAGS, INTERVAL_END);
        }
    });
}

/// The kind of a set as dumped; `None` for anonymous ones, which belong to rules.
pub(super) fn parse_set(attributes: Attributes<'_>) -> Option<(String, SetKind)> {
    const KINDS: [SetKind; 10] = [
        SetKind::Prefixes(AddressFamily::V4),
        SetKind::Prefixes(AddressFamily::V6),
        SetKind::Addresses(AddressFamily::V4),
        SetKind::Addresses(AddressFamily::V6),
        SetKind::AddressPairs(AddressFamily::V4),
        SetKind::AddressPairs(AddressFamily::V6),
        SetKind::Vips(AddressFamily::V4),
        SetKind::Vips(AddressFamily::V6),
        SetKind::Endpoints(AddressFamily::V4),
        SetKind::Endpoints(AddressFamily::V6),
    ];
    let flags = attributes.be32(SET_FLAGS).unwrap_or(0);
    if flags & FLAG_ANONYMOUS != 0 {
        return None;
    }
    let key = (attributes.be32(SET_KEY_TYPE)?, attributes.be32(SET_KEY_LENGTH)?);
    let kind = KINDS.into_iter().find(|kind| {
        shape(*kind).is_some_and(|s| {
            (s.key_type, s.key_length) == key
                && s.flags == flags
                && s.data.map(|d| d.0) == attributes.be32(SET_DATA_TYPE)
        })
    });
    Some((attributes.text(SET_NAME)?, kind.unwrap_or(SetKind::Foreign)))
}

/// One element as dumped: its key, whether it ends a range, the chain that it jumps to, its data.
pub(super) struct Dumped {
    key: Vec<u8>,
    end: bool,
    chain: Option<String>,
    data: Option<Vec<u8>>,
}

pub(super) fn parse_elements(attributes: Attributes<'_>) -> Vec<Dumped> {
    let Some(list) = attributes.nest(LIST_ELEMENTS) else {
        return Vec::new();
    };
    list.filter_map(|(_, element)| {
        let element = Attributes::new(element);
        Some(Dumped {
            key: value(element.nest(ELEMENT_KEY)?)?.to_vec(),
            end: element.be32(ELEMENT_FLAGS).unwrap_or(0) & INTERVAL_END != 0,
            chain: element.nest(ELEMENT_DATA).and_then(jump_target),
            data: element.nest(ELEMENT_DATA).and_then(value).map(<[u8]>::to_vec),
        })
    })
    .collect()
}

/// Dumped elements as members of a set of this kind; `None` where one can be none that we put in, and so
/// none that we could take out again.
pub(super) fn members(kind: SetKind, mut dumped: Vec<Dumped>) -> Option<BTreeSet<Element>> {
    let address = |key: &[u8]| crate::netlink::ip(key);
    match kind {
        SetKind::Foreign => None,
        SetKind::Addresses(_) => dumped
            .iter()
            .map(|d| address(&d.key).map(Element::Address))
            .collect(),
        SetKind::AddressPairs(_) => (dumped.iter())
            .map(|d| {
                let (source, destination) = d.key.split_at_checked(d.key.len() / 2)?;
                Some(Element::Pair(address(source)?, address(destination)?))
            })
            .collect(),
        SetKind::Vips(_) => dumped.into_iter().map(vip).collect(),
        SetKind::Endpoints(_) => dumped.iter().map(numbered_endpoint).collect(),
        SetKind::Prefixes(_) => {
            // A range's end sorts before the start of the range that follows at once.
            dumped.sort_by(|a, b| (&a.key, !a.end).cmp(&(&b.key, !b.end)));
            let mut found = BTreeSet::new();
            let mut start: Option<IpAddr> = None;
            for element in &dumped {
                let at = address(&element.key)?;
                match (start.take(), element.end) {
                    (Some(from), true) => _ = found.insert(Element::Prefix(prefix(from, before(at)?)?)),
                    (Some(_), false) => return None,
                    (None, _) => {}
                }
                if !element.end {
                    start = Some(at);
                }
            }
            if let Some(from) = start {
                let last = match from {
                    IpAddr::V4(_) => IpAddr::from([0xff; 4]),
                    IpAddr::V6(_) => IpAddr::from([0xff; 16]),
                };
                found.insert(Element::Prefix(prefix(from, last)?));
            }
            Some(found)
        }
    }
}

fn before(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(a) => u32::from(a)
            .checked_sub(1)
            .map(|n| std::net::Ipv4Addr::from(n).into()),
        IpAddr::V6(a) => u128::from(a)
            .checked_sub(1)
            .map(|n| std::net::Ipv6Addr::from(n).into()),
    }
}

/// The one prefix that is this range.
fn prefix(from: IpAddr, to: IpAddr) -> Option<IpNet> {
    let mut prefixes: Box<dyn Iterator<Item = IpNet>> = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => Box::new(Ipv4Subnets::new(from, to, 0).map(IpNet::V4)),
        (IpAddr::V6(from), IpAddr::V6(to)) => Box::new(Ipv6Subnets::new(from, to, 0).map(IpNet::V6)),
        _ => return None,
    };
    let first = prefixes.next()?;
    prefixes.next().is_none().then_some(first)
}

fn vip(dumped: Dumped) -> Option<Element> {
    let (address, protocol, port) = vip_of(&dumped.key)?;
    Some(Element::Vip(address, protocol, port, dumped.chain?))
}

fn vip_of(key: &[u8]) -> Option<(IpAddr, Protocol, u16)> {
    let (address, rest) = key.split_at_checked(key.len().checked_sub(8)?)?;
    let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .into_iter()
        .find(|p| number(*p) == rest[0])?;
    let port = u16::from_be_bytes([rest[4], rest[5]]);
    Some((crate::netlink::ip(address)?, protocol, port))
}

fn numbered_endpoint(dumped: &Dumped) -> Option<Element> {
    let (vip, number) = dumped.key.split_at_checked(dumped.key.len().checked_sub(4)?)?;
    let (address, protocol, port) = vip_of(vip)?;
    let data = dumped.data.as_deref()?;
    let (to, rest) = data.split_at_checked(data.len().checked_sub(4)?)?;
    let target = SocketAddr::new(crate::netlink::ip(to)?, u16::from_be_bytes([rest[0], rest[1]]));
    let number = u32::from_ne_bytes(number.try_into().ok()?);
    Some(Element::Endpoint(address, protocol, port, number, target))
}
