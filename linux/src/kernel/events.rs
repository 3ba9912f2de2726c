//! Being told when others change what is ours.
#![allow(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::RecvFlags;
use strait_core::kernel::{DEVICE_PREFIX, NFT_COMMENT, NFT_TABLE, ROUTE_PROTOCOL};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout_at};

use crate::error::{Error, Result};
use crate::link::{self, Links};
use crate::netlink::{Attributes, NETFILTER, ROUTE, Socket, ne16, ne32};
use crate::netns::Netns;
use crate::nft;

/// How long to wait for more once something changed: changes come in bursts.
const BURST: Duration = Duration::from_millis(20);
/// A burst that does not end is told after this.
const LONGEST_BURST: Duration = Duration::from_millis(200);

const RTMGRP_LINK: u32 = 1;
const RTMGRP_NEIGHBOUR: u32 = 1 << 2;
const RTMGRP_IPV4_ADDRESS: u32 = 1 << 4;
const RTMGRP_IPV4_ROUTE: u32 = 1 << 6;
const RTMGRP_IPV4_RULE: u32 = 1 << 7;
const RTMGRP_IPV6_ADDRESS: u32 = 1 << 8;
const RTMGRP_IPV6_ROUTE: u32 = 1 << 10;
const RTMGRP_IPV6_RULE: u32 = 1 << 18;
const NFGRP_NFTABLES: u32 = 1 << 6;

/// What changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// A device of ours appeared, changed or vanished.
    Link,
    /// An address on a device of ours.
    Address,
    /// A neighbour or forwarding entry on a device of ours.
    Neighbour,
    /// A route of ours.
    Route,
    /// A policy rule of ours.
    Rule,
    /// Our nftables table, or a foreign chain that concerns us.
    Nftables,
    /// The kernel had more to tell than we could take in: anything may have changed.
    Overrun,
}

/// A stream of changes made by others; our own are left out as far as the kernel says whose they are.
pub struct Changes {
    route: AsyncFd<OwnedFd>,
    nft: AsyncFd<OwnedFd>,
    own_ports: [u32; 2],
    /// Our devices by index, to know what addresses and neighbours are about.
    devices: BTreeMap<u32, String>,
    buffers: [Vec<u8>; 2],
    seen: BTreeSet<Change>,
}

impl Changes {
    pub(super) fn open(namespace: &Netns, own_ports: [u32; 2]) -> Result<Self> {
        // Without a runtime the registration below would panic.
        tokio::runtime::Handle::try_current().map_err(|e| Error::Invalid {
            doing: "watch the kernel for changes".into(),
            why: e.to_string(),
        })?;
        let groups = RTMGRP_LINK
            | RTMGRP_NEIGHBOUR
            | RTMGRP_IPV4_ADDRESS
            | RTMGRP_IPV4_ROUTE
            | RTMGRP_IPV4_RULE
            | RTMGRP_IPV6_ADDRESS
            | RTMGRP_IPV6_ROUTE
            | RTMGRP_IPV6_RULE;
        let (route, nft, links) = namespace.run(|| -> Result<_> {
            Ok((
                Socket::open(ROUTE, groups)?,
                Socket::open(NETFILTER, NFGRP_NFTABLES)?,
                Links::open()?,
            ))
        })??;
        let watch = |socket: Socket| {
            let fd = socket.into_fd();
            rustix::io::ioctl_fionbio(&fd, true)
                .map_err(|e| Error::system("make a netlink socket non-blocking", e))?;
            // SAFETY: the AsyncFd owns the descriptor, which so stays open and registered until it is dropped.
            unsafe { AsyncFd::register(fd) }.map_err(|e| Error::system("watch a netlink socket", e))
        };
        let devices = links.list()?.into_iter().map(|link| (link.index, link.name));
        Ok(Self {
            route: watch(route)?,
            nft: watch(nft)?,
            own_ports,
            devices: devices
                .filter(|(_, name)| name.starts_with(DEVICE_PREFIX))
                .collect(),
            buffers: [vec![0; 64 << 10], vec![0; 64 << 10]],
            seen: BTreeSet::new(),
        })
    }

    /// Waits for the next changes; those that follow at once are told together. Cancelling loses nothing.
    ///
    /// # Errors
    /// Where the sockets fail.
    pub async fn next(&mut self) -> Result<BTreeSet<Change>> {
        while self.seen.is_empty() {
            self.take_in().await?;
        }
        let latest = Instant::now() + LONGEST_BURST;
        while let Ok(result) = timeout_at(latest.min(Instant::now() + BURST), self.take_in()).await {
            result?;
        }
        Ok(std::mem::take(&mut self.seen))
    }

    /// Takes one datagram in, from either socket.
    async fn take_in(&mut self) -> Result<()> {
        let Self {
            route,
            nft,
            own_ports,
            devices,
            buffers,
            seen,
        } = self;
        let [route_buffer, nft_buffer] = buffers;
        let (is_route, received) = tokio::select! {
            received = route.async_io(Interest::READABLE, |fd| receive(fd, route_buffer)) => (true, received),
            received = nft.async_io(Interest::READABLE, |fd| receive(fd, nft_buffer)) => (false, received),
        };
        let buffer = if is_route { route_buffer } else { nft_buffer };
        let length = received.map_err(|e| Error::system("read netlink notifications", e))?;
        let Some(datagram) = length.and_then(|length| buffer.get(..length)) else {
            seen.insert(Change::Overrun);
            return Ok(());
        };
        for (kind, port, body) in messages(datagram) {
            // Ports are numbered by protocol: only the socket of the same one is ours.
            if port != 0 && port == own_ports[usize::from(!is_route)] {
                continue;
            }
            seen.extend(if is_route {
                route_change(kind, body, devices)
            } else {
                nft_change(kind, body).then_some(Change::Nftables)
            });
        }
        Ok(())
    }
}

/// The length of the next datagram; `None` where the kernel had to drop some.
fn receive(fd: &OwnedFd, buffer: &mut [u8]) -> std::io::Result<Option<usize>> {
    match rustix::net::recv(fd, buffer, RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
        Ok((_, length)) => Ok(Some(length)),
        Err(Errno::NOBUFS) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Type, sender's port and body of each message in a datagram.
fn messages(mut rest: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let length = ne32(rest)? as usize;
        let (kind, port) = (ne16(rest.get(4..)?)?, ne32(rest.get(12..)?)?);
        let body = rest.get(16..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, port, body))
    })
}

fn route_change(kind: u16, body: &[u8], devices: &mut BTreeMap<u32, String>) -> Option<Change> {
    const NEW_LINK: u16 = 16;
    const DEL_LINK: u16 = 17;
    const FRA_PROTOCOL: u16 = 21;
    let index = || body.get(4..8).and_then(ne32);
    let on_ours = |change| devices.contains_key(&index()?).then_some(change);
    match kind {
        NEW_LINK | DEL_LINK => {
            // Bridges tell about their ports with the same message.
            let link = link::parse(body).filter(|_| link::family_of(body) == 0)?;
            let ours = link.name.starts_with(DEVICE_PREFIX);
            let known = devices.remove(&link.index).is_some();
            if ours && kind == NEW_LINK {
                devices.insert(link.index, link.name);
            }
            (ours || known).then_some(Change::Link)
        }
        20 | 21 => on_ours(Change::Address),
        28 | 29 => on_ours(Change::Neighbour),
        24 | 25 => (*body.get(5)? == ROUTE_PROTOCOL).then_some(Change::Route),
        32 | 33 => {
            (Attributes::after(body, 12).get(FRA_PROTOCOL)? == [ROUTE_PROTOCOL]).then_some(Change::Rule)
        }
        _ => None,
    }
}

fn nft_change(kind: u16, body: &[u8]) -> bool {
    if kind >> 8 != nft::SUBSYSTEM {
        return false;
    }
    let attributes = Attributes::after(body, 4);
    let table = attributes.text(nft::TABLE_NAME);
    // Tables, chains, rules, sets and elements all have their table's name as attribute 1; a new
    // generation, which follows every batch, has a number there.
    let ours = body.first() == Some(&nft::FAMILY_INET) && table.as_deref() == Some(NFT_TABLE);
    match kind & 0xff {
        nft::NEW_CHAIN | nft::DEL_CHAIN => ours || nft::is_base_chain(body),
        nft::DEL_RULE => ours || nft::comment_of(attributes).as_deref() == Some(NFT_COMMENT),
        nft::DEL_TABLE => true,
        nft::NEW_TABLE
        | nft::NEW_RULE
        | nft::NEW_SET
        | nft::DEL_SET
        | nft::NEW_ELEMENT
        | nft::DEL_ELEMENT => ours,
        _ => false,
    }
}
