use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;
use strait_api::records::{MemberSpec, MemberState};

use super::*;

fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|p| p.parse().unwrap()).collect()
}

fn member(id: usize, blocks: Vec<IpNet>, state: MemberState) -> MemberSpec {
    MemberSpec {
        cluster_id: format!("c{id}").parse().unwrap(),
        uid: format!("uid-{id}"),
        prefixes: vec![],
        node_blocks: blocks,
        export_namespaces: vec!["*".into()],
        state,
        epoch: 1,
        admitted_at: "2026-01-01T00:00:00Z".into(),
        key_fingerprint: None,
        removed_at: (state == MemberState::Evicted).then(|| "2026-02-01T00:00:00Z".into()),
    }
}

#[test]
fn members_get_the_lowest_free_block_of_the_families_that_they_use() {
    let pools = nets(&DEFAULT_NODE_POOLS);
    let none: [MemberSpec; 0] = [];
    assert_eq!(
        node_blocks(&pools, &none, &nets(&["10.1.0.0/16"])),
        Ok(nets(&["240.0.0.0/20"]))
    );
    assert_eq!(
        node_blocks(&pools, &none, &nets(&["fd00::/48"])),
        Ok(nets(&["fd53:7472:6100::/64"]))
    );
    let first = member(
        1,
        nets(&["240.0.0.0/20", "fd53:7472:6100::/64"]),
        MemberState::Active,
    );
    assert_eq!(
        node_blocks(&pools, &[first], &nets(&["fd00::/48", "10.1.0.0/16"])),
        Ok(nets(&["240.0.16.0/20", "fd53:7472:6100:1::/64"]))
    );
}

#[test]
fn a_block_is_not_given_again_while_its_tombstone_is_kept() {
    let pools = nets(&["240.0.0.0/19"]);
    let gone = member(1, nets(&["240.0.0.0/20"]), MemberState::Evicted);
    let live = member(2, nets(&["240.0.16.0/20"]), MemberState::Active);
    let pods = nets(&["10.1.0.0/16"]);
    let full = node_blocks(&pools, &[gone, live.clone()], &pods).unwrap_err();
    assert!(full.to_string().contains("no free /20 block"), "{full}");
    assert_eq!(node_blocks(&pools, &[live], &pods), Ok(nets(&["240.0.0.0/20"])));
}

#[test]
fn a_missing_pool_is_named() {
    let e = node_blocks(&nets(&["240.0.0.0/8"]), &[], &nets(&["fd00::/48"])).unwrap_err();
    assert!(
        e.to_string().contains("IPv6") && e.to_string().contains("--node-pool"),
        "{e}"
    );
}

#[test]
fn a_neighbour_as_wide_as_the_pool_ends_the_search_at_once() {
    let mut wide = member(1, vec![], MemberState::Active);
    wide.prefixes = nets(&["fd53:7472:6100::/40"]);
    let e = node_blocks(&nets(&["fd53:7472:6100::/40"]), &[wide], &nets(&["fd00::/48"])).unwrap_err();
    assert_eq!(
        e,
        AllocationError::Exhausted {
            family: "IPv6",
            length: 64
        }
    );
}

fn held(nodes: &[(&str, &[&str])]) -> BTreeMap<String, Vec<IpAddr>> {
    nodes
        .iter()
        .map(|(name, held)| {
            (
                (*name).to_owned(),
                held.iter().map(|a| a.parse().unwrap()).collect(),
            )
        })
        .collect()
}

#[test]
fn nodes_keep_what_they_hold_and_the_rest_take_the_lowest_free() {
    let blocks = nets(&["240.0.0.0/29", "fd53::/64"]);
    let given = node_addresses(
        &blocks,
        &held(&[("a", &[]), ("b", &["240.0.0.1"]), ("c", &["9.9.9.9", "fd53::7"])]),
    );
    assert_eq!(
        given.assigned,
        held(&[
            ("a", &["240.0.0.2", "fd53::1"]),
            ("b", &["240.0.0.1", "fd53::2"]),
            ("c", &["240.0.0.3", "fd53::7"])
        ])
    );
    assert_eq!(given.without, BTreeSet::new());
}

#[test]
fn an_address_claimed_twice_stays_with_the_first_and_reserved_ones_are_changed() {
    let given = node_addresses(
        &nets(&["240.0.0.0/29"]),
        &held(&[
            ("a", &["240.0.0.3"]),
            ("b", &["240.0.0.3"]),
            ("c", &["240.0.0.0"]),
            ("d", &["240.0.0.7"]),
        ]),
    );
    assert_eq!(
        given.assigned,
        held(&[
            ("a", &["240.0.0.3"]),
            ("b", &["240.0.0.1"]),
            ("c", &["240.0.0.2"]),
            ("d", &["240.0.0.4"])
        ])
    );
}

#[test]
fn nodes_beyond_the_block_are_named() {
    let given = node_addresses(
        &nets(&["240.0.0.0/30"]),
        &held(&[("a", &[]), ("b", &[]), ("c", &[])]),
    );
    assert_eq!(given.without, BTreeSet::from(["c".to_owned()]));
    assert_eq!(given.assigned["c"], Vec::<IpAddr>::new());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever joins and is forgotten, blocks of kept members never overlap and never change.
    #[test]
    fn blocks_never_overlap(steps in prop::collection::vec((any::<bool>(), 0usize..8, 0u8..3), 1..40)) {
        let pools = nets(&["240.0.0.0/17", "fd53:7472:6100::/61"]);
        let mut members: Vec<MemberSpec> = Vec::new();
        for (next, (join, which, families)) in steps.into_iter().enumerate() {
            if join {
                let pods = match families { 0 => nets(&["10.0.0.0/16"]), 1 => nets(&["fd00::/48"]), _ => nets(&["10.0.0.0/16", "fd00::/48"]) };
                match node_blocks(&pools, &members, &pods) {
                    Ok(blocks) => {
                        prop_assert_eq!(blocks.len(), pods.len());
                        members.push(member(next, blocks, MemberState::Active));
                    }
                    Err(e) => {
                        let exhausted = matches!(e, AllocationError::Exhausted { .. });
                        prop_assert!(exhausted);
                    }
                }
            } else if which < members.len() {
                members.remove(which);
            }
            let all: Vec<&IpNet> = members.iter().flat_map(|m| &m.node_blocks).collect();
            for (i, a) in all.iter().enumerate() {
                prop_assert!(pools.iter().any(|p| p.contains(*a)));
                prop_assert!(all[i + 1..].iter().all(|b| !overlap(a, b)));
            }
        }
    }

    /// Addresses are unique and inside the block, and giving them out again changes nothing.
    #[test]
    fn addresses_are_unique_and_stable(nodes in prop::collection::btree_map("[a-f]{1,3}", prop::collection::vec(0u32..40, 0..3), 0..40)) {
        let block: IpNet = "240.0.0.0/27".parse().unwrap();
        let nodes: BTreeMap<String, Vec<IpAddr>> = nodes.into_iter().map(|(name, held)| {
            (name, held.into_iter().map(|h| IpAddr::from((0xf000_0000_u32 + h).to_be_bytes())).collect())
        }).collect();
        let given = node_addresses(&[block], &nodes);
        let all: Vec<IpAddr> = given.assigned.values().flatten().copied().collect();
        prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        prop_assert!(all.iter().all(|a| block.contains(a) && !reserved(&block, *a)));
        prop_assert_eq!(all.len(), nodes.len().min(30));
        prop_assert_eq!(given.without.len(), nodes.len() - all.len());
        let again = node_addresses(&[block], &given.assigned);
        for (name, addresses) in &given.assigned {
            if !addresses.is_empty() { prop_assert_eq!(&again.assigned[name], addresses); }
        }
        // A node that leaves moves nobody.
        let mut fewer = given.assigned.clone();
        fewer.pop_first();
        fewer.retain(|_, a| !a.is_empty());
        prop_assert_eq!(&node_addresses(&[block], &fewer).assigned, &fewer);
    }
}
