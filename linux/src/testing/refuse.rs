//! A kernel that refuses some system calls, to see what becomes of who makes them.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::mpsc;

use rustix::io::Errno;

/// A system call that is about to be made.
#[derive(Debug)]
pub struct Call {
    /// Its number, one of libc's `SYS_`.
    pub number: i64,
    arguments: [u64; 6],
}

impl Call {
    /// An argument that is a number.
    pub fn argument(&self, index: usize) -> u64 {
        self.arguments[index]
    }

    /// Whether a `sendmsg` brings a control message of this level and type.
    ///
    /// # Panics
    /// If it is another call.
    pub fn brings(&self, level: libc::c_int, kind: libc::c_int) -> bool {
        assert_eq!(self.number, libc::SYS_sendmsg);
        let message = self.arguments[1] as *const libc::msghdr;
        // SAFETY: the caller is a thread of this process that waits in sendmsg for the answer, so its
        // arguments live and do not change; the control messages are those that it means to send.
        unsafe {
            let mut next = libc::CMSG_FIRSTHDR(message);
            while let Some(header) = next.as_ref() {
                if (header.cmsg_level, header.cmsg_type) == (level, kind) {
                    return true;
                }
                next = libc::CMSG_NXTHDR(message, next);
            }
        }
        false
    }
}

/// From now on asks `decide` about each call of these numbers that this thread makes, or one that it starts. The
/// answer is the error that the call ends with, or none to let it through. There is no way back.
///
/// # Panics
/// Where the kernel cannot do this (`CONFIG_SECCOMP_FILTER`, Linux 5.5).
pub fn refuse(numbers: &[i64], decide: impl Fn(&Call) -> Option<Errno> + Send + 'static) {
    // The judge is outside of what is judged: it starts before the filter stands.
    let (sender, receiver) = mpsc::channel::<OwnedFd>();
    std::thread::spawn(move || {
        if let Ok(listener) = receiver.recv() {
            judge(&listener, &decide);
        }
    });
    let listener = install(numbers).unwrap_or_else(|error| {
        panic!("cannot install a filter of system calls (it needs seccomp, Linux 5.5): {error}")
    });
    assert!(
        sender.send(listener).is_ok(),
        "the judge of system calls has ended"
    );
}

fn install(numbers: &[i64]) -> std::io::Result<OwnedFd> {
    let statement = |code: u32, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    let mut program = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0)];
    for (left, number) in (0..numbers.len()).rev().zip(numbers) {
        program.push(libc::sock_filter {
            jt: u8::try_from(left + 1).expect("a few calls"),
            ..statement(
                libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
                u32::try_from(*number).expect("the number of a system call"),
            )
        });
    }
    program.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW));
    program.push(statement(
        libc::BPF_RET | libc::BPF_K,
        libc::SECCOMP_RET_USER_NOTIF,
    ));
    let program = libc::sock_fprog {
        len: program.len() as libc::c_ushort,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the first call takes numbers only; the second reads the program, which outlives it. A
    // descriptor that it returns is new and nobody else's.
    unsafe {
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 {
            return Err(std::io::Error::last_os_error());
        }
        let listener = libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        );
        if listener < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(listener as libc::c_int))
    }
}

/// `_IOWR('!', 0, struct seccomp_notif)` and `_IOWR('!', 1, struct seccomp_notif_resp)`.
const RECEIVE: libc::c_ulong = 0xc050_2100;
const SEND: libc::c_ulong = 0xc018_2101;
const CONTINUE: u32 = 1;

/// Answers until nobody is left who could ask.
fn judge(listener: &OwnedFd, decide: &dyn Fn(&Call) -> Option<Errno>) {
    loop {
        // SAFETY: plain data for which all zeroes is a valid value; the kernel wants it so.
        let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the request writes one seccomp_notif, which lives on this stack frame.
        if unsafe { libc::ioctl(listener.as_raw_fd(), RECEIVE as _, &raw mut asked) } < 0 {
            if std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted {
                continue;
            }
            return;
        }
        let call = Call {
            number: asked.data.nr.into(),
            arguments: asked.data.args,
        };
        let refusal = decide(&call);
        let mut answer = libc::seccomp_notif_resp {
            id: asked.id,
            val: 0,
            error: refusal.map_or(0, |errno| -errno.raw_os_error()),
            flags: if refusal.is_none() { CONTINUE } else { 0 },
        };
        // SAFETY: the request reads one seccomp_notif_resp, which lives on this stack frame. It fails where
        // the asking thread has been killed, which is no matter here.
        unsafe { libc::ioctl(listener.as_raw_fd(), SEND as _, &raw mut answer) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_refused_fails() {
        std::thread::spawn(|| {
            refuse(&[libc::SYS_listen, libc::SYS_getpriority], |call| {
                (call.number == libc::SYS_listen && call.argument(1) == 7).then_some(Errno::IO)
            });
            let listen = |backlog| {
                let socket =
                    socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
                socket.listen(backlog).map_err(|error| error.raw_os_error())
            };
            assert_eq!(listen(7), Err(Some(libc::EIO)));
            assert_eq!(listen(8), Ok(()));
            // A thread that it starts is held to the same.
            std::thread::scope(|scope| {
                let inside = scope.spawn(move || listen(7));
                assert_eq!(inside.join().unwrap(), Err(Some(libc::EIO)));
            });
        })
        .join()
        .unwrap();
    }
}
