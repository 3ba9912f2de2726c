//! What comes out, for people and for scripts.

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::{Value, json};

use super::cpu::Work;
use super::hops::{Step, doubts};
use super::place::Side;

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
    /// Of so many round trips, those that came back.
    pub(super) fn of(sent: u16, rtt_ms: &[f64]) -> Result<Self> {
        let mut times = rtt_ms.to_vec();
        // One that is lost took longer than any other.
        times.resize(sent.into(), PING_PATIENCE * 1e3);
        times.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let found = quantile(&times, share).map(|ms| ms * 1e3);
            found.context("no ping was answered")
        };
        Ok(Self {
            p50_us: at(0.5)?,
            p99_us: at(0.99)?,
            sent,
            received: u16::try_from(rtt_ms.len()).unwrap_or(u16::MAX),
        })
    }
}

/// The value below which so great a part of these lies, which are in order.
pub(super) fn quantile(ordered: &[f64], part: f64) -> Option<f64> {
    ordered.get((ordered.len() as f64 * part) as usize).copied()
}

/// Who worked for one TCP flow. Shares, the lab's rest, others and the rest of the kernel sum to the machine.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Cpu {
    pub(super) shares: Vec<Share>,
    /// Of the lab's other processes and this program.
    pub(super) lab_seconds_per_gigabyte: f64,
    /// Of programs that have nothing to do with it.
    pub(super) others_seconds_per_gigabyte: f64,
    /// In interrupts that fell into no process's time: forwarding, the overlay and the wires.
    pub(super) kernel_seconds_per_gigabyte: f64,
    /// Of everything on this machine.
    pub(super) machine_seconds_per_gigabyte: f64,
    /// Of these, in the kernel's handling of packets outside of system calls, whoever it interrupted.
    pub(super) softirq_seconds_per_gigabyte: f64,
}

impl Cpu {
    /// Out of what was done while so many gigabytes went through.
    pub(super) fn of(work: &Work, shares: Vec<Share>, gigabytes: f64) -> Self {
        let named: f64 = shares.iter().map(|share| share.seconds_per_gigabyte).sum();
        let lab = (work.own / gigabytes - named).max(0.0);
        // The machine's clock counts in ticks, those of programs are finer: the machine did what they did at least.
        let machine = (work.busy / gigabytes).max(named + lab);
        let others = (work.others / gigabytes).min((machine - named - lab).max(0.0));
        Self {
            shares,
            lab_seconds_per_gigabyte: lab,
            others_seconds_per_gigabyte: others,
            kernel_seconds_per_gigabyte: (machine - named - lab - others).max(0.0),
            machine_seconds_per_gigabyte: machine,
            softirq_seconds_per_gigabyte: work.softirq / gigabytes,
        }
    }
}

/// What others took of the machine while loads ran.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Others {
    /// The machine's.
    pub(super) cores: usize,
    /// How many of them others had, on average over all loads.
    pub(super) cores_taken: f64,
    /// The same during the load in which they had most.
    pub(super) cores_taken_most: f64,
    pub(super) most_during: String,
    /// Whether that is so much that the figures say little.
    pub(super) disturbing: bool,
}

/// The part of a machine that others may have in every load.
const DISTURBING: f64 = 0.1;

impl Others {
    /// By load: its name, CPU seconds of others, and how long it took.
    pub(super) fn of(cores: usize, loads: &[(String, f64, f64)]) -> Self {
        let taken = |seconds: f64, passed: f64| if passed > 0.0 { seconds / passed } else { 0.0 };
        let (all, passed) = loads
            .iter()
            .fold((0.0, 0.0), |(all, time), (_, seconds, passed)| {
                (all + seconds, time + passed)
            });
        let most = loads
            .iter()
            .map(|(name, seconds, passed)| (taken(*seconds, *passed), name))
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let (most, during) = most.map_or((0.0, String::new()), |(most, name)| (most, name.clone()));
        Self {
            cores,
            cores_taken: taken(all, passed),
            cores_taken_most: most,
            most_during: during,
            disturbing: most > cores as f64 * DISTURBING,
        }
    }
}

/// What one thread, or a process, worked.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Share {
    pub(super) process: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) thread: Option<String>,
    pub(super) seconds_per_gigabyte: f64,
}

impl Share {
    /// Who it is, in a word or two.
    pub(super) fn name(&self) -> String {
        match &self.thread {
            Some(thread) => format!("{}, {thread}", self.process),
            None => self.process.clone(),
        }
    }
}

/// What a path carries.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Measured {
    pub(super) tcp_1_bits_per_second: f64,
    pub(super) tcp_8_bits_per_second: f64,
    /// Datagrams of 64 bytes that arrived.
    pub(super) udp_64_per_second: f64,
    pub(super) udp_64_sent_per_second: f64,
    /// The part that did not arrive.
    pub(super) udp_64_lost: f64,
    pub(super) udp_64_limited_by: Limit,
    pub(super) round_trip_idle: Latency,
    pub(super) round_trip_loaded: Latency,
    pub(super) loaded_with_bits_per_second: f64,
    /// Of one TCP flow.
    pub(super) cpu: Cpu,
}

/// What keeps datagrams from being more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Limit {
    /// Whoever sends: all that it sends arrives.
    Sender,
    /// What lies behind it.
    Path,
}

/// The part of datagrams that a path may lose which is not at its limit.
const SPILT: f64 = 0.01;

impl Limit {
    pub(super) fn of(lost: f64) -> Self {
        if lost > SPILT { Self::Path } else { Self::Sender }
    }
}

/// Pod to pod as a part of what the bare data path carries.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Ratio {
    pub(super) tcp_1: f64,
    pub(super) tcp_8: f64,
    pub(super) udp_64: f64,
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
    /// The hops from pod to pod.
    pub(super) path: Vec<Step>,
    pub(super) others: Others,
}

impl Report {
    /// One object.
    pub(super) fn to_json(&self) -> Result<String> {
        let mut all = json!({
            "lab": self.lab,
            "seconds": self.seconds,
            "pods": self.pods,
            "bare": self.bare,
            "no_bare": self.no_bare,
            "ratio": self.ratio,
            "path": self.path,
            "path_doubts": doubts(&self.path),
            "others": self.others,
        });
        round(&mut all);
        Ok(serde_json::to_string_pretty(&all)?)
    }
}

/// To four digits: more would be chance.
fn round(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(round),
        Value::Object(values) => values.values_mut().for_each(round),
        Value::Number(number) if number.is_f64() => {
            let rounded = number
                .as_f64()
                .and_then(|exact| format!("{exact:.3e}").parse::<f64>().ok());
            if let Some(rounded) = rounded {
                *value = json!(rounded);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{measured, report};
    use super::*;

    #[test]
    fn scripts_find_all_by_name_and_no_more_digits_than_mean_something() {
        let text = report(Some(measured(4e9))).to_json().unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["ratio"]["tcp_1"], 0.75);
        assert_eq!(json["pods"]["from"]["cluster"], "blue");
        assert_eq!(json["path"][1]["name"], "green/gateway-1");
        assert_eq!(json["pods"]["udp_64_limited_by"], "path");
        assert_eq!(json["others"]["disturbing"], false);
        for (exact, rounded) in [(499.999_99, 500.0), (0.123_456, 0.1235), (3.123_456e9, 3.123e9)] {
            let mut value = json!([{ "of": exact, "count": 12_345 }]);
            round(&mut value);
            assert_eq!(value, json!([{ "of": rounded, "count": 12_345 }]));
        }
    }

    #[test]
    fn a_part_of_the_machines_work_is_named_or_told_as_the_rest() {
        let work = Work {
            spent: Default::default(),
            busy: 10.0,
            softirq: 3.0,
            own: 5.0,
            others: 2.0,
            stolen: 0.0,
            seconds: 6.0,
        };
        let share = Share {
            process: "sender".to_owned(),
            thread: None,
            seconds_per_gigabyte: 2.0,
        };
        let cpu = Cpu::of(&work, vec![share], 2.0);
        assert_eq!(cpu.lab_seconds_per_gigabyte, 0.5);
        assert_eq!(cpu.others_seconds_per_gigabyte, 1.0);
        assert_eq!(cpu.kernel_seconds_per_gigabyte, 1.5);
        assert_eq!(cpu.machine_seconds_per_gigabyte, 5.0);

        // Few ticks of the machine in a short load.
        let short = Work { busy: 3.0, ..work };
        let cpu = Cpu::of(&short, cpu.shares, 2.0);
        assert_eq!(cpu.machine_seconds_per_gigabyte, 2.5);
        assert_eq!(
            (cpu.others_seconds_per_gigabyte, cpu.kernel_seconds_per_gigabyte),
            (0.0, 0.0)
        );
    }

    #[test]
    fn others_are_told_by_the_load_that_they_disturbed_most() {
        let loads = [("one".to_owned(), 0.1, 2.0), ("eight".to_owned(), 1.5, 2.0)];
        let others = Others::of(2, &loads);
        assert_eq!((others.cores_taken, others.cores_taken_most), (0.4, 0.75));
        assert!(others.disturbing && others.most_during == "eight", "{others:?}");
        assert!(!Others::of(2, &loads[..1]).disturbing);
    }
}
