//! Instructions per packet of the functions on a packet's way, counted by valgrind: the same on a busy machine
//! and a quiet one, so that a change shows in numbers.
//!
//!     cargo bench -p strait-gateway --features fuzzing --profile dev --bench instructions [-- --accept]
//!
//! Compares with `instructions.txt` and fails where one costs over a twentieth more; `--accept` writes the file
//! anew. The counts are those of the profile `dev`, in which this crate is optimised and its checks are on.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};
use std::thread;

use strait_gateway::datapath::bench;

/// Counted runs of each work, after one that is not. The counts are exact; a few runs even out what comes at
/// times only.
const RUNS: u64 = 8;
/// What may be more before it counts as a change for the worse.
const TOLERANCE: f64 = 1.05;
const EXPECTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.txt");

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--count") {
        count(&arguments[at + 1]);
        return ExitCode::SUCCESS;
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("skipped: instructions per packet: valgrind is not installed");
        return ExitCode::SUCCESS;
    }
    let expected = expected();
    let mut worse = Vec::new();
    let mut table = String::new();
    println!(
        "{:34} {:>12} {:>12}",
        "instructions per packet", "now", "accepted"
    );
    for (work, instructions) in bench::WORKS.iter().zip(counts()) {
        let now = instructions / work.packets / RUNS;
        let before = expected.get(work.name).copied();
        let shown = before.map_or("-".to_owned(), |count| count.to_string());
        println!("{:34} {now:>12} {shown:>12}", work.name);
        if before.is_none_or(|before| now as f64 > before as f64 * TOLERANCE) {
            worse.push(work.name);
        }
        table += &format!("{now}\t{}\n", work.name);
    }
    if arguments.iter().any(|argument| argument == "--accept") {
        std::fs::write(EXPECTED, table).unwrap();
        return ExitCode::SUCCESS;
    }
    if worse.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!(
        "more instructions per packet than accepted: {}. If that is worth it, accept them and commit \
         gateway/benches/instructions.txt:\n    cargo bench -p strait-gateway --features fuzzing --profile dev \
         --bench instructions -- --accept",
        worse.join("; ")
    );
    ExitCode::FAILURE
}

fn expected() -> BTreeMap<String, u64> {
    std::fs::read_to_string(EXPECTED)
        .unwrap_or_default()
        .lines()
        .filter_map(|line| {
            let (count, name) = line.split_once('\t')?;
            Some((name.to_owned(), count.parse().ok()?))
        })
        .collect()
}

/// Runs one work in this process.
fn count(name: &str) {
    let work = bench::WORKS.iter().find(|work| work.name == name);
    let mut run = (work
        .unwrap_or_else(|| panic!("there is no work named {name:?}"))
        .prepare)();
    run();
    for _ in 0..RUNS {
        counted_run(&mut *run);
    }
}

/// Instructions of all runs of each work, counted side by side.
fn counts() -> Vec<u64> {
    thread::scope(|scope| {
        let counting: Vec<_> = bench::WORKS
            .iter()
            .map(|work| scope.spawn(|| under_valgrind(work.name)))
            .collect();
        counting.into_iter().map(|count| count.join().unwrap()).collect()
    })
}

/// valgrind counts while this function runs.
#[inline(never)]
fn counted_run(run: &mut dyn FnMut()) {
    run();
    std::hint::black_box(());
}

fn under_valgrind(name: &str) -> u64 {
    let output = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
            "--collect-atstart=no",
            "--toggle-collect=*counted_run*",
        ])
        .arg(std::env::current_exe().unwrap())
        .args(["--count", name])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {text}");
    let collected = text
        .lines()
        .find_map(|line| line.split_once("Collected :"))
        .unwrap_or_else(|| panic!("valgrind tells no count: {text}"));
    collected.1.trim().parse().unwrap()
}
