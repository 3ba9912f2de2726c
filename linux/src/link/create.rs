//! Making devices.

use std::net::IpAddr;

use strait_core::kernel::{MacAddress, OverlayLink};

use super::{
    AF_INET, AF_INET6, IFF_UP, IFLA_ADDRESS, IFLA_AF_SPEC, IFLA_IFNAME, IFLA_INET_CONF,
    IFLA_INET6_ADDR_GEN_MODE, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_LINKINFO, IFLA_MTU, IFLA_NET_NS_FD,
    Ipv4Conf, Links, RTM_NEWLINK, VxlanFacts, header, named, namespace_fd,
};
use crate::error::Result;
use crate::netlink::{Attributes, Message, NLM_F_CREATE, NLM_F_EXCL, be16};
use crate::netns::Netns;

const VETH_INFO_PEER: u16 = 1;
const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_LOCAL6: u16 = 17;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;

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
    fn write(&self, message: &mut Message) {
        message.text(IFLA_IFNAME, self.name);
        if let Some(mac) = self.mac {
            message.attribute(IFLA_ADDRESS, &mac.0);
        }
        if let Some(mtu) = self.mtu {
            message.ne32(IFLA_MTU, mtu);
        }
        if let Some(namespace) = self.namespace {
            message.ne32(IFLA_NET_NS_FD, namespace_fd(namespace));
        }
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
        let mut message = Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &header(0, 0, 0));
        near.write(&mut message);
        message.nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "veth");
            info.nest(IFLA_INFO_DATA, |data| {
                data.nest_with_header(VETH_INFO_PEER, &header(0, 0, 0), |peer| far.write(peer));
            });
        });
        self.request(message, || {
            format!("make the veth pair {} and {}", near.name, far.name)
        })
    }

    /// Makes a bridge, down, without spanning tree.
    ///
    /// # Errors
    /// Where the name is taken, or the kernel refuses.
    pub fn add_bridge(&self, name: &str, mac: Option<MacAddress>) -> Result<()> {
        let mut message = named(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, name);
        if let Some(mac) = mac {
            message.attribute(IFLA_ADDRESS, &mac.0);
        }
        message.nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "bridge");
        });
        self.request(message, || format!("make the bridge {name}"))
    }

    /// Makes a VXLAN device, down.
    ///
    /// # Errors
    /// Where the name or the network identifier is taken, or the kernel refuses.
    pub fn add_vxlan(&self, vxlan: &Vxlan<'_>) -> Result<()> {
        let mut message = named(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, vxlan.name);
        if let Some(mac) = vxlan.mac {
            message.attribute(IFLA_ADDRESS, &mac.0);
        }
        if let Some(mtu) = vxlan.mtu {
            message.ne32(IFLA_MTU, mtu);
        }
        vxlan_info(&mut message, vxlan.vni, vxlan.port, vxlan.local);
        self.request(message, || format!("make the VXLAN device {}", vxlan.name))
    }
}

/// The messages that make the overlay device. Parameters can be set only once the device stands, and the
/// link-local address is kept away only by a mode set before it is up: hence three steps.
pub(crate) fn overlay_messages(overlay: &OverlayLink) -> [Message; 3] {
    let mut make = named(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &overlay.name);
    make.attribute(IFLA_ADDRESS, &overlay.mac.0);
    make.ne32(IFLA_MTU, overlay.mtu);
    vxlan_info(&mut make, overlay.vni, overlay.port, overlay.local);
    let mut mode = named(RTM_NEWLINK, 0, &overlay.name);
    mode.nest(IFLA_AF_SPEC, |families| {
        families.nest(AF_INET6, |inet6| {
            inet6.attribute(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
        });
    });
    [make, mode, overlay_change_message(overlay)]
}

/// What can change on the overlay device while it stands; sets it up too.
pub(crate) fn overlay_change_message(overlay: &OverlayLink) -> Message {
    let mut message = Message::new(RTM_NEWLINK, 0, &header(0, IFF_UP, IFF_UP));
    message.text(IFLA_IFNAME, &overlay.name);
    message.ne32(IFLA_MTU, overlay.mtu);
    inet_conf(
        &mut message,
        &[(Ipv4Conf::RpFilter, u32::from(overlay.rp_filter))],
    );
    message
}

fn vxlan_info(message: &mut Message, vni: u32, port: u16, local: IpAddr) {
    message.nest(IFLA_LINKINFO, |info| {
        info.text(IFLA_INFO_KIND, "vxlan");
        info.nest(IFLA_INFO_DATA, |data| {
            data.ne32(IFLA_VXLAN_ID, vni);
            data.attribute(IFLA_VXLAN_PORT, &port.to_be_bytes());
            data.attribute(IFLA_VXLAN_LEARNING, &[0]);
            match local {
                IpAddr::V4(a) => data.attribute(IFLA_VXLAN_LOCAL, &a.octets()),
                IpAddr::V6(a) => data.attribute(IFLA_VXLAN_LOCAL6, &a.octets()),
            };
        });
    });
}

pub(super) fn parse_vxlan(data: Attributes<'_>) -> Option<VxlanFacts> {
    let v4 = data
        .get(IFLA_VXLAN_LOCAL)
        .and_then(|b| <[u8; 4]>::try_from(b).ok())
        .map(IpAddr::from);
    let v6 = data
        .get(IFLA_VXLAN_LOCAL6)
        .and_then(|b| <[u8; 16]>::try_from(b).ok())
        .map(IpAddr::from);
    Some(VxlanFacts {
        vni: data.ne32(IFLA_VXLAN_ID)?,
        port: data.get(IFLA_VXLAN_PORT).and_then(be16)?,
        local: v4.filter(|a| !a.is_unspecified()).or(v6),
    })
}

/// `IFLA_AF_SPEC` with per-device IPv4 parameters.
pub(super) fn inet_conf(message: &mut Message, values: &[(Ipv4Conf, u32)]) {
    message.nest(IFLA_AF_SPEC, |families| {
        families.nest(AF_INET, |inet| {
            inet.nest(IFLA_INET_CONF, |conf| {
                for (key, value) in values {
                    conf.ne32(*key as u16, *value);
                }
            });
        });
    });
}
