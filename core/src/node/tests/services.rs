//! VIPs.

use super::*;
use crate::kernel::{Action, Element, NftTable};

fn table(inputs: &NodeInputs) -> (NftTable, Vec<String>) {
    let desired = desired(inputs).unwrap();
    let skipped = desired
        .skipped
        .iter()
        .map(|s| format!("{}: {}", s.object, s.message))
        .collect();
    (desired.state.nft.unwrap(), skipped)
}

/// Where connections to the VIP's port go, as text.
fn targets(table: &NftTable, vip: &str, port: u16) -> Vec<String> {
    let vip: IpAddr = vip.parse().unwrap();
    let set = if vip.is_ipv4() { "vips_v4" } else { "vips_v6" };
    let found = table.sets[set].elements.iter().find_map(|e| match e {
        Element::Vip(v, protocol, p, chain) if *v == vip && *p == port => Some((*protocol, chain)),
        _ => None,
    });
    let Some((protocol, chain)) = found else {
        return Vec::new();
    };
    let [
        Action::Balance {
            map,
            count,
            by_source,
            ..
        },
    ] = table.chains[chain].rules[0].actions.as_slice()
    else {
        panic!("{:?}", table.chains[chain]);
    };
    let by_number: BTreeMap<u32, String> = table.sets[map]
        .elements
        .iter()
        .filter_map(|e| match e {
            Element::Endpoint(v, q, p, number, target)
                if (*v, *q, *p) == (vip, protocol, port) && number < count =>
            {
                Some((*number, target.to_string()))
            }
            _ => None,
        })
        .collect();
    assert!(
        by_number.keys().copied().eq(0..*count),
        "{by_number:?} are not {count}"
    );
    let how = if *by_source { " by source" } else { "" };
    let mut targets: Vec<String> = by_number.into_values().map(|t| t + how).collect();
    targets.sort();
    targets
}

#[test]
fn a_vip_reaches_ready_endpoints_of_all_clusters() {
    let (table, skipped) = table(&blue(Stack::Dual, 3, 1));
    assert!(skipped.is_empty(), "{skipped:?}");
    assert_eq!(
        targets(&table, "10.250.0.1", 80),
        ["10.1.3.5:8080", "10.2.1.9:8080", "10.2.3.7:8080"]
    );
    assert_eq!(
        targets(&table, "fd00:250::1", 80),
        [
            "[fd01:0:0:3::5]:8080",
            "[fd02:0:0:1::9]:8080",
            "[fd02:0:0:3::7]:8080"
        ]
    );
}

#[test]
fn only_pods_of_this_node_can_be_balanced_to_themselves() {
    let pairs = |n| {
        table(&blue(Stack::V4, n, 1)).0.sets["hairpin_v4"]
            .elements
            .clone()
    };
    let pod: IpAddr = "10.1.3.5".parse().unwrap();
    assert_eq!(pairs(3), BTreeSet::from([Element::Pair(pod, pod)]));
    assert_eq!(pairs(2), BTreeSet::new());
}

#[test]
fn affinity_balances_by_source() {
    let mut inputs = blue(Stack::V4, 3, 1);
    inputs.services[0].by_source = true;
    assert_eq!(
        targets(&table(&inputs).0, "10.250.0.1", 80)[0],
        "10.1.3.5:8080 by source"
    );
}

#[test]
fn a_vip_without_endpoints_is_refused_by_the_firewall_alone() {
    let mut inputs = blue(Stack::V4, 3, 1);
    inputs.services[0].slices.clear();
    let (table, _) = table(&inputs);
    assert_eq!(table.sets["vips_v4"].elements, BTreeSet::new());
    for chain in ["forward", "output"] {
        let rules: Vec<String> = table.chains[chain]
            .rules
            .iter()
            .take(2)
            .map(ToString::to_string)
            .collect();
        assert!(rules[0].contains("ip daddr 10.250.0.0/16") && rules[0].ends_with("reject with tcp reset"));
        assert!(rules[1].contains("ip daddr 10.250.0.0/16") && rules[1].ends_with("port-unreachable"));
    }
}

#[test]
fn ports_are_joined_by_name_and_protocol() {
    let mut inputs = blue(Stack::V4, 3, 1);
    let port = |name: &str, protocol, port| VipPort {
        name: name.to_owned(),
        protocol,
        port,
    };
    inputs.services[0].ports = vec![
        port("http", Protocol::Tcp, 80),
        port("dns", Protocol::Udp, 53),
        port("dns", Protocol::Tcp, 53),
    ];
    inputs.services[0].slices[0].ports = vec![
        port("http", Protocol::Tcp, 8080),
        port("dns", Protocol::Udp, 5353),
    ];
    let (table, _) = table(&inputs);
    assert_eq!(targets(&table, "10.250.0.1", 80).len(), 3);
    assert_eq!(
        targets(&table, "10.250.0.1", 53),
        ["10.2.1.9:5353", "10.2.3.7:5353"]
    );
    let protocols: Vec<_> = table.sets["vips_v4"]
        .elements
        .iter()
        .map(|e| match e {
            Element::Vip(_, protocol, port, _) => (*protocol, *port),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        protocols,
        [(Protocol::Tcp, 80), (Protocol::Udp, 53)],
        "nothing listens on dns over TCP"
    );
}

#[test]
fn endpoints_outside_their_clusters_prefixes_are_left_out() {
    let mut inputs = blue(Stack::V4, 3, 1);
    inputs.services[0].slices[0]
        .endpoints
        .push("10.96.0.1".parse().unwrap());
    inputs.services[0].slices[1]
        .endpoints
        .push("10.2.9.9".parse().unwrap());
    let (table, skipped) = table(&inputs);
    assert_eq!(targets(&table, "10.250.0.1", 80).len(), 3);
    assert_eq!(skipped.len(), 2, "{skipped:?}");
    assert!(
        skipped
            .iter()
            .any(|s| s.contains("10.96.0.1 is outside the pod prefixes of cluster green"))
    );
}

#[test]
fn clusters_that_left_or_drain_take_no_new_connections() {
    let mut inputs = blue(Stack::V4, 3, 1);
    inputs.clusterset.remotes.get_mut(&id("green")).unwrap().state = MemberState::Draining;
    assert_eq!(targets(&table(&inputs).0, "10.250.0.1", 80), ["10.1.3.5:8080"]);
    inputs.clusterset.remotes.clear();
    assert_eq!(targets(&table(&inputs).0, "10.250.0.1", 80), ["10.1.3.5:8080"]);
}

#[test]
fn a_vip_outside_the_vip_prefixes_does_not_count() {
    let mut inputs = blue(Stack::V4, 3, 1);
    inputs.services[0].vips = vec!["10.96.0.1".parse().unwrap()];
    let (table, skipped) = table(&inputs);
    assert_eq!(targets(&table, "10.96.0.1", 80), [""; 0]);
    assert!(
        skipped[0].starts_with("ServiceImport/demo/web: VIP 10.96.0.1 is outside"),
        "{skipped:?}"
    );
}

#[test]
fn a_vip_belongs_to_one_service() {
    let mut inputs = blue(Stack::V4, 3, 1);
    let mut thief = web(Stack::V4);
    thief.name = "zzz".to_owned();
    thief.slices.truncate(1);
    inputs.services.insert(0, thief);
    let (table, skipped) = table(&inputs);
    assert_eq!(targets(&table, "10.250.0.1", 80).len(), 3);
    assert!(
        skipped[0].contains("10.250.0.1 is already demo/web's"),
        "{skipped:?}"
    );
}

/// Several services with up to four endpoints each, some of them kept by source.
fn any_services() -> impl proptest::strategy::Strategy<Value = Vec<VipService>> {
    use proptest::prelude::*;
    let service = (0u8..6, prop::collection::btree_set(0u8..6, 0..5), any::<bool>());
    prop::collection::vec(service, 0..6).prop_map(|list| {
        let mut services: BTreeMap<u8, VipService> = BTreeMap::new();
        for (n, endpoints, by_source) in list {
            let mut service = web(Stack::V4);
            service.name = format!("s{n}");
            service.vips = vec![IpAddr::from([10, 250, 0, n])];
            service.by_source = by_source;
            service.slices.truncate(1);
            service.slices[0].endpoints = endpoints.iter().map(|e| IpAddr::from([10, 2, n, *e])).collect();
            services.insert(n, service);
        }
        services.into_values().collect()
    })
}

proptest::proptest! {
    /// At no step of a change does a service count on an endpoint that is not in the map: each connection
    /// in between reaches one, of before or of after.
    #[test]
    fn no_step_of_a_change_leaves_a_service_without_an_endpoint(from in any_services(), to in any_services()) {
        use crate::kernel::{KernelState, NftOp, Op, plan};
        let state = |services: Vec<VipService>| {
            let mut inputs = blue(Stack::V4, 3, 1);
            inputs.services = services;
            KernelState { nft: Some(table(&inputs).0), ..KernelState::default() }
        };
        let (from, to) = (state(from), state(to));
        let mut now = from.nft.clone().unwrap();
        for op in plan(&to, &from).ops {
            let Op::Nft(op) = op else { panic!("{op}") };
            match op {
                NftOp::SetElements { set, remove, add, .. } => {
                    let set = now.sets.get_mut(&set).unwrap();
                    set.elements.retain(|e| !remove.contains(e));
                    set.elements.extend(add);
                }
                NftOp::AddChain { name, base } => {
                    now.chains.insert(name, crate::kernel::Chain { base, rules: vec![] });
                }
                NftOp::FillChain { name, rules, .. } => now.chains.get_mut(&name).unwrap().rules = rules,
                NftOp::RemoveChain { name } => _ = now.chains.remove(&name),
                other => panic!("{other}"),
            }
            for element in &now.sets["vips_v4"].elements {
                let Element::Vip(vip, _, port, _) = element else { panic!("{element}") };
                proptest::prop_assert!(!targets(&now, &vip.to_string(), *port).is_empty());
            }
        }
        proptest::prop_assert_eq!(Some(now), to.nft);
    }
}
