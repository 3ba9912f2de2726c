//! `Admitted` on each copy.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt as _;
use jiff::Timestamp;
use kube::api::Api;
use kube::runtime::watcher;
use kube::{Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::json;
use strait_api::names::{LABEL_CLUSTER, copy_name};
use strait_api::records::{Cluster, ExportedService, Gateway, Member};
use strait_api::{ClusterId, Condition};
use strait_core::clusterset::{Record, Records, view};
use strait_core::mirror::{Kind, Problem, copied, verdicts};
use strait_daemon::{Inputs, Shutdown, Watched};

use super::session::PARALLEL;
use super::{LeftOut, Settings};
use crate::connection::merge_status;
use crate::controllers::rfc3339;
use crate::error::BrokerError;

/// Conditions are for people: changes that come within this time are answered together.
const CALM: Duration = Duration::from_millis(100);

struct Copies {
    members: Watched<Member>,
    clusters: Watched<Cluster>,
    gateways: Watched<Gateway>,
    services: Watched<ExportedService>,
}

/// Keeps the conditions right until shut down.
pub(super) async fn run(client: &Client, settings: &Settings, left_out: &LeftOut, shutdown: &Shutdown) {
    let mut inputs = Inputs::new(None, shutdown.clone());
    let all = watcher::Config::default;
    let copies = Copies {
        members: inputs.watch_all(client, all()),
        clusters: inputs.watch_in(client, &settings.namespace, all()),
        gateways: inputs.watch_in(client, &settings.namespace, all()),
        services: inputs.watch_in(client, &settings.namespace, all()),
    };
    let mut left_out = left_out.0.subscribe();
    let mut retry = None;
    loop {
        tokio::select! {
            () = inputs.changed(CALM) => {}
            Ok(()) = left_out.changed() => {}
            () = tokio::time::sleep(retry.unwrap_or(Duration::from_secs(300))) => {}
            () = shutdown.wait() => return,
        }
        if inputs.knowledge() == strait_daemon::inputs::Knowledge::Live {
            let problems = left_out.borrow_and_update().clone();
            retry = copies
                .round(client, &settings.namespace, &problems)
                .await
                .then_some(Duration::from_secs(2));
        }
    }
}

fn owner(object: &impl Resource) -> Option<ClusterId> {
    object.labels().get(LABEL_CLUSTER)?.parse().ok()
}

impl Copies {
    /// Writes what differs; says whether something failed.
    async fn round(
        &self,
        client: &Client,
        namespace: &str,
        left_out: &BTreeMap<ClusterId, BTreeSet<Problem>>,
    ) -> bool {
        let (clusters, gateways, services) = (self.clusters.all(), self.gateways.all(), self.services.all());
        let records = Records {
            members: self.members.all().iter().map(|m| m.spec.clone()).collect(),
            clusters: clusters
                .iter()
                .map(|c| Record {
                    owner: owner(c.as_ref()),
                    name: c.name_any(),
                    spec: c.spec.clone(),
                })
                .collect(),
            gateways: gateways
                .iter()
                .map(|g| Record {
                    owner: owner(g.as_ref()),
                    name: g.name_any(),
                    spec: g.spec.clone(),
                })
                .collect(),
        };
        let exported: Vec<Record<_>> = services
            .iter()
            .map(|s| Record {
                owner: owner(s.as_ref()),
                name: s.name_any(),
                spec: s.spec.clone(),
            })
            .filter(|r| r.owner.is_some())
            .collect();
        // What each copy says now.
        let mut have: BTreeMap<(Kind, String), Vec<Condition>> = BTreeMap::new();
        for c in clusters.iter().filter(|c| owner(c.as_ref()).is_some()) {
            have.insert(
                (Kind::Cluster, c.name_any()),
                c.status.clone().unwrap_or_default().conditions,
            );
        }
        for g in gateways.iter().filter(|g| owner(g.as_ref()).is_some()) {
            have.insert(
                (Kind::Gateway, g.name_any()),
                g.status.clone().unwrap_or_default().conditions,
            );
        }
        for s in services.iter().filter(|s| owner(s.as_ref()).is_some()) {
            have.insert(
                (Kind::ExportedService, s.name_any()),
                s.status.clone().unwrap_or_default().conditions,
            );
        }
        let mut names: BTreeMap<Kind, Vec<String>> = BTreeMap::new();
        for (kind, name) in have.keys() {
            names.entry(*kind).or_default().push(name.clone());
        }
        let set = view(&records);
        if set.own.is_none() {
            return false;
        }
        let now = rfc3339(Timestamp::now());
        let of_owner: BTreeMap<String, &BTreeSet<Problem>> = left_out
            .iter()
            .map(|(owner, problems)| (copy_name(owner, owner.as_str()), problems))
            .collect();
        let mut writes = Vec::new();
        for ((kind, name), condition) in verdicts(&set, &names, &exported) {
            let mut conditions = have.remove(&(kind, name.clone())).unwrap_or_default();
            let refused = condition.status == "False";
            let message = condition.message.clone();
            let mut changed = condition.merge_into(&mut conditions, &now);
            if changed && refused {
                tracing::warn!(
                    kind = kind.as_str(),
                    name,
                    "record does not count here: {message}"
                );
            }
            if let (Kind::Cluster, Some(problems)) = (kind, of_owner.get(&name)) {
                changed |= copied(problems).merge_into(&mut conditions, &now);
            }
            if changed {
                writes.push((kind, name, conditions));
            }
        }
        let failures: Vec<BrokerError> = futures::stream::iter(writes)
            .map(|(kind, name, conditions)| write(client, namespace, kind, name, conditions))
            .buffer_unordered(PARALLEL)
            .filter_map(|result| async move { result.err() })
            .collect()
            .await;
        if let Some(e) = failures.first() {
            tracing::warn!(error = %e, failures = failures.len(), "conditions of copies: trying again");
        }
        !failures.is_empty()
    }
}

async fn write(
    client: &Client,
    namespace: &str,
    kind: Kind,
    name: String,
    conditions: Vec<Condition>,
) -> Result<(), BrokerError> {
    match kind {
        Kind::Cluster => {
            write_as::<Cluster>(Api::namespaced(client.clone(), namespace), &name, conditions).await
        }
        Kind::Gateway => {
            write_as::<Gateway>(Api::namespaced(client.clone(), namespace), &name, conditions).await
        }
        Kind::ExportedService => {
            write_as::<ExportedService>(Api::namespaced(client.clone(), namespace), &name, conditions).await
        }
    }
}

async fn write_as<K>(api: Api<K>, name: &str, conditions: Vec<Condition>) -> Result<(), BrokerError>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    let patch = json!({ "status": { "conditions": conditions } });
    let what = format!("writing the conditions of {} {name}", K::kind(&()));
    match merge_status(&api, &what, name, patch).await {
        Err(e) if e.code() != Some(404) => Err(e),
        _ => Ok(()),
    }
}
