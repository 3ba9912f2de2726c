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
    let chain = table.sets[set].elements.iter().find_map(|e| match e {
        Element::Vip(v, _, p, chain) if *v == vip && *p == port => Some(chain),
        _ => None,
    });
    let Some(chain) = chain else { return Vec::new() };
    match table.chains[chain].rules[0].actions.as_slice() {
        [Action::BalanceRandom(t)] => t.iter().map(|t| format!("{t}")).collect(),
        [Action::BalanceBySource(t)] => t.iter().map(|t| format!("{t} by source")).collect(),
        other => panic!("{other:?}"),
    }
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
