//! What is left out, and why.

use super::*;
use crate::kernel::{MAIN_TABLE, RouteKind};

/// The one reason given for an object.
fn reason(desired: &Desired, object: &str) -> String {
    let about: Vec<_> = desired.skipped.iter().filter(|s| s.object == object).collect();
    assert_eq!(about.len(), 1, "{:?}", desired.skipped);
    about[0].message.clone()
}

fn main_destinations(desired: &Desired) -> BTreeSet<String> {
    let routes = desired.state.routes.iter().filter(|r| r.table == MAIN_TABLE);
    routes.map(|r| r.destination.to_string()).collect()
}

#[test]
fn nothing_is_said_before_the_cluster_has_joined() {
    let mut inputs = blue(Stack::V4, 3, 1);
    inputs.clusterset = Clusterset::default();
    let error = desired(&inputs).unwrap_err();
    assert_eq!(error, NotYet::NotJoined);
    assert!(error.to_string().contains("strait join"), "{error}");
}

#[test]
fn nothing_is_said_of_an_unknown_node() {
    let mut inputs = blue(Stack::V4, 3, 1);
    inputs.node = "node-9".to_owned();
    assert_eq!(desired(&inputs), Err(NotYet::NodeUnknown("node-9".to_owned())));
}

#[test]
fn without_an_overlay_address_there_are_guards_and_the_firewall_only() {
    let mut inputs = blue(Stack::V4, 3, 1);
    inputs.nodes[2].overlay_addresses.clear();
    let state = desired(&inputs).unwrap().state;
    assert_eq!(state.overlay, None);
    assert!(
        state.routes.iter().all(|r| r.kind == RouteKind::Unreachable),
        "{:?}",
        state.routes
    );
    assert!(
        state
            .routes
            .iter()
            .any(|r| r.destination.to_string() == "10.2.0.0/16")
    );
    assert!(state.nft.is_some());
}

#[test]
fn a_gateway_without_an_overlay_address_serves_its_own_pods_only() {
    let mut inputs = blue(Stack::V4, 1, 1);
    inputs.nodes[0].overlay_addresses.clear();
    let state = desired(&inputs).unwrap().state;
    let ways: Vec<_> = state
        .routes
        .iter()
        .filter(|r| r.kind != RouteKind::Unreachable)
        .map(|r| (r.destination.to_string(), r.kind.clone()))
        .collect();
    assert_eq!(ways, [("10.1.1.0/24".to_owned(), RouteKind::Throw)]);
}

#[test]
fn an_overlay_address_outside_the_node_blocks_does_not_count() {
    let mut inputs = blue(Stack::V4, 3, 1);
    inputs.nodes[1].overlay_addresses = Stack::V4.addresses("10.2.0.1", "::");
    let desired = desired(&inputs).unwrap();
    assert!(reason(&desired, "Node/node-2").contains("10.2.0.1 is outside"));
    assert_eq!(desired.state.neighbours.len(), 1, "the gateway's stays");
}

#[test]
fn an_overlay_address_belongs_to_one_node() {
    let mut inputs = blue(Stack::V4, 3, 1);
    inputs.nodes[1].overlay_addresses = inputs.nodes[0].overlay_addresses.clone();
    let desired = desired(&inputs).unwrap();
    assert!(reason(&desired, "Node/node-2").contains("10.254.1.1 is node node-1's"));
    assert_eq!(desired.state.fdb.len(), 1);
}

#[test]
fn equal_hardware_addresses_do_not_meet() {
    let mut inputs = blue(Stack::V6, 3, 1);
    inputs.nodes[1].overlay_addresses = vec!["fd00:254:1:0:1::1".parse().unwrap()];
    let desired = desired(&inputs).unwrap();
    assert!(reason(&desired, "Node/node-2").contains("same hardware address"));
    assert_eq!(desired.state.fdb.len(), 1);
}

#[test]
fn a_pod_prefix_belongs_to_one_node_and_to_the_cluster() {
    let mut inputs = blue(Stack::V4, 1, 1);
    inputs.nodes[1].pod_prefixes = Stack::V4.nets("10.1.3.0/25", "::/0");
    inputs.nodes[2]
        .pod_prefixes
        .push("172.16.0.0/24".parse().unwrap());
    let desired = desired(&inputs).unwrap();
    let text: Vec<_> = desired.skipped.iter().map(|s| s.message.as_str()).collect();
    assert_eq!(text.len(), 2, "{text:?}");
    assert!(
        text[0].contains("10.1.3.0/24 overlaps with 10.1.3.0/25 of node node-2"),
        "{text:?}"
    );
    assert!(text[1].contains("172.16.0.0/24 is outside"), "{text:?}");
}

#[test]
fn a_remote_prefix_must_not_cover_our_nodes_nor_reserved_ranges() {
    for bad in [
        "192.0.0.0/8",
        "127.1.0.0/16",
        "0.0.0.0/0",
        "224.1.0.0/16",
        "169.254.169.0/24",
    ] {
        let mut inputs = blue(Stack::V4, 3, 1);
        let green = inputs.clusterset.remotes.get_mut(&id("green")).unwrap();
        green.pod_prefixes.push(bad.parse().unwrap());
        let desired = desired(&inputs).unwrap();
        assert!(reason(&desired, "Cluster/green").contains(bad), "{bad}");
        let routed = main_destinations(&desired);
        assert!(!routed.contains(bad), "{bad}");
        assert!(routed.contains("10.2.0.0/16"), "green's good prefix goes on");
    }
}

#[test]
fn nested_prefixes_make_one_interval_and_two_routes() {
    let mut inputs = blue(Stack::V4, 3, 1);
    let green = inputs.clusterset.remotes.get_mut(&id("green")).unwrap();
    green.pod_prefixes.push("10.2.7.0/24".parse().unwrap());
    let desired = desired(&inputs).unwrap();
    let nft = desired.state.nft.as_ref().unwrap();
    let elements: Vec<String> = nft.sets["remote_v4"]
        .elements
        .iter()
        .map(|e| format!("{e:?}"))
        .collect();
    assert_eq!(elements, ["Prefix(10.2.0.0/16)", "Prefix(10.254.2.0/24)"]);
    let routed = main_destinations(&desired);
    assert!(routed.contains("10.2.0.0/16") && routed.contains("10.2.7.0/24"));
}

#[test]
fn the_overlay_uses_the_family_that_all_nodes_have() {
    let mut inputs = blue(Stack::Dual, 3, 1);
    assert_eq!(
        outer_address("node-3", &inputs.nodes),
        Some("192.0.2.3".parse().unwrap())
    );
    inputs.nodes[1].addresses.remove(0);
    assert_eq!(
        outer_address("node-3", &inputs.nodes),
        Some("2001:db8::3".parse().unwrap())
    );
    let overlay = desired(&inputs).unwrap().state.overlay.unwrap();
    assert_eq!(
        (overlay.local.to_string().as_str(), overlay.mtu),
        ("2001:db8::3", 1430)
    );
    assert_eq!(outer_address("node-9", &inputs.nodes), None);
}

#[test]
fn a_gateway_without_a_record_gets_no_traffic() {
    let mut inputs = blue(Stack::V4, 3, 2);
    inputs.clusterset.own.as_mut().unwrap().gateways.remove("node-1");
    let state = desired(&inputs).unwrap().state;
    let hops: BTreeSet<_> = state
        .routes
        .iter()
        .filter(|r| r.destination.to_string() == "10.2.0.0/16")
        .filter_map(|r| match &r.kind {
            RouteKind::Unicast { next_hops, .. } => Some(next_hops.clone()),
            _ => None,
        })
        .flatten()
        .filter_map(|h| h.via)
        .collect();
    assert_eq!(hops, BTreeSet::from(["10.254.1.2".parse().unwrap()]));
}

#[test]
fn jumbo_frames_are_used_and_ipv6_keeps_its_minimum() {
    assert_eq!(tunnel_mtu(9001, AddressFamily::V4), 8921);
    assert_eq!(tunnel_mtu(1300, AddressFamily::V4), 1220);
    assert_eq!(tunnel_mtu(1300, AddressFamily::V6), 1280);
    assert_eq!(overlay_mtu(1500, AddressFamily::V4), 1450);
}

/// The kernel takes IPv6 off a device whose MTU is below 1280.
#[test]
fn over_a_narrow_underlay_ipv6_keeps_its_minimum_and_ipv4_its_routes_mtu() {
    let mut inputs = blue(Stack::Dual, 3, 1);
    inputs.observed.underlay_mtu = 1306;
    let state = desired(&inputs).unwrap().state;
    assert_eq!(state.overlay.unwrap().mtu, 1280);
    let mtus: BTreeSet<(bool, u32)> = state
        .routes
        .iter()
        .filter_map(|r| match &r.kind {
            RouteKind::Unicast { mtu: Some(mtu), .. } => Some((r.destination.addr().is_ipv6(), *mtu)),
            _ => None,
        })
        .collect();
    assert_eq!(mtus, BTreeSet::from([(false, 1226), (true, 1280)]));
    let mut inputs = blue(Stack::V4, 3, 1);
    inputs.observed.underlay_mtu = 1306;
    assert_eq!(desired(&inputs).unwrap().state.overlay.unwrap().mtu, 1256);
}
