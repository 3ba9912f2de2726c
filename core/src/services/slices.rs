//! EndpointSlices of an import: per source cluster, family and set of target ports.

use std::collections::BTreeMap;
use std::net::IpAddr;

use sha2::{Digest, Sha256};
use strait_api::ClusterId;
use strait_api::names;
use strait_api::records::{Endpoint, IpFamily, ServicePort};

use super::export::put;
use super::merge::{Constituent, Merged};
use super::{ServiceKey, Slice};

/// Most endpoints of a slice (the API server's own bound).
pub const MAX_ENDPOINTS: usize = 1_000;
/// More than the largest record's endpoints need, spread by chance.
const MOST_BUCKETS: usize = 64;

/// The slices that one cluster's export makes here; at least one, so that its having exported can be seen.
pub fn slices(key: &ServiceKey, merged: &Merged, own: &ClusterId, exporter: &Constituent) -> Vec<Slice> {
    let cluster = exporter.cluster();
    let mut groups: BTreeMap<(IpFamily, Vec<ServicePort>), BTreeMap<IpAddr, Endpoint>> = BTreeMap::new();
    for set in &exporter.spec.endpoints {
        let ports = ports(merged, exporter, &set.ports);
        // A port of this cluster that lost a conflict is not to be reached through the winner's.
        if ports.is_empty() && !merged.ports.is_empty() {
            continue;
        }
        let group = groups.entry((set.family, ports)).or_default();
        for endpoint in &set.endpoints {
            if IpFamily::of(endpoint.address) != set.family {
                continue;
            }
            put(
                group,
                &Endpoint {
                    ready: endpoint.ready && !exporter.draining,
                    node: endpoint.node.clone().filter(|_| cluster == own),
                    ..endpoint.clone()
                },
            );
        }
    }
    groups.retain(|_, endpoints| !endpoints.is_empty());
    if groups.is_empty() {
        let family = merged.ip_families.first().copied().unwrap_or(IpFamily::IPv4);
        groups.insert((family, Vec::new()), BTreeMap::new());
    }
    let mut out = Vec::new();
    for ((family, ports), endpoints) in groups {
        let buckets = buckets(endpoints.into_values().collect());
        let count = buckets.len();
        for (i, endpoints) in buckets.into_iter().enumerate() {
            if endpoints.is_empty() && count > 1 {
                continue;
            }
            out.push(Slice {
                name: name(key, cluster, family, &ports, i, count),
                service: key.clone(),
                labels: labels(key, cluster),
                family,
                ports: ports.clone(),
                endpoints,
            });
        }
    }
    out
}

/// The import's ports that this cluster exposes, with their target ports.
fn ports(merged: &Merged, exporter: &Constituent, targets: &[ServicePort]) -> Vec<ServicePort> {
    let mut ports: Vec<ServicePort> = merged
        .ports
        .iter()
        .filter_map(|m| {
            let own = exporter
                .spec
                .ports
                .iter()
                .find(|p| p.protocol == m.protocol && p.port == m.port)?;
            let target = targets
                .iter()
                .find(|t| t.name == own.name && t.protocol == own.protocol)?;
            Some(ServicePort {
                port: target.port,
                ..m.clone()
            })
        })
        .collect();
    ports.sort();
    ports
}

/// Splits by a hash of the address, so that one endpoint's change touches one slice only.
fn buckets(endpoints: Vec<Endpoint>) -> Vec<Vec<Endpoint>> {
    let mut count = 1;
    while count <= MOST_BUCKETS {
        let mut buckets = vec![Vec::new(); count];
        for endpoint in &endpoints {
            let bucket = digest(&endpoint.address.to_string()) as usize % count;
            if let Some(b) = buckets.get_mut(bucket) {
                b.push(endpoint.clone());
            }
        }
        if buckets.iter().all(|b| b.len() <= MAX_ENDPOINTS) {
            return buckets;
        }
        count *= 2;
    }
    // Somebody has chosen addresses whose hashes are alike.
    endpoints
        .chunks(MAX_ENDPOINTS)
        .map(<[Endpoint]>::to_vec)
        .collect()
}

fn digest(text: &str) -> u64 {
    Sha256::digest(text)
        .iter()
        .take(8)
        .fold(0, |n, byte| n << 8 | u64::from(*byte))
}

fn name(
    key: &ServiceKey,
    cluster: &ClusterId,
    family: IpFamily,
    ports: &[ServicePort],
    bucket: usize,
    count: usize,
) -> String {
    let ports: Vec<String> = ports
        .iter()
        .map(|p| format!("{} {} {}", p.name, p.protocol, p.port))
        .collect();
    let identity = format!(
        "{}\n{cluster}\n{family:?}\n{}\n{bucket}/{count}",
        key.name,
        ports.join("\n")
    );
    format!("{}-{cluster}-{:010x}", key.name, digest(&identity) >> 24)
}

fn labels(key: &ServiceKey, cluster: &ClusterId) -> BTreeMap<String, String> {
    [
        (names::LABEL_MCS_SERVICE, key.name.as_str()),
        (names::LABEL_MCS_CLUSTER, cluster.as_str()),
        (names::LABEL_SLICE_MANAGED_BY, names::MANAGED_BY),
        (names::LABEL_SERVICE_PROXY, names::MANAGED_BY),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_chosen_for_their_hashes_make_no_more_slices_than_they_need() {
        let alike = (0..u32::MAX)
            .map(|n| IpAddr::from(std::net::Ipv4Addr::from(0x0a02_0000 + n)))
            .filter(|a| (digest(&a.to_string()) as usize).is_multiple_of(MOST_BUCKETS));
        let endpoints: Vec<Endpoint> = alike
            .take(MAX_ENDPOINTS + 1)
            .map(|address| Endpoint {
                address,
                ready: true,
                serving: true,
                terminating: false,
                hostname: None,
                node: None,
                zone: None,
            })
            .collect();
        let buckets = buckets(endpoints.clone());
        assert_eq!(
            buckets.iter().map(Vec::len).collect::<Vec<_>>(),
            [MAX_ENDPOINTS, 1]
        );
        assert_eq!(buckets.concat(), endpoints);
    }
}
