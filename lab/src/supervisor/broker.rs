//! The stand-alone broker, and how a cluster becomes a member: by the commands that a person would type.

use std::ffi::OsString;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use kube::config::Kubeconfig;
use tokio::io::AsyncWriteExt as _;

use super::Lab;
use crate::objects::client;
use crate::processes::Spec;
use crate::topology::Cluster;
use crate::wait::until;

const BROKER: &str = "broker/control-plane/broker";
/// How long the broker may take to come up, and a cluster to join.
const PATIENCE: Duration = Duration::from_secs(30);

impl Lab {
    /// Starts the broker and waits until it answers.
    pub(super) async fn start_broker(&self, socket: TcpListener) -> Result<()> {
        let host_port = socket.local_addr()?.port();
        let host = self.dir.kubeconfig("broker");
        let data = self.dir.data(BROKER)?;
        let lan = &self.topology.broker;
        let mut argv: Vec<OsString> = vec![self.program.clone(), "broker".into(), "--standalone".into()];
        argv.extend(["--data-dir".into(), data.clone().into()]);
        for address in lan.api_servers() {
            argv.extend(["--listen".into(), address.to_string().into()]);
        }
        argv.extend(["--listen-fd".into(), "0".into()]);
        argv.extend(["--advertise".into(), lan.api_url().into()]);
        self.processes.start(Spec {
            argv,
            env: self.clean_environment(),
            inherit: false,
            namespace: self.network.router()?.clone(),
            hostname: None,
            mounts: None,
            log: self.dir.log(BROKER),
            stdin: Some(OwnedFd::from(socket)),
            id: BROKER.to_owned(),
        })?;
        let written = data.join("admin.kubeconfig");
        let inner = self.broker_kubeconfig();
        let up = until("the broker", PATIENCE, || async {
            ensure!(written.exists(), "it has not written {} yet", written.display());
            // The file names one of its addresses; which of them one can reach depends on where one stands.
            write_kubeconfig(&written, &inner, lan.api_url())?;
            write_kubeconfig(&written, &host, format!("https://127.0.0.1:{host_port}"))?;
            client(&inner)
                .await?
                .apiserver_version()
                .await
                .context("it does not answer")?;
            Ok(())
        });
        up.await.map_err(|e| self.with_log(e, BROKER))
    }

    fn broker_kubeconfig(&self) -> PathBuf {
        self.dir.inner_kubeconfig("broker", "admin")
    }

    /// The certificate authority of a cluster's API server, in PEM.
    pub(super) fn api_ca(&self, cluster: &str) -> Result<String> {
        use base64::Engine as _;
        let config = Kubeconfig::read_from(self.dir.inner_kubeconfig(cluster, "admin"))?;
        let data = config
            .clusters
            .iter()
            .find_map(|c| c.cluster.as_ref()?.certificate_authority_data.clone())
            .with_context(|| format!("the kubeconfig of {cluster} has no certificate authority"))?;
        let pem = base64::engine::general_purpose::STANDARD.decode(data.trim())?;
        String::from_utf8(pem).context("the certificate authority is no text")
    }

    /// Makes a cluster a member.
    pub(super) async fn join(&self, cluster: &Cluster) -> Result<()> {
        let name = cluster.name.as_str();
        let broker = self.broker_kubeconfig().into_os_string();
        let token = self
            .command(
                ["broker", "token", "create", "--preapprove", name]
                    .map(OsString::from)
                    .into_iter()
                    .chain([
                        "--url".into(),
                        self.topology.broker.api_url_for(cluster.families()).into(),
                        "--kubeconfig".into(),
                        broker,
                    ]),
                None,
            )
            .await
            .context("cannot make a join token")?;
        let mut join: Vec<OsString> = ["join", "--cluster-id", name].map(OsString::from).to_vec();
        join.extend([
            "--kubeconfig".into(),
            self.dir.inner_kubeconfig(name, "admin").into(),
        ]);
        for cidr in &cluster.pod_cidrs {
            join.extend(["--pod-cidr".into(), cidr.to_string().into()]);
        }
        for cidr in &cluster.service_cidrs {
            join.extend(["--service-cidr".into(), cidr.to_string().into()]);
        }
        let joined = self.command(join.into_iter(), Some(token)).await;
        joined
            .with_context(|| format!("{name} cannot join"))
            .map_err(|e| self.with_log(e, BROKER))?;
        Ok(())
    }

    /// Runs this program once, on the router; returns what it printed.
    async fn command(&self, args: impl Iterator<Item = OsString>, input: Option<Vec<u8>>) -> Result<Vec<u8>> {
        let args: Vec<OsString> = args.collect();
        let shown = args
            .first()
            .map(|a| a.to_string_lossy().into_owned())
            .unwrap_or_default();
        let mut command = Command::new(&self.program);
        command.args(args).env_clear().envs(self.clean_environment());
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        self.network.router()?.attach(&mut command);
        let mut child = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start strait {shown}"))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(&input.unwrap_or_default()).await?;
        }
        let output = tokio::time::timeout(PATIENCE, child.wait_with_output())
            .await
            .map_err(|_| anyhow!("strait {shown} did not end within {PATIENCE:?}"))??;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("strait {shown} failed: {}", said.trim_end());
        }
        Ok(output.stdout)
    }
}

/// The same kubeconfig with another address.
fn write_kubeconfig(from: &Path, to: &Path, url: String) -> Result<()> {
    let mut config = Kubeconfig::read_from(from)?;
    for cluster in config.clusters.iter_mut().filter_map(|c| c.cluster.as_mut()) {
        cluster.server = Some(url.clone());
    }
    let text = serde_saphyr::to_string(&config).context("the kubeconfig cannot be written")?;
    std::fs::write(to, text).with_context(|| format!("cannot write {}", to.display()))
}
