use std::collections::BTreeSet;

use super::*;

fn shape(families: Families) -> Shape {
    Shape::uniform(12, 16, 2, families)
}

#[test]
fn a_node_has_its_part_of_a_range_and_a_range_ends() {
    let net = |text: &str| text.parse::<IpNet>().unwrap();
    assert_eq!(node_cidr(&net("10.1.0.0/16"), 16), Some(net("10.1.16.0/24")));
    assert_eq!(node_cidr(&net("10.1.16.0/20"), 15), Some(net("10.1.31.0/24")));
    assert_eq!(node_cidr(&net("10.1.16.0/20"), 16), None);
    assert_eq!(node_cidr(&net("10.1.1.0/24"), 1), None);
    assert_eq!(node_cidr(&net("fd10:1::/48"), 2), Some(net("fd10:1:0:2::/64")));
    assert_eq!(node_cidr(&net("fd10::/64"), 1), None);
}

#[test]
fn no_two_things_share_an_address_or_a_name() {
    let lab = Topology::new("t", &shape(Families::Dual));
    let mut names = BTreeSet::new();
    let mut addresses = BTreeSet::new();
    for cluster in &lab.clusters {
        assert!(names.insert(cluster.name.clone()));
        assert!(
            cluster.lan.bridge.len() <= 15,
            "{} is too long for a device",
            cluster.lan.bridge
        );
        for ip in cluster.lan.router.iter().map(IpNet::addr) {
            assert!(addresses.insert(ip), "{ip} twice");
        }
        for node in &cluster.nodes {
            assert!(
                names.insert(format!("{}/{}", cluster.name, node.name)),
                "{} twice",
                node.name
            );
            for ip in node.ips().into_iter().chain(node.pod_addresses(0).unwrap()) {
                assert!(addresses.insert(ip), "{ip} twice");
            }
            for cidr in &node.pod_cidrs {
                assert!(
                    cluster.pod_cidrs.iter().any(|c| c.contains(cidr)),
                    "{cidr} is not of its cluster"
                );
            }
        }
    }
}

#[test]
fn clusters_do_not_overlap() {
    let lab = Topology::new("t", &shape(Families::Dual));
    let all: Vec<IpNet> = lab
        .clusters
        .iter()
        .flat_map(|c| c.pod_cidrs.iter().chain(&c.service_cidrs))
        .copied()
        .collect();
    for (i, a) in all.iter().enumerate() {
        for b in &all[i + 1..] {
            assert!(!a.contains(b) && !b.contains(a), "{a} overlaps {b}");
        }
    }
}

#[test]
fn a_family_that_is_not_asked_for_does_not_occur() {
    let lab = Topology::new("t", &shape(Families::V6));
    assert!(lab.pod_ranges().iter().all(|n| matches!(n, IpNet::V6(_))));
    assert_eq!(lab.broker.api_url(), "https://[fd57::1]:6443");
}

#[test]
fn gateways_come_first_and_a_full_node_takes_no_more_pods() {
    let lab = Topology::new("t", &Shape::uniform(1, 3, 1, Families::V4));
    let names: Vec<&str> = lab.clusters[0].nodes.iter().map(|n| n.name.as_str()).collect();
    assert_eq!(names, ["gateway-1", "worker-1", "worker-2"]);
    let node = &lab.clusters[0].nodes[0];
    assert_eq!(node.pod_addresses(0), Some(vec!["10.1.1.10".parse().unwrap()]));
    assert_eq!(node.pod_addresses(245), None);
}
