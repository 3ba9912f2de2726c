//! A netlink socket, used in lock step: the kernel works on a request inside `send`, so its answer waits
//! in the receive buffer when that returns. Blocking here means waiting for the kernel's own locks, which
//! no asynchronous socket would avoid.

use std::io::ErrorKind;
use std::time::Duration;

use netlink_packet_core::{
    DoneBuffer, ErrorBuffer, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLMSG_DONE,
    NLMSG_ERROR, NetlinkBuffer,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::SocketAddr;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use rustix::net::sockopt::{
    Timeout, set_socket_recv_buffer_size, set_socket_recv_buffer_size_force, set_socket_send_buffer_size,
    set_socket_send_buffer_size_force, set_socket_timeout,
};

use super::wire::Wire;
use super::{Attributes, Message, NLM_F_ACK, decode, messages};
use crate::error::{Error, Refusal, Result};

const NLMSGERR_ATTR_MSG: u16 = 1;
/// A message's header.
const HEADER: usize = 16;

/// Acknowledged requests in one datagram: their answers must fit the receive buffer that an unprivileged
/// process gets (208 KiB; an acknowledgement takes up to 1 KiB of it).
const WINDOW: usize = 128;
const BIG_BUFFER: usize = 64 << 20;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) const ROUTE: isize = NETLINK_ROUTE;
pub(crate) const NETFILTER: isize = NETLINK_NETFILTER;

/// What came back for one message of a datagram.
#[derive(Debug)]
pub(crate) enum Answer {
    Ack(u32),
    Refused(u32, Refusal),
}

pub(crate) struct Socket {
    wire: Wire,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
}

/// Binds a new socket, to multicast groups where the bit mask `groups` has some, and sets it up. Gives the
/// address by which the kernel says whose doing a notification is about.
pub(crate) fn prepare(socket: &mut netlink_sys::Socket, groups: u32) -> Result<u32> {
    let failed = |e| Error::system("bind a netlink socket", e);
    socket.bind(&SocketAddr::new(0, groups)).map_err(failed)?;
    let mut address = SocketAddr::new(0, 0);
    socket.get_address(&mut address).map_err(failed)?;
    // The forced sizes need CAP_NET_ADMIN in the initial user namespace; otherwise the limit holds.
    if set_socket_recv_buffer_size_force(&*socket, BIG_BUFFER).is_err() {
        set_socket_recv_buffer_size(&*socket, BIG_BUFFER)
            .map_err(|e| Error::system("set a netlink receive buffer", e))?;
    }
    if set_socket_send_buffer_size_force(&*socket, BIG_BUFFER).is_err() {
        set_socket_send_buffer_size(&*socket, BIG_BUFFER)
            .map_err(|e| Error::system("set a netlink send buffer", e))?;
    }
    // Words with refusals, short acknowledgements, filtered dumps: kernels that lack one still serve.
    for (option, result) in [
        ("NETLINK_EXT_ACK", socket.set_ext_ack(true)),
        ("NETLINK_CAP_ACK", socket.set_cap_ack(true)),
        ("NETLINK_GET_STRICT_CHK", socket.set_netlink_get_strict_chk(true)),
    ] {
        if let Err(error) = result {
            tracing::debug!(option, %error, "netlink socket option not available");
        }
    }
    Ok(address.port_number())
}

impl Socket {
    /// A socket in the calling thread's network namespace.
    fn open(protocol: isize, what: &str) -> Result<Self> {
        let failed = |e| Error::system(format!("open a netlink socket for {what}"), e);
        let mut socket = netlink_sys::Socket::new(protocol).map_err(failed)?;
        let port = prepare(&mut socket, 0)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIMEOUT)).map_err(|e| failed(e.into()))?;
        Ok(Self::over(Wire::Kernel(socket), port))
    }

    pub(super) fn over(wire: Wire, port: u32) -> Self {
        Self {
            wire,
            port,
            sequence: 0,
            buffer: vec![0; 64 << 10],
        }
    }

    #[cfg(test)]
    pub(super) fn into_wire(self) -> Wire {
        self.wire
    }

    pub(crate) fn route() -> Result<Self> {
        Self::open(ROUTE, "routes and devices")
    }

    pub(crate) fn netfilter() -> Result<Self> {
        let none = [libc::EPROTONOSUPPORT, libc::ESOCKTNOSUPPORT, libc::EAFNOSUPPORT];
        Self::open(NETFILTER, "nftables")
            .map_err(|e| e.lacking(&none, "netfilter netlink", "load its module nfnetlink"))
    }

    /// The address by which the kernel says whose doing a notification is about.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// The longest datagram that this socket can send.
    pub(crate) fn datagram_limit(&self) -> usize {
        self.wire.datagram_limit()
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
                self.receive(|message, answer| {
                    let index = message.sequence_number().wrapping_sub(first);
                    let slot = answers.get_mut(index as usize);
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
            let more = self.receive_with(libc::MSG_DONTWAIT, |message, answer| {
                let index = message.sequence_number().wrapping_sub(first);
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

    /// Asks for a dump of the route family; `each` gets every object.
    pub(crate) fn list<T>(
        &mut self,
        request: RouteNetlinkMessage,
        doing: impl Fn() -> String,
        mut each: impl FnMut(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>> {
        self.dump(&Message::route(request, 0), doing, |kind, body| {
            decode(kind, body).and_then(&mut each)
        })
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
                self.receive(|message, answer| {
                    if message.sequence_number() != wanted {
                        return;
                    }
                    interrupted |= message.flags() & NLM_F_DUMP_INTR != 0;
                    match (message.message_type(), answer) {
                        (NLMSG_DONE, _) => done = Some(end_of_dump(message)),
                        (_, Some(answer)) => done = Some(answer),
                        (kind, None) => found.extend(each(kind, message.payload())),
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
            match self.wire.send(datagram) {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => {
                    return Err(Error::system(
                        format!("send {} bytes of netlink requests", datagram.len()),
                        e,
                    ));
                }
            }
        }
    }

    fn receive(&mut self, each: impl FnMut(&NetlinkBuffer<&[u8]>, Option<Acknowledgement>)) -> Result<()> {
        if self.receive_with(0, each)? {
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
        flags: libc::c_int,
        mut each: impl FnMut(&NetlinkBuffer<&[u8]>, Option<Acknowledgement>),
    ) -> Result<bool> {
        let length = loop {
            match self.wire.receive(&mut self.buffer, flags | libc::MSG_TRUNC) {
                Ok(length) => break length,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => return Err(Error::Overrun),
                Err(e) => return Err(Error::system("read netlink answers", e)),
            }
        };
        if length > self.buffer.len() {
            self.buffer.resize(length.next_power_of_two(), 0);
            return Err(Error::Overrun);
        }
        for message in messages(&self.buffer[..length]) {
            let message = message?;
            let answer = (message.message_type() == NLMSG_ERROR).then(|| acknowledgement(&message));
            each(&message, answer);
        }
        Ok(true)
    }
}

type Acknowledgement = std::result::Result<(), Refusal>;

fn acknowledgement(message: &NetlinkBuffer<&[u8]>) -> Acknowledgement {
    let payload = message.payload();
    let error = ErrorBuffer::new_checked(payload).map_err(|_| Refusal {
        errno: libc::EPROTO,
        text: None,
    })?;
    let Some(code) = error.code() else {
        return Ok(());
    };
    let mut text_at = 4 + HEADER;
    if message.flags() & NLM_F_CAPPED == 0 {
        let request = NetlinkBuffer::new_checked(error.payload()).map_or(HEADER, |r| r.length() as usize);
        text_at = 4 + request.next_multiple_of(4);
    }
    let words = (message.flags() & NLM_F_ACK_TLVS != 0)
        .then(|| Attributes::after(payload, text_at).text(NLMSGERR_ATTR_MSG));
    Err(Refusal {
        errno: code.get().wrapping_neg(),
        text: words.flatten(),
    })
}

fn end_of_dump(message: &NetlinkBuffer<&[u8]>) -> Acknowledgement {
    let code = DoneBuffer::new_checked(message.payload()).map_or(0, |done| done.code());
    match code.wrapping_neg() {
        errno if errno > 0 => Err(Refusal { errno, text: None }),
        _ => Ok(()),
    }
}
