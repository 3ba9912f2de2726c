//! Account of leaked packets: those for a pod range that reached the router in clear text.
//!
//! The router sends them into a namespace where nothing else happens; here they are read and counted.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use socket2::{Domain, Protocol, Socket, Type};
use strait_linux::netns::Netns;

/// All Ethernet protocols.
const ETH_P_ALL: u16 = 3;
/// At most so many pairs of addresses are told apart.
const MAX_PAIRS: usize = 100;

/// Counts by source and destination.
#[derive(Debug, Clone, Default)]
pub(crate) struct Leaks(Arc<Mutex<BTreeMap<(IpAddr, IpAddr), u64>>>);

impl Leaks {
    /// Starts counting in the sink's namespace.
    pub(crate) fn watch(sink: &Netns, ranges: Vec<IpNet>, routers: Vec<IpAddr>) -> Result<Self> {
        let socket = sink.run(|| {
            let protocol = Protocol::from(i32::from(ETH_P_ALL.to_be()));
            Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))
        })?;
        let socket = socket.context("cannot open a packet socket to watch for leaks")?;
        let leaks = Self::default();
        let account = leaks.clone();
        std::thread::Builder::new()
            .name("leaks".to_owned())
            .spawn(move || account.count(socket, &ranges, &routers))
            .context("cannot start the thread that watches for leaks")?;
        Ok(leaks)
    }

    fn count(&self, socket: Socket, ranges: &[IpNet], routers: &[IpAddr]) {
        use std::io::Read as _;
        let mut socket = socket;
        let mut packet = [0; 64];
        loop {
            match socket.read(&mut packet) {
                Ok(n) => self.add(&packet[..n], ranges, routers),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => {
                    tracing::warn!("leaks are no longer counted: {e}");
                    return;
                }
            }
        }
    }

    fn add(&self, packet: &[u8], ranges: &[IpNet], routers: &[IpAddr]) {
        let Some((source, destination)) = leaked(packet, ranges, routers) else {
            return;
        };
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() < MAX_PAIRS || counts.contains_key(&(source, destination)) {
            *counts.entry((source, destination)).or_default() += 1;
        }
    }

    /// Packets by source and destination.
    pub(crate) fn counts(&self) -> Vec<(IpAddr, IpAddr, u64)> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|((s, d), n)| (*s, *d, *n)).collect()
    }
}

/// Where a packet comes from and goes to, if it has no business at the router.
pub(crate) fn leaked(packet: &[u8], ranges: &[IpNet], routers: &[IpAddr]) -> Option<(IpAddr, IpAddr)> {
    let (source, destination) = addresses(packet)?;
    // What the router itself says to a pod (an ICMP error, say) has come from nowhere else.
    let leaked = ranges.iter().any(|r| r.contains(&destination)) && !routers.contains(&source);
    leaked.then_some((source, destination))
}

fn addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match packet.first()? >> 4 {
        4 => {
            let at = |i: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(i..i + 4)?).ok()?));
            Some((at(12)?.into(), at(16)?.into()))
        }
        6 => {
            let at = |i: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(i..i + 16)?).ok()?));
            Some((at(8)?.into(), at(24)?.into()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packets_for_pod_ranges_count() {
        let ranges = ["10.2.0.0/16".parse().unwrap()];
        let routers = ["172.31.0.1".parse().unwrap()];
        let leaks = Leaks::default();
        let mut packet = [0u8; 20];
        packet[0] = 0x45;
        packet[12..16].copy_from_slice(&[10, 1, 0, 1]);
        packet[16..20].copy_from_slice(&[10, 2, 0, 1]);
        leaks.add(&packet, &ranges, &routers);
        leaks.add(&packet, &ranges, &routers);
        packet[17] = 3;
        leaks.add(&packet, &ranges, &routers);
        leaks.add(&packet[..10], &ranges, &routers);
        leaks.add(&[], &ranges, &routers);
        packet[12..16].copy_from_slice(&[172, 31, 0, 1]);
        packet[17] = 2;
        leaks.add(&packet, &ranges, &routers);
        assert_eq!(
            leaks.counts(),
            [("10.1.0.1".parse().unwrap(), "10.2.0.1".parse().unwrap(), 2)]
        );
    }
}
