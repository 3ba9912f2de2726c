//! Answers in the kernel's place: a kernel that lacks something, or that says what no kernel would.

use std::collections::VecDeque;
use std::io;

use netlink_packet_core::Emitable as _;
use netlink_packet_core::{NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NetlinkHeader};

use super::wire::Wire;
use super::{Socket, messages};

/// The datagrams with which a request is answered; none: the kernel itself answers, where there is one.
pub(crate) type Answers = Box<dyn FnMut(&[u8]) -> Option<Vec<Vec<u8>>> + Send>;

pub(super) struct Other {
    kernel: Option<Box<Wire>>,
    answers: Answers,
    waiting: VecDeque<Vec<u8>>,
}

impl Other {
    pub(super) fn send(&mut self, datagram: &[u8]) -> io::Result<usize> {
        match ((self.answers)(datagram), &mut self.kernel) {
            (Some(answers), _) => self.waiting.extend(answers),
            (None, Some(kernel)) => return kernel.send(datagram),
            (None, None) => {}
        }
        Ok(datagram.len())
    }

    pub(super) fn receive(&mut self, buffer: &mut [u8], flags: libc::c_int) -> io::Result<usize> {
        let Some(datagram) = self.waiting.pop_front() else {
            return match &mut self.kernel {
                Some(kernel) => kernel.receive(buffer, flags),
                None => Err(io::ErrorKind::WouldBlock.into()),
            };
        };
        let length = datagram.len().min(buffer.len());
        buffer[..length].copy_from_slice(&datagram[..length]);
        Ok(datagram.len())
    }
}

impl Socket {
    /// A socket that nothing but `answers` answers.
    pub(crate) fn alone(answers: Answers) -> Self {
        let other = Other {
            kernel: None,
            answers,
            waiting: VecDeque::new(),
        };
        Self::over(Wire::Other(other), 1)
    }

    /// The same socket, but for what `answers` answers.
    #[cfg(test)]
    pub(crate) fn with(self, answers: Answers) -> Self {
        let port = self.port();
        let other = Other {
            kernel: Some(Box::new(self.into_wire())),
            answers,
            waiting: VecDeque::new(),
        };
        Self::over(Wire::Other(other), port)
    }
}

/// A message with this body, as an answer to the request of this sequence number.
pub(crate) fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.message_type = kind;
    header.flags = flags;
    header.sequence_number = sequence;
    header.length = u32::try_from(header.buffer_len() + body.len()).unwrap_or(u32::MAX);
    let mut bytes = vec![0; header.buffer_len()];
    header.emit(&mut bytes);
    bytes.extend_from_slice(body);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The end of a dump.
pub(crate) fn done(sequence: u32) -> Vec<u8> {
    message(NLMSG_DONE, 0, sequence, &[0; 4])
}

/// The kernel's "no" to those messages of a datagram that `wrong` picks; it says nothing to the others.
#[cfg(test)]
pub(crate) fn refusals(
    datagram: &[u8],
    errno: i32,
    wrong: impl Fn(&NetlinkBuffer<&[u8]>) -> bool,
) -> Vec<Vec<u8>> {
    messages(datagram)
        .flatten()
        .filter(|request| wrong(request))
        .map(|request| {
            let sequence = request.sequence_number();
            let mut body = (-errno).to_ne_bytes().to_vec();
            body.extend_from_slice(&request.into_inner()[..16]);
            message(NLMSG_ERROR, 0, sequence, &body)
        })
        .collect()
}
