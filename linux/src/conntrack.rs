//! The kernel's table of connections: to look at, and to forget flows whose endpoint is gone.

use std::net::{IpAddr, SocketAddr};

use crate::error::Result;
use crate::netlink::{Attributes, Message, NLA_F_NESTED, Socket, be16, ip};
use crate::netns::Netns;

const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
const PROTOCOL_SOURCE_PORT: u16 = 2;
const PROTOCOL_DESTINATION_PORT: u16 = 3;

/// A connection as the kernel tracks it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// Protocol number: 6 TCP, 17 UDP.
    pub protocol: u8,
    /// Who opened it.
    pub client: SocketAddr,
    /// Whom the client spoke to (the VIP, where there is one).
    pub to: SocketAddr,
    /// Who answers (the endpoint, where the destination was translated).
    pub server: SocketAddr,
    /// Whom the server answers to (the client, unless its address was translated).
    pub seen_client: SocketAddr,
    original: Vec<u8>,
}

/// The connections of one network namespace.
pub struct Conntrack {
    socket: std::sync::Mutex<Socket>,
}

impl Conntrack {
    /// The connections of the calling thread's network namespace.
    ///
    /// # Errors
    /// Where no netlink socket can be opened.
    pub fn open() -> Result<Self> {
        Ok(Self {
            socket: std::sync::Mutex::new(Socket::netfilter()?),
        })
    }

    /// The connections of another network namespace.
    ///
    /// # Errors
    /// Where it cannot be entered.
    pub fn open_in(namespace: &Netns) -> Result<Self> {
        namespace.run(Self::open)?
    }

    /// All connections of both families that have ports or none (ICMP shows port 0).
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn flows(&self) -> Result<Vec<Flow>> {
        self.socket().dump(
            &Message::new(SUBSYSTEM << 8 | GET, 0, &[0; 4]),
            || "list tracked connections".into(),
            |_, body| parse(body),
        )
    }

    /// Forgets a connection: its next packet is a new one's. It may be gone already.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn forget(&self, flow: &Flow) -> Result<()> {
        let family = if flow.client.is_ipv4() {
            libc::AF_INET
        } else {
            libc::AF_INET6
        } as u8;
        let mut message = Message::new(SUBSYSTEM << 8 | DELETE, 0, &[family, 0, 0, 0]);
        message.attribute(TUPLE_ORIGINAL | NLA_F_NESTED, &flow.original);
        let doing = || format!("forget the connection from {} to {}", flow.client, flow.to);
        match self.socket().request(message, doing) {
            Err(e) if e.errno() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }

    fn socket(&self) -> std::sync::MutexGuard<'_, Socket> {
        self.socket
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

pub(crate) fn parse(body: &[u8]) -> Option<Flow> {
    let attributes = Attributes::after(body, 4);
    let original = attributes.get(TUPLE_ORIGINAL)?;
    let (protocol, client, to) = tuple(Attributes::new(original))?;
    let (_, server, seen_client) = tuple(attributes.nest(TUPLE_REPLY)?)?;
    Some(Flow {
        protocol,
        client,
        to,
        server,
        seen_client,
        original: original.to_vec(),
    })
}

fn tuple(attributes: Attributes<'_>) -> Option<(u8, SocketAddr, SocketAddr)> {
    let addresses = attributes.nest(TUPLE_IP)?;
    let address =
        |v4: u16, v6: u16| -> Option<IpAddr> { addresses.get(v4).or_else(|| addresses.get(v6)).and_then(ip) };
    let protocol = attributes.nest(TUPLE_PROTOCOL)?;
    let port = |kind| protocol.get(kind).and_then(be16).unwrap_or(0);
    Some((
        *protocol.get(PROTOCOL_NUMBER)?.first()?,
        SocketAddr::new(address(1, 3)?, port(PROTOCOL_SOURCE_PORT)),
        SocketAddr::new(address(2, 4)?, port(PROTOCOL_DESTINATION_PORT)),
    ))
}
