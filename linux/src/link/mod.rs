//! Devices, addresses, routes and neighbours: what everybody needs who builds a network.
//!
//! Calls are synchronous: the kernel does the work inside the system call (microseconds; milliseconds
//! where a device goes away), so there is nothing to await.

mod address;
mod create;
mod neighbour;
mod route;
mod rule;

use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Mutex, PoisonError};

use strait_core::kernel::MacAddress;

pub use create::{VethEnd, Vxlan};
pub use route::PROTOCOL_STATIC;

use crate::error::{Error, Result};
use crate::netlink::{Attributes, Message, Socket, ne16, ne32, text};
use crate::netns::Netns;

pub(crate) use address::{address_message, ip};
use create::inet_conf;
pub(crate) use create::{overlay_change_message, overlay_messages};
pub(crate) use neighbour::{fdb_message, neighbour_message};
pub(crate) use route::route_message;
pub(crate) use rule::rule_message;

pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_DELLINK: u16 = 17;
pub(crate) const RTM_GETLINK: u16 = 18;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INET_CONF: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const RTEXT_FILTER_SKIP_STATS: u32 = 8;
const IFF_UP: u32 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

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
        let mut message = Message::new(RTM_GETLINK, 0, &[0; 16]);
        message.ne32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
        let mut links = self.with(|socket| {
            socket.dump(
                &message,
                || "list network devices".into(),
                |kind, body| (kind == RTM_NEWLINK).then(|| parse(body)).flatten(),
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
        let message = named(RTM_DELLINK, 0, name);
        self.request(message, || format!("remove the device {name}"))
    }

    /// Sets a device up.
    ///
    /// # Errors
    /// Where there is none, or the kernel refuses.
    pub fn set_up(&self, name: &str) -> Result<()> {
        let mut message = Message::new(RTM_NEWLINK, 0, &header(0, IFF_UP, IFF_UP));
        message.text(IFLA_IFNAME, name);
        self.request(message, || format!("set {name} up"))
    }

    /// Sets a device down.
    ///
    /// # Errors
    /// Where there is none, or the kernel refuses.
    pub fn set_down(&self, name: &str) -> Result<()> {
        let mut message = Message::new(RTM_NEWLINK, 0, &header(0, 0, IFF_UP));
        message.text(IFLA_IFNAME, name);
        self.request(message, || format!("set {name} down"))
    }

    /// Sets a device's MTU.
    ///
    /// # Errors
    /// Where there is none, or the kernel refuses.
    pub fn set_mtu(&self, name: &str, mtu: u32) -> Result<()> {
        let mut message = named(RTM_NEWLINK, 0, name);
        message.ne32(IFLA_MTU, mtu);
        self.request(message, || format!("set the MTU of {name} to {mtu}"))
    }

    /// Makes a device a port of a bridge, or of none.
    ///
    /// # Errors
    /// Where either does not exist, or the kernel refuses.
    pub fn set_master(&self, name: &str, master: Option<&str>) -> Result<()> {
        let doing = || format!("make {name} a port of {}", master.unwrap_or("no bridge"));
        let master = master.map_or(Ok(0), |bridge| self.index(bridge, doing))?;
        let mut message = named(RTM_NEWLINK, 0, name);
        message.ne32(IFLA_MASTER, master);
        self.request(message, doing)
    }

    /// Renames a device.
    ///
    /// # Errors
    /// Where there is none, it is up on an old kernel, or the new name is taken.
    pub fn rename(&self, name: &str, new: &str) -> Result<()> {
        let doing = || format!("rename {name} to {new}");
        let index = self.index(name, doing)?;
        let mut message = Message::new(RTM_NEWLINK, 0, &header(index, 0, 0));
        message.text(IFLA_IFNAME, new);
        self.request(message, doing)
    }

    /// Moves a device to another namespace; it loses its addresses and routes.
    ///
    /// # Errors
    /// Where there is none, or the kernel refuses.
    pub fn move_to(&self, name: &str, namespace: &Netns) -> Result<()> {
        let mut message = named(RTM_NEWLINK, 0, name);
        message.ne32(IFLA_NET_NS_FD, namespace_fd(namespace));
        self.request(message, || format!("move {name} to another network namespace"))
    }

    /// Sets parameters under net.ipv4.conf.NAME, without /proc.
    ///
    /// # Errors
    /// Where there is no such device, or the kernel refuses.
    pub fn set_ipv4_conf(&self, name: &str, values: &[(Ipv4Conf, u32)]) -> Result<()> {
        let mut message = named(RTM_NEWLINK, 0, name);
        inet_conf(&mut message, values);
        self.request(message, || format!("set IPv4 parameters of {name}"))
    }
}

/// `struct ifinfomsg`.
fn header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&change.to_ne_bytes());
    bytes
}

pub(crate) fn named(kind: u16, flags: u16, name: &str) -> Message {
    let mut message = Message::new(kind, flags, &header(0, 0, 0));
    message.text(IFLA_IFNAME, name);
    message
}

fn namespace_fd(namespace: &Netns) -> u32 {
    namespace.as_fd().as_raw_fd().cast_unsigned()
}

pub(crate) fn parse(body: &[u8]) -> Option<Link> {
    let index = ne32(body.get(4..8)?)?;
    let flags = ne32(body.get(8..12)?)?;
    let attributes = Attributes::after(body, 16);
    let info = attributes.nest(IFLA_LINKINFO);
    let kind = info.and_then(|i| i.text(IFLA_INFO_KIND));
    let conf = attributes
        .nest(IFLA_AF_SPEC)
        .and_then(|families| families.nest(AF_INET))
        .and_then(|inet| inet.get(IFLA_INET_CONF));
    let rp_filter = conf.and_then(|values| {
        let at = 4 * (Ipv4Conf::RpFilter as usize - 1);
        values.get(at..).and_then(ne32)
    });
    let vxlan = (kind.as_deref() == Some("vxlan"))
        .then(|| {
            info.and_then(|i| i.nest(IFLA_INFO_DATA))
                .and_then(create::parse_vxlan)
        })
        .flatten();
    Some(Link {
        index,
        name: text(attributes.get(IFLA_IFNAME)?),
        mac: attributes
            .get(IFLA_ADDRESS)
            .and_then(|b| b.try_into().ok())
            .map(MacAddress),
        mtu: attributes.ne32(IFLA_MTU)?,
        up: flags & IFF_UP != 0,
        master: attributes.ne32(IFLA_MASTER),
        peer: (kind.as_deref() == Some("veth"))
            .then(|| attributes.ne32(IFLA_LINK))
            .flatten(),
        rp_filter,
        kind,
        vxlan,
    })
}

/// The device that a multicast message is about.
pub(crate) fn family_of(body: &[u8]) -> u8 {
    ne16(body).map_or(0, |both| both.to_ne_bytes()[0])
}
