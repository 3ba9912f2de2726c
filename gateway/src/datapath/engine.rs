//! The engine: a TUN device, a UDP port, workers with a thread each, and a table of peers.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rustix::event::{EventfdFlags, eventfd};
use strait_linux::tun::{Tun, TunError, TunOptions};

use super::config::{
    EngineConfig, EngineStatus, MAX_MTU, MAX_WORKERS, MIN_MTU, MIN_MTU_V4, OffloadStatus, PeerConfig, Refused,
};
use super::counters::Drops;
use super::identities::Identities;
use super::key::{PrivateKey, PublicKey};
use super::registry::{Applied, Registry};
use super::table::Table;
use super::udp::Udp;
use super::{control, steering, worker};

/// How long threads may take to let go of a socket that another one replaces.
const LET_GO: Duration = Duration::from_secs(2);

/// Why an engine does not start, or has stopped by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The MTU is out of range.
    #[error("inner MTU {mtu} is out of range: use {least} to {MAX_MTU} (1420 fits a 1500 byte network)")]
    BadMtu {
        /// The MTU asked for.
        mtu: u32,
        /// The smallest that there is.
        least: u32,
    },
    /// The number of workers is out of range.
    #[error("{0} workers are out of range: use 1 to {MAX_WORKERS}, and no more than there are cores")]
    BadWorkers(usize),
    /// The TUN device.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// Somebody else listens.
    #[error(
        "UDP port {port} is in use: another gateway or WireGuard interface listens there; stop it or choose another port"
    )]
    PortInUse {
        /// The port.
        port: u16,
    },
    /// The socket, for another reason.
    #[error("cannot open UDP port {port}: {source}")]
    Socket {
        /// The port.
        port: u16,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Threads or event descriptors.
    #[error("cannot start the data path's threads: {0}")]
    Threads(io::Error),
    /// The random number source.
    #[error("cannot read random numbers: {0}")]
    Random(getrandom::Error),
}

/// Why a packet thread has ended.
#[derive(Debug)]
pub(super) struct Fault {
    text: String,
    /// The TUN device is no more.
    deleted: bool,
}

impl Fault {
    pub(super) fn new(text: String) -> Self {
        let deleted = false;
        Self { text, deleted }
    }

    pub(super) fn tun(action: &str, tun: &Tun, errno: rustix::io::Errno) -> Self {
        let deleted = errno == rustix::io::Errno::BADFD;
        let why = if deleted { " (it was deleted)" } else { "" };
        let text = format!("cannot {action} TUN device {}: {errno}{why}", tun.name());
        Self { text, deleted }
    }
}

/// What a worker's thread works on: a queue of the TUN device and a socket.
pub(super) struct Worker {
    pub(super) number: usize,
    pub(super) tun: Tun,
    pub(super) udp: ArcSwap<Udp>,
    /// Readable once there is another socket.
    pub(super) moved: OwnedFd,
}

impl Worker {
    /// Notes that the socket is looked up again.
    pub(super) fn took_move(&self) {
        let mut count = [0; 8];
        // Nothing to read is the usual case.
        let _: Result<usize, _> = rustix::io::read(&self.moved, &mut count);
    }
}

/// What the threads share.
pub(super) struct Shared {
    pub(super) identities: ArcSwap<Identities>,
    /// At least one.
    workers: Vec<Worker>,
    mtu: AtomicUsize,
    /// Whether the MTU is the TUN device's, as last read.
    follow: bool,
    pub(super) table: ArcSwap<Table>,
    pub(super) control: control::Inbox,
    pub(super) drops: Drops,
    /// Readable once the engine stops.
    pub(super) wake: OwnedFd,
    /// Whether packets for the TUN are joined. Off for good once the kernel has refused.
    pub(super) joining: AtomicBool,
    stopping: AtomicBool,
    fault: Mutex<Option<String>>,
}

impl Shared {
    pub(super) fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// The worker that handshakes and timers use.
    pub(super) fn first(&self) -> &Worker {
        &self.workers[0]
    }

    /// Ends every thread; false if they cannot be woken.
    fn stop(&self) -> bool {
        self.stopping.store(true, Ordering::Relaxed);
        self.control.stop();
        let woken = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        if let Err(errno) = woken {
            tracing::error!(error = %errno, "cannot wake the data path's threads");
        }
        woken.is_ok()
    }

    /// The inner MTU, read anew if a packet of this length shows that it has been raised.
    pub(super) fn mtu_for(&self, len: usize) -> usize {
        let known = self.mtu.load(Ordering::Relaxed);
        if len > known && self.follow {
            self.read_mtu()
        } else {
            known
        }
    }

    /// Follows the MTU of a device that somebody else configures. A raised one is also noticed with the first
    /// larger packet.
    pub(super) fn refresh_mtu(&self) {
        if self.follow {
            self.read_mtu();
        }
    }

    fn read_mtu(&self) -> usize {
        // Where the device cannot be asked, what the kernel lets through counts.
        let mtu = self.first().tun.mtu().unwrap_or(MAX_MTU).min(MAX_MTU) as usize;
        self.mtu.store(mtu, Ordering::Relaxed);
        mtu
    }
}

/// A running data path. Dropping it stops it; the TUN device then vanishes.
pub struct Engine {
    shared: Arc<Shared>,
    registry: Mutex<Registry>,
    threads: Vec<JoinHandle<()>>,
    bind: Option<IpAddr>,
    offload: bool,
}

impl Engine {
    /// Opens the TUN device and the socket in the caller's network namespace, and starts the threads.
    pub fn start(config: &EngineConfig) -> Result<Self, EngineError> {
        Self::start_on(config, Self::socket(config)?)
    }

    fn check(config: &EngineConfig) -> Result<(), EngineError> {
        let least = if config.external { MIN_MTU_V4 } else { MIN_MTU };
        if !(least..=MAX_MTU).contains(&config.mtu) {
            let mtu = config.mtu;
            Err(EngineError::BadMtu { mtu, least })
        } else if !(1..=MAX_WORKERS).contains(&config.workers) {
            Err(EngineError::BadWorkers(config.workers))
        } else {
            Ok(())
        }
    }

    /// Opens only the socket, in the caller's network namespace: the TUN device may be wanted in another.
    pub fn socket(config: &EngineConfig) -> Result<UdpSocket, EngineError> {
        Self::check(config)?;
        bind(
            config.bind,
            config.listen_port,
            config.fwmark,
            config.offload,
            config.workers,
        )
        .map(UdpSocket)
    }

    /// Opens the TUN device in the caller's network namespace, and starts the threads on this socket.
    pub fn start_on(config: &EngineConfig, socket: UdpSocket) -> Result<Self, EngineError> {
        Self::check(config)?;
        let UdpSocket(sockets) = socket;
        let options = TunOptions {
            name: config.tun_name.clone(),
            mtu: config.mtu,
            offload: config.offload,
            nonblocking: true,
        };
        let queues = Tun::open_queues(&options, sockets.len(), !config.external)?;
        if config.offload && !queues.first().is_some_and(|tun| tun.offload().tso) {
            tracing::warn!(
                device = config.tun_name,
                "the kernel refuses segmentation offload on the TUN device: going on without"
            );
        }
        let event = || {
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                .map_err(|errno| EngineError::Threads(errno.into()))
        };
        let workers = queues
            .into_iter()
            .zip(sockets)
            .enumerate()
            .map(|(number, (tun, udp))| {
                Ok(Worker {
                    number,
                    tun,
                    udp: ArcSwap::from_pointee(udp),
                    moved: event()?,
                })
            })
            .collect::<Result<Vec<_>, EngineError>>()?;
        let count = workers.len();
        let mut generation = [0];
        getrandom::fill(&mut generation).map_err(EngineError::Random)?;
        let shared = Arc::new(Shared {
            identities: ArcSwap::from_pointee(Identities::new(&config.private_key, config.key_limits, count)),
            workers,
            mtu: AtomicUsize::new(config.mtu as usize),
            follow: config.external,
            table: ArcSwap::from_pointee(Table::new(Vec::new(), count)),
            control: control::Inbox::default(),
            drops: Drops::default(),
            wake: event()?,
            joining: AtomicBool::new(true),
            stopping: AtomicBool::new(false),
            fault: Mutex::new(None),
        });
        let registry = Registry::new(count, generation[0], config.fwmark);
        let mut engine = Self {
            shared,
            registry: Mutex::new(registry),
            threads: Vec::new(),
            bind: config.bind,
            offload: config.offload,
        };
        for number in 0..count {
            let name = match count {
                1 => "strait-data".to_owned(),
                _ => format!("strait-data-{number}"),
            };
            engine.spawn(name, move |shared| worker::run(shared, &shared.workers[number]))?;
        }
        engine.spawn("strait-ctl".to_owned(), |shared| {
            control::run(shared);
            Ok(())
        })?;
        Ok(engine)
    }

    fn spawn(
        &mut self,
        name: String,
        body: impl FnOnce(&Shared) -> Result<(), Fault> + Send + 'static,
    ) -> Result<(), EngineError> {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name(name.clone()).spawn(move || {
            let report = ReportEnd {
                shared: &shared,
                name,
            };
            if let Err(fault) = body(&shared) {
                report.fault(fault);
            }
        });
        self.threads.push(thread.map_err(EngineError::Threads)?);
        Ok(())
    }

    /// The UDP port in use.
    pub fn port(&self) -> u16 {
        self.shared.first().udp.load().port().unwrap_or_default()
    }

    /// Listens on this port from now on; 0 lets the kernel choose. To be called in the network namespace
    /// where datagrams travel. What has arrived at the old port and was not read is lost; the port is free then.
    pub fn listen(&self, port: u16) -> Result<(), EngineError> {
        let registry = self.registry();
        if port != 0 && port == self.port() {
            return Ok(());
        }
        let workers = &self.shared.workers;
        let sockets = bind(self.bind, port, registry.fwmark, self.offload, workers.len())?;
        if sockets.len() < workers.len() {
            // It worked when the engine started.
            let source = io::Error::other("the kernel no longer steers datagrams to workers");
            return Err(EngineError::Socket { port, source });
        }
        let mut closing = Vec::new();
        for (worker, udp) in workers.iter().zip(sockets) {
            closing.extend(worker.udp.swap(Arc::new(udp)).closing());
            rustix::io::write(&worker.moved, &1u64.to_ne_bytes())
                .map_err(|errno| EngineError::Threads(errno.into()))?;
        }
        // Whoever comes back to the old port, or takes it over, must find it free.
        let until = Instant::now() + LET_GO;
        for closed in closing {
            let left = until.saturating_duration_since(Instant::now());
            if closed.recv_timeout(left) == Err(RecvTimeoutError::Timeout) {
                tracing::warn!("the old UDP port is still open: a thread of the data path is stuck");
            }
        }
        Ok(())
    }

    /// Marks outgoing datagrams from now on; 0 for none.
    pub fn set_fwmark(&self, fwmark: u32) -> io::Result<()> {
        let mut registry = self.registry();
        for worker in &self.shared.workers {
            worker.udp.load().set_mark(fwmark)?;
        }
        registry.fwmark = fwmark;
        Ok(())
    }

    /// Becomes the owner of this key. Every session ends; peers stay, and are met anew.
    pub fn set_private_key(&self, key: &PrivateKey, peers: &[PeerConfig]) -> Vec<Refused> {
        let mut registry = self.registry();
        let identities = &self.shared.identities;
        let limits = identities.load().lane(0).limits();
        identities.store(Arc::new(Identities::new(key, limits, self.workers())));
        self.apply(&mut registry, peers, true)
    }

    /// Sends to this address from now on, until the peer proves that it is at another. Nothing happens if
    /// there is no such peer.
    pub fn redirect(&self, peer: &PublicKey, to: SocketAddr) {
        for lane in self.shared.table.load().lanes_of(peer) {
            lane.redirect(to);
        }
    }

    /// This gateway's public key, that of its first lane.
    pub fn public_key(&self) -> PublicKey {
        self.shared.identities.load().lane(0).public()
    }

    /// The public keys of its lanes, as many as workers. Peers with several lanes, too, are to know them all;
    /// others know the first.
    pub fn public_keys(&self) -> Vec<PublicKey> {
        self.shared.identities.load().public_keys().collect()
    }

    /// The TUN device.
    pub fn tun(&self) -> &Tun {
        &self.shared.first().tun
    }

    /// How many workers there are: as many as were asked for, or one where the kernel has no way for more.
    pub fn workers(&self) -> usize {
        self.shared.workers.len()
    }

    /// Makes these the peers, all at once: no packet sees half of the change. Peers that are there already
    /// and keep id and keys keep their session. Calling it again with the same list changes nothing.
    ///
    /// The answer is which peers were left out; all others were applied.
    pub fn set_peers(&self, wanted: &[PeerConfig]) -> Vec<Refused> {
        let mut registry = self.registry();
        self.apply(&mut registry, wanted, false)
    }

    fn apply(&self, registry: &mut Registry, wanted: &[PeerConfig], anew: bool) -> Vec<Refused> {
        let Applied {
            members,
            created,
            refused,
        } = registry.apply(&self.shared.identities.load(), wanted, anew);
        self.shared
            .table
            .store(Arc::new(Table::new(members, self.workers())));
        for peer in created {
            self.shared.control.initiate(&peer);
        }
        // Keepalives and addresses may have changed, and with them what is due when.
        self.shared.control.rouse();
        refused
    }

    /// What the engine and its peers have done so far.
    pub fn status(&self) -> EngineStatus {
        let table = self.shared.table.load();
        let refused = table.peers().next().is_some() && table.peers().all(|peer| peer.batch.is_off());
        let mut peers = table.status();
        peers.sort_by(|a, b| a.id.cmp(&b.id));
        let first = self.shared.first();
        let tun = first.tun.offload();
        let offload = OffloadStatus {
            tun_tcp: tun.tso,
            tun_udp: tun.uso,
            tun_join: tun.tso && self.shared.joining.load(Ordering::Relaxed),
            udp_segmentation: first.udp.load().segmentation() && !refused,
        };
        EngineStatus {
            peers,
            drops: self.shared.drops.snapshot(),
            offload,
        }
    }

    /// Readable once the data path stops.
    pub fn stopped(&self) -> io::Result<OwnedFd> {
        self.shared.wake.try_clone()
    }

    /// Why the data path has stopped by itself, if it has. There is no way back: start another one.
    pub fn fault(&self) -> Option<String> {
        self.shared
            .fault
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Stops the threads and waits for them. The TUN device vanishes.
    pub fn stop(self) {}

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bind(
    address: Option<IpAddr>,
    port: u16,
    fwmark: u32,
    offload: bool,
    workers: usize,
) -> Result<Vec<Udp>, EngineError> {
    steering::bind(address, port, fwmark, offload, workers).map_err(|source| {
        if source.kind() == io::ErrorKind::AddrInUse {
            EngineError::PortInUse { port }
        } else {
            EngineError::Socket { port, source }
        }
    })
}

impl Drop for Engine {
    fn drop(&mut self) {
        if !self.shared.stop() {
            return;
        }
        for thread in self.threads.drain(..) {
            // A panic has been reported as a fault already.
            let _: Result<(), _> = thread.join();
        }
    }
}

/// The data path's sockets at its port, open but not in use yet.
#[derive(Debug)]
pub struct UdpSocket(Vec<Udp>);

/// Notes how a thread ended, panics included.
struct ReportEnd<'a> {
    shared: &'a Shared,
    name: String,
}

impl ReportEnd<'_> {
    fn fault(&self, fault: Fault) {
        let Fault { text, deleted } = fault;
        if deleted && self.shared.follow {
            // Whoever configures the device may delete it.
            tracing::debug!(thread = self.name, "the data path has stopped: {text}");
        } else {
            tracing::error!(thread = self.name, "the data path has stopped: {text}");
        }
        self.shared
            .fault
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(text);
        // A worker alone would leave the flows of its queue to nobody.
        self.shared.stop();
    }
}

impl Drop for ReportEnd<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.fault(Fault::new(format!("thread {} panicked", self.name)));
        }
    }
}
