//! What kubelet reports: whether pods are ready, and that nodes live.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::Lab;
use super::kubelet::Daemon;
use crate::objects::FIELD_MANAGER;
use crate::wait::until;

/// How long a daemon may take until its probe says ready.
const DAEMON_READY: Duration = Duration::from_secs(60);
/// How often probes are asked once everything is up.
const PROBE: Duration = Duration::from_millis(500);
/// How often a node says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Where it says so.
pub(super) const LEASE_NAMESPACE: &str = "kube-node-lease";

/// How a pod is, for its object.
#[derive(Debug, Clone, Copy)]
pub(super) struct PodState<'a> {
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    /// Name of its container.
    pub(super) container: &'a str,
    pub(super) addresses: &'a [IpAddr],
    pub(super) host_ip: Option<IpAddr>,
    pub(super) ready: bool,
    /// Whether its process ended and will be started again.
    pub(super) waits: bool,
    pub(super) restarts: u32,
}

impl Lab {
    /// Waits until every daemon's probe says ready, and says so in their pods.
    pub(super) async fn await_daemons(&self, client: &Client, daemons: &[Daemon]) -> Result<()> {
        for daemon in daemons {
            let ready = until(&daemon.id, DAEMON_READY, || probe(daemon)).await;
            ready.map_err(|e| self.with_log(e, &daemon.id))?;
            self.ready.fetch_add(1, Ordering::SeqCst);
            self.report(client, daemon, true, self.restarts(daemon)).await?;
        }
        Ok(())
    }

    /// Follows probes and restarts while the lab lives.
    pub(super) async fn follow_probes(&self, client: Client, daemons: Vec<Daemon>) {
        let mut known: BTreeMap<&str, (bool, u32)> = daemons
            .iter()
            .map(|d| (d.id.as_str(), (true, self.restarts(d))))
            .collect();
        loop {
            tokio::time::sleep(PROBE).await;
            for daemon in &daemons {
                let answer = probe(daemon).await;
                let now = (answer.is_ok(), self.restarts(daemon));
                let before = known.get(daemon.id.as_str());
                if before == Some(&now) {
                    continue;
                }
                match answer {
                    Err(error) if before.is_some_and(|b| b.0) => {
                        tracing::warn!("{} is not ready: {error:#}", daemon.id);
                    }
                    Ok(()) if before.is_some_and(|b| !b.0) => tracing::info!("{} is ready", daemon.id),
                    _ => {}
                }
                match self.report(&client, daemon, now.0, now.1).await {
                    Ok(()) => {
                        known.insert(&daemon.id, now);
                    }
                    Err(error) => tracing::warn!("{error:#}"),
                }
            }
        }
    }

    fn restarts(&self, daemon: &Daemon) -> u32 {
        self.processes.status_of(&daemon.id).map_or(0, |p| p.restarts)
    }

    async fn report(&self, client: &Client, daemon: &Daemon, ready: bool, restarts: u32) -> Result<()> {
        let Daemon {
            namespace,
            pod,
            container,
            addresses,
            host_ip,
            ..
        } = daemon;
        let host_ip = *host_ip;
        let state = PodState {
            namespace,
            name: pod,
            container,
            addresses,
            host_ip,
            ready,
            waits: false,
            restarts,
        };
        set_pod_status(client, state).await
    }
}

async fn probe(daemon: &Daemon) -> Result<()> {
    let socket = daemon.socket.clone();
    tokio::task::spawn_blocking(move || strait_daemon::status::probe(&socket, false))
        .await
        .map_err(|e| anyhow!("a probe panicked: {e}"))?
}

/// Writes a pod's status. What has not changed keeps its time.
pub(super) async fn set_pod_status(client: &Client, pod: PodState<'_>) -> Result<()> {
    let api = Api::<Pod>::namespaced(client.clone(), pod.namespace);
    let what = |doing: &str| {
        format!(
            "cannot {doing} the status of the pod {}/{}",
            pod.namespace, pod.name
        )
    };
    let before = api.get(pod.name).await.with_context(|| what("read"))?.status;
    let status = pod_status(&pod, &before.unwrap_or_default(), jiff::Timestamp::now());
    api.patch_status(
        pod.name,
        &PatchParams::default(),
        &Patch::Merge(json!({ "status": status })),
    )
    .await
    .with_context(|| what("write"))?;
    Ok(())
}

fn pod_status(pod: &PodState<'_>, before: &PodStatus, now: jiff::Timestamp) -> Value {
    let truth = if pod.ready { "True" } else { "False" };
    let condition = |kind: &str, status: &str| {
        let old = before.conditions.iter().flatten();
        let since = old
            .filter(|c| c.type_ == kind && c.status == status)
            .find_map(|c| c.last_transition_time.as_ref());
        let since = since.map_or(now, |time| time.0);
        json!({ "type": kind, "status": status, "lastTransitionTime": since.to_string() })
    };
    let container = if pod.waits {
        json!({ "waiting": { "reason": "CrashLoopBackOff", "message": "the process ended; see `strait lab logs`" } })
    } else {
        let old = before.container_statuses.iter().flatten();
        let same = old.filter(|c| u32::try_from(c.restart_count) == Ok(pod.restarts));
        let running = same.filter_map(|c| c.state.as_ref()?.running.as_ref()).next();
        let since = running
            .and_then(|r| r.started_at.as_ref())
            .map_or(now, |time| time.0);
        json!({ "running": { "startedAt": since.to_string() } })
    };
    let started = before.start_time.as_ref().map_or(now, |time| time.0);
    let ips: Vec<Value> = pod.addresses.iter().map(|ip| json!({ "ip": ip })).collect();
    json!({
        "phase": "Running",
        "hostIP": pod.host_ip,
        "podIP": pod.addresses.first(),
        "podIPs": ips,
        "startTime": started.to_string(),
        "conditions": [
            condition("PodScheduled", "True"), condition("Initialized", "True"),
            condition("ContainersReady", truth), condition("Ready", truth),
        ],
        "containerStatuses": [{
            "name": pod.container, "image": "strait-lab", "imageID": "",
            "ready": pod.ready, "started": !pod.waits, "restartCount": pod.restarts,
            "state": container,
        }],
    })
}

/// Renews the Leases of a cluster's nodes while the lab lives.
pub(super) async fn renew_leases(client: Client, nodes: Vec<String>) {
    let leases: Api<Lease> = Api::namespaced(client, LEASE_NAMESPACE);
    loop {
        for node in &nodes {
            let lease = json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": { "name": node, "namespace": LEASE_NAMESPACE },
                "spec": {
                    "holderIdentity": node,
                    "leaseDurationSeconds": 4 * HEARTBEAT.as_secs(),
                    "renewTime": micro_time(),
                },
            });
            let apply = PatchParams::apply(FIELD_MANAGER).force();
            if let Err(error) = leases.patch(node, &apply, &Patch::Apply(lease)).await {
                tracing::warn!("cannot renew the Lease of node {node}: {error}");
            }
        }
        tokio::time::sleep(HEARTBEAT).await;
    }
}

/// Now, with microseconds as a Lease has them.
fn micro_time() -> String {
    format!("{:.6}", jiff::Timestamp::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_not_changed_keeps_its_time() {
        let at = |second: i64| jiff::Timestamp::from_second(second).unwrap();
        let written = |pod: &PodState<'_>, before: &Value, now: i64| {
            pod_status(pod, &serde_json::from_value(before.clone()).unwrap(), at(now))
        };
        let addresses = ["10.1.2.10".parse().unwrap()];
        let starting = PodState {
            namespace: "demo",
            name: "web",
            container: "web",
            addresses: &addresses,
            host_ip: None,
            ready: false,
            waits: false,
            restarts: 0,
        };
        let first = written(&starting, &json!({}), 100);
        let ready = PodState {
            ready: true,
            ..starting
        };
        let second = written(&ready, &first, 200);
        let time = |status: &Value, path: &str| status.pointer(path).unwrap().as_str().unwrap().to_owned();
        let of = |second: i64| at(second).to_string();
        assert_eq!(time(&second, "/startTime"), of(100));
        assert_eq!(
            time(&second, "/containerStatuses/0/state/running/startedAt"),
            of(100)
        );
        assert_eq!(
            time(&second, "/conditions/0/lastTransitionTime"),
            of(100),
            "scheduled"
        );
        assert_eq!(
            time(&second, "/conditions/3/lastTransitionTime"),
            of(200),
            "ready"
        );
        let again = PodState { restarts: 1, ..ready };
        let third = written(&again, &second, 300);
        assert_eq!(time(&third, "/startTime"), of(100));
        assert_eq!(
            time(&third, "/containerStatuses/0/state/running/startedAt"),
            of(300)
        );
        assert_eq!(
            time(&third, "/conditions/3/lastTransitionTime"),
            of(200),
            "still ready"
        );
    }
}
