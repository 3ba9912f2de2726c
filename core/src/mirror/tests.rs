use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::json;
use strait_api::ClusterId;
use strait_api::records::{MemberSpec, MemberState};

use super::*;
use crate::clusterset::{Record, Records, view};

const NOW: &str = "2026-06-01T00:00:00Z";

fn id(s: &str) -> ClusterId {
    s.parse().unwrap()
}

fn cluster(of: &str, marker: Option<&str>) -> Spec {
    Spec::parse(
        Kind::Cluster,
        &json!({"clusterId": of, "podCidrs": ["10.2.0.0/16"], "fullSync": marker}),
    )
    .unwrap()
}

fn gateway(of: &str, port: u16) -> Spec {
    let key = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
    let spec = json!({"clusterId": of, "node": "gw", "udpPort": port, "addresses": {},
        "keys": [{"slot": 0, "publicKeys": [key]}]});
    Spec::parse(Kind::Gateway, &spec).unwrap()
}

fn export(of: &str, name: &str, address: &str) -> Spec {
    let spec = json!({"clusterId": of, "namespace": "demo", "name": name, "type": "ClusterSetIP",
        "exportedAt": "2026-01-01T00:00:00Z",
        "endpoints": [{"family": "IPv4", "ports": [], "endpoints": [
            {"address": address, "ready": true, "serving": true, "terminating": false}]}]});
    Spec::parse(Kind::ExportedService, &spec).unwrap()
}

fn member(of: &str, epoch: u64, state: MemberState) -> MemberSpec {
    MemberSpec {
        cluster_id: id(of),
        uid: format!("uid-{of}"),
        prefixes: vec!["10.2.0.0/16".parse().unwrap()],
        node_blocks: vec!["240.0.16.0/20".parse().unwrap()],
        export_namespaces: vec!["*".into()],
        state,
        epoch,
        admitted_at: "2026-01-01T00:00:00Z".into(),
        key_fingerprint: None,
        removed_at: (state == MemberState::Evicted).then(|| "2026-05-01T00:00:00Z".into()),
    }
}

fn c(name: &str) -> Key {
    Key::new(Kind::Cluster, name)
}
fn g(name: &str) -> Key {
    Key::new(Kind::Gateway, name)
}
fn e(name: &str) -> Key {
    Key::new(Kind::ExportedService, name)
}

fn own(records: &[(Key, Spec)]) -> Own {
    Own {
        records: records.iter().cloned().map(|(k, s)| (k, Some(s))).collect(),
    }
}

fn remote(records: &[(Key, Spec)]) -> Remote {
    let confirmed = records.iter().map(|(k, _)| k.clone()).collect();
    Remote {
        records: own(records).records,
        confirmed,
    }
}

fn blue() -> Vec<(Key, Spec)> {
    vec![
        (c("blue"), cluster("blue", None)),
        (g("gw"), gateway("blue", 1)),
        (e("web.demo"), export("blue", "web", "10.2.0.1")),
    ]
}

#[test]
fn all_own_records_are_published_the_cluster_last() {
    let plan = publish(&id("blue"), &own(&blue()), &Remote::default(), true, NOW);
    let keys: Vec<&Key> = plan.writes.iter().map(Write::key).collect();
    assert_eq!(keys, [&g("gw"), &e("web.demo"), &c("blue")]);
    assert!(plan.marker);
    let again = publish(&id("blue"), &own(&blue()), &remote(&blue()), false, NOW);
    assert_eq!(again, Publication::default());
}

#[test]
fn an_unexport_is_deleted_and_a_gateway_leaves_by_a_tombstone_kept_for_30_days() {
    let plan = publish(&id("blue"), &own(&blue()[..1]), &remote(&blue()), false, NOW);
    assert_eq!(
        plan.writes,
        [
            Write::Put {
                key: g("gw"),
                spec: gateway("blue", 1).removed(NOW)
            },
            Write::Delete { key: e("web.demo") },
        ]
    );
    assert!(plan.marker, "a receiver that was away must learn of the deletion");
    let later = |at: &str| {
        let there = remote(&[
            (c("blue"), cluster("blue", None)),
            (g("gw"), gateway("blue", 1).removed(at)),
        ]);
        publish(&id("blue"), &own(&blue()[..1]), &there, false, NOW).writes
    };
    assert_eq!(later("2026-05-03T00:00:00Z"), []);
    assert_eq!(later("2026-05-01T00:00:00Z"), [Write::Delete { key: g("gw") }]);
}

#[test]
fn nothing_is_taken_back_without_a_cluster_record_at_home() {
    assert_eq!(
        publish(&id("blue"), &own(&[]), &remote(&blue()), true, NOW),
        Publication::default()
    );
    let foreign = own(&[(c("blue"), cluster("green", None))]);
    assert_eq!(
        publish(&id("blue"), &foreign, &remote(&blue()), true, NOW),
        Publication::default()
    );
}

#[test]
fn records_that_the_broker_lost_are_published_again_with_a_new_marker() {
    let mut there = remote(&blue());
    there.records.remove(&e("web.demo"));
    let plan = publish(&id("blue"), &own(&blue()), &there, false, NOW);
    assert_eq!(plan.writes.len(), 1);
    assert!(plan.marker);
    there.confirmed.clear();
    assert!(
        !publish(&id("blue"), &own(&blue()), &there, false, NOW).marker,
        "a new record needs none"
    );
}

#[test]
fn a_record_that_speaks_for_somebody_else_is_not_published() {
    let mut records = blue();
    records.push((g("rogue"), gateway("green", 1)));
    let plan = publish(&id("blue"), &own(&records), &remote(&blue()), false, NOW);
    assert_eq!(plan.writes, []);
    assert!(
        plan.problems[0].1.contains("speaks for cluster green"),
        "{:?}",
        plan.problems
    );
}

fn theirs(records: &[(Key, Spec)]) -> BTreeMap<Key, Result<Spec, String>> {
    records.iter().cloned().map(|(k, s)| (k, Ok(s))).collect()
}

/// Green as member, with these records on the broker and these copies here.
fn inbox(records: &[(Key, Spec)], copies: &[(Key, Spec)]) -> Inbox {
    let green = member("green", 1, MemberState::Active);
    Inbox {
        members: BTreeMap::from([("green".into(), Ok(green.clone()))]),
        records: BTreeMap::from([(id("green"), theirs(records))]),
        local_members: BTreeMap::from([(id("green"), green)]),
        copies: BTreeMap::from([(id("green"), own(copies).records)]),
        ..Inbox::default()
    }
}

fn green(marker: &str) -> Vec<(Key, Spec)> {
    vec![
        (c("green"), cluster("green", Some(marker))),
        (g("gw"), gateway("green", 1)),
        (e("web.demo"), export("green", "web", "10.2.0.1")),
    ]
}

fn apply(inbox: &mut Inbox, plan: &Reception) {
    for change in &plan.changes {
        match change {
            Change::Put { owner, key, spec } => {
                inbox
                    .copies
                    .entry(owner.clone())
                    .or_default()
                    .insert(key.clone(), Some(spec.clone()));
            }
            Change::Delete { owner, key, .. } => {
                inbox.copies.entry(owner.clone()).or_default().remove(key);
            }
            Change::PutMember(m) => {
                inbox.local_members.insert(m.cluster_id.clone(), (**m).clone());
            }
            Change::DeleteMember(id) => {
                inbox.local_members.remove(id);
            }
        }
    }
}

const M1: &str = "2026-05-10T00:00:00Z";
const M2: &str = "2026-05-20T00:00:00Z";

#[test]
fn the_others_records_and_members_are_copied_once() {
    let mut inbox = inbox(&green(M1), &[]);
    inbox.local_members.clear();
    let plan = receive(&id("blue"), &inbox, NOW);
    assert!(matches!(&plan.changes[0], Change::PutMember(m) if m.cluster_id == id("green")));
    assert_eq!(plan.changes.len(), 4);
    apply(&mut inbox, &plan);
    assert_eq!(receive(&id("blue"), &inbox, NOW), Reception::default());
}

#[test]
fn our_own_records_and_those_of_nobody_are_not_copied() {
    let mut inbox = inbox(&[], &[]);
    inbox.records.insert(id("blue"), theirs(&blue()));
    inbox
        .records
        .insert(id("stranger"), theirs(&[(g("gw"), gateway("stranger", 1))]));
    inbox
        .members
        .insert("blue".into(), Ok(member("blue", 1, MemberState::Active)));
    let plan = receive(&id("blue"), &inbox, NOW);
    assert!(
        matches!(&plan.changes[..], [Change::PutMember(m)] if m.cluster_id == id("blue")),
        "{plan:?}"
    );
}

#[test]
fn an_empty_broker_takes_nothing_away() {
    let mut inbox = inbox(&[], &green(M1));
    inbox.members.clear();
    assert_eq!(receive(&id("blue"), &inbox, NOW), Reception::default());
    inbox
        .members
        .insert("green".into(), Ok(member("green", 1, MemberState::Active)));
    assert_eq!(receive(&id("blue"), &inbox, NOW), Reception::default());
}

#[test]
fn a_deletion_seen_in_a_watch_takes_the_export_alone() {
    let mut inbox = inbox(&green(M1)[..2], &green(M1));
    inbox.deleted.insert((id("green"), e("web.demo")));
    let plan = receive(&id("blue"), &inbox, NOW);
    assert!(
        matches!(&plan.changes[..], [Change::Delete { key, .. }] if *key == e("web.demo")),
        "{plan:?}"
    );
    inbox.records.insert(id("green"), theirs(&green(M1)));
    assert_eq!(
        receive(&id("blue"), &inbox, NOW),
        Reception::default(),
        "exported again since"
    );
}

#[test]
fn a_missed_deletion_is_found_by_a_list_made_after_a_newer_marker() {
    let mut inbox = inbox(&green(M2)[..2], &green(M1));
    let plan = receive(&id("blue"), &inbox, NOW);
    assert_eq!(
        plan.changes,
        [],
        "the marker is not taken before it was followed up"
    );
    assert_eq!(plan.verify, BTreeSet::from([id("green")]));

    let keys = BTreeSet::from([c("green"), g("gw")]);
    inbox.fresh.insert(
        id("green"),
        FreshList {
            marker: M2.into(),
            keys,
        },
    );
    let plan = receive(&id("blue"), &inbox, NOW);
    assert_eq!(plan.verify, BTreeSet::new());
    apply(&mut inbox, &plan);
    assert_eq!(inbox.copies[&id("green")], own(&green(M2)[..2]).records);
    assert_eq!(receive(&id("blue"), &inbox, NOW), Reception::default());
}

#[test]
fn a_record_that_the_fresh_list_holds_is_only_late_in_our_watch() {
    let mut inbox = inbox(&green(M2)[..2], &green(M1));
    let keys = green(M2).into_iter().map(|(k, _)| k).collect();
    inbox.fresh.insert(
        id("green"),
        FreshList {
            marker: M2.into(),
            keys,
        },
    );
    let plan = receive(&id("blue"), &inbox, NOW);
    apply(&mut inbox, &plan);
    assert_eq!(inbox.copies[&id("green")], own(&green(M2)).records);
}

#[test]
fn a_restored_broker_with_an_older_marker_takes_nothing_and_the_copy_keeps_the_newer() {
    let mut inbox = inbox(&green(M1)[..2], &green(M2));
    let keys = BTreeSet::from([c("green"), g("gw")]);
    inbox.fresh.insert(
        id("green"),
        FreshList {
            marker: M1.into(),
            keys,
        },
    );
    let plan = receive(&id("blue"), &inbox, NOW);
    assert_eq!(plan, Reception::default());
}

#[test]
fn tombstones_take_copies_away_and_are_not_copied() {
    let mut records = green(M1);
    records[1].1 = records[1].1.removed(NOW);
    let mut inbox = inbox(&records, &green(M1));
    let plan = receive(&id("blue"), &inbox, NOW);
    assert!(
        matches!(&plan.changes[..], [Change::Delete { key, .. }] if *key == g("gw")),
        "{plan:?}"
    );
    apply(&mut inbox, &plan);
    assert_eq!(receive(&id("blue"), &inbox, NOW), Reception::default());
}

#[test]
fn an_evicted_members_copies_go_and_its_tombstone_stays_until_it_is_old() {
    let mut inbox = inbox(&green(M1), &green(M1));
    inbox
        .members
        .insert("green".into(), Ok(member("green", 2, MemberState::Evicted)));
    let plan = receive(&id("blue"), &inbox, NOW);
    apply(&mut inbox, &plan);
    assert_eq!(inbox.copies[&id("green")], BTreeMap::new());
    assert_eq!(inbox.local_members[&id("green")].state, MemberState::Evicted);

    // A broker restored from before the eviction cannot bring it back.
    inbox
        .members
        .insert("green".into(), Ok(member("green", 1, MemberState::Active)));
    let plan = receive(&id("blue"), &inbox, NOW);
    assert_eq!(plan.changes, []);
    assert!(
        plan.problems[0].message.contains("epoch 1")
            && plan.problems[0].message.contains("delete the Member green here"),
        "{:?}",
        plan.problems
    );
    // Whoever wrote here what the broker never said has that way out.
    let mut healed = inbox.clone();
    healed.local_members.remove(&id("green"));
    let plan = receive(&id("blue"), &healed, NOW);
    apply(&mut healed, &plan);
    assert_eq!(healed.local_members[&id("green")].state, MemberState::Active);

    inbox.members.clear();
    assert_eq!(receive(&id("blue"), &inbox, "2026-05-30T00:00:00Z").changes, []);
    assert_eq!(
        receive(&id("blue"), &inbox, NOW).changes,
        [Change::DeleteMember(id("green"))]
    );
}

#[test]
fn a_record_that_cannot_be_read_leaves_its_copy_and_the_others_alone() {
    let mut inbox = inbox(&green(M1), &green(M1)[1..]);
    inbox
        .records
        .get_mut(&id("green"))
        .unwrap()
        .insert(g("gw"), Err("unknown variant".into()));
    let plan = receive(&id("blue"), &inbox, NOW);
    assert!(
        matches!(&plan.changes[..], [Change::Put { key, .. }] if *key == c("green")),
        "{plan:?}"
    );
    assert!(plan.problems[0].message.contains("unknown variant"));
    assert!(Spec::parse(Kind::ExportedService, &json!({"type": "SomethingNew"})).is_err());
}

#[test]
fn names_that_leave_no_room_for_the_owner_are_refused_alone() {
    let mut records = green(M1);
    records.push((g(&"x".repeat(250)), gateway("green", 1)));
    let plan = receive(&id("blue"), &inbox(&records, &green(M1)), NOW);
    assert_eq!(plan.changes, []);
    assert!(plan.problems[0].message.contains("253"), "{:?}", plan.problems);
}

/// A member that publishes without end harms neither the others nor what it had before.
#[test]
fn more_records_than_a_member_may_have_are_left_out_and_told_of() {
    let name = |n: usize| format!("s{n:05}");
    let service = |n: usize| {
        (
            e(&format!("{}.demo", name(n))),
            export("green", &name(n), "10.2.0.1"),
        )
    };
    let had: Vec<_> = [
        (c("green"), cluster("green", None)),
        service(99_000),
        service(99_001),
    ]
    .into();
    let mut theirs = had.clone();
    theirs.extend((0..MAX_SERVICES + 100).map(service));
    theirs.extend((0..MAX_GATEWAYS + 3).map(|n| (g(&format!("gw-{n:03}")), gateway("green", 1))));
    theirs.push((c("another"), cluster("green", None)));
    let mut inbox = inbox(&theirs, &had);
    let plan = receive(&id("blue"), &inbox, NOW);
    apply(&mut inbox, &plan);
    let count = |inbox: &Inbox, kind| {
        inbox.copies[&id("green")]
            .keys()
            .filter(|k| k.kind == kind)
            .count()
    };
    assert_eq!(count(&inbox, Kind::ExportedService), MAX_SERVICES);
    assert_eq!(count(&inbox, Kind::Gateway), MAX_GATEWAYS);
    assert_eq!(count(&inbox, Kind::Cluster), 1);
    assert!(
        had.iter()
            .all(|(key, _)| inbox.copies[&id("green")].contains_key(key)),
        "what was there stays"
    );
    let again = receive(&id("blue"), &inbox, NOW);
    assert_eq!(again.changes, [], "it does not go round and round");

    let condition = copied(&again.problems.into_iter().collect());
    assert_eq!(
        (condition.type_.as_str(), condition.status.as_str()),
        ("Copied", "False")
    );
    for part in ["5102 records", "131 records", "Cluster another"] {
        assert!(
            condition.message.contains(part),
            "{part} is not in: {}",
            condition.message
        );
    }
    // Room is given to the next as soon as there is some.
    let theirs = inbox.records.get_mut(&id("green")).unwrap();
    theirs.retain(|key, _| key.kind != Kind::ExportedService || key.name.as_str() < "s04000");
    theirs.retain(|key, _| key.kind != Kind::Gateway && *key != c("another"));
    let gone: Vec<Key> = inbox.copies[&id("green")].keys().cloned().collect();
    inbox
        .deleted
        .extend(gone.into_iter().map(|key| (id("green"), key)));
    let plan = receive(&id("blue"), &inbox, NOW);
    assert_eq!(copied(&plan.problems.iter().cloned().collect()).status, "True");
    apply(&mut inbox, &plan);
    assert_eq!(count(&inbox, Kind::ExportedService), 4000);
}

#[test]
fn refusals_become_conditions_and_the_rest_is_admitted() {
    let record = |owner: Option<&str>, name: &str, spec: Spec| (owner.map(id), name.to_owned(), spec);
    let mut records = Records {
        members: vec![member("green", 1, MemberState::Active)],
        ..Records::default()
    };
    let mut services = Vec::new();
    let mut copies: BTreeMap<Kind, Vec<String>> = BTreeMap::new();
    for (owner, name, spec) in [
        record(
            None,
            "blue",
            Spec::parse(
                Kind::Cluster,
                &json!({"clusterId": "blue", "podCidrs": ["10.1.0.0/16"]}),
            )
            .unwrap(),
        ),
        record(Some("green"), "green.green", cluster("green", None)),
        record(Some("green"), "green.gw", gateway("red", 1)),
        record(
            Some("green"),
            "green.good.demo",
            export("green", "good", "10.2.0.1"),
        ),
        record(
            Some("green"),
            "green.evil.demo",
            export("green", "evil", "10.1.0.1"),
        ),
    ] {
        if owner.is_some() {
            copies.entry(spec.kind()).or_default().push(name.clone());
        }
        match spec {
            Spec::Cluster(s) => records.clusters.push(Record {
                owner,
                name,
                spec: *s,
            }),
            Spec::Gateway(s) => records.gateways.push(Record {
                owner,
                name,
                spec: *s,
            }),
            Spec::ExportedService(s) => services.push(Record {
                owner,
                name,
                spec: *s,
            }),
        }
    }
    let mut misnamed = services.last().unwrap().clone();
    misnamed.name = "green.other.demo".to_owned();
    services.push(misnamed);
    let verdicts = verdicts(&view(&records), &copies, &services);
    let said: Vec<(String, String, String)> = verdicts
        .into_iter()
        .map(|((_, name), c)| (name, c.status, c.reason))
        .collect();
    let expect =
        |name: &str, status: &str, reason: &str| (name.to_owned(), status.to_owned(), reason.to_owned());
    assert_eq!(
        said,
        [
            expect("green.gw", "False", "WrongOwner"),
            expect("green.evil.demo", "False", "EndpointNotAdmitted"),
            expect("green.good.demo", "True", "Admitted"),
            expect("green.other.demo", "False", "Malformed"),
            expect("green.green", "True", "Admitted"),
        ]
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// However the broker loses, restores and regains records: while an owner exports a service, and never
    /// says otherwise, the copy stays; and with the broker whole again the copies are what the owner says.
    #[test]
    fn what_an_owner_still_exports_is_never_lost(steps in prop::collection::vec((0u8..6, 0usize..4), 1..60)) {
        let owner = id("green");
        let clock = |t: usize| format!("2026-05-10T00:{:02}:{:02}Z", t / 60, t % 60);
        let mut at_home: BTreeMap<Key, Spec> = BTreeMap::from([(c("green"), cluster("green", None))]);
        let mut broker: BTreeMap<Key, Spec> = BTreeMap::new();
        let mut confirmed = BTreeSet::new();
        let mut backup = broker.clone();
        let mut here = inbox(&[], &[]);
        let mut first = true;
        let sync_owner = |at_home: &mut BTreeMap<Key, Spec>, broker: &mut BTreeMap<Key, Spec>, confirmed: &mut BTreeSet<Key>, first: &mut bool, t: usize| {
            for _ in 0..3 {
                let there = Remote { records: broker.iter().map(|(k, s)| (k.clone(), Some(s.clone()))).collect(), confirmed: confirmed.clone() };
                let mine = Own { records: at_home.iter().map(|(k, s)| (k.clone(), Some(s.clone()))).collect() };
                let plan = publish(&id("green"), &mine, &there, *first, NOW);
                *first = false;
                for write in &plan.writes {
                    match write {
                        Write::Put { key, spec } => { broker.insert(key.clone(), spec.clone()); }
                        Write::Delete { key } => { broker.remove(key); }
                    }
                }
                *confirmed = broker.keys().cloned().collect();
                if plan.marker {
                    at_home.insert(c("green"), cluster("green", Some(&clock(t))));
                }
            }
        };
        let receive_all = |here: &mut Inbox, broker: &BTreeMap<Key, Spec>| {
            here.records = BTreeMap::from([(id("green"), broker.iter().map(|(k, s)| (k.clone(), Ok(s.clone()))).collect())]);
            here.fresh.clear();
            for _ in 0..3 {
                let plan = receive(&id("blue"), here, NOW);
                apply(here, &plan);
                for owner in plan.verify {
                    if let Some(marker) = broker.get(&c("green")).and_then(|s| s.full_sync().map(str::to_owned)) {
                        here.fresh.insert(owner, FreshList { marker, keys: broker.keys().cloned().collect() });
                    }
                }
            }
        };
        for (t, (step, which)) in steps.into_iter().enumerate() {
            let key = e(&format!("s{which}.demo"));
            match step {
                0 => { at_home.insert(key, export("green", &format!("s{which}"), "10.2.0.1")); sync_owner(&mut at_home, &mut broker, &mut confirmed, &mut first, t); }
                1 => { at_home.remove(&key); sync_owner(&mut at_home, &mut broker, &mut confirmed, &mut first, t); }
                2 => broker.clear(),
                3 => broker = backup.clone(),
                4 => backup = broker.clone(),
                _ => sync_owner(&mut at_home, &mut broker, &mut confirmed, &mut first, t),
            }
            let before: BTreeSet<Key> = here.copies.get(&owner).map(|c| c.keys().cloned().collect()).unwrap_or_default();
            receive_all(&mut here, &broker);
            let after = here.copies.get(&owner).cloned().unwrap_or_default();
            for lost in before.iter().filter(|k| !after.contains_key(*k)) {
                prop_assert!(!at_home.contains_key(lost), "step {}: {:?} is still exported", t, lost);
            }
        }
        sync_owner(&mut at_home, &mut broker, &mut confirmed, &mut first, 3000);
        receive_all(&mut here, &broker);
        let copies: BTreeMap<Key, Spec> = here.copies[&owner].iter().map(|(k, s)| (k.clone(), s.clone().unwrap())).collect();
        prop_assert_eq!(copies, at_home);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The records of two members come in any order, with rounds of the mirror at any moment in between, and
    /// older words before the last ones: in the end the copies are the same, and so is what goes to the broker.
    #[test]
    fn the_order_of_events_does_not_matter(
        events in prop::collection::vec((0usize..2, 0usize..6, any::<bool>(), any::<bool>()), 0..16),
        (last, shuffled) in prop::collection::btree_map((0usize..2, 0usize..6), any::<bool>(), 0..10)
            .prop_flat_map(|last| {
                let last: Vec<_> = last.into_iter().collect();
                (Just(last.clone()), Just(last).prop_shuffle())
            }),
        pauses in prop::collection::vec(any::<bool>(), 1..8),
    ) {
        let owners = ["green", "red"];
        let key = |n: usize| match n {
            0 => g("gw"),
            1 => g("other"),
            n => e(&format!("s{n}.demo")),
        };
        let spec = |owner: usize, n: usize, version: bool| match n {
            0 | 1 => gateway(owners[owner], u16::from(version) + 1),
            n => export(owners[owner], &format!("s{n}"), if version { "10.2.0.1" } else { "10.2.0.2" }),
        };
        let start = || {
            let mut inbox = inbox(&[], &[]);
            for owner in owners {
                inbox.members.insert(owner.into(), Ok(MemberSpec { cluster_id: id(owner), ..member(owner, 1, MemberState::Active) }));
                inbox.records.entry(id(owner)).or_default().insert(c(owner), Ok(cluster(owner, None)));
            }
            inbox
        };
        let round = |inbox: &mut Inbox| {
            for _ in 0..3 {
                let plan = receive(&id("blue"), inbox, NOW);
                apply(inbox, &plan);
            }
            assert_eq!(receive(&id("blue"), inbox, NOW).changes, []);
            // What was carried out is forgotten, as the mirror does.
            let copies = inbox.copies.clone();
            inbox.deleted.retain(|(owner, key)| copies.get(owner).is_some_and(|c| c.contains_key(key)));
        };
        let put = |inbox: &mut Inbox, owner: usize, n: usize, version: bool| {
            inbox.deleted.remove(&(id(owners[owner]), key(n)));
            inbox.records.entry(id(owners[owner])).or_default().insert(key(n), Ok(spec(owner, n, version)));
        };
        let mut plain = start();
        for ((owner, n), version) in &last {
            put(&mut plain, *owner, *n, *version);
        }
        round(&mut plain);

        let mut other = start();
        let spoken: BTreeSet<(usize, usize)> = last.iter().map(|(at, _)| *at).collect();
        for (i, (owner, n, version, gone)) in events.into_iter().enumerate() {
            // Only exports are deleted in a watch; what is never spoken of again must be gone at the end.
            let never = !spoken.contains(&(owner, n));
            if never && n < 2 {
                continue;
            }
            put(&mut other, owner, n, version);
            if pauses[i % pauses.len()] {
                round(&mut other);
            }
            if n >= 2 && (gone || never) {
                other.records.get_mut(&id(owners[owner])).unwrap().remove(&key(n));
                other.deleted.insert((id(owners[owner]), key(n)));
            }
        }
        for (i, ((owner, n), version)) in shuffled.into_iter().enumerate() {
            put(&mut other, owner, n, version);
            if pauses[i % pauses.len()] {
                round(&mut other);
            }
        }
        round(&mut other);
        let copies = |inbox: &Inbox| inbox.copies.clone().into_iter().filter(|(_, c)| !c.is_empty()).collect::<BTreeMap<_, _>>();
        prop_assert_eq!(copies(&plain), copies(&other));
    }
}
