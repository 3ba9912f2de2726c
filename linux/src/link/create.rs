//! Making devices.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute,
    LinkMessage,
};
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVxlan};
use strait_core::kernel::{MacAddress, OverlayLink};

use super::{Ipv4Conf, Links};
use crate::error::Result;
use crate::netlink::{Message, NLM_F_CREATE, NLM_F_EXCL};
use crate::netns::Netns;

const IFLA_INET_CONF: u16 = 1;

/// One end of a veth pair.
#[derive(Debug, Clone, Copy, Default)]
pub struct VethEnd<'a> {
    /// Interface name.
    pub name: &'a str,
    /// The namespace to make it in; `None` for that of the [`Links`].
    pub namespace: Option<&'a Netns>,
    /// Hardware address; the kernel takes a random one where it is not given.
    pub mac: Option<MacAddress>,
    /// MTU; 1500 where it is not given.
    pub mtu: Option<u32>,
}

impl VethEnd<'_> {
    fn with<T>(&self, mut end: LinkMessageBuilder<T>) -> LinkMessageBuilder<T> {
        end = end.name(self.name);
        if let Some(mac) = self.mac {
            end = end.address(mac.0.to_vec());
        }
        if let Some(mtu) = self.mtu {
            end = end.mtu(mtu);
        }
        if let Some(namespace) = self.namespace {
            end = end.setns_by_fd(namespace.as_fd().as_raw_fd());
        }
        end
    }
}

/// A VXLAN device with permanent entries only (no learning, no multicast).
#[derive(Debug, Clone)]
pub struct Vxlan<'a> {
    /// Interface name.
    pub name: &'a str,
    /// VXLAN network identifier.
    pub vni: u32,
    /// UDP destination port.
    pub port: u16,
    /// Outer source address.
    pub local: IpAddr,
    /// Hardware address.
    pub mac: Option<MacAddress>,
    /// MTU of the packets inside.
    pub mtu: Option<u32>,
}

impl Links {
    /// Makes a veth pair. Both ends are down.
    ///
    /// # Errors
    /// Where a name is taken, or the kernel refuses.
    pub fn add_veth(&self, near: &VethEnd<'_>, far: &VethEnd<'_>) -> Result<()> {
        let peer = far.with(LinkMessageBuilder::<LinkUnspec>::new()).build();
        let pair = near
            .with(LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth))
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
        self.request(make(pair.build()), || {
            format!("make the veth pair {} and {}", near.name, far.name)
        })
    }

    /// Makes a bridge, down, without spanning tree.
    ///
    /// # Errors
    /// Where the name is taken, or the kernel refuses.
    pub fn add_bridge(&self, name: &str, mac: Option<MacAddress>) -> Result<()> {
        // LinkBridge::new would set it up.
        let mut bridge = LinkMessageBuilder::<LinkBridge>::new(name);
        if let Some(mac) = mac {
            bridge = bridge.address(mac.0.to_vec());
        }
        self.request(make(bridge.build()), || format!("make the bridge {name}"))
    }

    /// Makes a VXLAN device, down.
    ///
    /// # Errors
    /// Where the name or the network identifier is taken, or the kernel refuses.
    pub fn add_vxlan(&self, vxlan: &Vxlan<'_>) -> Result<()> {
        let mut device = vxlan_device(vxlan.name, vxlan.vni, vxlan.port, vxlan.local);
        if let Some(mac) = vxlan.mac {
            device = device.address(mac.0.to_vec());
        }
        if let Some(mtu) = vxlan.mtu {
            device = device.mtu(mtu);
        }
        self.request(make(device.build()), || {
            format!("make the VXLAN device {}", vxlan.name)
        })
    }
}

fn make(device: LinkMessage) -> Message {
    Message::route(RouteNetlinkMessage::NewLink(device), NLM_F_CREATE | NLM_F_EXCL)
}

/// The messages that make the overlay device. Parameters can be set only once the device stands, and the
/// link-local address is kept away only by a mode set before it is up: hence three steps.
pub(crate) fn overlay_messages(overlay: &OverlayLink) -> [Message; 3] {
    let device = vxlan_device(&overlay.name, overlay.vni, overlay.port, overlay.local)
        .address(overlay.mac.0.to_vec())
        .mtu(overlay.mtu);
    let no_link_local = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    let mode = LinkUnspec::new_with_name(&overlay.name)
        .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![no_link_local]));
    [
        make(device.build()),
        Message::route(RouteNetlinkMessage::NewLink(mode.build()), 0),
        overlay_change_message(overlay),
    ]
}

/// What can change on the overlay device while it stands; sets it up too.
pub(crate) fn overlay_change_message(overlay: &OverlayLink) -> Message {
    let change = LinkUnspec::new_with_name(&overlay.name)
        .up()
        .mtu(overlay.mtu)
        .append_extra_attribute(inet_conf(&[(Ipv4Conf::RpFilter, u32::from(overlay.rp_filter))]));
    Message::route(RouteNetlinkMessage::NewLink(change.build()), 0)
}

fn vxlan_device(name: &str, vni: u32, port: u16, local: IpAddr) -> LinkMessageBuilder<LinkVxlan> {
    let device = LinkVxlan::new(name, vni).port(port).learning(false);
    match local {
        IpAddr::V4(address) => device.local(address),
        IpAddr::V6(address) => device.local6(address),
    }
}

/// Per-device IPv4 parameters. netlink-packet-route's own request leaves out those that shall be 0.
pub(crate) fn inet_conf(values: &[(Ipv4Conf, u32)]) -> LinkAttribute {
    let values: Vec<DefaultNla> = values
        .iter()
        .map(|(key, value)| DefaultNla::new(*key as u16, value.to_ne_bytes().to_vec()))
        .collect();
    let mut bytes = vec![0; values.as_slice().buffer_len()];
    values.as_slice().emit(&mut bytes);
    let conf = DefaultNla::new(IFLA_INET_CONF | NLA_F_NESTED, bytes);
    LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet(vec![AfSpecInet::Other(conf)])])
}
