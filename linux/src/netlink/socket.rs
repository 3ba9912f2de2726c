//! A netlink socket, used in lock step: the kernel works on a request inside `send`, so its answer waits
//! in the receive buffer when that returns. Blocking here means waiting for the kernel's own locks, which
//! no asynchronous socket would avoid.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{
    Timeout, set_socket_recv_buffer_size, set_socket_recv_buffer_size_force, set_socket_send_buffer_size,
    set_socket_send_buffer_size_force, set_socket_timeout, socket_send_buffer_size,
};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink};

use super::message::HEADER;
use super::{Attributes, Message, NLM_F_ACK, NLM_F_DUMP, ne16, ne32, text};
use crate::error::{Error, Refusal, Result};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
const SOL_NETLINK: i32 = 270;
const NETLINK_CAP_ACK: i32 = 10;
const NETLINK_EXT_ACK: i32 = 11;
const NETLINK_GET_STRICT_CHK: i32 = 12;

/// Acknowledged requests in one datagram: their answers must fit the receive buffer that an unprivileged
/// process gets (208 KiB; an acknowledgement takes up to 1 KiB of it).
const WINDOW: usize = 128;
const BIG_BUFFER: usize = 64 << 20;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// NETLINK_ROUTE is protocol 0, which rustix writes as none.
pub(crate) const ROUTE: Option<Protocol> = None;
pub(crate) const NETFILTER: Option<Protocol> = Some(netlink::NETFILTER);

/// What came back for one message of a datagram.
#[derive(Debug)]
pub(crate) enum Answer {
    Ack(u32),
    Refused(u32, Refusal),
}

pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// A socket in the calling thread's network namespace; `groups` is a bit mask of multicast groups.
    pub(crate) fn open(protocol: Option<Protocol>, groups: u32) -> Result<Self> {
        let open = || -> rustix::io::Result<OwnedFd> {
            let fd = rustix::net::socket_with(
                AddressFamily::NETLINK,
                SocketType::RAW,
                SocketFlags::CLOEXEC,
                protocol,
            )?;
            bind(&fd, &netlink::SocketAddrNetlink::new(0, groups))?;
            set_socket_timeout(&fd, Timeout::Recv, Some(ANSWER_TIMEOUT))?;
            Ok(fd)
        };
        let what = if protocol == NETFILTER {
            "nftables"
        } else {
            "routes and devices"
        };
        let fd = open().map_err(|e| Error::system(format!("open a netlink socket for {what}"), e))?;
        // The forced sizes need CAP_NET_ADMIN in the initial user namespace; otherwise the limit holds.
        if set_socket_recv_buffer_size_force(&fd, BIG_BUFFER).is_err() {
            set_socket_recv_buffer_size(&fd, BIG_BUFFER)
                .map_err(|e| Error::system("set a netlink receive buffer", e))?;
        }
        if set_socket_send_buffer_size_force(&fd, BIG_BUFFER).is_err() {
            set_socket_send_buffer_size(&fd, BIG_BUFFER)
                .map_err(|e| Error::system("set a netlink send buffer", e))?;
        }
        // Words with refusals, short acknowledgements, filtered dumps: kernels that lack one still serve.
        for option in [NETLINK_EXT_ACK, NETLINK_CAP_ACK, NETLINK_GET_STRICT_CHK] {
            if let Err(e) = set_netlink_option(fd.as_fd(), option) {
                tracing::debug!(option, error = %e, "netlink socket option not available");
            }
        }
        Ok(Self {
            fd,
            sequence: 0,
            buffer: vec![0; 64 << 10],
        })
    }

    pub(crate) fn route() -> Result<Self> {
        Self::open(ROUTE, 0)
    }

    pub(crate) fn netfilter() -> Result<Self> {
        Self::open(NETFILTER, 0)
    }

    pub(crate) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// The address by which the kernel says whose doing a notification is about.
    pub(crate) fn port(&self) -> Result<u32> {
        rustix::net::getsockname(&self.fd)
            .and_then(netlink::SocketAddrNetlink::try_from)
            .map(|address| address.pid())
            .map_err(|e| Error::system("ask for a netlink socket's port", e))
    }

    /// The longest datagram that this socket can send.
    pub(crate) fn datagram_limit(&self) -> usize {
        // The kernel keeps 32 bytes back, and the size counts its own bookkeeping too.
        socket_send_buffer_size(&self.fd).map_or(64 << 10, |size| size.saturating_sub(4096))
    }

    /// Sends one request and waits for its acknowledgement.
    pub(crate) fn request(&mut self, message: Message, doing: impl FnOnce() -> String) -> Result<()> {
        match self.pipeline(std::slice::from_ref(&message))?.pop() {
            Some(Ok(())) => Ok(()),
            Some(Err(refusal)) => Err(refusal.doing(doing())),
            None => Err(Error::Protocol("a request was not answered".into())),
        }
    }

    /// Sends independent requests, many to a datagram; one answer for each, in order.
    pub(crate) fn pipeline(&mut self, messages: &[Message]) -> Result<Vec<std::result::Result<(), Refusal>>> {
        let mut results = Vec::with_capacity(messages.len());
        let limit = self.datagram_limit().min(64 << 10);
        let mut rest = messages;
        while !rest.is_empty() {
            let mut size = 0;
            let count = rest
                .iter()
                .take(WINDOW)
                .take_while(|m| {
                    size += m.len();
                    size <= limit
                })
                .count()
                .max(1);
            let (now, later) = rest.split_at(count);
            rest = later;
            let first = self.sequence.wrapping_add(1);
            let mut datagram = Vec::with_capacity(size);
            for message in now {
                let mut message = message.clone();
                message.add_flags(NLM_F_ACK);
                message.finish(self.next_sequence(), &mut datagram);
            }
            self.send(&datagram)?;
            let mut answers = vec![None; now.len()];
            while answers.iter().any(Option::is_none) {
                self.receive(|sequence, _, answer, _| {
                    let slot = answers.get_mut(sequence.wrapping_sub(first) as usize);
                    if let (Some(slot), Some(answer)) = (slot, answer) {
                        *slot = Some(answer);
                    }
                })?;
            }
            results.extend(answers.into_iter().flatten());
        }
        Ok(results)
    }

    /// Sends one datagram that the kernel takes as a whole; returns all that it answered.
    /// Every answer is there when `send` returns, so an empty receive buffer ends the reading.
    pub(crate) fn transaction(&mut self, messages: &[&Message]) -> Result<Vec<Answer>> {
        let mut datagram = Vec::with_capacity(messages.iter().map(|m| m.len()).sum());
        let first = self.sequence.wrapping_add(1);
        for message in messages {
            message.finish(self.next_sequence(), &mut datagram);
        }
        self.send(&datagram)?;
        let mut answers = Vec::new();
        loop {
            let more = self.receive_with(RecvFlags::DONTWAIT, |sequence, _, answer, _| {
                let index = sequence.wrapping_sub(first);
                match answer {
                    Some(Ok(())) => answers.push(Answer::Ack(index)),
                    Some(Err(refusal)) => answers.push(Answer::Refused(index, refusal)),
                    None => {}
                }
            })?;
            if !more {
                return Ok(answers);
            }
        }
    }

    /// Asks for a dump; `each` gets the type and the body of every object. A dump that another change
    /// interrupted begins again: `each` is told so by `restart`.
    pub(crate) fn dump<T>(
        &mut self,
        message: &Message,
        doing: impl Fn() -> String,
        mut each: impl FnMut(u16, &[u8]) -> Option<T>,
    ) -> Result<Vec<T>> {
        let mut message = message.clone();
        message.add_flags(NLM_F_DUMP);
        for _ in 0..20 {
            let mut found = Vec::new();
            let mut datagram = Vec::new();
            let wanted = self.next_sequence();
            message.finish(wanted, &mut datagram);
            self.send(&datagram)?;
            let (mut done, mut interrupted) = (None, false);
            while done.is_none() {
                self.receive(|sequence, kind, answer, body| {
                    if sequence != wanted {
                        return;
                    }
                    interrupted |= body.flags & NLM_F_DUMP_INTR != 0;
                    match (kind, answer) {
                        (NLMSG_DONE, _) => done = Some(body.done()),
                        (NLMSG_ERROR, Some(answer)) => done = Some(answer),
                        _ => found.extend(each(kind, body.bytes)),
                    }
                })?;
            }
            match done {
                Some(Err(refusal)) if refusal.errno == libc::EINTR => {}
                Some(Err(refusal)) => return Err(refusal.doing(doing())),
                _ if interrupted => {}
                _ => return Ok(found),
            }
        }
        Err(Error::Protocol(format!(
            "cannot {}: it changed during each of 20 readings",
            doing()
        )))
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn send(&mut self, datagram: &[u8]) -> Result<()> {
        loop {
            match rustix::net::send(&self.fd, datagram, SendFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(e) => {
                    return Err(Error::system(
                        format!("send {} bytes of netlink requests", datagram.len()),
                        e,
                    ));
                }
            }
        }
    }

    fn receive(
        &mut self,
        each: impl FnMut(u32, u16, Option<std::result::Result<(), Refusal>>, Body<'_>),
    ) -> Result<()> {
        if self.receive_with(RecvFlags::empty(), each)? {
            Ok(())
        } else {
            Err(Error::Protocol(format!(
                "no answer within {} s",
                ANSWER_TIMEOUT.as_secs()
            )))
        }
    }

    /// Reads one datagram; false where none is there.
    fn receive_with(
        &mut self,
        flags: RecvFlags,
        mut each: impl FnMut(u32, u16, Option<std::result::Result<(), Refusal>>, Body<'_>),
    ) -> Result<bool> {
        let length = loop {
            match rustix::net::recv(&self.fd, &mut self.buffer[..], flags | RecvFlags::TRUNC) {
                Ok((_, length)) => break length,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::NOBUFS) => return Err(Error::Overrun),
                Err(e) => return Err(Error::system("read netlink answers", e)),
            }
        };
        if length > self.buffer.len() {
            self.buffer.resize(length.next_power_of_two(), 0);
            return Err(Error::Overrun);
        }
        let mut rest = &self.buffer[..length];
        while rest.len() >= HEADER {
            let header = |at: usize| ne32(&rest[at..]).unwrap_or_default();
            let size = header(0) as usize;
            if size < HEADER || size > rest.len() {
                return Err(Error::Protocol("a message is longer than its datagram".into()));
            }
            let kind = ne16(&rest[4..]).unwrap_or_default();
            let message_flags = ne16(&rest[6..]).unwrap_or_default();
            let body = Body {
                flags: message_flags,
                bytes: &rest[HEADER..size],
            };
            let answer = (kind == NLMSG_ERROR).then(|| body.error());
            each(header(8), kind, answer, body);
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(true)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[derive(Clone, Copy)]
struct Body<'a> {
    flags: u16,
    bytes: &'a [u8],
}

impl Body<'_> {
    fn error(self) -> std::result::Result<(), Refusal> {
        let errno = ne32(self.bytes).map_or(libc::EPROTO, |e| (e as i32).wrapping_neg());
        if errno == 0 {
            return Ok(());
        }
        let mut text_at = 4 + HEADER;
        if self.flags & NLM_F_CAPPED == 0 {
            let request = self.bytes.get(4..).and_then(ne32).unwrap_or_default() as usize;
            text_at = 4 + request.next_multiple_of(4);
        }
        let words = (self.flags & NLM_F_ACK_TLVS != 0)
            .then(|| {
                Attributes::after(self.bytes, text_at)
                    .get(NLMSGERR_ATTR_MSG)
                    .map(text)
            })
            .flatten();
        Err(Refusal { errno, text: words })
    }

    fn done(self) -> std::result::Result<(), Refusal> {
        match ne32(self.bytes).map_or(0, |e| (e as i32).wrapping_neg()) {
            errno if errno > 0 => Err(Refusal { errno, text: None }),
            _ => Ok(()),
        }
    }
}

fn set_netlink_option(fd: BorrowedFd<'_>, option: i32) -> std::io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the pointer is to a live c_int and the length is its size; the descriptor is open.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            SOL_NETLINK,
            option,
            std::ptr::from_ref(&on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}
