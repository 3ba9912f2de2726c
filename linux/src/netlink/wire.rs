//! What a socket's datagrams travel on: the kernel, or in tests something that answers in its place.

use std::io;

use rustix::net::sockopt::socket_send_buffer_size;

/// Where datagrams go and come from.
pub(super) enum Wire {
    Kernel(netlink_sys::Socket),
    #[cfg(any(test, feature = "fuzzing"))]
    Other(super::other::Other),
}

impl Wire {
    /// The longest datagram that can be sent.
    pub(super) fn datagram_limit(&self) -> usize {
        match self {
            // The kernel keeps 32 bytes back, and the size counts its own bookkeeping too.
            Self::Kernel(socket) => {
                socket_send_buffer_size(socket).map_or(64 << 10, |size| size.saturating_sub(4096))
            }
            #[cfg(any(test, feature = "fuzzing"))]
            Self::Other(_) => 64 << 10,
        }
    }

    pub(super) fn send(&mut self, datagram: &[u8]) -> io::Result<usize> {
        match self {
            Self::Kernel(socket) => socket.send(datagram, 0),
            #[cfg(any(test, feature = "fuzzing"))]
            Self::Other(other) => other.send(datagram),
        }
    }

    /// Reads one datagram; its whole length, also where that is more than the buffer's.
    pub(super) fn receive(&mut self, mut buffer: &mut [u8], flags: libc::c_int) -> io::Result<usize> {
        match self {
            Self::Kernel(socket) => socket.recv(&mut buffer, flags),
            #[cfg(any(test, feature = "fuzzing"))]
            Self::Other(other) => other.receive(buffer, flags),
        }
    }
}
