//! Network namespaces without names: held by a descriptor, gone when the last holder is.
//!
//! A thread's network namespace is the thread's own affair, so work inside a namespace is done on an OS
//! thread made for it. Sockets stay in the namespace in which they were opened: open them inside, then
//! use them from anywhere.
#![allow(unsafe_code)]

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::error::{Error, Result};
use crate::userns;

const CURRENT: &str = "/proc/thread-self/ns/net";

/// A network namespace, held by a descriptor.
#[derive(Debug, Clone)]
pub struct Netns {
    fd: Arc<OwnedFd>,
}

impl Netns {
    /// Makes an empty network namespace, with its loopback device up.
    ///
    /// # Errors
    /// Where the process may not make one; the message says what to enable.
    pub fn new() -> Result<Self> {
        in_thread("netns-new", || -> Result<Self> {
            // SAFETY: only this thread's network namespace changes, and the thread ends here.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
                .map_err(|e| userns::refused("make a network namespace", e.into()))?;
            let made = Self::current()?;
            crate::link::Links::open()?.set_up("lo")?;
            Ok(made)
        })?
    }

    /// The calling thread's network namespace.
    ///
    /// # Errors
    /// Where /proc is not mounted.
    pub fn current() -> Result<Self> {
        Self::open(Path::new(CURRENT))
    }

    /// A namespace by path: /run/netns/NAME or /proc/PID/ns/net.
    ///
    /// # Errors
    /// Where the path cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path)
            .map_err(|e| Error::system(format!("open the network namespace {}", path.display()), e))?;
        Ok(Self::from_fd(file.into()))
    }

    /// A namespace by its descriptor.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd: Arc::new(fd) }
    }

    /// Moves the calling thread into this namespace, for good. Only for threads of one's own.
    ///
    /// # Errors
    /// Where the process has no CAP_SYS_ADMIN over the namespace.
    pub fn enter(&self) -> Result<()> {
        move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|e| Error::system("enter a network namespace", e))
    }

    /// Runs `work` inside the namespace and waits for it: on a new thread, or right here where the calling
    /// thread is inside already. That needs no right to enter namespaces, which daemons do not have.
    ///
    /// # Errors
    /// Where the namespace cannot be entered.
    ///
    /// # Panics
    /// Where `work` does.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        if self.is_current()? {
            return Ok(work());
        }
        in_thread("netns", || self.enter().map(|()| work()))?
    }

    /// Whether the calling thread is inside.
    fn is_current(&self) -> Result<bool> {
        let here = rustix::fs::stat(CURRENT)
            .map_err(|e| Error::system("look at the thread's network namespace", e))?;
        let there =
            rustix::fs::fstat(&self.fd).map_err(|e| Error::system("look at a network namespace", e))?;
        Ok((here.st_dev, here.st_ino) == (there.st_dev, there.st_ino))
    }

    /// Starts `work` on a new thread inside the namespace.
    ///
    /// # Errors
    /// Where no thread can be started. Failure to enter is the thread's result.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<thread::JoinHandle<Result<T>>> {
        let namespace = self.clone();
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || namespace.enter().map(|()| work()))
            .map_err(|e| Error::system(format!("start the thread {name}"), e))
    }

    /// Starts a thread inside the namespace that runs the future which `work` makes, on a single-threaded
    /// tokio runtime. The future need not be `Send`: it never leaves the thread.
    ///
    /// # Errors
    /// Where no thread can be started. Failure to enter, or to start the runtime, is the thread's result.
    pub fn spawn_runtime<F>(
        &self,
        name: &str,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> Result<thread::JoinHandle<Result<F::Output>>>
    where
        F: Future<Output: Send + 'static>,
    {
        let namespace = self.clone();
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                namespace.enter()?;
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .map_err(|e| Error::system("start an asynchronous runtime", e))?;
                Ok(runtime.block_on(work()))
            })
            .map_err(|e| Error::system(format!("start the thread {name}"), e))
    }

    /// Makes `command` start inside this namespace.
    pub fn attach(&self, command: &mut Command) {
        let fd = Arc::clone(&self.fd);
        // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
        unsafe {
            command.pre_exec(move || {
                move_into_link_name_space(fd.as_fd(), Some(LinkNameSpaceType::Network))
                    .map_err(io::Error::from)
            });
        }
    }

    /// A path by which other processes of this user can open the namespace while this process lives.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd())
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn in_thread<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| {
        thread::Builder::new()
            .name(name.to_owned())
            .spawn_scoped(scope, work)
            .map_err(|e| Error::system(format!("start the thread {name}"), e))?
            .join()
            .map_err(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::Netns;
    use crate::testing::as_root;

    #[test]
    fn work_in_ones_own_namespace_stays_on_the_thread() {
        as_root(
            "netns::tests::work_in_ones_own_namespace_stays_on_the_thread",
            || {
                let here = std::thread::current().id();
                let own = Netns::current().unwrap();
                assert_eq!(own.run(|| std::thread::current().id()).unwrap(), here);
                let other = Netns::new().unwrap();
                assert_ne!(other.run(|| std::thread::current().id()).unwrap(), here);
                let inside = other
                    .run(|| Netns::current().unwrap().is_current().unwrap())
                    .unwrap();
                assert!(inside);
            },
        );
    }
}
