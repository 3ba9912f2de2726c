//! `strait lab demo`: the whole way of one request, from nothing to nothing, in one command.

mod report;
mod story;

use std::process::ExitCode;
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{FamilyArgs, Output};
use crate::dir::LabDir;
use crate::start;
use report::Report;
use story::Story;

/// Arguments of `strait lab demo`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DemoArgs {
    #[command(flatten)]
    families: FamilyArgs,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

/// Exit code of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// Runs the demonstration. Whatever happens, nothing is left.
pub(crate) fn run(args: &DemoArgs) -> Result<ExitCode> {
    // A name of its own: it stands beside any lab, and beside other demonstrations.
    let dir = LabDir::of(&format!("demo-{}", std::process::id()))?;
    let told = {
        let (dir, args) = (dir.clone(), args.clone());
        let (done, wait) = tokio::sync::oneshot::channel();
        thread::Builder::new().name("demo".to_owned()).spawn(move || {
            // The receiver is gone only if the process is about to end.
            let _ = done.send(tell(&dir, &args));
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
            code = told => Some(code.map_err(|_| anyhow!("the demonstration panicked"))?),
            _ = interrupt.recv() => None,
            _ = terminate.recv() => None,
            _ = hangup.recv() => None,
        })
    });
    let down = start::down(&dir).context("cannot take the lab down");
    match ended? {
        Some(code) => down.map(|()| code),
        None => {
            eprintln!("strait: interrupted; everything is taken down");
            down.map(|()| ExitCode::from(INTERRUPTED))
        }
    }
}

fn tell(dir: &LabDir, args: &DemoArgs) -> ExitCode {
    let mut story = Story::new(dir.clone(), args.families.families(), args.output);
    let outcome = story.run();
    let report = Report::new(&story, outcome.as_ref().err());
    match args.output {
        Output::Json => println!("{}", report.to_json()),
        Output::Text => match &outcome {
            Ok(()) => println!("{}", report.to_text()),
            Err(_) => eprintln!("{}", report.to_text()),
        },
    }
    if outcome.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
