//! `strait wireguard` against the other WireGuard implementations in user space, side by side on this machine:
//!
//!     cargo bench --bench compare                                  # about 20 minutes, 5 rounds
//!     cargo bench --bench compare -- --quick                       # one short round: a look
//!     cargo bench --bench compare -- --rounds 3 --only strait --only gotatun
//!
//! Each implementation runs between two network namespaces with a wire between them, in turn, round after round;
//! medians count. Rows (TSV), a table (Markdown) and a plot (SVG) go to `target/compare/results`. The others are
//! taken from `--peers`, from PATH, or fetched: from the crate registry and from Debian's packages, into
//! `target/compare`. What cannot be had is named. Nothing but `strait` itself makes the namespaces, configures the
//! interfaces and sends the loads, so nothing else needs to be installed.
//!
//! Needs root, or user namespaces. All of it lives in namespaces that end with this process, however it ends.
//! Under `cargo test` one short round of `strait` alone shows that all this works.

#![allow(clippy::unwrap_used)]

mod bed;
mod course;
mod onecore;
mod peers;
mod plot;
mod summary;
mod table;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser as _;
use rustix::mount::{MountFlags, mount};

use course::Plan;
use peers::Driver;

#[derive(Debug, Clone, clap::Parser)]
#[command(about = "Compare strait wireguard with the other implementations of WireGuard in user space")]
struct Args {
    /// Rounds; each runs every implementation once, and medians count
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of each load
    #[arg(long, default_value_t = 3.0, value_parser = seconds)]
    seconds: f64,
    /// One round of short loads: a look, no result
    #[arg(long)]
    quick: bool,
    /// Run this implementation (and the bare wire) only; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// A folder with programs to compare with, looked at before PATH
    #[arg(long, value_name = "DIR")]
    peers: Option<PathBuf>,
    /// Fetch nothing: compare with what is installed
    #[arg(long)]
    no_install: bool,
    /// Also put table and plot into README.md and docs
    #[arg(long)]
    publish: bool,
    /// Where the results go
    #[arg(long, value_name = "DIR")]
    results: Option<PathBuf>,
    /// The part inside the namespaces; for this program's own use
    #[arg(long, hide = true, value_name = "DRIVERS")]
    inside: Option<String>,
    /// What cargo bench passes
    #[arg(long, hide = true)]
    bench: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=600.0).contains(&seconds) => Ok(seconds),
        _ => Err("it takes 0.1 to 600".to_owned()),
    }
}

/// Where fetched programs and results go.
fn target() -> PathBuf {
    let binary = Path::new(env!("CARGO_BIN_EXE_strait"));
    // target/PROFILE/strait
    let target = binary.ancestors().nth(2).unwrap_or(Path::new("."));
    target.join("compare")
}

fn main() -> ExitCode {
    let outcome = if std::env::args().any(|argument| argument == "--bench") {
        compare(Args::parse())
    } else {
        try_it()
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("compare: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn compare(args: Args) -> Result<ExitCode> {
    if let Some(drivers) = &args.inside {
        let drivers: Vec<Driver> = serde_json::from_str(drivers)?;
        return inside(&args, &drivers).map(|()| ExitCode::SUCCESS);
    }
    if args.publish {
        // Not only after all the rounds.
        published(&readme()?, "")?;
    }
    let (drivers, skipped) = peers::gather(&args)?;
    for why in &skipped {
        println!("skipped: {why}");
    }
    ensure!(!drivers.is_empty(), "there is nothing to run");
    if !strait_linux::userns::is_root() {
        println!(
            "note: not root, so in a user namespace: sockets get the buffers that everybody gets, which makes loads \
             of large packets slower. Compare as root where you can."
        );
    }
    again_inside(&args, &drivers)
}

/// One short round of our own, and a look at what comes of it.
fn try_it() -> Result<ExitCode> {
    let args: Vec<String> = std::env::args().collect();
    if args.iter().any(|argument| argument == "--list") {
        println!("a_round_of_ours: test");
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(at) = args.iter().position(|argument| argument == "--inside") {
        let args = Args::parse_from(args[at - 1..].iter().map(String::as_str));
        let drivers: Vec<Driver> = serde_json::from_str(args.inside.as_deref().unwrap_or_default())?;
        return inside(&args, &drivers).map(|()| ExitCode::SUCCESS);
    }
    let results = tempfile::tempdir()?;
    let folder = results.path().to_str().context("a strange path")?;
    let args = Args::parse_from(["compare", "--quick", "--seconds", "0.2", "--results", folder]);
    let drivers = [peers::bare(), peers::ours()];
    let code = again_inside(&args, &drivers)?;
    ensure!(code == ExitCode::SUCCESS, "the round failed");
    let rows = std::fs::read_to_string(results.path().join("rows.tsv"))?;
    for test in course::ALL {
        let of = |driver: &str| {
            rows.lines().any(|row| {
                row.starts_with(&format!("1\t{driver}\t")) && row.contains(&format!("\t{}\t", test.name()))
            })
        };
        ensure!(of("strait"), "no row of strait for {}:\n{rows}", test.name());
    }
    for row in rows.lines().skip(1) {
        let value: f64 = row.split('\t').nth(4).context("a short row")?.parse()?;
        ensure!(value.is_finite() && value >= 0.0, "not plausible: {row}");
        let loss = row.contains("\tloss\t");
        ensure!(value > 0.0 || loss, "nothing went through: {row}");
    }
    let readme = include_str!("../../README.md");
    ensure!(
        table::replaced(readme, "a new table\n").is_some_and(|new| new.contains("a new table")),
        "README.md has no place for the table"
    );
    let table = std::fs::read_to_string(results.path().join("table.md"))?;
    ensure!(
        table.contains("| strait |"),
        "strait is not in the table:\n{table}"
    );
    let plot = std::fs::read_to_string(results.path().join("plot.svg"))?;
    ensure!(
        plot.starts_with("<svg") && plot.trim_end().ends_with("</svg>") && plot.contains("strait"),
        "no plot:\n{plot}"
    );
    println!("test a_round_of_ours ... ok");
    Ok(ExitCode::SUCCESS)
}

/// Starts this program again as the first process of new namespaces. It ends when this process does, and all
/// that it has made with it.
fn again_inside(args: &Args, drivers: &[Driver]) -> Result<ExitCode> {
    let results = args.results.clone().unwrap_or_else(|| target().join("results"));
    std::fs::create_dir_all(&results).with_context(|| format!("cannot make {}", results.display()))?;
    let program = std::env::current_exe()?;
    strait_linux::sandbox::enter()?;
    let mut command = Command::new(program);
    if args.bench {
        command.arg("--bench");
    }
    command
        .args(["--inside", &serde_json::to_string(drivers)?])
        .args(["--rounds", &args.rounds.to_string()])
        .args(["--seconds", &args.seconds.to_string()])
        .args(args.quick.then_some("--quick"))
        .args(args.publish.then_some("--publish"))
        .arg("--results")
        .arg(&results)
        .stdin(Stdio::piped());
    let mut child = command.spawn().context("cannot start this program again")?;
    // Waiting would close it, which is how the other hears that this process has ended.
    let tether = child.stdin.take();
    let status = child.wait()?;
    drop(tether);
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn inside(args: &Args, drivers: &[Driver]) -> Result<()> {
    std::thread::Builder::new().name("tether".to_owned()).spawn(|| {
        // Nothing is ever written: the read ends when the other process does.
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(130);
    })?;
    let nothing = MountFlags::NOSUID | MountFlags::NODEV;
    mount("proc", "/proc", "proc", nothing, None)
        .context("cannot mount a /proc of its own: run it as root, or outside of a container")?;
    // The configuration sockets stand in /run/wireguard, as everybody's do.
    mount("compare", "/run", "tmpfs", nothing, Some(c"mode=0755")).context("cannot cover /run")?;
    let Some(results) = &args.results else {
        bail!("no folder for results");
    };
    let plan = Plan {
        rounds: if args.quick { 1 } else { args.rounds },
        seconds: if args.quick {
            args.seconds.min(1.0)
        } else {
            args.seconds
        },
    };
    let rows = course::run(&plan, drivers, &results.join("rows.tsv"))?;
    let summary = summary::Summary::new(&rows, drivers);
    let machine = table::machine();
    let text = table::markdown(&summary, drivers, &plan, &machine);
    let details = table::details(&summary);
    std::fs::write(results.join("table.md"), format!("{text}{details}"))?;
    let plot = plot::svg(&summary, &machine);
    std::fs::write(results.join("plot.svg"), &plot)?;
    println!("\n{text}{details}\nresults: {}", results.display());
    if args.publish {
        publish(&text, &plot)?;
    }
    let silent = |driver: &&Driver| !rows.iter().any(|row| row.driver == driver.name);
    let silent: Vec<_> = drivers
        .iter()
        .filter(silent)
        .map(|driver| &*driver.name)
        .collect();
    ensure!(
        silent.is_empty(),
        "nothing could be measured of {}",
        silent.join(", ")
    );
    Ok(())
}

/// Puts the results where readers of the project see them.
fn publish(table: &str, plot: &str) -> Result<()> {
    let shown = format!("![strait wireguard beside other implementations](docs/compare.svg)\n\n{table}");
    let new = published(&readme()?, &shown)?;
    std::fs::write(project().join("README.md"), new)?;
    std::fs::write(project().join("docs/compare.svg"), plot)?;
    println!("published: README.md, docs/compare.svg");
    Ok(())
}

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn readme() -> Result<String> {
    std::fs::read_to_string(project().join("README.md")).context("cannot read README.md")
}

fn published(readme: &str, shown: &str) -> Result<String> {
    table::replaced(readme, shown).context("README.md has no place for the table")
}
