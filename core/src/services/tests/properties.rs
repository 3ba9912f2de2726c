//! What holds whatever the order and number of objects.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;
use strait_api::records::ServiceType;

use super::world::*;
use crate::services::*;

/// The last word on each object, and older words before it.
fn history() -> impl Strategy<Value = Vec<Object>> {
    let object = prop_oneof![
        (0..3usize).prop_map(|n| Object::Service(service(["a", "b", "c"][n]))),
        (0..3usize).prop_map(|n| Object::Service(Service {
            headless: true,
            ..service(["a", "b", "c"][n])
        })),
        (0..3usize).prop_map(|n| Object::Service(Service {
            ports: vec![port("http", 81)],
            ..service(["a", "b", "c"][n])
        })),
        (0..3usize).prop_map(|n| export(["a", "b", "c"][n])),
        (0..3usize, 0..3usize, prop::collection::vec(1..20u8, 0..4)).prop_map(|(n, s, hosts)| {
            let addresses: Vec<String> = hosts.iter().map(|h| format!("10.1.{s}.{h}")).collect();
            let name = ["a", "b", "c"][n];
            local_slice(
                &format!("{name}-{s}"),
                name,
                &addresses.iter().map(String::as_str).collect::<Vec<_>>(),
            )
        }),
        (
            0..3usize,
            0..2usize,
            1..9u8,
            prop::collection::vec(1..20u8, 0..4),
            80..82u16
        )
            .prop_map(|(n, c, month, hosts, number)| {
                let (id, net) = [("green", 2), ("red", 3)][c];
                let addresses: Vec<String> = hosts.iter().map(|h| format!("10.{net}.0.{h}")).collect();
                let mut spec = spec(
                    id,
                    ["a", "b", "c"][n],
                    &format!("2026-0{month}-01T00:00:00Z"),
                    &addresses.iter().map(String::as_str).collect::<Vec<_>>(),
                );
                spec.ports = vec![port("http", number)];
                copy(spec)
            }),
    ];
    prop::collection::vec(object, 1..24)
}

fn identity(object: &Object) -> String {
    match object {
        Object::Service(s) => format!("service {}", s.key),
        Object::Export(e) => format!("export {}", e.key),
        Object::LocalSlice(s) => format!("slice {}", s.name),
        Object::Record(r) => format!("record {}", r.record.name),
        other => format!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Whatever the order of the objects and wherever plans are carried out in between, the same stands in
    /// the end, and no address moves on the way.
    #[test]
    fn order_does_not_matter(history in history(), shuffle in any::<u64>(), pauses in prop::collection::vec(any::<bool>(), 24)) {
        let mut last: BTreeMap<String, Object> = BTreeMap::new();
        for object in &history {
            last.insert(identity(object), object.clone());
        }
        let mut plain = World::new(&["243.0.0.0/16"]);
        for object in last.values() {
            plain.put(object.clone());
        }
        plain.settle();

        let mut shuffled: Vec<Object> = last.values().cloned().collect();
        let n = shuffled.len();
        let mut seed = shuffle;
        for i in (1..n).rev() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            shuffled.swap(i, (seed >> 33) as usize % (i + 1));
        }
        let mut other = World::new(&["243.0.0.0/16"]);
        let mut vips: BTreeMap<ServiceKey, Vec<IpAddr>> = BTreeMap::new();
        for (i, object) in history.iter().cloned().chain(shuffled).enumerate() {
            other.put(object);
            if pauses[i % pauses.len()] {
                other.settle();
                for (key, import) in &other.imports {
                    if let Some(ips) = &import.spec.ips {
                        let first = vips.entry(key.clone()).or_insert_with(|| ips.clone());
                        prop_assert_eq!(first, ips);
                    }
                }
            }
        }
        other.settle();
        prop_assert_eq!(plain.objects(), other.objects());
    }

    /// No two services share an address, however small the range and whatever comes and goes.
    #[test]
    fn addresses_are_unique_and_stay(steps in prop::collection::vec((0..12u8, any::<bool>()), 1..40)) {
        let mut w = World::new(&["243.0.0.0/28"]);
        let mut held: BTreeMap<ServiceKey, Vec<IpAddr>> = BTreeMap::new();
        for (n, comes) in steps {
            let name = format!("s{n}");
            if comes {
                w.put(copy(spec("green", &name, "2026-02-02T00:00:00Z", &["10.2.0.5"])));
            } else {
                w.gone(Kind::Record, "", &format!("green.{name}.demo"));
            }
            w.settle();
            held.retain(|key, _| w.imports.contains_key(key));
            let mut seen = BTreeSet::new();
            for (key, import) in &w.imports {
                let ips = import.spec.ips.clone().unwrap();
                prop_assert!(ips.iter().all(|a| seen.insert(*a)));
                prop_assert_eq!(held.entry(key.clone()).or_insert_with(|| ips.clone()), &ips);
            }
        }
    }

    /// The merge depends on the exports, not on their order.
    #[test]
    fn merging_is_independent_of_order(list in prop::collection::vec((0..5usize, 1..9u8, 80..84u16, any::<bool>()), 0..5), turn in 0..5usize) {
        let ids = ["blue", "green", "red", "teal", "pink"];
        let mut by_cluster = BTreeMap::new();
        for (c, month, number, headless) in list {
            let mut s = spec(ids[c], "web", &format!("2026-0{month}-01T00:00:00Z"), &[]);
            s.ports = vec![port("http", number)];
            if headless {
                s.type_ = ServiceType::Headless;
            }
            by_cluster.insert(ids[c], merge::Constituent { spec: s, admitted_at: None, draining: false });
        }
        let mut list: Vec<_> = by_cluster.into_values().collect();
        let first = merge::merge(&list);
        if !list.is_empty() {
            let turn = turn % list.len();
            list.rotate_left(turn);
        }
        list.reverse();
        prop_assert_eq!(first.clone(), merge::merge(&list));
        if let Some(merged) = first {
            let names: BTreeSet<_> = merged.ports.iter().map(|p| &p.name).collect();
            prop_assert_eq!(names.len(), merged.ports.len());
        }
    }
}
