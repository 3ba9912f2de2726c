//! The process behind an interface: its engine, its configuration socket, its end.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use strait_daemon::Shutdown;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;
use zeroize::{Zeroize as _, Zeroizing};

use super::args::WireguardArgs;
use super::background;
use super::interface::Interface;
use super::uapi::{self, BadRequest, PeerReport, Report, Request};
use crate::datapath::{Engine, EngineConfig, EngineError, PrivateKey, Refused};

/// The longest request: some 100,000 peers.
const REQUEST_MAX: usize = 64 << 20;
/// A client that is silent for longer is left.
const PATIENCE: Duration = Duration::from_secs(30);
/// Clients at a time.
const CLIENTS: usize = 32;

/// Runs an interface until it is deleted, its socket is removed, or a signal ends it.
///
/// # Errors
/// If the interface or its socket cannot be made, or the data path breaks.
pub fn run(args: WireguardArgs) -> Result<ExitCode> {
    if !args.foreground && !background::in_background() {
        return background::start();
    }
    background::detach()?;
    let mut config = EngineConfig::new(PrivateKey::generate()?);
    config.listen_port = 0;
    config.tun_name.clone_from(&args.interface);
    config.mtu = args.mtu;
    config.offload = !args.no_offload;
    config.external = true;
    config.workers = args.workers;
    let engine = Engine::start(&config)?;
    let service = Arc::new(Service {
        engine,
        interface: Mutex::default(),
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let shutdown = Shutdown::on_signals()?;
        let (listener, socket) = SocketFile::bind(&args.socket_directory, &args.interface)?;
        tracing::info!(
            interface = args.interface,
            socket = %socket.path.display(),
            port = service.engine.port(),
            "ready: configure it with wg"
        );
        background::ready()?;
        let lived = live(&args, service, shutdown, listener, socket).await;
        if let Err(error) = &lived
            && background::in_background()
        {
            // Nobody else hears of it any more.
            tracing::error!("{error:#}");
        }
        lived
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn live(
    args: &WireguardArgs,
    service: Arc<Service>,
    shutdown: Shutdown,
    listener: UnixListener,
    socket: SocketFile,
) -> Result<()> {
    let clients = Arc::new(Semaphore::new(CLIENTS));
    let news = watch(service.engine.stopped()?, &socket.path)?;
    loop {
        tokio::select! {
            () = shutdown.wait() => return Ok(()),
            client = listener.accept() => {
                let stream = match client {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        // Out of descriptors, of this process or of the machine: no reason to end the tunnels.
                        tracing::warn!(%error, "a client of the configuration socket cannot be taken: trying again in a second");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        continue;
                    }
                };
                let Ok(place) = Arc::clone(&clients).try_acquire_owned() else {
                    tracing::warn!("more than {CLIENTS} clients at the configuration socket: one was sent away");
                    continue;
                };
                let service = Arc::clone(&service);
                tokio::spawn(async move {
                    if let Err(error) = serve(stream, &service).await {
                        tracing::debug!(%error, "a client of the configuration socket was left");
                    }
                    drop(place);
                });
            }
            () = news.notified() => {
                if let Some(fault) = service.engine.fault() {
                    if service.engine.tun().mtu().is_err() {
                        tracing::info!(interface = args.interface, "the interface was deleted: stopping");
                        return Ok(());
                    }
                    bail!("interface {}: {fault}", args.interface);
                }
                if !socket.is_ours() {
                    tracing::info!(socket = %socket.path.display(), "the socket was removed: stopping");
                    return Ok(());
                }
            }
        }
    }
}

/// Tells when the data path has stopped or the socket's file may have gone. A thread of its own waits for both, so
/// that nobody has to look again and again.
fn watch(stopped: OwnedFd, path: &Path) -> Result<Arc<Notify>> {
    // A name that is taken from a file that is open changes its attributes.
    let events = WatchFlags::ATTRIB | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
    let inotify = inotify::init(CreateFlags::CLOEXEC)
        .and_then(|inotify| inotify::add_watch(&inotify, path, events).map(|_| inotify));
    if let Err(error) = &inotify {
        tracing::info!(%error, "the kernel does not tell of the socket's removal: looking every second");
    }
    let told = Arc::new(Notify::new());
    let said = Arc::clone(&told);
    let each = Timespec {
        tv_sec: 1,
        tv_nsec: 0,
    };
    std::thread::Builder::new()
        .name("strait-watch".to_owned())
        .spawn(move || {
            loop {
                said.notify_one();
                let mut fds = vec![PollFd::new(&stopped, PollFlags::IN)];
                fds.extend(inotify.iter().map(|inotify| PollFd::new(inotify, PollFlags::IN)));
                let polled = poll(&mut fds, inotify.is_err().then_some(&each));
                let [ended, changed] =
                    [0, 1].map(|at| fds.get(at).is_some_and(|fd| !fd.revents().is_empty()));
                match (polled, &inotify) {
                    (Ok(_), Ok(inotify)) if changed => {
                        // What has happened is looked at by whoever is told.
                        let _: Result<usize, Errno> = rustix::io::read(inotify, &mut [0; 4096]);
                    }
                    (Ok(_) | Err(Errno::INTR), _) => {}
                    (Err(error), _) => tracing::error!(%error, "cannot wait for the socket's removal"),
                }
                if ended || !matches!(polled, Ok(_) | Err(Errno::INTR)) {
                    return said.notify_one();
                }
            }
        })
        .context("cannot start the thread that watches the socket")?;
    Ok(told)
}

/// The socket's file; removed at the end, if it is still this one.
struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl SocketFile {
    fn bind(folder: &Path, interface: &str) -> Result<(UnixListener, Self)> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder)
            .with_context(|| format!("cannot make the folder {} for the socket", folder.display()))?;
        let path = folder.join(format!("{interface}.sock"));
        let failed = || format!("cannot open the configuration socket {}", path.display());
        if let Ok(found) = std::fs::symlink_metadata(&path) {
            if !found.file_type().is_socket() {
                bail!(
                    "{} is in the way of the configuration socket and is none itself: remove it, or choose another name",
                    path.display()
                );
            }
            if std::os::unix::net::UnixStream::connect(&path).is_ok() {
                bail!(
                    "the socket {} is served by another process: stop it, or choose another name",
                    path.display()
                );
            }
            // Left behind by one that was killed.
            std::fs::remove_file(&path).with_context(failed)?;
        }
        // Whoever can connect can read the private key.
        let before = rustix::process::umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
        let listener = UnixListener::bind(&path);
        rustix::process::umask(before);
        let listener = listener.with_context(failed)?;
        let identity = identity(&path).with_context(failed)?;
        Ok((listener, Self { path, identity }))
    }

    fn is_ours(&self) -> bool {
        identity(&self.path).is_ok_and(|found| found == self.identity)
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let found = std::fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_ours()
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(socket = %self.path.display(), %error, "the socket's file stays behind");
        }
    }
}

/// An engine and its configuration.
struct Service {
    engine: Engine,
    interface: Mutex<Interface>,
}

/// Answers one client until it goes.
async fn serve(mut stream: UnixStream, service: &Service) -> io::Result<()> {
    // Requests hold keys, so the buffer never grows by itself: a copy would be left behind.
    let mut buffer = Zeroizing::new(Vec::with_capacity(64 << 10));
    loop {
        let Some(end) = timeout(PATIENCE, read_request(&mut stream, &mut buffer)).await?? else {
            return Ok(());
        };
        let answer = service.answer(&buffer[..end]);
        timeout(PATIENCE, stream.write_all(answer.as_bytes())).await??;
        buffer[..end].zeroize();
        buffer.drain(..end);
    }
}

/// Reads until an empty line; the length up to it. None if the client is done.
async fn read_request(stream: &mut UnixStream, buffer: &mut Zeroizing<Vec<u8>>) -> io::Result<Option<usize>> {
    let mut searched = 0;
    loop {
        if let Some(found) = buffer[searched..].windows(2).position(|pair| pair == b"\n\n") {
            return Ok(Some(searched + found + 2));
        }
        searched = buffer.len().saturating_sub(1);
        if buffer.len() == buffer.capacity() {
            if buffer.len() >= REQUEST_MAX {
                return Err(io::Error::other(format!(
                    "a request of more than {REQUEST_MAX} bytes"
                )));
            }
            let mut larger = Zeroizing::new(Vec::with_capacity(buffer.capacity() * 2));
            larger.extend_from_slice(buffer);
            *buffer = larger;
        }
        if stream.read_buf(&mut **buffer).await? == 0 {
            return Ok(None);
        }
    }
}

impl Service {
    fn answer(&self, request: &[u8]) -> Zeroizing<String> {
        let scope = |name: &str| {
            let socket = rustix::net::socket(
                rustix::net::AddressFamily::INET6,
                rustix::net::SocketType::DGRAM,
                None,
            )
            .ok()?;
            rustix::net::netdevice::name_to_index(socket, name).ok()
        };
        let done = match uapi::parse(request, &scope) {
            Ok(Request::Get) => return self.report(),
            Ok(Request::Set(changes)) => self.set(changes),
            Err(error) => Err(Failure::Request(error)),
        };
        let number = match &done {
            Ok(()) => 0,
            Err(failure) => {
                tracing::warn!("configuration refused: {failure}");
                -failure.errno().raw_os_error()
            }
        };
        Zeroizing::new(format!("errno={number}\n\n"))
    }

    fn set(&self, changes: Vec<uapi::Change>) -> Result<(), Failure> {
        let mut interface = self.interface.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = interface.clone();
        let effects = next.apply(changes);
        // What can fail comes first, so that a refusal changes nothing.
        if let Some(port) = effects.listen {
            self.engine.listen(port).map_err(Failure::Listen)?;
        }
        if effects.fwmark {
            self.engine.set_fwmark(next.fwmark).map_err(Failure::Fwmark)?;
        }
        let peers = next.engine_peers();
        let refused = match (&next.private_key, effects.key) {
            (Some(key), true) => self.engine.set_private_key(key, &peers),
            _ => self.engine.set_peers(&peers),
        };
        for Refused { id, reason } in refused {
            tracing::warn!(peer = id, "left out: {reason}");
        }
        for (peer, endpoint) in effects.endpoints {
            self.engine.redirect(&peer, endpoint);
        }
        *interface = next;
        Ok(())
    }

    fn report(&self) -> Zeroizing<String> {
        let interface = self.interface.lock().unwrap_or_else(PoisonError::into_inner);
        let status = self.engine.status();
        let status: BTreeMap<_, _> = status.peers.iter().map(|peer| (peer.public_key, peer)).collect();
        let peers = interface.peers.iter().map(|(key, peer)| {
            let done = status.get(key);
            PeerReport {
                public_key: *key,
                preshared: peer.preshared.as_ref(),
                endpoint: done.and_then(|done| done.endpoint).or(peer.endpoint),
                last_handshake: done.and_then(|done| done.last_handshake).map(|last| last.at),
                tx_bytes: done.map_or(0, |done| done.tx_bytes),
                rx_bytes: done.map_or(0, |done| done.rx_bytes),
                keepalive: peer.keepalive,
                allowed: peer.allowed.iter().copied().collect(),
            }
        });
        uapi::report(&Report {
            private_key: interface.private_key.as_ref(),
            listen_port: self.engine.port(),
            fwmark: interface.fwmark,
            peers: peers.collect(),
        })
    }
}

/// Why a request was refused.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Request(BadRequest),
    #[error(transparent)]
    Listen(EngineError),
    #[error("cannot mark outgoing datagrams: {0} (it needs CAP_NET_ADMIN)")]
    Fwmark(io::Error),
}

impl Failure {
    fn errno(&self) -> Errno {
        match self {
            Failure::Request(_) => Errno::INVAL,
            Failure::Listen(EngineError::PortInUse { .. }) => Errno::ADDRINUSE,
            Failure::Listen(EngineError::Socket { source, .. }) | Failure::Fwmark(source) => {
                Errno::from_io_error(source).unwrap_or(Errno::IO)
            }
            Failure::Listen(_) => Errno::IO,
        }
    }
}
