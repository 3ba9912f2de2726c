use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

type Actual = KernelState<RuleDigest>;

/// What reading back shows of a state, with prefixes as the kernel would hold them.
fn observed(state: &KernelState) -> Actual {
    Actual {
        overlay: state.overlay.clone(),
        foreign_links: state.foreign_links.clone(),
        down_links: state.down_links.clone(),
        foreign_drops: state.foreign_drops.clone(),
        foreign_refusals: BTreeSet::new(),
        addresses: state.addresses.clone(),
        neighbours: state.neighbours.clone(),
        fdb: state.fdb.clone(),
        routes: state.routes.clone(),
        rules: state.rules.clone(),
        nft: state.nft.as_ref().map(|table| NftTable {
            sets: table.sets.clone(),
            chains: (table.chains.iter())
                .map(|(name, chain)| {
                    let rules = chain.rules.iter().map(RuleDigest::of).collect();
                    (
                        name.clone(),
                        Chain {
                            base: chain.base,
                            rules,
                        },
                    )
                })
                .collect(),
        }),
        foreign_accepts: state.foreign_accepts.clone(),
        sysctls: state.sysctls.clone(),
    }
}

/// A kernel, as far as plans can tell: it refuses what the real one refuses.
fn carry_out(kernel: &mut Actual, op: &Op) {
    let overlay_exists = |kernel: &Actual, device: &str| {
        device != OVERLAY_DEVICE || kernel.overlay.as_ref().is_some_and(|o| o.name == device)
    };
    match op {
        Op::SetSysctl { name, to, .. } => {
            kernel.sysctls.insert(name.clone(), Sysctl { value: to.clone() });
        }
        Op::AddOverlay(link) => {
            assert_eq!(
                kernel.overlay, None,
                "only one overlay device can have the identifier"
            );
            kernel.overlay = Some(link.clone());
        }
        Op::ChangeOverlay(link) => {
            let old = kernel
                .overlay
                .replace(link.clone())
                .expect("there is a device to change");
            assert_eq!(
                (old.vni, old.port, old.local, old.mac),
                (link.vni, link.port, link.local, link.mac)
            );
        }
        Op::RemoveOverlay(link) => {
            assert_eq!(kernel.overlay.take().as_ref(), Some(link));
            kernel.addresses.retain(|x| x.device != link.name);
            kernel.neighbours.retain(|x| x.device != link.name);
            kernel.fdb.retain(|x| x.device != link.name);
            kernel.routes.retain(|r| match &r.kind {
                RouteKind::Unicast { next_hops, .. } => next_hops.iter().all(|h| h.device != link.name),
                _ => true,
            });
        }
        Op::SetUp(x) => assert!(kernel.down_links.remove(x), "{x} is not down"),
        Op::AddAddress(x) => {
            assert!(overlay_exists(kernel, &x.device));
            assert!(kernel.addresses.insert(x.clone()));
        }
        Op::RemoveAddress(x) => assert!(kernel.addresses.remove(x)),
        Op::SetNeighbour(x) => {
            assert!(overlay_exists(kernel, &x.device));
            kernel
                .neighbours
                .retain(|n| (&n.device, n.address) != (&x.device, x.address));
            kernel.neighbours.insert(x.clone());
        }
        Op::RemoveNeighbour(x) => assert!(kernel.neighbours.remove(x)),
        Op::SetFdb(x) => {
            assert!(overlay_exists(kernel, &x.device));
            kernel.fdb.retain(|n| (&n.device, n.mac) != (&x.device, x.mac));
            kernel.fdb.insert(x.clone());
        }
        Op::RemoveFdb(x) => assert!(kernel.fdb.remove(x)),
        Op::AddRoute(x) | Op::ReplaceRoute(x) => {
            if let RouteKind::Unicast {
                next_hops, source, ..
            } = &x.kind
            {
                assert!(next_hops.iter().all(|h| overlay_exists(kernel, &h.device)));
                assert!(
                    next_hops.iter().all(|h| !kernel.down_links.contains(&h.device)),
                    "a device that is down takes no route"
                );
                if let Some(source) = source {
                    assert!(
                        kernel.addresses.iter().any(|a| a.address.addr() == *source),
                        "a preferred source must be an address of the node"
                    );
                }
            }
            let key = |r: &Route| (r.table, r.destination, r.metric);
            let before = kernel.routes.len();
            kernel.routes.retain(|r| key(r) != key(x));
            assert_eq!(before != kernel.routes.len(), matches!(op, Op::ReplaceRoute(_)));
            kernel.routes.insert(x.clone());
        }
        Op::RemoveRoute(x) => assert!(kernel.routes.remove(x)),
        Op::AddRule(x) => assert!(kernel.rules.insert(x.clone())),
        Op::RemoveRule(x) => assert!(kernel.rules.remove(x)),
        Op::AddForeignAccept(x) => assert!(kernel.foreign_accepts.insert(x.clone())),
        Op::RemoveForeignAccept(x) => assert!(kernel.foreign_accepts.remove(x)),
        Op::Nft(op) => carry_out_nft(&mut kernel.nft, op),
    }
}

fn carry_out_nft(nft: &mut Option<NftTable<RuleDigest>>, op: &NftOp) {
    match (op, nft.as_mut()) {
        (NftOp::AddTable, None) => *nft = Some(NftTable::default()),
        (NftOp::RemoveTable, Some(_)) => *nft = None,
        (NftOp::AddSet { name, kind }, Some(table)) => {
            let set = NftSet {
                kind: *kind,
                elements: BTreeSet::new(),
            };
            assert_eq!(table.sets.insert(name.clone(), set), None);
        }
        (NftOp::RemoveSet { name }, Some(table)) => assert!(table.sets.remove(name).is_some()),
        (
            NftOp::SetElements {
                set,
                kind,
                remove,
                add,
            },
            Some(table),
        ) => {
            let held = table.sets.get_mut(set).expect("a set exists before its elements");
            assert_eq!(held.kind, *kind);
            for element in remove {
                assert!(held.elements.remove(element), "{element} is not in {set}");
            }
            for element in add {
                if let Element::Vip(.., chain) = element {
                    assert!(
                        table.chains.contains_key(chain),
                        "a chain exists before a map names it"
                    );
                }
                assert!(held.elements.insert(element.clone()));
            }
        }
        (NftOp::AddChain { name, base }, Some(table)) => {
            let chain = Chain {
                base: *base,
                rules: Vec::new(),
            };
            assert_eq!(table.chains.insert(name.clone(), chain), None);
        }
        (NftOp::FillChain { name, before, rules }, Some(table)) => {
            let chain = table
                .chains
                .get_mut(name)
                .expect("a chain exists before its rules");
            assert_eq!(chain.rules.len(), *before);
            chain.rules = rules.iter().map(RuleDigest::of).collect();
            for rule in rules {
                for condition in &rule.matches {
                    if let Match::InSet(_, set) = condition {
                        assert!(
                            table.sets.contains_key(set),
                            "a set exists before the rules that use it"
                        );
                    }
                }
            }
        }
        (NftOp::RemoveChain { name }, Some(table)) => assert!(table.chains.remove(name).is_some()),
        (op, table) => panic!("{op} does not fit a kernel whose table is {table:?}"),
    }
}

fn with_aggregated_prefixes(mut state: Actual) -> Actual {
    for set in state.nft.iter_mut().flat_map(|table| table.sets.values_mut()) {
        if let SetKind::Prefixes(_) = set.kind {
            let prefixes: Vec<IpNet> = (set.elements.iter())
                .map(|e| {
                    if let Element::Prefix(p) = e {
                        *p
                    } else {
                        panic!("{e} is not a prefix")
                    }
                })
                .collect();
            set.elements = IpNet::aggregate(&prefixes)
                .into_iter()
                .map(Element::Prefix)
                .collect();
        }
    }
    state
}

const FAMILIES: [AddressFamily; 2] = [AddressFamily::V4, AddressFamily::V6];

fn address() -> impl Strategy<Value = IpAddr> {
    (0u8..4, any::<bool>()).prop_map(|(n, v6)| {
        if v6 {
            IpAddr::from([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n])
        } else {
            [240, 0, 0, n].into()
        }
    })
}

fn prefix() -> impl Strategy<Value = IpNet> {
    (0u8..8, 14u8..18).prop_map(|(n, bits)| {
        IpNet::new([10, n, 0, 0].into(), bits)
            .expect("a valid length")
            .trunc()
    })
}

fn device() -> impl Strategy<Value = String> {
    select(vec![OVERLAY_DEVICE, TUNNEL_DEVICE, "eth0"]).prop_map(str::to_owned)
}

fn mac() -> impl Strategy<Value = MacAddress> {
    (0u8..3).prop_map(|n| MacAddress([2, 0, 0, 0, 0, n]))
}

fn overlay() -> impl Strategy<Value = OverlayLink> {
    (select(vec![1u32, 2]), mac(), select(vec![1400u32, 1450])).prop_map(|(vni, mac, mtu)| OverlayLink {
        name: OVERLAY_DEVICE.into(),
        vni,
        port: OVERLAY_PORT,
        local: [192, 168, 0, 1].into(),
        mac,
        mtu,
        rp_filter: 2,
    })
}

fn route() -> impl Strategy<Value = Route> {
    let hop = (device(), option::of(address())).prop_map(|(device, via)| NextHop { device, via });
    let unicast =
        (vec(hop, 1..3), option::of(select(vec![1350u32]))).prop_map(|(next_hops, mtu)| RouteKind::Unicast {
            next_hops,
            source: None,
            mtu,
        });
    let kind = prop_oneof![3 => unicast, 1 => Just(RouteKind::Throw)];
    (select(vec![MAIN_TABLE, INGRESS_TABLE]), prefix(), kind).prop_map(|(table, destination, kind)| Route {
        table,
        destination,
        metric: ROUTE_METRIC,
        kind,
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let condition = prop_oneof![
        select(vec!["remote4", "local4"])
            .prop_map(|s| Match::InSet(Key::Source(AddressFamily::V4), s.to_owned())),
        device().prop_map(Match::InputDevice),
        Just(Match::TcpSyn),
    ];
    let action = prop_oneof![
        Just(Action::Accept),
        Just(Action::Notrack),
        (1000u16..1002).prop_map(Action::ClampMss),
        (0u32..2, 1u32..3).prop_map(|(value, mask)| Action::SetMark { value, mask }),
    ];
    (vec(condition, 0..3), vec(action, 0..2)).prop_map(|(matches, actions)| Rule { matches, actions })
}

fn table() -> impl Strategy<Value = NftTable> {
    let base = select(vec![
        (ChainKind::Filter, Hook::Forward, -1),
        (ChainKind::Nat, Hook::Postrouting, 99),
    ]);
    let base_chain = (base, vec(rule(), 0..3)).prop_map(|(base, rules)| Chain {
        base: Some(base),
        rules,
    });
    let chain = vec(rule(), 0..3).prop_map(|rules| Chain { base: None, rules });
    let prefixes = || {
        btree_set(prefix().prop_map(Element::Prefix), 0..5).prop_map(|elements| NftSet {
            kind: SetKind::Prefixes(AddressFamily::V4),
            elements,
        })
    };
    (
        btree_map(
            select(vec!["forward", "post"]).prop_map(str::to_owned),
            base_chain,
            0..3,
        ),
        btree_map(
            select(vec!["vip-a", "vip-b", "vip-c"]).prop_map(str::to_owned),
            chain,
            0..4,
        ),
        [prefixes(), prefixes()],
        any::<bool>(),
    )
        .prop_map(|(mut chains, services, [remote, local], with_vips)| {
            let vips: BTreeSet<_> = (services.keys().enumerate())
                .map(|(i, name)| Element::Vip([240, 9, 0, i as u8].into(), Protocol::Tcp, 80, name.clone()))
                .collect();
            chains.extend(services);
            let mut sets = BTreeMap::from([("remote4".to_owned(), remote), ("local4".to_owned(), local)]);
            if with_vips {
                let kind = SetKind::Vips(AddressFamily::V4);
                sets.insert("vips4".to_owned(), NftSet { kind, elements: vips });
            }
            NftTable { sets, chains }
        })
}

fn accept() -> impl Strategy<Value = ForeignAccept> {
    select(vec!["filter", "firewalld"]).prop_map(|table| ForeignAccept {
        family: "inet".into(),
        table: table.into(),
        chain: "forward".into(),
    })
}

prop_compose! {
    fn state()(
        overlay in option::of(overlay()),
        addresses in btree_set((device(), address()), 0..4),
        neighbours in btree_map((device(), address()), mac(), 0..4),
        fdb in btree_map((device(), mac()), address(), 0..4),
        routes in vec(route(), 0..8),
        rules in btree_set((select(FAMILIES.to_vec()), 0u32..3, option::of(device())), 0..4),
        nft in option::of(table()),
        foreign_accepts in btree_set(accept(), 0..3),
        sysctl in option::of(select(vec!["0", "1"])),
        with_sources in any::<bool>(),
    ) -> KernelState {
        let here = |device: &str| device != OVERLAY_DEVICE || overlay.is_some();
        let addresses: BTreeSet<_> = addresses.into_iter()
            .filter(|(device, _)| here(device))
            .map(|(device, address)| Address { device, address: address.into() })
            .collect();
        // One route for each table, destination and metric; a guard behind each.
        let mut by_key = BTreeMap::new();
        for mut route in routes {
            if let RouteKind::Unicast { next_hops, source, .. } = &mut route.kind {
                next_hops.retain(|h| here(&h.device));
                next_hops.sort();
                if next_hops.is_empty() {
                    continue;
                }
                if with_sources {
                    *source = addresses.iter().map(|a| a.address.addr()).next();
                }
            }
            let guard = Route { metric: GUARD_METRIC, kind: RouteKind::Unreachable, ..route.clone() };
            for route in [route, guard] {
                by_key.insert((route.table, route.destination, route.metric), route);
            }
        }
        KernelState {
            foreign_links: BTreeSet::from([TUNNEL_DEVICE.to_owned()]),
            down_links: BTreeSet::new(),
            foreign_drops: BTreeSet::new(),
            foreign_refusals: BTreeSet::new(),
            neighbours: neighbours.into_iter()
                .filter(|((device, _), _)| here(device))
                .map(|((device, address), mac)| Neighbour { device, address, mac })
                .collect(),
            fdb: fdb.into_iter()
                .filter(|((device, _), _)| here(device))
                .map(|((device, mac), node)| FdbEntry { device, mac, node })
                .collect(),
            routes: by_key.into_values().collect(),
            rules: rules.into_iter()
                .map(|(family, n, input_device)| PolicyRule {
                    family, priority: RULE_PRIORITY + n, input_device, table: INGRESS_TABLE,
                })
                .collect(),
            sysctls: sysctl.into_iter()
                .map(|v| ("net/ipv4/ip_forward".to_owned(), Sysctl { value: v.to_owned() }))
                .collect(),
            overlay, addresses, nft, foreign_accepts,
        }
    }
}

proptest! {
    #[test]
    fn nothing_is_planned_for_a_state_that_is_there(x in state()) {
        prop_assert_eq!(plan(&x, &x), Plan::default());
        prop_assert_eq!(plan(&x, &observed(&x)).to_string(), "");
    }

    #[test]
    fn carrying_a_plan_out_gives_what_is_wanted(desired in state(), actual in state()) {
        let mut kernel = with_aggregated_prefixes(observed(&actual));
        for op in &plan(&desired, &kernel).ops {
            carry_out(&mut kernel, op);
        }
        let mut wanted = with_aggregated_prefixes(observed(&desired));
        // Parameters that are no longer wanted stay as they are until the uninstall restores them.
        if wanted.sysctls.is_empty() {
            wanted.sysctls = kernel.sysctls.clone();
        }
        wanted.addresses.extend(kernel.addresses.iter().filter(|a| a.device == TUNNEL_DEVICE).cloned());
        prop_assert_eq!(&kernel, &wanted);
        prop_assert!(plan(&desired, &kernel).is_empty());
    }

    /// Setting a device down takes its routes along; it is set up before they are put back.
    #[test]
    fn a_device_that_was_set_down_is_set_up_again(desired in state()) {
        let mut kernel = with_aggregated_prefixes(observed(&desired));
        let whole = kernel.clone();
        kernel.down_links.insert(TUNNEL_DEVICE.to_owned());
        kernel.routes.retain(|r| match &r.kind {
            RouteKind::Unicast { next_hops, .. } => next_hops.iter().all(|h| h.device != TUNNEL_DEVICE),
            _ => true,
        });
        let used = kernel.routes != whole.routes || kernel.addresses.iter().any(|a| a.device == TUNNEL_DEVICE);
        for op in &plan(&desired, &kernel).ops {
            carry_out(&mut kernel, op);
        }
        prop_assert_eq!(kernel.down_links.is_empty(), used);
        kernel.down_links.clear();
        prop_assert_eq!(kernel, whole);
    }

    #[test]
    fn guards_come_first_and_go_last(desired in state(), actual in state()) {
        let ops = plan(&desired, &observed(&actual)).ops;
        let guard = |op: &Op, add: bool| match op {
            Op::AddRoute(r) | Op::ReplaceRoute(r) => add && r.kind == RouteKind::Unreachable,
            Op::RemoveRoute(r) => !add && r.kind == RouteKind::Unreachable,
            _ => false,
        };
        let others = |op: &&Op| !matches!(op, Op::SetSysctl { .. });
        let rest: Vec<_> = ops.iter().filter(others).skip_while(|op| guard(op, true)).collect();
        prop_assert!(!rest.iter().any(|op| guard(op, true)));
        let before: Vec<_> = rest.into_iter().rev().skip_while(|op| guard(op, false)).collect();
        prop_assert!(!before.iter().any(|op| guard(op, false)));
    }

    #[test]
    fn additions_come_before_removals(desired in state(), actual in state()) {
        let adds = |op: &Op| matches!(op,
            Op::AddAddress(_) | Op::SetNeighbour(_) | Op::SetFdb(_) | Op::AddRoute(_) | Op::ReplaceRoute(_)
            | Op::AddRule(_) | Op::AddForeignAccept(_));
        let removes = |op: &Op| matches!(op,
            Op::RemoveAddress(_) | Op::RemoveNeighbour(_) | Op::RemoveFdb(_) | Op::RemoveRoute(_)
            | Op::RemoveRule(_) | Op::RemoveForeignAccept(_));
        let ops = plan(&desired, &observed(&actual)).ops;
        let first_removal = ops.iter().position(removes).unwrap_or(ops.len());
        prop_assert!(!ops[first_removal..].iter().any(adds));
    }

    #[test]
    fn what_lacks_its_device_waits(desired in state(), actual in state()) {
        let mut kernel = with_aggregated_prefixes(observed(&actual));
        kernel.foreign_links.clear();
        kernel.addresses.retain(|a| a.device != TUNNEL_DEVICE);
        let made = plan(&desired, &kernel);
        for op in &made.ops {
            let line = op.to_string();
            let names_it = line.contains(&format!("dev {TUNNEL_DEVICE}"));
            prop_assert!(!names_it || line.starts_with('-'), "{line}");
        }
        prop_assert!(made.waiting.iter().all(|w| w.device == TUNNEL_DEVICE));
        let wanted = desired.addresses.iter().filter(|a| a.device == TUNNEL_DEVICE).count();
        let waits = made.waiting.iter().filter(|w| w.object.starts_with("address")).count();
        prop_assert_eq!(waits, wanted);
    }

    #[test]
    fn rules_that_differ_have_other_digests(a in rule(), b in rule()) {
        prop_assert_eq!(a == b, RuleDigest::of(&a) == RuleDigest::of(&b));
    }

    #[test]
    fn plans_survive_json(desired in state(), actual in state()) {
        let made = plan(&desired, &actual);
        let text = serde_json::to_string(&made).expect("a plan can be written");
        prop_assert_eq!(serde_json::from_str::<Plan>(&text).expect("a plan can be read"), made);
    }
}

#[test]
fn a_plan_reads_well() {
    let hop = NextHop {
        device: OVERLAY_DEVICE.into(),
        via: Some([240, 0, 16, 2].into()),
    };
    let route = |metric, kind| Route {
        table: MAIN_TABLE,
        destination: "10.2.0.0/16".parse().expect("a prefix"),
        metric,
        kind,
    };
    let snat = Rule {
        matches: vec![
            Match::OutputDevice("strait-*".into()),
            Match::InSet(Key::Source(AddressFamily::V4), "remote4".into()),
        ],
        actions: vec![Action::Counter, Action::SnatIdentity(AddressFamily::V4)],
    };
    let remote =
        (1..=9).map(|n| Element::Prefix(IpNet::new([10, 2 * n, 0, 0].into(), 16).expect("a prefix")));
    let desired = KernelState {
        overlay: Some(OverlayLink {
            name: OVERLAY_DEVICE.into(),
            vni: OVERLAY_VNI,
            port: OVERLAY_PORT,
            local: [192, 168, 0, 1].into(),
            mac: MacAddress([2, 0, 240, 0, 16, 1]),
            mtu: 1450,
            rp_filter: 2,
        }),
        addresses: BTreeSet::from([Address {
            device: OVERLAY_DEVICE.into(),
            address: "240.0.16.1/32".parse().expect("an address"),
        }]),
        routes: BTreeSet::from([
            route(
                ROUTE_METRIC,
                RouteKind::Unicast {
                    next_hops: vec![hop],
                    source: Some([240, 0, 16, 1].into()),
                    mtu: Some(1350),
                },
            ),
            route(GUARD_METRIC, RouteKind::Unreachable),
            Route {
                table: INGRESS_TABLE,
                destination: "0.0.0.0/0".parse().expect("a prefix"),
                metric: ROUTE_METRIC,
                kind: RouteKind::Unicast {
                    next_hops: vec![NextHop {
                        device: TUNNEL_DEVICE.into(),
                        via: None,
                    }],
                    source: None,
                    mtu: None,
                },
            },
        ]),
        rules: BTreeSet::from([PolicyRule {
            family: AddressFamily::V4,
            priority: RULE_PRIORITY,
            input_device: Some(TUNNEL_DEVICE.into()),
            table: INGRESS_TABLE,
        }]),
        nft: Some(NftTable {
            sets: BTreeMap::from([(
                "remote4".into(),
                NftSet {
                    kind: SetKind::Prefixes(AddressFamily::V4),
                    elements: remote.collect(),
                },
            )]),
            chains: BTreeMap::from([(
                "nat-postrouting".into(),
                Chain {
                    base: Some((ChainKind::Nat, Hook::Postrouting, 99)),
                    rules: vec![snat],
                },
            )]),
        }),
        sysctls: BTreeMap::from([("net/ipv4/ip_forward".into(), Sysctl { value: "1".into() })]),
        ..KernelState::default()
    };
    let actual = Actual {
        addresses: BTreeSet::from([Address {
            device: OVERLAY_DEVICE.into(),
            address: "240.0.16.9/32".parse().expect("an address"),
        }]),
        routes: BTreeSet::from([Route {
            destination: "10.3.0.0/16".parse().expect("a prefix"),
            ..route(GUARD_METRIC, RouteKind::Unreachable)
        }]),
        sysctls: BTreeMap::from([("net/ipv4/ip_forward".into(), Sysctl { value: "0".into() })]),
        ..Actual::default()
    };
    insta::assert_snapshot!(plan(&desired, &actual), @r"
    ~ sysctl net/ipv4/ip_forward = 1 (was 0)
    + route 10.2.0.0/16 unreachable metric 8383
    + device strait-overlay vxlan id 8300 port 4511 local 192.168.0.1 mac 02:00:f0:00:10:01 mtu 1450 rp_filter 2
    + address 240.0.16.1/32 dev strait-overlay
    + table inet strait
    + set remote4 (ip prefixes)
    + chain nat-postrouting (nat postrouting priority 99)
    ~ set remote4: + 10.2.0.0/16, + 10.4.0.0/16, + 10.6.0.0/16, + 10.8.0.0/16, + 10.10.0.0/16, + 10.12.0.0/16, + 10.14.0.0/16, + 10.16.0.0/16, and 1 more
    ~ chain nat-postrouting: 1 rule (was 0)
    + route 10.2.0.0/16 via 240.0.16.2 dev strait-overlay src 240.0.16.1 mtu 1350 metric 83
    + ip rule 8300 iif strait-tun lookup 8300
    - address 240.0.16.9/32 dev strait-overlay
    - route 10.3.0.0/16 unreachable metric 8383
    ? route 0.0.0.0/0 dev strait-tun table 8300 metric 83 (waits for device strait-tun)
    ");
}

#[test]
fn connections_to_endpoints_that_are_gone_are_stale() {
    let at = |text: &str| text.parse().expect("an address with a port");
    let chain = Chain {
        base: None,
        rules: vec![Rule {
            matches: vec![],
            actions: vec![Action::BalanceRandom(vec![at("10.2.0.1:5353")])],
        }],
    };
    let range = Match::In(
        Key::Destination(AddressFamily::V4),
        "10.250.0.0/16".parse().expect("a prefix"),
    );
    let lookup = Chain {
        base: None,
        rules: vec![Rule {
            matches: vec![range],
            actions: vec![Action::VipLookup(AddressFamily::V4, "vips".into())],
        }],
    };
    let vip = Element::Vip([10, 250, 0, 1].into(), Protocol::Udp, 53, "dns".into());
    let set = NftSet {
        kind: SetKind::Vips(AddressFamily::V4),
        elements: BTreeSet::from([vip]),
    };
    let table = NftTable {
        sets: BTreeMap::from([("vips".into(), set)]),
        chains: BTreeMap::from([("dns".into(), chain), ("lookup".into(), lookup)]),
    };
    let targets = VipTargets::of(&table);
    let stale = |protocol, to, server| targets.is_stale(protocol, at(to), at(server));
    assert!(
        !stale(Protocol::Udp, "10.250.0.1:53", "10.2.0.1:5353"),
        "its endpoint is there"
    );
    assert!(
        stale(Protocol::Udp, "10.250.0.1:53", "10.2.0.2:5353"),
        "its endpoint is gone"
    );
    assert!(
        stale(Protocol::Udp, "10.250.0.1:53", "10.250.0.1:53"),
        "it was never translated"
    );
    assert!(
        stale(Protocol::Udp, "10.250.0.1:54", "10.2.0.1:5353"),
        "its port is gone"
    );
    assert!(
        stale(Protocol::Udp, "10.250.0.2:53", "10.2.0.1:5353"),
        "its service has no endpoint any more"
    );
    assert!(
        !stale(Protocol::Udp, "10.9.9.9:53", "10.2.0.2:5353"),
        "it is not for a VIP of ours"
    );
}
