//! The processes of this machine, as /proc lists them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// What is known of a process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listed {
    parent: i32,
    group: i32,
    /// Whether it has ended, and nobody has waited for it yet.
    pub(crate) ended: bool,
    /// Clock ticks from the machine's start to its own.
    pub(crate) start: u64,
    /// CPU time in the kernel's ticks: its own, and that of the children which it has waited for.
    pub(crate) ticks: f64,
}

impl Listed {
    /// `None` for a process that does not exist.
    pub(crate) fn now(process: i32) -> Option<Self> {
        listed(&fs::read_to_string(format!("/proc/{process}/stat")).ok()?)
    }
}

/// Every process that can be seen, by its number.
pub(crate) struct Table(BTreeMap<i32, Listed>);

/// The kernel's own threads are children of this one.
const KERNEL: i32 = 2;

impl Table {
    /// All there are now. One that ends meanwhile may be missing.
    pub(crate) fn now() -> Self {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let listed = entries.filter_map(|entry| {
            let process = entry.file_name().to_str()?.parse().ok()?;
            Some((process, Listed::now(process)?))
        });
        Self(listed.collect())
    }

    /// These processes and all that come of them.
    pub(crate) fn families(&self, roots: &[i32]) -> BTreeSet<i32> {
        let is_of = |mut process: i32| {
            loop {
                if roots.contains(&process) {
                    return true;
                }
                match self.0.get(&process) {
                    Some(listed) if listed.parent != process => process = listed.parent,
                    _ => return false,
                }
            }
        };
        self.0.keys().copied().filter(|process| is_of(*process)).collect()
    }

    /// The descendant of a process whose command line ends with this word: what `lab exec` has started.
    pub(crate) fn descendant(&self, of: u32, command: &str) -> Option<i32> {
        let of = of.cast_signed();
        let says = |process: &i32| {
            let path = Path::new("/proc").join(process.to_string()).join("cmdline");
            let line = fs::read(path).unwrap_or_default();
            let mut words = line.split(|byte| *byte == 0).filter(|word| !word.is_empty());
            *process != of && words.next_back() == Some(command.as_bytes())
        };
        self.families(&[of]).into_iter().find(says)
    }

    /// Whether a process group has a process that has not ended.
    pub(crate) fn group_lives(&self, group: i32) -> bool {
        self.0
            .values()
            .any(|listed| listed.group == group && !listed.ended)
    }

    /// CPU time so far of these, and of all others but the kernel's own threads, in ticks.
    pub(crate) fn ticks(&self, own: &BTreeSet<i32>) -> (f64, f64) {
        let mut ticks = (0.0, 0.0);
        for (process, listed) in &self.0 {
            if own.contains(process) {
                ticks.0 += listed.ticks;
            } else if *process != KERNEL && listed.parent != KERNEL {
                ticks.1 += listed.ticks;
            }
        }
        ticks
    }
}

fn listed(stat: &str) -> Option<Listed> {
    // The name, in parentheses, may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let ticks = fields.get(11..15)?.iter().map(|field| field.parse::<f64>());
    Some(Listed {
        ended: matches!(*fields.first()?, "Z" | "X"),
        parent: fields.get(1)?.parse().ok()?,
        group: fields.get(2)?.parse().ok()?,
        start: fields.get(19)?.parse().ok()?,
        ticks: ticks.sum::<Result<f64, _>>().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;

    use strait_linux::testing::until;

    use super::*;

    #[test]
    fn a_child_is_found_by_its_last_word_and_its_group_lives_until_it_ends() {
        let mut child = Command::new("sleep").arg("61").process_group(0).spawn().unwrap();
        let number = child.id().cast_signed();
        let me = std::process::id();
        // Its words can be read a moment after spawn returns.
        until("the child is found", || {
            Table::now().descendant(me, "61") == Some(number)
        });
        let table = Table::now();
        assert_eq!(table.descendant(me, "no such word"), None);
        let own = table.families(&[me.cast_signed()]);
        assert!(
            own.contains(&number) && own.contains(&me.cast_signed()),
            "{own:?}"
        );
        assert!(!own.contains(&1), "{own:?}");
        assert!(table.group_lives(number));
        child.kill().unwrap();
        // Until it is waited for, it is listed as ended.
        while Table::now().group_lives(number) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!Table::now().group_lives(number));
    }

    #[test]
    fn a_name_may_hold_anything() {
        let found = listed("7 (a) b) S 3 4 5 0 -1 64 1 2 3 4 10 20 30 40 20 0 1 0 9").unwrap();
        assert_eq!(
            (found.parent, found.group, found.start, found.ticks, found.ended),
            (3, 4, 9, 100.0, false)
        );
        assert!(listed("7 (a) Z 3 4").is_none());
    }
}
