//! Requests about network devices that go by `ioctl` (`netdevice(7)`).
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd as _;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// A request about the device of this name; none where no device can have it.
pub(crate) fn request(name: &str) -> Option<libc::ifreq> {
    if name.len() >= libc::IFNAMSIZ || name.contains('\0') {
        return None;
    }
    // SAFETY: ifreq is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = byte as libc::c_char;
    }
    Some(request)
}

/// Makes a request of the kernel, in the calling thread's network namespace.
///
/// # Safety
/// The request must be the structure that the operation reads and writes, and what it points to as long as the
/// operation takes it to be.
pub(crate) unsafe fn control<T>(
    family: AddressFamily,
    operation: libc::c_ulong,
    request: &mut T,
) -> io::Result<()> {
    let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: the socket is open; the rest is the contract above.
    answer(unsafe { libc::ioctl(socket.as_raw_fd(), operation as _, std::ptr::from_mut(request)) })
}

/// What a system call's answer says.
pub(crate) fn answer(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
