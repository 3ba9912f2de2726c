//! What comes out, for people and for scripts.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::json;

use super::place::Side;
use crate::tool::{Hop, Pinged};

/// Seconds that a ping may take.
pub(super) const PING_PATIENCE: f64 = 1.0;

/// Round trips in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Latency {
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) sent: u16,
    pub(super) received: u16,
}

impl Latency {
    pub(super) fn of(pinged: &Pinged) -> Result<Self> {
        let mut times = pinged.rtt_ms.clone();
        // One that is lost took longer than any other.
        times.resize(pinged.sent.into(), PING_PATIENCE * 1e3);
        times.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let found = times.get((times.len() as f64 * share) as usize);
            found.map(|ms| ms * 1e3).context("no ping was answered")
        };
        Ok(Self {
            p50_us: at(0.5)?,
            p99_us: at(0.99)?,
            sent: pinged.sent,
            received: pinged.received,
        })
    }
}

/// Who worked for one TCP flow.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Cpu {
    pub(super) shares: Vec<Share>,
    /// Of everything on this machine.
    pub(super) machine_seconds_per_gigabyte: f64,
    /// Of these, in the kernel's handling of packets outside of system calls, whoever it interrupted.
    pub(super) softirq_seconds_per_gigabyte: f64,
}

/// What one thread, or a process, worked.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Share {
    pub(super) process: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) thread: Option<String>,
    pub(super) seconds_per_gigabyte: f64,
}

/// What a path carries.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Measured {
    pub(super) tcp_1_bits_per_second: f64,
    pub(super) tcp_8_bits_per_second: f64,
    /// Datagrams of 64 bytes that arrived.
    pub(super) udp_64_per_second: f64,
    pub(super) udp_64_sent_per_second: f64,
    pub(super) round_trip_idle: Latency,
    pub(super) round_trip_loaded: Latency,
    pub(super) loaded_with_bits_per_second: f64,
    /// Of one TCP flow.
    pub(super) cpu: Cpu,
}

/// Pod to pod as a part of what the bare data path carries.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Ratio {
    tcp_1: f64,
    tcp_8: f64,
    udp_64: f64,
}

impl Measured {
    /// Another path as a part of this one.
    pub(super) fn below(&self, other: &Self) -> Ratio {
        let part = |of: fn(&Self) -> f64| if of(self) > 0.0 { of(other) / of(self) } else { 0.0 };
        Ratio {
            tcp_1: part(|measured| measured.tcp_1_bits_per_second),
            tcp_8: part(|measured| measured.tcp_8_bits_per_second),
            udp_64: part(|measured| measured.udp_64_per_second),
        }
    }
}

/// Pod to pod.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Pods {
    pub(super) from: Side,
    pub(super) to: Side,
    #[serde(flatten)]
    pub(super) measured: Measured,
}

/// The bare data path between two gateways.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Bare {
    pub(super) from: String,
    pub(super) to: String,
    #[serde(flatten)]
    pub(super) measured: Measured,
}

/// Everything.
#[derive(Debug, Clone)]
pub(super) struct Report {
    pub(super) lab: String,
    pub(super) seconds: f64,
    pub(super) pods: Pods,
    pub(super) bare: Option<Bare>,
    /// Why there is none.
    pub(super) no_bare: Option<String>,
    pub(super) ratio: Option<Ratio>,
    /// Who stands at each hop, and what lies before it.
    pub(super) stations: Vec<(&'static str, String)>,
    pub(super) path: Vec<Hop>,
}

impl Report {
    /// One object.
    pub(super) fn to_json(&self) -> Result<String> {
        let path: Vec<_> = self
            .path
            .iter()
            .enumerate()
            .map(|(at, hop)| {
                let (leg, name) = self.station(at);
                json!({ "leg": leg, "name": name, "address": hop.address, "round_trip_us": hop.rtt_ms.map(|ms| ms * 1e3) })
            })
            .collect();
        Ok(serde_json::to_string_pretty(&json!({
            "lab": self.lab,
            "seconds": self.seconds,
            "pods": self.pods,
            "bare": self.bare,
            "no_bare": self.no_bare,
            "ratio": self.ratio,
            "path": path,
        }))?)
    }

    /// Who stands at a hop; nobody is named on a path of another length than usual.
    fn station(&self, at: usize) -> (&str, &str) {
        match self.stations.get(at) {
            Some((leg, name)) if self.stations.len() == self.path.len() => (leg, name),
            _ => ("", ""),
        }
    }

    /// Some lines.
    pub(super) fn to_text(&self) -> String {
        let (pods, bare) = (&self.pods.measured, self.bare.as_ref().map(|bare| &bare.measured));
        let (from, to) = (&self.pods.from, &self.pods.to);
        let mut text = format!(
            "\n{} → {}, pods on {}/{} and {}/{}\n\n",
            from.cluster, to.cluster, from.cluster, from.node, to.cluster, to.node
        );
        let mut row = |title: &str, unit: &str, [pods, bare]: [String; 2], part: Option<f64>| {
            let part = part.map_or(String::new(), |part| format!("{:.0} %", part * 100.0));
            let line = format!("  {title:<36} {unit:<10} {pods:>12} {bare:>12} {part:>8}");
            text += line.trim_end();
            text.push('\n');
        };
        let both = |of: &dyn Fn(&Measured) -> String| [of(pods), bare.map(of).unwrap_or_default()];
        let header = ["pod to pod", bare.map_or("", |_| "bare")].map(str::to_owned);
        row("", "", header, None);
        let gbits = |value: f64| format!("{:.2}", value / 1e9);
        row(
            "TCP, one flow",
            "Gbit/s",
            both(&|measured| gbits(measured.tcp_1_bits_per_second)),
            self.ratio.map(|ratio| ratio.tcp_1),
        );
        row(
            "TCP, eight flows",
            "Gbit/s",
            both(&|measured| gbits(measured.tcp_8_bits_per_second)),
            self.ratio.map(|ratio| ratio.tcp_8),
        );
        row(
            "UDP, 64 bytes",
            "1000/s",
            both(&|measured| format!("{:.0}", measured.udp_64_per_second / 1e3)),
            self.ratio.map(|ratio| ratio.udp_64),
        );
        let times = |latency: &Latency| format!("{:.0} / {:.0}", latency.p50_us, latency.p99_us);
        row(
            "round trip, median and 99 of 100",
            "µs",
            both(&|measured| times(&measured.round_trip_idle)),
            None,
        );
        let beside = gbits(pods.loaded_with_bits_per_second);
        row(
            &format!("the same beside {beside} Gbit/s"),
            "µs",
            both(&|measured| times(&measured.round_trip_loaded)),
            None,
        );
        if let Some(bare) = &self.bare {
            let _ = writeln!(
                text,
                "\n  bare: the data path alone from {} to {}, on the same wires.",
                bare.from, bare.to
            );
        }
        if let Some(why) = &self.no_bare {
            let _ = writeln!(text, "\n  The data path alone was not measured: {why}.");
        }
        self.hops(&mut text);
        self.work(&mut text);
        text
    }

    fn hops(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "\nWhere a round trip's time goes (the best of three to each hop)\n"
        );
        let mut before = 0.0;
        for (at, hop) in self.path.iter().enumerate() {
            let (leg, name) = self.station(at);
            let address = hop
                .address
                .map_or("(silent)".to_owned(), |address| address.to_string());
            let (whole, own) = match hop.rtt_ms {
                Some(ms) => {
                    // A hop that is slow to say that it is one makes the next look quick.
                    let own = (ms * 1e3 - before).max(0.0);
                    before = before.max(ms * 1e3);
                    (format!("{:.0} µs", ms * 1e3), format!("+{own:.0}"))
                }
                None => (String::new(), String::new()),
            };
            let _ = writeln!(text, "  {leg:<18} {name:<24} {address:<24} {whole:>10} {own:>8}");
        }
    }

    fn work(&self, text: &mut String) {
        let _ = writeln!(text, "\nWhere the CPU goes (seconds per GB of one TCP flow)\n");
        let paths = [
            ("pod to pod", Some(&self.pods.measured)),
            ("bare", self.bare.as_ref().map(|bare| &bare.measured)),
        ];
        for (title, measured) in paths {
            let Some(Measured { cpu, .. }) = measured else {
                continue;
            };
            let mut line = |who: &str, what: &str, seconds: f64| {
                let _ = writeln!(text, "  {title:<12} {who:<32} {what:<16} {seconds:>6.2}");
            };
            for share in &cpu.shares {
                line(
                    &share.process,
                    share.thread.as_deref().unwrap_or_default(),
                    share.seconds_per_gigabyte,
                );
            }
            line("the whole machine", "", cpu.machine_seconds_per_gigabyte);
            line("of it in softirq", "", cpu.softirq_seconds_per_gigabyte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(bits: f64) -> Measured {
        let latency = Latency {
            p50_us: 120.0,
            p99_us: 400.0,
            sent: 20,
            received: 20,
        };
        Measured {
            tcp_1_bits_per_second: bits,
            tcp_8_bits_per_second: bits * 1.1,
            udp_64_per_second: 90_000.0,
            udp_64_sent_per_second: 400_000.0,
            round_trip_idle: latency,
            round_trip_loaded: latency,
            loaded_with_bits_per_second: 1e9,
            cpu: Cpu {
                shares: vec![Share {
                    process: "blue/gateway-1".to_owned(),
                    thread: Some("strait-out".to_owned()),
                    seconds_per_gigabyte: 0.9,
                }],
                machine_seconds_per_gigabyte: 4.0,
                softirq_seconds_per_gigabyte: 1.0,
            },
        }
    }

    fn side(cluster: &str) -> Side {
        Side {
            cluster: cluster.to_owned(),
            node: "worker-1".to_owned(),
            gateway: "gateway-1".to_owned(),
            gateways: Vec::new(),
        }
    }

    fn report(bare: Option<Measured>) -> Report {
        let pods = measured(3e9);
        let hop = |hop, rtt_ms| Hop {
            hop,
            address: Some("10.0.0.1".parse().unwrap()),
            rtt_ms,
        };
        Report {
            lab: "default".to_owned(),
            seconds: 2.0,
            ratio: bare.as_ref().map(|bare| bare.below(&pods)),
            pods: Pods {
                from: side("blue"),
                to: side("green"),
                measured: pods,
            },
            no_bare: bare
                .is_none()
                .then(|| "the gateways of green are behind a NAT".to_owned()),
            bare: bare.map(|measured| Bare {
                from: "blue/gateway-1".to_owned(),
                to: "green/gateway-1".to_owned(),
                measured,
            }),
            stations: vec![
                ("veth", "blue/worker-1".to_owned()),
                ("tunnel", "green/gateway-1".to_owned()),
            ],
            path: vec![hop(1, Some(0.05)), hop(2, Some(0.09))],
        }
    }

    #[test]
    fn the_part_of_the_bare_data_path_is_told() {
        let text = report(Some(measured(4e9))).to_text();
        assert!(text.contains("75 %"), "{text}");
        assert!(text.contains("+40"), "{text}");
        assert!(text.contains("strait-out"), "{text}");
        let json: serde_json::Value =
            serde_json::from_str(&report(Some(measured(4e9))).to_json().unwrap()).unwrap();
        assert_eq!(json["ratio"]["tcp_1"], 0.75);
        assert_eq!(json["pods"]["from"]["cluster"], "blue");
        assert_eq!(json["path"][1]["name"], "green/gateway-1");
    }

    #[test]
    fn without_the_bare_data_path_it_says_why() {
        let text = report(None).to_text();
        assert!(text.contains("behind a NAT") && !text.contains('%'), "{text}");
    }
}
