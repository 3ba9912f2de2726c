//! One node's kernel: read what is ours, carry a plan out, take everything away.
//!
//! What is ours is known by its marks: routes and policy rules by protocol number, devices by their
//! prefix, our own nftables table, rules in foreign chains by their comment. Kernel parameters carry no
//! mark, so their first values are kept in a file.

mod apply;
mod events;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
#[cfg(test)]
mod lacking;
mod read;
mod sysctl;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use strait_core::kernel::{ActualState, KernelState, NftTable, Plan, Protocol, VipTargets, plan};

pub use apply::{Failure, Report};
pub use events::{Change, Changes};

use crate::conntrack::Conntrack;
use crate::error::{Error, Result};
use crate::link::Links;
use crate::netlink::Socket;
use crate::netns::Netns;
use sysctl::Sysctls;

/// The kernel of one node (one network namespace). Cheap to clone; one call at a time does its work.
#[derive(Clone)]
pub struct Kernel {
    inner: Arc<Inner>,
}

struct Inner {
    namespace: Netns,
    links: Links,
    nft: Mutex<Socket>,
    sysctls: Sysctls,
    /// Held for a whole reading or plan: two plans at once would trip over each other.
    turn: Mutex<()>,
}

impl Kernel {
    /// The kernel of the calling thread's network namespace. `state_dir` keeps the first values of kernel
    /// parameters; it is made where it does not exist.
    ///
    /// # Errors
    /// Where netlink or the directory cannot be opened.
    pub fn open(state_dir: &Path) -> Result<Self> {
        let namespace = Netns::current()?;
        let inner = Inner {
            links: Links::open()?,
            nft: Mutex::new(Socket::netfilter()?),
            sysctls: Sysctls::open(state_dir)?,
            turn: Mutex::new(()),
            namespace,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The kernel of another network namespace.
    ///
    /// # Errors
    /// Where the namespace cannot be entered, or as [`Kernel::open`].
    pub fn open_in(namespace: &Netns, state_dir: &Path) -> Result<Self> {
        namespace.run(|| Self::open(state_dir))?
    }

    /// Reads what is ours.
    ///
    /// # Errors
    /// Where the kernel refuses to show it.
    pub async fn read(&self) -> Result<ActualState> {
        self.off_thread(|kernel| kernel.read_now()).await?
    }

    /// Carries a plan out, change by change. A change that fails does not stop those after it; changes to
    /// nftables that follow one another succeed or fail together.
    ///
    /// # Errors
    /// Where the kernel cannot be talked to at all; refusals of single changes are in the report.
    pub async fn apply(&self, plan: &Plan) -> Result<Report> {
        let plan = plan.clone();
        self.off_thread(move |kernel| kernel.apply_now(&plan)).await?
    }

    /// Removes exactly what is ours and puts kernel parameters back to what they were. Devices of
    /// processes that still run stay: they vanish with their process.
    ///
    /// # Errors
    /// As [`Kernel::apply`].
    pub async fn uninstall(&self) -> Result<Report> {
        self.off_thread(|kernel| kernel.uninstall_now()).await?
    }

    /// Makes the kernel forget UDP connections to VIPs of `table` whose endpoint is gone, so that their next
    /// packet is balanced anew. Tells how many there were. Worth calling when VIPs or endpoints changed.
    ///
    /// # Errors
    /// Where the kernel does not show or change its connections.
    pub async fn forget_stale_flows(&self, table: &NftTable) -> Result<usize> {
        let targets = VipTargets::of(table);
        self.off_thread(move |kernel| kernel.forget_stale_now(&targets))
            .await?
    }

    fn forget_stale_now(&self, targets: &VipTargets) -> Result<usize> {
        const UDP: u8 = 17;
        let conntrack = self.inner.namespace.run(Conntrack::open)??;
        let mut forgotten = 0;
        for flow in conntrack.flows()? {
            if flow.protocol == UDP && targets.is_stale(Protocol::Udp, flow.to, flow.server) {
                conntrack.forget(&flow)?;
                forgotten += 1;
            }
        }
        Ok(forgotten)
    }

    /// Notifications that something of ours, or a chain that concerns us, was changed by others.
    ///
    /// # Errors
    /// Where the kernel refuses to notify, or there is no tokio runtime.
    pub fn subscribe(&self) -> Result<Changes> {
        let own = [self.inner.links.with(|socket| socket.port()), self.nft().port()];
        Changes::open(&self.inner.namespace, own)
    }

    /// [`Kernel::read`], for callers without a runtime.
    ///
    /// # Errors
    /// As [`Kernel::read`].
    pub fn read_now(&self) -> Result<ActualState> {
        let _turn = self.turn();
        retry_overrun(|| read::read(&self.inner))
    }

    /// [`Kernel::apply`], for callers without a runtime.
    ///
    /// # Errors
    /// As [`Kernel::apply`].
    pub fn apply_now(&self, plan: &Plan) -> Result<Report> {
        let _turn = self.turn();
        apply::apply(&self.inner, plan)
    }

    /// [`Kernel::uninstall`], for callers without a runtime.
    ///
    /// # Errors
    /// As [`Kernel::uninstall`].
    pub fn uninstall_now(&self) -> Result<Report> {
        let _turn = self.turn();
        let actual = retry_overrun(|| read::read(&self.inner))?;
        let mut report = apply::apply(&self.inner, &plan(&KernelState::default(), &actual))?;
        report
            .failed
            .extend(self.inner.sysctls.restore(&self.inner.namespace)?);
        Ok(report)
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.inner.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn nft(&self) -> MutexGuard<'_, Socket> {
        self.inner.nft.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn off_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T> {
        let kernel = self.clone();
        tokio::task::spawn_blocking(move || work(&kernel))
            .await
            .map_err(|e| Error::Protocol(format!("the thread that talks to the kernel died: {e}")))
    }
}

impl Inner {
    fn with_nft<T>(&self, work: impl FnOnce(&mut Socket) -> T) -> T {
        work(&mut self.nft.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Lost messages mean: read again from the start.
fn retry_overrun<T>(mut work: impl FnMut() -> Result<T>) -> Result<T> {
    const TRIES: usize = 5;
    for _ in 1..TRIES {
        match work() {
            Err(Error::Overrun) => {}
            done => return done,
        }
    }
    work()
}
