//! `--config FILE`: what a lab looks like, in YAML. Every mistake is told with its line and field.

use std::fmt::{Display, Formatter};
use std::fs;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context as _, Result, anyhow, bail};
use ipnet::IpNet;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer};
use serde_saphyr::{Location, Spanned};
use strait_api::ClusterId;

use crate::topology::{
    self, ClusterShape, Families, LinkShape, MAX_CLUSTERS, MAX_NODES, Nat, Quality, Shape, Underlay,
};

/// Smallest and largest MTU of a way outside: what IPv6 asks for, and what Ethernet has.
const MTUS: std::ops::RangeInclusive<u32> = 1280..=9000;
/// Longest delay, in microseconds: above it, handshakes give up.
const MAX_DELAY: u64 = 2_000_000;
/// Slowest and fastest rate in bits a second.
const RATES: std::ops::RangeInclusive<u64> = 64_000..=100_000_000_000;

/// A single value of any kind, as text: what is wrong with it is told by its field's name.
#[derive(Debug)]
struct Word(String);

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyWord;
        impl Visitor<'_> for AnyWord {
            type Value = Word;

            fn expecting(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
                f.write_str("a single value")
            }

            fn visit_str<E>(self, text: &str) -> Result<Word, E> {
                Ok(Word(text.to_owned()))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Word, E> {
                Ok(Word(value.to_string()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Word, E> {
                Ok(Word(value.to_string()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Word, E> {
                Ok(Word(value.to_string()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Word, E> {
                Ok(Word(value.to_string()))
            }
        }
        deserializer.deserialize_any(AnyWord)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct File {
    clusters: Spanned<Vec<ClusterEntry>>,
    #[serde(default)]
    links: Vec<LinkEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ClusterEntry {
    name: Option<Spanned<Word>>,
    nodes: Option<Spanned<Word>>,
    gateways: Option<Spanned<Word>>,
    families: Option<Spanned<Word>>,
    #[serde(default)]
    pod_cidrs: Vec<Spanned<Word>>,
    #[serde(default)]
    service_cidrs: Vec<Spanned<Word>>,
    underlay: Option<UnderlayEntry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct UnderlayEntry {
    nat: Option<Spanned<Word>>,
    mtu: Option<Spanned<Word>>,
    delay: Option<Spanned<Word>>,
    jitter: Option<Spanned<Word>>,
    loss: Option<Spanned<Word>>,
    rate: Option<Spanned<Word>>,
    icmp_blackhole: Option<Spanned<Word>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct LinkEntry {
    between: Spanned<Vec<String>>,
    mtu: Option<Spanned<Word>>,
    delay: Option<Spanned<Word>>,
    jitter: Option<Spanned<Word>>,
    loss: Option<Spanned<Word>>,
    rate: Option<Spanned<Word>>,
    icmp_blackhole: Option<Spanned<Word>>,
}

/// Reads a file.
pub(crate) fn read(path: &Path) -> Result<Shape> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| path.display().to_string())
}

/// Pairs of clusters between which nothing will pass, and why: no mistakes, but better known.
pub(crate) fn notes(shape: &Shape) -> Vec<String> {
    let hidden = |c: &ClusterShape| c.underlay.as_ref().and_then(|u| u.nat) == Some(Nat::Hidden);
    let mut notes = Vec::new();
    for (n, a) in shape.clusters.iter().enumerate() {
        for b in &shape.clusters[n + 1..] {
            let why = if a.families.common(b.families).is_none() {
                "they have no address family in common"
            } else if hidden(a) && hidden(b) {
                "both are hidden behind NATs, and Strait does not punch holes into these yet"
            } else {
                continue;
            };
            notes.push(format!(
                "note: {} and {} will not reach each other: {why}",
                a.name, b.name
            ));
        }
    }
    notes
}

/// The mistakes found so far.
#[derive(Default)]
struct Mistakes(Vec<(u64, String)>);

impl Mistakes {
    fn add(&mut self, at: Location, field: impl Display, what: impl Display) {
        let line = at.line();
        self.0.push((line, format!("line {line}, {field}: {what}")));
    }
}

fn parse(text: &str) -> Result<Shape> {
    if text.trim().is_empty() {
        bail!("line 1: it is empty; it takes a list of clusters");
    }
    // Its text holds its cause already.
    let file: File = serde_saphyr::from_str(text).map_err(|e| anyhow!("{e}"))?;
    let mut mistakes = Mistakes::default();
    let count = file.clusters.value.len();
    if count == 0 || count > MAX_CLUSTERS {
        let what = format!("{count} clusters; a lab has 1 to {MAX_CLUSTERS}");
        mistakes.add(file.clusters.referenced, "clusters", what);
    }
    let mut clusters = Vec::new();
    for (index, entry) in file.clusters.value.iter().take(MAX_CLUSTERS).enumerate() {
        clusters.push(cluster(index, entry, &mut mistakes));
    }
    names(&clusters, &file.clusters.value, &mut mistakes);
    overlaps(&clusters, &file.clusters.value, &mut mistakes);
    let mut links = Vec::new();
    for (index, entry) in file.links.iter().enumerate() {
        links.extend(link(index, entry, &clusters, &links, &mut mistakes));
    }
    let Mistakes(mut found) = mistakes;
    if found.is_empty() {
        return Ok(Shape { clusters, links });
    }
    found.sort();
    let lines: Vec<String> = found.into_iter().map(|(_, text)| text).collect();
    bail!("{}", lines.join("\n  "))
}

fn cluster(index: usize, entry: &ClusterEntry, mistakes: &mut Mistakes) -> ClusterShape {
    let field = |name: &str| format!("clusters[{index}].{name}");
    let mut count = |value: &Option<Spanned<Word>>, name: &str, least: u8, most: u8, default: u8| -> u8 {
        let Some(given) = value else { return default };
        match given.value.0.parse::<u8>() {
            Ok(n) if (least..=most).contains(&n) => n,
            _ => {
                let what = format!("{} {name}; it takes {least} to {most}", given.value.0);
                mistakes.add(given.referenced, field(name), what);
                default
            }
        }
    };
    let nodes = count(&entry.nodes, "nodes", 1, MAX_NODES, 2);
    let gateways = count(&entry.gateways, "gateways", 1, nodes, 1);
    let families = match &entry.families {
        None => Families::V4,
        Some(given) => match given.value.0.as_str() {
            "ipv4" => Families::V4,
            "ipv6" => Families::V6,
            "dual-stack" => Families::Dual,
            other => {
                let what = format!("{other:?} is none of ipv4, ipv6 and dual-stack");
                mistakes.add(given.referenced, field("families"), what);
                Families::V4
            }
        },
    };
    let defaults = topology::default_cidrs(index, families);
    let mut cidrs = |name: &str, given: &[Spanned<Word>], fits: fn(IpNet, u8) -> Result<(), String>| {
        let found: Vec<IpNet> = given
            .iter()
            .enumerate()
            .filter_map(|(i, text)| {
                match prefix(&text.value.0).and_then(|net| fits(net, nodes).map(|()| net)) {
                    Ok(net) => Some(net),
                    Err(what) => {
                        mistakes.add(text.referenced, field(&format!("{name}[{i}]")), what);
                        None
                    }
                }
            })
            .collect();
        let wanted = families.of(4u8, 6u8);
        let have: Vec<u8> = found
            .iter()
            .map(|n| if n.addr().is_ipv4() { 4 } else { 6 })
            .collect();
        if let (Some(first), true) = (given.first(), have != wanted && found.len() == given.len()) {
            let wanted: Vec<String> = wanted.iter().map(|v| format!("one of IPv{v}")).collect();
            let what = format!(
                "a cluster of these families takes {}, in this order",
                wanted.join(" and ")
            );
            mistakes.add(first.referenced, field(name), what);
        }
        found
    };
    let pods = cidrs("podCidrs", &entry.pod_cidrs, fits_pods);
    let services = cidrs("serviceCidrs", &entry.service_cidrs, fits_services);
    let or = |given: Vec<IpNet>, entries: &[Spanned<Word>], default: Vec<IpNet>| {
        if entries.is_empty() { default } else { given }
    };
    ClusterShape {
        name: entry
            .name
            .as_ref()
            .map_or_else(|| topology::default_name(index).to_owned(), |n| n.value.0.clone()),
        nodes,
        gateways,
        families,
        pod_cidrs: or(pods, &entry.pod_cidrs, defaults.pods),
        service_cidrs: or(services, &entry.service_cidrs, defaults.services),
        underlay: entry
            .underlay
            .as_ref()
            .map(|u| underlay(&field("underlay"), u, mistakes)),
    }
}

fn prefix(text: &str) -> Result<IpNet, String> {
    let net = IpNet::from_str(text).map_err(|_| format!("{text:?} is no prefix such as 10.1.0.0/16"))?;
    if net.addr() != net.network() {
        return Err(format!(
            "{text} has bits set behind its length; {} would do",
            net.trunc()
        ));
    }
    Ok(net)
}

fn fits_pods(net: IpNet, nodes: u8) -> Result<(), String> {
    if topology::node_cidr(&net, nodes).is_some() {
        return Ok(());
    }
    let each = if net.addr().is_ipv4() { 24 } else { 64 };
    Err(format!(
        "{net} is too small: each of {nodes} nodes takes a /{each}, and the first one is left free"
    ))
}

fn fits_services(net: IpNet, _: u8) -> Result<(), String> {
    let lengths = if net.addr().is_ipv4() { 12..=24 } else { 108..=120 };
    if lengths.contains(&net.prefix_len()) {
        return Ok(());
    }
    Err(format!(
        "{net} is no range for Services: its length is to be /{} to /{}",
        lengths.start(),
        lengths.end()
    ))
}

fn underlay(field: &str, entry: &UnderlayEntry, mistakes: &mut Mistakes) -> Underlay {
    let nat = entry.nat.as_ref().and_then(|given| match given.value.0.as_str() {
        "none" => None,
        "hidden" => Some(Nat::Hidden),
        "forwarded" => Some(Nat::Forwarded),
        other => {
            let what = format!("{other:?} is none of none, hidden and forwarded");
            mistakes.add(given.referenced, format!("{field}.nat"), what);
            None
        }
    });
    Underlay {
        nat,
        quality: quality(
            field,
            &WireFields {
                mtu: &entry.mtu,
                delay: &entry.delay,
                jitter: &entry.jitter,
                loss: &entry.loss,
                rate: &entry.rate,
                icmp_blackhole: &entry.icmp_blackhole,
            },
            mistakes,
        ),
    }
}

/// What a way outside and a link have in common.
struct WireFields<'a> {
    mtu: &'a Option<Spanned<Word>>,
    delay: &'a Option<Spanned<Word>>,
    jitter: &'a Option<Spanned<Word>>,
    loss: &'a Option<Spanned<Word>>,
    rate: &'a Option<Spanned<Word>>,
    icmp_blackhole: &'a Option<Spanned<Word>>,
}

fn quality(field: &str, wire: &WireFields<'_>, mistakes: &mut Mistakes) -> Quality {
    let mut checked = |name: &str, given: &Option<Spanned<Word>>, parse: fn(&str) -> Result<u64, String>| {
        let given = given.as_ref()?;
        match parse(&given.value.0) {
            Ok(value) => Some(value),
            Err(what) => {
                mistakes.add(given.referenced, format!("{field}.{name}"), what);
                None
            }
        }
    };
    let delay = checked("delay", wire.delay, duration).unwrap_or(0);
    let jitter = checked("jitter", wire.jitter, duration).unwrap_or(0);
    let loss = checked("loss", wire.loss, share).unwrap_or(0);
    let rate = checked("rate", wire.rate, rate);
    let mtu = wire
        .mtu
        .as_ref()
        .and_then(|given| match given.value.0.parse::<u32>() {
            Ok(mtu) if MTUS.contains(&mtu) => Some(mtu),
            _ => {
                let what = format!("{}; it takes {} to {}", given.value.0, MTUS.start(), MTUS.end());
                mistakes.add(given.referenced, format!("{field}.mtu"), what);
                None
            }
        });
    let blackhole = match wire
        .icmp_blackhole
        .as_ref()
        .map(|given| (given, given.value.0.as_str()))
    {
        None | Some((_, "false")) => false,
        Some((_, "true")) => true,
        Some((given, other)) => {
            let what = format!("{other:?} is neither true nor false");
            mistakes.add(given.referenced, format!("{field}.icmpBlackhole"), what);
            false
        }
    };
    if let Some(given) = wire.jitter.as_ref().filter(|_| jitter > delay) {
        let what = "more than the delay, so that packets would arrive before they are sent";
        mistakes.add(given.referenced, format!("{field}.jitter"), what);
    }
    Quality {
        mtu,
        delay_us: delay,
        jitter_us: jitter,
        loss_ppm: u32::try_from(loss).unwrap_or(0),
        rate_bps: rate,
        icmp_blackhole: blackhole,
    }
}

/// A number and its unit.
fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim()))
}

/// Microseconds.
fn duration(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!(
            "{text:?} is no time such as 20ms, at most {} s",
            MAX_DELAY / 1_000_000
        )
    };
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let factor = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        _ => return Err(wrong()),
    };
    let us = (number * factor).round() as u64;
    if us > MAX_DELAY { Err(wrong()) } else { Ok(us) }
}

/// Parts in a million.
fn share(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no share such as 1%, less than 100%");
    match split(text).ok_or_else(wrong)? {
        (number, "%") if number < 100.0 => Ok((number * 1e4).round() as u64),
        _ => Err(wrong()),
    }
}

/// Bits a second.
fn rate(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no rate such as 10Mbit, from 64kbit to 100Gbit");
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let factor = match unit {
        "kbit" => 1e3,
        "Mbit" => 1e6,
        "Gbit" => 1e9,
        _ => return Err(wrong()),
    };
    let bits = (number * factor).round() as u64;
    if RATES.contains(&bits) {
        Ok(bits)
    } else {
        Err(wrong())
    }
}

fn names(clusters: &[ClusterShape], entries: &[ClusterEntry], mistakes: &mut Mistakes) {
    for (index, (cluster, entry)) in clusters.iter().zip(entries).enumerate() {
        let at = entry.name.as_ref().map_or(Location::UNKNOWN, |n| n.referenced);
        let field = format!("clusters[{index}].name");
        if let Err(error) = cluster.name.parse::<ClusterId>() {
            mistakes.add(at, &field, error);
        }
        if ["broker", "router"].contains(&cluster.name.as_str()) {
            mistakes.add(at, &field, format!("{} is the lab's own", cluster.name));
        }
        if let Some(twin) = clusters[..index].iter().position(|c| c.name == cluster.name) {
            let what = format!("{} is the name of clusters[{twin}] already", cluster.name);
            mistakes.add(at, &field, what);
        }
    }
}

/// Every range of the file, with its place.
struct Range {
    net: IpNet,
    cluster: usize,
    field: String,
    at: Option<Location>,
}

fn overlaps(clusters: &[ClusterShape], entries: &[ClusterEntry], mistakes: &mut Mistakes) {
    let mut ranges: Vec<Range> = Vec::new();
    for (index, (cluster, entry)) in clusters.iter().zip(entries).enumerate() {
        let kinds = [
            ("podCidrs", &cluster.pod_cidrs, &entry.pod_cidrs),
            ("serviceCidrs", &cluster.service_cidrs, &entry.service_cidrs),
        ];
        for (name, nets, given) in kinds {
            for (i, net) in nets.iter().enumerate() {
                ranges.push(Range {
                    net: *net,
                    cluster: index,
                    field: format!("clusters[{index}].{name}[{i}]"),
                    at: given.get(i).map(|g| g.referenced),
                });
            }
        }
    }
    let meet = |a: &IpNet, b: &IpNet| a.contains(b) || b.contains(a);
    for (n, range) in ranges.iter().enumerate() {
        if let Some(at) = range.at {
            for (own, what) in topology::own_ranges() {
                if meet(&range.net, &own) {
                    mistakes.add(at, &range.field, format!("{} overlaps {own}, {what}", range.net));
                }
            }
        }
        for other in &ranges[..n] {
            if !meet(&range.net, &other.net) {
                continue;
            }
            let why = if range.cluster == other.cluster {
                ""
            } else {
                "; Strait does not join clusters with overlapping ranges yet"
            };
            // What was written is at fault, not a default.
            let (this, that) = if range.at.is_some() {
                (range, other)
            } else {
                (other, range)
            };
            let default = if that.at.is_none() { " by default" } else { "" };
            let what = format!(
                "{} overlaps {} of {}{default}{why}",
                this.net, that.net, that.field
            );
            mistakes.add(this.at.unwrap_or(Location::UNKNOWN), &this.field, what);
        }
    }
}

fn link(
    index: usize,
    entry: &LinkEntry,
    clusters: &[ClusterShape],
    others: &[LinkShape],
    mistakes: &mut Mistakes,
) -> Option<LinkShape> {
    let field = format!("links[{index}]");
    let at = entry.between.referenced;
    let quality = quality(
        &field,
        &WireFields {
            mtu: &entry.mtu,
            delay: &entry.delay,
            jitter: &entry.jitter,
            loss: &entry.loss,
            rate: &entry.rate,
            icmp_blackhole: &entry.icmp_blackhole,
        },
        mistakes,
    );
    let mut wrong = |what: String| {
        mistakes.add(at, format!("{field}.between"), what);
        None
    };
    let [a, b] = entry.between.value.as_slice() else {
        return wrong("it takes the names of two clusters".to_owned());
    };
    let find = |name: &str| clusters.iter().find(|c| c.name == name);
    let (Some(one), Some(two)) = (find(a), find(b)) else {
        let known: Vec<&str> = clusters.iter().map(|c| c.name.as_str()).collect();
        let unknown = if find(a).is_none() { a } else { b };
        return wrong(format!(
            "there is no cluster {unknown:?}; there are {}",
            known.join(", ")
        ));
    };
    if a == b {
        return wrong(format!("{a} needs no link to itself"));
    }
    if others
        .iter()
        .any(|l| l.between.contains(a) && l.between.contains(b))
    {
        return wrong(format!("{a} and {b} have a link already"));
    }
    if one.families.common(two.families).is_none() {
        return wrong(format!("{a} and {b} have no address family in common"));
    }
    Some(LinkShape {
        between: [a.clone(), b.clone()],
        quality,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Topology;

    fn examples() -> Vec<(String, String)> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
        let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        let name = |p: &Path| p.file_name().unwrap().to_string_lossy().into_owned();
        files
            .iter()
            .map(|p| (name(p), fs::read_to_string(p).unwrap()))
            .collect()
    }

    #[test]
    fn every_example_makes_a_lab() {
        let examples = examples();
        assert!(examples.len() >= 4, "{examples:?}");
        for (name, text) in examples {
            let shape = parse(&text).unwrap_or_else(|e| panic!("{name}: {e:#}"));
            let lab = Topology::new("t", &shape);
            assert_eq!(lab.clusters.len(), shape.clusters.len(), "{name}");
            let mut seen = std::collections::BTreeSet::new();
            for ip in lab.router_addresses() {
                assert!(seen.insert(ip), "{name}: {ip} twice");
                let own = topology::own_ranges();
                assert!(own.iter().any(|(net, _)| net.contains(&ip)), "{name}: {ip}");
            }
        }
    }

    #[test]
    fn what_is_left_out_is_as_in_a_plain_lab() {
        let shape = parse("clusters: [{}, {}]").unwrap();
        assert_eq!(shape, Shape::uniform(2, 2, 1, Families::V4));
    }

    #[test]
    fn everything_that_can_be_said_is_understood() {
        let shape = parse(
            "clusters:\n- name: east\n  nodes: 3\n  gateways: 2\n  families: dual-stack\n  \
             podCidrs: [10.50.0.0/18, 'fd50::/56']\n  serviceCidrs: [10.60.0.0/20, 'fd60::/112']\n  \
             underlay: {nat: forwarded, mtu: 1400, delay: 1.5ms, jitter: 500us, loss: 0.25%, rate: 2.5Gbit, \
             icmpBlackhole: true}\n- name: west\n  families: ipv6\nlinks:\n- between: [east, west]\n  delay: 1s\n",
        )
        .unwrap();
        let east = &shape.clusters[0];
        assert_eq!((east.name.as_str(), east.nodes, east.gateways), ("east", 3, 2));
        assert_eq!(east.families, Families::Dual);
        assert_eq!(east.pod_cidrs[1], "fd50::/56".parse().unwrap());
        assert_eq!(
            east.underlay,
            Some(Underlay {
                nat: Some(Nat::Forwarded),
                quality: Quality {
                    mtu: Some(1400),
                    delay_us: 1500,
                    jitter_us: 500,
                    loss_ppm: 2500,
                    rate_bps: Some(2_500_000_000),
                    icmp_blackhole: true,
                }
            })
        );
        assert_eq!(shape.links[0].quality.delay_us, 1_000_000);
    }

    /// Each is one mistake in a file of two clusters; what must be said of it.
    #[test]
    fn every_wrong_field_is_named_with_its_line() {
        for (text, said) in [
            ("clusters: []", &["line 1, clusters: 0 clusters"][..]),
            ("clusters:\n- nods: 3", &["nods", "line 2"]),
            (
                "clusters:\n- nodes: many",
                &["line 2, clusters[0].nodes: many nodes", "1 to 16"],
            ),
            (
                "clusters:\n- nodes: 17",
                &["line 2, clusters[0].nodes: 17 nodes", "1 to 16"],
            ),
            (
                "clusters:\n- nodes: 2\n  gateways: 3",
                &["line 3, clusters[0].gateways: 3 gateways", "1 to 2"],
            ),
            (
                "clusters:\n- families: ipv5",
                &["line 2, clusters[0].families", "dual-stack"],
            ),
            ("clusters:\n- name: Blue", &["line 2, clusters[0].name"]),
            ("clusters:\n- name: broker", &["line 2, clusters[0].name", "own"]),
            (
                "clusters:\n- name: a1\n- name: a1",
                &["line 3, clusters[1].name", "clusters[0]"],
            ),
            (
                "clusters:\n- podCidrs: [10.1.0.0]",
                &["line 2, clusters[0].podCidrs[0]", "10.1.0.0/16"],
            ),
            (
                "clusters:\n- podCidrs: [10.1.2.0/16]",
                &["bits set", "10.1.0.0/16"],
            ),
            ("clusters:\n- podCidrs: [10.1.0.0/23]", &["too small", "2 nodes"]),
            ("clusters:\n- podCidrs: ['fd00::/48']", &["one of IPv4"]),
            (
                "clusters:\n- families: dual-stack\n  podCidrs: [10.1.0.0/16]",
                &["line 3, clusters[0].podCidrs", "one of IPv4 and one of IPv6"],
            ),
            ("clusters:\n- serviceCidrs: [10.1.0.0/30]", &["/12 to /24"]),
            (
                "clusters:\n- podCidrs: [172.31.0.0/16]",
                &["overlaps 172.31.0.0/16", "the lab's own networks"],
            ),
            (
                "clusters:\n- podCidrs: [10.9.0.0/16]\n- podCidrs: [10.9.128.0/17]",
                &[
                    "line 3, clusters[1].podCidrs[0]",
                    "clusters[0].podCidrs[0]",
                    "yet",
                ],
            ),
            (
                "clusters:\n- {}\n- podCidrs: [10.1.0.0/16]",
                &["line 3, clusters[1].podCidrs[0]", "by default"],
            ),
            (
                "clusters:\n- podCidrs: [10.2.0.0/16]\n- {}",
                &[
                    "line 2, clusters[0].podCidrs[0]",
                    "clusters[1].podCidrs[0] by default",
                ],
            ),
            (
                "clusters:\n- underlay:\n    mtu: 900",
                &["line 3, clusters[0].underlay.mtu: 900", "1280 to 9000"],
            ),
            (
                "clusters:\n- underlay: {nat: yes please}",
                &["clusters[0].underlay.nat", "forwarded"],
            ),
            (
                "clusters:\n- underlay: {delay: 20}",
                &["clusters[0].underlay.delay", "20ms"],
            ),
            ("clusters:\n- underlay: {delay: 5s}", &["at most 2 s"]),
            (
                "clusters:\n- underlay: {jitter: 5ms}",
                &["clusters[0].underlay.jitter", "more than the delay"],
            ),
            (
                "clusters:\n- underlay: {loss: 100%}",
                &["clusters[0].underlay.loss", "less than 100%"],
            ),
            (
                "clusters:\n- underlay: {loss: -1%}",
                &["clusters[0].underlay.loss"],
            ),
            (
                "clusters:\n- underlay: {rate: 10MB}",
                &["clusters[0].underlay.rate", "10Mbit"],
            ),
            ("clusters:\n- underlay: {rate: 1kbit}", &["64kbit"]),
            (
                "clusters: [{}, {}]\nlinks:\n- between: [blue]",
                &["line 3, links[0].between", "two clusters"],
            ),
            (
                "clusters: [{}, {}]\nlinks:\n- between: [blue, red]",
                &["\"red\"", "blue, green"],
            ),
            ("clusters: [{}, {}]\nlinks:\n- between: [blue, blue]", &["itself"]),
            (
                "clusters: [{}, {}]\nlinks:\n- between: [blue, green]\n- between: [green, blue]",
                &["line 4, links[1].between", "already"],
            ),
            (
                "clusters: [{}, {families: ipv6}]\nlinks:\n- between: [blue, green]",
                &["family in common"],
            ),
            (
                "clusters: [{}, {}]\nlinks:\n- between: [blue, green]\n  nat: hidden",
                &["nat", "line 4"],
            ),
            (
                "clusters:\n- underlay: {icmpBlackhole: maybe}",
                &["clusters[0].underlay.icmpBlackhole", "true nor false"],
            ),
            ("clusters:\n- nodes: [1]", &["line 2", "a single value"]),
            ("clusters:\n- nodes: 1.5", &["clusters[0].nodes: 1.5 nodes"]),
            ("", &["clusters"]),
            ("clusters: [", &["line 1"]),
        ] {
            let error = format!("{:#}", parse(text).map(|_| ()).expect_err(text));
            for part in said {
                assert!(error.contains(part), "{text:?}\n{error:?} does not say {part:?}");
            }
        }
    }

    #[test]
    fn clusters_that_cannot_reach_each_other_are_told() {
        let shape = parse(
            "clusters:\n- underlay: {nat: hidden}\n- underlay: {nat: hidden}\n- underlay: {nat: forwarded}\n\
             - families: ipv6",
        )
        .unwrap();
        let notes = notes(&shape);
        assert_eq!(notes.len(), 4, "{notes:?}");
        assert!(
            notes[0].contains("blue and green") && notes[0].contains("NATs"),
            "{notes:?}"
        );
        assert!(
            notes[1].contains("blue and amber") && notes[1].contains("family"),
            "{notes:?}"
        );
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let error = parse("clusters:\n- nodes: 0\n- families: x")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("line 2, ") && error.contains("line 3, "),
            "{error}"
        );
    }
}
