//! Devices, addresses, routes and neighbours: what everybody needs who builds a network.
//!
//! Calls are synchronous: the kernel does the work inside the system call (microseconds; milliseconds
//! where a device goes away), so there is nothing to await.

mod address;
mod create;
mod features;
mod neighbour;
mod route;
mod rule;

use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Mutex, PoisonError};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet, AfSpecUnspec, InfoData, InfoVxlan, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo,
    LinkMessage,
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec};
use strait_core::kernel::MacAddress;

pub use create::{VethEnd, Vxlan};
pub use features::{Feature, features, set_features};
pub use route::PROTOCOL_STATIC;

use crate::error::{Error, Result};
use crate::netlink::{Message, Socket};
use crate::netns::Netns;

pub(crate) use address::address_message;
pub(crate) use create::{inet_conf, overlay_change_message, overlay_messages};
pub(crate) use neighbour::{fdb_message, neighbour_message};
pub(crate) use route::route_message;
pub(crate) use rule::{is_of, rule_message};

/// A network device as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// `veth`, `bridge`, `vxlan`, `tun`, …; `None` for a physical or loopback device.
    pub kind: Option<String>,
    /// Hardware address, where it has an Ethernet one.
    pub mac: Option<MacAddress>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// The index of the bridge that it is a port of.
    pub master: Option<u32>,
    /// The index of a veth device's other end, in that end's namespace.
    pub peer: Option<u32>,
    /// `net.ipv4.conf.NAME.rp_filter`.
    pub rp_filter: Option<u32>,
    pub(crate) vxlan: Option<VxlanFacts>,
}

/// What a VXLAN device was made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VxlanFacts {
    pub(crate) vni: u32,
    pub(crate) port: u16,
    pub(crate) local: Option<std::net::IpAddr>,
}

/// A per-device parameter under net.ipv4.conf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Ipv4Conf {
    /// Forward packets that come in here.
    Forwarding = 1,
    /// Answer ARP for others.
    ProxyArp = 3,
    /// 0 none, 1 strict, 2 loose. The kernel takes the larger of this and `all`'s.
    RpFilter = 8,
}

/// The devices of one network namespace.
pub struct Links {
    socket: Mutex<Socket>,
}

impl Links {
    /// The devices of the calling thread's network namespace.
    ///
    /// # Errors
    /// Where no netlink socket can be opened.
    pub fn open() -> Result<Self> {
        Ok(Self {
            socket: Mutex::new(Socket::route()?),
        })
    }

    /// The devices of a network namespace; the handle works from any thread.
    ///
    /// # Errors
    /// Where the namespace cannot be entered.
    pub fn open_in(namespace: &Netns) -> Result<Self> {
        namespace.run(Self::open)?
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn over(socket: Socket) -> Self {
        Self {
            socket: Mutex::new(socket),
        }
    }

    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Socket) -> T) -> T {
        // A panic while the lock was held leaves at most unread answers behind; sequence numbers skip them.
        work(&mut self.socket.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn request(&self, message: Message, doing: impl FnOnce() -> String) -> Result<()> {
        self.with(|socket| socket.request(message, doing))
    }

    /// All devices, by index.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn list(&self) -> Result<Vec<Link>> {
        let mut request = LinkMessage::default();
        let no_statistics = LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]);
        request.attributes.push(no_statistics);
        let mut links = self.with(|socket| {
            socket.list(
                RouteNetlinkMessage::GetLink(request),
                || "list network devices".into(),
                |found| match found {
                    RouteNetlinkMessage::NewLink(link) => read(&link),
                    _ => None,
                },
            )
        })?;
        links.sort_by_key(|link| link.index);
        Ok(links)
    }

    /// The device of this name.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn find(&self, name: &str) -> Result<Option<Link>> {
        Ok(self.list()?.into_iter().find(|link| link.name == name))
    }

    pub(crate) fn index(&self, name: &str, doing: impl FnOnce() -> String) -> Result<u32> {
        match self.find(name)? {
            Some(link) => Ok(link.index),
            None => Err(Error::missing(doing(), format!("network device {name}"))),
        }
    }

    /// Removes a device (for veth: both ends).
    ///
    /// # Errors
    /// Where there is none, or the kernel refuses.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.request(removal(name), || format!("remove the device {name}"))
    }

    /// Sets a device up.
    ///
    /// # Errors
    /// Where there is none, or the kernel refuses.
    pub fn set_up(&self, name: &str) -> Result<()> {
        self.change(LinkUnspec::new_with_name(name).up(), || format!("set {name} up"))
    }

    /// Sets a device down.
    ///
    /// # Errors
    /// Where there is none, or the kernel refuses.
    pub fn set_down(&self, name: &str) -> Result<()> {
        self.change(LinkUnspec::new_with_name(name).down(), || {
            format!("set {name} down")
        })
    }

    /// Sets a device's MTU.
    ///
    /// # Errors
    /// Where there is none, or the kernel refuses.
    pub fn set_mtu(&self, name: &str, mtu: u32) -> Result<()> {
        self.change(LinkUnspec::new_with_name(name).mtu(mtu), || {
            format!("set the MTU of {name} to {mtu}")
        })
    }

    /// Makes a device a port of a bridge, or of none.
    ///
    /// # Errors
    /// Where either does not exist, or the kernel refuses.
    pub fn set_master(&self, name: &str, master: Option<&str>) -> Result<()> {
        let doing = || format!("make {name} a port of {}", master.unwrap_or("no bridge"));
        let link = LinkUnspec::new_with_name(name);
        let link = match master {
            Some(bridge) => link.controller(self.index(bridge, doing)?),
            None => link.nocontroller(),
        };
        self.change(link, doing)
    }

    /// Renames a device.
    ///
    /// # Errors
    /// Where there is none, it is up on an old kernel, or the new name is taken.
    pub fn rename(&self, name: &str, new: &str) -> Result<()> {
        let doing = || format!("rename {name} to {new}");
        let index = self.index(name, doing)?;
        self.change(LinkUnspec::new_with_index(index).name(new), doing)
    }

    /// Moves a device to another namespace; it loses its addresses and routes.
    ///
    /// # Errors
    /// Where there is none, or the kernel refuses.
    pub fn move_to(&self, name: &str, namespace: &Netns) -> Result<()> {
        let link = LinkUnspec::new_with_name(name).setns_by_fd(namespace.as_fd().as_raw_fd());
        self.change(link, || format!("move {name} to another network namespace"))
    }

    /// Sets parameters under net.ipv4.conf.NAME, without /proc.
    ///
    /// # Errors
    /// Where there is no such device, or the kernel refuses.
    pub fn set_ipv4_conf(&self, name: &str, values: &[(Ipv4Conf, u32)]) -> Result<()> {
        let link = LinkUnspec::new_with_name(name).append_extra_attribute(inet_conf(values));
        self.change(link, || format!("set IPv4 parameters of {name}"))
    }

    pub(crate) fn change(
        &self,
        link: LinkMessageBuilder<LinkUnspec>,
        doing: impl FnOnce() -> String,
    ) -> Result<()> {
        let message = RouteNetlinkMessage::NewLink(link.build());
        self.request(Message::route(message, 0), doing)
    }
}

pub(crate) fn removal(name: &str) -> Message {
    let link = LinkUnspec::new_with_name(name).build();
    Message::route(RouteNetlinkMessage::DelLink(link), 0)
}

pub(crate) fn read(message: &LinkMessage) -> Option<Link> {
    let (mut name, mut mtu) = (None, None);
    let mut lower = None;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: None,
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        master: None,
        peer: None,
        rp_filter: None,
        vxlan: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Mtu(bytes) => mtu = Some(*bytes),
            LinkAttribute::Address(octets) => {
                link.mac = octets.as_slice().try_into().ok().map(MacAddress);
            }
            LinkAttribute::Controller(index) => link.master = Some(*index),
            LinkAttribute::Link(index) => lower = Some(*index),
            LinkAttribute::LinkInfo(info) => {
                for part in info {
                    match part {
                        LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
                        LinkInfo::Data(InfoData::Vxlan(data)) => link.vxlan = vxlan_facts(data),
                        _ => {}
                    }
                }
            }
            LinkAttribute::AfSpecUnspec(families) => link.rp_filter = rp_filter(families),
            _ => {}
        }
    }
    let is_veth = link.kind.as_deref() == Some("veth");
    Some(Link {
        name: name?,
        mtu: mtu?,
        peer: lower.filter(|_| is_veth),
        ..link
    })
}

fn rp_filter(families: &[AfSpecUnspec]) -> Option<u32> {
    let inet = families.iter().find_map(|family| match family {
        AfSpecUnspec::Inet(inet) => Some(inet),
        _ => None,
    })?;
    inet.iter().find_map(|part| match part {
        AfSpecInet::DevConf(conf) => u32::try_from(conf.rp_filter).ok(),
        _ => None,
    })
}

fn vxlan_facts(data: &[InfoVxlan]) -> Option<VxlanFacts> {
    let (mut vni, mut port, mut v4, mut v6) = (None, None, None, None);
    for part in data {
        match part {
            InfoVxlan::Id(id) => vni = Some(*id),
            InfoVxlan::Port(number) => port = Some(*number),
            InfoVxlan::Local(address) => v4 = Some(*address).filter(|a| !a.is_unspecified()),
            InfoVxlan::Local6(address) => v6 = Some(*address),
            _ => {}
        }
    }
    Some(VxlanFacts {
        vni: vni?,
        port: port?,
        local: v4.map(Into::into).or(v6.map(Into::into)),
    })
}
