//! What an interface is configured to be, and what a request makes of it. Nothing here touches the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::uapi::{Change, PeerChange};
use crate::datapath::{PeerConfig, PresharedKey, PrivateKey, PublicKey};

/// The configuration of an interface.
#[derive(Clone, Debug, Default)]
pub(super) struct Interface {
    pub(super) private_key: Option<PrivateKey>,
    /// Its public key. No peer has it: one list of peers can be given to them all.
    own: Option<PublicKey>,
    pub(super) fwmark: u32,
    pub(super) peers: BTreeMap<PublicKey, Peer>,
    /// A prefix is one peer's only.
    owners: BTreeMap<IpNet, PublicKey>,
}

/// The configuration of a peer.
#[derive(Clone, Debug, Default)]
pub(super) struct Peer {
    pub(super) preshared: Option<PresharedKey>,
    pub(super) endpoint: Option<SocketAddr>,
    /// Seconds; 0 for none.
    pub(super) keepalive: u16,
    pub(super) allowed: BTreeSet<IpNet>,
}

/// What has to be done for a request, besides setting the peers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Effects {
    /// The port to listen on.
    pub(super) listen: Option<u16>,
    /// The mark has been set.
    pub(super) fwmark: bool,
    /// There is another private key.
    pub(super) key: bool,
    /// Peers whose endpoint was named.
    pub(super) endpoints: Vec<(PublicKey, SocketAddr)>,
}

impl Interface {
    /// Applies a request to the configuration.
    pub(super) fn apply(&mut self, changes: Vec<Change>) -> Effects {
        let mut effects = Effects::default();
        for change in changes {
            match change {
                Change::PrivateKey(key) => {
                    let public = |key: &Option<PrivateKey>| key.as_ref().map(PrivateKey::public);
                    effects.key |= public(&key) != public(&self.private_key);
                    self.own = public(&key);
                    self.private_key = key;
                    if let Some(own) = self.own {
                        self.remove(&own);
                    }
                }
                Change::ListenPort(port) => effects.listen = Some(port),
                Change::Fwmark(fwmark) => {
                    effects.fwmark |= fwmark != self.fwmark;
                    self.fwmark = fwmark;
                }
                Change::ReplacePeers => {
                    self.peers.clear();
                    self.owners.clear();
                }
                Change::Peer(change) => self.change_peer(change, &mut effects),
            }
        }
        effects
    }

    fn change_peer(&mut self, change: PeerChange, effects: &mut Effects) {
        let key = change.public_key;
        if change.remove {
            return self.remove(&key);
        }
        if self.own == Some(key) {
            return;
        }
        if change.update_only && !self.peers.contains_key(&key) {
            return;
        }
        let mut peer = self.peers.remove(&key).unwrap_or_default();
        if let Some(preshared) = change.preshared {
            peer.preshared = preshared;
        }
        if let Some(endpoint) = change.endpoint {
            peer.endpoint = Some(endpoint);
            effects.endpoints.push((key, endpoint));
        }
        if let Some(keepalive) = change.keepalive {
            peer.keepalive = keepalive;
        }
        if change.replace_allowed {
            for net in std::mem::take(&mut peer.allowed) {
                self.owners.remove(&net);
            }
        }
        for (net, comes) in change.allowed {
            if comes {
                peer.allowed.insert(net);
                if let Some(loser) = self
                    .owners
                    .insert(net, key)
                    .and_then(|owner| self.peers.get_mut(&owner))
                {
                    loser.allowed.remove(&net);
                }
            } else if peer.allowed.remove(&net) {
                self.owners.remove(&net);
            }
        }
        self.peers.insert(key, peer);
    }

    fn remove(&mut self, peer: &PublicKey) {
        for net in self.peers.remove(peer).unwrap_or_default().allowed {
            self.owners.remove(&net);
        }
    }

    /// What the engine is to be told. Without a private key nobody can be met.
    pub(super) fn engine_peers(&self) -> Vec<PeerConfig> {
        let peers = self.peers.iter().filter(|_| self.private_key.is_some());
        peers
            .map(|(key, peer)| PeerConfig {
                candidates: peer.endpoint.into_iter().collect(),
                allowed: peer.allowed.iter().copied().collect(),
                keepalive: (peer.keepalive > 0).then(|| Duration::from_secs(peer.keepalive.into())),
                preshared: peer.preshared.clone(),
                ..PeerConfig::new(key.to_string(), *key)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::uapi::{Request, parse};
    use super::*;

    fn set(interface: &mut Interface, lines: &str) -> Effects {
        let named = |name: char| {
            let digit = char::from_digit(u32::from(name) - u32::from('A') + 1, 16).unwrap();
            digit.to_string().repeat(64)
        };
        let text = ['A', 'B', 'C']
            .into_iter()
            .fold(format!("set=1\n{lines}\n"), |text, name| {
                text.replace(&format!("key={name}"), &format!("key={}", named(name)))
            });
        match parse(text.as_bytes(), &|_| None).unwrap() {
            Request::Set(changes) => interface.apply(changes),
            Request::Get => panic!("{lines}"),
        }
    }

    fn allowed(interface: &Interface) -> Vec<Vec<String>> {
        interface
            .peers
            .values()
            .map(|peer| peer.allowed.iter().map(IpNet::to_string).collect())
            .collect()
    }

    #[test]
    fn a_prefix_moves_to_who_named_it_last() {
        let mut interface = Interface::default();
        set(
            &mut interface,
            "public_key=A\nallowed_ip=10.0.0.0/8\nallowed_ip=::/0\npublic_key=B\nallowed_ip=10.0.0.0/8",
        );
        assert_eq!(allowed(&interface), [vec!["::/0"], vec!["10.0.0.0/8"]]);
        set(
            &mut interface,
            "public_key=A\nreplace_allowed_ips=true\nallowed_ip=10.0.0.0/8",
        );
        assert_eq!(allowed(&interface), [vec!["10.0.0.0/8"], vec![]]);
        set(
            &mut interface,
            "public_key=A\nallowed_ip=-10.0.0.0/8\npublic_key=B\nallowed_ip=-10.0.0.0/8",
        );
        assert_eq!(allowed(&interface), [Vec::<String>::new(), vec![]]);
        set(
            &mut interface,
            "public_key=A\nallowed_ip=10.0.0.0/8\npublic_key=A\nremove=true\npublic_key=B\nallowed_ip=10.0.0.0/8",
        );
        assert_eq!(allowed(&interface), [["10.0.0.0/8"]]);
    }

    #[test]
    fn update_only_makes_no_peer_and_replace_forgets_all() {
        let mut interface = Interface::default();
        set(
            &mut interface,
            "public_key=A\nupdate_only=true\nallowed_ip=10.0.0.0/8",
        );
        assert!(interface.peers.is_empty());
        set(
            &mut interface,
            "public_key=A\npersistent_keepalive_interval=5\npublic_key=B",
        );
        set(
            &mut interface,
            "public_key=A\nupdate_only=true\npersistent_keepalive_interval=7",
        );
        let seconds: Vec<u16> = interface.peers.values().map(|peer| peer.keepalive).collect();
        assert_eq!(seconds, [7, 0]);
        set(
            &mut interface,
            "replace_peers=true\npublic_key=C\nallowed_ip=10.0.0.0/8",
        );
        assert_eq!(allowed(&interface), [["10.0.0.0/8"]]);
    }

    #[test]
    fn its_own_key_is_no_peers() {
        let mut interface = Interface::default();
        let own = PrivateKey::from_bytes([0xaa; 32]);
        let public: String = own.public().0.iter().map(|byte| format!("{byte:02x}")).collect();
        let peer = format!("public_key={public}\nallowed_ip=10.0.0.0/8");
        set(&mut interface, &peer);
        assert_eq!(interface.peers.len(), 1);
        let key = format!("private_key={}", "aa".repeat(32));
        set(&mut interface, &key);
        assert!(interface.peers.is_empty() && interface.owners.is_empty());
        set(
            &mut interface,
            &format!("{peer}\npublic_key=B\nallowed_ip=10.0.0.0/8"),
        );
        assert_eq!(interface.peers.len(), 1);
        assert_eq!(allowed(&interface), [["10.0.0.0/8"]]);
    }

    #[test]
    fn effects_are_what_has_changed_and_peers_wait_for_a_key() {
        let mut interface = Interface::default();
        let effects = set(
            &mut interface,
            "listen_port=5\npublic_key=A\nendpoint=192.0.2.1:7",
        );
        assert_eq!(effects.listen, Some(5));
        assert_eq!(effects.endpoints.len(), 1);
        assert!(!effects.key && interface.engine_peers().is_empty());
        assert!(set(&mut interface, "private_key=B").key);
        assert!(
            !set(&mut interface, "private_key=B").key,
            "the same key changes nothing"
        );
        let peers = interface.engine_peers();
        assert_eq!(peers[0].candidates, ["192.0.2.1:7".parse().unwrap()]);
        assert_eq!((peers.len(), peers[0].keepalive), (1, None));
        assert!(set(&mut interface, &format!("private_key={}", "0".repeat(64))).key);
        assert!(interface.engine_peers().is_empty());
    }
}
