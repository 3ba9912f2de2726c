//! Which ranges a cluster uses, as far as it says so itself.
//!
//! A control plane in pods (kubeadm, kind) carries its ranges as flags. Where it does not (managed clusters,
//! k3s), pods' prefixes are the union of those of the nodes, and Services' are ServiceCIDR objects. What is
//! told on the command line is not looked up.

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::api::ListParams;
use kube::{Api, Client};
use strait_core::allocation::{DEFAULT_VIP_CIDRS, same_family};

use crate::connection::within;
use crate::error::BrokerError;

/// A cluster's ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges {
    /// Of its pods.
    pub pods: Vec<IpNet>,
    /// Of its Services.
    pub services: Vec<IpNet>,
    /// Of its VIPs.
    pub vips: Vec<IpNet>,
}

/// Fills in what is empty.
///
/// # Errors
/// If the cluster's nodes cannot be read, or nothing says which prefixes its pods have.
pub async fn discover(
    local: &Client,
    ranges: &mut Ranges,
    mut note: impl FnMut(String),
) -> Result<(), BrokerError> {
    let flags = if ranges.pods.is_empty() || ranges.services.is_empty() {
        control_plane_flags(local).await
    } else {
        Vec::new()
    };
    if ranges.pods.is_empty() {
        ranges.pods = flag(&flags, "--cluster-cidr=");
    }
    if ranges.pods.is_empty() {
        ranges.pods = of_nodes(local).await?;
        let prefixes = crate::output::list(&ranges.pods);
        note(format!(
            "pod prefixes are those of the nodes there are now: {prefixes}. If nodes to come get others, name the whole range with --pod-cidr"
        ));
    }
    if ranges.services.is_empty() {
        ranges.services = flag(&flags, "--service-cluster-ip-range=");
    }
    if ranges.services.is_empty() {
        ranges.services = service_cidrs(local).await;
    }
    if ranges.services.is_empty() {
        note("the range of this cluster's Services is not known and not checked for overlaps; name it with --service-cidr".to_owned());
    }
    if ranges.vips.is_empty() {
        let defaults = DEFAULT_VIP_CIDRS.iter().filter_map(|p| p.parse::<IpNet>().ok());
        ranges.vips = defaults
            .filter(|vip| ranges.pods.iter().any(|pod| same_family(pod, vip)))
            .collect();
    }
    Ok(())
}

/// Flags of the control plane's pods; none where it does not run in pods, or may not be looked at.
async fn control_plane_flags(local: &Client) -> Vec<String> {
    let pods: Api<Pod> = Api::namespaced(local.clone(), "kube-system");
    let params = ListParams::default().labels("component in (kube-controller-manager,kube-apiserver)");
    match within("reading the control plane's pods", pods.list(&params)).await {
        Ok(list) => list
            .items
            .into_iter()
            .filter_map(|p| p.spec)
            .flat_map(|s| s.containers)
            .flat_map(|c| c.command.into_iter().chain(c.args).flatten().collect::<Vec<_>>())
            .collect(),
        Err(e) => {
            tracing::debug!(error = %e, "the control plane's flags cannot be read");
            Vec::new()
        }
    }
}

fn flag(flags: &[String], name: &str) -> Vec<IpNet> {
    let values = flags
        .iter()
        .filter_map(|f| f.strip_prefix(name))
        .flat_map(|v| v.split(','));
    let mut prefixes: Vec<IpNet> = values
        .filter_map(|p| p.trim().parse::<IpNet>().ok())
        .map(|p| p.trunc())
        .collect();
    prefixes.sort();
    prefixes.dedup();
    prefixes
}

async fn of_nodes(local: &Client) -> Result<Vec<IpNet>, BrokerError> {
    let nodes: Api<Node> = Api::all(local.clone());
    let list = within(
        "reading the nodes' pod prefixes",
        nodes.list(&ListParams::default()),
    )
    .await?;
    let mut prefixes: Vec<IpNet> = Vec::new();
    for spec in list.items.into_iter().filter_map(|n| n.spec) {
        let all = spec
            .pod_cidrs
            .unwrap_or_else(|| spec.pod_cidr.into_iter().collect());
        prefixes.extend(all.iter().filter_map(|p| p.parse::<IpNet>().ok()));
    }
    if prefixes.is_empty() {
        return Err(BrokerError::State(
            "this cluster does not say which prefixes its pods have (no Node has podCIDRs); name them with --pod-cidr"
                .to_owned(),
        ));
    }
    Ok(IpNet::aggregate(&prefixes))
}

async fn service_cidrs(local: &Client) -> Vec<IpNet> {
    let api: Api<ServiceCIDR> = Api::all(local.clone());
    match within("reading ServiceCIDRs", api.list(&ListParams::default())).await {
        Ok(list) => {
            let all = list
                .items
                .into_iter()
                .filter_map(|c| c.spec)
                .flat_map(|s| s.cidrs.unwrap_or_default());
            all.filter_map(|p| p.parse::<IpNet>().ok()).collect()
        }
        Err(e) => {
            tracing::debug!(error = %e, "this cluster has no readable ServiceCIDRs");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::flag;

    #[test]
    fn ranges_are_read_from_flags_of_every_family() {
        let flags: Vec<String> = [
            "kube-controller-manager",
            "--cluster-cidr=10.244.0.0/16,fd00:10:244::/56",
            "--x=1",
        ]
        .map(str::to_owned)
        .to_vec();
        let found: Vec<String> = flag(&flags, "--cluster-cidr=")
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(found, ["10.244.0.0/16", "fd00:10:244::/56"]);
        assert_eq!(flag(&flags, "--service-cluster-ip-range="), []);
    }
}
