//! Overlay addresses of this cluster's nodes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::api::Api;
use kube::runtime::watcher;
use kube::{Client, ResourceExt as _};
use serde_json::json;
use strait_api::names::{ANNOTATION_OVERLAY, LABEL_CLUSTER};
use strait_api::records::{Cluster, Member};
use strait_core::allocation::node_addresses;
use strait_daemon::{Inputs, Shutdown, Watched};

use super::Settings;
use crate::connection::merge;

/// Changes that come within this time are answered together.
const CALM: Duration = Duration::from_millis(20);

struct Nodes {
    nodes: Watched<Node>,
    members: Watched<Member>,
    clusters: Watched<Cluster>,
}

/// Keeps the annotations right until shut down.
pub(super) async fn run(client: &Client, settings: &Settings, shutdown: &Shutdown) {
    let mut inputs = Inputs::new(None, shutdown.clone());
    let own = watcher::Config::default().labels(&format!("!{LABEL_CLUSTER}"));
    let watched = Nodes {
        nodes: inputs.watch_all(client, watcher::Config::default()),
        members: inputs.watch_all(client, watcher::Config::default()),
        clusters: inputs.watch_in(client, &settings.namespace, own),
    };
    let mut without = 0;
    let mut retry = None;
    loop {
        tokio::select! {
            () = inputs.changed(CALM) => {}
            () = tokio::time::sleep(retry.unwrap_or(Duration::from_secs(300))) => {}
            () = shutdown.wait() => return,
        }
        if inputs.knowledge() != strait_daemon::inputs::Knowledge::Live {
            continue;
        }
        retry = watched
            .round(client, &mut without)
            .await
            .then_some(Duration::from_secs(2));
    }
}

/// The addresses in an annotation; what cannot be read is as good as absent.
fn held(node: &Node) -> Vec<IpAddr> {
    let text = node
        .annotations()
        .get(ANNOTATION_OVERLAY)
        .map(String::as_str)
        .unwrap_or_default();
    text.split(',').filter_map(|a| a.trim().parse().ok()).collect()
}

impl Nodes {
    /// Annotates what differs; says whether something failed.
    async fn round(&self, client: &Client, without: &mut usize) -> bool {
        let own = self
            .clusters
            .all()
            .into_iter()
            .find(|c| c.spec.removed_at.is_none());
        let Some(own) = own else { return false };
        let Some(member) = self.members.get("", own.spec.cluster_id.as_str()) else {
            return false;
        };
        let nodes = self.nodes.all();
        let holding: BTreeMap<String, Vec<IpAddr>> = nodes.iter().map(|n| (n.name_any(), held(n))).collect();
        let wanted = node_addresses(&member.spec.node_blocks, &holding);
        if wanted.without.len() != *without {
            *without = wanted.without.len();
            if let Some(node) = wanted.without.first() {
                tracing::error!(
                    node,
                    nodes = *without,
                    "no overlay address is left in this cluster's node blocks; these nodes get no clusterset traffic"
                );
            }
        }
        let api: Api<Node> = Api::all(client.clone());
        let mut failed = false;
        for node in nodes {
            let name = node.name_any();
            let addresses = wanted.assigned.get(&name).map(Vec::as_slice).unwrap_or_default();
            let text = addresses
                .iter()
                .map(IpAddr::to_string)
                .collect::<Vec<_>>()
                .join(",");
            if node
                .annotations()
                .get(ANNOTATION_OVERLAY)
                .map(String::as_str)
                .unwrap_or_default()
                == text
            {
                continue;
            }
            let patch = json!({ "metadata": { "annotations": { ANNOTATION_OVERLAY: text } } });
            let what = format!("annotating node {name} with its overlay address");
            match merge(&api, &what, &name, patch).await {
                Ok(_) => tracing::info!(node = name, addresses = text, "node has its overlay address"),
                Err(e) if e.code() == Some(404) => {}
                Err(e) => {
                    failed = true;
                    tracing::warn!(error = %e, "overlay addresses: trying again");
                }
            }
        }
        failed
    }
}
