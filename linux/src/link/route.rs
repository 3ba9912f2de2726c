//! Routes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use strait_core::kernel::{NextHop, Route, RouteKind};

use super::Links;
use super::address::{ip, octets};
use crate::error::{Error, Result};
use crate::netlink::{Attributes, Message, NLM_F_CREATE, NLM_F_REPLACE, ne16, ne32};

const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTAX_MTU: u16 = 2;
const RTNH_F_ONLINK: u8 = 4;
const RTN_UNICAST: u8 = 1;
const RTN_UNREACHABLE: u8 = 7;
const RTN_THROW: u8 = 9;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RT_SCOPE_NOWHERE: u8 = 255;
const RTM_F_CLONED: u32 = 0x200;

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
        const RTN_LOCAL_TO_MULTICAST: std::ops::RangeInclusive<u8> = 2..=5;
        let message = Message::new(RTM_GETROUTE, 0, &[0; 12]);
        let all = self.with(|socket| {
            socket.dump(
                &message,
                || "list routes".into(),
                |_, body| (!RTN_LOCAL_TO_MULTICAST.contains(body.get(7)?)).then_some(()),
            )
        })?;
        Ok(all.len())
    }

    pub(crate) fn routes_named(&self, protocol: u8, names: &BTreeMap<u32, String>) -> Result<Vec<Route>> {
        let mut routes = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut fixed = [0; 12];
            fixed[0] = family as u8;
            // With strict checking the kernel filters by this field; older ones send everything.
            fixed[5] = protocol;
            let message = Message::new(RTM_GETROUTE, 0, &fixed);
            routes.extend(self.with(|socket| {
                socket.dump(
                    &message,
                    || "list routes".into(),
                    |kind, body| {
                        (kind == RTM_NEWROUTE)
                            .then(|| parse(body, protocol, names))
                            .flatten()
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
    let (family, v4) = match route.destination {
        IpNet::V4(_) => (libc::AF_INET as u8, true),
        IpNet::V6(_) => (libc::AF_INET6 as u8, false),
    };
    let (kind, scope) = match &route.kind {
        RouteKind::Unicast { next_hops, .. } if v4 && next_hops.iter().all(|hop| hop.via.is_none()) => {
            (RTN_UNICAST, RT_SCOPE_LINK)
        }
        RouteKind::Unicast { .. } => (RTN_UNICAST, RT_SCOPE_UNIVERSE),
        RouteKind::Unreachable => (RTN_UNREACHABLE, RT_SCOPE_UNIVERSE),
        RouteKind::Throw => (RTN_THROW, RT_SCOPE_UNIVERSE),
    };
    let scope = if add { scope } else { RT_SCOPE_NOWHERE };
    let table = u8::try_from(route.table).unwrap_or(0);
    let mut fixed = [0; 12];
    fixed[0] = family;
    fixed[1] = route.destination.prefix_len();
    fixed[4] = table;
    fixed[5] = protocol;
    fixed[6] = scope;
    fixed[7] = kind;
    if let RouteKind::Unicast { next_hops, .. } = &route.kind
        && let [NextHop { via: Some(_), .. }] = next_hops.as_slice()
    {
        fixed[8..12].copy_from_slice(&u32::from(RTNH_F_ONLINK).to_ne_bytes());
    }
    let (message_kind, flags) = if add {
        (RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE)
    } else {
        (RTM_DELROUTE, 0)
    };
    let mut message = Message::new(message_kind, flags, &fixed);
    message
        .ne32(RTA_TABLE, route.table)
        .ne32(RTA_PRIORITY, route.metric);
    if route.destination.prefix_len() > 0 {
        message.attribute(RTA_DST, &octets(route.destination.network()));
    }
    let RouteKind::Unicast {
        next_hops,
        source,
        mtu,
    } = &route.kind
    else {
        return Ok(message);
    };
    if !add {
        // Table, destination and metric name the route.
        return Ok(message);
    }
    if let Some(source) = source {
        message.attribute(RTA_PREFSRC, &octets(*source));
    }
    if let Some(mtu) = mtu {
        message.nest(RTA_METRICS, |metrics| {
            metrics.ne32(RTAX_MTU, *mtu);
        });
    }
    let mut hops = Vec::with_capacity(next_hops.len());
    for hop in next_hops {
        let Some(index) = indices.get(&hop.device) else {
            return Err(Error::missing(
                format!("set the route to {}", route.destination),
                format!("network device {}", hop.device),
            ));
        };
        hops.push((*index, hop.via));
    }
    match hops.as_slice() {
        [] => {
            return Err(Error::Invalid {
                doing: format!("set the route to {}", route.destination),
                why: "it has no next hop".into(),
            });
        }
        [(index, via)] => {
            message.ne32(RTA_OIF, *index);
            if let Some(via) = via {
                message.attribute(RTA_GATEWAY, &octets(*via));
            }
        }
        several => {
            message.nest(RTA_MULTIPATH, |paths| {
                for (index, via) in several {
                    let flags = if via.is_some() { RTNH_F_ONLINK } else { 0 };
                    let start = paths.bytes(&[0, 0, flags, 0]);
                    paths.bytes(&index.to_ne_bytes());
                    if let Some(via) = via {
                        paths.attribute(RTA_GATEWAY, &octets(*via));
                    }
                    paths.close(start);
                }
            });
        }
    }
    Ok(message)
}

fn parse(body: &[u8], wanted: u8, names: &BTreeMap<u32, String>) -> Option<Route> {
    let (family, bits, protocol, kind) = (*body.first()?, *body.get(1)?, *body.get(5)?, *body.get(7)?);
    let flags = ne32(body.get(8..12)?)?;
    if protocol != wanted || flags & RTM_F_CLONED != 0 {
        return None;
    }
    let attributes = Attributes::after(body, 12);
    let unspecified: IpAddr = match i32::from(family) {
        libc::AF_INET => Ipv4Addr::UNSPECIFIED.into(),
        libc::AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let address = attributes.get(RTA_DST).and_then(ip).unwrap_or(unspecified);
    let kind = match kind {
        RTN_UNICAST => RouteKind::Unicast {
            next_hops: next_hops(attributes, names)?,
            source: attributes.get(RTA_PREFSRC).and_then(ip),
            mtu: attributes
                .nest(RTA_METRICS)
                .and_then(|metrics| metrics.ne32(RTAX_MTU)),
        },
        RTN_UNREACHABLE => RouteKind::Unreachable,
        RTN_THROW => RouteKind::Throw,
        _ => return None,
    };
    Some(Route {
        table: attributes
            .ne32(RTA_TABLE)
            .or_else(|| body.get(4).map(|t| u32::from(*t)))?,
        destination: IpNet::new(address, bits).ok()?,
        metric: attributes.ne32(RTA_PRIORITY).unwrap_or(0),
        kind,
    })
}

fn next_hops(attributes: Attributes<'_>, names: &BTreeMap<u32, String>) -> Option<Vec<NextHop>> {
    let name = |index: u32| names.get(&index).cloned().unwrap_or_else(|| format!("#{index}"));
    let Some(mut rest) = attributes.get(RTA_MULTIPATH) else {
        return Some(vec![NextHop {
            device: name(attributes.ne32(RTA_OIF)?),
            via: attributes.get(RTA_GATEWAY).and_then(ip),
        }]);
    };
    let mut hops = Vec::new();
    while rest.len() >= 8 {
        let length = usize::from(ne16(rest)?);
        let inner = rest.get(8..length)?;
        hops.push(NextHop {
            device: name(ne32(&rest[4..])?),
            via: Attributes::new(inner).get(RTA_GATEWAY).and_then(ip),
        });
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(hops)
}
