//! Who works while a load runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};

/// CPU seconds by whom and by thread.
pub(super) type Spent = BTreeMap<(String, String), f64>;

/// The state of all watched processes and of the machine at one moment.
pub(super) struct Moment {
    when: Instant,
    spent: Spent,
    machine: Machine,
}

/// What was done between two moments.
pub(super) struct Work {
    pub(super) spent: Spent,
    /// CPU seconds of everything on this machine.
    pub(super) busy: f64,
    /// Of these, those that the kernel handled packets in, outside of system calls.
    pub(super) softirq: f64,
}

#[derive(Clone, Copy)]
struct Machine {
    busy: f64,
    softirq: f64,
    /// Busy and idle.
    all: f64,
}

impl Moment {
    /// Of these processes, by name.
    pub(super) fn now(processes: &[(String, i32)]) -> Result<Self> {
        let mut spent = Spent::new();
        for (name, process) in processes {
            for (thread, seconds) in
                threads(*process).with_context(|| format!("cannot see what {name} does"))?
            {
                *spent.entry((name.clone(), thread)).or_default() += seconds;
            }
        }
        Ok(Self {
            when: Instant::now(),
            spent,
            machine: machine(&fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?)?,
        })
    }

    /// What was done since an earlier moment.
    pub(super) fn since(&self, before: &Self) -> Work {
        let spent = self.spent.iter().map(|(who, seconds)| {
            let earlier = before.spent.get(who).copied().unwrap_or_default();
            (who.clone(), (seconds - earlier).max(0.0))
        });
        // The kernel counts in ticks whose length is its own affair; shares of the time that passed are not.
        let cores = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
        let passed = self.when.duration_since(before.when).as_secs_f64() * cores;
        let ticks = (self.machine.all - before.machine.all).max(1.0);
        let share =
            |of: fn(&Machine) -> f64| (of(&self.machine) - of(&before.machine)).max(0.0) / ticks * passed;
        Work {
            spent: spent.collect(),
            busy: share(|machine| machine.busy),
            softirq: share(|machine| machine.softirq),
        }
    }
}

/// CPU seconds of a process's threads, by name.
fn threads(process: i32) -> Result<BTreeMap<String, f64>> {
    let folder = format!("/proc/{process}/task");
    let mut threads = BTreeMap::new();
    for thread in fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))? {
        let path = thread?.path();
        // A thread may have ended since.
        let read = |file: &str| fs::read_to_string(path.join(file)).unwrap_or_default();
        let name = read("comm").trim().to_owned();
        let nanoseconds: f64 = match read("schedstat").split_whitespace().next() {
            Some(text) => text.parse().context("a strange schedstat")?,
            None => continue,
        };
        *threads.entry(name).or_default() += nanoseconds / 1e9;
    }
    Ok(threads)
}

fn machine(stat: &str) -> Result<Machine> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "));
    let fields = line.context("a strange /proc/stat")?.split_whitespace();
    let fields: Vec<f64> = fields.map_while(|field| field.parse().ok()).collect();
    let [user, nice, system, idle, iowait, irq, softirq, ..] = fields[..] else {
        anyhow::bail!("a strange /proc/stat");
    };
    let busy = user + nice + system + irq + softirq;
    Ok(Machine {
        busy,
        softirq,
        all: busy + idle + iowait,
    })
}

/// The descendant of a process whose command line ends with this word: what `lab exec` has started.
pub(super) fn descendant(of: u32, command: &str) -> Option<i32> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(process) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        if let Some(parent) = parent {
            parents.insert(process, parent);
        }
    }
    let is_below = |mut process: i32| {
        while let Some(&parent) = parents.get(&process) {
            if parent == of.cast_signed() {
                return true;
            }
            process = parent;
        }
        false
    };
    let says = |process: i32| {
        let line = fs::read(Path::new("/proc").join(process.to_string()).join("cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0).filter(|word| !word.is_empty());
        words.next_back() == Some(command.as_bytes())
    };
    parents
        .keys()
        .copied()
        .find(|process| is_below(*process) && says(*process))
}

#[cfg(test)]
mod tests {
    use rustix::time::{ClockId, clock_gettime};

    use super::*;

    #[test]
    fn work_is_seen_by_thread() {
        let me = [("me".to_owned(), std::process::id().cast_signed())];
        let before = Moment::now(&me).unwrap();
        let (done, worked) = std::sync::mpsc::channel();
        let worker = std::thread::Builder::new()
            .name("worker".to_owned())
            .spawn(move || {
                let spent = || clock_gettime(ClockId::ThreadCPUTime);
                let mut sum = 0u64;
                while (spent().tv_sec, spent().tv_nsec) < (0, 100_000_000) {
                    sum = std::hint::black_box(sum.wrapping_add(1));
                }
                done.send(()).unwrap();
                // Alive until it has been looked at.
                std::thread::park();
            });
        let worker = worker.unwrap();
        worked.recv().unwrap();
        let work = Moment::now(&me).unwrap().since(&before);
        worker.thread().unpark();
        worker.join().unwrap();
        let spent = work.spent[&("me".to_owned(), "worker".to_owned())];
        assert!(spent > 0.05 && spent < 0.2, "{spent}");
        assert!(work.busy > 0.05, "{}", work.busy);
        assert!(work.softirq <= work.busy);
    }

    #[test]
    fn a_child_is_found_by_its_last_word() {
        let mut child = std::process::Command::new("sleep").arg("61").spawn().unwrap();
        let me = std::process::id();
        let found = (0..100).find_map(|_| {
            // Between fork and exec it has this program's name.
            std::thread::sleep(std::time::Duration::from_millis(10));
            descendant(me, "61")
        });
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found, Some(child.id().cast_signed()));
        assert_eq!(descendant(me, "no such word"), None);
    }

    #[test]
    fn a_machine_without_steal_time_is_understood() {
        let found = machine("cpu  10 1 20 60 5 1 3\ncpu0 1 1 1\n").unwrap();
        assert_eq!((found.busy, found.softirq, found.all), (35.0, 3.0, 100.0));
        assert!(machine("cpu 1 2\n").is_err());
    }
}
