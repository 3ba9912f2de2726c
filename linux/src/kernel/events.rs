//! Being told when others change what is ours.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::time::Duration;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::RouteProtocol;
use netlink_sys::{AsyncSocket, TokioSocket};
use rtnetlink::MulticastGroup;
use strait_core::kernel::{DEVICE_PREFIX, NFT_COMMENT, NFT_TABLE, ROUTE_PROTOCOL};
use tokio::time::{Instant, timeout_at};

use crate::error::{Error, Result};
use crate::link::{self, Links};
use crate::netlink::{Attributes, NETFILTER, ROUTE, decode, messages, prepare};
use crate::netns::Netns;
use crate::nft;

/// How long to wait for more once something changed: changes come in bursts.
const BURST: Duration = Duration::from_millis(20);
/// A burst that does not end is told after this.
const LONGEST_BURST: Duration = Duration::from_millis(200);

const ROUTE_GROUPS: [MulticastGroup; 8] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv6Rule,
];
const NFGRP_NFTABLES: u32 = 1 << 6;

/// Longer than any that the kernel makes (32 KiB).
const DATAGRAM: usize = 64 << 10;

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
///
/// It reads sockets itself, for rtnetlink's connection keeps messages without bound while nobody asks for
/// them, and drops those that it cannot read.
pub struct Changes {
    route: TokioSocket,
    nft: TokioSocket,
    own_ports: [u32; 2],
    /// Our devices by index, to know what addresses and neighbours are about.
    devices: BTreeMap<u32, String>,
    buffers: [Vec<u8>; 2],
    seen: BTreeSet<Change>,
}

impl Changes {
    pub(super) fn open(namespace: &Netns, own_ports: [u32; 2]) -> Result<Self> {
        // Without a runtime the registration below would panic.
        let runtime = tokio::runtime::Handle::try_current().map_err(|e| Error::Invalid {
            doing: "watch the kernel for changes".into(),
            why: e.to_string(),
        })?;
        let route_groups = ROUTE_GROUPS
            .iter()
            .fold(0, |mask, group| mask | 1 << (*group as u32 - 1));
        let watch = |protocol, groups| -> Result<TokioSocket> {
            let mut socket =
                TokioSocket::new(protocol).map_err(|e| Error::system("watch a netlink socket", e))?;
            prepare(socket.socket_mut(), groups)?;
            Ok(socket)
        };
        let (route, nft, links) = namespace.run(|| -> Result<_> {
            let _registers = runtime.enter();
            Ok((
                watch(ROUTE, route_groups)?,
                watch(NETFILTER, NFGRP_NFTABLES)?,
                Links::open()?,
            ))
        })??;
        let devices = links.list()?.into_iter().map(|link| (link.index, link.name));
        Ok(Self {
            route,
            nft,
            own_ports,
            devices: devices
                .filter(|(_, name)| name.starts_with(DEVICE_PREFIX))
                .collect(),
            buffers: [(); 2].map(|()| Vec::with_capacity(DATAGRAM)),
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
            received = receive(route, route_buffer) => (true, received),
            received = receive(nft, nft_buffer) => (false, received),
        };
        if !received.map_err(|e| Error::system("read netlink notifications", e))? {
            seen.insert(Change::Overrun);
            return Ok(());
        }
        for message in messages(if is_route { route_buffer } else { nft_buffer }) {
            let Ok(message) = message else {
                seen.insert(Change::Overrun);
                break;
            };
            let (kind, port) = (message.message_type(), message.port_number());
            // Ports are numbered by protocol: only the socket of the same one is ours.
            if port != 0 && port == own_ports[usize::from(!is_route)] {
                continue;
            }
            seen.extend(if is_route {
                route_change(kind, message.payload(), devices)
            } else {
                nft_change(kind, message.payload()).then_some(Change::Nftables)
            });
        }
        Ok(())
    }
}

/// Takes the next datagram in; false where the kernel had to drop some.
async fn receive(socket: &TokioSocket, buffer: &mut Vec<u8>) -> std::io::Result<bool> {
    buffer.clear();
    match poll_fn(|context| socket.poll_recv_from(context, buffer)).await {
        Ok(_) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => Ok(false),
        Err(e) => Err(e),
    }
}

pub(super) fn route_change(kind: u16, body: &[u8], devices: &mut BTreeMap<u32, String>) -> Option<Change> {
    use RouteNetlinkMessage::{
        DelAddress, DelLink, DelNeighbour, DelRoute, DelRule, NewAddress, NewLink, NewNeighbour, NewRoute,
        NewRule,
    };
    match decode(kind, body)? {
        NewLink(message) | DelLink(message) => {
            // Bridges tell about their ports with the same message.
            let unspecific = message.header.interface_family == AddressFamily::Unspec;
            let link = link::read(&message).filter(|_| unspecific)?;
            let ours = link.name.starts_with(DEVICE_PREFIX);
            let known = devices.remove(&link.index).is_some();
            if ours && kind == libc::RTM_NEWLINK {
                devices.insert(link.index, link.name);
            }
            (ours || known).then_some(Change::Link)
        }
        NewAddress(message) | DelAddress(message) => devices
            .contains_key(&message.header.index)
            .then_some(Change::Address),
        NewNeighbour(message) | DelNeighbour(message) => devices
            .contains_key(&message.header.ifindex)
            .then_some(Change::Neighbour),
        NewRoute(message) | DelRoute(message) => {
            let ours = message.header.protocol == RouteProtocol::from(ROUTE_PROTOCOL);
            ours.then_some(Change::Route)
        }
        NewRule(message) | DelRule(message) => link::is_of(&message, ROUTE_PROTOCOL).then_some(Change::Rule),
        _ => None,
    }
}

pub(super) fn nft_change(kind: u16, body: &[u8]) -> bool {
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
