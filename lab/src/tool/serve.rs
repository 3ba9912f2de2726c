//! The server.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::load;

/// How long a client may take to ask.
const PATIENCE: Duration = Duration::from_secs(10);
/// Largest head of a request.
const MAX_HEAD: u64 = 16 * 1024;

/// Who answers.
#[derive(Clone)]
struct Name {
    cluster: String,
    pod: String,
}

/// Serves until the process ends.
pub(super) fn serve(port: u16, sink: Option<u16>) -> Result<()> {
    let env = |key: &str| std::env::var(key).unwrap_or_default();
    let name = Name {
        cluster: env("STRAIT_LAB_CLUSTER"),
        pod: env("POD_NAME"),
    };
    let http = listen(port)?;
    let udp = bind_udp(port)?;
    if let Some(sink) = sink {
        let sink = listen(sink)?;
        thread::Builder::new()
            .name("sink".to_owned())
            .spawn(move || accept(&sink, |socket, _| load::answer(socket)))?;
    }
    let echo = name.clone();
    thread::Builder::new()
        .name("udp".to_owned())
        .spawn(move || answer_udp(&udp, &echo))?;
    eprintln!("serves {} of {} on port {port}", name.pod, name.cluster);
    accept(&http, move |socket, peer| answer_http(socket, peer, &name));
    Ok(())
}

/// On all addresses of both families, or of IPv4 where the kernel has no IPv6.
pub(super) fn listen(port: u16) -> Result<TcpListener> {
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
        .with_context(|| format!("cannot listen on TCP port {port}"))
}

fn bind_udp(port: u16) -> Result<UdpSocket> {
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))
        .with_context(|| format!("cannot listen on UDP port {port}"))
}

pub(super) fn accept(
    listener: &TcpListener,
    serve: impl Fn(TcpStream, SocketAddr) -> Result<()> + Clone + Send + 'static,
) {
    for socket in listener.incoming() {
        let accepted = socket.and_then(|s| s.peer_addr().map(|a| (s, a)));
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(e) => {
                eprintln!("cannot accept a connection: {e}");
                continue;
            }
        };
        let serve = serve.clone();
        thread::spawn(move || {
            if let Err(e) = serve(socket, peer) {
                eprintln!("{peer}: {e:#}");
            }
        });
    }
}

fn answer_http(mut socket: TcpStream, peer: SocketAddr, name: &Name) -> Result<()> {
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut head = BufReader::new(socket.try_clone()?.take(MAX_HEAD));
    let mut request = String::new();
    head.read_line(&mut request)?;
    let mut line = String::new();
    while head.read_line(&mut line)? > 2 {
        line.clear();
    }
    let client = peer.ip().to_canonical();
    eprintln!("{client} asks: {}", request.trim_end());
    let Name { cluster, pod } = name;
    let page = format!("Hello {client}, here is pod {pod} of cluster {cluster}.\n");
    write!(
        socket,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\
         X-Served-Cluster: {cluster}\r\nX-Served-Pod: {pod}\r\nX-Client-IP: {client}\r\n\r\n{page}",
        page.len()
    )?;
    Ok(())
}

fn answer_udp(socket: &UdpSocket, name: &Name) {
    let mut buffer = [0; 2048];
    loop {
        let answered = socket.recv_from(&mut buffer).and_then(|(_, peer)| {
            let client = peer.ip().to_canonical();
            socket.send_to(format!("{} {} {client}", name.cluster, name.pod).as_bytes(), peer)
        });
        if let Err(e) = answered {
            eprintln!("UDP: {e}");
        }
    }
}
