//! Answers to requests over the control socket.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use strait_daemon::errors::sentence;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use super::Lab;
use crate::control::{LabStatus, Request, Response};

/// Starts to listen. The task ends only by an error.
pub(super) fn listen(lab: &Arc<Lab>) -> Result<JoinHandle<Result<()>>> {
    let path = lab.dir.control_socket();
    let listener =
        UnixListener::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
    let lab = Arc::clone(lab);
    Ok(tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.context("cannot accept a request")?;
            let lab = Arc::clone(&lab);
            tokio::spawn(async move {
                if let Err(error) = serve(&lab, socket).await {
                    tracing::debug!("a request failed: {error:#}");
                }
            });
        }
    }))
}

async fn serve(lab: &Arc<Lab>, socket: UnixStream) -> Result<()> {
    let (read, mut write) = socket.into_split();
    let mut line = String::new();
    BufReader::new(read).read_line(&mut line).await?;
    let response = match serde_json::from_str(&line) {
        Ok(request) => answer(lab, request)
            .await
            .unwrap_or_else(|e| Response::Error(sentence(e.as_ref()))),
        Err(error) => Response::Error(format!("the request cannot be read: {error}")),
    };
    write
        .write_all(format!("{}\n", serde_json::to_string(&response)?).as_bytes())
        .await?;
    Ok(())
}

async fn answer(lab: &Arc<Lab>, request: Request) -> Result<Response> {
    match request {
        Request::Status => Ok(Response::Status(Box::new(LabStatus {
            topology: lab.topology.clone(),
            processes: lab.processes.status(),
            pods: lab.pods.status(),
            leaks: lab.network.leaks.counts(),
        }))),
        Request::RunPod(mut pod) => {
            // This program is at hand in every pod, as in `lab exec`.
            if let Some(program) = pod.argv.first_mut().filter(|p| *p == "strait") {
                *program = lab
                    .program
                    .to_str()
                    .context("this program's path is no text")?
                    .to_owned();
            }
            Ok(Response::Pod(lab.run_pod(pod).await?))
        }
        Request::Kill { process, signal } => {
            let signal = Signal::from_named_raw(signal)
                .with_context(|| format!("{signal} is no signal that can be sent"))?;
            let processes = lab.processes.clone();
            tokio::task::spawn_blocking(move || processes.kill(&process, signal)).await??;
            Ok(Response::Done)
        }
    }
}
