//! A process of a control plane: started with its output in a file, ended by its id.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Time to end by itself.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running process; it ends with this value.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program` of the folder `assets` with its output in `dir`.
    pub(crate) fn start(assets: &Path, program: &str, args: &[String], dir: &Path) -> Result<Self, String> {
        let log = dir.join(format!("{program}.log"));
        let fail = |e: std::io::Error| format!("{program} cannot be started: {e}");
        let out = File::create(&log).map_err(fail)?;
        let err = out.try_clone().map_err(fail)?;
        let child = Command::new(assets.join(program))
            .args(args)
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .map_err(fail)?;
        Ok(Process {
            name: program.to_owned(),
            child,
            log,
        })
    }

    /// An error if it has ended, with what it said last.
    pub(crate) fn alive(&mut self) -> Result<(), String> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(format!("{} ended ({status}): {}", self.name, self.last_words())),
            Err(e) => Err(format!("{} cannot be watched: {e}", self.name)),
        }
    }

    /// The end of its output.
    pub(crate) fn last_words(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Whatever fails here, the process is gone already.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
