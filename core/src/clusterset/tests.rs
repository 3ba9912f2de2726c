use ipnet::IpNet;
use strait_api::PublicKey;
use strait_api::records::{
    ClusterSpec, Endpoint, EndpointSet, ExportedServiceSpec, GatewaySpec, IpFamily, MemberSpec, MemberState,
    ServiceType, SessionAffinity, TunnelKeys,
};

use super::{Record, Records, view};

fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|p| p.parse().unwrap()).collect()
}

fn member(id: &str, pods: &[&str], node_block: &str, admitted: &str) -> MemberSpec {
    MemberSpec {
        cluster_id: id.parse().unwrap(),
        uid: format!("uid-{id}"),
        prefixes: nets(pods),
        node_blocks: nets(&[node_block]),
        export_namespaces: vec!["*".into()],
        state: MemberState::Active,
        epoch: 1,
        admitted_at: admitted.into(),
        key_fingerprint: None,
        removed_at: None,
    }
}

fn cluster(owner: Option<&str>, id: &str, pods: &[&str]) -> Record<ClusterSpec> {
    Record {
        owner: owner.map(|o| o.parse().unwrap()),
        name: owner.map_or(id.to_owned(), |o| format!("{o}.{id}")),
        spec: ClusterSpec {
            cluster_id: id.parse().unwrap(),
            pod_cidrs: nets(pods),
            service_cidrs: nets(&["10.96.0.0/16"]),
            global_cidrs: vec![],
            vip_cidrs: nets(&["243.0.0.0/16"]),
            location: None,
            version: "0.1.0".into(),
            full_sync: None,
            removed_at: None,
        },
    }
}

fn gateway(owner: Option<&str>, id: &str, overlay: &str) -> Record<GatewaySpec> {
    Record {
        owner: owner.map(|o| o.parse().unwrap()),
        name: format!("{id}.gw"),
        spec: GatewaySpec {
            cluster_id: id.parse().unwrap(),
            node: "gw".into(),
            udp_port: 4510,
            addresses: Default::default(),
            keys: vec![TunnelKeys {
                slot: 0,
                public_keys: vec![PublicKey([1; 32])],
            }],
            overlay_addresses: vec![overlay.parse().unwrap()],
            probe_targets: vec![],
            removed_at: None,
        },
    }
}

fn two_clusters() -> Records {
    Records {
        members: vec![
            member("blue", &["10.1.0.0/16"], "240.0.0.0/20", "2026-01-01T00:00:00Z"),
            member("green", &["10.2.0.0/16"], "240.0.16.0/20", "2026-01-02T00:00:00Z"),
        ],
        clusters: vec![
            cluster(None, "blue", &["10.1.0.0/16"]),
            cluster(Some("green"), "green", &["10.2.0.0/16"]),
        ],
        gateways: vec![
            gateway(None, "blue", "240.0.0.1"),
            gateway(Some("green"), "green", "240.0.16.1"),
        ],
    }
}

#[test]
fn an_admitted_cluster_counts_with_its_prefixes_and_gateways() {
    let set = view(&two_clusters());
    assert_eq!(set.refusals, vec![]);
    let green = &set.remotes[&"green".parse().unwrap()];
    assert_eq!(
        green.prefixes().collect::<Vec<_>>(),
        nets(&["10.2.0.0/16", "240.0.16.0/20"])
    );
    assert_eq!(
        green.gateways["gw"].overlay_addresses,
        vec!["240.0.16.1".parse::<std::net::IpAddr>().unwrap()]
    );
    assert_eq!(set.own.unwrap().gateways.len(), 1);
}

#[test]
fn a_prefix_outside_the_admitted_ones_is_refused_alone() {
    let mut records = two_clusters();
    records.clusters[1].spec.pod_cidrs = nets(&["10.2.0.0/16", "10.9.0.0/16", "0.0.0.0/0"]);
    let set = view(&records);
    assert_eq!(
        set.remotes[&"green".parse().unwrap()].pod_prefixes,
        nets(&["10.2.0.0/16"])
    );
    let reasons: Vec<_> = set
        .refusals
        .iter()
        .map(|r| (r.reason.as_str(), r.whole))
        .collect();
    assert_eq!(
        reasons,
        [("PrefixNotAdmitted", false), ("PrefixNotAdmitted", false)]
    );
}

#[test]
fn a_prefix_that_overlaps_ours_is_refused_whatever_the_broker_says() {
    for (ours, what) in [
        ("10.1.0.0/16", "pods"),
        ("10.96.0.0/16", "services"),
        ("243.0.0.0/16", "VIPs"),
    ] {
        let mut records = two_clusters();
        records.members[1].prefixes = nets(&[ours]);
        records.clusters[1].spec.pod_cidrs = nets(&[ours]);
        let set = view(&records);
        assert!(set.remotes[&"green".parse().unwrap()].pod_prefixes.is_empty());
        assert!(
            set.refusals[0].message.contains(what),
            "{}",
            set.refusals[0].message
        );
    }
}

#[test]
fn of_two_overlapping_members_the_earlier_admitted_wins() {
    let mut records = two_clusters();
    records.members.push(member(
        "amber",
        &["10.2.0.0/16"],
        "240.0.32.0/20",
        "2026-01-03T00:00:00Z",
    ));
    records
        .clusters
        .push(cluster(Some("amber"), "amber", &["10.2.128.0/17"]));
    let set = view(&records);
    assert_eq!(
        set.remotes[&"green".parse().unwrap()].pod_prefixes,
        nets(&["10.2.0.0/16"])
    );
    assert!(set.remotes[&"amber".parse().unwrap()].pod_prefixes.is_empty());
    records.members.reverse();
    records.clusters.reverse();
    assert_eq!(view(&records), set);
}

#[test]
fn records_in_a_foreign_namespace_and_of_strangers_are_refused() {
    let mut records = two_clusters();
    records.gateways[1].owner = Some("mallory".parse().unwrap());
    records
        .clusters
        .push(cluster(Some("mallory"), "mallory", &["10.7.0.0/16"]));
    let set = view(&records);
    assert!(set.remotes[&"green".parse().unwrap()].gateways.is_empty());
    let reasons: Vec<_> = set.refusals.iter().map(|r| r.reason.as_str()).collect();
    assert_eq!(reasons, ["NotAMember", "WrongOwner"]);
}

#[test]
fn evicted_and_removed_clusters_do_not_count() {
    let mut records = two_clusters();
    records.members[1].state = MemberState::Evicted;
    assert!(view(&records).remotes.is_empty());
    let mut records = two_clusters();
    records.clusters[1].spec.removed_at = Some("2026-02-01T00:00:00Z".into());
    assert!(view(&records).remotes.is_empty());
}

#[test]
fn prefixes_of_those_who_left_stay_known_until_somebody_else_has_them() {
    let mut records = two_clusters();
    records.members[1].removed_at = Some("2026-02-01T00:00:00Z".into());
    assert_eq!(view(&records).absent, nets(&["10.2.0.0/16", "240.0.16.0/20"]));
    let mut amber = member("amber", &["10.2.0.0/16"], "240.0.32.0/20", "2026-02-02T00:00:00Z");
    amber.uid = "uid-amber".into();
    records.members.push(amber);
    records
        .clusters
        .push(cluster(Some("amber"), "amber", &["10.2.0.0/16"]));
    assert_eq!(view(&records).absent, nets(&["240.0.16.0/20"]));
}

#[test]
fn gateways_keep_only_overlay_addresses_of_their_node_block() {
    let mut records = two_clusters();
    records.gateways[1]
        .spec
        .overlay_addresses
        .push("240.0.0.9".parse().unwrap());
    let set = view(&records);
    assert_eq!(
        set.remotes[&"green".parse().unwrap()].gateways["gw"]
            .overlay_addresses
            .len(),
        1
    );
    assert_eq!(set.refusals[0].reason, "AddressNotAdmitted");
}

fn service(
    owner: Option<&str>,
    id: &str,
    namespace: &str,
    addresses: &[&str],
) -> Record<ExportedServiceSpec> {
    Record {
        owner: owner.map(|o| o.parse().unwrap()),
        name: "s".into(),
        spec: ExportedServiceSpec {
            cluster_id: id.parse().unwrap(),
            namespace: namespace.into(),
            name: "web".into(),
            type_: ServiceType::ClusterSetIP,
            ports: vec![],
            ip_families: vec![IpFamily::IPv4],
            session_affinity: SessionAffinity::None,
            client_ip: None,
            internal_traffic_policy: None,
            traffic_distribution: None,
            exported_labels: Default::default(),
            exported_annotations: Default::default(),
            exported_at: "2026-01-05T00:00:00Z".into(),
            endpoints: vec![EndpointSet {
                family: IpFamily::IPv4,
                ports: vec![],
                endpoints: addresses
                    .iter()
                    .map(|a| Endpoint {
                        address: a.parse().unwrap(),
                        ready: true,
                        serving: true,
                        terminating: false,
                        hostname: None,
                        node: None,
                        zone: None,
                    })
                    .collect(),
            }],
            removed_at: None,
        },
    }
}

#[test]
fn services_are_admitted_by_owner_namespace_and_endpoint() {
    let mut records = two_clusters();
    let set = view(&records);
    let good = set.admit_service(&service(Some("green"), "green", "demo", &["10.2.0.5"]));
    assert_eq!(good.refusal, None);
    assert_eq!(good.service.unwrap().endpoints[0].endpoints.len(), 1);

    let part = set.admit_service(&service(
        Some("green"),
        "green",
        "demo",
        &["10.2.0.5", "10.1.0.5"],
    ));
    assert_eq!(part.service.unwrap().endpoints[0].endpoints.len(), 1);
    assert_eq!(part.refusal.unwrap().reason, "EndpointNotAdmitted");

    let reason = |r: Record<ExportedServiceSpec>| set.admit_service(&r).refusal.unwrap().reason;
    assert_eq!(reason(service(Some("green"), "blue", "demo", &[])), "WrongOwner");
    assert_eq!(reason(service(Some("red"), "red", "demo", &[])), "NotAMember");
    assert_eq!(
        reason(service(Some("green"), "green", "kube-system", &[])),
        "NamespaceNotAdmitted"
    );

    records.members[1].export_namespaces = vec!["shop".into()];
    let set = view(&records);
    let refused = set.admit_service(&service(Some("green"), "green", "demo", &["10.2.0.5"]));
    assert_eq!(
        (refused.service, refused.refusal.unwrap().reason.as_str()),
        (None, "NamespaceNotAdmitted")
    );
}

/// A member may make as many records in its namespace as it likes; which of them counts must not depend on
/// the order in which they come.
#[test]
fn only_the_record_of_the_right_name_speaks_for_a_cluster_or_a_gateway() {
    let mut records = two_clusters();
    let plain = view(&records);
    let mut other_cluster = cluster(Some("green"), "green", &["10.2.7.0/24"]);
    other_cluster.name = "green.a-copy".into();
    let mut other_gateway = gateway(Some("green"), "green", "240.0.16.9");
    other_gateway.name = "green.a-copy".into();
    records.clusters.insert(0, other_cluster);
    records.gateways.insert(0, other_gateway);
    for turn in 0..2 {
        let set = view(&records);
        assert_eq!(set.remotes, plain.remotes, "turn {turn}");
        let refused: Vec<_> = set
            .refusals
            .iter()
            .map(|r| (r.kind.as_str(), r.reason.as_str()))
            .collect();
        assert_eq!(refused, [("Cluster", "WrongName"), ("Gateway", "WrongName")]);
        records.clusters.reverse();
        records.gateways.reverse();
    }
}

#[test]
fn a_cluster_that_claims_a_thousand_prefixes_gets_the_first_ones() {
    let mut records = two_clusters();
    let claims: Vec<String> = (0..1000u32)
        .map(|n| format!("10.2.{}.{}/30", n / 64, n % 64 * 4))
        .collect();
    records.clusters[1].spec.pod_cidrs = nets(&claims.iter().map(String::as_str).collect::<Vec<_>>());
    let set = view(&records);
    assert_eq!(set.remotes[&"green".parse().unwrap()].pod_prefixes.len(), 64);
    assert_eq!(set.refusals[0].reason, "TooManyPrefixes");
    assert!(set.refusals[0].message.contains("1000"), "{:?}", set.refusals);
}

/// Members that agree and members that quarrel: about prefixes, keys, names, IDs.
fn any_records() -> impl proptest::strategy::Strategy<Value = Records> {
    use proptest::prelude::*;
    let ids = || prop::sample::select(vec!["green", "red", "teal", "blue"]);
    let pods = || prop::sample::select(vec!["10.2.0.0/16", "10.2.8.0/24", "10.3.0.0/16", "10.0.0.0/8"]);
    let members = prop::collection::btree_map(ids(), (pods(), 1u8..4, any::<bool>()), 0..4);
    let clusters = prop::collection::vec((ids(), ids(), pods(), any::<bool>()), 0..6);
    let gateways = prop::collection::vec((ids(), ids(), 0u8..3, 0u8..4), 0..6);
    (members, clusters, gateways).prop_map(|(members, clusters, gateways)| {
        let mut records = two_clusters();
        records.members.truncate(1);
        records.clusters.truncate(1);
        records.gateways.truncate(1);
        for (n, (id, (pods, day, evicted))) in members
            .into_iter()
            .enumerate()
            .filter(|(_, (id, _))| *id != "blue")
        {
            let mut new = member(
                id,
                &[pods],
                &format!("240.{n}.16.0/20"),
                &format!("2026-01-0{day}T00:00:00Z"),
            );
            if evicted {
                new.state = MemberState::Evicted;
            }
            records.members.push(new);
        }
        // An object has one content: of several of a name the last one stands.
        let mut by_name = std::collections::BTreeMap::new();
        for (owner, id, pods, other_name) in clusters {
            let mut new = cluster(Some(owner), id, &[pods]);
            if other_name {
                new.name = format!("{owner}.other");
            }
            by_name.insert(new.name.clone(), new);
        }
        records.clusters.extend(by_name.into_values());
        let mut by_name = std::collections::BTreeMap::new();
        for (owner, id, node, key) in gateways {
            let mut new = gateway(Some(owner), id, "240.0.16.1");
            new.name = format!("{owner}.gw-{node}");
            new.spec.node = format!("gw-{}", node.min(1));
            new.spec.keys[0].public_keys = vec![PublicKey([key; 32])];
            by_name.insert(new.name.clone(), new);
        }
        records.gateways.extend(by_name.into_values());
        records
    })
}

proptest::proptest! {
    /// Whatever order records come in, who takes part and which tunnels there are is the same.
    #[test]
    fn the_order_of_records_does_not_matter(
        (records, members, clusters, gateways) in proptest::strategy::Strategy::prop_flat_map(any_records(), |r| {
            use proptest::prelude::*;
            (Just(r.clone()), Just(r.members).prop_shuffle(), Just(r.clusters).prop_shuffle(), Just(r.gateways).prop_shuffle())
        }),
    ) {
        use crate::tunnels::{ThisNode, tunnels};
        let (one, other) = (view(&records), view(&Records { members, clusters, gateways }));
        proptest::prop_assert_eq!(&one, &other);
        let node = ThisNode { own_keys: [PublicKey([0; 32])].into(), ..ThisNode::default() };
        proptest::prop_assert_eq!(tunnels(&one, &node), tunnels(&other, &node));
    }
}
