//! Clients of the server.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};
use strait_daemon::local;

/// A page, or an echo.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Fetched {
    /// 200, or 0 for UDP.
    pub(crate) status: u16,
    pub(crate) body: String,
    /// Which cluster answered.
    pub(crate) cluster: String,
    /// Which pod.
    pub(crate) pod: String,
    /// The client's address as the server saw it.
    pub(crate) client_ip: String,
    pub(crate) seconds: f64,
}

/// The address that is any of one's own, in the family of another one.
pub(crate) fn any_like(other: IpAddr) -> IpAddr {
    match other {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

pub(super) fn connect(server: SocketAddr, source: Option<IpAddr>, timeout: Duration) -> Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
    if let Some(source) = source {
        let source = SocketAddr::new(source, 0);
        socket
            .bind(&source.into())
            .with_context(|| format!("cannot speak from {source}"))?;
    }
    socket
        .connect_timeout(&server.into(), timeout)
        .with_context(|| format!("cannot connect to {server} within {timeout:?}"))?;
    let socket = TcpStream::from(socket);
    socket.set_read_timeout(Some(timeout))?;
    socket.set_write_timeout(Some(timeout))?;
    Ok(socket)
}

/// Fetches the page.
pub(super) fn get(server: &str, source: Option<IpAddr>, timeout: Duration) -> Result<Fetched> {
    let started = Instant::now();
    let addresses = server
        .to_socket_addrs()
        .with_context(|| format!("{server} cannot be resolved"))?;
    // As curl does: each address until one takes the connection.
    let mut socket = Err(anyhow!("{server} has no address"));
    for address in addresses {
        socket = connect(address, source, timeout);
        if socket.is_ok() {
            break;
        }
    }
    let mut socket = socket?;
    write!(
        socket,
        "GET / HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    socket
        .take(1 << 20)
        .read_to_string(&mut answer)
        .with_context(|| format!("{server} did not answer within {timeout:?}"))?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .with_context(|| format!("{server} did not answer in HTTP"))?;
    let mut lines = head.lines();
    let status = lines
        .next()
        .and_then(|l| l.split(' ').nth(1))
        .and_then(|s| s.parse().ok());
    let headers: BTreeMap<String, &str> = lines
        .filter_map(|l| l.split_once(':'))
        .map(|(k, v)| (k.to_ascii_lowercase(), v.trim()))
        .collect();
    let header = |key: &str| headers.get(key).copied().unwrap_or_default().to_owned();
    Ok(Fetched {
        status: status.with_context(|| format!("{server} answered without a status"))?,
        body: body.to_owned(),
        cluster: header("x-served-cluster"),
        pod: header("x-served-pod"),
        client_ip: header("x-client-ip"),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// What a daemon on this machine serves as metrics at an address that it listens on.
pub(crate) fn metrics(listen: SocketAddr) -> Result<String> {
    const TIMEOUT: Duration = Duration::from_secs(5);
    let server = local::address(listen);
    let mut socket = connect(server, None, TIMEOUT)?;
    write!(
        socket,
        "GET /metrics HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    socket
        .take(16 << 20)
        .read_to_string(&mut answer)
        .with_context(|| format!("{server} did not answer within {TIMEOUT:?}"))?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.split(' ').nth(1) == Some("200") => Ok(body.to_owned()),
        _ => bail!(
            "{server} answered {:?}",
            answer.lines().next().unwrap_or_default()
        ),
    }
}

/// Says something over UDP, again every 200 ms until it is answered: a datagram may be lost.
pub(super) fn udp(server: SocketAddr, source: Option<IpAddr>, timeout: Duration) -> Result<Fetched> {
    let started = Instant::now();
    let local = SocketAddr::new(source.unwrap_or(any_like(server.ip())), 0);
    let socket = UdpSocket::bind(local).with_context(|| format!("cannot speak from {local}"))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut buffer = [0; 2048];
    let n = loop {
        // A refusal by ICMP comes as an error of the next call; it may be of the moment.
        let _ = socket.send(b"hello");
        match socket.recv(&mut buffer) {
            Ok(n) => break n,
            Err(e) if started.elapsed() > timeout => {
                return Err(e).with_context(|| format!("{server} did not answer within {timeout:?}"));
            }
            Err(_) => {}
        }
    };
    let body = String::from_utf8_lossy(&buffer[..n]).into_owned();
    let [cluster, pod, client_ip] = body.split(' ').collect::<Vec<_>>()[..] else {
        bail!("{server} answered {body:?}");
    };
    Ok(Fetched {
        status: 0,
        cluster: cluster.to_owned(),
        pod: pod.to_owned(),
        client_ip: client_ip.to_owned(),
        seconds: started.elapsed().as_secs_f64(),
        body,
    })
}
