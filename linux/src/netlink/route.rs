//! Reading route netlink's messages.

use netlink_packet_core::{DecodeError, Emitable, NlaBuffer, NlasIterator, Parseable, ParseableParametrized};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressHeader, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkHeader, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourHeader, NeighbourMessage};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteLwEnCapType, RouteMessage};
use netlink_packet_route::rule::{RuleAttribute, RuleHeader, RuleMessage};

/// A message of the kinds that we read. An attribute that netlink-packet-route cannot read is left out:
/// its own way, to refuse the whole message, would hide an object because of something that a newer kernel
/// says about it.
pub(crate) fn decode(kind: u16, body: &[u8]) -> Option<RouteNetlinkMessage> {
    let message = match kind {
        libc::RTM_NEWLINK => RouteNetlinkMessage::NewLink(link(body).ok()?),
        libc::RTM_DELLINK => RouteNetlinkMessage::DelLink(link(body).ok()?),
        libc::RTM_NEWADDR => RouteNetlinkMessage::NewAddress(address(body).ok()?),
        libc::RTM_DELADDR => RouteNetlinkMessage::DelAddress(address(body).ok()?),
        libc::RTM_NEWNEIGH => RouteNetlinkMessage::NewNeighbour(neighbour(body).ok()?),
        libc::RTM_DELNEIGH => RouteNetlinkMessage::DelNeighbour(neighbour(body).ok()?),
        libc::RTM_NEWROUTE => RouteNetlinkMessage::NewRoute(route(body).ok()?),
        libc::RTM_DELROUTE => RouteNetlinkMessage::DelRoute(route(body).ok()?),
        libc::RTM_NEWRULE => RouteNetlinkMessage::NewRule(rule(body).ok()?),
        libc::RTM_DELRULE => RouteNetlinkMessage::DelRule(rule(body).ok()?),
        _ => return None,
    };
    Some(message)
}

fn link(body: &[u8]) -> Result<LinkMessage, DecodeError> {
    let mut message = LinkMessage::default();
    message.header = LinkHeader::parse(body)?;
    let family = message.header.interface_family;
    message.attributes = attributes(body, &message.header, |a| {
        LinkAttribute::parse_with_param(a, family)
    });
    Ok(message)
}

fn address(body: &[u8]) -> Result<AddressMessage, DecodeError> {
    let mut message = AddressMessage::default();
    message.header = AddressHeader::parse(body)?;
    message.attributes = attributes(body, &message.header, |a| AddressAttribute::parse(a));
    Ok(message)
}

fn neighbour(body: &[u8]) -> Result<NeighbourMessage, DecodeError> {
    let mut message = NeighbourMessage::default();
    message.header = NeighbourHeader::parse(body)?;
    let family = message.header.family;
    message.attributes = attributes(body, &message.header, |a| {
        NeighbourAttribute::parse_with_param(a, family)
    });
    Ok(message)
}

fn route(body: &[u8]) -> Result<RouteMessage, DecodeError> {
    let mut message = RouteMessage::default();
    message.header = RouteHeader::parse(body)?;
    // Encapsulation, which we never set, is only read with its type known beforehand.
    let context = (
        message.header.address_family,
        message.header.kind,
        RouteLwEnCapType::None,
    );
    message.attributes = attributes(body, &message.header, |a| {
        RouteAttribute::parse_with_param(a, context)
    });
    Ok(message)
}

fn rule(body: &[u8]) -> Result<RuleMessage, DecodeError> {
    let mut message = RuleMessage::default();
    message.header = RuleHeader::parse(body)?;
    message.attributes = attributes(body, &message.header, |a| RuleAttribute::parse(a));
    Ok(message)
}

fn attributes<T>(
    body: &[u8],
    header: &impl Emitable,
    parse: impl Fn(&NlaBuffer<&[u8]>) -> Result<T, DecodeError>,
) -> Vec<T> {
    NlasIterator::new(body.get(header.buffer_len()..).unwrap_or_default())
        .filter_map(|found| match found.and_then(|attribute| parse(&attribute)) {
            Ok(attribute) => Some(attribute),
            Err(error) => {
                tracing::debug!(%error, "a netlink attribute that cannot be read is left out");
                None
            }
        })
        .collect()
}
