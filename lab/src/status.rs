//! What people read of a lab: status, kubeconfigs, logs.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde::Serialize;
use strait_daemon::stdout;

use crate::args::Output;
use crate::control::{self, LabStatus};
use crate::dir::{self, LabDir};

/// How often a log is looked at.
const FOLLOW: Duration = Duration::from_millis(200);

/// Prints how the lab is.
pub(crate) fn print(dir: &LabDir, output: Output) -> Result<ExitCode> {
    dir.running()?;
    let status = control::status(dir)?;
    match output {
        Output::Json => stdout::print(&serde_json::to_string_pretty(&status)?)?,
        Output::Text => stdout::print(&text(&status))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A lab in a list.
#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    state: &'static str,
    clusters: Vec<String>,
    nodes: usize,
    path: PathBuf,
}

impl Listed {
    fn of(dir: &LabDir) -> Result<Self> {
        let file = dir.read()?;
        let state = match &file {
            Some(file) if !(file.init.alive() && file.supervisor.alive()) => "killed",
            Some(file) if file.ready => "ready",
            _ => "coming up",
        };
        let clusters = file.map(|f| f.topology.clusters).unwrap_or_default();
        Ok(Self {
            name: dir.name().to_owned(),
            state,
            nodes: clusters.iter().map(|c| c.nodes.len()).sum(),
            clusters: clusters.into_iter().map(|c| c.name).collect(),
            path: dir.path().to_owned(),
        })
    }
}

/// Prints all labs of this user.
pub(crate) fn list(output: Output) -> Result<ExitCode> {
    let labs = dir::all()?.iter().map(Listed::of).collect::<Result<Vec<_>>>()?;
    if output == Output::Json {
        stdout::print(&serde_json::to_string_pretty(&labs)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if labs.is_empty() {
        say("There is no lab; `strait lab up` makes one.");
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = table(&["LAB", "STATE", "CLUSTERS", "NODES", "FOLDER"]);
    for lab in labs {
        let Listed {
            name,
            state,
            clusters,
            nodes,
            path,
        } = lab;
        let path = path.display().to_string();
        table.add_row([
            name,
            state.to_owned(),
            clusters.join(" "),
            nodes.to_string(),
            path,
        ]);
    }
    stdout::print(&table.to_string())?;
    Ok(ExitCode::SUCCESS)
}

fn text(status: &LabStatus) -> String {
    let mut nodes = table(&["NODE", "ROLE", "ADDRESSES", "PODS"]);
    for cluster in &status.topology.clusters {
        if let Some(edge) = &cluster.edge {
            let (name, router) = (format!("{}/edge", cluster.name), "router".to_owned());
            nodes.add_row([name, router, join(&edge.public()), String::new()]);
        }
        for node in &cluster.nodes {
            nodes.add_row([
                format!("{}/{}", cluster.name, node.name),
                if node.gateway { "gateway" } else { "worker" }.to_owned(),
                join(&node.ips()),
                node.pod_cidrs
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(" "),
            ]);
        }
    }
    let mut text = nodes.to_string();
    let mut processes = table(&["PROCESS", "STATE", "RESTARTS", "LAST END"]);
    for process in &status.processes {
        let state = process
            .pid
            .map_or("waits".to_owned(), |pid| format!("runs ({pid})"));
        let last = process.last_end.clone().unwrap_or_default();
        processes.add_row([process.id.clone(), state, process.restarts.to_string(), last]);
    }
    add_rows(&mut text, &processes);
    let mut pods = table(&["POD", "NAMESPACE", "NODE", "ADDRESSES"]);
    for pod in &status.pods {
        pods.add_row([
            format!("{}/{}", pod.cluster, pod.name),
            pod.namespace.clone(),
            pod.node.clone(),
            join(&pod.addresses),
        ]);
    }
    add_rows(&mut text, &pods);
    for (source, destination, packets) in &status.leaks {
        text.push_str(&format!(
            "\n\nLEAK: {packets} packets from {source} for {destination} reached the router in clear text"
        ));
    }
    text
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header.iter().copied());
    table
}

fn add_rows(text: &mut String, table: &Table) {
    if !table.is_empty() {
        text.push_str(&format!("\n\n{table}"));
    }
}

fn join(addresses: &[IpAddr]) -> String {
    addresses
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Says something to whoever started this; the terminal may be gone.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// After `lab up`: what next.
pub(crate) fn hint(dir: &LabDir, first: &str) {
    let name = if dir.name() == "default" {
        String::new()
    } else {
        format!(" --name {}", dir.name())
    };
    say(&format!("\n  strait lab{name} status"));
    say(&format!(
        "  export KUBECONFIG={}",
        dir.kubeconfig(first).display()
    ));
    say(&format!("  strait lab{name} down"));
}

/// Prints a kubeconfig, or its path.
pub(crate) fn kubeconfig(dir: &LabDir, cluster: &str, path: bool) -> Result<ExitCode> {
    let lab = dir.running()?;
    if cluster != "broker" && lab.topology.cluster(cluster).is_none() {
        bail!(
            "there is no cluster {cluster:?}; there are broker, {}",
            lab.topology.names().join(", ")
        );
    }
    let file = dir.kubeconfig(cluster);
    if path {
        stdout::print(&file.display().to_string())?;
    } else {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        stdout::print(text.trim_end())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints a log, and goes on as it grows if asked.
pub(crate) fn logs(dir: &LabDir, process: &str, follow: bool) -> Result<ExitCode> {
    if !dir.exists() {
        return Err(dir.none());
    }
    let path = dir.log(process);
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => match dir.logged() {
            none if none.is_empty() => bail!("there is no log of {process:?}, nor of any other process yet"),
            some => bail!(
                "there is no log of {process:?}; there are those of {}",
                some.join(", ")
            ),
        },
        Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
    };
    let mut out = io::stdout();
    let mut text = Vec::new();
    loop {
        text.clear();
        file.read_to_end(&mut text)
            .with_context(|| format!("cannot read {}", path.display()))?;
        out.write_all(&text)
            .and_then(|()| out.flush())
            .context("cannot write to standard output")?;
        if !follow || !path.exists() {
            return Ok(ExitCode::SUCCESS);
        }
        thread::sleep(FOLLOW);
    }
}
