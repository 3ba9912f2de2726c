//! Permanent neighbours and forwarding entries.

use std::net::IpAddr;

use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourHeader, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use strait_core::kernel::MacAddress;

use super::Links;
use crate::error::Result;
use crate::netlink::{Message, NLM_F_CREATE, NLM_F_REPLACE, ip};

/// A neighbour or forwarding entry as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) index: u32,
    pub(crate) bridge: bool,
    pub(crate) permanent: bool,
    pub(crate) destination: Option<IpAddr>,
    pub(crate) mac: Option<MacAddress>,
}

impl Links {
    /// Adds or changes a permanent neighbour.
    ///
    /// # Errors
    /// Where there is no such device, or the kernel refuses.
    pub fn add_neighbour(&self, device: &str, address: IpAddr, mac: MacAddress) -> Result<()> {
        let doing = || format!("add the neighbour {address} at {mac} to {device}");
        let index = self.index(device, doing)?;
        self.request(neighbour_message(index, address, mac, true), doing)
    }

    /// Adds or changes a permanent forwarding entry of a VXLAN device: `mac` lives behind `node`.
    ///
    /// # Errors
    /// Where there is no such device, or the kernel refuses.
    pub fn add_fdb(&self, device: &str, mac: MacAddress, node: IpAddr) -> Result<()> {
        let doing = || format!("forward {mac} on {device} to {node}");
        let index = self.index(device, doing)?;
        self.request(fdb_message(index, mac, node, true), doing)
    }

    /// Neighbours of both families (`bridge` false) or forwarding entries (`bridge` true).
    pub(crate) fn all_neighbours(&self, bridge: bool) -> Result<Vec<Held>> {
        let mut request = NeighbourMessage::default();
        if bridge {
            request.header.family = AddressFamily::Bridge;
        }
        self.with(|socket| {
            socket.list(
                RouteNetlinkMessage::GetNeighbour(request),
                || "list neighbours".into(),
                |found| match found {
                    RouteNetlinkMessage::NewNeighbour(neighbour) => Some(held(&neighbour)),
                    _ => None,
                },
            )
        })
    }
}

pub(crate) fn neighbour_message(index: u32, address: IpAddr, mac: MacAddress, add: bool) -> Message {
    let header = NeighbourHeader {
        family: match address {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        },
        ifindex: index,
        state: NeighbourState::Permanent,
        ..NeighbourHeader::default()
    };
    message(header, address, mac, add)
}

pub(crate) fn fdb_message(index: u32, mac: MacAddress, node: IpAddr, add: bool) -> Message {
    let header = NeighbourHeader {
        family: AddressFamily::Bridge,
        ifindex: index,
        state: NeighbourState::Other(u16::from(NeighbourState::Permanent) | u16::from(NeighbourState::Noarp)),
        flags: NeighbourFlags::Own,
        ..NeighbourHeader::default()
    };
    message(header, node, mac, add)
}

fn message(header: NeighbourHeader, destination: IpAddr, mac: MacAddress, add: bool) -> Message {
    let destination = match destination {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    };
    let mut message = NeighbourMessage::default();
    message.header = header;
    message.attributes = vec![
        NeighbourAttribute::Destination(destination),
        NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()),
    ];
    if add {
        Message::route(
            RouteNetlinkMessage::NewNeighbour(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    } else {
        Message::route(RouteNetlinkMessage::DelNeighbour(message), 0)
    }
}

fn held(message: &NeighbourMessage) -> Held {
    let header = &message.header;
    let mut held = Held {
        index: header.ifindex,
        bridge: header.family == AddressFamily::Bridge,
        permanent: u16::from(header.state) & u16::from(NeighbourState::Permanent) != 0,
        destination: None,
        mac: None,
    };
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => {
                held.destination = Some((*address).into());
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => {
                held.destination = Some((*address).into());
            }
            // Those of forwarding entries come as octets, for their family is that of bridges.
            NeighbourAttribute::Destination(NeighbourAddress::Other(octets)) => held.destination = ip(octets),
            NeighbourAttribute::LinkLayerAddress(octets) => {
                held.mac = octets.as_slice().try_into().ok().map(MacAddress);
            }
            _ => {}
        }
    }
    held
}
