//! Requests to a lab's supervisor: one JSON object a line over a socket in the state directory.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;

use anyhow::{Context as _, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use crate::dir::LabDir;
use crate::processes::ProcessStatus;
use crate::topology::Topology;

/// What can be asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// How the lab is.
    Status,
    /// Start a pod.
    RunPod(PodRequest),
    /// Send a signal to a process.
    Kill {
        /// `CLUSTER/NODE/DAEMON` or `CLUSTER/POD`.
        process: String,
        /// The signal's number.
        signal: i32,
    },
}

/// A pod to start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PodRequest {
    pub(crate) cluster: String,
    pub(crate) node: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    /// Ports it listens on (TCP); it is ready once all answer.
    pub(crate) ports: Vec<u16>,
    /// Program and arguments; none for a pod that only waits.
    pub(crate) argv: Vec<String>,
}

/// What is answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Response {
    /// To [`Request::Status`].
    Status(Box<LabStatus>),
    /// To [`Request::RunPod`].
    Pod(StartedPod),
    /// To [`Request::Kill`].
    Done,
    /// To anything.
    Error(String),
}

/// A pod that was started.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StartedPod {
    pub(crate) addresses: Vec<IpAddr>,
    /// Something that whoever started it will want to know.
    pub(crate) note: Option<String>,
}

/// How a lab is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LabStatus {
    pub(crate) topology: Topology,
    pub(crate) processes: Vec<ProcessStatus>,
    pub(crate) pods: Vec<PodStatus>,
    /// Packets for pod ranges that reached the router in clear text.
    pub(crate) leaks: Vec<(IpAddr, IpAddr, u64)>,
}

/// How a pod is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PodStatus {
    pub(crate) cluster: String,
    pub(crate) node: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) addresses: Vec<IpAddr>,
}

/// How a lab is.
pub(crate) fn status(dir: &LabDir) -> Result<LabStatus> {
    match ask(dir, &Request::Status)? {
        Response::Status(status) => Ok(*status),
        _ => Err(strange()),
    }
}

/// Starts a pod and waits until it is ready.
pub(crate) fn run_pod(dir: &LabDir, pod: PodRequest) -> Result<StartedPod> {
    match ask(dir, &Request::RunPod(pod))? {
        Response::Pod(started) => Ok(started),
        _ => Err(strange()),
    }
}

/// Sends a signal, by its number, to a process.
pub(crate) fn kill(dir: &LabDir, process: String, signal: i32) -> Result<()> {
    match ask(dir, &Request::Kill { process, signal })? {
        Response::Done => Ok(()),
        _ => Err(strange()),
    }
}

fn strange() -> anyhow::Error {
    anyhow!("the supervisor answered something else")
}

/// Asks the lab's supervisor.
fn ask(dir: &LabDir, request: &Request) -> Result<Response> {
    let path = dir.control_socket();
    let unreachable = || format!("the supervisor of the lab {:?} cannot be reached", dir.name());
    let mut socket = UnixStream::connect(&path).with_context(unreachable)?;
    writeln!(socket, "{}", serde_json::to_string(request)?).with_context(unreachable)?;
    let mut line = String::new();
    BufReader::new(socket)
        .read_line(&mut line)
        .with_context(unreachable)?;
    if line.is_empty() {
        bail!(
            "the supervisor of the lab {:?} ended without an answer",
            dir.name()
        );
    }
    match serde_json::from_str(&line).with_context(|| format!("the supervisor answered {line:?}"))? {
        Response::Error(error) => Err(anyhow!(error)),
        response => Ok(response),
    }
}
