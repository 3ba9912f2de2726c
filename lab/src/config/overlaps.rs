//! Ranges that meet others.

use ipnet::IpNet;
use serde_saphyr::Location;

use super::Mistakes;
use super::entries::ClusterEntry;
use crate::topology::{self, ClusterShape};

/// Every range of the file, with its place.
struct Range {
    net: IpNet,
    cluster: usize,
    field: String,
    at: Option<Location>,
}

pub(super) fn overlaps(clusters: &[ClusterShape], entries: &[ClusterEntry], mistakes: &mut Mistakes) {
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
