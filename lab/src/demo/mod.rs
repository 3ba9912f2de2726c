//! `strait lab demo`: the whole way of one request, from nothing to nothing, in one command.

mod place;
mod report;
mod story;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use strait_daemon::stdout;

use crate::args::{ConfigArg, FamilyArgs, Output};
use crate::dir::LabDir;
use crate::interrupt::{INTERRUPTED, unless_interrupted};
use crate::topology::Shape;
use crate::{config, start, status};
use place::Places;
use report::Report;
use story::Story;

/// Arguments of `strait lab demo`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DemoArgs {
    #[command(flatten)]
    families: FamilyArgs,
    #[command(flatten)]
    config: ConfigArg,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

/// Runs the demonstration. Whatever happens, nothing of it is left.
pub(crate) fn run(name: Option<&str>, args: &DemoArgs) -> Result<ExitCode> {
    // Of itself it has a name of its own: it stands beside any lab, and beside other demonstrations.
    let dir = match name {
        Some(name) => LabDir::of(name)?,
        None => LabDir::of(&format!("demo-{}", std::process::id()))?,
    };
    let shape = match &args.config.config {
        Some(path) => config::read(path)?,
        None => Shape::uniform(2, 2, 1, args.families.families()),
    };
    let places = Places::of(&shape)?;
    let mut story = Story::new(dir.clone(), shape, places, args.output);
    let ended = unless_interrupted("demonstration", move || {
        let outcome = story.run();
        (story, outcome)
    });
    let down = start::down_own(&dir).context("cannot take the lab down");
    match ended? {
        Some((story, outcome)) => {
            down?;
            print(&story, outcome.as_ref(), args.output)
        }
        None => {
            status::say("strait: interrupted; everything is taken down");
            down.map(|()| ExitCode::from(INTERRUPTED))
        }
    }
}

fn print(story: &Story, outcome: Result<&(), &anyhow::Error>, output: Output) -> Result<ExitCode> {
    let report = Report::new(story, outcome.err());
    match (output, outcome) {
        (Output::Json, _) => stdout::print(&report.to_json())?,
        (Output::Text, Ok(())) => stdout::print(&report.to_text())?,
        (Output::Text, Err(_)) => status::say(&report.to_text()),
    }
    Ok(if outcome.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
