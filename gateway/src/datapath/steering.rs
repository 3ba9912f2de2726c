//! Several sockets at one port, one for each worker, and how the kernel chooses among them: a data message
//! goes to the worker that its session belongs to, everything else to the first.

#![allow(unsafe_code)]

use std::io;
use std::net::IpAddr;

use super::table::Slot;
use super::udp::Udp;

/// The worker that owns the sessions of a slot.
pub(super) fn home(slot: Slot, workers: usize) -> usize {
    // As much of the slot as the kernel's program looks at.
    usize::from(slot as u8) % workers
}

/// Binds a socket for each worker.
pub(super) fn bind(
    address: Option<IpAddr>,
    port: u16,
    fwmark: u32,
    offload: bool,
    workers: usize,
) -> io::Result<Vec<Udp>> {
    // Alone at first, or this would join whoever listens there in the same way.
    let first = Udp::bind(address, port, fwmark, offload)?;
    if workers <= 1 {
        return Ok(vec![first]);
    }
    first.share_port()?;
    let port = first.port()?;
    let mut sockets = vec![first];
    for _ in 1..workers {
        sockets.push(Udp::bind_beside(address, port, fwmark, offload)?);
    }
    if let Err(error) = steer(&sockets) {
        tracing::warn!(%error, "the kernel does not steer datagrams to workers (SO_ATTACH_REUSEPORT_CBPF): going on with one worker");
        sockets.truncate(1);
    }
    Ok(sockets)
}

/// The program that chooses. What it reads is a datagram's payload; reading behind its end answers 0.
fn program(workers: u32) -> [libc::sock_filter; 6] {
    let (load, jump, compute, answer) = (libc::BPF_LD, libc::BPF_JMP, libc::BPF_ALU, libc::BPF_RET);
    let step = |code: u32, k: u32, jf: u8| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf,
        k,
    };
    [
        // A data message begins with 4 0 0 0; then comes the receiver index, little endian: boringtun's own
        // byte, two of the slot, and one of the generation.
        step(load | libc::BPF_W | libc::BPF_ABS, 0, 0),
        step(jump | libc::BPF_JEQ | libc::BPF_K, 0x0400_0000, 3),
        step(load | libc::BPF_B | libc::BPF_ABS, 5, 0),
        step(compute | libc::BPF_MOD | libc::BPF_K, workers, 0),
        step(answer | libc::BPF_A, 0, 0),
        step(answer | libc::BPF_K, 0, 0),
    ]
}

fn steer(sockets: &[Udp]) -> io::Result<()> {
    let workers = u32::try_from(sockets.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut filter = program(workers);
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    match sockets.first() {
        // SAFETY: the option's value is a sock_fprog; the filter that it points to outlives the call.
        Some(first) => unsafe {
            first.set_option(libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF, &program)
        },
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

    use super::super::udp::Inbox;
    use super::*;

    const WORKERS: usize = 3;

    fn data(receiver: u32) -> Vec<u8> {
        let mut bytes = vec![0; 32];
        bytes[0] = 4;
        bytes[4..8].copy_from_slice(&receiver.to_le_bytes());
        bytes
    }

    /// Where a datagram arrives.
    fn arrives(sockets: &[Udp], inbox: &mut Inbox) -> usize {
        let mut fds: Vec<_> = sockets
            .iter()
            .map(|udp| rustix::event::PollFd::new(udp, rustix::event::PollFlags::IN))
            .collect();
        let limit = rustix::event::Timespec {
            tv_sec: 5,
            tv_nsec: 0,
        };
        rustix::event::poll(&mut fds, Some(&limit)).unwrap();
        let ready: Vec<usize> = (0..sockets.len())
            .filter(|&number| !fds[number].revents().is_empty())
            .collect();
        let [number] = ready[..] else {
            panic!("one datagram is at {ready:?}");
        };
        assert_eq!(sockets[number].receive(inbox).unwrap(), 1);
        number
    }

    #[test]
    fn a_session_is_its_workers_own_and_the_rest_goes_to_the_first() {
        for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let sockets = bind(Some(address), 0, 0, true, WORKERS).unwrap();
            assert_eq!(sockets.len(), WORKERS);
            let port = sockets[0].port().unwrap();
            let mut inbox = Inbox::new();
            // Several senders: without the program a hash of the addresses would choose.
            for number in 0..20u32 {
                let sender = UdpSocket::bind((address, 0)).unwrap();
                sender.connect(SocketAddr::new(address, port)).unwrap();
                for slot in [number as Slot, 255, 256, 257, 300, 65_535] {
                    let receiver = (number << 16 | u32::from(slot)) << 8 | 0x7f;
                    sender.send(&data(receiver)).unwrap();
                    assert_eq!(arrives(&sockets, &mut inbox), home(slot, WORKERS), "slot {slot}");
                }
                let mut initiation = data(0x0101_0101);
                initiation[0] = 1;
                for other in [
                    &initiation[..],
                    &[4, 0, 0, 0, 1],
                    &[4, 1, 0, 0, 1, 1, 1],
                    &[4],
                    &[],
                ] {
                    sender.send(other).unwrap();
                    assert_eq!(arrives(&sockets, &mut inbox), 0, "{other:?}");
                }
            }
        }
    }

    #[test]
    fn a_port_in_use_is_an_error_also_for_those_who_would_share() {
        let sockets = bind(None, 0, 0, true, WORKERS).unwrap();
        let port = sockets[0].port().unwrap();
        for workers in [1, WORKERS] {
            let error = bind(None, port, 0, true, workers).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{workers} workers");
        }
    }
}
