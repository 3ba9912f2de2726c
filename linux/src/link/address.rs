//! Addresses on devices.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Links;
use crate::error::Result;
use crate::netlink::{Attributes, Message, NLM_F_CREATE, NLM_F_REPLACE, ne32};

const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 0x02;
const IFA_F_NOPREFIXROUTE: u32 = 0x200;
const RT_SCOPE_LINK: u8 = 253;

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
        let message = Message::new(RTM_GETADDR, 0, &[0; 8]);
        self.with(|socket| {
            socket.dump(
                &message,
                || "list addresses".into(),
                |kind, body| (kind == RTM_NEWADDR).then(|| parse(body)).flatten(),
            )
        })
    }
}

pub(crate) fn address_message(index: u32, address: IpNet, add: bool) -> Message {
    let (family, bits) = match address {
        IpNet::V4(_) => (libc::AF_INET, address.prefix_len()),
        IpNet::V6(_) => (libc::AF_INET6, address.prefix_len()),
    };
    let host = bits == address.max_prefix_len();
    let mut fixed = [0; 8];
    fixed[0] = family as u8;
    fixed[1] = bits;
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    let (kind, flags) = if add {
        (RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE)
    } else {
        (RTM_DELADDR, 0)
    };
    let mut message = Message::new(kind, flags, &fixed);
    let bytes = octets(address.addr());
    message
        .attribute(IFA_LOCAL, &bytes)
        .attribute(IFA_ADDRESS, &bytes);
    if add {
        let mut wanted = 0;
        if matches!(address, IpNet::V6(_)) {
            wanted |= IFA_F_NODAD;
        }
        if host {
            wanted |= IFA_F_NOPREFIXROUTE;
        }
        message.ne32(IFA_FLAGS, wanted);
    }
    message
}

fn parse(body: &[u8]) -> Option<Held> {
    let (bits, scope) = (*body.get(1)?, *body.get(3)?);
    let attributes = Attributes::after(body, 8);
    let bytes = attributes
        .get(IFA_LOCAL)
        .or_else(|| attributes.get(IFA_ADDRESS))?;
    Some(Held {
        index: ne32(body.get(4..8)?)?,
        address: IpNet::new(ip(bytes)?, bits).ok()?,
        link_scope: scope >= RT_SCOPE_LINK,
    })
}

pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

pub(crate) fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}
