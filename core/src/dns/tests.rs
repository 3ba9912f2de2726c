use std::collections::BTreeMap;

use proptest::prelude::*;
use strait_api::mcs::ServiceImportSpec;
use strait_api::names::LABEL_MCS_CLUSTER;
use strait_api::records::{self, IpFamily, ServicePort, ServiceType};

use super::{Answer, Data, Question, Rcode, Service, Snapshot, answer, types};
use crate::services::{ServiceKey, Slice};

fn port(name: &str, protocol: &str, port: u16) -> ServicePort {
    ServicePort {
        name: name.into(),
        protocol: protocol.into(),
        port,
        app_protocol: None,
    }
}

fn import(type_: ServiceType, ips: &[&str], ports: Vec<ServicePort>) -> ServiceImportSpec {
    ServiceImportSpec {
        ports,
        type_,
        ips: (!ips.is_empty()).then(|| ips.iter().map(|a| a.parse().unwrap()).collect()),
        ip_families: None,
        session_affinity: None,
        session_affinity_config: None,
        internal_traffic_policy: None,
        traffic_distribution: None,
    }
}

fn slice(cluster: &str, endpoints: &[(&str, Option<&str>, bool)]) -> Slice {
    Slice {
        name: format!("pets-{cluster}"),
        service: ServiceKey::new("demo", "pets"),
        labels: BTreeMap::from([(LABEL_MCS_CLUSTER.to_owned(), cluster.to_owned())]),
        family: IpFamily::IPv4,
        ports: vec![port("db", "TCP", 5432)],
        endpoints: endpoints
            .iter()
            .map(|(address, hostname, ready)| records::Endpoint {
                address: address.parse().unwrap(),
                ready: *ready,
                serving: *ready,
                terminating: false,
                hostname: hostname.map(str::to_owned),
                node: None,
                zone: None,
            })
            .collect(),
    }
}

fn snapshot() -> Snapshot {
    let mut s = Snapshot::empty("clusterset.local".parse().unwrap());
    s.set_namespace("demo", true);
    s.set_namespace("empty", true);
    let web = import(
        ServiceType::ClusterSetIP,
        &["243.0.0.7", "fd00::7"],
        vec![
            port("http", "TCP", 80),
            port("http-udp", "UDP", 80),
            port("alt", "TCP", 8080),
        ],
    );
    s.set_service("demo", "web", Some(Service::new(&web, [])));
    let waiting = import(ServiceType::ClusterSetIP, &[], vec![port("", "TCP", 80)]);
    s.set_service("demo", "waiting", Some(Service::new(&waiting, [])));
    let pets = import(ServiceType::Headless, &[], vec![port("db", "TCP", 5432)]);
    let slices = [
        slice(
            "blue",
            &[
                ("10.1.0.1", Some("pet-0"), true),
                ("fd01::1", Some("pet-0"), true),
                ("10.1.0.9", None, false),
            ],
        ),
        slice("green", &[("10.2.0.1", None, true), ("fd02::", None, true)]),
    ];
    s.set_service("demo", "pets", Some(Service::new(&pets, &slices)));
    s.set_service(
        "demo",
        "sleepers",
        Some(Service::new(
            &pets,
            &[slice("blue", &[("10.1.0.3", None, false)])],
        )),
    );
    s
}

fn ask(name: &str, type_: u16) -> Answer {
    answer(
        &snapshot(),
        &Question::of(name, type_),
        Some(&"green".parse().unwrap()),
    )
}

fn data(name: &str, type_: u16) -> Vec<String> {
    let a = ask(name, type_);
    assert_eq!(a.rcode, Rcode::NoError, "{name}");
    assert_eq!(a.authority, None, "{name}");
    a.answers
        .into_iter()
        .map(|r| match r.data {
            Data::A(a) => format!("{} {a}", r.ttl),
            Data::Aaaa(a) => format!("{} {a}", r.ttl),
            Data::Srv {
                priority,
                weight,
                port,
                target,
            } => format!("{} {priority} {weight} {port} {target}", r.ttl),
            Data::Txt(t) => format!("{} {t}", r.ttl),
            Data::Soa {
                mname,
                serial,
                minimum,
                ..
            } => format!("{} {mname} {serial} {minimum}", r.ttl),
        })
        .collect()
}

fn nodata(name: &str, type_: u16) {
    let a = ask(name, type_);
    assert_eq!((a.rcode, a.answers.len()), (Rcode::NoError, 0), "{name}");
    assert!(
        matches!(a.authority.unwrap().data, Data::Soa { minimum: 0..=5, .. }),
        "{name}"
    );
}

fn no_name(name: &str, type_: u16) {
    let a = ask(name, type_);
    assert_eq!((a.rcode, a.answers.len()), (Rcode::NxDomain, 0), "{name}");
    let soa = a.authority.unwrap();
    assert_eq!(soa.owner.as_deref(), Some("clusterset.local"), "{name}");
}

#[test]
fn a_service_with_a_vip_has_its_addresses_by_family() {
    assert_eq!(data("web.demo.svc.clusterset.local", types::A), ["4 243.0.0.7"]);
    assert_eq!(data("web.demo.svc.clusterset.local.", types::AAAA), ["4 fd00::7"]);
    assert_eq!(data("WeB.DEMO.svc.ClusterSet.LOCAL", types::A), ["4 243.0.0.7"]);
    nodata("web.demo.svc.clusterset.local", types::TXT);
    nodata("waiting.demo.svc.clusterset.local", types::A);
}

#[test]
fn srv_records_are_unique_by_port_and_target() {
    let target = "web.demo.svc.clusterset.local";
    assert_eq!(
        data(target, types::SRV),
        [
            format!("30 10 100 80 {target}"),
            format!("30 10 100 8080 {target}")
        ]
    );
    assert_eq!(
        data("_http._tcp.web.demo.svc.clusterset.local", types::SRV),
        [format!("30 10 100 80 {target}")]
    );
    assert_eq!(
        ask("_http._tcp.web.demo.svc.clusterset.local", types::SRV)
            .additionals
            .len(),
        2
    );
    nodata("_http._tcp.web.demo.svc.clusterset.local", types::A);
    nodata("_tcp.web.demo.svc.clusterset.local", types::SRV);
    no_name("_http._udp.web.demo.svc.clusterset.local", types::SRV);
    no_name("_nope._tcp.web.demo.svc.clusterset.local", types::SRV);
    no_name("_sctp.web.demo.svc.clusterset.local", types::SRV);
}

#[test]
fn a_headless_service_has_its_ready_endpoints_the_askers_first() {
    assert_eq!(
        data("pets.demo.svc.clusterset.local", types::A),
        ["4 10.2.0.1", "4 10.1.0.1"]
    );
    assert_eq!(
        data("pets.demo.svc.clusterset.local", types::AAAA),
        ["4 fd02::", "4 fd01::1"]
    );
    assert_eq!(
        data("pet-0.blue.pets.demo.svc.clusterset.local", types::A),
        ["4 10.1.0.1"]
    );
    assert_eq!(
        data("pet-0.blue.pets.demo.svc.clusterset.local", types::AAAA),
        ["4 fd01::1"]
    );
    assert_eq!(
        data("10-2-0-1.green.pets.demo.svc.clusterset.local", types::A),
        ["4 10.2.0.1"]
    );
    assert_eq!(
        data("fd02--0.green.pets.demo.svc.clusterset.local", types::AAAA),
        ["4 fd02::"]
    );
    let mut srv = data("_db._tcp.pets.demo.svc.clusterset.local", types::SRV);
    srv.sort();
    let full = "pets.demo.svc.clusterset.local";
    assert_eq!(
        srv,
        [
            format!("4 10 100 5432 10-2-0-1.green.{full}"),
            format!("4 10 100 5432 fd02--0.green.{full}"),
            format!("4 10 100 5432 pet-0.blue.{full}"),
        ]
    );
    no_name("10-1-0-9.blue.pets.demo.svc.clusterset.local", types::A);
    no_name("sleepers.demo.svc.clusterset.local", types::A);
}

#[test]
fn reserved_and_unknown_names_do_not_exist() {
    for name in [
        "blue.web.demo.svc.clusterset.local",
        "blue.pets.demo.svc.clusterset.local",
        "pet-0.blue.web.demo.svc.clusterset.local",
        "pet-0.red.pets.demo.svc.clusterset.local",
        "a.pet-0.blue.pets.demo.svc.clusterset.local",
        "nope.demo.svc.clusterset.local",
        "web.nope.svc.clusterset.local",
        "nope.svc.clusterset.local",
        "web.demo.pod.clusterset.local",
        "demo.clusterset.local",
        "web.demo.svc.clusterset.local.svc.clusterset.local",
    ] {
        no_name(name, types::A);
    }
}

#[test]
fn the_zone_answers_for_itself() {
    assert_eq!(data("dns-version.clusterset.local", types::TXT), ["28800 1.0.0"]);
    nodata("dns-version.clusterset.local", types::A);
    assert_eq!(
        data("clusterset.local", types::SOA),
        ["4 ns.dns.clusterset.local 1 4"]
    );
    nodata("clusterset.local", types::A);
    nodata("svc.clusterset.local", types::A);
    nodata("demo.svc.clusterset.local", types::A);
    nodata("empty.svc.clusterset.local", types::A);
}

#[test]
fn what_is_not_ours_is_refused() {
    for name in [
        "",
        "local",
        "example.com",
        "xclusterset.local",
        "web.demo.svc.cluster.local",
    ] {
        let a = ask(name, types::A);
        assert_eq!((a.rcode, a.authority), (Rcode::Refused, None), "{name}");
    }
    assert_eq!(ask("clusterset.local", types::AXFR).rcode, Rcode::Refused);
}

#[test]
fn labels_of_any_bytes_are_no_names() {
    let zone: [&[u8]; 2] = [b"clusterset", b"local"];
    let labels = [&[0xff, 0x00, b'.'][..], b"demo", b"svc"].into_iter().chain(zone);
    let a = answer(&snapshot(), &Question::new(labels, types::A), None);
    assert_eq!(a.rcode, Rcode::NxDomain);
    let long = [b'a'; 63];
    let labels = std::iter::repeat_n(&long[..], 8).chain(zone);
    let a = answer(&snapshot(), &Question::new(labels, types::A), None);
    assert_ne!(a.rcode, Rcode::NoError);
}

#[test]
fn a_service_taken_out_is_gone() {
    let mut s = snapshot();
    s.set_service("demo", "web", None);
    let q = Question::of("web.demo.svc.clusterset.local", types::A);
    assert_eq!(answer(&s, &q, None).rcode, Rcode::NxDomain);
    s.set_namespace("empty", false);
    let q = Question::of("empty.svc.clusterset.local", types::A);
    assert_eq!(answer(&s, &q, None).rcode, Rcode::NxDomain);
}

proptest! {
    /// Any labels, ours and strange ones in any order, get a well-formed answer.
    #[test]
    fn every_question_is_answered(
        labels in prop::collection::vec(
            prop_oneof![
                4 => prop::sample::select(vec![
                    "web", "pets", "demo", "empty", "svc", "clusterset", "local", "blue", "green", "pet-0", "_http",
                    "_tcp", "_db", "dns-version", "WEB",
                ])
                .prop_map(|l| l.as_bytes().to_vec()),
                1 => prop::collection::vec(any::<u8>(), 0..64),
            ],
            0..9,
        ),
        in_zone in any::<bool>(),
        type_ in prop_oneof![Just(types::A), Just(types::AAAA), Just(types::SRV), Just(types::TXT), Just(types::SOA), any::<u16>()],
    ) {
        let zone: &[&[u8]] = if in_zone { &[b"svc", b"clusterset", b"local"] } else { &[] };
        let name = labels.iter().map(Vec::as_slice).chain(zone.iter().copied());
        let a = answer(&snapshot(), &Question::new(name, type_), None);
        let negative = a.answers.is_empty() && a.rcode != Rcode::Refused;
        prop_assert_eq!(a.authority.is_some(), negative);
        prop_assert!(a.rcode == Rcode::NoError || a.answers.is_empty());
        let unique: std::collections::BTreeSet<String> = a.answers.iter().map(|r| format!("{r:?}")).collect();
        prop_assert_eq!(unique.len(), a.answers.len());
        for record in &a.answers {
            prop_assert!(type_ == types::ANY || type_ == record.data.type_(), "{:?}", record);
        }
    }
}

proptest! {
    /// The same last words on namespaces and services, in any order and after any older ones, are the same
    /// names.
    #[test]
    fn the_order_of_changes_does_not_matter(
        (last, shuffled, older) in (
            prop::collection::btree_map((0u8..3, 0u8..3), prop::option::of(0u8..3), 0..8),
            prop::collection::btree_map(0u8..3, any::<bool>(), 0..3),
        ).prop_flat_map(|(services, namespaces)| {
            let services = services.into_iter().map(|((ns, s), kind)| (ns, Some((s, kind)), false));
            let namespaces = namespaces.into_iter().map(|(ns, exists)| (ns, None, exists));
            let last: Vec<_> = services.chain(namespaces).collect();
            let older = prop::collection::vec((0u8..3, prop::option::of((0u8..3, prop::option::of(0u8..3))), any::<bool>()), 0..10);
            (Just(last.clone()), Just(last).prop_shuffle(), older)
        }),
    ) {
        let change = |s: &mut Snapshot, (ns, service, exists): &(u8, Option<(u8, Option<u8>)>, bool)| {
            let namespace = format!("ns{ns}");
            match service {
                None => s.set_namespace(&namespace, *exists),
                Some((name, kind)) => {
                    let made = kind.map(|k| match k {
                        0 => Service::new(&import(ServiceType::ClusterSetIP, &["243.0.0.7"], vec![port("http", "TCP", 80)]), []),
                        1 => Service::new(&import(ServiceType::Headless, &[], vec![]), &[slice("blue", &[("10.1.0.1", None, true)])]),
                        _ => Service::new(&import(ServiceType::ClusterSetIP, &[], vec![]), []),
                    });
                    s.set_service(&namespace, &format!("s{name}"), made);
                }
            }
        };
        // Of what is not spoken of at the end nothing may have been said before.
        let spoken: Vec<_> = last.iter().map(|(ns, service, _)| (*ns, service.map(|(name, _)| name))).collect();
        let older = older.into_iter().filter(|(ns, service, _)| spoken.contains(&(*ns, service.map(|(name, _)| name))));
        let empty = || Snapshot::empty("clusterset.local".parse().unwrap());
        let (mut one, mut other) = (empty(), empty());
        last.iter().for_each(|c| change(&mut one, c));
        older.collect::<Vec<_>>().iter().chain(&shuffled).for_each(|c| change(&mut other, c));
        (one.serial, other.serial) = (0, 0);
        prop_assert_eq!(one, other);
    }
}
