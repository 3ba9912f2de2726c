//! A worker's UDP socket, for all peers and both families: sending and receiving runs of datagrams.

#![allow(unsafe_code)]

use std::convert::Infallible;
use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Receiver, Sender};

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use super::batch::Batch;
use super::config::DropCause;

/// Bytes of receive buffer asked for: some 25 ms at 2 Gbit/s.
const RECEIVE_BUFFER: usize = 7 << 20;
/// Bytes of send buffer asked for. All peers share it: it holds what the queues of a few slow links and the
/// neighbours that do not answer keep back, and others' runs besides.
const SEND_BUFFER: usize = 7 << 20;
/// Datagrams (or runs that the kernel has joined) taken by one system call.
const FEW: usize = 8;
/// The same where they come one by one, as from a network card that joins none.
const MANY: usize = 64;
/// Runs are shorter than this on average where most are single datagrams.
const SINGLE: usize = 4096;
const SLOT_LEN: usize = 65_536;
/// From one slot to the next: not a power of two, so that the starts of all do not compete for a few places in the
/// processor's caches.
const SLOT_STEP: usize = SLOT_LEN + 2048 + 64;
/// The most datagrams that the kernel splits off one send.
pub(super) const MAX_SEGMENTS: usize = 64;
/// The most bytes that one send takes.
pub(super) const MAX_SEND: usize = 65_507;
/// Room for every control message that is sent or received here: four of at most 16 bytes of data.
const CONTROL_LEN: usize = 128;

/// Control messages, aligned as the kernel's headers want it.
#[derive(Clone, Copy)]
#[repr(align(8))]
struct Control([u8; CONTROL_LEN]);

/// The socket.
#[derive(Debug)]
pub(super) struct Udp {
    socket: Socket,
    v6: bool,
    /// Whether one send may carry several datagrams.
    segmentation: bool,
    /// Who waits for the socket's end. It goes after the socket.
    closed: OnceLock<Sender<Infallible>>,
}

impl Udp {
    /// Binds a socket. Without an address it listens on both families, or on IPv4 alone where there is no
    /// IPv6.
    pub(super) fn bind(bind: Option<IpAddr>, port: u16, fwmark: u32, offload: bool) -> io::Result<Self> {
        Self::open(bind, port, fwmark, offload, false)
    }

    /// Binds another socket at a port whose sockets all [share](Self::share_port) it.
    pub(super) fn bind_beside(
        bind: Option<IpAddr>,
        port: u16,
        fwmark: u32,
        offload: bool,
    ) -> io::Result<Self> {
        Self::open(bind, port, fwmark, offload, true)
    }

    fn open(bind: Option<IpAddr>, port: u16, fwmark: u32, offload: bool, beside: bool) -> io::Result<Self> {
        let open = |address: IpAddr| {
            let domain = Domain::for_address(SocketAddr::new(address, port));
            let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
            socket.set_reuse_port(beside)?;
            if address == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
                socket.set_only_v6(false)?;
            }
            socket.bind(&SocketAddr::new(address, port).into())?;
            Ok::<_, io::Error>(socket)
        };
        let socket = match bind {
            Some(address) => open(address)?,
            None => match open(Ipv6Addr::UNSPECIFIED.into()) {
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
                    ) =>
                {
                    open(Ipv4Addr::UNSPECIFIED.into())?
                }
                result => result?,
            },
        };
        Self::adopt(socket, fwmark, offload)
    }

    fn adopt(socket: Socket, fwmark: u32, offload: bool) -> io::Result<Self> {
        let v6 = socket.domain()? == Domain::IPV6;
        if fwmark != 0 {
            socket.set_mark(fwmark)?;
        }
        let udp = Self {
            socket,
            v6,
            segmentation: offload,
            closed: OnceLock::new(),
        };
        // Without privilege the kernel's limits (net.core.rmem_max, wmem_max) apply; that is slower, not wrong.
        let (receive, send) = (RECEIVE_BUFFER as libc::c_int, SEND_BUFFER as libc::c_int);
        if udp.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, receive).is_err() {
            udp.socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        }
        if udp.set(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, send).is_err() {
            udp.socket.set_send_buffer_size(SEND_BUFFER)?;
        }
        // Outer datagrams may be fragmented: a path below the expected MTU is slow rather than dead.
        if v6 {
            udp.set(
                libc::IPPROTO_IPV6,
                libc::IPV6_MTU_DISCOVER,
                libc::IPV6_PMTUDISC_DONT,
            )?;
            udp.set(libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
        }
        if !v6 || !udp.socket.only_v6()? {
            udp.set(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)?;
            udp.set(libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?;
        }
        if offload && udp.set(libc::SOL_UDP, libc::UDP_GRO, 1).is_err() {
            tracing::info!("the kernel does not join UDP datagrams on receipt (UDP_GRO): going on without");
        }
        Ok(udp)
    }

    /// Marks outgoing datagrams from now on; 0 for none.
    pub(super) fn set_mark(&self, fwmark: u32) -> io::Result<()> {
        self.socket.set_mark(fwmark)
    }

    /// Lets other sockets of this user bind the same port.
    pub(super) fn share_port(&self) -> io::Result<()> {
        self.socket.set_reuse_port(true)
    }

    fn set(&self, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
        // SAFETY: each option that is set here has one int as its value.
        unsafe { self.set_option(level, name, &value) }
    }

    /// Sets an option of the socket.
    ///
    /// # Safety
    ///
    /// The value must be of the option's type, and what it points to must be sound to read.
    pub(super) unsafe fn set_option<T>(
        &self,
        level: libc::c_int,
        name: libc::c_int,
        value: &T,
    ) -> io::Result<()> {
        // SAFETY: the value outlives the call, and is of the option's type by the contract above.
        let result = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                level,
                name,
                std::ptr::from_ref(value).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// Disconnected once nobody holds this any more and the socket is closed; none if it was asked for before.
    pub(super) fn closing(&self) -> Option<Receiver<Infallible>> {
        let (sender, receiver) = mpsc::channel();
        self.closed.set(sender).ok().map(|()| receiver)
    }

    /// The port in use.
    pub(super) fn port(&self) -> io::Result<u16> {
        Ok(self
            .socket
            .local_addr()?
            .as_socket()
            .map_or(0, |address| address.port()))
    }

    /// Whether one send may carry several datagrams.
    pub(super) fn segmentation(&self) -> bool {
        self.segmentation
    }

    /// Sends datagrams of `segment` bytes each, the last one maybe shorter, to one address.
    ///
    /// `batch` says whether this destination takes several datagrams in one system call; it is told when the
    /// kernel refuses that (a small path MTU, or a driver that cannot).
    ///
    /// It never waits: what finds no room is not sent, as the room is that of all peers and may be taken by
    /// what waits for one of them.
    pub(super) fn send_run(
        &self,
        to: SocketAddr,
        run: &[u8],
        segment: usize,
        ecn: u8,
        batch: &Batch,
    ) -> Result<(), Unsent> {
        let datagrams = run.chunks(segment);
        if datagrams.len() <= 1 {
            return self.send(to, run, None, ecn).map_err(Unsent::of(1));
        }
        if self.segmentation && batch.allows(segment) {
            let error = match self.send(to, run, Some(segment), ecn) {
                Ok(()) => {
                    if batch.take(segment) {
                        tracing::info!(%to, "UDP segmentation offload fits this path again");
                    }
                    return Ok(());
                }
                Err(error) => error,
            };
            match error.raw_os_error() {
                Some(libc::EIO | libc::EOPNOTSUPP | libc::ENOPROTOOPT) => {
                    if batch.refuse(0) {
                        tracing::warn!(%to, %error, "the kernel refuses UDP segmentation offload: sending one by one there, and trying again at times");
                    }
                }
                Some(libc::EINVAL | libc::EMSGSIZE) => {
                    if batch.refuse(segment) {
                        tracing::info!(%to, %error, "UDP segmentation offload does not fit this path: sending one by one there, and trying again at times");
                    }
                }
                _ => return Err(Unsent::of(datagrams.len())(error)),
            }
        }
        let count = datagrams.len();
        for (sent, datagram) in datagrams.enumerate() {
            self.send(to, datagram, None, ecn)
                .map_err(Unsent::of(count - sent))?;
        }
        Ok(())
    }

    /// Sends one datagram.
    pub(super) fn send_one(&self, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        self.send(to, datagram, None, 0)
    }

    fn send(&self, to: SocketAddr, bytes: &[u8], segment: Option<usize>, ecn: u8) -> io::Result<()> {
        let address = SockAddr::from(self.outgoing(to)?);
        let mut control = Control([0; CONTROL_LEN]);
        let mut vector = libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        };
        // SAFETY: msghdr is plain data for which all zeroes is a valid value.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_name = address.as_ptr().cast_mut().cast();
        message.msg_namelen = address.len();
        message.msg_iov = &raw mut vector;
        message.msg_iovlen = 1;
        let mut used = 0;
        if ecn != 0 {
            let (level, name) = if to.ip().to_canonical().is_ipv4() {
                (libc::IPPROTO_IP, libc::IP_TOS)
            } else {
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS)
            };
            used += put(
                &mut control,
                used,
                level,
                name,
                &libc::c_int::from(ecn).to_ne_bytes(),
            );
        }
        if let Some(segment) = segment {
            let segment = u16::try_from(segment).map_err(|_| io::ErrorKind::InvalidInput)?;
            used += put(
                &mut control,
                used,
                libc::SOL_UDP,
                libc::UDP_SEGMENT,
                &segment.to_ne_bytes(),
            );
        }
        if used > 0 {
            message.msg_control = (&raw mut control).cast();
            message.msg_controllen = used as _;
        }
        loop {
            // SAFETY: address, vector, the bytes behind it and control live until the call returns, and
            // the kernel only reads them.
            if unsafe { libc::sendmsg(self.socket.as_raw_fd(), &message, libc::MSG_DONTWAIT) } >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    fn outgoing(&self, to: SocketAddr) -> io::Result<SocketAddr> {
        match (self.v6, to) {
            (true, SocketAddr::V4(to)) => {
                Ok(SocketAddrV6::new(to.ip().to_ipv6_mapped(), to.port(), 0, 0).into())
            }
            (false, SocketAddr::V6(_)) => Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)),
            _ => Ok(to),
        }
    }

    /// Takes what is waiting, without waiting for more; `WouldBlock` if nothing is.
    pub(super) fn receive(&self, inbox: &mut Inbox) -> io::Result<usize> {
        inbox.count = 0;
        inbox.count = if inbox.many {
            self.receive_up_to::<MANY>(inbox)?
        } else {
            self.receive_up_to::<FEW>(inbox)?
        };
        let bytes: usize = inbox.runs[..inbox.count].iter().map(|run| run.len).sum();
        inbox.many = inbox.count >= FEW && bytes < inbox.count * SINGLE;
        Ok(inbox.count)
    }

    fn receive_up_to<const SLOTS: usize>(&self, inbox: &mut Inbox) -> io::Result<usize> {
        let Inbox { buffer, runs, .. } = inbox;
        let mut vectors = [libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        }; SLOTS];
        let mut addresses: [SockAddrStorage; SLOTS] = std::array::from_fn(|_| SockAddrStorage::zeroed());
        let mut controls = [Control([0; CONTROL_LEN]); SLOTS];
        // SAFETY: mmsghdr is plain data for which all zeroes is a valid value.
        let mut messages: [libc::mmsghdr; SLOTS] = unsafe { mem::zeroed() };
        for (index, message) in messages.iter_mut().enumerate() {
            let slot = &mut buffer[index * SLOT_STEP..][..SLOT_LEN];
            vectors[index] = libc::iovec {
                iov_base: slot.as_mut_ptr().cast(),
                iov_len: SLOT_LEN,
            };
            message.msg_hdr.msg_name = (&raw mut addresses[index]).cast();
            message.msg_hdr.msg_namelen = addresses[index].size_of();
            message.msg_hdr.msg_iov = &raw mut vectors[index];
            message.msg_hdr.msg_iovlen = 1;
            message.msg_hdr.msg_control = (&raw mut controls[index]).cast();
            message.msg_hdr.msg_controllen = CONTROL_LEN as _;
        }
        // SAFETY: every header points at its own address, vector, slot and control buffer of the lengths
        // given, all of which outlive the call.
        let count = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                messages.as_mut_ptr(),
                SLOTS as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        if count < 0 {
            return Err(io::Error::last_os_error());
        }
        let count = count as usize;
        for index in 0..count {
            let message = &messages[index];
            let len = (message.msg_len as usize).min(SLOT_LEN);
            let mut run = Run {
                from: None,
                len,
                stride: len,
                ecn: 0,
                truncated: false,
            };
            run.truncated = message.msg_hdr.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0;
            // SAFETY: the kernel has filled in an address of msg_namelen bytes.
            let address = unsafe {
                SockAddr::new(
                    mem::replace(&mut addresses[index], SockAddrStorage::zeroed()),
                    message.msg_hdr.msg_namelen,
                )
            };
            run.from = address
                .as_socket()
                .map(|from| SocketAddr::new(from.ip().to_canonical(), from.port()));
            // SAFETY: the header is the one that the kernel has just filled in, with its control buffer.
            unsafe { read_control(&message.msg_hdr, &mut run) };
            runs[index] = run;
        }
        Ok(count)
    }
}

impl AsFd for Udp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The end of a run that was not sent.
#[derive(Debug)]
pub(super) struct Unsent {
    pub(super) datagrams: u64,
    pub(super) error: io::Error,
}

impl Unsent {
    fn of(datagrams: usize) -> impl FnOnce(io::Error) -> Self {
        move |error| Self {
            datagrams: datagrams as u64,
            error,
        }
    }
}

/// As what a datagram is counted that was not sent.
pub(super) fn unsent(error: &io::Error) -> DropCause {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOBUFS) => DropCause::OutSendBufferFull,
        _ => DropCause::OutSendFailed,
    }
}

/// Appends a control message; the bytes that it took.
fn put(control: &mut Control, at: usize, level: libc::c_int, name: libc::c_int, data: &[u8]) -> usize {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    // SAFETY: CMSG_SPACE and CMSG_LEN only compute.
    let (space, len) = unsafe {
        (
            libc::CMSG_SPACE(data.len() as _) as usize,
            libc::CMSG_LEN(data.len() as _) as usize,
        )
    };
    // SAFETY: cmsghdr is plain data for which all zeroes is a valid value.
    let mut header: libc::cmsghdr = unsafe { mem::zeroed() };
    header.cmsg_len = len as _;
    header.cmsg_level = level;
    header.cmsg_type = name;
    let area = &mut control.0[at..at + space];
    // SAFETY: the slice above has checked that the header fits; it need not be aligned for this write.
    unsafe { area.as_mut_ptr().cast::<libc::cmsghdr>().write_unaligned(header) };
    area[HEADER..HEADER + data.len()].copy_from_slice(data);
    space
}

/// Reads stride and congestion bits.
///
/// # Safety
///
/// The header must be one that the kernel filled in, its control buffer still alive.
unsafe fn read_control(header: &libc::msghdr, run: &mut Run) {
    // SAFETY: by the contract above the macros walk control messages of the kernel's own making; data is
    // read unaligned and only as far as each message's length says.
    unsafe {
        let mut next = libc::CMSG_FIRSTHDR(header);
        while let Some(message) = next.as_ref() {
            let data = libc::CMSG_DATA(message);
            let len = message.cmsg_len - (data as usize - next as usize);
            match (message.cmsg_level, message.cmsg_type) {
                (libc::SOL_UDP, libc::UDP_GRO) if len >= 4 => {
                    let stride = data.cast::<libc::c_int>().read_unaligned();
                    run.stride = usize::try_from(stride)
                        .unwrap_or(run.len)
                        .clamp(1, run.len.max(1));
                }
                (libc::IPPROTO_IP, libc::IP_TOS) if len >= 1 => run.ecn = data.read() & 3,
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) if len >= 4 => {
                    run.ecn = (data.cast::<libc::c_int>().read_unaligned() & 3) as u8;
                }
                _ => {}
            }
            next = libc::CMSG_NXTHDR(header, next);
        }
    }
}

/// One or several datagrams from one sender.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) from: Option<SocketAddr>,
    pub(super) len: usize,
    /// Length of each datagram but the last, which may be shorter.
    pub(super) stride: usize,
    pub(super) ecn: u8,
    pub(super) truncated: bool,
}

/// Room for what one system call receives.
pub(super) struct Inbox {
    buffer: Vec<u8>,
    runs: [Run; MANY],
    count: usize,
    /// Datagrams come one by one, and many of them.
    many: bool,
}

/// A datagram, and the number of its run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Datagram<'a> {
    pub(super) run: usize,
    pub(super) bytes: &'a [u8],
}

impl Inbox {
    pub(super) fn new() -> Self {
        let empty = Run {
            from: None,
            len: 0,
            stride: 1,
            ecn: 0,
            truncated: false,
        };
        Self {
            buffer: vec![0; MANY * SLOT_STEP],
            runs: [empty; MANY],
            count: 0,
            many: false,
        }
    }

    /// What is known of a run's datagrams.
    pub(super) fn run(&self, number: usize) -> &Run {
        &self.runs[number]
    }

    /// All that was received, in order; of a run that is not whole, it is all one.
    pub(super) fn datagrams(&self) -> impl Iterator<Item = Datagram<'_>> {
        (0..self.count).flat_map(|run| {
            let Run {
                len,
                stride,
                truncated,
                ..
            } = self.runs[run];
            let stride = if truncated { len } else { stride }.max(1);
            let all = &self.buffer[run * SLOT_STEP..][..len];
            // An empty datagram is one, too.
            (0..len.max(1)).step_by(stride).map(move |start| Datagram {
                run,
                bytes: &all[start..len.min(start + stride)],
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(address: IpAddr) -> (Udp, Udp, SocketAddr) {
        let sender = Udp::bind(None, 0, 0, true).unwrap();
        let receiver = Udp::bind(None, 0, 0, true).unwrap();
        let to = SocketAddr::new(address, receiver.port().unwrap());
        (sender, receiver, to)
    }

    fn wait(udp: &Udp) {
        let mut fds = [rustix::event::PollFd::new(udp, rustix::event::PollFlags::IN)];
        let limit = rustix::event::Timespec {
            tv_sec: 5,
            tv_nsec: 0,
        };
        assert_eq!(
            rustix::event::poll(&mut fds, Some(&limit)).unwrap(),
            1,
            "nothing came in 5 s"
        );
    }

    #[test]
    fn a_run_arrives_as_its_datagrams_with_their_congestion_bits_in_both_families() {
        for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            let (sender, receiver, to) = pair(address);
            let run: Vec<u8> = (0..10u8)
                .flat_map(|i| vec![i; if i == 9 { 40 } else { 1000 }])
                .collect();
            sender.send_run(to, &run, 1000, 2, &Batch::default()).unwrap();
            let mut inbox = Inbox::new();
            let mut datagrams = Vec::new();
            while datagrams.len() < 10 {
                wait(&receiver);
                receiver.receive(&mut inbox).unwrap();
                for datagram in inbox.datagrams() {
                    let run = inbox.run(datagram.run);
                    assert_eq!((run.ecn, run.truncated), (2, false));
                    assert_eq!(run.from, Some(SocketAddr::new(address, sender.port().unwrap())));
                    datagrams.push(datagram.bytes.to_vec());
                }
            }
            let expected: Vec<Vec<u8>> = run.chunks(1000).map(<[u8]>::to_vec).collect();
            assert_eq!(datagrams, expected);
        }
    }

    #[test]
    fn a_run_that_segmentation_refuses_is_sent_one_by_one() {
        let (sender, receiver, to) = pair(Ipv4Addr::LOCALHOST.into());
        // More segments than the kernel takes in one send.
        let run = vec![7; 200 * 10];
        let batch = Batch::default();
        sender.send_run(to, &run, 10, 0, &batch).unwrap();
        assert!(!batch.allows(10), "the kernel took 200 segments");
        let mut inbox = Inbox::new();
        let mut bytes = 0;
        while bytes < run.len() {
            wait(&receiver);
            for index in 0..receiver.receive(&mut inbox).unwrap() {
                bytes += inbox.run(index).len;
            }
        }
        assert_eq!(bytes, run.len());
    }

    #[test]
    fn many_single_datagrams_are_taken_at_once_and_empty_ones_too() {
        let (sender, receiver, to) = pair(Ipv4Addr::LOCALHOST.into());
        let all: Vec<Vec<u8>> = (0..200u8)
            .map(|number| vec![number; usize::from(number)])
            .collect();
        for bytes in &all {
            sender.send_one(to, bytes).unwrap();
        }
        let mut inbox = Inbox::new();
        let (mut received, mut calls) = (Vec::new(), 0);
        while received.len() < all.len() {
            wait(&receiver);
            receiver.receive(&mut inbox).unwrap();
            received.extend(inbox.datagrams().map(|datagram| datagram.bytes.to_vec()));
            calls += 1;
        }
        assert_eq!(received, all);
        // 8, then 64 at a time.
        assert!(calls <= 4, "{calls} calls for 200 datagrams");
    }

    #[test]
    fn a_port_in_use_is_an_error() {
        let udp = Udp::bind(None, 0, 0, true).unwrap();
        let error = Udp::bind(None, udp.port().unwrap(), 0, true).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
