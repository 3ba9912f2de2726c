//! Every word of the language is accepted by the kernel and recognised when it is read back.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use strait_core::kernel::{
    Action, AddressFamily, Chain, ChainKind, Concat, CtState, Element, Hook, KernelState, Key, Match,
    NftTable, Protocol, RejectWith, Rule, SetKind, plan,
};
use strait_linux::testing::{Firewall, as_root, in_user_namespace};

use crate::bed::{Bed, FAMILIES, base, rule, set};

fn every_match() -> Vec<Rule> {
    let mut matches = vec![
        Match::InputDevice("strait-*".into()),
        Match::InputDevice("eth0".into()),
        Match::NotInputDevice("strait-tun".into()),
        Match::NotInputDevice("lo*".into()),
        Match::OutputDevice("strait-overlay".into()),
        Match::NotOutputDevice("strait-*".into()),
        Match::DestinationIsLocal,
        Match::DestinationIsNotLocal,
        Match::CtState(vec![
            CtState::Established,
            CtState::Related,
            CtState::New,
            CtState::Untracked,
        ]),
        Match::CtStatusDnat,
        Match::TcpSyn,
    ];
    for (family, net, host) in [
        (AddressFamily::V4, "10.4.0.0/15", "10.4.0.1/32"),
        (AddressFamily::V6, "fd04::/33", "fd04::1/128"),
    ] {
        matches.push(Match::Family(family));
        matches.push(Match::In(Key::Source(family), net.parse().unwrap()));
        matches.push(Match::NotIn(Key::Destination(family), host.parse().unwrap()));
        matches.push(Match::InSet(Key::Source(family), format!("prefixes-{family}")));
        matches.push(Match::NotInSet(
            Key::Destination(family),
            format!("addresses-{family}"),
        ));
        matches.push(Match::ConcatInSet(
            Concat::SourceDestination(family),
            format!("pairs-{family}"),
        ));
        matches.push(Match::EchoRequest(family));
        matches.push(Match::IcmpError(family));
    }
    let mut rules: Vec<Rule> = matches
        .into_iter()
        .map(|m| rule(vec![m], vec![Action::Counter]))
        .collect();
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
        rules.push(rule(
            vec![Match::Protocol(protocol), Match::DestinationPort(443)],
            vec![Action::Counter],
        ));
    }
    rules
}

/// A table with every kind of chain, set, match and action.
fn everything() -> KernelState {
    let mut table = NftTable::default();
    for (family, prefixes, addresses) in [
        (
            AddressFamily::V4,
            ["10.0.0.0/8", "240.0.0.0/4", "172.16.0.0/16", "172.17.0.0/16"],
            ["10.0.0.1", "10.0.0.2"],
        ),
        (
            AddressFamily::V6,
            ["fd00::/16", "ff00::/8", "2001:db8::/48", "2001:db8:1::/48"],
            ["fd00::1", "fd00::2"],
        ),
    ] {
        let [a, b] = addresses.map(|a| a.parse().unwrap());
        let nets = prefixes.map(|p| Element::Prefix(p.parse().unwrap()));
        table
            .sets
            .insert(format!("prefixes-{family}"), set(SetKind::Prefixes(family), nets));
        table.sets.insert(
            format!("addresses-{family}"),
            set(SetKind::Addresses(family), [a, b].map(Element::Address)),
        );
        let pairs = [Element::Pair(a, b), Element::Pair(b, a)];
        table.sets.insert(
            format!("pairs-{family}"),
            set(SetKind::AddressPairs(family), pairs),
        );
        let target = |ip, port| SocketAddr::new(ip, port);
        let vip = |protocol, port, chain: &str| Element::Vip(a, protocol, port, format!("{chain}-{family}"));
        let vips = [
            vip(Protocol::Tcp, 80, "random"),
            vip(Protocol::Udp, 53, "source"),
            vip(Protocol::Sctp, 99, "one"),
        ];
        table
            .sets
            .insert(format!("vips-{family}"), set(SetKind::Vips(family), vips));
        let both = vec![target(a, 8080), target(b, 8081)];
        let endpoints = [
            Element::Endpoint(a, Protocol::Tcp, 80, 0, both[0]),
            Element::Endpoint(a, Protocol::Tcp, 80, 1, both[1]),
            Element::Endpoint(b, Protocol::Sctp, u16::MAX, u32::MAX, both[1]),
        ];
        let map = format!("endpoints-{family}");
        table
            .sets
            .insert(map.clone(), set(SetKind::Endpoints(family), endpoints));
        let balance = |count, by_source| Action::Balance {
            map: map.clone(),
            family,
            count,
            by_source,
        };
        for (name, action) in [
            ("numbered-random", balance(2, false)),
            ("numbered-source", balance(2, true)),
            ("numbered-one", balance(1, false)),
            ("random", Action::BalanceRandom(both.clone())),
            ("source", Action::BalanceBySource(both)),
            ("one", Action::BalanceRandom(vec![target(b, 8080)])),
        ] {
            let chain = Chain {
                base: None,
                rules: vec![rule(vec![], vec![Action::Counter, action])],
            };
            table.chains.insert(format!("{name}-{family}"), chain);
        }
    }
    let both = |action: fn(AddressFamily) -> Action| FAMILIES.map(|f| rule(vec![], vec![action(f)])).to_vec();
    let lookups = both(|f| Action::VipLookup(f, format!("vips-{f}")));
    let mut post = both(Action::SnatIdentity);
    post.push(rule(vec![], vec![Action::Snat("10.0.0.9".parse().unwrap())]));
    post.push(rule(vec![], vec![Action::Snat("fd00::9".parse().unwrap())]));
    post.push(rule(
        vec![Match::OutputDevice("eth0".into())],
        vec![Action::Masquerade],
    ));
    let filter = vec![
        rule(vec![Match::TcpSyn], vec![Action::ClampMss(1300)]),
        rule(
            vec![],
            vec![Action::SetMark {
                value: 0x5300,
                mask: 0xff00,
            }],
        ),
        rule(vec![], vec![Action::Jump("matches".into())]),
        rule(vec![Match::DestinationIsLocal], vec![Action::Return]),
        rule(vec![], vec![Action::Reject(RejectWith::PortUnreachable)]),
        rule(vec![], vec![Action::Reject(RejectWith::AdminProhibited)]),
        rule(vec![], vec![Action::Drop]),
        rule(vec![], vec![Action::Accept]),
    ];
    table.chains.insert(
        "matches".into(),
        Chain {
            base: None,
            rules: every_match(),
        },
    );
    for (name, chain) in [
        (
            "raw",
            base(
                ChainKind::Filter,
                Hook::Prerouting,
                -300,
                vec![rule(vec![], vec![Action::Notrack])],
            ),
        ),
        (
            "dnat",
            base(ChainKind::Nat, Hook::Prerouting, -101, lookups.clone()),
        ),
        ("dnat-output", base(ChainKind::Nat, Hook::Output, -101, lookups)),
        (
            "input",
            base(
                ChainKind::Filter,
                Hook::Input,
                0,
                vec![rule(vec![], vec![Action::Accept])],
            ),
        ),
        ("forward", base(ChainKind::Filter, Hook::Forward, -1, filter)),
        ("reroute", base(ChainKind::Route, Hook::Output, -150, vec![])),
        ("snat", base(ChainKind::Nat, Hook::Postrouting, 99, post)),
    ] {
        table.chains.insert(name.into(), chain);
    }
    KernelState {
        nft: Some(table),
        ..KernelState::default()
    }
}

#[test]
fn everything_is_accepted_and_recognised() {
    as_root("language::everything_is_accepted_and_recognised", || {
        let bed = Bed::new();
        let wanted = everything();
        bed.reconcile(&wanted);
        let found = bed.kernel.read_now().unwrap().nft.unwrap();
        let table = wanted.nft.as_ref().unwrap();
        assert_eq!(
            found.sets.keys().collect::<Vec<_>>(),
            table.sets.keys().collect::<Vec<_>>()
        );
        assert_eq!(found.sets["vips-ip"], table.sets["vips-ip"]);
        assert_eq!(found.sets["pairs-ip6"], table.sets["pairs-ip6"]);
        assert_eq!(
            found.chains["matches"].rules.len(),
            table.chains["matches"].rules.len()
        );
        if let Ok(path) = std::env::var("STRAIT_SHOW_RULESET") {
            let shown = bed.node.run(|| {
                std::process::Command::new(path)
                    .args(["list", "ruleset"])
                    .output()
            });
            println!("{}", String::from_utf8_lossy(&shown.unwrap().unwrap().stdout));
        }
    });
}

#[test]
fn one_change_touches_one_chain() {
    as_root("language::one_change_touches_one_chain", || {
        let bed = Bed::new();
        bed.reconcile(&everything());
        let mut changed = everything();
        let table = changed.nft.as_mut().unwrap();
        table
            .chains
            .get_mut("input")
            .unwrap()
            .rules
            .push(rule(vec![], vec![Action::Counter]));
        assert_eq!(
            bed.reconcile(&changed).to_string(),
            "~ chain input: 2 rules (was 1)\n"
        );
    });
}

#[test]
fn prefixes_change_piece_by_piece() {
    as_root("language::prefixes_change_piece_by_piece", || {
        let bed = Bed::new();
        let state = |prefixes: &[&str]| {
            let elements = prefixes.iter().map(|p| Element::Prefix(p.parse().unwrap()));
            let sets = BTreeMap::from([(
                "set".to_owned(),
                set(SetKind::Prefixes(AddressFamily::V4), elements),
            )]);
            KernelState {
                nft: Some(NftTable {
                    sets,
                    chains: BTreeMap::new(),
                }),
                ..KernelState::default()
            }
        };
        for prefixes in [
            &["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"][..],
            &["10.1.0.0/16", "10.3.0.0/16", "10.4.0.0/16"],
            &["10.0.0.0/8"],
            &["10.1.0.0/16", "10.1.2.0/24", "10.0.0.0/16", "255.255.255.255/32"],
            &["0.0.0.0/0"],
            &["0.0.0.0/1", "10.0.0.0/8", "192.0.0.0/2"],
            &[],
            &["10.2.0.0/16"],
        ] {
            bed.reconcile(&state(prefixes));
        }
    });
}

#[test]
fn a_set_that_others_spoilt_is_made_anew() {
    as_root("language::a_set_that_others_spoilt_is_made_anew", || {
        let bed = Bed::new();
        bed.reconcile(&everything());
        let ours = Firewall {
            namespace: &bed.node,
            table: "strait",
        };
        ours.add_range("prefixes-ip", [192, 0, 2, 0].into(), [192, 0, 2, 16].into())
            .unwrap();
        let made = bed.reconcile(&everything()).to_string();
        assert_eq!(made, "~ set prefixes-ip: - 192.0.2.0/28\n");
        // No prefix is this range: it cannot be taken out piece by piece.
        ours.add_range("prefixes-ip", [192, 0, 2, 1].into(), [192, 0, 2, 7].into())
            .unwrap();
        let made = bed.reconcile(&everything()).to_string();
        assert!(
            made.starts_with("- table inet strait\n+ table inet strait\n"),
            "{made}"
        );
    });
}

#[test]
fn a_bad_rule_is_named_and_leaves_the_table_as_it_was() {
    as_root(
        "language::a_bad_rule_is_named_and_leaves_the_table_as_it_was",
        || {
            let bed = Bed::new();
            bed.reconcile(&everything());
            let before = bed.kernel.read_now().unwrap();
            for (bad, words) in [
                (
                    rule(
                        vec![Match::InSet(Key::Source(AddressFamily::V4), "nothere".into())],
                        vec![],
                    ),
                    "~ chain input: 1 rule (was 1): cannot change the nftables table strait: No such file or directory",
                ),
                (
                    rule(vec![], vec![Action::BalanceRandom(vec![])]),
                    "~ chain input: 1 rule (was 1): nftables rule in chain input: dnat at random to {  }: there is \
                 no endpoint to balance over",
                ),
            ] {
                let mut wanted = everything();
                let table = wanted.nft.as_mut().unwrap();
                table.chains.get_mut("input").unwrap().rules = vec![bad];
                table.chains.get_mut("raw").unwrap().rules.clear();
                let report = bed.kernel.apply_now(&plan(&wanted, &before)).unwrap();
                assert_eq!(report.failed.len(), 1, "{:?}", report.failed);
                assert!(
                    report.failed[0].to_string().starts_with(words),
                    "{}",
                    report.failed[0]
                );
                assert_eq!(bed.kernel.read_now().unwrap(), before);
            }
        },
    );
}

/// As many prefixes and services as a large clusterset has.
fn large(prefixes: u32, services: u32) -> KernelState {
    let mut table = NftTable::default();
    let nets = (0..prefixes).map(|n| {
        let address = std::net::Ipv4Addr::from(0x1400_0000 + (n << 9));
        Element::Prefix(ipnet::IpNet::new(address.into(), 24).unwrap())
    });
    table
        .sets
        .insert("remote".into(), set(SetKind::Prefixes(AddressFamily::V4), nets));
    let address = |n: u32| std::net::IpAddr::from(std::net::Ipv4Addr::from(0x0a63_0000 + n));
    let vips = (0..services).map(|n| Element::Vip(address(n), Protocol::Tcp, 80, format!("service-{n}")));
    table
        .sets
        .insert("vips".into(), set(SetKind::Vips(AddressFamily::V4), vips));
    for n in 0..services {
        let targets = (0..3)
            .map(|i| SocketAddr::new(address(3 * n + i), 8080))
            .collect();
        let rules = vec![rule(vec![], vec![Action::BalanceRandom(targets)])];
        table
            .chains
            .insert(format!("service-{n}"), Chain { base: None, rules });
    }
    let lookup = rule(
        vec![Match::NotInSet(Key::Source(AddressFamily::V4), "remote".into())],
        vec![Action::VipLookup(AddressFamily::V4, "vips".into())],
    );
    table.chains.insert(
        "dnat".into(),
        base(ChainKind::Nat, Hook::Prerouting, -101, vec![lookup]),
    );
    KernelState {
        nft: Some(table),
        ..KernelState::default()
    }
}

#[test]
fn a_table_larger_than_the_send_buffer_goes_in_pieces() {
    in_user_namespace(
        "language::a_table_larger_than_the_send_buffer_goes_in_pieces",
        || {
            let bed = Bed::new();
            bed.reconcile(&large(10_000, 1_500));
            bed.reconcile(&large(5_000, 700));
            bed.reconcile(&KernelState::default());
        },
    );
}
