//! `strait benchmark`: what two clusters of a lab carry from pod to pod, beside what the bare data path carries
//! between the same two gateways, and where time and CPU go.
//!
//! [`place`] says between whom, [`course`] is the order of things, [`run`](mod@run) starts what stands on nodes,
//! [`cpu`] counts who works meanwhile, [`hops`] says where time goes, [`report`] is what comes out, [`text`] shows it.

mod course;
mod cpu;
mod hops;
mod place;
mod report;
mod run;
#[cfg(test)]
mod sample;
mod text;

use std::fs::File;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use strait_daemon::stdout;

use crate::args::Output;
use crate::dir::LabDir;
use crate::interrupt::{INTERRUPTED, unless_interrupted};
use crate::start::{self, Tether};
use crate::status;
use crate::tool::Crew;
use crate::topology::{Families, Shape};
use course::Course;

/// Measure throughput and latency between two clusters of a lab, and where the time goes
#[derive(Debug, Clone, Args)]
pub struct BenchmarkArgs {
    /// The cluster that sends [default: the lab's first]
    #[arg(value_name = "FROM")]
    pub(super) from: Option<String>,
    /// The cluster that receives [default: the lab's second]
    #[arg(value_name = "TO", requires = "from")]
    pub(super) to: Option<String>,
    /// The lab. Without one, and where no lab named `default` stands, one is made for the time
    #[arg(long, env = "STRAIT_LAB", value_name = "NAME")]
    lab: Option<String>,
    /// Seconds of each load
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
    /// How to print the results
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=600.0).contains(&seconds) => Ok(seconds),
        _ => Err("it takes 0.1 to 600".to_owned()),
    }
}

/// Measures, and leaves the lab as it was.
pub fn run_benchmark(args: BenchmarkArgs) -> Result<ExitCode> {
    let named = args.lab.as_deref().filter(|name| !name.is_empty());
    let given = LabDir::of(named.unwrap_or("default"))?;
    let stands = named.is_some() || given.exists();
    let (dir, _alone) = if stands {
        given.running()?;
        let alone = alone(&given)?;
        (given, Some(alone))
    } else {
        (LabDir::of(&format!("benchmark-{}", std::process::id()))?, None)
    };
    let crew = Crew::default();
    let (lab, work, workers) = (dir.clone(), args.clone(), crew.clone());
    let ended = unless_interrupted("benchmark", move || measure(&lab, workers, stands, &work));
    let left = crew.end();
    let cleared = if stands {
        course::clear(&dir)
    } else {
        start::down_own(&dir).context("cannot take the lab down")
    };
    let cleared = left.and(cleared);
    match ended? {
        Some(report) => {
            let report = report?;
            cleared?;
            match args.output {
                Output::Json => stdout::print(&report.to_json()?)?,
                Output::Text => stdout::print(report.to_text().trim_end())?,
            }
            Ok(ExitCode::SUCCESS)
        }
        None => {
            status::say("strait: interrupted; the lab is as it was");
            cleared.map(|()| ExitCode::from(INTERRUPTED))
        }
    }
}

/// Keeps other benchmarks out of a lab, as each would count the other's load, for as long as it is held.
fn alone(dir: &LabDir) -> Result<File> {
    let path = dir.path();
    let folder = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(folder),
        Err(Errno::WOULDBLOCK) => bail!(
            "another benchmark runs in the lab {:?}; wait for its end, or make a lab of another name (`strait lab --name`)",
            dir.name()
        ),
        Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

fn measure(dir: &LabDir, crew: Crew, stands: bool, args: &BenchmarkArgs) -> Result<report::Report> {
    let course = Course::new(dir.clone(), crew, args.seconds);
    let _tether: Option<Tether> = if stands {
        None
    } else {
        let shape = Shape::uniform(2, 2, 1, Families::V4);
        for name in [&args.from, &args.to].into_iter().flatten() {
            let known = shape.clusters.iter().map(|cluster| cluster.name.as_str());
            let known: Vec<&str> = known.collect();
            ensure!(
                known.contains(&name.as_str()),
                "no lab stands, and the one made for the time has no cluster {name:?}: it has {}; `strait lab up` \
                 makes one with others",
                known.join(", ")
            );
        }
        Some(start::up(dir, &shape, true, &mut |step| course.say(step))?)
    };
    course.run(args.from.as_deref(), args.to.as_deref())
}
