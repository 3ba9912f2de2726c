//! `strait lab demo`: the whole way of one request, from nothing to nothing, in one command.

mod place;
mod report;
mod story;

use std::process::ExitCode;
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use strait_daemon::stdout;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{ConfigArg, FamilyArgs, Output};
use crate::dir::LabDir;
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

/// Exit code of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

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
    let told = {
        let mut story = Story::new(dir.clone(), shape, places, args.output);
        let (done, wait) = tokio::sync::oneshot::channel();
        thread::Builder::new().name("demo".to_owned()).spawn(move || {
            let outcome = story.run();
            // The receiver is gone only if the process is about to end.
            let _ = done.send((story, outcome));
        })?;
        wait
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        anyhow::Ok(tokio::select! {
            biased;
            _ = interrupt.recv() => None,
            _ = terminate.recv() => None,
            _ = hangup.recv() => None,
            told = told => Some(told.map_err(|_| anyhow!("the demonstration panicked"))?),
        })
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
