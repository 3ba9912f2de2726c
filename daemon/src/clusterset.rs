//! The records that say who takes part, watched, in the form that `core` reads.

use kube::runtime::watcher;
use kube::{Client, ResourceExt as _};
use strait_api::names::LABEL_CLUSTER;
use strait_api::records::{Cluster, Gateway, Member};
use strait_core::clusterset::{Record, Records};

use crate::inputs::{Input, Inputs, Watched};

/// Members, clusters and gateways as they lie in this cluster; a cheap handle.
#[derive(Debug, Clone)]
pub struct ClustersetInputs {
    /// Members (cluster-scoped).
    pub members: Watched<Member>,
    /// Clusters: the own one and copies of the others'.
    pub clusters: Watched<Cluster>,
    /// Gateways: the own ones and copies of the others'.
    pub gateways: Watched<Gateway>,
}

impl ClustersetInputs {
    /// Watches them; own records and copies lie in `namespace`.
    pub fn watch(inputs: &mut Inputs, client: &Client, namespace: &str) -> Self {
        Self {
            members: inputs.watch_all(client, watcher::Config::default()),
            clusters: inputs.watch_in(client, namespace, watcher::Config::default()),
            gateways: inputs.watch_in(client, namespace, watcher::Config::default()),
        }
    }

    /// What they say now.
    pub fn records(&self) -> Records {
        Records {
            members: self
                .members
                .all()
                .iter()
                .map(|member| member.spec.clone())
                .collect(),
            clusters: records(&self.clusters, |cluster| cluster.spec.clone()),
            gateways: records(&self.gateways, |gateway| gateway.spec.clone()),
        }
    }
}

/// The records of one kind. A copy whose owner's label is no cluster ID is left out.
pub fn records<K: Input, S>(watched: &Watched<K>, spec: impl Fn(&K) -> S) -> Vec<Record<S>> {
    watched
        .all()
        .iter()
        .filter_map(|object| record(object.as_ref(), &spec))
        .collect()
}

/// One record; `None` for a copy whose owner's label is no cluster ID.
pub fn record<K: Input, S>(object: &K, spec: impl Fn(&K) -> S) -> Option<Record<S>> {
    let owner = match object.labels().get(LABEL_CLUSTER) {
        None => None,
        Some(label) => match label.parse() {
            Ok(owner) => Some(owner),
            Err(error) => {
                tracing::warn!(kind = %K::kind(&()), name = object.name_any(), %error, "record with a bad label {LABEL_CLUSTER}; skipping it");
                return None;
            }
        },
    };
    Some(Record {
        owner,
        name: object.name_any(),
        spec: spec(object),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(label: Option<&str>) -> Cluster {
        let labels = label.map(|label| serde_json::json!({ LABEL_CLUSTER: label }));
        serde_json::from_value(serde_json::json!({
            "apiVersion": "strait.dev/v1alpha1",
            "kind": "Cluster",
            "metadata": { "name": "green.green", "labels": labels },
            "spec": { "clusterId": "green" },
        }))
        .unwrap()
    }

    #[test]
    fn the_label_names_the_owner_and_a_bad_one_leaves_the_record_out() {
        let owner =
            |label| record(&cluster(label), |cluster| cluster.spec.clone()).map(|record| record.owner);
        assert_eq!(owner(None), Some(None));
        assert_eq!(owner(Some("green")), Some(Some("green".parse().unwrap())));
        assert_eq!(owner(Some("Not.A.Cluster")), None);
    }
}
