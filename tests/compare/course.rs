//! What is measured, in which order.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::bed::{Bed, Offload, finish};
use crate::peers::Driver;

/// How long all takes.
pub(crate) struct Plan {
    pub(crate) rounds: u32,
    pub(crate) seconds: f64,
}

/// A measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Test {
    Tcp1,
    Tcp8,
    TcpBoth,
    SmallUdp,
    Loss,
    Ping,
    /// The same with both ends and who pings on one core.
    PingOneCore,
    PingLoaded,
    Memory,
}

/// The idle ones come first: loads leave the threads wherever the scheduler last had them.
pub(crate) const ALL: [Test; 9] = [
    Test::Ping,
    Test::PingOneCore,
    Test::Tcp1,
    Test::Tcp8,
    Test::TcpBoth,
    Test::SmallUdp,
    Test::Loss,
    Test::PingLoaded,
    Test::Memory,
];

impl Test {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp1 => "tcp1",
            Self::Tcp8 => "tcp8",
            Self::TcpBoth => "tcp1-both-ways",
            Self::SmallUdp => "udp64",
            Self::Loss => "loss",
            Self::Ping => "ping",
            Self::PingOneCore => "ping-one-core",
            Self::PingLoaded => "ping-loaded",
            Self::Memory => "memory",
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Self::Tcp1 | Self::Tcp8 | Self::TcpBoth => "Gbit/s",
            Self::SmallUdp => "packets/s",
            Self::Loss => "%",
            Self::Ping | Self::PingOneCore | Self::PingLoaded => "us",
            Self::Memory => "MiB",
        }
    }
}

/// One figure of one round.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) round: u32,
    pub(crate) driver: String,
    pub(crate) offload: Offload,
    pub(crate) test: Test,
    /// A median, where there are many of it.
    pub(crate) value: f64,
    /// What 99 of 100 are below, or the peak.
    pub(crate) high: Option<f64>,
    /// CPU seconds of the implementation at both ends: per GB of payload, or per million packets.
    pub(crate) cpu: Option<f64>,
}

const HEADER: &str = "round\timplementation\toffloads\ttest\tvalue\thigh\tunit\tdriver_cpu_s\tof\n";

impl Row {
    fn line(&self) -> String {
        let shown = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.3}"));
        let of = match (self.cpu, self.test) {
            (None, _) => "-",
            (_, Test::SmallUdp) => "million packets",
            _ => "GB",
        };
        format!(
            "{}\t{}\t{}\t{}\t{:.3}\t{}\t{}\t{}\t{of}\n",
            self.round,
            self.driver,
            self.offload.name(),
            self.test.name(),
            self.value,
            shown(self.high),
            self.test.unit(),
            shown(self.cpu),
        )
    }
}

#[derive(Deserialize)]
struct Streamed {
    bytes: f64,
    bits_per_second: f64,
}

#[derive(Deserialize)]
struct Datagrams {
    sent: f64,
    received: f64,
    received_per_second: f64,
}

#[derive(Deserialize)]
struct Pinged {
    rtt_ms: Vec<f64>,
}

/// Datagrams a second that every implementation should carry.
const LOSS_RATE: u32 = 50_000;
/// Bits a second beside which pings are sent.
const BESIDE: f64 = 1e9;
/// Seconds that a ping may take.
const PING_PATIENCE: f64 = 1.0;
/// From one ping to the next.
const PING_INTERVAL: f64 = 0.005;
/// Pings before those that count, in quicker succession.
const WARM_UP: u16 = 100;

/// Runs everything, round after round, and writes each row down as it comes.
pub(crate) fn run(plan: &Plan, drivers: &[Driver], rows: &Path) -> Result<Vec<Row>> {
    let mut file = File::create(rows).with_context(|| format!("cannot write {}", rows.display()))?;
    file.write_all(HEADER.as_bytes())?;
    let mut all = Vec::new();
    let started = Instant::now();
    for round in 1..=plan.rounds {
        for offload in Offload::ALL {
            for driver in drivers {
                let clock = started.elapsed().as_secs();
                println!(
                    "{:3}:{:02}  round {round} of {}, offloads {}, {}",
                    clock / 60,
                    clock % 60,
                    plan.rounds,
                    offload.name(),
                    driver.name
                );
                match one(plan, driver, offload, round) {
                    Ok(done) => {
                        for row in &done {
                            file.write_all(row.line().as_bytes())?;
                        }
                        all.extend(done);
                    }
                    // One that fails once does not end the comparison; its medians are of the other rounds.
                    Err(error) => println!("        failed: {error:#}"),
                }
            }
        }
    }
    Ok(all)
}

fn one(plan: &Plan, driver: &Driver, offload: Offload, round: u32) -> Result<Vec<Row>> {
    let bed = Bed::new(driver, offload)?;
    let tests: &[Test] = match offload {
        Offload::On => &ALL,
        _ => &[Test::Tcp1, Test::Tcp8],
    };
    let mut rows = Vec::new();
    for &test in tests {
        let measured = measure(plan, &bed, test).with_context(|| test.name())?;
        let Some(Figure { value, high, cpu }) = measured else {
            continue;
        };
        rows.push(Row {
            round,
            driver: driver.name.clone(),
            offload,
            test,
            value,
            high,
            cpu,
        });
    }
    Ok(rows)
}

struct Figure {
    value: f64,
    high: Option<f64>,
    cpu: Option<f64>,
}

impl Figure {
    fn of(value: f64) -> Self {
        Self {
            value,
            high: None,
            cpu: None,
        }
    }
}

fn measure(plan: &Plan, bed: &Bed, test: Test) -> Result<Option<Figure>> {
    let server = bed.server().to_string();
    let duration = plan.seconds.to_string();
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    let streams = |more: &[&str]| {
        let mut all = words(&["streams", &server, "--duration", &duration]);
        all.extend(words(more));
        all
    };
    Ok(Some(match test {
        Test::Tcp1 | Test::Tcp8 | Test::TcpBoth => {
            let more: &[&str] = match test {
                Test::Tcp8 => &["--flows", "8"],
                Test::TcpBoth => &["--both"],
                _ => &[],
            };
            let before = bed.cpu()?;
            let done: Streamed = finish(bed.tool(&streams(more))?)?;
            let spent = bed.cpu()? - before;
            Figure {
                value: done.bits_per_second / 1e9,
                high: None,
                cpu: (spent > 0.0 && done.bytes > 0.0).then(|| spent / (done.bytes / 1e9)),
            }
        }
        Test::SmallUdp | Test::Loss => {
            let mut arguments = words(&["datagrams", &server, "--duration", &duration]);
            if test == Test::Loss {
                arguments.extend(words(&["--rate", &LOSS_RATE.to_string()]));
            }
            let before = bed.cpu()?;
            let done: Datagrams = finish(bed.tool(&arguments)?)?;
            let spent = bed.cpu()? - before;
            match test {
                Test::Loss => Figure::of((1.0 - done.received / done.sent.max(1.0)).max(0.0) * 100.0),
                _ => Figure {
                    value: done.received_per_second,
                    high: None,
                    cpu: (spent > 0.0 && done.received > 0.0).then(|| spent / (done.received / 1e6)),
                },
            }
        }
        Test::Ping => ping(plan, bed)?,
        Test::PingOneCore => {
            let _here = bed.on_one_core()?;
            ping(plan, bed)?
        }
        Test::PingLoaded => {
            // Longer than the pings, which begin once it flows.
            let load = (plan.seconds + 1.0).to_string();
            let load = words(&[
                "streams",
                &server,
                "--duration",
                &load,
                "--rate",
                &BESIDE.to_string(),
            ]);
            let load = bed.tool(&load)?;
            std::thread::sleep(Duration::from_millis(300));
            let figure = ping(plan, bed)?;
            finish::<Streamed>(load)?;
            figure
        }
        Test::Memory => match bed.memory()? {
            Some([now, peak]) => Figure {
                value: now,
                high: Some(peak),
                cpu: None,
            },
            None => return Ok(None),
        },
    }))
}

fn ping(plan: &Plan, bed: &Bed) -> Result<Figure> {
    let count = ((plan.seconds / PING_INTERVAL) as u16).clamp(20, 1000);
    let send = |count: u16, interval: f64| {
        let arguments = [
            "ping",
            &bed.target().to_string(),
            "--count",
            &count.to_string(),
            "--interval",
            &interval.to_string(),
            "--timeout",
            &PING_PATIENCE.to_string(),
        ];
        finish::<Pinged>(bed.tool(&arguments.map(str::to_owned))?)
    };
    send(WARM_UP, PING_INTERVAL / 2.5)?;
    let mut times = send(count, PING_INTERVAL)?.rtt_ms;
    // One that is lost took longer than any other.
    times.resize(count.into(), PING_PATIENCE * 1e3);
    times.sort_by(f64::total_cmp);
    let at = |share: f64| {
        times
            .get((times.len() as f64 * share) as usize)
            .copied()
            .unwrap_or_default()
            * 1e3
    };
    Ok(Figure {
        value: at(0.5),
        high: Some(at(0.99)),
        cpu: None,
    })
}
