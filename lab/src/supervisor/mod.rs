//! The supervisor: builds the lab, keeps it running, answers requests.

mod broker;
mod cluster;
mod dns;
mod kubelet;
mod network;
mod pods;
mod readiness;
mod requests;
mod services;
mod tunnels;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use futures::future::try_join_all;
use kube::Client;
use strait_daemon::errors::sentence;

use crate::alive::ProcessId;
use crate::dir::{LabDir, LabFile};
use crate::handover::{self, Progress};
use crate::manifests::Manifests;
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
    /// Daemons that have been ready.
    ready: AtomicUsize,
    /// The administrator's client of each cluster.
    clients: Mutex<BTreeMap<String, Client>>,
    file: Mutex<LabFile>,
    /// This program's file.
    program: OsString,
}

/// Runs the supervisor until the lab ends.
pub(crate) fn run(args: &SupervisorArgs) -> Result<()> {
    let maker = handover::from_stdin()?;
    let sockets = handover::receive_sockets(&maker)?;
    let ready = Arc::new(AtomicBool::new(false));
    end_with(
        &maker,
        LabDir::at(&args.lab, &args.dir),
        args.tethered,
        Arc::clone(&ready),
    )?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(supervise(args, &maker, sockets, &ready))
}

/// Silence after which somebody who waits is told how far it is.
const SILENCE: Duration = Duration::from_secs(2);
/// How long whoever made the lab may take to end once its connections are closed.
const LAST_BREATH: Duration = Duration::from_secs(10);

/// Ends the lab when its maker goes away before the lab is ready, or, if tethered, at any time.
fn end_with(maker: &UnixStream, dir: LabDir, tethered: bool, ready: Arc<AtomicBool>) -> Result<()> {
    let mut maker = maker.try_clone()?;
    std::thread::Builder::new()
        .name("maker".to_owned())
        .spawn(move || {
            // Nothing more is said: the read ends when the maker does.
            let ended = maker.read(&mut [0]);
            if tethered || !ready.load(Ordering::SeqCst) {
                tracing::info!("whoever started the lab is gone ({ended:?}); it ends");
                if tethered && let Err(error) = dir.abandon(LAST_BREATH) {
                    tracing::warn!("{error:#}");
                }
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
    let started = Instant::now();
    strait_daemon::client::install_crypto();
    let shape: Shape = serde_json::from_str(&args.shape).context("the lab's shape is damaged")?;
    let topology = Topology::new(&args.lab, &shape);
    let dir = LabDir::at(&args.lab, &args.dir);
    let file = first_file(args, &topology, &sockets)?;
    dir.write(&file)?;

    let last_step = Mutex::new(started);
    let step = |text: &str| {
        *last_step.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        tracing::info!("{text} ({:.2} s)", started.elapsed().as_secs_f64());
        handover::tell(maker, &Progress::Step(text.to_owned()));
    };
    let network = Network::build(&topology)?;
    step(&network_step(&topology));
    let lab = Arc::new(Lab {
        program: std::env::current_exe()
            .context("cannot find this program's file")?
            .into(),
        pods: Pods::default(),
        processes: Processes::default(),
        ready: AtomicUsize::default(),
        clients: Mutex::default(),
        file: Mutex::new(file),
        dir,
        topology,
        network,
    });
    lab.write_file(false)?;
    let requests = requests::listen(&lab)?;
    let silent = || {
        let last = *last_step.lock().unwrap_or_else(PoisonError::into_inner);
        last.elapsed()
    };
    tokio::select! {
        up = bring_up(&lab, sockets, &step) => up?,
        () = lab.tell_work(&silent, &step) => {}
    }
    ready.store(true, Ordering::SeqCst);
    lab.write_file(true)?;
    handover::tell(maker, &Progress::Ready);
    requests.await.context("the supervisor's socket failed")?
}

/// Starts everything in the network: the broker, and beside it the clusters.
async fn bring_up(lab: &Arc<Lab>, sockets: Vec<TcpListener>, step: &dyn Fn(&str)) -> Result<()> {
    let manifests = Manifests::load()?;
    let mut sockets = sockets.into_iter();
    let broker_socket = sockets
        .next()
        .context("no socket for the broker was handed over")?;
    let (broker_up, broker) = tokio::sync::watch::channel(false);
    let start_broker = async {
        lab.start_broker(broker_socket).await?;
        step("broker: stand-alone, answers");
        broker_up.send_replace(true);
        anyhow::Ok(())
    };
    let clusters = lab
        .topology
        .clusters
        .iter()
        .zip(sockets)
        .map(|(cluster, socket)| {
            let mut broker = broker.clone();
            let manifests = &manifests;
            async move {
                let name = &cluster.name;
                let client = lab.start_api_server(cluster, socket).await?;
                lab.clients().insert(name.clone(), client.clone());
                lab.seed(cluster, &client, manifests)
                    .await
                    .with_context(|| format!("cannot write the first objects of {name}"))?;
                let (names, zone) = tokio::sync::watch::channel(Arc::default());
                tokio::spawn(services::keep(
                    Arc::clone(lab),
                    name.clone(),
                    client.clone(),
                    names,
                ));
                tokio::spawn(Arc::clone(lab).follow_deletions(name.clone(), client.clone()));
                tokio::spawn(Arc::clone(lab).follow_pods(name.clone(), client.clone()));
                let nodes = cluster.nodes.iter().map(|n| n.name.clone()).collect();
                tokio::spawn(readiness::renew_leases(client.clone(), nodes));
                step(&format!("{name}: API server answers, nodes and manifests are in"));
                broker
                    .wait_for(|up| *up)
                    .await
                    .context("the broker did not come up")?;
                lab.join(cluster).await?;
                step(&format!("{name}: joined"));
                let daemons = lab.start_daemons(cluster, &client, manifests).await?;
                lab.start_dns(cluster, &client, zone)
                    .await
                    .with_context(|| format!("cannot start the DNS server of {name}"))?;
                lab.await_daemons(&client, &daemons).await?;
                step(&format!("{name}: {} daemons are ready", daemons.len()));
                let lab = Arc::clone(lab);
                let followed = daemons.clone();
                tokio::spawn(async move { lab.follow_probes(client, followed).await });
                Ok(daemons)
            }
        });
    let ((), daemons) = tokio::try_join!(start_broker, try_join_all(clusters))?;
    lab.await_tunnels(&daemons.concat(), step).await
}

fn network_step(topology: &Topology) -> String {
    let clusters: Vec<String> = topology
        .clusters
        .iter()
        .map(|c| {
            let gateways = c.nodes.iter().filter(|n| n.gateway).count();
            let nodes = match (c.nodes.len(), gateways) {
                (1, _) => "1 node, a gateway".to_owned(),
                (nodes, 1) => format!("{nodes} nodes, 1 of them a gateway"),
                (nodes, _) => format!("{nodes} nodes, {gateways} of them gateways"),
            };
            let edge = if c.edge.is_some() {
                ", a router of its own"
            } else {
                ""
            };
            format!("{} ({nodes}{edge})", c.name)
        })
        .collect();
    format!("network: {}", clusters.join(", "))
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
        mounts: BTreeMap::new(),
        host_ports,
    })
}

impl Lab {
    fn clients(&self) -> MutexGuard<'_, BTreeMap<String, Client>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where nothing has been said for a while, says how far it is, until it is dropped.
    async fn tell_work(&self, silent: &dyn Fn() -> Duration, step: &dyn Fn(&str)) {
        loop {
            match SILENCE.checked_sub(silent()) {
                Some(left) if !left.is_zero() => tokio::time::sleep(left).await,
                _ => {
                    let running = self.processes.status().len();
                    let ready = self.ready.load(Ordering::SeqCst);
                    step(&format!(
                        "at work: {running} processes run, {ready} daemons are ready"
                    ));
                }
            }
        }
    }

    /// The administrator's client of a cluster.
    fn client(&self, cluster: &str) -> Result<Client> {
        if self.topology.cluster(cluster).is_none() {
            bail!(
                "there is no cluster {cluster:?} in the lab; there are {}",
                self.topology.names().join(", ")
            );
        }
        let clients = self.clients();
        clients.get(cluster).cloned().with_context(|| {
            format!("the API server of {cluster} is not up yet; `strait lab status` shows what runs")
        })
    }

    /// The environment of a process that is to see nothing of the user's.
    fn clean_environment(&self) -> BTreeMap<String, String> {
        ["PATH", "STRAIT_LOG", "STRAIT_LOG_FORMAT", "RUST_BACKTRACE"]
            .into_iter()
            .filter_map(|key| Some((key.to_owned(), std::env::var(key).ok()?)))
            .collect()
    }

    /// An error with the end of a process's log.
    fn with_log(&self, error: anyhow::Error, process: &str) -> anyhow::Error {
        anyhow!(
            "{}{}",
            sentence(error.as_ref()),
            crate::start::tail(&self.dir, process)
        )
    }

    /// Writes lab.json with the namespaces as they are now.
    fn write_file(&self, ready: bool) -> Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.ready |= ready;
        let pods = self.pods.namespaces();
        file.namespaces =
            crate::wires::paths(file.supervisor.pid, self.network.namespaces().chain(pods.iter()));
        file.mounts = crate::wires::paths(file.supervisor.pid, &self.pods.mounts());
        self.dir.write(&file)
    }
}
