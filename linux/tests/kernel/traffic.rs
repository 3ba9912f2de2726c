//! Each kind of rule and route, seen by the packets that it is for.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use strait_core::kernel::{
    Action, Address, AddressFamily, Chain, ChainKind, CtState, Element, FdbEntry, ForeignAccept, Hook,
    KernelState, Key, MAIN_TABLE, MacAddress, Match, Neighbour, NextHop, OVERLAY_DEVICE, OverlayLink,
    Protocol, ROUTE_METRIC, RejectWith, Route, RouteKind, SetKind, VipTarget,
};
use strait_linux::Kernel;
use strait_linux::conntrack::Conntrack;
use strait_linux::testing::{Firewall, as_root};

use crate::bed::{
    Bed, CLIENTS, FAMILIES, NODE_TO_SERVER, SERVERS, ask, ask_from, base, forwarding, guard, listen, rule,
    set,
};

const VIPS: [&str; 2] = ["10.99.0.1", "fd99::1"];

fn ips(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|t| t.parse().unwrap()).collect()
}

fn endpoints(family: AddressFamily) -> Vec<&'static str> {
    match family {
        AddressFamily::V4 => vec!["10.2.0.2", "10.2.0.3", "10.2.0.4"],
        AddressFamily::V6 => vec!["fd02::2", "fd02::3", "fd02::4"],
    }
}

fn targets(family: AddressFamily, port: u16) -> Vec<VipTarget> {
    endpoints(family)
        .iter()
        .map(|e| SocketAddr::new(e.parse().unwrap(), port))
        .collect()
}

/// A VIP of each family on TCP port 80, balanced by what `balance` says.
fn vips(balance: fn(Vec<VipTarget>) -> Action) -> KernelState {
    let mut state = forwarding([]);
    let table = state.nft.as_mut().unwrap();
    let mut lookups = Vec::new();
    for (family, vip) in FAMILIES.into_iter().zip(VIPS) {
        let (map, chain) = (format!("vips-{family}"), format!("service-{family}"));
        let element = Element::Vip(vip.parse().unwrap(), Protocol::Tcp, 80, chain.clone());
        table
            .sets
            .insert(map.clone(), set(SetKind::Vips(family), [element]));
        let balanced = rule(vec![], vec![Action::Counter, balance(targets(family, 8080))]);
        table.chains.insert(
            chain,
            Chain {
                base: None,
                rules: vec![balanced],
            },
        );
        lookups.push(rule(vec![], vec![Action::VipLookup(family, map)]));
    }
    table.chains.insert(
        "nat-prerouting".into(),
        base(ChainKind::Nat, Hook::Prerouting, -101, lookups),
    );
    state
}

/// The same out of one map for each family, as nodes have it.
fn numbered(mut state: KernelState, by_source: bool) -> KernelState {
    let table = state.nft.as_mut().unwrap();
    for (family, vip) in FAMILIES.into_iter().zip(VIPS) {
        let map = format!("endpoints-{family}");
        let balance = Action::Balance {
            map: map.clone(),
            family,
            count: u32::try_from(endpoints(family).len()).unwrap(),
            by_source,
        };
        let chain = table.chains.get_mut(&format!("service-{family}")).unwrap();
        chain.rules = vec![rule(vec![], vec![Action::Counter, balance])];
        let vip: IpAddr = vip.parse().unwrap();
        let elements: Vec<Element> = (0..)
            .zip(targets(family, 8080))
            .map(|(n, target)| Element::Endpoint(vip, Protocol::Tcp, 80, n, target))
            .collect();
        table.sets.insert(map, set(SetKind::Endpoints(family), elements));
    }
    state
}

fn serve(bed: &Bed, port: u16) {
    for endpoint in FAMILIES.into_iter().flat_map(endpoints) {
        listen(&bed.server, endpoint, port);
    }
}

#[test]
fn a_vip_reaches_all_its_endpoints() {
    as_root("traffic::a_vip_reaches_all_its_endpoints", || {
        let bed = Bed::new();
        serve(&bed, 8080);
        for state in [
            vips(Action::BalanceRandom),
            numbered(vips(Action::BalanceRandom), false),
        ] {
            bed.reconcile(&state);
            for (family, vip) in FAMILIES.into_iter().zip(VIPS) {
                let reached: BTreeSet<IpAddr> = (0..80)
                    .map(|_| ask(&bed.client, vip, 80).unwrap().endpoint)
                    .collect();
                assert_eq!(reached, ips(&endpoints(family)));
            }
        }
        let error = ask(&bed.client, VIPS[0], 81).unwrap_err();
        assert_ne!(
            error.kind(),
            ErrorKind::WouldBlock,
            "another port is not translated: {error}"
        );
    });
}

#[test]
fn affinity_keeps_a_client_at_its_endpoint() {
    as_root("traffic::affinity_keeps_a_client_at_its_endpoint", || {
        let bed = Bed::new();
        serve(&bed, 8080);
        bed.reconcile(&numbered(vips(Action::BalanceBySource), true));
        for (n, vip) in VIPS.iter().enumerate() {
            let mut used = BTreeSet::new();
            for client in 10..22 {
                let from = [format!("10.1.0.{client}/24"), format!("fd01::{client}/64")][n].clone();
                bed.client_links
                    .add_address("eth0", from.parse().unwrap())
                    .unwrap();
                let from = from.parse::<ipnet::IpNet>().unwrap().addr();
                let answers: Vec<_> = (0..6)
                    .map(|_| ask_from(&bed.client, Some(from), None, vip, 80).unwrap())
                    .collect();
                assert!(answers.iter().all(|a| a == &answers[0]), "{answers:?}");
                assert_eq!(answers[0].client, from);
                used.insert(answers[0].endpoint);
            }
            assert!(used.len() > 1, "clients are spread: {used:?}");
        }
    });
}

#[test]
fn one_endpoint_over_udp() {
    as_root("traffic::one_endpoint_over_udp", || {
        let bed = Bed::new();
        let mut state = forwarding([]);
        let table = state.nft.as_mut().unwrap();
        let to = SocketAddr::new(SERVERS[0].parse().unwrap(), 5353);
        let vip = Element::Vip(VIPS[0].parse().unwrap(), Protocol::Udp, 53, "service-dns".into());
        table
            .sets
            .insert("vips".into(), set(SetKind::Vips(AddressFamily::V4), [vip]));
        table.chains.insert(
            "service-dns".into(),
            Chain {
                base: None,
                rules: vec![rule(vec![], vec![Action::BalanceRandom(vec![to])])],
            },
        );
        let lookup = rule(vec![], vec![Action::VipLookup(AddressFamily::V4, "vips".into())]);
        table.chains.insert(
            "pre".into(),
            base(ChainKind::Nat, Hook::Prerouting, -101, vec![lookup]),
        );
        bed.reconcile(&state);
        let server = bed
            .server
            .run(|| UdpSocket::bind("0.0.0.0:5353"))
            .unwrap()
            .unwrap();
        let client = bed.client.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
        for socket in [&server, &client] {
            socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        }
        client.send_to(b"question", (VIPS[0], 53)).unwrap();
        let mut buffer = [0; 64];
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(
            (&buffer[..length], from.ip()),
            (&b"question"[..], CLIENTS[0].parse().unwrap())
        );
        server.send_to(b"answer", from).unwrap();
        let (_, from) = client.recv_from(&mut buffer).unwrap();
        assert_eq!(from.to_string(), "10.99.0.1:53");

        // Its endpoint goes away and another comes: the same client reaches it with its next packet.
        let conntrack = Conntrack::open_in(&bed.node).unwrap();
        let server_of = || {
            let flows = conntrack.flows().unwrap();
            flows
                .iter()
                .find(|f| f.to.to_string() == "10.99.0.1:53")
                .map(|f| f.server)
        };
        assert_eq!(server_of(), Some(to));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let forget = |state: &KernelState| {
            runtime
                .block_on(bed.kernel.forget_stale_flows(state.nft.as_ref().unwrap()))
                .unwrap()
        };
        assert_eq!(forget(&state), 0);
        let other = SocketAddr::new("10.2.0.3".parse().unwrap(), 5353);
        let chains = &mut state.nft.as_mut().unwrap().chains;
        chains.get_mut("service-dns").unwrap().rules[0].actions = vec![Action::BalanceRandom(vec![other])];
        bed.reconcile(&state);
        assert_eq!(forget(&state), 1);
        client.send_to(b"again", (VIPS[0], 53)).unwrap();
        server.recv_from(&mut buffer).unwrap();
        assert_eq!(server_of(), Some(other));
    });
}

#[test]
fn identity_snat_beats_a_foreign_masquerade() {
    as_root("traffic::identity_snat_beats_a_foreign_masquerade", || {
        let bed = Bed::new();
        let foreign = Firewall {
            namespace: &bed.node,
            table: "foreign",
        };
        foreign.masquerade().unwrap();
        bed.reconcile(&forwarding([]));
        for (n, server) in SERVERS.iter().enumerate() {
            listen(&bed.server, server, 80);
            let seen = ask(&bed.client, server, 80).unwrap().client;
            assert_eq!(
                seen,
                NODE_TO_SERVER[n].parse::<IpAddr>().unwrap(),
                "the masquerade works"
            );
        }
        let identity = FAMILIES.map(|f| {
            rule(
                vec![Match::OutputDevice("server0".into())],
                vec![Action::SnatIdentity(f)],
            )
        });
        bed.reconcile(&forwarding([(
            "nat-postrouting",
            base(ChainKind::Nat, Hook::Postrouting, 99, identity.to_vec()),
        )]));
        for (server, client) in SERVERS.iter().zip(CLIENTS) {
            let seen = ask(&bed.client, server, 80).unwrap().client;
            assert_eq!(seen, client.parse::<IpAddr>().unwrap());
        }
        foreign.remove().unwrap();
    });
}

#[test]
fn snat_and_masquerade() {
    as_root("traffic::snat_and_masquerade", || {
        let bed = Bed::new();
        bed.node_links
            .add_address("server0", "10.2.0.77/24".parse().unwrap())
            .unwrap();
        let rules = vec![
            rule(
                vec![Match::DestinationPort(80)],
                vec![Action::Snat("10.2.0.77".parse().unwrap())],
            ),
            rule(vec![Match::Family(AddressFamily::V6)], vec![Action::Masquerade]),
        ];
        bed.reconcile(&forwarding([(
            "post",
            base(ChainKind::Nat, Hook::Postrouting, 99, rules),
        )]));
        for (server, seen) in SERVERS.iter().zip(["10.2.0.77", NODE_TO_SERVER[1]]) {
            listen(&bed.server, server, 80);
            assert_eq!(
                ask(&bed.client, server, 80).unwrap().client,
                seen.parse::<IpAddr>().unwrap()
            );
        }
    });
}

#[test]
fn notrack_leaves_no_connection_behind() {
    as_root("traffic::notrack_leaves_no_connection_behind", || {
        let bed = Bed::new();
        for server in SERVERS {
            listen(&bed.server, server, 80);
            listen(&bed.server, server, 81);
        }
        let untracked = |key: fn(AddressFamily) -> Key, family, net: &str| {
            rule(
                vec![
                    Match::In(key(family), net.parse().unwrap()),
                    Match::Protocol(Protocol::Tcp),
                ],
                vec![Action::Counter, Action::Notrack],
            )
        };
        let mut rules = Vec::new();
        for (family, net) in [
            (AddressFamily::V4, "10.2.0.0/24"),
            (AddressFamily::V6, "fd02::/64"),
        ] {
            rules.push(untracked(Key::Destination, family, net));
            rules.push(untracked(Key::Source, family, net));
        }
        // Something that wants connection tracking, or the namespace has none at all.
        let established = rule(
            vec![Match::CtState(vec![CtState::Established])],
            vec![Action::Counter],
        );
        let forward = || base(ChainKind::Filter, Hook::Forward, -1, vec![established.clone()]);
        let conntrack = Conntrack::open_in(&bed.node).unwrap();
        let tracked = |port| {
            conntrack
                .flows()
                .unwrap()
                .iter()
                .filter(|f| f.to.port() == port)
                .count()
        };
        bed.reconcile(&forwarding([("forward", forward())]));
        SERVERS
            .iter()
            .for_each(|server| _ = ask(&bed.client, server, 81).unwrap());
        assert_eq!(tracked(81), 2, "connections are tracked without the rule");
        let raw = base(ChainKind::Filter, Hook::Prerouting, -300, rules);
        bed.reconcile(&forwarding([("raw-prerouting", raw), ("forward", forward())]));
        SERVERS
            .iter()
            .for_each(|server| _ = ask(&bed.client, server, 80).unwrap());
        assert_eq!(tracked(80), 0);
    });
}

#[test]
fn the_segment_size_is_lowered_and_never_raised() {
    as_root("traffic::the_segment_size_is_lowered_and_never_raised", || {
        const TIMESTAMPS: u32 = 12;
        let bed = Bed::new();
        let clamp = |family, size| {
            rule(
                vec![Match::Family(family), Match::TcpSyn],
                vec![Action::Counter, Action::ClampMss(size)],
            )
        };
        let rules = vec![clamp(AddressFamily::V4, 1200), clamp(AddressFamily::V6, 1180)];
        bed.reconcile(&forwarding([(
            "mangle",
            base(ChainKind::Filter, Hook::Forward, -150, rules),
        )]));
        for (server, size) in SERVERS.iter().zip([1200, 1180]) {
            listen(&bed.server, server, 80);
            let answer = ask(&bed.client, server, 80).unwrap();
            assert_eq!(answer.max_segment, size - TIMESTAMPS);
            let answer = ask_from(&bed.client, None, Some(900), server, 80).unwrap();
            assert_eq!(
                answer.max_segment,
                900 - TIMESTAMPS,
                "a smaller size is the sender's wish"
            );
        }
    });
}

#[test]
fn refusals_reach_the_client() {
    as_root("traffic::refusals_reach_the_client", || {
        let bed = Bed::new();
        let to = |port, action| {
            rule(
                vec![Match::Protocol(Protocol::Tcp), Match::DestinationPort(port)],
                vec![action],
            )
        };
        let rules = vec![
            to(80, Action::Reject(RejectWith::PortUnreachable)),
            to(81, Action::Reject(RejectWith::AdminProhibited)),
            rule(
                vec![Match::NotIn(
                    Key::Source(AddressFamily::V4),
                    "10.1.0.0/24".parse().unwrap(),
                )],
                vec![Action::Accept],
            ),
            to(82, Action::Drop),
        ];
        bed.reconcile(&forwarding([(
            "forward",
            base(ChainKind::Filter, Hook::Forward, 0, rules),
        )]));
        for server in SERVERS {
            listen(&bed.server, server, 83);
            assert_eq!(
                ask(&bed.client, server, 80).unwrap_err().kind(),
                ErrorKind::ConnectionRefused
            );
            ask(&bed.client, server, 83).unwrap();
        }
        let prohibited = ask(&bed.client, SERVERS[0], 81).unwrap_err();
        assert_eq!(prohibited.raw_os_error(), Some(libc::EHOSTUNREACH));
        let prohibited = ask(&bed.client, SERVERS[1], 81).unwrap_err();
        assert_eq!(prohibited.raw_os_error(), Some(libc::EACCES));
        assert_eq!(
            ask(&bed.client, SERVERS[0], 82).unwrap_err().kind(),
            ErrorKind::TimedOut
        );
    });
}

#[test]
fn our_accepts_open_a_closed_forward_chain_and_go_with_us() {
    as_root(
        "traffic::our_accepts_open_a_closed_forward_chain_and_go_with_us",
        || {
            let bed = Bed::new();
            let foreign = Firewall {
                namespace: &bed.node,
                table: "foreign",
            };
            foreign.drop_forwarded().unwrap();
            // The accepts are for our devices only: let the one to the server be called like one of ours.
            bed.node_links.set_down("server0").unwrap();
            bed.node_links.rename("server0", "strait-test").unwrap();
            bed.node_links.set_up("strait-test").unwrap();
            bed.node_links
                .add_address("strait-test", "fd02::1/64".parse().unwrap())
                .unwrap();
            let place = ForeignAccept {
                family: "inet".into(),
                table: "foreign".into(),
                chain: "forward".into(),
            };
            let drops = bed.kernel.read_now().unwrap().foreign_drops;
            assert_eq!(drops, BTreeSet::from([place.clone()]));

            bed.reconcile(&forwarding([]));
            for server in SERVERS {
                listen(&bed.server, server, 80);
                assert_eq!(
                    ask(&bed.client, server, 80).unwrap_err().kind(),
                    ErrorKind::TimedOut
                );
            }
            let mut state = forwarding([]);
            state.foreign_accepts.insert(place.clone());
            bed.reconcile(&state);
            for server in SERVERS {
                ask(&bed.client, server, 80).unwrap();
            }
            // What somebody else's rules refuse, network policies for one, we do not open.
            bed.kernel.uninstall_now().unwrap();
            foreign.refuse_port(81).unwrap();
            bed.reconcile(&state);
            for server in SERVERS {
                listen(&bed.server, server, 81);
                ask(&bed.client, server, 80).unwrap();
                let refused = ask(&bed.client, server, 81).unwrap_err();
                assert_eq!(refused.kind(), ErrorKind::TimedOut, "{server}");
            }
            // A rule for some packets is a policy; one for all, behind our accepts, is none that we meet.
            assert_eq!(bed.kernel.read_now().unwrap().foreign_refusals, BTreeSet::new());
            foreign.refuse_the_rest().unwrap();
            ask(&bed.client, SERVERS[0], 80).unwrap();
            assert_eq!(bed.kernel.read_now().unwrap().foreign_refusals, BTreeSet::new());
            // Before them it refuses everything, and is named.
            bed.kernel.uninstall_now().unwrap();
            bed.reconcile(&state);
            let refused = ask(&bed.client, SERVERS[0], 80).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::TimedOut);
            let refusals = bed.kernel.read_now().unwrap().foreign_refusals;
            let said: Vec<String> = refusals.iter().map(ToString::to_string).collect();
            assert_eq!(said.len(), 1, "{said:?}");
            for part in [
                "chain inet foreign rest",
                "(drop)",
                "from chain forward",
                "nft insert rule inet foreign forward",
            ] {
                assert!(said[0].contains(part), "{said:?} does not say {part:?}");
            }
            let report = bed.kernel.uninstall_now().unwrap();
            crate::bed::assert_done(&report);
            assert_eq!(bed.kernel.read_now().unwrap().foreign_accepts, BTreeSet::new());
            // Forwarding was switched off with the uninstall: on again, so that only the chain can refuse.
            bed.reconcile(&forwarding([]));
            for server in SERVERS {
                assert_eq!(
                    ask(&bed.client, server, 80).unwrap_err().kind(),
                    ErrorKind::TimedOut
                );
            }
        },
    );
}

#[test]
fn a_guard_answers_where_the_default_route_would_leak() {
    as_root(
        "traffic::a_guard_answers_where_the_default_route_would_leak",
        || {
            let bed = Bed::new();
            for server in SERVERS {
                listen(&bed.server, server, 80);
            }
            bed.reconcile(&forwarding([]));
            SERVERS
                .iter()
                .for_each(|server| _ = ask(&bed.client, server, 80).unwrap());
            let mut state = forwarding([]);
            state.routes.extend([guard("10.2.0.2/32"), guard("fd02::2/128")]);
            bed.reconcile(&state);
            for (server, errno) in SERVERS.iter().zip([libc::EHOSTUNREACH, libc::ENETUNREACH]) {
                let error = ask(&bed.client, server, 80).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(errno), "{error}");
            }
            bed.reconcile(&forwarding([]));
            SERVERS
                .iter()
                .for_each(|server| _ = ask(&bed.client, server, 80).unwrap());
        },
    );
}

/// Two nodes on one network, each with an overlay device towards the other.
fn overlay_between(outer: [&str; 2]) {
    let bed = Bed::new();
    let far_state = tempfile::tempdir().unwrap();
    let far = Kernel::open_in(&bed.server, far_state.path()).unwrap();
    let macs = [
        MacAddress([0x0a, 0x53, 10, 254, 1, 1]),
        MacAddress([0x0a, 0x53, 10, 254, 1, 2]),
    ];
    let inner = [["10.254.1.1", "fd53::1"], ["10.254.1.2", "fd53::2"]];
    let outer: [IpAddr; 2] = outer.map(|a| a.parse().unwrap());
    let device = OVERLAY_DEVICE.to_owned();
    let state = |own: usize| {
        let other = 1 - own;
        let mut state = KernelState {
            overlay: Some(OverlayLink {
                local: outer[own],
                mac: macs[own],
                mtu: if outer[own].is_ipv4() { 1450 } else { 1430 },
                ..crate::bed::overlay()
            }),
            fdb: BTreeSet::from([FdbEntry {
                device: device.clone(),
                mac: macs[other],
                node: outer[other],
            }]),
            ..KernelState::default()
        };
        for (own, other_address) in inner[own].iter().zip(inner[other]) {
            let own: IpAddr = own.parse().unwrap();
            let hop: IpAddr = other_address.parse().unwrap();
            state.addresses.insert(Address {
                device: device.clone(),
                address: own.into(),
            });
            state.neighbours.insert(Neighbour {
                device: device.clone(),
                address: hop,
                mac: macs[other],
            });
            state.routes.insert(Route {
                table: MAIN_TABLE,
                destination: hop.into(),
                metric: ROUTE_METRIC,
                kind: RouteKind::Unicast {
                    next_hops: vec![NextHop {
                        device: device.clone(),
                        via: Some(hop),
                    }],
                    source: Some(own),
                    mtu: None,
                },
            });
        }
        state
    };
    bed.reconcile(&state(0));
    crate::bed::reconcile(&far, &state(1));
    for (near_address, far_address) in inner[0].iter().zip(inner[1]) {
        listen(&bed.server, far_address, 80);
        let answer = ask(&bed.node, far_address, 80).unwrap();
        assert_eq!(answer.client, near_address.parse::<IpAddr>().unwrap());
    }
}

#[test]
fn the_overlay_carries_both_families_over_ipv4() {
    as_root("traffic::the_overlay_carries_both_families_over_ipv4", || {
        overlay_between([NODE_TO_SERVER[0], SERVERS[0]]);
    });
}

#[test]
fn the_overlay_carries_both_families_over_ipv6() {
    as_root("traffic::the_overlay_carries_both_families_over_ipv6", || {
        overlay_between([NODE_TO_SERVER[1], SERVERS[1]]);
    });
}
