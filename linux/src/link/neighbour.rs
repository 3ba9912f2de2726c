//! Permanent neighbours and forwarding entries.

use std::net::IpAddr;

use strait_core::kernel::MacAddress;

use super::Links;
use super::address::{ip, octets};
use crate::error::Result;
use crate::netlink::{Attributes, Message, NLM_F_CREATE, NLM_F_REPLACE, ne16, ne32};

const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;
const NTF_SELF: u8 = 0x02;
const AF_BRIDGE: u8 = 7;

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
        let mut fixed = [0; 12];
        fixed[0] = if bridge { AF_BRIDGE } else { 0 };
        let message = Message::new(RTM_GETNEIGH, 0, &fixed);
        self.with(|socket| {
            socket.dump(
                &message,
                || "list neighbours".into(),
                |kind, body| (kind == RTM_NEWNEIGH).then(|| parse(body)).flatten(),
            )
        })
    }
}

pub(crate) fn neighbour_message(index: u32, address: IpAddr, mac: MacAddress, add: bool) -> Message {
    let family = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    } as u8;
    message(family, index, NUD_PERMANENT, 0, address, mac, add)
}

pub(crate) fn fdb_message(index: u32, mac: MacAddress, node: IpAddr, add: bool) -> Message {
    message(
        AF_BRIDGE,
        index,
        NUD_PERMANENT | NUD_NOARP,
        NTF_SELF,
        node,
        mac,
        add,
    )
}

fn message(
    family: u8,
    index: u32,
    state: u16,
    flags: u8,
    destination: IpAddr,
    mac: MacAddress,
    add: bool,
) -> Message {
    let mut fixed = [0; 12];
    fixed[0] = family;
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..10].copy_from_slice(&state.to_ne_bytes());
    fixed[10] = flags;
    let (kind, flags) = if add {
        (RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE)
    } else {
        (RTM_DELNEIGH, 0)
    };
    let mut message = Message::new(kind, flags, &fixed);
    message
        .attribute(NDA_DST, &octets(destination))
        .attribute(NDA_LLADDR, &mac.0);
    message
}

fn parse(body: &[u8]) -> Option<Held> {
    let attributes = Attributes::after(body, 12);
    Some(Held {
        index: ne32(body.get(4..8)?)?,
        bridge: *body.first()? == AF_BRIDGE,
        permanent: ne16(body.get(8..10)?)? & NUD_PERMANENT != 0,
        destination: attributes.get(NDA_DST).and_then(ip),
        mac: attributes
            .get(NDA_LLADDR)
            .and_then(|b| b.try_into().ok())
            .map(MacAddress),
    })
}
