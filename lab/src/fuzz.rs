//! What a lab reads that others wrote: its file, and what comes to its pods and its router. For the fuzzer, and
//! for the replay of what it found.
#![allow(clippy::unwrap_used)]

#[path = "../../fuzz/input.rs"]
mod input;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::op::{Message, MessageType, ResponseCode};
use ipnet::IpNet;
use strait_api::ClusterId;

use self::input::Input;
use crate::names::{self, Names, Reply};
use crate::topology::{self, MAX_CLUSTERS, MAX_NODES, Shape, Topology};
use crate::wires::port_name;
use crate::{config, leaks, tool};

/// A file for `--config`: what is accepted makes a lab in which nothing stands twice; what is refused is told
/// line by line, with a place that the file has.
pub fn lab_config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let lines = text.lines().count() + 1;
    match config::parse(&text) {
        Ok(shape) => consistent(&shape),
        Err(error) => {
            let said = format!("{error:#}");
            for mistake in said.split("\n  ") {
                let (place, what) = mistake.split_once(": ").unwrap();
                let (line, field) = place.split_once(", ").unwrap_or((place, "-"));
                let line: usize = line.strip_prefix("line ").unwrap().parse().unwrap();
                assert!(
                    (1..=lines).contains(&line),
                    "{said:?} names a line that is not there"
                );
                assert!(!field.is_empty() && !what.trim().is_empty(), "{said:?}");
            }
            assert!(
                !said.contains(" --> "),
                "{said:?} shows what the reader of YAML draws"
            );
        }
    }
}

fn consistent(shape: &Shape) {
    assert!((1..=MAX_CLUSTERS).contains(&shape.clusters.len()));
    let again: Shape = serde_json::from_value(serde_json::to_value(shape).unwrap()).unwrap();
    assert_eq!(again, *shape, "the supervisor would build another lab");
    let notes = config::notes(shape);
    assert!(notes.iter().all(|note| note.starts_with("note: ")));

    let lab = Topology::new("t", shape);
    let mut names = BTreeSet::from(["broker".to_owned(), "router".to_owned()]);
    let mut devices = BTreeSet::from([lab.broker.bridge.clone()]);
    let mut addresses: BTreeSet<IpAddr> = lab.broker.router.iter().map(IpNet::addr).collect();
    let mut device = |name: &str| {
        assert!(name.len() <= 15, "{name} is too long for a device");
        assert!(devices.insert(name.to_owned()), "two devices {name}");
    };
    let mut address = |ip: IpAddr| {
        assert!(addresses.insert(ip), "{ip} twice");
        assert!(topology::own_ranges().iter().any(|(net, _)| net.contains(&ip)));
    };
    let mut ranges: Vec<IpNet> = topology::own_ranges().into_iter().map(|(net, _)| net).collect();
    let meet = |a: &IpNet, b: &IpNet| a.contains(b) || b.contains(a);
    for (cluster, wanted) in lab.clusters.iter().zip(&shape.clusters) {
        assert!(cluster.name.parse::<ClusterId>().is_ok());
        assert!(names.insert(cluster.name.clone()), "{} twice", cluster.name);
        assert!((1..=MAX_NODES).contains(&wanted.nodes));
        assert_eq!(cluster.nodes.len(), usize::from(wanted.nodes));
        let gateways = cluster.nodes.iter().filter(|n| n.gateway).count();
        assert_eq!(gateways, usize::from(wanted.gateways));
        assert!(gateways >= 1, "{} has no gateway", cluster.name);
        device(&cluster.lan.bridge);
        for wire in cluster.edge.iter().flat_map(|e| [&e.uplink, &e.management]) {
            device(&wire.ends[0].device);
            wire.ends
                .iter()
                .flat_map(|e| &e.addresses)
                .for_each(|a| address(a.addr()));
        }
        cluster.lan.router.iter().for_each(|a| address(a.addr()));
        let mut nodes = BTreeSet::new();
        for node in &cluster.nodes {
            assert!(nodes.insert(&node.name), "{} twice", node.name);
            device(&port_name(cluster, node));
            node.ips().into_iter().for_each(&mut address);
            assert_eq!(node.pod_cidrs.len(), cluster.pod_cidrs.len());
            for cidr in &node.pod_cidrs {
                assert!(cluster.pod_cidrs.iter().any(|all| all.contains(cidr)), "{cidr}");
            }
        }
        for range in cluster.pod_cidrs.iter().chain(&cluster.service_cidrs) {
            let other = ranges.iter().find(|other| meet(range, other));
            assert!(other.is_none(), "{range} meets {other:?}");
            ranges.push(*range);
        }
        let qualities = wanted.underlay.iter().map(|u| &u.quality);
        for q in qualities.chain(shape.links.iter().map(|l| &l.quality)) {
            assert!(q.mtu.is_none_or(|mtu| (1280..=9000).contains(&mtu)));
            assert!(q.jitter_us <= q.delay_us && q.delay_us <= 2_000_000 && q.loss_ppm < 1_000_000);
        }
    }
    for end in lab.links.iter().flat_map(|wire| &wire.ends) {
        assert!(end.device.len() <= 15 && !end.addresses.is_empty());
        end.addresses.iter().for_each(|a| address(a.addr()));
    }
}

/// A question to a cluster's own DNS: what is no question gets no answer, every answer is one that can be read,
/// to that question, and only `clusterset.local` is asked of Strait.
pub fn lab_dns(data: &[u8]) {
    let mut known = Names::default();
    known.add("demo", "web", Ipv4Addr::new(10, 101, 0, 20).into());
    known.add("demo", "web", Ipv6Addr::LOCALHOST.into());
    let question = Message::from_vec(data).ok();
    let check = |answer: &Message| {
        let question = question.as_ref().unwrap();
        let read = Message::from_vec(&answer.to_vec().unwrap()).unwrap();
        assert_eq!(read.metadata.id, question.metadata.id);
        assert_eq!(read.metadata.message_type, MessageType::Response);
        assert_eq!(read.queries, question.queries);
        let short = Message::from_vec(&answer.truncate().to_vec().unwrap()).unwrap();
        assert!(short.metadata.truncation && short.answers.is_empty());
    };
    match known.reply(data) {
        None => {}
        Some(Reply::Answer(answer)) => {
            check(&answer);
            let found = answer.metadata.response_code == ResponseCode::NoError;
            assert!(found || answer.answers.is_empty());
        }
        Some(Reply::Forward) => {
            let name = question.as_ref().unwrap().queries[0].name().to_ascii();
            let name = name.to_ascii_lowercase();
            assert!(
                name.trim_end_matches('.').ends_with(names::CLUSTERSET_ZONE),
                "{name}"
            );
        }
    }
    if let Some(answer) = names::failed(data) {
        check(&answer);
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    }
}

/// A packet that came to the router or answers a ping: it is taken for one of ours, or for a leak, only where it
/// holds the addresses to be one.
pub fn lab_packet(data: &[u8]) {
    let mut input = Input::new(data);
    let v4 = Ipv4Addr::from_bits(input.long());
    let packet = input.rest();
    let holds = |octets: &[u8]| packet.windows(octets.len()).any(|part| part == octets);
    tool::icmp_answers(packet, v4, Ipv6Addr::LOCALHOST, |quoted| {
        assert!(
            !quoted || holds(&v4.octets()) || holds(&Ipv6Addr::LOCALHOST.octets()),
            "an error about somebody else's packet is taken for ours"
        );
    });
    let ranges: Vec<IpNet> = vec![
        IpNet::from(IpAddr::V4(v4)),
        IpNet::from(IpAddr::V6(Ipv6Addr::LOCALHOST)),
    ];
    if let Some((source, destination)) = leaks::leaked(packet, &ranges, &[IpAddr::V4(Ipv4Addr::LOCALHOST)]) {
        let octets = match destination {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        assert!(holds(&octets) && source != IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
}

#[cfg(test)]
mod tests {
    use super::input::replay;

    #[test]
    fn files_that_were_found_hold() {
        replay("lab_config", super::lab_config);
    }

    #[test]
    fn questions_that_were_found_hold() {
        replay("lab_dns", super::lab_dns);
    }

    #[test]
    fn packets_that_were_found_hold() {
        replay("lab_packet", super::lab_packet);
    }
}
