//! Servers that answer with the client's address, and their clients. Sockets are opened inside a
//! namespace and used from outside.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use strait_linux::netns::Netns;

/// For what must come: a busy machine may be slow, and an error that is lost is repeated after a second.
const PATIENCE: Duration = Duration::from_secs(10);
/// For what must not come: many times what a packet takes here.
const SILENCE: Duration = Duration::from_millis(500);
const TICK: Duration = Duration::from_millis(50);

/// A server that ends with its handle.
pub(crate) struct Server {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<IpAddr>>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Tells each client the address that it came from.
    pub(crate) fn tcp(namespace: &Netns, address: IpAddr, port: u16) -> Self {
        Self::tcp_with(namespace, address, port, |mut stream| {
            let peer = stream.peer_addr().unwrap().ip();
            // A client may have gone already; its own assertion says so.
            let _ = stream.write_all(peer.to_string().as_bytes());
        })
    }

    /// Reads all that a client sends, and tells how much it was.
    pub(crate) fn sink(namespace: &Netns, address: IpAddr, port: u16) -> Self {
        Self::tcp_with(namespace, address, port, |mut stream| {
            let mut data = Vec::new();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            if stream.read_to_end(&mut data).is_ok() {
                let _ = stream.write_all(data.len().to_string().as_bytes());
            }
        })
    }

    fn tcp_with(namespace: &Netns, address: IpAddr, port: u16, serve: fn(TcpStream)) -> Self {
        let listener = namespace
            .run(|| TcpListener::bind((address, port)))
            .unwrap()
            .unwrap();
        listener.set_nonblocking(true).unwrap();
        Self::start(move |stop, _| {
            while !stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        stream.set_nonblocking(false).unwrap();
                        serve(stream);
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => wait_readable(&listener),
                    Err(e) => panic!("accept: {e}"),
                }
            }
        })
    }

    /// Tells each client the address that it came from.
    pub(crate) fn udp(namespace: &Netns, address: IpAddr, port: u16) -> Self {
        let socket = namespace
            .run(|| UdpSocket::bind((address, port)))
            .unwrap()
            .unwrap();
        socket.set_read_timeout(Some(TICK)).unwrap();
        Self::start(move |stop, seen| {
            let mut buffer = [0; 64];
            while !stop.load(Ordering::Relaxed) {
                match socket.recv_from(&mut buffer) {
                    Ok((_, peer)) => {
                        seen.lock().unwrap().push(peer.ip());
                        let _ = socket.send_to(peer.ip().to_string().as_bytes(), peer);
                    }
                    Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                    Err(e) => panic!("receive: {e}"),
                }
            }
        })
    }

    fn start(work: impl FnOnce(&AtomicBool, &Mutex<Vec<IpAddr>>) + Send + 'static) -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stop_inside, seen_inside) = (stop.clone(), seen.clone());
        let thread = std::thread::spawn(move || work(&stop_inside, &seen_inside));
        Self {
            stop,
            seen,
            thread: Some(thread),
        }
    }

    /// Where datagrams came from, in order.
    pub(crate) fn seen(&self) -> Vec<IpAddr> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "a server panicked");
        }
    }
}

fn wait_readable(socket: &impl std::os::fd::AsFd) {
    let mut fds = [rustix::event::PollFd::new(socket, rustix::event::PollFlags::IN)];
    let tick = rustix::event::Timespec::try_from(TICK).unwrap();
    rustix::event::poll(&mut fds, Some(&tick)).unwrap();
}

/// A connection from inside a namespace, from a source address of choice.
pub(crate) fn connect(
    namespace: &Netns,
    source: Option<IpAddr>,
    to: IpAddr,
    port: u16,
) -> io::Result<TcpStream> {
    connect_within(PATIENCE, namespace, source, to, port)
}

fn connect_within(
    patience: Duration,
    namespace: &Netns,
    source: Option<IpAddr>,
    to: IpAddr,
    port: u16,
) -> io::Result<TcpStream> {
    namespace
        .run(|| {
            use rustix::net::{AddressFamily, SocketType, bind, socket};
            let family = if to.is_ipv4() {
                AddressFamily::INET
            } else {
                AddressFamily::INET6
            };
            let fd = socket(family, SocketType::STREAM, None)?;
            if let Some(source) = source {
                bind(&fd, &SocketAddr::new(source, 0))?;
            }
            rustix::io::ioctl_fionbio(&fd, true)?;
            let target = SocketAddr::new(to, port);
            match rustix::net::connect(&fd, &target) {
                Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
                Err(e) => return Err(e.into()),
            }
            let mut fds = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::OUT)];
            let patience = rustix::event::Timespec::try_from(patience).unwrap();
            if rustix::event::poll(&mut fds, Some(&patience))? == 0 {
                let text = format!("no answer to a connection from {source:?} to {target}");
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            let stream = TcpStream::from(fd);
            match stream.take_error()? {
                Some(error) => Err(error),
                None => {
                    stream.set_nonblocking(false)?;
                    Ok(stream)
                }
            }
        })
        .unwrap()
}

/// The address by which a server sees this client.
pub(crate) fn ask_tcp(
    namespace: &Netns,
    source: Option<IpAddr>,
    to: IpAddr,
    port: u16,
) -> io::Result<IpAddr> {
    let mut stream = connect(namespace, source, to, port)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.parse().unwrap())
}

/// The same over UDP.
pub(crate) fn ask_udp(
    namespace: &Netns,
    source: Option<IpAddr>,
    to: IpAddr,
    port: u16,
) -> io::Result<IpAddr> {
    ask_udp_within(PATIENCE, namespace, source, to, port)
}

fn ask_udp_within(
    patience: Duration,
    namespace: &Netns,
    source: Option<IpAddr>,
    to: IpAddr,
    port: u16,
) -> io::Result<IpAddr> {
    let socket = udp(namespace, source, to);
    socket.connect((to, port))?;
    socket.set_read_timeout(Some(patience))?;
    socket.send(b"?")?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    Ok(std::str::from_utf8(&buffer[..length]).unwrap().parse().unwrap())
}

/// Neither TCP nor UDP is answered there, not even by a refusal.
pub(crate) fn assert_silent(namespace: &Netns, source: IpAddr, to: IpAddr, port: u16) {
    let tcp = connect_within(SILENCE, namespace, Some(source), to, port).unwrap_err();
    assert_eq!(tcp.kind(), io::ErrorKind::TimedOut, "TCP to {to}:{port}: {tcp}");
    let udp = ask_udp_within(SILENCE, namespace, Some(source), to, port).unwrap_err();
    assert_eq!(udp.kind(), io::ErrorKind::WouldBlock, "UDP to {to}:{port}: {udp}");
}

/// Sends one datagram and waits for nothing.
pub(crate) fn send_udp(namespace: &Netns, source: IpAddr, to: IpAddr, port: u16) {
    udp(namespace, Some(source), to)
        .send_to(b"!", (to, port))
        .unwrap();
}

/// Sends these bytes as one datagram and waits for nothing.
pub(crate) fn send(namespace: &Netns, to: IpAddr, port: u16, payload: &[u8]) {
    udp(namespace, None, to).send_to(payload, (to, port)).unwrap();
}

/// What the overlay would carry to the node with this overlay address: a datagram between two pods.
pub(crate) fn overlay_packet(node: Ipv4Addr, source: Ipv4Addr, destination: Ipv4Addr, port: u16) -> Vec<u8> {
    const DATAGRAM: [u8; 9] = [0, 0, 0, 0, 0, 9, 0, 0, b'!'];
    let mut ip = vec![0x45, 0, 0, 29, 0, 0, 0, 0, 64, 17, 0, 0];
    ip.extend(source.octets());
    ip.extend(destination.octets());
    let sum: u32 = ip
        .chunks(2)
        .map(|two| u32::from(u16::from_be_bytes([two[0], two[1]])))
        .sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());

    let mut packet = vec![8, 0, 0, 0];
    packet.extend((8300u32 << 8).to_be_bytes());
    packet.extend([0x0a, 0x53]);
    packet.extend(node.octets());
    packet.extend([0x0a, 0x53, 1, 2, 3, 4, 8, 0]);
    packet.extend(&ip);
    packet.extend(&DATAGRAM[..2]);
    packet.extend(port.to_be_bytes());
    packet.extend(&DATAGRAM[4..]);
    packet
}

fn udp(namespace: &Netns, source: Option<IpAddr>, to: IpAddr) -> UdpSocket {
    let any = if to.is_ipv4() { "0.0.0.0" } else { "::" }.parse().unwrap();
    namespace
        .run(|| UdpSocket::bind((source.unwrap_or(any), 0)))
        .unwrap()
        .unwrap()
}

/// Sends this many bytes and returns how many the server counted.
pub(crate) fn bulk(namespace: &Netns, to: IpAddr, port: u16, length: usize) -> io::Result<usize> {
    let mut stream = connect(namespace, None, to, port)?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(&vec![7; length])?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.parse().unwrap())
}
