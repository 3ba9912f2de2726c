//! A worker's way out: TUN to UDP, in runs.
//!
//! It reads packets until none is waiting, seals each straight into the place that it has in the outgoing
//! run, and sends the run with few system calls: datagrams of one size, for one peer.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use super::config::DropCause;
use super::engine::{Fault, Shared, Worker};
use super::noise::DATA_OVERHEAD;
use super::packet::{self, Header};
use super::peer::{Peer, State};
use super::split::{Prepared, Split, prepare};
use super::toobig::{self, Allowance, TooBig};
use super::udp::{MAX_SEGMENTS, MAX_SEND, Unsent};
use super::vnet::{VNET_HEADER_LEN, Vnet};

/// Packets are padded to a multiple of this, to hide their length a little, but not beyond the MTU.
const PADDING: usize = 16;
/// Room for the largest packet that the TUN hands over, its header and padding.
const READ_LEN: usize = VNET_HEADER_LEN + 65_536 + PADDING;
/// Bytes after which a run is sent without looking for more.
const RUN_LEN: usize = 48 << 10;
/// Packets read before the other way gets its turn, whatever becomes of them.
const READS: usize = MAX_SEGMENTS;
/// Room for a run, and for the largest super packet on top of it.
const STAGING_LEN: usize = RUN_LEN + 192 * 1024;

/// A worker's way out.
pub(super) struct Outbound {
    buffer: Vec<u8>,
    outgoing: Outgoing,
    /// Length of the header in front of each packet that is read.
    header_len: usize,
}

impl Outbound {
    pub(super) fn new(worker: &Worker) -> Self {
        Self {
            buffer: vec![0; READ_LEN],
            outgoing: Outgoing::new(),
            header_len: worker.tun.offload().header_len(),
        }
    }

    /// Takes packets from the TUN device and sends them: what is waiting, or a full run of it.
    pub(super) fn take(&mut self, shared: &Shared, worker: &Worker) -> Result<(), Fault> {
        let Self {
            buffer,
            outgoing,
            header_len,
        } = self;
        for _ in 0..READS {
            if outgoing.is_full() {
                break;
            }
            match rustix::io::read(&worker.tun, &mut buffer[..READ_LEN - PADDING]) {
                Ok(len) if len >= *header_len => {
                    let (header, packet) = buffer.split_at_mut(*header_len);
                    forward(shared, worker, outgoing, header, packet, len - *header_len);
                }
                Ok(_) => shared.drops.add(DropCause::OutMalformed, 1),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(errno) => return Err(Fault::tun("read from", &worker.tun, errno)),
            }
        }
        outgoing.flush(shared, worker);
        Ok(())
    }
}

/// Finds the packet's peer and seals it, or what it is cut into, into the run. `buffer` has room for padding
/// behind the packet.
fn forward(
    shared: &Shared,
    worker: &Worker,
    outgoing: &mut Outgoing,
    vnet: &[u8],
    buffer: &mut [u8],
    len: usize,
) {
    let dropped = |cause| shared.drops.add(cause, 1);
    let Some(header) = packet::parse(&buffer[..len]) else {
        return dropped(DropCause::OutMalformed);
    };
    let vnet = vnet.first_chunk().map_or(Some(Vnet::PLAIN), Vnet::parse);
    let prepared = vnet.and_then(|vnet| prepare(vnet, &mut buffer[..len], header));
    let mut packets = match prepared {
        Some(Prepared::Whole) => Packets::One(Some(header)),
        Some(Prepared::Split(split)) => Packets::Many(split),
        None => return dropped(DropCause::OutMalformed),
    };
    let mtu = shared.mtu_for(packets.longest());
    if packets.longest() > mtu {
        return forward_too_big(shared, worker, outgoing, packets, buffer, mtu);
    }
    let table = shared.table.load();
    let Some(peer) = table.route(header.destination, &buffer[..len], worker.number) else {
        return dropped(DropCause::OutNoRoute);
    };
    if let Some(mut state) = outgoing.admit(shared, worker, peer, packet::ecn(buffer), &packets, mtu) {
        while let Some(range) = packets.next(buffer) {
            padded(buffer, range, mtu, |packet| {
                if !outgoing.seal(&mut state, packet) {
                    peer.counters.drops.add(DropCause::OutTooBig, 1);
                }
            });
        }
        if peer.is_shared_with(worker.number) {
            outgoing.flush(shared, worker);
        }
    } else {
        let mut state = peer.lock();
        let mut wanted = false;
        while let Some(range) = packets.next(buffer) {
            padded(buffer, range, mtu, |packet| {
                wanted |= peer.enqueue(&mut state, packet)
            });
        }
        drop(state);
        if wanted {
            shared.control.initiate(peer);
        }
    }
}

/// Forwards what is larger than the tunnel carries in pieces, or tells its sender.
fn forward_too_big(
    shared: &Shared,
    worker: &Worker,
    outgoing: &mut Outgoing,
    mut packets: Packets,
    buffer: &mut [u8],
    mtu: usize,
) {
    let mut told = false;
    while let Some(range) = packets.next(buffer) {
        let packet = &buffer[range];
        let verdict = match packet::parse(packet) {
            Some(header) if packet.len() > mtu => toobig::judge(packet, header, mtu),
            // The last segment may fit.
            _ => TooBig::Fragments(vec![packet.to_vec()]),
        };
        if let TooBig::Fragments(pieces) = verdict {
            for mut piece in pieces {
                let len = piece.len();
                piece.resize(len + PADDING, 0);
                forward(shared, worker, outgoing, &[], &mut piece, len);
            }
            continue;
        }
        if let TooBig::Answer(answer) = verdict
            && !std::mem::replace(&mut told, true)
            && outgoing.answers.take(Instant::now())
        {
            let header = [0; VNET_HEADER_LEN];
            let header = &header[..worker.tun.offload().header_len()];
            if let Err(errno) =
                rustix::io::writev(&worker.tun, &[IoSlice::new(header), IoSlice::new(&answer)])
            {
                tracing::debug!(error = %errno, "the sender of a packet that is too large was not told");
            }
        }
        shared.drops.add(DropCause::OutTooBig, 1);
    }
}

/// The length of a packet with its padding.
fn padded_len(len: usize, mtu: usize) -> usize {
    len.next_multiple_of(PADDING).min(mtu.max(len))
}

/// Shows a packet with its padding, and puts back what lay in the padding's place.
fn padded(buffer: &mut [u8], range: Range<usize>, mtu: usize, show: impl FnOnce(&[u8])) {
    let padded = range.start + padded_len(range.len(), mtu);
    let mut kept = [0; PADDING];
    let kept = &mut kept[..padded - range.end];
    kept.copy_from_slice(&buffer[range.end..padded]);
    buffer[range.end..padded].fill(0);
    show(&buffer[range.start..padded]);
    buffer[range.end..padded].copy_from_slice(kept);
}

/// What one read from the TUN holds.
#[expect(clippy::large_enum_variant, reason = "one at a time, on the stack")]
enum Packets {
    One(Option<Header>),
    Many(Split),
}

impl Packets {
    fn longest(&self) -> usize {
        match self {
            Packets::One(header) => header.map_or(0, |header| header.len),
            Packets::Many(split) => split.longest(),
        }
    }

    fn count(&self) -> usize {
        match self {
            Packets::One(_) => 1,
            Packets::Many(split) => split.count(),
        }
    }

    fn next(&mut self, buffer: &mut [u8]) -> Option<Range<usize>> {
        match self {
            Packets::One(header) => header.take().map(|header| 0..header.len),
            Packets::Many(split) => split.next(buffer),
        }
    }
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
    answers: Allowance,
}

impl Outgoing {
    fn new() -> Self {
        Self {
            staging: vec![0; STAGING_LEN],
            used: 0,
            packets: 0,
            segment: 0,
            closed: false,
            ecn: 0,
            target: None,
            answers: Allowance::new(),
        }
    }

    fn is_full(&self) -> bool {
        self.used >= RUN_LEN || self.packets >= MAX_SEGMENTS
    }

    /// Makes the run one that takes these packets, and locks their peer; none if the peer has no session.
    fn admit<'a>(
        &mut self,
        shared: &Shared,
        worker: &Worker,
        peer: &'a Arc<Peer>,
        ecn: u8,
        packets: &Packets,
        mtu: usize,
    ) -> Option<MutexGuard<'a, State>> {
        let longest = padded_len(packets.longest(), mtu) + DATA_OVERHEAD;
        loop {
            let state = peer.lock();
            if !state.tunnel.established() {
                return None;
            }
            let endpoint = state.endpoint?;
            let fits = self.target.as_ref().is_none_or(|(current, to)| {
                Arc::ptr_eq(current, peer)
                    && *to == endpoint
                    && self.ecn == ecn
                    && !self.closed
                    && longest <= self.segment
                    && self.used + packets.count() * longest <= STAGING_LEN
            });
            if fits {
                if self.target.is_none() {
                    self.target = Some((Arc::clone(peer), endpoint));
                    self.segment = longest;
                    self.ecn = ecn;
                }
                return Some(state);
            }
            // Not under the lock: the other direction needs it.
            drop(state);
            self.flush(shared, worker);
        }
    }

    /// Seals a packet into the run that has admitted it; false if there is no room.
    fn seal(&mut self, state: &mut State, padded: &[u8]) -> bool {
        let sealed = state.tunnel.seal(padded, &mut self.staging[self.used..]);
        if let Some(len) = sealed {
            self.closed = len < self.segment;
            self.used += len;
            self.packets += 1;
        }
        sealed.is_some()
    }

    fn flush(&mut self, shared: &Shared, worker: &Worker) {
        let Some((peer, to)) = self.target.take() else {
            return;
        };
        let at_once = (MAX_SEND / self.segment).clamp(1, MAX_SEGMENTS);
        let udp = worker.udp.load();
        for part in self.staging[..self.used].chunks(at_once * self.segment) {
            let (mut bytes, mut packets) = (part.len(), part.len().div_ceil(self.segment) as u64);
            let result = udp.send_run(to, part, self.segment, self.ecn, &peer.batch);
            if let Err(Unsent { datagrams, error }) = result {
                if peer.send_failed(to, datagrams, &error) {
                    shared.control.rouse();
                }
                // Only a run's last datagram may be shorter.
                packets -= datagrams;
                bytes = packets as usize * self.segment;
            }
            if packets > 0 && peer.count_sent(bytes as u64, packets) {
                shared.control.rouse();
            }
        }
        (self.used, self.packets, self.closed) = (0, 0, false);
    }
}
