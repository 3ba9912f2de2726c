//! All that a network namespace holds, whoever made it, as text for people: devices, addresses, neighbours,
//! routes, policy rules, nftables.

mod ruleset;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage};
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, route::RouteNextHop};

use crate::error::Result;
use crate::link::Links;
use crate::netlink::Socket;

/// Names of devices by index.
type Names = BTreeMap<u32, String>;

/// Everything in the calling thread's network namespace.
///
/// # Errors
/// Where the kernel refuses.
pub fn everything() -> Result<String> {
    let links = Links::open()?;
    let mut text = String::new();
    let all = links.list()?;
    let names: Names = all.iter().map(|l| (l.index, l.name.clone())).collect();
    let held = links.all_addresses()?;
    // Writing to a string cannot fail.
    _ = writeln!(text, "# devices and addresses");
    for link in &all {
        _ = writeln!(text, "{link:?}");
        for address in held.iter().filter(|a| a.index == link.index) {
            _ = writeln!(text, "    {}", address.address);
        }
    }
    _ = writeln!(text, "\n# neighbours and forwarding entries");
    for line in links.with(|socket| neighbours(socket, &names))? {
        _ = writeln!(text, "{line}");
    }
    _ = writeln!(text, "\n# policy rules");
    for line in links.with(policy_rules)? {
        _ = writeln!(text, "{line}");
    }
    _ = writeln!(text, "\n# routes of all tables");
    for line in links.with(|socket| routes(socket, &names))? {
        _ = writeln!(text, "{line}");
    }
    _ = writeln!(text, "\n# nftables");
    text.push_str(&ruleset::read(&mut Socket::netfilter()?)?);
    Ok(text)
}

fn device(names: &Names, index: u32) -> String {
    names.get(&index).cloned().unwrap_or_else(|| format!("#{index}"))
}

fn neighbours(socket: &mut Socket, names: &Names) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for family in [AddressFamily::Unspec, AddressFamily::Bridge] {
        let mut request = NeighbourMessage::default();
        request.header.family = family;
        all.extend(socket.list(
            RouteNetlinkMessage::GetNeighbour(request),
            || "list neighbours".into(),
            |found| match found {
                RouteNetlinkMessage::NewNeighbour(neighbour) => Some(neighbour_text(&neighbour, names)),
                _ => None,
            },
        )?);
    }
    all.sort();
    Ok(all)
}

fn neighbour_text(neighbour: &NeighbourMessage, names: &Names) -> String {
    let header = &neighbour.header;
    let mut text = format!("dev {} {:?}", device(names, header.ifindex), header.state);
    for attribute in &neighbour.attributes {
        match attribute {
            NeighbourAttribute::Destination(to) => _ = write!(text, " {to:?}"),
            NeighbourAttribute::LinkLayerAddress(mac) => {
                let mac: Vec<String> = mac.iter().map(|b| format!("{b:02x}")).collect();
                _ = write!(text, " lladdr {}", mac.join(":"));
            }
            _ => {}
        }
    }
    text
}

fn policy_rules(socket: &mut Socket) -> Result<Vec<String>> {
    let request = RouteNetlinkMessage::GetRule(RuleMessage::default());
    let mut rules = socket.list(
        request,
        || "list policy rules".into(),
        |found| match found {
            RouteNetlinkMessage::NewRule(rule) => Some(rule_text(&rule)),
            _ => None,
        },
    )?;
    rules.sort();
    Ok(rules.into_iter().map(|(_, text)| text).collect())
}

fn rule_text(rule: &RuleMessage) -> (u32, String) {
    let mut priority = 0;
    let mut text = String::new();
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::Priority(number) => priority = *number,
            // What the kernel sends of every rule and nobody asked for.
            RuleAttribute::SuppressPrefixLen(u32::MAX) => {}
            other => _ = write!(text, " {other:?}"),
        }
    }
    let header = &rule.header;
    let text = format!("{priority}: {:?} {:?}{text}", header.family, header.action);
    (priority, text)
}

fn routes(socket: &mut Socket, names: &Names) -> Result<Vec<String>> {
    let request = RouteNetlinkMessage::GetRoute(RouteMessage::default());
    let mut all = socket.list(
        request,
        || "list routes".into(),
        |found| match found {
            RouteNetlinkMessage::NewRoute(route) => Some(route_text(&route, names)),
            _ => None,
        },
    )?;
    all.sort();
    Ok(all)
}

fn route_text(route: &RouteMessage, names: &Names) -> String {
    let RouteHeader {
        destination_prefix_length,
        kind,
        protocol,
        scope,
        ..
    } = route.header;
    let mut table = u32::from(route.header.table);
    let mut destination = "default".to_owned();
    let mut text = String::new();
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(to) => {
                destination = format!("{}/{destination_prefix_length}", address(to));
            }
            RouteAttribute::MultiPath(hops) => {
                for hop in hops {
                    _ = write!(text, " nexthop{}", hop_text(hop, names));
                }
            }
            RouteAttribute::CacheInfo(_) => {}
            other => text.push_str(&attribute_text(other, names)),
        }
    }
    format!("table {table}: {kind:?} {destination}{text} proto {protocol:?} scope {scope:?}")
}

fn hop_text(hop: &RouteNextHop, names: &Names) -> String {
    let rest: String = hop.attributes.iter().map(|a| attribute_text(a, names)).collect();
    format!(
        "{rest} dev {} weight {}",
        device(names, hop.interface_index),
        hop.hops + 1
    )
}

fn attribute_text(attribute: &RouteAttribute, names: &Names) -> String {
    match attribute {
        RouteAttribute::Gateway(to) => format!(" via {}", address(to)),
        RouteAttribute::Oif(index) => format!(" dev {}", device(names, *index)),
        RouteAttribute::PrefSource(from) => format!(" src {}", address(from)),
        RouteAttribute::Priority(metric) => format!(" metric {metric}"),
        RouteAttribute::Metrics(metrics) => format!(" {metrics:?}"),
        other => format!(" {other:?}"),
    }
}

fn address(address: &RouteAddress) -> String {
    match address {
        RouteAddress::Inet(ip) => ip.to_string(),
        RouteAddress::Inet6(ip) => ip.to_string(),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use strait_core::kernel::{
        Action, AddressFamily, Chain, ChainKind, Element, Hook, Key, MAIN_TABLE, Match, NextHop, NftSet,
        NftTable, Protocol, Route, RouteKind, Rule, SetKind,
    };

    use super::*;
    use crate::link::PROTOCOL_STATIC;
    use crate::netns::Netns;
    use crate::table::replace_table;
    use crate::testing::as_root;

    #[test]
    fn what_was_put_in_can_be_read() {
        as_root("inspect::tests::what_was_put_in_can_be_read", || {
            let namespace = Netns::new().unwrap();
            let links = Links::open_in(&namespace).unwrap();
            links.add_bridge("lan", None).unwrap();
            links.set_up("lan").unwrap();
            links.add_address("lan", "192.0.2.1/24".parse().unwrap()).unwrap();
            let route = Route {
                table: MAIN_TABLE,
                destination: "198.51.100.0/24".parse().unwrap(),
                metric: 77,
                kind: RouteKind::Unicast {
                    next_hops: vec![NextHop {
                        device: "lan".to_owned(),
                        via: Some("192.0.2.9".parse().unwrap()),
                    }],
                    source: None,
                    mtu: None,
                },
            };
            links.set_route(&route, PROTOCOL_STATIC).unwrap();
            let rule = |matches, actions| Rule { matches, actions };
            let family = AddressFamily::V4;
            let rules = vec![
                rule(
                    vec![
                        Match::InputDevice("lan".to_owned()),
                        Match::Family(family),
                        Match::InSet(Key::Source(family), "friends".to_owned()),
                        Match::Protocol(Protocol::Udp),
                        Match::DestinationPort(4510),
                    ],
                    vec![Action::Counter, Action::Accept],
                ),
                rule(
                    vec![
                        Match::Family(family),
                        Match::In(Key::Destination(family), "203.0.113.0/24".parse().unwrap()),
                    ],
                    vec![Action::Jump("more".to_owned())],
                ),
            ];
            let base = Some((ChainKind::Filter, Hook::Forward, -5));
            let more = vec![rule(vec![Match::TcpSyn], vec![Action::Drop])];
            let table = NftTable {
                sets: BTreeMap::from([(
                    "friends".to_owned(),
                    NftSet {
                        kind: SetKind::Addresses(family),
                        elements: BTreeSet::from([Element::Address("192.0.2.77".parse().unwrap())]),
                    },
                )]),
                chains: BTreeMap::from([
                    ("forward".to_owned(), Chain { base, rules }),
                    (
                        "more".to_owned(),
                        Chain {
                            base: None,
                            rules: more,
                        },
                    ),
                ]),
            };
            replace_table(&namespace, "mine", &table).unwrap();
            let text = namespace.run(everything).unwrap().unwrap();
            for said in [
                "192.0.2.1/24",
                "198.51.100.0/24",
                "via 192.0.2.9 dev lan",
                "metric 77",
                "table inet mine",
                "chain forward (filter, hook forward, priority -5, policy accept)",
                "set friends",
                "192.0.2.77",
                "meta iifname",
                "\"lan\"",
                "lookup set friends",
                "4510",
                "counter packets 0 bytes 0",
                "accept",
                "203.0.113.0",
                "jump more",
                "drop",
            ] {
                assert!(text.contains(said), "{said:?} is not in\n{text}");
            }
        });
    }
}
