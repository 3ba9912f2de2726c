//! Two network namespaces with a wire between them, and an implementation at each end.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::de::DeserializeOwned;
use strait_gateway::datapath::PrivateKey;
use strait_linux::link::{Links, VethEnd, set_features};
use strait_linux::netns::Netns;

use crate::onecore::OneCore;
use crate::peers::Driver;

const PATIENCE: Duration = Duration::from_secs(20);
/// MTU of the tunnel: what `wg-quick` takes on Ethernet.
const MTU: u32 = 1420;
/// Where the driver listens.
const PORT: u16 = 51820;
/// Where loads are taken.
const LOADS: u16 = 5201;

/// What the wire does for packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offload {
    /// A veth pair as it comes: super packets cross it whole, as on a NIC with TSO and USO and the same at the
    /// other end.
    On,
    /// A NIC that joins what it receives, but cuts nothing.
    Nic,
    /// One packet at a time.
    Off,
}

impl Offload {
    pub(crate) const ALL: [Self; 3] = [Self::On, Self::Nic, Self::Off];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Nic => "nic",
            Self::Off => "off",
        }
    }

    fn features(self) -> Vec<(&'static str, bool)> {
        let cutting = [
            "tx-tcp-segmentation",
            "tx-tcp-ecn-segmentation",
            "tx-tcp-mangleid-segmentation",
            "tx-tcp6-segmentation",
            "tx-udp-segmentation",
        ];
        let cutting = cutting.map(|name| (name, false));
        match self {
            Self::On => Vec::new(),
            Self::Nic => cutting
                .into_iter()
                .chain([("rx-gro", true), ("rx-udp-gro-forwarding", false)])
                .collect(),
            Self::Off => cutting
                .into_iter()
                .chain([("tx-generic-segmentation", false), ("rx-gro", false)])
                .collect(),
        }
    }
}

/// A process that is ended with its value.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Either may fail only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The wire, an implementation at each end, and somebody who takes loads at the far one.
pub(crate) struct Bed {
    ends: [Netns; 2],
    drivers: Vec<Process>,
    _server: Process,
    /// The far end, through the tunnel.
    target: IpAddr,
}

impl Bed {
    pub(crate) fn new(driver: &Driver, offload: Offload) -> Result<Self> {
        let ends = [Netns::new()?, Netns::new()?];
        let end = |number: usize| VethEnd {
            name: "wire",
            namespace: Some(&ends[number]),
            ..VethEnd::default()
        };
        Links::open()?.add_veth(&end(0), &end(1))?;
        for (number, namespace) in ends.iter().enumerate() {
            let links = Links::open_in(namespace)?;
            links.add_address("wire", format!("{}/24", outer(number)).parse()?)?;
            namespace.run(|| set_features("wire", &offload.features()))??;
            links.set_up("wire")?;
        }
        let bare = driver.command.is_empty();
        let mut drivers = Vec::new();
        for (number, namespace) in ends.iter().enumerate().filter(|_| !bare) {
            let started = start(driver, number, namespace);
            drivers.push(started.with_context(|| format!("cannot start {}", driver.name))?);
        }
        let target = if bare { outer(1) } else { inner(1) };
        let mut server = tool(&ends[1]);
        server.args(["take-loads", "--port", &LOADS.to_string()]);
        server.stdout(Stdio::null()).stderr(Stdio::null());
        let bed = Self {
            drivers,
            _server: Process(server.spawn()?),
            target,
            ends,
        };
        // The first packet makes the handshake.
        until("the far end answers through the tunnel", || {
            let connect = || TcpStream::connect_timeout(&bed.server(), Duration::from_secs(1));
            Ok(bed.ends[0].run(connect)?.map(drop)?)
        })?;
        Ok(bed)
    }

    /// Where loads go.
    pub(crate) fn server(&self) -> SocketAddr {
        SocketAddr::new(self.target, LOADS)
    }

    pub(crate) fn target(&self) -> IpAddr {
        self.target
    }

    /// One of our tools at the near end, at work.
    pub(crate) fn tool(&self, arguments: &[String]) -> Result<Child> {
        let mut command = tool(&self.ends[0]);
        command
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().context("cannot start a tool")
    }

    /// CPU seconds that the implementation at both ends has taken.
    pub(crate) fn cpu(&self) -> Result<f64> {
        let each = self.drivers.iter().map(|driver| cpu(driver.0.id()));
        each.sum()
    }

    /// Both implementations on one core, with what is started meanwhile.
    pub(crate) fn on_one_core(&self) -> Result<OneCore> {
        OneCore::new(self.drivers.iter().map(|driver| driver.0.id()))
    }

    /// MiB resident of one end: now, and at most.
    pub(crate) fn memory(&self) -> Result<Option<[f64; 2]>> {
        let mut sums = [0.0; 2];
        for driver in &self.drivers {
            let status = std::fs::read_to_string(format!("/proc/{}/status", driver.0.id()))?;
            for (sum, key) in sums.iter_mut().zip(["VmRSS:", "VmHWM:"]) {
                let line = status.lines().find_map(|line| line.strip_prefix(key));
                let kib = line
                    .and_then(|line| line.split_whitespace().next())
                    .context("no memory")?;
                *sum += kib.parse::<f64>()? / 1024.0;
            }
        }
        let ends = self.drivers.len();
        Ok((ends > 0).then(|| sums.map(|sum| sum / ends as f64)))
    }
}

/// What a tool said, once it has ended.
pub(crate) fn finish<T: DeserializeOwned>(tool: Child) -> Result<T> {
    let output = tool.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", said.trim());
    serde_json::from_slice(&output.stdout).context("a tool said something else")
}

fn outer(number: usize) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, 1 + number as u8).into()
}

fn inner(number: usize) -> IpAddr {
    Ipv4Addr::new(10, 98, 0, 1 + number as u8).into()
}

fn tool(namespace: &Netns) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strait"));
    namespace.attach(&mut command);
    command.arg("lab-tool").stdin(Stdio::null());
    command
}

fn start(driver: &Driver, number: usize, namespace: &Netns) -> Result<Process> {
    let name = format!("bench{number}");
    let socket = PathBuf::from(format!("/run/wireguard/{name}.sock"));
    let log = PathBuf::from(format!("/run/{name}.log"));
    // A killed one leaves it behind.
    let _ = std::fs::remove_file(&socket);
    let [program, arguments @ ..] = driver.command.as_slice() else {
        bail!("{} has no program", driver.name);
    };
    let mut command = Command::new(program);
    namespace.attach(&mut command);
    command
        .args(arguments.iter().map(|word| word.replace("{IF}", &name)))
        .env("LOG_LEVEL", "error")
        .env("STRAIT_LOG", "warn")
        .env("WG_PROCESS_FOREGROUND", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log)?);
    let mut process = Process(command.spawn().with_context(|| format!("cannot run {program}"))?);
    let links = Links::open_in(namespace)?;
    let said = || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.trim().lines().last().unwrap_or("it says nothing").to_owned()
    };
    let ended = until("the interface and its socket", || {
        if let Some(status) = process.0.try_wait()? {
            return Ok(Some(status));
        }
        ensure!(links.find(&name)?.is_some() && socket.exists(), "{}", said());
        Ok(None)
    })?;
    if let Some(status) = ended {
        bail!("it ended ({status}): {}", said());
    }
    let key = |number: usize| PrivateKey::from_bytes([1 + number as u8; 32]);
    let hex = |bytes: [u8; 32]| bytes.map(|byte| format!("{byte:02x}")).concat();
    let far = 1 - number;
    configure(
        &socket,
        &format!(
            "set=1\nprivate_key={}\nlisten_port={PORT}\npublic_key={}\nendpoint={}:{PORT}\nallowed_ip={}/32\n\n",
            hex([1 + number as u8; 32]),
            hex(key(far).public().0),
            outer(far),
            inner(far),
        ),
    )?;
    links.add_address(&name, format!("{}/24", inner(number)).parse()?)?;
    links.set_mtu(&name, MTU)?;
    links.set_up(&name)?;
    Ok(process)
}

fn configure(socket: &Path, request: &str) -> Result<()> {
    // The file appears a moment before anybody listens.
    let mut stream = until("the configuration socket", || Ok(UnixStream::connect(socket)?))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 256]);
    while !answer.ends_with(b"\n\n") {
        let len = stream.read(&mut buffer)?;
        ensure!(len > 0, "the configuration socket closed");
        answer.extend_from_slice(&buffer[..len]);
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    ensure!(
        answer.contains("errno=0\n"),
        "the configuration was refused: {}",
        answer.trim()
    );
    Ok(())
}

/// Asks until it works.
fn until<T>(what: &str, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    loop {
        match ask() {
            Err(_) if started.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(10)),
            done => return done.with_context(|| format!("not within {PATIENCE:?}: {what}")),
        }
    }
}

/// CPU seconds of a process: its threads' time on a CPU.
fn cpu(process: u32) -> Result<f64> {
    let mut nanoseconds = 0.0;
    let folder = format!("/proc/{process}/task");
    for thread in std::fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))? {
        let path = thread?.path().join("schedstat");
        // A thread may have ended since.
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let first = text.split_whitespace().next().unwrap_or("0");
        nanoseconds += first.parse::<f64>()?;
    }
    Ok(nanoseconds / 1e9)
}
