//! A worker's way in: UDP to TUN, in runs.
//!
//! It takes what is waiting with one system call, opens each run under its peer's lock, and writes to the
//! TUN when the lock is free again.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::io::Errno;
use strait_linux::tun::Tun;

use super::config::DropCause;
use super::engine::{Fault, Shared, Worker};
use super::join::{Allowed, Group, HEADERS_MAX, Join, MAX_JOINED};
use super::noise::{Kind, SCRATCH_LEN, kind};
use super::packet;
use super::peer::Peer;
use super::table::Table;
use super::udp::{Datagram, Inbox, Udp};
use super::vnet::VNET_HEADER_LEN;

/// A worker's way in.
pub(super) struct Inbound {
    inbox: Inbox,
    opened: Opened,
}

impl Inbound {
    pub(super) fn new() -> Self {
        Self {
            inbox: Inbox::new(),
            opened: Opened::new(),
        }
    }

    /// Takes what one system call receives, and writes it to the TUN device.
    pub(super) fn take(&mut self, shared: &Shared, worker: &Worker, udp: &Udp) -> Result<(), Fault> {
        let Self { inbox, opened } = self;
        match udp.receive(inbox) {
            Ok(_) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(Fault::new(format!("cannot receive from the UDP socket: {error}"))),
        }
        let mut datagrams = inbox.datagrams().peekable();
        while let Some(first) = datagrams.next() {
            let run = inbox.run(first.run);
            let dropped = |cause, count| shared.drops.add(cause, count);
            let from = match run.from {
                _ if run.truncated => {
                    dropped(DropCause::InTruncated, 1);
                    continue;
                }
                Some(from) => from,
                None => {
                    dropped(DropCause::InMalformed, 1);
                    continue;
                }
            };
            let receiver = match kind(first.bytes) {
                Some(Kind::Data(receiver)) => receiver,
                Some(Kind::Handshake) => {
                    if !shared.control.message(from, first.bytes) {
                        dropped(DropCause::InHandshakeQueueFull, 1);
                    }
                    continue;
                }
                None => {
                    dropped(DropCause::InMalformed, 1);
                    continue;
                }
            };
            let mut stretch = Stretch {
                receiver,
                run: first.run,
                bytes: run.len,
            };
            let rest = std::iter::from_fn(|| {
                let next = datagrams.next_if(|next| stretch.takes(inbox, next))?;
                Some(next.bytes)
            });
            let all = std::iter::once(first.bytes).chain(rest);
            let table = shared.table.load();
            match table.by_receiver(receiver) {
                Some(peer) => {
                    opened.open(shared, worker, peer, from, all);
                    opened.check(&table, peer, run.ecn);
                    opened.deliver(shared, worker, peer)?;
                }
                None => {
                    dropped(DropCause::InUnknownSession, all.count() as u64);
                    // A peer may not know that this side began anew; it would find out after 15 s of silence. Whoever
                    // forges this makes us send an initiation a second to a peer.
                    for lane in table.lanes_at(&from) {
                        if !lane.is_up() && lane.want() {
                            shared.control.initiate(lane);
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// The most bytes that are opened at once. A super packet of 64 KiB is a little more than one run when it is sealed, and
/// is to be written as one again.
const STRETCH: usize = 2 * SCRATCH_LEN;

/// Data of one session, one behind the other and with the same congestion outside, that is opened and written together:
/// where the kernel has joined no datagrams, it is here that their packets are.
struct Stretch {
    receiver: u32,
    /// The last run in it.
    run: usize,
    /// Bytes of all its runs.
    bytes: usize,
}

impl Stretch {
    /// Whether it goes on with a datagram; into another run only if that fits in whole.
    fn takes(&mut self, inbox: &Inbox, next: &Datagram<'_>) -> bool {
        if kind(next.bytes) != Some(Kind::Data(self.receiver)) {
            return false;
        }
        if next.run == self.run {
            return true;
        }
        let (last, run) = (inbox.run(self.run), inbox.run(next.run));
        let bytes = self.bytes + run.len;
        if run.truncated || run.from != last.from || run.ecn != last.ecn || bytes > STRETCH {
            return false;
        }
        (self.run, self.bytes) = (next.run, bytes);
        true
    }
}

/// Packets of one stretch, opened, one behind the other.
struct Opened {
    plain: Vec<u8>,
    scratch: Vec<u8>,
    /// Start and length of each packet.
    packets: Vec<(usize, usize)>,
    join: Join,
}

impl Opened {
    fn new() -> Self {
        Self {
            plain: vec![0; STRETCH],
            scratch: vec![0; SCRATCH_LEN],
            packets: Vec::with_capacity(2048),
            join: Join::new(),
        }
    }

    fn open<'a>(
        &mut self,
        shared: &Shared,
        worker: &Worker,
        peer: &Arc<Peer>,
        from: SocketAddr,
        datagrams: impl Iterator<Item = &'a [u8]>,
    ) {
        self.packets.clear();
        let (mut used, mut bytes) = (0, 0);
        let mut state = peer.lock();
        for datagram in datagrams {
            match state.tunnel.open(datagram, &mut self.plain[used..]) {
                Ok(len) => {
                    bytes += datagram.len() as u64;
                    if len > 0 {
                        self.packets.push((used, len));
                        used += len;
                    }
                }
                Err(cause) => {
                    peer.counters.drops.add(cause, 1);
                    if cause == DropCause::InInnerMalformed {
                        bytes += datagram.len() as u64;
                    }
                }
            }
        }
        if bytes > 0 {
            // Something was authentic, so this is where the peer is.
            peer.roam(&mut state, from);
            peer.counters.rx.add(bytes, 0);
            peer.lives();
            if used > 0 && peer.heard() {
                shared.control.rouse();
            }
            if !peer.is_up() {
                peer.revive(&mut state, &worker.udp.load(), &mut self.scratch);
            }
        }
    }

    /// Drops what the peer may not send.
    fn check(&mut self, table: &Table, peer: &Peer, ecn: u8) {
        let plain = &mut self.plain;
        self.packets.retain_mut(|(start, len)| {
            match judge(table, peer, &mut plain[*start..*start + *len], ecn) {
                Ok(whole) => {
                    *len = whole;
                    true
                }
                Err(cause) => {
                    peer.counters.drops.add(cause, 1);
                    if cause == DropCause::InSourceNotAllowed
                        && let Some(header) = packet::parse(&plain[*start..*start + *len])
                    {
                        // The control thread is awake, as data has come.
                        peer.notes.foreign_source.leave(|| header.source);
                    }
                    false
                }
            }
        });
    }

    /// Writes to the TUN device what is left.
    fn deliver(&mut self, shared: &Shared, worker: &Worker, peer: &Peer) -> Result<(), Fault> {
        let offload = worker.tun.offload();
        let joining = offload.tso && shared.joining.load(Ordering::Relaxed);
        let Self {
            plain, packets, join, ..
        } = self;
        join.group(
            plain,
            packets,
            Allowed {
                tcp: joining,
                udp: joining && offload.uso,
            },
        );
        let header = [0; VNET_HEADER_LEN];
        let header = &header[..offload.header_len()];
        let packet = |number: usize| {
            let (start, len) = packets[number];
            &plain[start..start + len]
        };
        let mut delivered = 0;
        for group in &join.groups {
            let mut refused = false;
            if group.count() > 1 {
                match write_joined(&worker.tun, group, join.members(group).map(packet))? {
                    Ok(()) => {
                        delivered += group.count() as u64;
                        continue;
                    }
                    Err(Errno::INVAL | Errno::IO | Errno::OPNOTSUPP) => refused = true,
                    Err(errno) => {
                        write_failed(peer, group.count() as u64, errno);
                        continue;
                    }
                }
            }
            let before = delivered;
            for bytes in join.members(group).map(packet) {
                match write(&worker.tun, &[IoSlice::new(header), IoSlice::new(bytes)])? {
                    Ok(()) => delivered += 1,
                    Err(errno) => write_failed(peer, 1, errno),
                }
            }
            // A device that is down refuses these, too.
            if refused && delivered > before && shared.joining.swap(false, Ordering::Relaxed) {
                tracing::warn!(
                    device = worker.tun.name(),
                    "the kernel refuses joined packets on the TUN device: writing one by one from now on"
                );
            }
        }
        peer.counters.rx.add(0, delivered);
        Ok(())
    }
}

/// The length of an inner packet that the peer may send, with the congestion that it met outside.
pub(super) fn judge(table: &Table, peer: &Peer, packet: &mut [u8], ecn: u8) -> Result<usize, DropCause> {
    match packet::parse(packet) {
        None => Err(DropCause::InInnerMalformed),
        Some(header) if !table.may_send(peer, header.source) => Err(DropCause::InSourceNotAllowed),
        Some(_) if !packet::apply_outer_ecn(packet, ecn) => Err(DropCause::InCongestion),
        Some(header) => Ok(header.len),
    }
}

/// Writes the packets of a group as one.
fn write_joined<'a>(
    tun: &Tun,
    group: &Group,
    mut packets: impl Iterator<Item = &'a [u8]>,
) -> Result<Result<(), Errno>, Fault> {
    let first = packets.next().unwrap_or_default();
    let mut headers = [0; HEADERS_MAX];
    let Some((vnet, len)) = group.headers(first, &mut headers) else {
        return Ok(Err(Errno::INVAL));
    };
    let own = [&vnet[..], &headers[..len], first.get(len..).unwrap_or_default()];
    let parts = own
        .into_iter()
        .chain(packets.map(|packet| packet.get(len..).unwrap_or_default()));
    let mut vector = [IoSlice::new(&[]); MAX_JOINED + 2];
    let mut used = 0;
    for (slot, part) in vector.iter_mut().zip(parts) {
        *slot = IoSlice::new(part);
        used += 1;
    }
    write(tun, &vector[..used])
}

/// One write; a fault only if the device is gone.
fn write(tun: &Tun, vector: &[IoSlice<'_>]) -> Result<Result<(), Errno>, Fault> {
    match rustix::io::writev(tun, vector) {
        Ok(_) => Ok(Ok(())),
        Err(Errno::BADFD) => Err(Fault::tun("write to", tun, Errno::BADFD)),
        Err(errno) => Ok(Err(errno)),
    }
}

fn write_failed(peer: &Peer, packets: u64, errno: Errno) {
    peer.counters.drops.add(DropCause::InWriteFailed, packets);
    tracing::debug!(peer = peer.id, error = %errno, "not written to the TUN device");
}
