//! Addresses on devices.

use ipnet::IpNet;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeader, AddressMessage, AddressScope,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::Links;
use crate::error::Result;
use crate::netlink::{Message, NLM_F_CREATE, NLM_F_REPLACE};

/// An address as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) index: u32,
    pub(crate) address: IpNet,
    /// fe80::/10 and the like, which the kernel gives by itself.
    pub(crate) link_scope: bool,
}

impl Links {
    /// Gives a device an address; IPv6 without duplicate address detection. It may exist already.
    ///
    /// # Errors
    /// Where there is no such device, or the kernel refuses.
    pub fn add_address(&self, device: &str, address: IpNet) -> Result<()> {
        let doing = || format!("add the address {address} to {device}");
        let index = self.index(device, doing)?;
        self.request(address_message(index, address, true), doing)
    }

    /// Takes an address away.
    ///
    /// # Errors
    /// Where device or address do not exist, or the kernel refuses.
    pub fn remove_address(&self, device: &str, address: IpNet) -> Result<()> {
        let doing = || format!("remove the address {address} from {device}");
        let index = self.index(device, doing)?;
        self.request(address_message(index, address, false), doing)
    }

    /// The addresses of a device, link-local ones included.
    ///
    /// # Errors
    /// Where there is no such device, or the kernel refuses.
    pub fn addresses(&self, device: &str) -> Result<Vec<IpNet>> {
        let index = self.index(device, || format!("list the addresses of {device}"))?;
        let all = self.all_addresses()?;
        Ok(all
            .into_iter()
            .filter(|held| held.index == index)
            .map(|held| held.address)
            .collect())
    }

    pub(crate) fn all_addresses(&self) -> Result<Vec<Held>> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        self.with(|socket| {
            socket.list(
                request,
                || "list addresses".into(),
                |found| match found {
                    RouteNetlinkMessage::NewAddress(address) => held(&address),
                    _ => None,
                },
            )
        })
    }
}

pub(crate) fn address_message(index: u32, address: IpNet, add: bool) -> Message {
    let mut message = AddressMessage::default();
    message.header = AddressHeader {
        family: if address.addr().is_ipv4() {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        },
        prefix_len: address.prefix_len(),
        index,
        ..AddressHeader::default()
    };
    message.attributes = vec![
        AddressAttribute::Local(address.addr()),
        AddressAttribute::Address(address.addr()),
    ];
    if !add {
        return Message::route(RouteNetlinkMessage::DelAddress(message), 0);
    }
    let mut flags = AddressFlags::empty();
    flags.set(AddressFlags::Nodad, address.addr().is_ipv6());
    let host = address.prefix_len() == address.max_prefix_len();
    flags.set(AddressFlags::Noprefixroute, host);
    message.attributes.push(AddressAttribute::Flags(flags));
    Message::route(
        RouteNetlinkMessage::NewAddress(message),
        NLM_F_CREATE | NLM_F_REPLACE,
    )
}

fn held(message: &AddressMessage) -> Option<Held> {
    let (mut local, mut peer) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => peer = Some(*address),
            _ => {}
        }
    }
    let header = &message.header;
    Some(Held {
        index: header.index,
        address: IpNet::new(local.or(peer)?, header.prefix_len).ok()?,
        link_scope: u8::from(header.scope) >= u8::from(AddressScope::Link),
    })
}
