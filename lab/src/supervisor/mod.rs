//! The supervisor: builds the lab, keeps it running, answers requests.

mod network;
mod pods;
mod requests;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};

use crate::alive::ProcessId;
use crate::dir::{LabDir, LabFile};
use crate::handover::{self, Progress};
use crate::processes::Processes;
use crate::sandbox::SupervisorArgs;
use crate::topology::{Shape, Topology};
use network::Network;
use pods::Pods;

/// Everything in a running lab.
pub(crate) struct Lab {
    dir: LabDir,
    topology: Topology,
    network: Network,
    pods: Pods,
    processes: Processes,
    file: Mutex<LabFile>,
}

/// Runs the supervisor until the lab ends.
pub(crate) fn run(args: &SupervisorArgs) -> Result<()> {
    let maker = handover::from_stdin()?;
    let sockets = handover::receive_sockets(&maker)?;
    let ready = Arc::new(AtomicBool::new(false));
    end_with(&maker, args.tethered, Arc::clone(&ready))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(supervise(args, &maker, sockets, &ready))
}

/// Ends the lab when its maker goes away before the lab is ready, or, if tethered, at any time.
fn end_with(maker: &UnixStream, tethered: bool, ready: Arc<AtomicBool>) -> Result<()> {
    let mut maker = maker.try_clone()?;
    std::thread::Builder::new()
        .name("maker".to_owned())
        .spawn(move || {
            // Nothing more is said: the read ends when the maker does.
            let ended = maker.read(&mut [0]);
            if tethered || !ready.load(Ordering::SeqCst) {
                tracing::info!("whoever started the lab is gone ({ended:?}); it ends");
                std::process::exit(0);
            }
        })?;
    Ok(())
}

async fn supervise(
    args: &SupervisorArgs,
    maker: &UnixStream,
    sockets: Vec<TcpListener>,
    ready: &AtomicBool,
) -> Result<()> {
    let step = |text: String| handover::tell(maker, &Progress::Step(text));
    let shape: Shape = serde_json::from_str(&args.shape).context("the lab's shape is damaged")?;
    let topology = Topology::new(&args.lab, &shape);
    let dir = LabDir::of(&args.lab)?;
    let file = first_file(args, &topology, &sockets)?;
    dir.write(&file)?;

    step(format!(
        "wires: {} clusters of {} nodes",
        shape.clusters, shape.nodes
    ));
    let network = Network::build(&topology)?;
    let lab = Arc::new(Lab {
        pods: Pods::default(),
        processes: Processes::default(),
        file: Mutex::new(file),
        dir,
        topology,
        network,
    });
    lab.write_file(false)?;
    let requests = requests::listen(&lab)?;
    ready.store(true, Ordering::SeqCst);
    lab.write_file(true)?;
    handover::tell(maker, &Progress::Ready);
    requests.await.context("the supervisor's socket failed")?
}

fn first_file(args: &SupervisorArgs, topology: &Topology, sockets: &[TcpListener]) -> Result<LabFile> {
    let init = args
        .init
        .as_deref()
        .context("the lab's first process is not named")?;
    let names = std::iter::once("broker").chain(topology.clusters.iter().map(|c| c.name.as_str()));
    let mut host_ports = BTreeMap::new();
    for (name, socket) in names.zip(sockets) {
        host_ports.insert(name.to_owned(), socket.local_addr()?.port());
    }
    Ok(LabFile {
        init: serde_json::from_str(init)?,
        supervisor: ProcessId::current()?,
        rootless: args.rootless,
        topology: topology.clone(),
        ready: false,
        namespaces: BTreeMap::new(),
        host_ports,
    })
}

impl Lab {
    /// Writes lab.json with the namespaces as they are now.
    fn write_file(&self, ready: bool) -> Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.ready |= ready;
        let pods = self.pods.namespaces();
        file.namespaces =
            crate::wires::paths(file.supervisor.pid, self.network.namespaces().chain(pods.iter()));
        self.dir.write(&file)
    }
}
