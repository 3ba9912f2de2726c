//! ICMP echo: round trips, and the hops of a path.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

/// Longest path that is looked at.
const MAX_HOPS: u16 = 12;
/// Echoes for each hop; the quickest counts.
const TRIES: u16 = 3;
/// Hops that a ping may take.
const DEFAULT_TTL: u32 = 64;
/// How long somebody waits for what has been announced.
const LOOK: Duration = Duration::from_millis(20);

/// Round trips.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Pinged {
    pub(crate) address: IpAddr,
    pub(crate) sent: u16,
    pub(crate) received: u16,
    /// Of those received.
    pub(crate) rtt_ms: Vec<f64>,
}

/// A hop on a path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Hop {
    /// From 1.
    pub(crate) hop: u16,
    /// Who said so; `None` where nobody did.
    pub(crate) address: Option<IpAddr>,
    pub(crate) rtt_ms: Option<f64>,
}

/// Round trips to a hop on a path, taken in turn with those to the others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Surveyed {
    /// Who said so; `None` where nobody did.
    pub(crate) address: Option<IpAddr>,
    pub(crate) sent: u16,
    /// Of those received.
    pub(crate) rtt_ms: Vec<f64>,
}

/// Sends echo requests: the next after the answer to the last, or at an interval, whether there are answers or not.
/// No answer at all is an error.
pub(super) fn ping(
    address: IpAddr,
    source: Option<IpAddr>,
    count: u16,
    interval: Duration,
    timeout: Duration,
) -> Result<Pinged> {
    let icmp = Icmp::open(address, source)?;
    let rtt_ms = if interval.is_zero() {
        let mut rtt_ms = Vec::new();
        for sequence in 1..=count {
            if let Some((Answer::Reply, _, rtt)) = icmp.ask(sequence, DEFAULT_TTL, timeout)? {
                rtt_ms.push(rtt);
            }
        }
        rtt_ms
    } else {
        let probes = vec![(DEFAULT_TTL, Answer::Reply); count.into()];
        let rtt_ms = icmp.at_interval(&probes, interval, timeout)?;
        rtt_ms.into_iter().flatten().collect()
    };
    if rtt_ms.is_empty() && count > 0 {
        bail!("{address} does not answer pings ({count} sent, {timeout:?} waited for each)");
    }
    let received = u16::try_from(rtt_ms.len()).unwrap_or(u16::MAX);
    Ok(Pinged {
        address,
        sent: count,
        received,
        rtt_ms,
    })
}

/// Finds the hops by growing time to live. A path that does not arrive is an error.
pub(super) fn trace(address: IpAddr, source: Option<IpAddr>, timeout: Duration) -> Result<Vec<Hop>> {
    let icmp = Icmp::open(address, source)?;
    let mut hops = Vec::new();
    for hop in 1..=MAX_HOPS {
        let mut found = Hop {
            hop,
            address: None,
            rtt_ms: None,
        };
        let mut arrived = false;
        for try_ in 0..TRIES {
            let Some((answer, from, rtt)) = icmp.ask(hop * TRIES + try_, u32::from(hop), timeout)? else {
                // One that is silent once is silent.
                break;
            };
            found.address = Some(from);
            found.rtt_ms = Some(found.rtt_ms.map_or(rtt, |best: f64| best.min(rtt)));
            arrived |= answer == Answer::Reply;
        }
        hops.push(found);
        if arrived {
            return Ok(hops);
        }
    }
    bail!(
        "no answer from {address} within {MAX_HOPS} hops: {}",
        serde_json::to_string(&hops)?
    )
}

/// Finds the hops, and sends so many echo requests at an interval: every other one to the address, those between to the
/// hops before it in turn, so that all meet the same moments. The last of the result is the address itself.
pub(super) fn survey(
    address: IpAddr,
    source: Option<IpAddr>,
    count: u16,
    interval: Duration,
    timeout: Duration,
) -> Result<Vec<Surveyed>> {
    let hops = trace(address, source, timeout)?;
    let icmp = Icmp::open(address, source)?;
    let (probed, probes): (Vec<usize>, Vec<(u32, Answer)>) = turns(hops.len())
        .take(count.into())
        .map(|at| match at + 1 == hops.len() {
            true => (at, (DEFAULT_TTL, Answer::Reply)),
            false => (at, (u32::from(hops[at].hop), Answer::TimeExceeded)),
        })
        .unzip();
    let rtt_ms = icmp.at_interval(&probes, interval, timeout)?;
    let mut surveyed: Vec<Surveyed> = hops
        .into_iter()
        .map(|hop| Surveyed {
            address: hop.address,
            sent: 0,
            rtt_ms: Vec::new(),
        })
        .collect();
    for (at, rtt_ms) in probed.into_iter().zip(rtt_ms) {
        surveyed[at].sent += 1;
        surveyed[at].rtt_ms.extend(rtt_ms);
    }
    Ok(surveyed)
}

/// Of so many hops, which is asked next.
fn turns(hops: usize) -> impl Iterator<Item = usize> {
    let before = hops.saturating_sub(1);
    (0..).map(move |turn: usize| match turn % 2 {
        1 if before > 0 => turn / 2 % before,
        _ => before,
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Reply,
    TimeExceeded,
    Unreachable,
}

struct Icmp {
    /// A raw socket; the standard library's type for datagrams serves for it.
    socket: UdpSocket,
    destination: IpAddr,
    identifier: u16,
}

impl Icmp {
    fn open(destination: IpAddr, source: Option<IpAddr>) -> Result<Self> {
        let (domain, protocol) = match destination {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol))
            .context("cannot open a raw socket (needs CAP_NET_RAW)")?;
        if let Some(source) = source {
            socket
                .bind(&SocketAddr::new(source, 0).into())
                .with_context(|| format!("cannot speak from {source}"))?;
        }
        let identifier = (std::process::id() & 0xffff) as u16;
        Ok(Self {
            socket: UdpSocket::from(std::os::fd::OwnedFd::from(socket)),
            destination,
            identifier,
        })
    }

    /// Sends one echo request and waits for what it causes.
    fn ask(&self, sequence: u16, ttl: u32, timeout: Duration) -> Result<Option<(Answer, IpAddr, f64)>> {
        self.reach(ttl)?;
        let started = Instant::now();
        self.send(sequence)
            .with_context(|| format!("cannot send to {}", self.destination))?;
        loop {
            let left = timeout.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Ok(None);
            }
            if let Some((answer, from, seen)) = self.receive(left)?
                && seen == sequence
            {
                return Ok(Some((answer, from, started.elapsed().as_secs_f64() * 1e3)));
            }
        }
    }

    /// Sends requests at an interval, each with its time to live, and takes the answers as they come; the round trips
    /// of those that had the answer that was looked for. One thread does both: an answer that is there at once is not
    /// to wait for another to wake.
    fn at_interval(
        &self,
        probes: &[(u32, Answer)],
        interval: Duration,
        timeout: Duration,
    ) -> Result<Vec<Option<f64>>> {
        let started = Instant::now();
        let mut sent: Vec<Option<Instant>> = Vec::new();
        let mut rtt_ms = vec![None; probes.len()];
        let mut missing = probes.len();
        let mut next = (0u16..).zip(probes);
        let mut ahead = next.next();
        let mut last = started;
        while missing > 0 {
            let now = Instant::now();
            let due = match ahead {
                Some((number, _)) => started + interval * u32::from(number),
                None if now >= last + timeout => break,
                None => last + timeout,
            };
            // What is there is read first, lest it wait where this thread is late.
            if !self.readable(due.saturating_duration_since(now))? {
                if let Some((number, (ttl, _))) = ahead.filter(|_| Instant::now() >= due) {
                    // One that cannot be sent is lost.
                    let ready = self.reach(*ttl).is_ok();
                    last = Instant::now();
                    sent.push(ready.then_some(last));
                    let _ = self.send(number);
                    ahead = next.next();
                }
                continue;
            }
            let Some((answer, _, number)) = self.receive(LOOK)? else {
                continue;
            };
            let number = usize::from(number);
            if let (Some(Some(at)), Some(rtt_ms), Some((_, expected))) =
                (sent.get(number), rtt_ms.get_mut(number), probes.get(number))
                && rtt_ms.is_none()
                && answer == *expected
            {
                *rtt_ms = Some(at.elapsed().as_secs_f64() * 1e3);
                missing -= 1;
            }
        }
        Ok(rtt_ms)
    }

    /// Whether something arrives within this time, which the socket's own patience is too coarse for.
    fn readable(&self, patience: Duration) -> Result<bool> {
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        let patience = Timespec {
            tv_sec: patience.as_secs().cast_signed(),
            tv_nsec: patience.subsec_nanos().into(),
        };
        match poll(&mut fds, Some(&patience)) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error).context("cannot wait for answers"),
        }
    }

    /// Gives what is sent from now on so many hops to live.
    fn reach(&self, ttl: u32) -> io::Result<()> {
        let raw = socket2::SockRef::from(&self.socket);
        match self.destination {
            IpAddr::V4(_) => raw.set_ttl_v4(ttl),
            IpAddr::V6(_) => raw.set_unicast_hops_v6(ttl),
        }
    }

    fn send(&self, sequence: u16) -> io::Result<usize> {
        let request = echo_request(self.destination.is_ipv4(), self.identifier, sequence);
        self.socket
            .send_to(&request, SocketAddr::new(self.destination, 0))
    }

    /// What a request of ours caused, who says so, and which request it was; `None` where there is nothing yet.
    fn receive(&self, patience: Duration) -> Result<Option<(Answer, IpAddr, u16)>> {
        let mut buffer = [0; 1500];
        self.socket.set_read_timeout(Some(patience))?;
        let (n, from) = match self.socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                return Ok(None);
            }
            Err(e) => return Err(e).context("cannot receive"),
        };
        let read = match self.destination {
            IpAddr::V4(to) => read_v4(&buffer[..n], to),
            IpAddr::V6(to) => read_v6(&buffer[..n], to),
        };
        Ok(read
            .filter(|(_, identifier, _)| *identifier == self.identifier)
            .map(|(answer, _, sequence)| (answer, from.ip(), sequence)))
    }
}

fn echo_request(v4: bool, identifier: u16, sequence: u16) -> Vec<u8> {
    let mut packet = vec![if v4 { 8 } else { 128 }, 0, 0, 0];
    packet.extend(identifier.to_be_bytes());
    packet.extend(sequence.to_be_bytes());
    packet.extend([0x5a; 48]);
    if v4 {
        // For IPv6 the kernel does it.
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

fn checksum(packet: &[u8]) -> u16 {
    let sum: u32 = packet
        .chunks(2)
        .map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0)))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

fn be16(packet: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?))
}

/// With the IP header, as raw IPv4 sockets give it.
fn read_v4(packet: &[u8], destination: Ipv4Addr) -> Option<(Answer, u16, u16)> {
    let header = |p: &[u8]| Some(usize::from(p.first()? & 0xf) * 4);
    let icmp = packet.get(header(packet)?..)?;
    let answer = match icmp.first()? {
        0 => return Some((Answer::Reply, be16(icmp, 4)?, be16(icmp, 6)?)),
        11 => Answer::TimeExceeded,
        3 => Answer::Unreachable,
        _ => return None,
    };
    let original = icmp.get(8..)?;
    if original.get(16..20)? != destination.octets() {
        return None;
    }
    let echo = original.get(header(original)?..)?;
    (*echo.first()? == 8).then_some(())?;
    Some((answer, be16(echo, 4)?, be16(echo, 6)?))
}

/// Without the IP header, as raw IPv6 sockets give it.
fn read_v6(icmp: &[u8], destination: Ipv6Addr) -> Option<(Answer, u16, u16)> {
    let answer = match icmp.first()? {
        129 => return Some((Answer::Reply, be16(icmp, 4)?, be16(icmp, 6)?)),
        3 => Answer::TimeExceeded,
        1 => Answer::Unreachable,
        _ => return None,
    };
    let original = icmp.get(8..)?;
    if original.get(24..40)? != destination.octets() {
        return None;
    }
    let echo = original.get(40..)?;
    (*echo.first()? == 128).then_some(())?;
    Some((answer, be16(echo, 4)?, be16(echo, 6)?))
}

/// What the packet would be read as, for the fuzzer; told is whether it speaks of a packet that it quotes.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn read_both(packet: &[u8], v4: Ipv4Addr, v6: Ipv6Addr, tell: impl Fn(bool)) {
    for (answer, _, _) in [read_v4(packet, v4), read_v6(packet, v6)].into_iter().flatten() {
        tell(!matches!(answer, Answer::Reply));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_a_right_checksum() {
        assert_eq!(checksum(&echo_request(true, 0x1234, 7)), 0);
    }

    #[test]
    fn every_other_turn_is_the_end_of_the_path() {
        let first: Vec<usize> = turns(4).take(8).collect();
        assert_eq!(first, [3, 0, 3, 1, 3, 2, 3, 0]);
        assert_eq!(turns(1).take(3).collect::<Vec<_>>(), [0, 0, 0]);
    }

    #[test]
    fn answers_are_read_and_those_to_others_are_not() {
        let to = Ipv4Addr::new(10, 2, 0, 1);
        let mut reply = vec![0x45; 20];
        reply.extend([0, 0, 0, 0, 0x12, 0x34, 0, 7]);
        assert_eq!(read_v4(&reply, to), Some((Answer::Reply, 0x1234, 7)));

        let mut exceeded = vec![0x45; 20];
        exceeded.extend([11, 0, 0, 0, 0, 0, 0, 0]);
        let mut original = vec![0x45; 16];
        original.extend(to.octets());
        exceeded.extend(&original);
        exceeded.extend(echo_request(true, 0x1234, 9));
        assert_eq!(read_v4(&exceeded, to), Some((Answer::TimeExceeded, 0x1234, 9)));
        assert_eq!(read_v4(&exceeded, Ipv4Addr::LOCALHOST), None);
        for end in 0..exceeded.len() {
            let _ = read_v4(&exceeded[..end], to);
        }
        assert_eq!(
            read_v6(&[129, 0, 0, 0, 0, 1, 0, 2], Ipv6Addr::LOCALHOST),
            Some((Answer::Reply, 1, 2))
        );
    }
}
