//! Where a lab keeps its state: one private directory for each lab of a user.
//!
//! ```text
//! lab.json         what it is made of, and the processes that hold it
//! up.json          the `lab up` that makes it, while it does
//! control.sock     requests to the supervisor
//! kubeconfig/      NAME.yaml for the host; NAME-ROLE.yaml for the daemons inside
//! logs/            CLUSTER_NODE_DAEMON.log
//! data/            stores of API servers and daemons
//! ```

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rustix::process::geteuid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::alive::ProcessId;
use crate::space;
use crate::topology::Topology;

/// Names of directories on their way in and out; the number of a process follows.
const NEW: &str = ".new-";
const GONE: &str = ".gone-";
/// How often something is tried again that others undo.
const TRIES: usize = 100;
/// The process that makes the lab.
const MAKER: &str = "up.json";

/// The state directory of one lab.
#[derive(Debug, Clone)]
pub(crate) struct LabDir {
    name: String,
    path: PathBuf,
}

/// lab.json.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LabFile {
    /// The first process of the lab's PID namespace: when it dies, everything dies.
    pub(crate) init: ProcessId,
    /// The supervisor, whose descriptors are the namespaces.
    pub(crate) supervisor: ProcessId,
    /// Whether the lab has a user namespace of its own.
    pub(crate) rootless: bool,
    /// The plan.
    pub(crate) topology: Topology,
    /// Whether everything is up.
    pub(crate) ready: bool,
    /// Namespaces: `router`, `CLUSTER/NODE`, `CLUSTER/POD` → path under /proc.
    pub(crate) namespaces: std::collections::BTreeMap<String, String>,
    /// Mounts of pods: `CLUSTER/POD` → path under /proc.
    pub(crate) mounts: std::collections::BTreeMap<String, String>,
    /// Ports on the host's loopback: cluster (or `broker`) → port.
    pub(crate) host_ports: std::collections::BTreeMap<String, u16>,
}

impl LabDir {
    /// The directory of the lab of this name; it need not exist.
    pub(crate) fn of(name: &str) -> Result<Self> {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        ensure!(
            !name.is_empty() && name.len() <= 32 && name.chars().all(good),
            "{name:?} is no name for a lab: it takes a-z, 0-9 and '-', at most 32 characters"
        );
        Ok(Self {
            name: name.to_owned(),
            path: root()?.join(name),
        })
    }

    /// The directory of a lab, told by whoever knows it: inside, the user is another one.
    pub(crate) fn at(name: &str, path: &Path) -> Self {
        Self {
            name: name.to_owned(),
            path: path.to_owned(),
        }
    }

    /// Makes the directory for this process. There must be none, or an empty one.
    pub(crate) fn create(&self) -> Result<()> {
        let root = self.root()?;
        let me = ProcessId::current()?;
        // It appears at once with all that tells whose it is, so that no kill leaves one that nobody owns.
        let new = root.join(format!("{NEW}{}-{}", me.pid, self.name));
        let mut tries = 0;
        let filled = loop {
            private_dir(root)?;
            space::enough(root)?;
            sweep(root)?;
            tries += 1;
            match fill(&new, &me) {
                // Whoever removed the last lab has just removed the folder of all.
                Err(_) if !root.exists() && tries < TRIES => {}
                filled => break filled,
            }
        };
        let made = filled.and_then(|()| match fs::rename(&new, &self.path) {
            Ok(()) => Ok(()),
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
                ) =>
            {
                bail!(
                    "a lab named {:?} exists, or is being made, in {}; `strait lab --name {} down` removes it",
                    self.name,
                    self.path.display(),
                    self.name
                )
            }
            Err(e) => Err(e).with_context(|| format!("cannot make {}", self.path.display())),
        });
        if made.is_err() {
            remove_all(&new)?;
        }
        made
    }

    /// Removes the directory; it need not exist.
    pub(crate) fn remove(&self) -> Result<()> {
        remove_all(&self.path)
    }

    /// Removes the directory from inside the lab, whose processes may still write: nothing can be made anew
    /// under its name meanwhile. It is left alone where it is somebody else's by now.
    ///
    /// The maker of this one is gone, or about to be: its connections close a moment before it is, so that it
    /// has `last_breath`.
    pub(crate) fn abandon(&self, last_breath: Duration) -> Result<()> {
        if self.maker()?.is_some_and(|maker| maker.outlives(last_breath)) {
            return Ok(());
        }
        let gone = self
            .root()?
            .join(format!("{GONE}{}-{}", ProcessId::current()?.pid, self.name));
        match fs::rename(&self.path, &gone) {
            Ok(()) => remove_all(&gone)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).with_context(|| format!("cannot remove {}", self.path.display())),
        }
        remove_if_empty(self.root()?)
    }

    fn root(&self) -> Result<&Path> {
        self.path.parent().context("a lab's directory has no parent")
    }

    /// Whether anything of it is there.
    pub(crate) fn exists(&self) -> bool {
        self.path.exists()
    }

    /// For an error: that there is no such lab, and what to do.
    pub(crate) fn none(&self) -> anyhow::Error {
        let others: Vec<String> = all()
            .unwrap_or_default()
            .into_iter()
            .map(|dir| dir.name)
            .filter(|name| *name != self.name)
            .collect();
        let others = match others.as_slice() {
            [] => String::new(),
            [one] => format!(", and there is one named {one:?}"),
            some => format!(", and there are those named {}", some.join(", ")),
        };
        anyhow!(
            "there is no lab named {:?}; `strait lab --name {} up` makes one{others}",
            self.name,
            self.name
        )
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn control_socket(&self) -> PathBuf {
        self.path.join("control.sock")
    }

    /// Kubeconfig of the administrator for use on the host.
    pub(crate) fn kubeconfig(&self, cluster: &str) -> PathBuf {
        self.path.join("kubeconfig").join(format!("{cluster}.yaml"))
    }

    /// Kubeconfig of a role for use inside the lab.
    pub(crate) fn inner_kubeconfig(&self, cluster: &str, role: &str) -> PathBuf {
        self.path
            .join("kubeconfig")
            .join(format!("{cluster}-{role}.yaml"))
    }

    /// Log file of a process, `CLUSTER/NODE/DAEMON`.
    pub(crate) fn log(&self, process: &str) -> PathBuf {
        self.path
            .join("logs")
            .join(format!("{}.log", process.replace('/', "_")))
    }

    /// A directory for data, by a path below `data`; made if need be.
    pub(crate) fn data(&self, path: &str) -> Result<PathBuf> {
        let mut at = self.path.join("data");
        // Not recursively from the root: what was removed is not to be made again.
        for part in path.split('/').filter(|part| !part.is_empty()) {
            at.push(part);
            match DirBuilder::new().mode(0o700).create(&at) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e).with_context(|| format!("cannot make {}", at.display())),
            }
        }
        Ok(at)
    }

    /// The process of a daemon's container, as the host numbers it; `None` where there is none.
    pub(crate) fn container(&self, process: &str) -> Result<Option<i32>> {
        if process
            .split('/')
            .any(|part| part.is_empty() || part.starts_with('.'))
        {
            return Ok(None);
        }
        let path = self.path.join("data").join(process).join("pid");
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(
                text.trim()
                    .parse()
                    .with_context(|| format!("{} is damaged", path.display()))?,
            )),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Names of the daemons' containers that live, `CLUSTER/NODE/DAEMON`, in order.
    pub(crate) fn containers(&self) -> Vec<String> {
        let below = |path: &Path| -> Vec<(String, PathBuf)> {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            entries
                .filter_map(|e| Some((e.file_name().into_string().ok()?, e.path())))
                .collect()
        };
        let mut found = Vec::new();
        for (cluster, path) in below(&self.path.join("data")) {
            for (node, path) in below(&path) {
                for (daemon, _) in below(&path) {
                    let id = format!("{cluster}/{node}/{daemon}");
                    let pid = self.container(&id).ok().flatten();
                    if pid.is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists()) {
                        found.push(id);
                    }
                }
            }
        }
        found.sort();
        found
    }

    /// Names of the processes that have a log, in order.
    pub(crate) fn logged(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path.join("logs"))
            .into_iter()
            .flatten()
            .flatten();
        let mut found: Vec<String> = entries
            .filter_map(|e| Some(e.file_name().to_str()?.strip_suffix(".log")?.replace('_', "/")))
            .collect();
        found.sort();
        found
    }

    /// lab.json, or `None` where there is none.
    pub(crate) fn read(&self) -> Result<Option<LabFile>> {
        read_json(&self.path.join("lab.json"))
    }

    /// The lab, which must be running.
    pub(crate) fn running(&self) -> Result<LabFile> {
        let file = self.read()?.ok_or_else(|| self.none())?;
        ensure!(
            file.init.alive() && file.supervisor.alive(),
            "the lab {:?} was killed; `strait lab --name {} down` removes what it left",
            self.name,
            self.name
        );
        Ok(file)
    }

    pub(crate) fn write(&self, file: &LabFile) -> Result<()> {
        write_json(&self.path.join("lab.json"), file)
    }

    /// The `lab up` at work, if any.
    pub(crate) fn maker(&self) -> Result<Option<ProcessId>> {
        read_json(&self.path.join(MAKER))
    }
}

/// Names of the labs of this user, running or not.
pub(crate) fn all() -> Result<Vec<LabDir>> {
    let root = root()?;
    let mut labs = Vec::new();
    let entries = match fs::read_dir(&root) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(labs),
        Err(e) => return Err(e).with_context(|| format!("cannot read {}", root.display())),
    };
    for entry in entries {
        if let Some(name) = entry?.file_name().to_str()
            && !name.starts_with('.')
        {
            labs.push(LabDir {
                name: name.to_owned(),
                path: root.join(name),
            });
        }
    }
    labs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(labs)
}

/// Removes what killed processes left: directories that were never finished, or half removed.
pub(crate) fn sweep(root: &Path) -> Result<()> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e).with_context(|| format!("cannot read {}", root.display())),
    };
    for entry in entries {
        let entry = entry?;
        let (name, path) = (entry.file_name(), entry.path());
        let name = name.to_string_lossy();
        let hidden = name.strip_prefix(NEW).or_else(|| name.strip_prefix(GONE));
        let dead = match hidden {
            Some(rest) => {
                let pid = rest.split('-').next().unwrap_or_default();
                !Path::new("/proc").join(pid).exists()
            }
            None => {
                let maker = read_json::<ProcessId>(&path.join(MAKER)).unwrap_or_default();
                maker.is_some_and(|m| !m.alive()) && !path.join("lab.json").exists()
            }
        };
        if dead {
            remove_all(&path)?;
        }
    }
    Ok(())
}

/// Removes the folder of all labs of this user, where the last one is gone.
pub(crate) fn leave_no_root() -> Result<()> {
    remove_if_empty(&root()?)
}

fn remove_if_empty(root: &Path) -> Result<()> {
    match fs::remove_dir(root) {
        Ok(()) => Ok(()),
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
            ) =>
        {
            Ok(())
        }
        Err(e) => Err(e).with_context(|| format!("cannot remove {}", root.display())),
    }
}

/// The folder of all labs of this user.
pub(crate) fn root() -> Result<PathBuf> {
    let me = geteuid().as_raw();
    if let Some(runtime) = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from)
        && fs::metadata(&runtime).is_ok_and(|m| m.is_dir() && m.uid() == me)
    {
        return Ok(runtime.join("strait-lab"));
    }
    Ok(PathBuf::from(format!("/tmp/strait-lab-{me}")))
}

/// Makes a directory that only this user can read, or checks that it is one: /tmp is everybody's.
fn private_dir(path: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(e).with_context(|| format!("cannot make {}", path.display())),
    }
    let found = fs::symlink_metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
    ensure!(
        found.is_dir() && found.uid() == geteuid().as_raw() && found.mode() & 0o077 == 0,
        "{} is not a directory of this user alone (mode 0700); remove it, or set XDG_RUNTIME_DIR",
        path.display()
    );
    Ok(())
}

fn fill(path: &Path, maker: &ProcessId) -> Result<()> {
    let subs = ["kubeconfig", "logs", "data"].map(|sub| path.join(sub));
    for path in std::iter::once(path).chain(subs.iter().map(PathBuf::as_path)) {
        DirBuilder::new()
            .mode(0o700)
            .create(path)
            .with_context(|| format!("cannot make {}", path.display()))?;
    }
    write_json(&path.join(MAKER), maker)
}

/// Removes a directory with all that is in it, also what appears in it meanwhile; it need not exist.
fn remove_all(path: &Path) -> Result<()> {
    let mut tries = 0;
    loop {
        tries += 1;
        match fs::remove_dir_all(path) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty && tries < TRIES => {}
            Err(e) => return Err(e).with_context(|| format!("cannot remove {}", path.display())),
        }
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs::read(path) {
        Ok(text) => Ok(Some(
            serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))?,
        )),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, serde_json::to_vec_pretty(value)?)
        .and_then(|()| fs::rename(&new, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_labs_cannot_leave_the_directory() {
        for bad in ["", "..", "a/b", "A", "x y", &"a".repeat(33)] {
            assert!(LabDir::of(bad).is_err(), "{bad:?}");
        }
        assert!(LabDir::of("my-lab-2").is_ok());
    }

    #[test]
    fn a_lab_is_there_at_once_and_what_a_kill_left_gives_way() {
        let tmp = tempfile::Builder::new()
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .tempdir()
            .unwrap();
        let at = |name: &str| LabDir::at(name, &tmp.path().join(name));
        // An empty folder, and one whose maker died before it came to anything.
        fs::create_dir(tmp.path().join("empty")).unwrap();
        let me = ProcessId::current().unwrap();
        let dead = ProcessId {
            start: me.start + 1,
            ..me
        };
        fill(&tmp.path().join("early"), &dead).unwrap();
        let unfinished = tmp.path().join(format!("{NEW}0-x"));
        fill(&unfinished, &dead).unwrap();
        for name in ["empty", "early", "new"] {
            at(name).create().unwrap();
            assert_eq!(at(name).maker().unwrap(), Some(me));
        }
        assert!(!unfinished.exists());
        let error = at("new").create().unwrap_err().to_string();
        assert!(error.contains("exists") && error.contains("down"), "{error}");
        assert_eq!(
            fs::read_dir(tmp.path()).unwrap().count(),
            3,
            "nothing else is left"
        );

        // Somebody who is alive owns it: it is not for a dying lab to remove.
        at("new").abandon(Duration::ZERO).unwrap();
        assert!(at("new").exists());
        write_json(&tmp.path().join("new").join(MAKER), &dead).unwrap();
        at("new").abandon(Duration::ZERO).unwrap();
        assert!(!at("new").exists());
        assert!(at("new").data("a/b").is_err(), "it was made again");
        at("early").remove().unwrap();
        at("early").remove().unwrap();
    }

    #[test]
    fn a_directory_that_others_can_read_is_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let open = tmp.path().join("open");
        DirBuilder::new().mode(0o755).create(&open).unwrap();
        let error = private_dir(&open).unwrap_err().to_string();
        assert!(error.contains("mode 0700"), "{error}");
        let link = tmp.path().join("link");
        std::os::unix::fs::symlink(tmp.path(), &link).unwrap();
        assert!(private_dir(&link).is_err());
        private_dir(&tmp.path().join("new")).unwrap();
        private_dir(&tmp.path().join("new")).unwrap();
    }
}
