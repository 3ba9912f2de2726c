//! The sockets.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use anyhow::Context as _;
use hickory_server::Server as Hickory;
use socket2::{Domain, Protocol, Socket, Type};
use strait_daemon::Shutdown;

use super::Handler;

/// How long a TCP connection may stay without a question.
const TCP_IDLE: Duration = Duration::from_secs(5);
/// Answers that wait for a slow TCP client.
const TCP_BUFFER: usize = 32;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 512;

/// A listening server.
pub struct Server {
    inner: Hickory<Handler>,
    addresses: Vec<SocketAddr>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Listens on every address by TCP and, with as many sockets as there are workers, by UDP: the kernel
    /// spreads clients over them. Port 0 takes a free one, the same for both.
    ///
    /// # Errors
    /// If an address cannot be listened on; the message names it.
    pub fn start(addresses: &[SocketAddr], workers: usize, handler: Handler) -> anyhow::Result<Self> {
        let mut inner = Hickory::new(handler);
        let mut bound = Vec::new();
        for asked in addresses {
            let fail = || {
                format!(
                    "DNS address {asked}: choose another with --listen, or allow this port (CAP_NET_BIND_SERVICE)"
                )
            };
            let (tcp, address) = listen(*asked).with_context(fail)?;
            for _ in 0..workers.max(1) {
                let udp = udp(address).with_context(fail)?;
                inner.register_socket(tokio::net::UdpSocket::from_std(udp).with_context(fail)?);
            }
            let tcp = tokio::net::TcpListener::from_std(tcp).with_context(fail)?;
            inner.register_listener(tcp, TCP_IDLE, TCP_BUFFER);
            tracing::info!(%address, "answering DNS");
            bound.push(address);
        }
        Ok(Self {
            inner,
            addresses: bound,
        })
    }

    /// The addresses, with their ports.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Answers until shut down.
    ///
    /// # Errors
    /// If a socket fails for good.
    pub async fn serve(mut self, shutdown: &Shutdown) -> anyhow::Result<()> {
        let token = self.inner.shutdown_token().clone();
        tokio::select! {
            ended = self.inner.block_until_done() => ended.context("a DNS socket has failed"),
            () = shutdown.wait() => {
                token.cancel();
                // Idle TCP connections need not be waited for.
                Ok(())
            }
        }
    }
}

fn listen(asked: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    // Where the kernel has no IPv6, the IPv6 wildcard means the IPv4 one.
    let (socket, address) = match socket(asked, Type::STREAM, Protocol::TCP) {
        Err(e) if e.raw_os_error() == Some(AFNOSUPPORT) && asked.ip().is_unspecified() => {
            let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, asked.port()));
            (socket(v4, Type::STREAM, Protocol::TCP)?, v4)
        }
        other => (other?, asked),
    };
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from(socket);
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// `EAFNOSUPPORT` on Linux.
const AFNOSUPPORT: i32 = 97;

fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket(address, Type::DGRAM, Protocol::UDP)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn socket(address: SocketAddr, type_: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), type_, Some(protocol))?;
    if address.is_ipv6() {
        // The wildcard takes both families.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}
