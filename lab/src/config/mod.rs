//! `--config FILE`: what a lab looks like, in YAML. Every mistake is told with its line and field.

mod entries;
mod overlaps;
mod text;
mod values;

use std::fmt::Display;
use std::fs;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use ipnet::IpNet;
use serde_saphyr::{Location, Spanned};
use strait_api::ClusterId;

use entries::{ClusterEntry, File, LinkEntry, UnderlayEntry, Word};
use overlaps::overlaps;
use values::{duration, fits_pods, fits_services, prefix, rate, share};

use crate::topology::{
    self, ClusterShape, Families, LinkShape, MAX_CLUSTERS, MAX_NODES, Nat, Quality, Shape, Underlay,
};

/// Smallest and largest MTU of a way outside: what IPv6 asks for, and what Ethernet has.
const MTUS: std::ops::RangeInclusive<u32> = 1280..=9000;

/// Reads a file.
pub(crate) fn read(path: &Path) -> Result<Shape> {
    let bytes = at_most(path).with_context(|| {
        format!(
            "cannot read {}; name a file that is there and may be read with --config",
            path.display()
        )
    })?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let line = 1 + e.as_bytes()[..e.utf8_error().valid_up_to()]
            .iter()
            .filter(|b| **b == b'\n')
            .count();
        anyhow!(
            "{}: line {line}: it is no text in UTF-8; save it as that",
            path.display()
        )
    })?;
    parse(&text).with_context(|| path.display().to_string())
}

/// No lab needs more to be said of it, and a device or a pipe may have no end.
const MAX_BYTES: u64 = 1 << 20;

fn at_most(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)?;
    ensure!(
        bytes.len() as u64 <= MAX_BYTES,
        "it has more than {} KiB, which no lab needs; is it the right file?",
        MAX_BYTES >> 10
    );
    Ok(bytes)
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

/// Prefixes of a kind that are looked at: one more than a cluster can have.
const MAX_CIDRS: usize = 3;
/// Longest account of a mistake.
const MAX_SAID: usize = 400;
/// Links between all pairs of clusters.
const MAX_LINKS: usize = MAX_CLUSTERS * (MAX_CLUSTERS - 1) / 2;

/// The mistakes found so far.
#[derive(Default)]
struct Mistakes(Vec<(u64, String)>);

impl Mistakes {
    fn add(&mut self, at: Location, field: impl Display, what: impl Display) {
        let line = at.line();
        let mut text = format!("line {line}, {field}: {what}");
        // Whatever was given is quoted, but not a page of it.
        if let Some((end, _)) = text.char_indices().nth(MAX_SAID) {
            text.truncate(end);
            text.push('…');
        }
        self.0.push((line, text));
    }
}

pub(crate) fn parse(text: &str) -> Result<Shape> {
    if text.trim().is_empty() {
        bail!("line 1: it is empty; it takes a list of clusters");
    }
    let file: File = text::entries(text)?;
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
    if let Some(first) = file.links.get(MAX_LINKS) {
        let what = format!(
            "{} links; there are at most {MAX_LINKS}, one for each pair",
            file.links.len()
        );
        mistakes.add(first.between.referenced, "links", what);
    }
    for (index, entry) in file.links.iter().take(MAX_LINKS).enumerate() {
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
            .take(MAX_CIDRS)
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
        let all_good = found.len() == given.len().min(MAX_CIDRS);
        if let (Some(first), true) = (given.first(), have != wanted && all_good) {
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
mod tests;
