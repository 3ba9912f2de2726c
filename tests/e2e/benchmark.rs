//! `strait benchmark`: shape and plausibility, no speeds.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStderr, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::lab::Lab;

#[test]
fn a_benchmark_measures_both_paths_and_leaves_the_lab_as_it_was() {
    let lab = Lab::up(&["--clusters", "3"]);
    let before = lab.status()["pods"].clone();
    let out = lab
        .strait(&[
            "benchmark",
            "green",
            "blue",
            "--seconds",
            "0.3",
            "--output",
            "json",
        ])
        .unwrap_or_else(|e| panic!("{e}"));
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}"));
    let figure = |path: &str| {
        let found = report.pointer(path).and_then(Value::as_f64);
        found.unwrap_or_else(|| panic!("no {path} in {report:#}"))
    };
    assert_eq!(report["pods"]["from"]["cluster"], "green");
    assert_eq!(report["pods"]["to"]["node"], "worker-1");
    for path in ["/pods", "/bare"] {
        let of = |name: &str| figure(&format!("{path}/{name}"));
        assert!(of("tcp_1_bits_per_second") > 1e7, "{report:#}");
        assert!(of("tcp_8_bits_per_second") > 1e7, "{report:#}");
        assert!(of("udp_64_per_second") > 1000.0, "{report:#}");
        assert!(
            of("udp_64_per_second") <= of("udp_64_sent_per_second") * 1.01,
            "{report:#}"
        );
        for load in ["round_trip_idle", "round_trip_loaded"] {
            let (middle, high) = (of(&format!("{load}/p50_us")), of(&format!("{load}/p99_us")));
            assert!(middle > 5.0 && middle <= high, "{report:#}");
            assert!(of(&format!("{load}/received")) > 0.0, "{report:#}");
        }
    }
    for path in ["/pods", "/bare"] {
        let of = |name: &str| figure(&format!("{path}/{name}"));
        assert!((0.0..=1.0).contains(&of("udp_64_lost")), "{report:#}");
        let limit = report[&path[1..]]["udp_64_limited_by"].as_str().unwrap();
        let expected = if of("udp_64_lost") > 0.01 {
            "path"
        } else {
            "sender"
        };
        assert_eq!(limit, expected, "{report:#}");

        // Everybody's work is told, and that of the machine is its sum.
        let shares = report.pointer(&format!("{path}/cpu/shares")).unwrap();
        let shares = shares.as_array().unwrap().iter();
        let named: f64 = shares
            .map(|share| share["seconds_per_gigabyte"].as_f64().unwrap())
            .sum();
        let rest = ["lab", "others", "kernel"].map(|who| of(&format!("cpu/{who}_seconds_per_gigabyte")));
        let machine = of("cpu/machine_seconds_per_gigabyte");
        let all = named + rest.iter().sum::<f64>();
        assert!(
            (all - machine).abs() < machine * 0.01 && named <= machine * 1.01,
            "{all} of {machine}: {report:#}"
        );
    }
    let ratio = figure("/pods/tcp_1_bits_per_second") / figure("/bare/tcp_1_bits_per_second");
    assert!((figure("/ratio/tcp_1") - ratio).abs() < 1e-3, "{report:#}");

    // Who works for pods: both gateways' packet threads. And the way there.
    let shares = report["pods"]["cpu"]["shares"].as_array().unwrap();
    for gateway in ["green/gateway-1", "blue/gateway-1"] {
        let works = |share: &Value| {
            let thread = share["thread"].as_str().unwrap_or_default();
            share["process"] == gateway && thread.starts_with("strait-") && thread != "strait-ctl"
        };
        assert!(shares.iter().any(works), "{report:#}");
    }
    let hops: Vec<&str> = report["path"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|hop| hop["name"].as_str())
        .collect();
    assert_eq!(
        hops,
        [
            "green/worker-1",
            "green/gateway-1",
            "blue/gateway-1",
            "blue/worker-1",
            "blue, the pod"
        ]
    );

    // The way to the pod is the round trip told above, in steps that sum to it.
    let steps: Vec<&Value> = report["path"].as_array().unwrap().iter().collect();
    for step in &steps {
        assert!(
            step["received"].as_u64() > step["sent"].as_u64().map(|sent| sent / 2),
            "{report:#}"
        );
        assert!(step["step_us"].as_f64() >= Some(0.0), "{report:#}");
    }
    let sum: f64 = steps.iter().filter_map(|step| step["step_us"].as_f64()).sum();
    let whole = figure("/pods/round_trip_idle/p50_us");
    assert_eq!(
        steps[4]["round_trip_us"],
        report["pods"]["round_trip_idle"]["p50_us"]
    );
    assert!((sum - whole).abs() < whole * 0.01, "{sum} of {whole}: {report:#}");

    let (cores, taken) = (figure("/others/cores"), figure("/others/cores_taken"));
    assert!(
        cores >= 1.0 && taken <= figure("/others/cores_taken_most") + 1e-3,
        "{report:#}"
    );
    let disturbed = figure("/others/cores_taken_most") > cores * 0.1;
    assert_eq!(report["others"]["disturbing"], disturbed, "{report:#}");
    let limit = [
        "lab",
        "exec",
        "green/gateway-1",
        "--",
        "cat",
        "/proc/sys/net/ipv4/icmp_ratelimit",
    ];
    let here = fs::read_to_string("/proc/sys/net/ipv4/icmp_ratelimit").unwrap();
    assert_eq!(
        lab.strait(&limit).unwrap(),
        here,
        "the limit of ICMP errors was left lifted"
    );

    assert_eq!(lab.status()["pods"], before, "pods of the benchmark are left");
    assert_eq!(lab.leaks(), Value::Array(Vec::new()));
    let devices = lab
        .strait(&["lab", "exec", "blue/gateway-1", "--", "cat", "/proc/net/dev"])
        .unwrap();
    assert!(
        devices.contains("strait-tun") && !devices.contains("bench"),
        "{devices}"
    );
    // Nobody listens for loads any more, so the next benchmark can.
    let sockets = [
        "lab",
        "exec",
        "blue/gateway-1",
        "--",
        "cat",
        "/proc/net/tcp",
        "/proc/net/tcp6",
    ];
    let sockets = lab.strait(&sockets).unwrap();
    let listens = |line: &str| line.contains(":1451 ") && line.contains(" 0A ");
    assert!(
        !sockets.lines().any(listens),
        "somebody listens on port 5201:\n{sockets}"
    );
    let complaint = lab.strait(&["benchmark", "green", "mauve"]).unwrap_err();
    assert!(
        complaint.contains("no cluster \"mauve\"; it has blue, green"),
        "{complaint}"
    );
}

/// A benchmark at work.
struct Started {
    child: Child,
    said: BufReader<ChildStderr>,
}

impl Started {
    fn new(lab: &Lab, seconds: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_strait"))
            .args(["benchmark", "--lab", lab.name(), "--seconds", seconds])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stderr.take().unwrap());
        Self { child, said }
    }

    /// Reads until it says so.
    fn until(&mut self, what: &str) {
        let mut all = String::new();
        while !all.contains(what) {
            let read = self.said.read_line(&mut all).unwrap();
            assert!(read > 0, "it never said {what:?}, but {all}");
        }
    }

    /// What it says in the end, and its exit code.
    fn end(mut self) -> (String, Option<i32>) {
        let mut rest = String::new();
        self.said.read_to_string(&mut rest).unwrap();
        (rest, self.child.wait().unwrap().code())
    }

    /// The processes that it has started in the lab, by their command lines.
    fn tools(&self) -> BTreeMap<u32, String> {
        let parent = |stat: &str| {
            stat.rsplit_once(')')?
                .1
                .split_whitespace()
                .nth(1)?
                .parse::<u32>()
                .ok()
        };
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let parents: BTreeMap<u32, u32> = entries
            .filter_map(|entry| {
                let process = entry.file_name().to_str()?.parse().ok()?;
                Some((
                    process,
                    parent(&fs::read_to_string(entry.path().join("stat")).ok()?)?,
                ))
            })
            .collect();
        let own = |process: &u32| {
            let line = std::iter::successors(Some(*process), |process| parents.get(process).copied());
            line.skip(1).any(|process| process == self.child.id())
        };
        let tools = parents.keys().filter(|process| own(process));
        tools.map(|process| (*process, command_line(*process))).collect()
    }
}

fn command_line(process: u32) -> String {
    let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ")
}

#[test]
fn a_second_benchmark_is_refused_and_after_an_interruption_nothing_works_on() {
    let lab = Lab::up(&["--clusters", "2"]);
    let before = lab.status()["pods"].clone();
    let mut first = Started::new(&lab, "60");
    first.until("one TCP flow");
    let complaint = lab.strait(&["benchmark", "--seconds", "0.1"]).unwrap_err();
    assert!(
        complaint.contains("another benchmark runs in the lab") && complaint.contains("exit status: 1"),
        "{complaint}"
    );
    let working = super::lab::eventually("a load", || {
        let tools = first.tools();
        let works = |tool: &str| {
            tools
                .values()
                .any(|line| line.contains(&format!("lab-tool {tool}")))
        };
        match works("streams") && works("engine") {
            true => Ok(tools),
            false => Err(format!("{tools:?}")),
        }
    });
    let pid = Pid::from_raw(first.child.id().cast_signed()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let (said, code) = first.end();
    let left: Vec<&String> = working
        .iter()
        .filter(|(process, line)| !line.is_empty() && command_line(**process) == **line)
        .map(|(_, line)| line)
        .collect();
    assert!(left.is_empty(), "these work on: {left:#?}");
    assert!(
        said.contains("interrupted; the lab is as it was") && code == Some(130),
        "{said} {code:?}"
    );
    assert_eq!(lab.status()["pods"], before, "pods of the benchmark are left");
}

#[test]
fn a_gateway_that_starts_again_is_waited_for_or_named() {
    let lab = Lab::up(&["--clusters", "2"]);
    // Before anything is measured it does no harm.
    lab.strait(&["lab", "kill", "blue/gateway-1/gateway"]).unwrap();
    let text = lab
        .strait(&["benchmark", "--seconds", "0.1"])
        .unwrap_or_else(|e| panic!("{e}"));
    for part in [
        "p50 / p99",
        "UDP of 64 bytes, lost",
        "What limits it: pod to pod the ",
        "so far",
        "blue/gateway-1, strait-data",
        "the whole machine, the sum of these",
        "of this machine's",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }

    let mut measured = Started::new(&lab, "1");
    measured.until("one TCP flow");
    lab.strait(&["lab", "kill", "green/gateway-1/gateway"]).unwrap();
    let (said, code) = measured.end();
    assert!(
        said.contains("green/gateway-1 ended, or was started again, while it was measured")
            && said.contains("strait lab status")
            && !said.contains("/proc/"),
        "{said}"
    );
    assert_eq!(code, Some(1));
}
