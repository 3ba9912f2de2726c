//! Checks of a claim's prefixes.

use ipnet::IpNet;
use strait_api::records::{JoinClaim, MemberSpec};

use super::{MAX_PREFIXES, MemberRanges, Objection, Settings};
use crate::clusterset::overlap;

/// Address ranges that belong to nobody's pods, and what they are.
const NOBODYS: [(&str, &str); 10] = [
    ("0.0.0.0/8", "\"this network\""),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("224.0.0.0/4", "multicast"),
    ("255.255.255.255/32", "broadcast"),
    ("::/127", "unspecified and loopback"),
    ("::ffff:0:0/96", "IPv4-mapped"),
    ("fe80::/10", "link-local"),
    ("ff00::/8", "multicast"),
    ("64:ff9b::/96", "NAT64"),
];

/// Why a prefix can be nobody's pods, Services or VIPs; `None` if it can.
pub fn why_unfit(prefix: &IpNet) -> Option<String> {
    let widest = match prefix {
        IpNet::V4(_) => 8,
        IpNet::V6(_) => 16,
    };
    if prefix.prefix_len() == 0 {
        return Some("it is the default route".to_owned());
    }
    if prefix.prefix_len() < widest {
        return Some(format!("it is wider than /{widest}"));
    }
    if prefix.trunc() != *prefix {
        return Some(format!("it has host bits set (write {})", prefix.trunc()));
    }
    NOBODYS
        .iter()
        .filter_map(|(range, what)| Some((range.parse::<IpNet>().ok()?, what)))
        .find(|(range, _)| overlap(range, prefix))
        .map(|(range, what)| format!("it overlaps with {range} ({what})"))
}

fn sorts(claim: &JoinClaim) -> [(&'static str, &'static str, &[IpNet]); 3] {
    [
        ("pod", "--pod-cidr", &claim.pod_cidrs),
        ("service", "--service-cidr", &claim.service_cidrs),
        ("VIP", "--vip-cidr", &claim.vip_cidrs),
    ]
}

/// Each prefix by itself, and the claim against itself.
pub(super) fn own(claim: &JoinClaim, found: &mut Vec<Objection>) {
    let id = &claim.cluster_id;
    if claim.pod_cidrs.is_empty() {
        let message = format!("cluster {id} claims no pod prefix; give it with --pod-cidr");
        found.push(Objection::new("NoPodPrefix", message));
    }
    for (sort, flag, list) in sorts(claim) {
        if list.len() > MAX_PREFIXES {
            let message = format!(
                "cluster {id} claims {} {sort} prefixes, the most is {MAX_PREFIXES}; give the range that holds them with {flag}",
                list.len()
            );
            found.push(Objection::new("TooManyPrefixes", message));
        }
        for prefix in list.iter().take(MAX_PREFIXES) {
            if let Some(why) = why_unfit(prefix) {
                let message = format!("{sort} prefix {prefix} of cluster {id} cannot be admitted: {why}");
                found.push(Objection::new("PrefixUnfit", message));
            }
        }
        for v6 in [false, true] {
            let of_family = list.iter().filter(|p| matches!(p, IpNet::V6(_)) == v6).count();
            if sort == "VIP" && of_family > 1 {
                let message = format!(
                    "cluster {id} claims {of_family} VIP prefixes of one family; give one with {flag}"
                );
                found.push(Objection::new("TooManyPrefixes", message));
            }
        }
    }
    let [pods, services, vips] = sorts(claim);
    for ((sort_a, _, a), (sort_b, flag, b)) in [(pods, services), (pods, vips), (services, vips)] {
        each_overlap(a, b, |x, y| {
            let message = format!(
                "{sort_a} prefix {x} of cluster {id} overlaps with its own {sort_b} prefix {y}; change one, for instance with {flag}"
            );
            found.push(Objection::new("PrefixOverlaps", message));
        });
    }
}

/// The claim against the node pools.
pub(super) fn against_pools(claim: &JoinClaim, settings: &Settings, found: &mut Vec<Objection>) {
    for (sort, flag, list) in sorts(claim) {
        each_overlap(list, &settings.node_pools, |x, pool| {
            let message = format!(
                "{sort} prefix {x} of cluster {} overlaps with the node pool {pool}; change {flag} there, or --node-pool at the broker",
                claim.cluster_id
            );
            found.push(Objection::new("PrefixOverlaps", message));
        });
    }
}

/// The claim against a member. Two clusters may use the same range for Services, and the same for VIPs:
/// neither travels between clusters.
pub(super) fn against_member(
    claim: &JoinClaim,
    member: &MemberSpec,
    ranges: &MemberRanges,
    found: &mut Vec<Objection>,
) {
    let theirs = [
        ("admitted prefix", member.prefixes.as_slice()),
        ("node block", member.node_blocks.as_slice()),
        ("service prefix", &ranges.services),
        ("VIP prefix", &ranges.vips),
    ];
    for (sort, flag, list) in sorts(claim) {
        for (what, list_of_theirs) in &theirs {
            if sort != "pod" && matches!(*what, "service prefix" | "VIP prefix") {
                continue;
            }
            each_overlap(list, list_of_theirs, |x, y| {
                let message = format!(
                    "{sort} prefix {x} of cluster {} overlaps with {what} {y} of member {}; the clusters cannot be joined until one changes its range ({flag})",
                    claim.cluster_id, member.cluster_id
                );
                found.push(Objection::new("PrefixOverlaps", message));
            });
        }
    }
}

fn each_overlap(a: &[IpNet], b: &[IpNet], mut report: impl FnMut(&IpNet, &IpNet)) {
    for x in a.iter().take(MAX_PREFIXES) {
        if let Some(y) = b.iter().find(|y| overlap(x, y)) {
            report(x, y);
        }
    }
}
