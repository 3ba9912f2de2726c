//! Two network namespaces with a wire between them, and a WireGuard process in each.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use strait_gateway::datapath::{Engine, EngineConfig, PeerConfig, PrivateKey};
use strait_linux::link::{Links, VethEnd};
use strait_linux::mounts::{Cover, Mounts};
use strait_linux::netns::Netns;
use strait_linux::testing::{PATIENCE, until, waits};

/// Bytes of a stream: several times what all buffers hold.
const STREAM: usize = 16 << 20;

pub(crate) fn installed(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A private key, in hexadecimal.
pub(crate) fn key(number: u8) -> String {
    hex(&[number; 32])
}

/// The public key of [`key`], as `wg` and the log show it.
pub(crate) fn shown(number: u8) -> String {
    PrivateKey::from_bytes([number; 32]).public().to_string()
}

/// The public key of [`key`].
pub(crate) fn public(number: u8) -> String {
    hex(&PrivateKey::from_bytes([number; 32]).public().0)
}

/// What runs an interface.
#[derive(Clone, Copy)]
pub(crate) enum Driver {
    Strait,
    Other(&'static str),
}

/// The wire, with its two ends.
pub(crate) struct Bed {
    ends: [Netns; 2],
    /// With a `/run` of their own.
    mounts: Mounts,
}

impl Bed {
    pub(crate) fn new() -> Self {
        let ends = [Netns::new().unwrap(), Netns::new().unwrap()];
        let end = |number: usize| VethEnd {
            name: "wire",
            namespace: Some(&ends[number]),
            ..VethEnd::default()
        };
        Links::open().unwrap().add_veth(&end(0), &end(1)).unwrap();
        for (number, namespace) in (1..).zip(&ends) {
            let links = Links::open_in(namespace).unwrap();
            links.set_up("lo").unwrap();
            links.set_up("wire").unwrap();
            let address = format!("192.0.2.{number}/24").parse().unwrap();
            links.add_address("wire", address).unwrap();
        }
        let mounts = Mounts::covered(&[Cover::Empty("/run".into())]).unwrap();
        Self { ends, mounts }
    }

    /// The program under test, at an end of the wire.
    pub(crate) fn bare(&self, number: usize) -> Command {
        self.at(number, Command::new(env!("CARGO_BIN_EXE_strait")))
    }

    fn at(&self, number: usize, mut command: Command) -> Command {
        self.ends[number - 1].attach(&mut command);
        self.mounts.attach(&mut command);
        command.env("LOG_LEVEL", "error");
        command
    }

    /// The command that makes an interface.
    pub(crate) fn command(
        &self,
        number: usize,
        driver: Driver,
        interface: &str,
        foreground: bool,
    ) -> Command {
        let foreground = foreground.then_some("-f");
        match driver {
            Driver::Strait => {
                let mut command = self.bare(number);
                command
                    .args(["--log", "warn", "wireguard"])
                    .args(foreground)
                    .arg(interface);
                command
            }
            Driver::Other(program) => {
                let mut command = self.at(number, Command::new(program));
                command.args(foreground);
                if program.starts_with("boringtun") {
                    command.arg("--disable-drop-privileges");
                }
                command.arg(interface);
                command
            }
        }
    }

    /// An interface at an end of the wire, up, with addresses, its socket ready.
    pub(crate) fn side(&self, number: usize, driver: Driver) -> Side {
        self.start(number, self.command(number, driver, &format!("wg{number}"), true))
    }

    /// The program under test, with a log that tells more.
    pub(crate) fn logged_side(&self, number: usize, log: &Path) -> Side {
        let mut command = self.bare(number);
        command.args(["--log", "info", "--log-file"]).arg(log).args([
            "wireguard",
            "-f",
            &format!("wg{number}"),
        ]);
        self.start(number, command)
    }

    fn start(&self, number: usize, mut command: Command) -> Side {
        let name = format!("wg{number}");
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let side = Side {
            number,
            namespace: self.ends[number - 1].clone(),
            process: child.id(),
            child: Some(child),
            name,
        };
        until("the interface and its socket stand", || {
            side.has_interface() && UnixStream::connect(side.socket()).is_ok()
        });
        let links = Links::open_in(&side.namespace).unwrap();
        links.set_up(&side.name).unwrap();
        for address in [format!("10.98.0.{number}/24"), format!("fd98::{number}/64")] {
            links.add_address(&side.name, address.parse().unwrap()).unwrap();
        }
        side
    }

    /// An interface that was started in the background.
    pub(crate) fn adopt(&self, number: usize, name: &str) -> Side {
        let process = std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok())
            .find(|process| {
                let line = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
                let mut words = line.split(|&byte| byte == 0);
                words.next() == Some(env!("CARGO_BIN_EXE_strait").as_bytes())
                    && words.any(|word| word == name.as_bytes())
            });
        Side {
            number,
            namespace: self.ends[number - 1].clone(),
            process: process.expect("the process in the background"),
            child: None,
            name: name.to_owned(),
        }
    }

    /// Takes a UDP port at an end of the wire.
    pub(crate) fn take_port(&self, number: usize, port: u16) -> UdpSocket {
        self.ends[number - 1]
            .run(|| UdpSocket::bind(("::", port)).unwrap())
            .unwrap()
    }
}

/// One end: a process and its interface. The process ends with it.
pub(crate) struct Side {
    number: usize,
    namespace: Netns,
    process: u32,
    child: Option<Child>,
    name: String,
}

impl Side {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where this side is on the wire.
    pub(crate) fn underlay(&self, port: u16) -> String {
        format!("192.0.2.{}:{port}", self.number)
    }

    /// The configuration socket, as this process can reach it.
    pub(crate) fn socket(&self) -> PathBuf {
        let root = Path::new("/proc").join(self.process.to_string()).join("root");
        root.join("run/wireguard").join(format!("{}.sock", self.name))
    }

    /// How many descriptors the process has open.
    pub(crate) fn descriptors(&self) -> u64 {
        std::fs::read_dir(format!("/proc/{}/fd", self.process))
            .unwrap()
            .count() as u64
    }

    /// Sets how many descriptors the process may have open; how many it could.
    pub(crate) fn limit_descriptors(&self, most: u64) -> u64 {
        let process = rustix::process::Pid::from_raw(self.process.cast_signed());
        let now = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let limit = rustix::process::Rlimit {
            current: Some(most),
            maximum: now.maximum,
        };
        let before = rustix::process::prlimit(process, rustix::process::Resource::Nofile, limit).unwrap();
        before.current.unwrap_or(u64::MAX)
    }

    pub(crate) fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// The answer to a request.
    pub(crate) fn ask(&self, request: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
        while !answer.ends_with(b"\n\n") {
            let len = stream.read(&mut buffer).unwrap();
            assert!(
                len > 0,
                "the answer ends early: {}",
                String::from_utf8_lossy(&answer)
            );
            answer.extend_from_slice(&buffer[..len]);
        }
        String::from_utf8(answer).unwrap()
    }

    pub(crate) fn set(&self, lines: &str) {
        assert_eq!(self.ask(&format!("set=1\n{lines}\n")), "errno=0\n\n", "{lines}");
    }

    /// Gives it its key and port, and the other side for its only peer; where that is, if this side `begins`.
    pub(crate) fn meet(&self, other: &Side, begins: bool) {
        let (own, far) = (self.number, other.number);
        let port = |number: usize| 5000 + number as u16;
        let endpoint = match begins {
            true => format!("endpoint={}\n", other.underlay(port(far))),
            false => String::new(),
        };
        self.set(&format!(
            "private_key={}\nlisten_port={}\npublic_key={}\n{endpoint}allowed_ip=10.98.0.{far}/32\nallowed_ip=fd98::{far}/128\n",
            key(own as u8),
            port(own),
            public(far as u8),
        ));
    }

    pub(crate) fn get(&self) -> String {
        self.ask("get=1\n\n")
    }

    pub(crate) fn values(&self, key: &str) -> Vec<String> {
        self.get()
            .lines()
            .filter_map(|line| Some(line.strip_prefix(key)?.strip_prefix('=')?.to_owned()))
            .collect()
    }

    /// The value of a key that stands once.
    pub(crate) fn value(&self, key: &str) -> String {
        let values = self.values(key);
        assert_eq!(values.len(), 1, "{key}: {}", self.get());
        values.into_iter().next().unwrap()
    }

    pub(crate) fn set_mtu(&self, mtu: u32) {
        Links::open_in(&self.namespace)
            .unwrap()
            .set_mtu(&self.name, mtu)
            .unwrap();
    }

    pub(crate) fn has_interface(&self) -> bool {
        let links = Links::open_in(&self.namespace).unwrap();
        links.find(&self.name).unwrap().is_some()
    }

    pub(crate) fn delete_interface(&self) {
        Links::open_in(&self.namespace)
            .unwrap()
            .remove(&self.name)
            .unwrap();
    }

    pub(crate) fn alive(&self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/stat", self.process)).unwrap_or_default();
        !status.is_empty() && !status.contains(") Z ")
    }

    pub(crate) fn terminate(&self) {
        signal(self.process, rustix::process::Signal::TERM);
    }

    pub(crate) fn kill(&self) {
        signal(self.process, rustix::process::Signal::KILL);
    }

    pub(crate) fn exit(&mut self) -> ExitStatus {
        self.child.take().expect("a process of ours").wait().unwrap()
    }

    pub(crate) fn delete_peers(&self) {
        self.set("replace_peers=true\n");
    }

    /// How often its threads have waited.
    pub(crate) fn waits(&self) -> u64 {
        waits(self.process, None)
    }

    pub(crate) fn add_address(&self, address: &str) {
        Links::open_in(&self.namespace)
            .unwrap()
            .add_address(&self.name, address.parse().unwrap())
            .unwrap();
    }

    /// A figure of its process's memory, in KiB.
    pub(crate) fn memory(&self, what: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
        let number = line.trim_start_matches(':').trim_end_matches("kB");
        number.trim().parse().unwrap()
    }

    /// Sends back what comes to a socket inside, as long as `work` takes.
    pub(crate) fn echo(&self, work: impl FnOnce(SocketAddr)) {
        let (socket, done) = (self.udp(), AtomicBool::new(false));
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut buffer = [0; 2000];
                while !done.load(Ordering::SeqCst) {
                    if let Ok((len, from)) = socket.recv_from(&mut buffer) {
                        // What is lost is asked for again.
                        let _: Result<usize, _> = socket.send_to(&buffer[..len], from);
                    }
                }
            });
            // Also where the work fails, or the thread would never end.
            let worked = std::panic::catch_unwind(AssertUnwindSafe(|| work(socket.local_addr().unwrap())));
            done.store(true, Ordering::SeqCst);
            if let Err(panic) = worked {
                std::panic::resume_unwind(panic);
            }
        });
    }

    fn address(&self) -> IpAddr {
        Ipv4Addr::new(10, 98, 0, self.number as u8).into()
    }

    fn udp(&self) -> UdpSocket {
        let address = self.address();
        let socket = self
            .namespace
            .run(move || UdpSocket::bind((address, 0)).unwrap())
            .unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    /// Sends a packet from an address that it has, which may come to nothing.
    pub(crate) fn try_from(&self, source: &str, to: &Side) {
        let (source, target): (IpAddr, _) = (source.parse().unwrap(), SocketAddr::new(to.address(), 9));
        self.namespace
            .run(move || {
                let socket = UdpSocket::bind((source, 0)).unwrap();
                let _: Result<usize, _> = socket.send_to(b"anybody there?", target);
            })
            .unwrap();
    }

    /// Sends a packet that must not arrive: others take a few hundredths of this time.
    pub(crate) fn lost(&self, to: &Side, payload: &[u8]) {
        let (from, at) = (self.udp(), to.udp());
        at.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        // The kernel may say that there is no way; so much the better.
        let _: Result<usize, _> = from.send_to(payload, at.local_addr().unwrap());
        let mut buffer = [0; 64];
        let arrived = at.recv_from(&mut buffer);
        assert!(arrived.is_err(), "{} arrived", String::from_utf8_lossy(payload));
    }
}

/// One of many peers of the first side, at the second side's end of the wire.
pub(crate) struct FarPeer {
    key: PrivateKey,
    pub(crate) address: Ipv4Addr,
}

impl FarPeer {
    pub(crate) fn new(number: u16) -> Self {
        let [high, low] = number.to_be_bytes();
        let mut key = [99; 32];
        // Some bits of the first byte and the last are not the key's own.
        key[1..3].copy_from_slice(&[high, low]);
        Self {
            key: PrivateKey::from_bytes(key),
            address: Ipv4Addr::new(10, 99, high, low),
        }
    }

    pub(crate) fn public(&self) -> String {
        hex(&self.key.public().0)
    }

    /// Runs it in this process.
    pub(crate) fn start(self, bed: &Bed, endpoint: &str) -> BusyPeer {
        let config = EngineConfig {
            listen_port: 0,
            ..EngineConfig::new(self.key)
        };
        let socket = bed.ends[1].run(|| Engine::socket(&config).unwrap()).unwrap();
        let (own, address) = (Netns::new().unwrap(), self.address);
        let (engine, inner) = own
            .run(move || {
                let engine = Engine::start_on(&config, socket).unwrap();
                engine
                    .tun()
                    .add_address(IpNet::new(address.into(), 8).unwrap())
                    .unwrap();
                (engine, UdpSocket::bind((address, 0)).unwrap())
            })
            .unwrap();
        let refused = engine.set_peers(&[PeerConfig {
            candidates: vec![endpoint.parse().unwrap()],
            allowed: vec!["10.98.0.1/32".parse().unwrap()],
            ..PeerConfig::new("hub", PrivateKey::from_bytes([1; 32]).public())
        }]);
        assert_eq!(refused, []);
        BusyPeer {
            inner,
            _engine: engine,
            _own: own,
        }
    }
}

/// A peer that runs.
pub(crate) struct BusyPeer {
    inner: UdpSocket,
    _engine: Engine,
    _own: Netns,
}

impl BusyPeer {
    pub(crate) fn send(&self, to: SocketAddr, payload: &[u8]) {
        self.inner.send_to(payload, to).unwrap();
    }

    /// Sends until it comes back.
    pub(crate) fn exchange(&self, to: SocketAddr, payload: &[u8]) {
        self.inner
            .set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        let (mut buffer, start) = ([0; 2000], Instant::now());
        let mut back = false;
        while !back {
            assert!(start.elapsed() < PATIENCE, "no answer");
            self.send(to, payload);
            // What was sent before comes back, too.
            while let Ok(len) = self.inner.recv(&mut buffer) {
                if buffer[..len] == *payload {
                    back = true;
                    break;
                }
            }
        }
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        if self.alive() {
            self.kill();
        }
        if let Some(child) = &mut self.child {
            // It has been killed.
            let _: Result<_, _> = child.wait();
        }
    }
}

fn signal(process: u32, signal: rustix::process::Signal) {
    let process = rustix::process::Pid::from_raw(process.cast_signed()).unwrap();
    rustix::process::kill_process(process, signal).unwrap();
}

/// Sends a packet until it has arrived, and looks at what arrived.
pub(crate) fn exchange(from: &Side, to: &Side, payload: &[u8]) {
    let (sender, receiver) = (from.udp(), to.udp());
    receiver
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let mut buffer = [0; 8192];
    let start = Instant::now();
    loop {
        assert!(
            start.elapsed() < PATIENCE,
            "{} bytes from {} to {} did not arrive",
            payload.len(),
            from.name,
            to.name
        );
        // Refused while the far interface has just changed.
        let _: Result<usize, _> = sender.send_to(payload, receiver.local_addr().unwrap());
        if let Ok((len, source)) = receiver.recv_from(&mut buffer) {
            assert_eq!((&buffer[..len], source), (payload, sender.local_addr().unwrap()));
            return;
        }
    }
}

/// Sends a stream of bytes and looks at every one.
pub(crate) fn stream(from: &Side, to: &Side) {
    let pattern = |at: usize| (at % 251) as u8;
    let address = to.address();
    let listener = to
        .namespace
        .run(move || TcpListener::bind((address, 0)).unwrap())
        .unwrap();
    let target: SocketAddr = listener.local_addr().unwrap();
    std::thread::scope(|scope| {
        let received = scope.spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut bytes = Vec::with_capacity(STREAM);
            stream.read_to_end(&mut bytes).unwrap();
            bytes
        });
        let mut stream = from
            .namespace
            .run(move || TcpStream::connect_timeout(&target, PATIENCE).unwrap())
            .unwrap();
        let bytes: Vec<u8> = (0..STREAM).map(pattern).collect();
        stream.write_all(&bytes).unwrap();
        drop(stream);
        let received = received.join().unwrap();
        assert_eq!(received.len(), STREAM);
        assert!(received == bytes, "the bytes that arrived are others");
    });
}
