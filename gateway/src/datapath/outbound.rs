//! The `out` thread: TUN to UDP, in runs.
//!
//! It reads packets until none is waiting, seals each straight into the place that it has in the outgoing
//! run, and sends the run with one system call: datagrams of one size, for one peer.

use std::net::SocketAddr;
use std::sync::Arc;

use super::config::DropCause;
use super::engine::{Fault, Shared, wait_readable};
use super::noise::DATA_OVERHEAD;
use super::packet;
use super::peer::Peer;
use super::udp::{MAX_SEGMENTS, MAX_SEND};

/// Packets are padded to a multiple of this, to hide their length a little, but not beyond the MTU.
const PADDING: usize = 16;
/// Room for the largest packet that the TUN hands over, and its padding.
const READ_LEN: usize = 65_536 + PADDING;

/// Runs until the engine stops or the TUN is gone.
pub(super) fn run(shared: &Shared) -> Result<(), Fault> {
    let mut buffer = vec![0; READ_LEN];
    let mut outgoing = Outgoing::new();
    while !shared.stopping() {
        match rustix::io::read(&shared.tun, &mut buffer[..READ_LEN - PADDING]) {
            Ok(len) => forward(shared, &mut outgoing, &mut buffer, len),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                outgoing.flush(shared);
                wait_readable(&shared.tun, &shared.wake)?;
            }
            Err(errno) => return Err(Fault::tun("read from", &shared.tun, errno)),
        }
    }
    Ok(())
}

/// Finds the packet's peer and seals it into the run. `buffer` has room for padding behind the packet.
fn forward(shared: &Shared, outgoing: &mut Outgoing, buffer: &mut [u8], len: usize) {
    let Some(header) = packet::parse(&buffer[..len]) else {
        shared.drops.add(DropCause::OutMalformed, 1);
        return;
    };
    if header.len > shared.mtu {
        shared.drops.add(DropCause::OutTooBig, 1);
        return;
    }
    let table = shared.table.load();
    let Some(peer) = table.route(header.destination, &buffer[..len]) else {
        shared.drops.add(DropCause::OutNoRoute, 1);
        return;
    };
    let padded = header
        .len
        .next_multiple_of(PADDING)
        .min(shared.mtu.max(header.len));
    buffer[header.len..padded].fill(0);
    outgoing.add(shared, peer, &buffer[..padded]);
}

/// The run under construction.
struct Outgoing {
    staging: Vec<u8>,
    used: usize,
    packets: usize,
    /// Length of each datagram but the last.
    segment: usize,
    /// Whether the last datagram was shorter, so that no other may follow.
    closed: bool,
    ecn: u8,
    target: Option<(Arc<Peer>, SocketAddr)>,
}

impl Outgoing {
    fn new() -> Self {
        Self {
            // A datagram is sealed before it is known to fit.
            staging: vec![0; 2 * (MAX_SEND + DATA_OVERHEAD)],
            used: 0,
            packets: 0,
            segment: 0,
            closed: false,
            ecn: 0,
            target: None,
        }
    }

    fn add(&mut self, shared: &Shared, peer: &Arc<Peer>, padded: &[u8]) {
        let ecn = packet::ecn(padded);
        let len = padded.len() + DATA_OVERHEAD;
        let fits = self.target.as_ref().is_none_or(|(current, _)| {
            Arc::ptr_eq(current, peer)
                && self.ecn == ecn
                && !self.closed
                && len <= self.segment
                && self.packets < MAX_SEGMENTS
                && self.used + len <= MAX_SEND
        });
        if !fits {
            self.flush(shared);
        }
        let mut state = peer.lock();
        let sealed = match state.endpoint {
            Some(endpoint) => state
                .tunnel
                .seal(padded, &mut self.staging[self.used..])
                .map(|len| (endpoint, len)),
            None => None,
        };
        let Some((endpoint, len)) = sealed else {
            let wanted = peer.enqueue(&mut state, padded);
            drop(state);
            if wanted {
                shared.control.initiate(peer);
            }
            return;
        };
        drop(state);
        match &self.target {
            Some((_, to)) if *to != endpoint => {
                // The peer moved within the run: what was sealed for the old address goes there.
                let start = self.used;
                self.flush(shared);
                self.staging.copy_within(start..start + len, 0);
            }
            _ => {}
        }
        if self.target.is_none() {
            self.target = Some((Arc::clone(peer), endpoint));
            self.segment = len;
            self.ecn = ecn;
        }
        self.closed = len < self.segment;
        self.used += len;
        self.packets += 1;
    }

    fn flush(&mut self, shared: &Shared) {
        let Some((peer, to)) = self.target.take() else {
            return;
        };
        match shared.udp.send_run(
            to,
            &self.staging[..self.used],
            self.segment,
            self.ecn,
            &peer.batch,
        ) {
            Ok(()) => peer.count_sent(self.used as u64, self.packets as u64),
            Err(error) => {
                peer.drops.add(DropCause::OutSendFailed, self.packets as u64);
                tracing::debug!(peer = peer.id, %to, %error, "run not sent");
            }
        }
        (self.used, self.packets, self.closed) = (0, 0, false);
    }
}
