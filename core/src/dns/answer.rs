//! The rules by which a question is answered.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use strait_api::ClusterId;
use strait_api::records::ServiceType;

use super::{
    Answer, Data, Endpoint, Question, Rcode, Record, SCHEMA_VERSION, Service, Snapshot, TTL, TTL_SRV,
    TTL_VERSION, types,
};

const SRV_PRIORITY: u16 = 10;
const SRV_WEIGHT: u16 = 100;

/// Answers a question. `asking` is the cluster of the client: its own endpoints come first.
pub fn answer(snapshot: &Snapshot, question: &Question, asking: Option<&ClusterId>) -> Answer {
    let labels = question.labels();
    let Some(before) = snapshot.zone.strip(&labels) else {
        return refused();
    };
    if matches!(question.type_, types::AXFR | types::IXFR) {
        return refused();
    }
    let found = match before {
        [] => apex(snapshot, question),
        ["svc"] => Found::Nothing,
        ["dns-version"] => version(question),
        [.., "svc"] => below_svc(snapshot, question, asking, before),
        _ => Found::NoName,
    };
    finish(snapshot, found)
}

/// What lies under a name.
enum Found {
    /// No such name.
    NoName,
    /// The name, without such a record.
    Nothing,
    /// Records, and what goes with them.
    Records(Vec<Record>, Vec<Record>),
}

impl Found {
    fn records(records: Vec<Record>) -> Self {
        if records.is_empty() {
            Self::Nothing
        } else {
            Self::Records(records, Vec::new())
        }
    }
}

fn refused() -> Answer {
    Answer {
        rcode: Rcode::Refused,
        answers: Vec::new(),
        authority: None,
        additionals: Vec::new(),
    }
}

fn finish(snapshot: &Snapshot, found: Found) -> Answer {
    let (rcode, answers, additionals) = match found {
        Found::NoName => (Rcode::NxDomain, Vec::new(), Vec::new()),
        Found::Nothing => (Rcode::NoError, Vec::new(), Vec::new()),
        Found::Records(answers, additionals) => (Rcode::NoError, answers, additionals),
    };
    Answer {
        rcode,
        authority: answers.is_empty().then(|| soa(snapshot)),
        answers,
        additionals,
    }
}

fn soa(snapshot: &Snapshot) -> Record {
    let zone = &snapshot.zone;
    Record {
        owner: Some(zone.to_string()),
        ttl: TTL,
        data: Data::Soa {
            mname: format!("ns.dns.{zone}"),
            rname: format!("hostmaster.{zone}"),
            serial: snapshot.serial,
            minimum: TTL,
        },
    }
}

fn apex(snapshot: &Snapshot, question: &Question) -> Found {
    match question.type_ {
        types::SOA | types::ANY => Found::records(vec![soa(snapshot)]),
        _ => Found::Nothing,
    }
}

fn version(question: &Question) -> Found {
    match question.type_ {
        types::TXT | types::ANY => Found::records(vec![Record {
            owner: None,
            ttl: TTL_VERSION,
            data: Data::Txt(SCHEMA_VERSION.to_owned()),
        }]),
        _ => Found::Nothing,
    }
}

fn below_svc(snapshot: &Snapshot, question: &Question, asking: Option<&ClusterId>, labels: &[&str]) -> Found {
    let (namespace, host) = match labels {
        [host @ .., namespace, _] => (*namespace, host),
        _ => return Found::NoName,
    };
    if !snapshot.namespaces.contains_key(namespace) {
        return Found::NoName;
    }
    let Some((name, host)) = host.split_last() else {
        return Found::Nothing;
    };
    let Some(service) = snapshot.service(namespace, name) else {
        return Found::NoName;
    };
    let full = || format!("{name}.{namespace}.svc.{}", snapshot.zone);
    match service.type_ {
        ServiceType::ClusterSetIP => clusterset_ip(service, question, host, full),
        ServiceType::Headless => headless(service, question, host, asking, full),
    }
}

fn clusterset_ip(service: &Service, question: &Question, host: &[&str], full: impl Fn() -> String) -> Found {
    let with_glue = |ports: BTreeSet<u16>| {
        let records = ports.into_iter().map(|port| srv(TTL_SRV, port, full())).collect();
        let glue = service.ips.iter().map(|a| address(*a, Some(full()))).collect();
        Found::Records(records, glue)
    };
    match host {
        [] => match question.type_ {
            types::SRV if !service.ports.is_empty() && !service.ips.is_empty() => {
                with_glue(service.ports.iter().map(|p| p.port).collect())
            }
            _ => Found::records(addresses(service.ips.iter().copied(), question.type_)),
        },
        [port, protocol] => {
            let ports: BTreeSet<u16> = service
                .ports
                .iter()
                .filter(|p| is_port(port, protocol, &p.name, &p.protocol))
                .map(|p| p.port)
                .collect();
            match (ports.is_empty(), question.type_) {
                (true, _) => Found::NoName,
                (false, types::SRV | types::ANY) if !service.ips.is_empty() => with_glue(ports),
                _ => Found::Nothing,
            }
        }
        [protocol] => parent_of_ports(protocol, service.ports.iter().map(|p| (&p.name, &p.protocol))),
        _ => Found::NoName,
    }
}

fn headless(
    service: &Service,
    question: &Question,
    host: &[&str],
    asking: Option<&ClusterId>,
    full: impl Fn() -> String,
) -> Found {
    // (name of the host, endpoint), those of the asking cluster first.
    let own = asking.map(ClusterId::as_str);
    let mut clusters: Vec<(&String, &BTreeMap<String, Vec<Endpoint>>)> = service.hosts.iter().collect();
    clusters.sort_by_key(|(id, _)| Some(id.as_str()) != own);
    let all: Vec<(String, &Endpoint)> = clusters
        .iter()
        .flat_map(|(id, hosts)| hosts.iter().map(move |(h, list)| (format!("{h}.{id}"), list)))
        .flat_map(|(name, list)| list.iter().map(move |e| (name.clone(), e)))
        .collect();
    if all.is_empty() {
        return Found::NoName;
    }
    let find = |wanted: &dyn Fn(&str, &str) -> bool| {
        let mut seen = BTreeSet::new();
        let mut records = Vec::new();
        let mut glue = Vec::new();
        for (name, endpoint) in &all {
            let target = format!("{name}.{}", full());
            let mut used = false;
            for port in endpoint.ports.iter().filter(|p| wanted(&p.name, &p.protocol)) {
                used = true;
                if seen.insert((port.port, target.clone())) {
                    records.push(srv(TTL, port.port, target.clone()));
                }
            }
            if used {
                glue.push(address(endpoint.address, Some(target)));
            }
        }
        (records, glue)
    };
    match host {
        [] => match question.type_ {
            types::SRV => {
                let (records, glue) = find(&|_, _| true);
                if records.is_empty() {
                    Found::Nothing
                } else {
                    Found::Records(records, glue)
                }
            }
            _ => Found::records(addresses(all.iter().map(|(_, e)| e.address), question.type_)),
        },
        [port, protocol] if port.starts_with('_') => {
            let (records, glue) = find(&|name, proto| is_port(port, protocol, name, proto));
            match (records.is_empty(), question.type_) {
                (true, _) => Found::NoName,
                (false, types::SRV | types::ANY) => Found::Records(records, glue),
                _ => Found::Nothing,
            }
        }
        [name, cluster] => match service.hosts.get(*cluster).and_then(|h| h.get(*name)) {
            Some(list) => Found::records(addresses(list.iter().map(|e| e.address), question.type_)),
            None => Found::NoName,
        },
        [protocol] => {
            let ports = all.iter().flat_map(|(_, e)| &e.ports);
            parent_of_ports(protocol, ports.map(|p| (&p.name, &p.protocol)))
        }
        _ => Found::NoName,
    }
}

/// `_tcp.<service>` has names below it and so exists, without records; `<cluster>.<service>` is reserved
/// and must not.
fn parent_of_ports<'a>(label: &str, mut ports: impl Iterator<Item = (&'a String, &'a String)>) -> Found {
    if ports.any(|(name, protocol)| !name.is_empty() && is_protocol(label, protocol)) {
        Found::Nothing
    } else {
        Found::NoName
    }
}

fn is_protocol(label: &str, protocol: &str) -> bool {
    label
        .strip_prefix('_')
        .is_some_and(|l| l.eq_ignore_ascii_case(protocol))
}

fn is_port(label: &str, protocol_label: &str, name: &str, protocol: &str) -> bool {
    !name.is_empty() && label.strip_prefix('_') == Some(name) && is_protocol(protocol_label, protocol)
}

/// The addresses of the type that was asked for, each once.
fn addresses(all: impl Iterator<Item = IpAddr>, type_: u16) -> Vec<Record> {
    let mut seen = BTreeSet::new();
    all.filter(|a| match type_ {
        types::A => a.is_ipv4(),
        types::AAAA => a.is_ipv6(),
        types::ANY => true,
        _ => false,
    })
    .filter(|a| seen.insert(*a))
    .map(|a| address(a, None))
    .collect()
}

fn address(address: IpAddr, owner: Option<String>) -> Record {
    Record {
        owner,
        ttl: TTL,
        data: match address {
            IpAddr::V4(a) => Data::A(a),
            IpAddr::V6(a) => Data::Aaaa(a),
        },
    }
}

fn srv(ttl: u32, port: u16, target: String) -> Record {
    Record {
        owner: None,
        ttl,
        data: Data::Srv {
            priority: SRV_PRIORITY,
            weight: SRV_WEIGHT,
            port,
            target,
        },
    }
}
