use proptest::prelude::*;
use strait_api::records::{ClusterSpec, GatewayAddresses, MemberState, TunnelKeys};

use super::*;
use crate::clusterset::OwnCluster;

fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|net| net.parse().unwrap()).collect()
}

fn own() -> OwnCluster {
    OwnCluster {
        cluster: ClusterSpec {
            cluster_id: "blue".parse().unwrap(),
            pod_cidrs: nets(&["10.1.0.0/16"]),
            service_cidrs: vec![],
            global_cidrs: vec![],
            vip_cidrs: vec![],
            location: None,
            version: String::new(),
            full_sync: None,
            removed_at: None,
        },
        member: None,
        gateways: BTreeMap::new(),
    }
}

fn gateway(cluster: &str, node: &str, private: &[&str], keys: &[u8]) -> GatewaySpec {
    GatewaySpec {
        cluster_id: cluster.parse().unwrap(),
        node: node.to_owned(),
        udp_port: 4510,
        addresses: GatewayAddresses {
            private: private.iter().map(|address| address.parse().unwrap()).collect(),
            ..Default::default()
        },
        keys: vec![TunnelKeys {
            slot: 0,
            public_keys: keys.iter().map(|key| PublicKey([*key; 32])).collect(),
        }],
        overlay_addresses: vec![],
        probe_targets: vec![],
        removed_at: None,
    }
}

fn remote(
    id: &str,
    pods: &[&str],
    block: &str,
    admitted_at: &str,
    gateways: Vec<GatewaySpec>,
) -> RemoteCluster {
    RemoteCluster {
        id: id.parse().unwrap(),
        pod_prefixes: nets(pods),
        node_blocks: nets(&[block]),
        export_namespaces: vec![],
        admitted_at: admitted_at.to_owned(),
        state: MemberState::Active,
        gateways: gateways
            .into_iter()
            .map(|gateway| (gateway.node.clone(), gateway))
            .collect(),
    }
}

fn set(remotes: Vec<RemoteCluster>) -> Clusterset {
    Clusterset {
        own: Some(own()),
        remotes: remotes
            .into_iter()
            .map(|remote| (remote.id.clone(), remote))
            .collect(),
        absent: vec![],
        refusals: vec![],
    }
}

fn green(gateways: Vec<GatewaySpec>) -> RemoteCluster {
    remote(
        "green",
        &["10.2.0.0/16", "fd02::/48"],
        "240.0.16.0/20",
        "2026-01-02T00:00:00Z",
        gateways,
    )
}

#[test]
fn a_remote_gateway_gets_a_tunnel_for_its_clusters_admitted_prefixes() {
    let result = tunnels(
        &set(vec![green(vec![gateway(
            "green",
            "gw",
            &["192.0.2.7", "2001:db8::7"],
            &[2],
        )])]),
        &ThisNode::default(),
    );
    assert_eq!(result.refusals, []);
    let [tunnel] = &result.wanted[..] else {
        panic!("{result:?}")
    };
    assert_eq!(tunnel.id(), "green/gw");
    assert_eq!(tunnel.public_keys, [PublicKey([2; 32])]);
    assert_eq!(
        tunnel.candidates,
        [
            "192.0.2.7:4510".parse().unwrap(),
            "[2001:db8::7]:4510".parse().unwrap()
        ]
    );
    let mut prefixes = nets(&["10.2.0.0/16", "fd02::/48", "240.0.16.0/20"]);
    prefixes.sort();
    assert_eq!(tunnel.prefixes, prefixes);
}

#[test]
fn without_an_own_cluster_there_is_no_tunnel() {
    let mut set = set(vec![green(vec![gateway("green", "gw", &["192.0.2.7"], &[2])])]);
    set.own = None;
    assert_eq!(tunnels(&set, &ThisNode::default()), Tunnels::default());
}

#[test]
fn several_keys_are_lanes_of_one_tunnel_and_several_slots_are_several_tunnels() {
    let mut many = gateway("green", "gw", &["192.0.2.7"], &[2, 3]);
    many.keys.push(TunnelKeys {
        slot: 1,
        public_keys: vec![PublicKey([4; 32])],
    });
    let result = tunnels(&set(vec![green(vec![many])]), &ThisNode::default());
    let found: Vec<_> = result
        .wanted
        .iter()
        .map(|tunnel| (tunnel.id(), tunnel.public_keys.as_slice()))
        .collect();
    let key = |number| PublicKey([number; 32]);
    assert_eq!(
        found,
        [
            ("green/gw".to_owned(), &[key(2), key(3)][..]),
            ("green/gw/1".to_owned(), &[key(4)][..]),
        ]
    );
}

#[test]
fn a_tunnel_has_the_lanes_before_the_first_key_that_is_not_its_own() {
    let red = remote(
        "red",
        &["10.3.0.0/16"],
        "240.0.32.0/20",
        "2026-01-03T00:00:00Z",
        vec![gateway("red", "gw", &["192.0.2.9"], &[6, 3, 7])],
    );
    let two_lanes = green(vec![gateway("green", "gw", &["192.0.2.7"], &[2, 3])]);
    let node = ThisNode {
        own_keys: [PublicKey([8; 32]), PublicKey([9; 32])].into(),
        ..ThisNode::default()
    };
    let lanes = |result: &Tunnels| -> Vec<(String, usize)> {
        let count = |tunnel: &Tunnel| (tunnel.id(), tunnel.public_keys.len());
        result.wanted.iter().map(count).collect()
    };
    let result = tunnels(&set(vec![two_lanes, red]), &node);
    assert_eq!(
        lanes(&result),
        [("green/gw".to_owned(), 2), ("red/gw".to_owned(), 1)]
    );
    let [refusal] = &result.refusals[..] else {
        panic!("{:?}", result.refusals);
    };
    assert_eq!((refusal.reason.as_str(), refusal.whole), ("KeyTaken", false));
    assert!(
        refusal.message.contains("gateway gw of cluster red")
            && refusal.message.contains("lanes from the 2. on"),
        "{}",
        refusal.message
    );
    // This gateway's own key, of whatever lane; and the same key twice.
    for keys in [[4, 9], [4, 4]] {
        let result = tunnels(
            &set(vec![green(vec![gateway("green", "gw", &["192.0.2.7"], &keys)])]),
            &node,
        );
        assert_eq!(lanes(&result), [("green/gw".to_owned(), 1)]);
        assert_eq!(result.refusals[0].reason, "KeyTaken");
    }
    let nine: Vec<u8> = (10..19).collect();
    let result = tunnels(
        &set(vec![green(vec![gateway("green", "gw", &["192.0.2.7"], &nine)])]),
        &node,
    );
    assert_eq!(lanes(&result), []);
    assert!(
        result.refusals[0].message.contains("9 tunnel keys in one slot"),
        "{:?}",
        result.refusals
    );
}

#[test]
fn addresses_that_cannot_work_are_not_tried() {
    let bad = [
        "0.0.0.0",
        "127.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "169.254.0.1",
        "::",
        "::1",
        "ff02::1",
        "fe80::1",
        // Inside the tunnels.
        "10.2.3.4",
        "240.0.16.9",
        "fd02::9",
        // Our own pods.
        "10.1.2.3",
        // A mapped form of a loopback address.
        "::ffff:127.0.0.1",
    ];
    let node = ThisNode {
        own_endpoints: ["192.0.2.1:4510".parse().unwrap()].into(),
        ..ThisNode::default()
    };
    let all: Vec<&str> = bad
        .iter()
        .copied()
        .chain(["192.0.2.1", "192.0.2.7", "192.0.2.7"])
        .collect();
    let result = tunnels(&set(vec![green(vec![gateway("green", "gw", &all, &[2])])]), &node);
    assert_eq!(result.wanted[0].candidates, ["192.0.2.7:4510".parse().unwrap()]);

    let result = tunnels(&set(vec![green(vec![gateway("green", "gw", &bad, &[2])])]), &node);
    assert_eq!(result.wanted[0].candidates, [], "the peer may still come to us");
    assert_eq!(result.refusals[0].reason, "NoAddress");
    assert_eq!(result.refusals[0].name, "green.gw");
}

#[test]
fn a_stolen_key_gets_no_tunnel_and_its_owner_keeps_his() {
    let thief = remote(
        "aaa",
        &["10.3.0.0/16"],
        "240.0.32.0/20",
        "2026-01-03T00:00:00Z",
        vec![gateway("aaa", "gw", &["192.0.2.66"], &[2])],
    );
    let result = tunnels(
        &set(vec![
            green(vec![gateway("green", "gw", &["192.0.2.7"], &[2])]),
            thief,
        ]),
        &ThisNode::default(),
    );
    let ids: Vec<_> = result.wanted.iter().map(Tunnel::id).collect();
    assert_eq!(ids, ["green/gw"]);
    assert_eq!(
        (
            result.refusals[0].reason.as_str(),
            result.refusals[0].name.as_str()
        ),
        ("KeyTaken", "aaa.gw")
    );

    let node = ThisNode {
        own_keys: [PublicKey([2; 32])].into(),
        ..ThisNode::default()
    };
    let result = tunnels(
        &set(vec![green(vec![gateway("green", "gw", &["192.0.2.7"], &[2])])]),
        &node,
    );
    assert_eq!(result.wanted, []);
    assert!(
        result.refusals[0].message.contains("this gateway"),
        "{:?}",
        result.refusals
    );
}

#[test]
fn a_record_with_a_thousand_addresses_is_cut() {
    let mut flood = gateway("green", "gw", &[], &[2]);
    flood.addresses.learned = (0..1000u32)
        .map(|i| SocketAddr::from((std::net::Ipv4Addr::from(0x0a63_0000 + i), 9)))
        .collect();
    let result = tunnels(&set(vec![green(vec![flood])]), &ThisNode::default());
    assert_eq!(result.wanted[0].candidates.len(), MAX_CANDIDATES);
}

#[test]
fn a_cluster_that_makes_keys_up_gets_no_tunnel_for_each() {
    let key = |n: u16| PublicKey([&n.to_be_bytes()[..], &[7; 30]].concat().try_into().unwrap());
    let mut flood = gateway("green", "made-up", &["192.0.2.8"], &[]);
    flood.keys = (0..250u16)
        .map(|slot| TunnelKeys {
            slot: slot as u8,
            public_keys: (0..MAX_LANES as u16).map(|lane| key(slot * 8 + lane)).collect(),
        })
        .collect();
    let sound = gateway("green", "gw", &["192.0.2.7"], &[2]);
    let other = remote(
        "red",
        &["10.3.0.0/16"],
        "240.0.32.0/20",
        "2026-01-03T00:00:00Z",
        vec![gateway("red", "gw", &["192.0.2.9"], &[3])],
    );
    let result = tunnels(&set(vec![green(vec![flood, sound]), other]), &ThisNode::default());
    let ids: Vec<_> = result.wanted.iter().map(Tunnel::id).collect();
    assert_eq!(ids, ["green/gw", "red/gw"]);
    assert_eq!(
        (
            result.refusals[0].reason.as_str(),
            result.refusals[0].name.as_str()
        ),
        ("TooManyKeys", "green.made-up")
    );
}

fn any_gateway(cluster: &'static str) -> impl Strategy<Value = GatewaySpec> {
    let address = prop_oneof![
        any::<u32>().prop_map(|a| IpAddr::V4(a.into())),
        any::<u128>().prop_map(|a| IpAddr::V6(a.into()))
    ];
    let addresses = proptest::collection::vec(address.clone(), 0..4);
    let learned = proptest::collection::vec((address, any::<u16>()).prop_map(SocketAddr::from), 0..20);
    let keys = proptest::collection::vec((0u8..3, proptest::collection::vec(0u8..6, 0..3)), 0..3);
    (0u8..3, addresses.clone(), addresses, learned, keys, any::<u16>()).prop_map(
        move |(node, private, public, learned, keys, udp_port)| GatewaySpec {
            addresses: GatewayAddresses {
                private,
                public,
                learned,
            },
            udp_port,
            keys: keys
                .into_iter()
                .map(|(slot, keys)| TunnelKeys {
                    slot,
                    public_keys: keys.into_iter().map(|key| PublicKey([key; 32])).collect(),
                })
                .collect(),
            ..gateway(cluster, &format!("gw-{node}"), &[], &[])
        },
    )
}

proptest! {
    #[test]
    fn whatever_the_records_say(
        greens in proptest::collection::vec(any_gateway("green"), 0..4),
        reds in proptest::collection::vec(any_gateway("red"), 0..4),
    ) {
        let set = set(vec![
            green(greens),
            remote("red", &["10.3.0.0/16"], "240.0.32.0/20", "2026-01-01T00:00:00Z", reds),
        ]);
        let node = ThisNode { own_keys: [PublicKey([0; 32])].into(), ..ThisNode::default() };
        let result = tunnels(&set, &node);
        let mut ids = BTreeSet::new();
        let mut keys = node.own_keys.clone();
        for tunnel in &result.wanted {
            prop_assert!(ids.insert(tunnel.id()), "{} stands twice", tunnel.id());
            prop_assert!((1..=MAX_LANES).contains(&tunnel.public_keys.len()));
            for key in &tunnel.public_keys {
                prop_assert!(keys.insert(*key), "a key stands twice");
            }
            prop_assert!(tunnel.candidates.len() <= MAX_CANDIDATES);
            let admitted: BTreeSet<IpNet> = set.remotes[&tunnel.cluster].prefixes().collect();
            prop_assert_eq!(&tunnel.prefixes.iter().copied().collect::<BTreeSet<_>>(), &admitted);
            for candidate in &tunnel.candidates {
                prop_assert!(candidate.port() != 0);
                prop_assert!(!result.wanted.iter().any(|t| t.prefixes.iter().any(|p| p.contains(&candidate.ip()))));
            }
        }
        prop_assert_eq!(tunnels(&set, &node), result, "the same again");
    }
}
