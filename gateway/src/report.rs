//! What the data path does, told to people: the local status of the record, and metrics.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Weak;
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;
use strait_api::Condition;
use strait_api::records::{GatewayStatus, TunnelStatus};
use strait_core::tunnels::Tunnel;

use crate::datapath::{Engine, EngineStatus, LastHandshake, PeerStatus};

/// A session is dead at this age, whatever it looks like.
const SESSION_LIMIT: Duration = Duration::from_secs(180);
/// Tunnels that the status names.
const WORST: usize = 20;

fn is_up(peer: &PeerStatus) -> bool {
    peer.established && peer.last_handshake.is_some_and(|last| last.age < SESSION_LIMIT)
}

fn lanes_up(peer: &PeerStatus) -> u32 {
    peer.lanes.iter().filter(|lane| lane.established).count() as u32
}

/// A tunnel that the records ask for and that is not made, or an address that is not tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    /// Reason of a condition, in CamelCase.
    pub(crate) reason: String,
    /// A sentence.
    pub(crate) message: String,
}

/// Refusals whose sentences the status holds.
const TOLD: usize = 5;

/// Whether all that the records ask for is in force. The record is this gateway's own: each gateway judges
/// by its own keys and addresses, so several would contradict each other on a peer's.
fn peers_admitted(refused: &[Refused]) -> Condition {
    let Some(first) = refused.first() else {
        return Condition::new("PeersAdmitted", true, "AllAdmitted", "");
    };
    let mut sentences: Vec<&str> = refused.iter().take(TOLD).map(|r| r.message.as_str()).collect();
    let more = format!("and {} more", refused.len().saturating_sub(TOLD));
    if refused.len() > TOLD {
        sentences.push(&more);
    }
    Condition::new(
        "PeersAdmitted",
        false,
        first.reason.as_str(),
        sentences.join("; "),
    )
}

/// The status to write; `before` is the one written last, so that nothing changes without a cause.
pub(crate) fn status(
    engine: &EngineStatus,
    wanted: &BTreeMap<String, Tunnel>,
    refused: &[Refused],
    before: &GatewayStatus,
    now: Timestamp,
) -> GatewayStatus {
    let mut tunnels: Vec<TunnelStatus> = engine
        .peers
        .iter()
        .filter_map(|peer| wanted.get(&peer.id).map(|tunnel| tunnel_status(peer, tunnel)))
        .collect();
    let up = tunnels.iter().filter(|tunnel| tunnel.up).count();
    let total = tunnels.len();
    tunnels.sort_by(|a, b| (a.up, &a.cluster_id, &a.gateway).cmp(&(b.up, &b.cluster_id, &b.gateway)));
    tunnels.truncate(WORST);
    let mut conditions: Vec<Condition> = before
        .conditions
        .iter()
        .filter(|condition| ["Ready", "PeersAdmitted"].contains(&condition.type_.as_str()))
        .cloned()
        .collect();
    for condition in [
        Condition::new("Ready", true, "DataPathRuns", "the gateway's data path runs"),
        peers_admitted(refused),
    ] {
        condition.merge_into(&mut conditions, &whole_seconds(now).to_string());
    }
    GatewayStatus {
        up: up as u32,
        total: total as u32,
        tunnels,
        conditions,
    }
}

fn tunnel_status(peer: &PeerStatus, tunnel: &Tunnel) -> TunnelStatus {
    let handshake = peer
        .last_handshake
        .and_then(|last| Timestamp::try_from(last.at).ok())
        .map(|time| whole_seconds(time).to_string());
    TunnelStatus {
        cluster_id: tunnel.cluster.clone(),
        gateway: tunnel.gateway.clone(),
        up: is_up(peer),
        lanes: peer.lanes.len() as u32,
        lanes_up: lanes_up(peer),
        endpoint: peer.endpoint.map(|endpoint| endpoint.to_string()),
        last_handshake: handshake,
    }
}

fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// Refusals by reason.
#[derive(Debug, Clone, Default)]
pub(crate) struct RefusedMetric(Family<Reason, Gauge>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: String,
}

impl RefusedMetric {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "gateway_peers_refused",
            "Tunnels or addresses in the other clusters' records that this gateway does not use, by reason",
            self.0.clone(),
        );
    }

    pub(crate) fn set(&self, refused: &[Refused]) {
        self.0.clear();
        for Refused { reason, .. } in refused {
            self.0
                .get_or_create(&Reason {
                    reason: reason.clone(),
                })
                .inc();
        }
    }
}

/// The engine's numbers, read at each scrape. It must not keep the engine alive: the registry ends last.
pub(crate) struct Metrics(pub(crate) Weak<Engine>);

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0
            .upgrade()
            .map_or(Ok(()), |engine| encode(&engine.status(), &mut encoder))
    }
}

fn encode(status: &EngineStatus, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    counter(
        encoder,
        status,
        "gateway_tunnel_rx_bytes",
        "Bytes received and authenticated",
        |p| p.rx_bytes,
    )?;
    counter(encoder, status, "gateway_tunnel_tx_bytes", "Bytes sent", |p| {
        p.tx_bytes
    })?;
    counter(
        encoder,
        status,
        "gateway_tunnel_rx_packets",
        "Inner packets delivered",
        |p| p.rx_packets,
    )?;
    counter(
        encoder,
        status,
        "gateway_tunnel_tx_packets",
        "Inner packets sent",
        |p| p.tx_packets,
    )?;

    let mut family = encoder.encode_descriptor(
        "gateway_tunnel_up",
        "Whether the tunnel has a session",
        None,
        MetricType::Gauge,
    )?;
    for peer in &status.peers {
        ConstGauge::new(i64::from(is_up(peer))).encode(family.encode_family(&labels(peer))?)?;
    }
    for (name, help, value) in [
        (
            "gateway_tunnel_lanes",
            "Lanes of the tunnel: as many as both gateways have workers",
            (|peer| peer.lanes.len() as u32) as fn(&PeerStatus) -> u32,
        ),
        (
            "gateway_tunnel_lanes_up",
            "Lanes of the tunnel that have a session",
            lanes_up,
        ),
    ] {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for peer in &status.peers {
            ConstGauge::new(i64::from(value(peer))).encode(family.encode_family(&labels(peer))?)?;
        }
    }
    let mut family = encoder.encode_descriptor(
        "gateway_tunnel_handshake_age_seconds",
        "Age of the newest handshake, where a session stands",
        None,
        MetricType::Gauge,
    )?;
    for peer in &status.peers {
        if let Some(LastHandshake { age, .. }) = peer.last_handshake.filter(|_| peer.established) {
            ConstGauge::new(age.as_secs_f64()).encode(family.encode_family(&labels(peer))?)?;
        }
    }
    let mut family = encoder.encode_descriptor(
        "gateway_tunnel_drops",
        "Packets dropped of one tunnel, by cause",
        None,
        MetricType::Counter,
    )?;
    for peer in &status.peers {
        for (cause, count) in &peer.drops {
            let labels = [("tunnel", peer.id.as_str()), ("cause", cause.as_str())];
            ConstCounter::new(*count).encode(family.encode_family(&labels)?)?;
        }
    }
    let mut family = encoder.encode_descriptor(
        "gateway_drops",
        "Packets dropped that belong to no tunnel, by cause",
        None,
        MetricType::Counter,
    )?;
    for (cause, count) in &status.drops {
        ConstCounter::new(*count).encode(family.encode_family(&[("cause", cause.as_str())])?)?;
    }
    Ok(())
}

fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    status: &EngineStatus,
    name: &str,
    help: &str,
    value: impl Fn(&PeerStatus) -> u64,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for peer in &status.peers {
        ConstCounter::new(value(peer)).encode(family.encode_family(&labels(peer))?)?;
    }
    Ok(())
}

fn labels(peer: &PeerStatus) -> [(&'static str, String); 1] {
    [("tunnel", peer.id.clone())]
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use strait_api::PublicKey;

    use super::*;
    use crate::datapath::{DropCause, LaneStatus, OffloadStatus};

    fn peer(id: &str, age: Option<u64>) -> PeerStatus {
        PeerStatus {
            id: id.to_owned(),
            public_key: PublicKey([1; 32]),
            endpoint: age.map(|_| "192.0.2.1:4510".parse().unwrap()),
            established: age.is_some(),
            last_handshake: age.map(|age| LastHandshake {
                age: Duration::from_secs(age),
                at: SystemTime::from(at("2026-01-01T00:00:00Z")) - Duration::from_secs(age),
            }),
            rx_bytes: 11,
            tx_bytes: 12,
            rx_packets: 13,
            tx_packets: 14,
            drops: [(DropCause::InReplay, 3)].into(),
            lanes: [age.is_some(), false]
                .map(|established| LaneStatus {
                    worker: 0,
                    established,
                    rx_packets: 6,
                    tx_packets: 7,
                })
                .to_vec(),
        }
    }

    fn tunnel(cluster: &str) -> (String, Tunnel) {
        let tunnel = Tunnel {
            cluster: cluster.parse().unwrap(),
            gateway: "gw".to_owned(),
            slot: 0,
            public_keys: vec![PublicKey([1; 32])],
            candidates: vec![],
            prefixes: vec![],
        };
        (tunnel.id(), tunnel)
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn down_tunnels_come_first_and_the_list_is_short() {
        let wanted: BTreeMap<_, _> = (0..30).map(|i| tunnel(&format!("c{i:02}"))).collect();
        let peers = wanted
            .keys()
            .map(|id| peer(id, (!id.starts_with("c29")).then_some(7)))
            .collect();
        let engine = EngineStatus {
            peers,
            drops: BTreeMap::new(),
            offload: OffloadStatus::default(),
        };
        let status = status(
            &engine,
            &wanted,
            &[],
            &GatewayStatus::default(),
            at("2026-01-01T00:00:00Z"),
        );
        assert_eq!((status.up, status.total, status.tunnels.len()), (29, 30, 20));
        assert_eq!(status.tunnels[0].cluster_id.as_str(), "c29");
        assert!(!status.tunnels[0].up);
        let lanes = |number: usize| (status.tunnels[number].lanes, status.tunnels[number].lanes_up);
        assert_eq!((lanes(0), lanes(1)), ((2, 0), (2, 1)));
        assert_eq!(
            status.tunnels[1].last_handshake.as_deref(),
            Some("2025-12-31T23:59:53Z")
        );
        assert_eq!(status.conditions[0].type_, "Ready");
    }

    #[test]
    fn the_status_changes_only_when_the_tunnel_does() {
        let wanted: BTreeMap<_, _> = [tunnel("green")].into();
        let engine = |age, made: &str| EngineStatus {
            peers: vec![PeerStatus {
                last_handshake: Some(LastHandshake {
                    age: Duration::from_secs(age),
                    at: at(made).into(),
                }),
                ..peer("green/gw", Some(age))
            }],
            drops: BTreeMap::new(),
            offload: OffloadStatus::default(),
        };
        let first = status(
            &engine(7, "2025-12-31T23:59:53.2Z"),
            &wanted,
            &[],
            &GatewayStatus::default(),
            at("2026-01-01T00:00:00.9Z"),
        );
        let later = status(
            &engine(17, "2025-12-31T23:59:53.2Z"),
            &wanted,
            &[],
            &first,
            at("2026-01-01T00:00:11.1Z"),
        );
        assert_eq!(first, later);
        let renewed = status(
            &engine(1, "2026-01-01T00:01:59.5Z"),
            &wanted,
            &[],
            &later,
            at("2026-01-01T00:02:00Z"),
        );
        assert_eq!(
            renewed.tunnels[0].last_handshake.as_deref(),
            Some("2026-01-01T00:01:59Z")
        );
    }

    #[test]
    fn what_is_refused_is_a_condition_and_a_metric_until_it_is_mended() {
        let engine = EngineStatus {
            peers: vec![],
            drops: BTreeMap::new(),
            offload: OffloadStatus::default(),
        };
        let refused = |count: usize| -> Vec<Refused> {
            (0..count)
                .map(|i| Refused {
                    reason: if i == 0 { "KeyTaken" } else { "NoAddress" }.to_owned(),
                    message: format!("gateway gw-{i} of cluster green is wrong"),
                })
                .collect()
        };
        let told = |refused: &[Refused], before: &GatewayStatus, now: &str| {
            status(&engine, &BTreeMap::new(), refused, before, at(now))
        };
        let condition = |status: &GatewayStatus| {
            let found = status
                .conditions
                .iter()
                .find(|c| c.type_ == "PeersAdmitted")
                .unwrap();
            (
                found.status.clone(),
                found.reason.clone(),
                found.message.clone(),
                found.last_transition_time.clone(),
            )
        };
        let bad = told(&refused(7), &GatewayStatus::default(), "2026-01-01T00:00:00Z");
        let (truth, reason, message, since) = condition(&bad);
        assert_eq!((truth.as_str(), reason.as_str()), ("False", "KeyTaken"));
        assert!(
            message.starts_with("gateway gw-0 of cluster green is wrong; ")
                && message.ends_with("; and 2 more"),
            "{message}"
        );
        let still = told(&refused(7), &bad, "2026-01-01T00:01:00Z");
        assert_eq!(condition(&still).3, since, "nothing has changed");
        let good = told(&[], &still, "2026-01-01T00:02:00Z");
        assert_eq!(
            (condition(&good).0.as_str(), condition(&good).1.as_str()),
            ("True", "AllAdmitted")
        );

        let metric = RefusedMetric::default();
        let mut registry = Registry::with_prefix("strait");
        metric.register(&mut registry);
        metric.set(&refused(3));
        let text = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text
        };
        for line in [
            r#"strait_gateway_peers_refused{reason="KeyTaken"} 1"#,
            r#"strait_gateway_peers_refused{reason="NoAddress"} 2"#,
        ] {
            assert!(text().contains(line), "{line} is missing in:\n{}", text());
        }
        metric.set(&[]);
        assert!(!text().contains("reason="), "{}", text());
    }

    #[derive(Debug)]
    struct Fixed(EngineStatus);

    impl Collector for Fixed {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
            encode(&self.0, &mut encoder)
        }
    }

    #[test]
    fn metrics_name_the_tunnel_and_the_cause() {
        let mut registry = Registry::with_prefix("strait");
        let drops = [(DropCause::InMalformed, 5)].into();
        let peers = vec![peer("green/gw", Some(7)), peer("red/gw", None)];
        registry.register_collector(Box::new(Fixed(EngineStatus {
            peers,
            drops,
            offload: OffloadStatus::default(),
        })));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            r#"strait_gateway_tunnel_rx_bytes_total{tunnel="green/gw"} 11"#,
            r#"strait_gateway_tunnel_tx_bytes_total{tunnel="green/gw"} 12"#,
            r#"strait_gateway_tunnel_up{tunnel="green/gw"} 1"#,
            r#"strait_gateway_tunnel_up{tunnel="red/gw"} 0"#,
            r#"strait_gateway_tunnel_lanes{tunnel="green/gw"} 2"#,
            r#"strait_gateway_tunnel_lanes_up{tunnel="green/gw"} 1"#,
            r#"strait_gateway_tunnel_lanes_up{tunnel="red/gw"} 0"#,
            r#"strait_gateway_tunnel_handshake_age_seconds{tunnel="green/gw"} 7.0"#,
            r#"strait_gateway_tunnel_drops_total{tunnel="green/gw",cause="in_replay"} 3"#,
            r#"strait_gateway_drops_total{cause="in_malformed"} 5"#,
        ] {
            assert!(text.contains(line), "{line} is missing in:\n{text}");
        }
        assert!(!text.contains(r#"age_seconds{tunnel="red/gw"}"#), "{text}");
    }
}
