//! Everything on one core for a while, so that where the scheduler had put whom does not count.

use anyhow::{Context as _, Result};
use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

/// While it lives, these processes, this thread, and what this thread starts are on one core.
pub(crate) struct OneCore(Vec<(Option<Pid>, CpuSet)>);

impl OneCore {
    pub(crate) fn new(processes: impl Iterator<Item = u32>) -> Result<Self> {
        let own = sched_getaffinity(None).context("cannot read on which cores this may run")?;
        let core = (0..CpuSet::MAX_CPU).find(|&core| own.is_set(core));
        let mut only = CpuSet::new();
        only.set(core.context("no core is allowed")?);
        let mut moved = Self(Vec::new());
        moved.put(None, &only)?;
        for process in processes {
            for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
                let task = task?.file_name();
                let number = task.to_str().and_then(|name| name.parse().ok());
                moved.put(number.and_then(Pid::from_raw), &only)?;
            }
        }
        Ok(moved)
    }

    fn put(&mut self, thread: Option<Pid>, only: &CpuSet) -> Result<()> {
        let before = sched_getaffinity(thread).context("cannot read a thread's cores")?;
        sched_setaffinity(thread, only).context("cannot keep a thread on one core")?;
        self.0.push((thread, before));
        Ok(())
    }
}

impl Drop for OneCore {
    fn drop(&mut self) {
        for (thread, before) in &self.0 {
            if let Err(error) = sched_setaffinity(*thread, before) {
                eprintln!("a thread stays on one core: {error}");
            }
        }
    }
}
