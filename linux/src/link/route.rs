//! Routes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop, RouteProtocol,
    RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{RouteMessageBuilder, RouteNextHopBuilder};
use strait_core::kernel::{NextHop, Route, RouteKind};

use super::Links;
use crate::error::{Error, Result};
use crate::netlink::{Message, NLM_F_CREATE, NLM_F_REPLACE};

/// More than this could overrun the length of their attribute, which has 16 bits.
const MOST_NEXT_HOPS: usize = 1024;

/// The protocol number of routes that an administrator (or the lab) makes.
pub const PROTOCOL_STATIC: u8 = 4;

impl Links {
    /// Adds a route, or replaces the one of the same table, destination and metric. `protocol` marks whose
    /// it is (`strait_core::kernel::ROUTE_PROTOCOL` for Strait's own, 4 for `static`). Next hops are taken
    /// as on-link.
    ///
    /// # Errors
    /// Where a device does not exist, or the kernel refuses.
    pub fn set_route(&self, route: &Route, protocol: u8) -> Result<()> {
        self.send_route(route, protocol, true)
    }

    /// Removes a route.
    ///
    /// # Errors
    /// Where there is none, or the kernel refuses.
    pub fn remove_route(&self, route: &Route, protocol: u8) -> Result<()> {
        self.send_route(route, protocol, false)
    }

    /// The routes of one protocol number, in all tables.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn routes(&self, protocol: u8) -> Result<Vec<Route>> {
        let names = self
            .list()?
            .into_iter()
            .map(|link| (link.index, link.name))
            .collect();
        self.routes_named(protocol, &names)
    }

    /// How many routes there are of all protocol numbers, in all tables, without those that the kernel
    /// makes for its own addresses (which come and go with duplicate address detection).
    pub(crate) fn route_count(&self) -> Result<usize> {
        use RouteType::{Anycast, Broadcast, Local, Multicast};
        let request = RouteNetlinkMessage::GetRoute(RouteMessage::default());
        let all = self.with(|socket| {
            socket.list(
                request,
                || "list routes".into(),
                |found| match found {
                    RouteNetlinkMessage::NewRoute(route) => {
                        let own = matches!(route.header.kind, Local | Broadcast | Anycast | Multicast);
                        (!own).then_some(())
                    }
                    _ => None,
                },
            )
        })?;
        Ok(all.len())
    }

    pub(crate) fn routes_named(&self, protocol: u8, names: &BTreeMap<u32, String>) -> Result<Vec<Route>> {
        let protocol = RouteProtocol::from(protocol);
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            // With strict checking the kernel filters by this field; older ones send everything.
            request.header.protocol = protocol;
            routes.extend(self.with(|socket| {
                socket.list(
                    RouteNetlinkMessage::GetRoute(request),
                    || "list routes".into(),
                    |found| match found {
                        RouteNetlinkMessage::NewRoute(route) if route.header.protocol == protocol => {
                            read(&route, names)
                        }
                        _ => None,
                    },
                )
            })?);
        }
        Ok(routes)
    }

    fn send_route(&self, route: &Route, protocol: u8, add: bool) -> Result<()> {
        let doing = || {
            let verb = if add { "set" } else { "remove" };
            format!(
                "{verb} the route to {} in table {}",
                route.destination, route.table
            )
        };
        let indices = self
            .list()?
            .into_iter()
            .map(|link| (link.name, link.index))
            .collect();
        self.request(route_message(route, protocol, &indices, add)?, doing)
    }
}

pub(crate) fn route_message(
    route: &Route,
    protocol: u8,
    indices: &BTreeMap<String, u32>,
    add: bool,
) -> Result<Message> {
    let doing = || format!("set the route to {}", route.destination);
    let invalid = |why: String| Error::Invalid { doing: doing(), why };
    let destination = route.destination;
    let (kind, scope) = match &route.kind {
        RouteKind::Unicast { next_hops, .. }
            if destination.addr().is_ipv4() && next_hops.iter().all(|hop| hop.via.is_none()) =>
        {
            (RouteType::Unicast, RouteScope::Link)
        }
        RouteKind::Unicast { .. } => (RouteType::Unicast, RouteScope::Universe),
        RouteKind::Unreachable => (RouteType::Unreachable, RouteScope::Universe),
        RouteKind::Throw => (RouteType::Throw, RouteScope::Universe),
    };
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(destination.network(), destination.prefix_len())
        .map_err(|e| invalid(e.to_string()))?
        .table_id(route.table)
        .priority(route.metric)
        .protocol(RouteProtocol::from(protocol))
        .kind(kind)
        .scope(if add { scope } else { RouteScope::NoWhere });
    if !add {
        // Table, destination and metric name the route.
        return Ok(Message::route(RouteNetlinkMessage::DelRoute(builder.build()), 0));
    }
    if let RouteKind::Unicast {
        next_hops,
        source,
        mtu,
    } = &route.kind
    {
        if let Some(source) = source {
            builder = builder.pref_source(*source).map_err(|e| invalid(e.to_string()))?;
        }
        if let Some(mtu) = mtu {
            let metrics = RouteAttribute::Metrics(vec![RouteMetric::Mtu(*mtu)]);
            builder.get_mut().attributes.push(metrics);
        }
        let index = |hop: &NextHop| {
            let missing = || Error::missing(doing(), format!("network device {}", hop.device));
            indices.get(&hop.device).copied().ok_or_else(missing)
        };
        builder = match next_hops.as_slice() {
            [] => return Err(invalid("it has no next hop".into())),
            [hop] => {
                let builder = builder.output_interface(index(hop)?);
                match hop.via {
                    Some(via) => builder.gateway(via).map_err(|e| invalid(e.to_string()))?.onlink(),
                    None => builder,
                }
            }
            several if several.len() > MOST_NEXT_HOPS => {
                return Err(invalid(format!(
                    "{} next hops are more than the {MOST_NEXT_HOPS} that fit a request",
                    several.len()
                )));
            }
            several => {
                let mut paths = Vec::with_capacity(several.len());
                for hop in several {
                    let mut path = match destination {
                        IpNet::V4(_) => RouteNextHopBuilder::new_ipv4(),
                        IpNet::V6(_) => RouteNextHopBuilder::new_ipv6(),
                    };
                    path = path.interface(index(hop)?);
                    if let Some(via) = hop.via {
                        path = path.via(via).map_err(|e| invalid(e.to_string()))?.onlink();
                    }
                    paths.push(path.build());
                }
                builder.multipath(paths)
            }
        };
    }
    Ok(Message::route(
        RouteNetlinkMessage::NewRoute(builder.build()),
        NLM_F_CREATE | NLM_F_REPLACE,
    ))
}

fn read(message: &RouteMessage, names: &BTreeMap<u32, String>) -> Option<Route> {
    let header = &message.header;
    if header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let name = |index: u32| names.get(&index).cloned().unwrap_or_else(|| format!("#{index}"));
    let mut destination = match header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let (mut table, mut metric) = (u32::from(header.table), 0);
    let (mut device, mut via, mut several) = (None, None, None);
    let (mut source, mut mtu) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Table(id) => table = *id,
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Oif(index) => device = Some(name(*index)),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => via = gateway(attribute),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            RouteAttribute::MultiPath(paths) => {
                let hop = |path: &RouteNextHop| NextHop {
                    device: name(path.interface_index),
                    via: path.attributes.iter().find_map(gateway),
                };
                several = Some(paths.iter().map(hop).collect());
            }
            _ => {}
        }
    }
    let kind = match header.kind {
        RouteType::Unicast => RouteKind::Unicast {
            next_hops: match several {
                Some(hops) => hops,
                None => vec![NextHop { device: device?, via }],
            },
            source,
            mtu,
        },
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Throw => RouteKind::Throw,
        _ => return None,
    };
    Some(Route {
        table,
        destination: IpNet::new(destination, header.destination_prefix_length).ok()?,
        metric,
        kind,
    })
}

/// The router that an attribute names. IPv4 by way of an IPv6 router has an attribute of its own.
fn gateway(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(RouteVia::Inet(address)) => Some((*address).into()),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some((*address).into()),
        _ => None,
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}
