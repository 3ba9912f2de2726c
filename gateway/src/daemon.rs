//! The daemon: from records to tunnels.
//!
//! The data path starts first, from what was saved when the gateway last ran; the API server is needed to
//! learn of changes and to publish, never to carry traffic.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::watcher;
use strait_core::clusterset;
use strait_core::kernel::TUNNEL_DEVICE;
use strait_core::tunnels::{MAX_LANES, ThisNode, Tunnel, Tunnels, tunnels};
use strait_daemon::inputs::Knowledge;
use strait_daemon::{ClustersetInputs, Inputs, Shutdown, Status, Watched, client};
use tokio::sync::watch;

use crate::args::Args;
use crate::datapath::{Engine, EngineConfig, MAX_WORKERS, PeerConfig, Refused};
use crate::keyfile::{self, Lock};
use crate::publish::{Desired, Publisher};
use crate::{record, report};

/// Changes that come together are handled together.
const CALM: Duration = Duration::from_millis(20);
/// Between two looks at the data path, for its status and its health.
const LOOK: Duration = Duration::from_secs(1);
/// Between two attempts to become the gateway while another process is.
const STAND_BY: Duration = Duration::from_millis(50);
/// Idle tunnels say this often that they are there; it also keeps a NAT's mapping.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Runs the gateway until SIGTERM or SIGINT.
///
/// # Errors
/// If it cannot start, or its data path fails. Losing the API server is no error.
pub fn run(args: Args) -> Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("no asynchronous runtime")?
        .block_on(serve(args))
}

async fn serve(args: Args) -> Result<()> {
    let shutdown = Shutdown::on_signals().context("no signal handlers")?;
    let status = Status::default();
    status.serve(&args.common, &shutdown).await?;

    let client = client::connect(args.common.kubeconfig.as_deref(), "strait-gateway").await?;
    let folder = keyfile::folder(&args.common.state_dir);
    keyfile::make_folder(&folder)?;
    let Some(lock) = stand_by(&folder, &status, &shutdown).await? else {
        return Ok(());
    };
    status.unready("the data path is starting");
    let key = keyfile::load_or_create(&folder)?;
    let engine = Arc::new(Engine::start(&EngineConfig {
        listen_port: args.port,
        tun_name: TUNNEL_DEVICE.to_owned(),
        mtu: args.mtu,
        workers: args.workers(),
        ..EngineConfig::new(key)
    })?);
    tracing::info!(public_key = %engine.public_key(), port = engine.port(), workers = engine.workers(), device = TUNNEL_DEVICE, "data path started");
    let refused = report::RefusedMetric::default();
    status.register(|registry| {
        registry.register_collector(Box::new(report::Metrics(Arc::downgrade(&engine))));
        refused.register(registry);
    });
    status.unready("waiting for the API server: no records are known yet");

    let mut inputs = Inputs::new(Some(&folder), shutdown.clone());
    let this_node = watcher::Config::default().fields(&format!("metadata.name={}", args.node_name));
    let mut gateway = Gateway {
        nodes: inputs.watch_all(&client, this_node),
        records: ClustersetInputs::watch(&mut inputs, &client, &args.common.namespace),
        engine,
        desired: watch::Sender::new(Desired::default()),
        wanted: BTreeMap::new(),
        told: Told::default(),
        refused,
        args,
    };
    let publisher = Publisher {
        client,
        namespace: gateway.args.common.namespace.clone(),
        name: gateway.args.node_name.clone(),
        gateways: gateway.records.gateways.clone(),
    };
    let publishing = tokio::spawn(publisher.run(gateway.desired.subscribe(), shutdown.clone()));
    let result = gateway.follow(&mut inputs, &status, &shutdown).await;
    shutdown.trigger();
    publishing.await.context("publishing failed")?;
    // While the data path still runs; the successor starts from it once the lock is free.
    inputs.saved().await;
    drop(gateway);
    drop(lock);
    tracing::info!("stopped");
    result
}

/// Waits until no other process is this node's gateway: at an update the successor starts while the old one
/// still runs, and takes over when it ends. None: shut down meanwhile.
async fn stand_by(folder: &std::path::Path, status: &Status, shutdown: &Shutdown) -> Result<Option<Lock>> {
    let mut told = false;
    loop {
        if let Some(lock) = Lock::take(folder)? {
            return Ok(Some(lock));
        }
        if !told {
            told = true;
            tracing::info!("another process is this node's gateway: standing by until it ends");
            // Ready, or Kubernetes would never end the old one.
            status.ready();
        }
        tokio::select! {
            () = tokio::time::sleep(STAND_BY) => {}
            () = shutdown.wait() => return Ok(None),
        }
    }
}

/// The state of the loop.
struct Gateway {
    args: Args,
    engine: Arc<Engine>,
    nodes: Watched<Node>,
    records: ClustersetInputs,
    desired: watch::Sender<Desired>,
    /// The tunnels in force by name.
    wanted: BTreeMap<String, Tunnel>,
    told: Told,
    refused: report::RefusedMetric,
}

/// What has been logged, so that it is logged once.
#[derive(Debug, Default, PartialEq)]
struct Told {
    unjoined: bool,
    no_node: bool,
    refusals: Vec<report::Refused>,
}

impl Gateway {
    async fn follow(&mut self, inputs: &mut Inputs, status: &Status, shutdown: &Shutdown) -> Result<()> {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            {
                // Kept over the looks, so that no change is missed between two calls.
                let changed = inputs.changed(CALM);
                tokio::pin!(changed);
                loop {
                    tokio::select! {
                        () = &mut changed => break,
                        _ = look.tick() => self.look()?,
                        () = shutdown.wait() => return Ok(()),
                    }
                }
            }
            // Tunnels need not wait for the API server, but what is said to it is not to come from before.
            self.reconcile(inputs.knowledge() == Knowledge::Live);
            status.ready();
        }
    }

    /// Records to peers, and to the own record where the records are `live`.
    fn reconcile(&mut self, live: bool) {
        let set = clusterset::view(&self.records.records());
        let unjoined = set.own.is_none();
        if unjoined && !self.told.unjoined {
            tracing::info!(
                "this cluster is in no clusterset yet (no Cluster record of its own): waiting for `strait join`"
            );
        }
        self.told.unjoined = unjoined;

        let spec = set.own.as_ref().and_then(|own| self.own_record(own.id()));
        let own_endpoints = spec.iter().flat_map(|spec| {
            let addresses = spec.addresses.private.iter().chain(&spec.addresses.public);
            addresses
                .map(|address| SocketAddr::new(*address, spec.udp_port))
                .collect::<Vec<_>>()
        });
        let node = ThisNode {
            own_endpoints: own_endpoints.collect(),
            own_keys: self.engine.public_keys().into_iter().collect(),
        };
        if !unjoined {
            self.apply(tunnels(&set, &node));
        }
        self.desired.send_modify(|desired| {
            // Without its node the record stays as it is; a cluster that has left says nothing any more.
            if live && (unjoined || spec.is_some()) {
                desired.spec = spec;
            }
        });
        // A new tunnel shows without waiting for the next look.
        self.tell_status();
    }

    /// Makes the data path what it should be.
    fn apply(&mut self, plan: Tunnels) {
        let peers: Vec<PeerConfig> = plan.wanted.iter().filter_map(peer).collect();
        let refused = self.engine.set_peers(&peers);
        let by_plan = plan.refusals.into_iter().map(|refusal| report::Refused {
            reason: refusal.reason,
            message: refusal.message,
        });
        let by_engine = refused.into_iter().map(|Refused { id, reason }| report::Refused {
            reason: "KeyRefused".to_owned(),
            message: format!("no tunnel to {id}: {reason}"),
        });
        let refusals: Vec<report::Refused> = by_plan.chain(by_engine).collect();
        for new in refusals
            .iter()
            .filter(|refusal| !self.told.refusals.contains(refusal))
        {
            tracing::warn!("{}", new.message);
        }
        self.refused.set(&refusals);
        self.told.refusals = refusals;

        let wanted: BTreeMap<String, Tunnel> = plan
            .wanted
            .into_iter()
            .map(|tunnel| (tunnel.id(), tunnel))
            .collect();
        for (id, tunnel) in &wanted {
            if self.wanted.get(id) != Some(tunnel) {
                tracing::info!(tunnel = id, candidates = ?tunnel.candidates, prefixes = ?tunnel.prefixes, "tunnel wanted");
            }
        }
        for id in self.wanted.keys().filter(|id| !wanted.contains_key(*id)) {
            tracing::info!(tunnel = id, "tunnel no longer wanted");
        }
        self.wanted = wanted;
    }

    fn own_record(&mut self, cluster: &strait_api::ClusterId) -> Option<strait_api::records::GatewaySpec> {
        let name = self.args.node_name.as_str();
        let node = self.nodes.get("", name);
        if node.is_none() && !self.told.no_node {
            tracing::warn!(
                node = name,
                "there is no such node in the API: this gateway's record is not published; is --node-name (NODE_NAME) right?"
            );
        }
        self.told.no_node = node.is_none();
        Some(record::gateway(
            &self.args,
            cluster,
            node.as_deref()?,
            self.engine.public_keys(),
        ))
    }

    /// Looks after the data path.
    fn look(&self) -> Result<()> {
        if let Some(fault) = self.engine.fault() {
            bail!("the data path has failed: {fault}");
        }
        self.tell_status();
        Ok(())
    }

    fn tell_status(&self) {
        let engine = self.engine.status();
        let now = Timestamp::now();
        self.desired.send_if_modified(|desired| {
            let status = report::status(&engine, &self.wanted, &self.told.refusals, &desired.status, now);
            let changed = desired.status != status;
            desired.status = status;
            changed
        });
    }
}

fn peer(tunnel: &Tunnel) -> Option<PeerConfig> {
    let (public_key, lane_keys) = tunnel.public_keys.split_first()?;
    Some(PeerConfig {
        lane_keys: lane_keys.to_vec(),
        candidates: tunnel.candidates.clone(),
        allowed: tunnel.prefixes.clone(),
        keepalive: Some(KEEPALIVE),
        ..PeerConfig::new(tunnel.id(), *public_key)
    })
}

// No gateway publishes more keys than others take.
const _: () = assert!(MAX_WORKERS <= MAX_LANES);
