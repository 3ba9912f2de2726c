//! What may come at the configuration socket. For the fuzzer, and for the replay of what it found.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use super::interface::Interface;
use super::uapi::{PeerReport, Report, Request, parse, report};

/// A request in any bytes: refused whole, or applied so that each prefix has one owner, and what is then
/// reported reads as the same configuration again.
pub fn uapi(data: &[u8]) {
    let scope = |name: &str| (name == "eth0").then_some(7);
    let Ok(Request::Set(changes)) = parse(data, &scope) else {
        return;
    };
    let mut interface = Interface::default();
    interface.apply(changes);
    let mut seen = BTreeSet::new();
    for peer in interface.peers.values() {
        for net in &peer.allowed {
            assert!(seen.insert(*net), "{net} has two owners");
        }
    }
    assert_eq!(
        interface.engine_peers().len(),
        if interface.private_key.is_some() {
            interface.peers.len()
        } else {
            0
        }
    );
    let told = |interface: &Interface| {
        let peers = interface.peers.iter().map(|(key, peer)| PeerReport {
            public_key: *key,
            preshared: peer.preshared.as_ref(),
            endpoint: peer.endpoint,
            last_handshake: None,
            tx_bytes: 0,
            rx_bytes: 0,
            keepalive: peer.keepalive,
            allowed: peer.allowed.iter().copied().collect(),
        });
        report(&Report {
            private_key: interface.private_key.as_ref(),
            listen_port: 1,
            fwmark: interface.fwmark,
            peers: peers.collect(),
        })
    };
    let first = told(&interface);
    let settings = first
        .lines()
        .filter(|line| {
            !["last_", "tx_", "rx_", "errno"]
                .iter()
                .any(|key| line.starts_with(key))
        })
        .fold("set=1\n".to_owned(), |all, line| all + line + "\n");
    let Ok(Request::Set(changes)) = parse(settings.as_bytes(), &scope) else {
        panic!("what was reported is refused: {settings}");
    };
    let mut again = Interface::default();
    again.apply(changes);
    assert_eq!(*told(&again), *first);
}

#[cfg(test)]
mod tests {
    use crate::datapath::fuzz::input::replay;

    #[test]
    fn requests_that_were_found_hold() {
        replay("uapi", super::uapi);
    }
}
