//! A report as it could be, for the tests of what is made of one.

use super::hops::steps;
use super::place::Side;
use super::report::{Bare, Cpu, Latency, Limit, Measured, Others, Pods, Report, Share};
use crate::tool::Surveyed;

pub(super) fn measured(bits: f64) -> Measured {
    let latency = Latency {
        p50_us: 90.0,
        p99_us: 400.0,
        sent: 20,
        received: 20,
    };
    Measured {
        tcp_1_bits_per_second: bits,
        tcp_8_bits_per_second: bits * 1.1,
        udp_64_per_second: 300_000.0,
        udp_64_sent_per_second: 400_000.0,
        udp_64_lost: 0.25,
        udp_64_limited_by: Limit::Path,
        round_trip_idle: latency,
        round_trip_loaded: latency,
        loaded_with_bits_per_second: 1e9,
        cpu: Cpu {
            shares: vec![Share {
                process: "blue/gateway-1".to_owned(),
                thread: Some("strait-out".to_owned()),
                seconds_per_gigabyte: 0.9,
            }],
            lab_seconds_per_gigabyte: 0.1,
            others_seconds_per_gigabyte: 0.2,
            kernel_seconds_per_gigabyte: 2.8,
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

pub(super) fn report(bare: Option<Measured>) -> Report {
    let pods = measured(3e9);
    let hop = |rtt_ms| Surveyed {
        address: Some("10.0.0.1".parse().unwrap()),
        sent: 10,
        rtt_ms: vec![rtt_ms; 10],
    };
    let stations = [
        ("veth", "blue/worker-1".to_owned()),
        ("tunnel", "green/gateway-1".to_owned()),
    ];
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
        path: steps(&[hop(0.05), hop(0.09)], &stations),
        others: Others::of(2, &[("one TCP flow".to_owned(), 0.1, 2.0)]),
    }
}
