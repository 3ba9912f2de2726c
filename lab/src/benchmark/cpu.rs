//! Who works while a load runs.

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::alive::ProcessId;
use crate::procfs::Table;

/// CPU seconds by whom and by thread.
pub(super) type Spent = BTreeMap<(String, String), f64>;

/// A process whose threads are looked at one by one, by its name.
pub(super) type Watched = (String, ProcessId);

/// The state of all watched processes, of the lab and of the machine at one moment.
pub(super) struct Moment {
    when: Instant,
    spent: Spent,
    machine: Machine,
    /// Ticks of the lab and this program, and of all other programs that can be seen.
    programs: (f64, f64),
}

/// What was done between two moments, in CPU seconds.
pub(super) struct Work {
    pub(super) spent: Spent,
    /// Of everything on this machine.
    pub(super) busy: f64,
    /// Of these, those that the kernel handled packets in, outside of system calls.
    pub(super) softirq: f64,
    /// Of the lab and this program.
    pub(super) own: f64,
    /// Of other programs, seen or not.
    pub(super) others: f64,
    /// Of other machines on the same hardware; not of this one.
    pub(super) stolen: f64,
    /// The time that passed.
    pub(super) seconds: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Machine {
    cores: usize,
    /// Outside of interrupts.
    programs: f64,
    softirq: f64,
    /// What other machines took.
    stolen: f64,
    /// Busy, stolen and idle.
    all: f64,
}

impl Machine {
    fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        Self::of(&stat)
    }

    fn of(stat: &str) -> Result<Self> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "));
        let fields = line.context("a strange /proc/stat")?.split_whitespace();
        let fields: Vec<f64> = fields.map_while(|field| field.parse().ok()).collect();
        let [user, nice, system, idle, iowait, irq, softirq, ..] = fields[..] else {
            bail!("a strange /proc/stat");
        };
        let stolen = fields.get(7).copied().unwrap_or_default();
        let one = |line: &&str| line.starts_with("cpu") && !line.starts_with("cpu ");
        Ok(Self {
            cores: stat.lines().filter(one).count().max(1),
            programs: user + nice + system,
            softirq: irq + softirq,
            stolen,
            all: user + nice + system + idle + iowait + irq + softirq + stolen,
        })
    }
}

impl Moment {
    /// Of these processes; the lab and this program are these roots with all that comes of them.
    pub(super) fn now(watched: &[Watched], roots: &[i32]) -> Result<Self> {
        let mut spent = Spent::new();
        for (name, process) in watched {
            let threads = threads(*process);
            let Some(threads) = threads.with_context(|| format!("cannot see what {name} does"))? else {
                bail!(
                    "{name} ended, or was started again, while it was measured; benchmark again once `strait lab \
                     status` shows that it runs"
                );
            };
            for (thread, seconds) in threads {
                *spent.entry((name.clone(), thread)).or_default() += seconds;
            }
        }
        let table = Table::now();
        Ok(Self {
            when: Instant::now(),
            spent,
            machine: Machine::now()?,
            programs: table.ticks(&table.families(roots)),
        })
    }

    /// What was done since an earlier moment.
    pub(super) fn since(&self, before: &Self) -> Work {
        let spent = self.spent.iter().map(|(who, seconds)| {
            let earlier = before.spent.get(who).copied().unwrap_or_default();
            (who.clone(), (seconds - earlier).max(0.0))
        });
        // The kernel counts in ticks whose length is its own affair; shares of the time that passed are not.
        let seconds = self.when.duration_since(before.when).as_secs_f64();
        let (now, then) = (&self.machine, &before.machine);
        let tick = seconds * now.cores as f64 / (now.all - then.all).max(1.0);
        let passed = |of: fn(&Machine) -> f64| (of(now) - of(then)).max(0.0) * tick;
        let programs = passed(|machine| machine.programs);
        let own = (self.programs.0 - before.programs.0).max(0.0) * tick;
        let seen = (self.programs.1 - before.programs.1).max(0.0) * tick;
        Work {
            spent: spent.collect(),
            busy: programs + passed(|machine| machine.softirq),
            softirq: passed(|machine| machine.softirq),
            own,
            // Those of other containers are not seen; and those seen end, or are interrupted.
            others: seen.max(programs - own),
            stolen: passed(|machine| machine.stolen),
            seconds,
        }
    }
}

/// How many there are, idle or not.
pub(super) fn cores() -> Result<usize> {
    Ok(Machine::now()?.cores)
}

/// CPU seconds of a process's threads, by name; `None` where it has ended.
fn threads(process: ProcessId) -> Result<Option<BTreeMap<String, f64>>> {
    let folder = format!("/proc/{}/task", process.pid);
    let mut threads = BTreeMap::new();
    let entries = match fs::read_dir(&folder) {
        Ok(entries) if process.alive() => entries,
        _ if !process.alive() => return Ok(None),
        entries => entries.with_context(|| format!("cannot read {folder}"))?,
    };
    for thread in entries {
        let Ok(thread) = thread else { continue };
        let path = thread.path();
        // A thread may have ended since.
        let read = |file: &str| fs::read_to_string(path.join(file)).unwrap_or_default();
        let name = read("comm").trim().to_owned();
        let nanoseconds: f64 = match read("schedstat").split_whitespace().next() {
            Some(text) => text.parse().context("a strange schedstat")?,
            None => continue,
        };
        *threads.entry(name).or_default() += nanoseconds / 1e9;
    }
    Ok(process.alive().then_some(threads))
}

#[cfg(test)]
mod tests {
    use rustix::time::{ClockId, clock_gettime};

    use super::*;

    #[test]
    fn work_is_seen_by_thread_and_as_this_programs_or_as_anothers() {
        let me = ProcessId::current().unwrap();
        let watched = [("me".to_owned(), me)];
        let before = Moment::now(&watched, &[me.pid]).unwrap();
        // For whom this is somebody else.
        let elsewhere = Moment::now(&[], &[]).unwrap();
        let (done, worked) = std::sync::mpsc::channel();
        let worker = std::thread::Builder::new()
            .name("worker".to_owned())
            .spawn(move || {
                let spent = || clock_gettime(ClockId::ThreadCPUTime);
                let mut sum = 0u64;
                while (spent().tv_sec, spent().tv_nsec) < (0, 200_000_000) {
                    sum = std::hint::black_box(sum.wrapping_add(1));
                }
                done.send(()).unwrap();
                // Alive until it has been looked at.
                std::thread::park();
            });
        let worker = worker.unwrap();
        worked.recv().unwrap();
        let work = Moment::now(&watched, &[me.pid]).unwrap().since(&before);
        let seen = Moment::now(&[], &[]).unwrap().since(&elsewhere);
        worker.thread().unpark();
        worker.join().unwrap();
        let spent = work.spent[&("me".to_owned(), "worker".to_owned())];
        assert!(spent > 0.15 && spent < 0.3, "{spent}");
        assert!(work.busy > 0.1, "{}", work.busy);
        assert!(work.own > 0.1, "{}", work.own);
        assert!(
            seen.own == 0.0 && seen.others > 0.1,
            "{} {}",
            seen.own,
            seen.others
        );
        assert!(work.softirq <= work.busy);
    }

    #[test]
    fn a_process_that_was_started_again_is_told() {
        let me = ProcessId::current().unwrap();
        let earlier = ProcessId {
            start: me.start - 1,
            ..me
        };
        let watched = [("blue/gateway-1".to_owned(), earlier)];
        let error = Moment::now(&watched, &[]).err().unwrap().to_string();
        assert!(
            error.contains("blue/gateway-1 ended, or was started again") && error.contains("lab status"),
            "{error}"
        );
    }

    #[test]
    fn a_machine_without_steal_time_is_understood() {
        let found = Machine::of("cpu  10 1 20 60 5 1 3\ncpu0 1 1 1\ncpu1 1 1 1\nintr 5\n").unwrap();
        assert_eq!((found.programs, found.softirq, found.all), (31.0, 4.0, 100.0));
        assert_eq!((found.cores, found.stolen), (2, 0.0));
        assert_eq!(Machine::of("cpu  1 1 1 1 1 1 1 7 0 0\n").unwrap().stolen, 7.0);
        assert!(Machine::of("cpu 1 2\n").is_err());
    }
}
