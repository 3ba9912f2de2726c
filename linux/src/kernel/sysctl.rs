//! Kernel parameters: set, and put back to what they were before us.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use strait_core::kernel::Sysctl;

use super::Failure;
use crate::error::{Error, Result};
use crate::netns::Netns;

/// Parameters with their first values, also in a file: one `NAME = VALUE` a line.
pub(super) struct Sysctls {
    file: PathBuf,
    first: Mutex<BTreeMap<String, String>>,
}

impl Sysctls {
    pub(super) fn open(state_dir: &Path) -> Result<Self> {
        fs::create_dir_all(state_dir)
            .map_err(|e| Error::system(format!("make the directory {}", state_dir.display()), e))?;
        let file = state_dir.join("sysctls");
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(Error::system(format!("read {}", file.display()), e)),
        };
        let first = text
            .lines()
            .filter_map(|line| line.split_once(" = "))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Ok(Self {
            file,
            first: Mutex::new(first),
        })
    }

    /// Parameters that nobody has set.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn none() -> Self {
        Self {
            file: PathBuf::new(),
            first: Mutex::default(),
        }
    }

    /// The present values of all parameters that we ever set.
    pub(super) fn read(&self, namespace: &Netns) -> Result<BTreeMap<String, Sysctl>> {
        let names: Vec<String> = self.first().keys().cloned().collect();
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        namespace.run(|| {
            let values = names.into_iter().filter_map(|name| {
                let value = get(&name).ok()?;
                Some((name, Sysctl { value }))
            });
            values.collect()
        })
    }

    /// Sets a parameter, after its first value is safely in the file.
    pub(super) fn set(&self, namespace: &Netns, name: &str, value: &str) -> Result<()> {
        let before = namespace.run(|| get(name))??;
        {
            let mut first = self.first();
            first.entry(name.to_owned()).or_insert(before);
            // Also where nothing is new: who uninstalls beside a running agent takes the file away.
            self.save(&first)?;
        }
        namespace.run(|| put(name, value))?
    }

    /// Puts the first values back; those that cannot be are reported and kept.
    pub(super) fn restore(&self, namespace: &Netns) -> Result<Vec<Failure>> {
        let mut first = self.first();
        let mut failed = Vec::new();
        let mut left = BTreeMap::new();
        for (name, value) in std::mem::take(&mut *first) {
            let restored = namespace.run(|| {
                if get(&name)? == value {
                    Ok(())
                } else {
                    put(&name, &value)
                }
            })?;
            if let Err(error) = restored {
                failed.push(Failure {
                    change: format!("~ sysctl {name} = {value}"),
                    error,
                });
                left.insert(name, value);
            }
        }
        *first = left;
        if first.is_empty() {
            match fs::remove_file(&self.file) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::system(format!("remove {}", self.file.display()), e));
                }
                _ => {}
            }
        } else {
            self.save(&first)?;
        }
        Ok(failed)
    }

    fn first(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn save(&self, first: &BTreeMap<String, String>) -> Result<()> {
        let text: String = first
            .iter()
            .map(|(name, value)| format!("{name} = {value}\n"))
            .collect();
        let new = self.file.with_extension("new");
        let write = || {
            let mut file = fs::File::create(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &self.file)
        };
        write().map_err(|e| Error::system(format!("write {}", self.file.display()), e))
    }
}

/// `net.ipv4.ip_forward` or `net/ipv4/ip_forward`.
fn path(name: &str) -> Result<PathBuf> {
    let relative = if name.contains('/') {
        name.to_owned()
    } else {
        name.replace('.', "/")
    };
    if relative.split('/').any(|part| part.is_empty() || part == "..") {
        return Err(Error::Invalid {
            doing: format!("use the kernel parameter {name}"),
            why: "it is no path under /proc/sys".into(),
        });
    }
    Ok(Path::new("/proc/sys").join(relative))
}

fn get(name: &str) -> Result<String> {
    let text = fs::read_to_string(path(name)?)
        .map_err(|e| Error::system(format!("read the kernel parameter {name}"), e))?;
    Ok(text.trim().to_owned())
}

fn put(name: &str, value: &str) -> Result<()> {
    fs::write(path(name)?, value)
        .map_err(|e| Error::system(format!("set the kernel parameter {name} to {value}"), e))
}
