use ipnet::IpNet;
use proptest::prelude::*;
use strait_api::records::{JoinClaim, MemberState};

use super::*;
use crate::clusterset::overlap;

fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|p| p.parse().unwrap()).collect()
}

fn claim(id: &str, pods: &[&str]) -> JoinClaim {
    JoinClaim {
        cluster_id: id.parse().unwrap(),
        uid: format!("uid-{id}"),
        pod_cidrs: nets(pods),
        service_cidrs: nets(&["10.96.0.0/16"]),
        vip_cidrs: nets(&["243.0.0.0/16"]),
        key_fingerprint: "SHA256:abc".into(),
    }
}

fn with(claims: &[JoinClaim]) -> Existing {
    let mut existing = Existing::default();
    for c in claims {
        let member = admit(
            &existing,
            c,
            &["*".into()],
            &Settings::default(),
            "2026-01-01T00:00:00Z",
            1,
        )
        .unwrap();
        existing.members.push(member);
        let ranges = MemberRanges {
            services: c.service_cidrs.clone(),
            vips: c.vip_cidrs.clone(),
        };
        existing.ranges.insert(c.cluster_id.clone(), ranges);
    }
    existing
}

fn reasons(existing: &Existing, claim: &JoinClaim) -> Vec<String> {
    objections(existing, claim, &Settings::default())
        .into_iter()
        .map(|o| o.reason)
        .collect()
}

#[test]
fn a_sound_claim_beside_others_is_admitted_with_blocks_of_its_own() {
    let existing = with(&[claim("blue", &["10.1.0.0/16"])]);
    let green = claim("green", &["10.2.0.0/16", "fd00:2::/56"]);
    assert_eq!(objections(&existing, &green, &Settings::default()), vec![]);
    let member = admit(
        &existing,
        &green,
        &["*".into()],
        &Settings::default(),
        "2026-01-02T00:00:00Z",
        9,
    )
    .unwrap();
    assert_eq!(member.prefixes, nets(&["10.2.0.0/16", "fd00:2::/56"]));
    assert_eq!(
        member.node_blocks,
        nets(&["240.0.16.0/20", "fd53:7472:6100::/64"])
    );
    assert_eq!(
        (member.state, member.epoch, member.admitted_at.as_str()),
        (MemberState::Active, 9, "2026-01-02T00:00:00Z")
    );
}

#[test]
fn an_id_is_taken_or_reserved_unless_the_same_cluster_comes_again() {
    let mut existing = with(&[claim("blue", &["10.1.0.0/16"])]);
    let mut other = claim("blue", &["10.2.0.0/16"]);
    other.uid = "another".into();
    assert_eq!(reasons(&existing, &other), ["ClusterIdTaken"]);
    let same = claim("blue", &["10.1.0.0/16"]);
    assert_eq!(reasons(&existing, &same), [""; 0]);

    existing.members[0] = evict(&existing.members[0], "2026-03-01T00:00:00Z", 5);
    assert_eq!(reasons(&existing, &other), ["ClusterIdReserved"]);
    assert_eq!(reasons(&existing, &same), [""; 0]);
    let again = admit(
        &existing,
        &same,
        &["*".into()],
        &Settings::default(),
        "2026-04-01T00:00:00Z",
        2,
    )
    .unwrap();
    assert_eq!(again.node_blocks, existing.members[0].node_blocks);
    assert_eq!(
        again.epoch, 6,
        "receivers ignore what is not above the eviction's epoch"
    );
    assert_eq!(
        (again.admitted_at.as_str(), again.removed_at),
        ("2026-04-01T00:00:00Z", None)
    );
}

#[test]
fn a_member_that_joins_again_keeps_its_age() {
    let existing = with(&[claim("blue", &["10.1.0.0/16"])]);
    let again = claim("blue", &["10.1.0.0/16", "fd00:1::/56"]);
    let member = admit(
        &existing,
        &again,
        &["*".into()],
        &Settings::default(),
        "2026-09-01T00:00:00Z",
        7,
    )
    .unwrap();
    assert_eq!(member.admitted_at, "2026-01-01T00:00:00Z");
    assert_eq!(member.node_blocks, nets(&["240.0.0.0/20", "fd53:7472:6100::/64"]));
}

#[test]
fn one_cluster_is_not_two_members() {
    let existing = with(&[claim("blue", &["10.1.0.0/16"])]);
    let mut again = claim("azure", &["10.2.0.0/16"]);
    again.uid = "uid-blue".into();
    assert_eq!(reasons(&existing, &again), ["AlreadyAMember"]);
}

#[test]
fn overlaps_name_both_sides() {
    let existing = with(&[claim("blue", &["10.1.0.0/16"])]);
    for (pods, theirs) in [
        ("10.1.128.0/17", "admitted prefix 10.1.0.0/16 of member blue"),
        ("10.0.0.0/8", "admitted prefix 10.1.0.0/16 of member blue"),
        ("10.96.4.0/24", "service prefix 10.96.0.0/16 of member blue"),
        ("243.0.0.0/24", "VIP prefix 243.0.0.0/16 of member blue"),
        ("240.128.0.0/16", "node pool 240.0.0.0/8"),
    ] {
        let mut green = claim("green", &[pods]);
        green.service_cidrs.clear();
        green.vip_cidrs.clear();
        let found = objections(&existing, &green, &Settings::default());
        assert!(
            found.iter().any(|o| o.reason == "PrefixOverlaps"
                && o.message.contains(theirs)
                && o.message.contains(pods)),
            "{pods}: {found:?}"
        );
    }
    let mut own = claim("green", &["10.96.0.0/12"]);
    own.vip_cidrs.clear();
    assert!(reasons(&existing, &own).contains(&"PrefixOverlaps".to_owned()));
}

#[test]
fn a_member_that_claims_the_world_keeps_nobody_out() {
    let mut existing = with(&[claim("blue", &["10.1.0.0/16"]), claim("red", &["10.3.0.0/16"])]);
    let lies = MemberRanges {
        services: nets(&["0.0.0.0/0", "10.0.0.0/8", "10.97.0.0/16"]),
        vips: nets(&["0.0.0.0/1", "::/0", "240.0.0.0/8"]),
    };
    existing.ranges.insert("red".parse().unwrap(), lies);
    let green = claim("green", &["10.2.0.0/16", "fd00:2::/56"]);
    assert_eq!(reasons(&existing, &green), [""; 0]);
    let within = claim("green", &["10.97.4.0/24"]);
    assert_eq!(
        reasons(&existing, &within),
        ["PrefixOverlaps"],
        "what can be true is believed"
    );
}

#[test]
fn a_member_that_left_is_in_nobodys_way() {
    let mut existing = with(&[claim("blue", &["10.1.0.0/16"])]);
    existing.members[0] = evict(&existing.members[0], "2026-03-01T00:00:00Z", 5);
    assert_eq!(reasons(&existing, &claim("green", &["10.1.0.0/16"])), [""; 0]);
}

#[test]
fn prefixes_that_nobody_can_have_are_refused() {
    for (prefix, why) in [
        ("0.0.0.0/0", "default route"),
        ("::/0", "default route"),
        ("8.0.0.0/7", "wider than /8"),
        ("fc00::/7", "wider than /16"),
        ("127.1.0.0/16", "loopback"),
        ("::1/128", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("fe80::/64", "link-local"),
        ("224.0.0.0/8", "multicast"),
        ("ff02::/16", "multicast"),
        ("::ffff:10.0.0.0/104", "IPv4-mapped"),
        ("255.0.0.0/8", "broadcast"),
        ("10.1.2.3/16", "write 10.1.0.0/16"),
    ] {
        let found = objections(
            &Existing::default(),
            &claim("green", &[prefix]),
            &Settings::default(),
        );
        assert!(
            found
                .iter()
                .any(|o| o.reason == "PrefixUnfit" && o.message.contains(why)),
            "{prefix}: {found:?}"
        );
    }
    for good in [
        "10.0.0.0/8",
        "100.64.0.0/10",
        "fd00::/16",
        "2001:db8::/32",
        "240.0.0.0/20",
    ] {
        assert_eq!(why_unfit(&good.parse().unwrap()), None, "{good}");
    }
}

#[test]
fn a_claim_without_pods_or_uid_or_with_too_many_prefixes_is_refused() {
    let mut empty = claim("green", &[]);
    empty.uid.clear();
    assert_eq!(reasons(&Existing::default(), &empty), ["NoUid", "NoPodPrefix"]);
    let mut many = claim("green", &[]);
    many.pod_cidrs = (0..=64u8)
        .map(|i| format!("10.{i}.0.0/16").parse().unwrap())
        .collect();
    many.service_cidrs.clear();
    assert_eq!(reasons(&Existing::default(), &many), ["TooManyPrefixes"]);
    let mut vips = claim("green", &["10.1.0.0/16"]);
    vips.vip_cidrs = nets(&["243.0.0.0/16", "243.1.0.0/16"]);
    assert_eq!(reasons(&Existing::default(), &vips), ["TooManyPrefixes"]);
}

#[test]
fn kube_namespaces_are_never_admitted() {
    let refused = refused_namespaces(&[
        "*".into(),
        "shop".into(),
        "kube-system".into(),
        "kube-*".into(),
        "a*".into(),
    ]);
    assert_eq!(refused.len(), 3);
    assert!(refused[0].message.contains("kube-system"));
}

fn any_net() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        (any::<u32>(), 0u8..=32)
            .prop_map(|(a, l)| IpNet::new(std::net::IpAddr::from(a.to_be_bytes()), l).unwrap()),
        (any::<u128>(), 0u8..=128)
            .prop_map(|(a, l)| IpNet::new(std::net::IpAddr::from(a.to_be_bytes()), l).unwrap()),
        (0u8..4, 0u8..8).prop_map(|(a, b)| format!("10.{a}.{}.0/19", b * 32).parse().unwrap()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whoever is admitted, no two members' prefixes or blocks ever overlap, and none covers the internet.
    #[test]
    fn admitted_members_never_overlap(claims in prop::collection::vec(prop::collection::vec(any_net(), 1..4), 1..12)) {
        let settings = Settings::default();
        let mut existing = Existing::default();
        for (i, pods) in claims.into_iter().enumerate() {
            let mut c = claim(&format!("c{i}"), &[]);
            c.pod_cidrs = pods;
            if objections(&existing, &c, &settings).is_empty() {
                let epoch = i as u64;
                existing.members.push(admit(&existing, &c, &["*".into()], &settings, "2026-01-01T00:00:00Z", epoch).unwrap());
            }
        }
        let all: Vec<(usize, IpNet)> = existing.members.iter().enumerate()
            .flat_map(|(i, m)| m.prefixes.iter().chain(&m.node_blocks).map(move |p| (i, *p)))
            .collect();
        for (i, a) in &all {
            prop_assert!(a.prefix_len() >= 8);
            prop_assert!(all.iter().all(|(j, b)| i == j || !overlap(a, b)));
        }
    }
}
