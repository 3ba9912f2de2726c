//! One clusterset service out of all its exports, and the conflicts between them.
//!
//! Every cluster works this out by itself over the same records and comes to the same result: the oldest
//! export wins (never older than its cluster's admission; ties go to the smaller cluster ID).

use std::collections::BTreeMap;

use strait_api::ClusterId;
use strait_api::records::{
    ClientIpConfig, ExportedServiceSpec, IpFamily, ServicePort, ServiceType, SessionAffinity,
};

use super::age;

/// One cluster's export of a service, as far as it is admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constituent {
    /// The admitted record.
    pub spec: ExportedServiceSpec,
    /// When the cluster was admitted (RFC 3339), if known.
    pub admitted_at: Option<String>,
    /// Whether the cluster takes no new connections.
    pub draining: bool,
}

impl Constituent {
    /// Whose export it is.
    pub fn cluster(&self) -> &ClusterId {
        &self.spec.cluster_id
    }

    fn order(&self) -> (i64, &ClusterId) {
        (
            age::effective(&self.spec.exported_at, self.admitted_at.as_deref()),
            self.cluster(),
        )
    }
}

/// A difference that could not be merged. All constituent exports show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Reason of `Conflict=True`.
    pub reason: &'static str,
    /// Field, winner and count.
    pub message: String,
}

/// The service that the clusterset sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// Its type.
    pub type_: ServiceType,
    /// Union of the ports: no name twice, no protocol and port twice.
    pub ports: Vec<ServicePort>,
    /// Families of the oldest in its order, then what others add.
    pub ip_families: Vec<IpFamily>,
    /// Session affinity.
    pub session_affinity: SessionAffinity,
    /// Its time.
    pub client_ip: Option<ClientIpConfig>,
    /// `internalTrafficPolicy`.
    pub internal_traffic_policy: Option<String>,
    /// `trafficDistribution`.
    pub traffic_distribution: Option<String>,
    /// Labels of the import.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the import.
    pub annotations: BTreeMap<String, String>,
    /// The conflicts.
    pub conflicts: Vec<Conflict>,
}

/// Merges all exports of one service; `None` if there are none. Their order does not matter.
pub fn merge(constituents: &[Constituent]) -> Option<Merged> {
    let mut by_age: Vec<&Constituent> = constituents.iter().collect();
    by_age.sort_by(|a, b| a.order().cmp(&b.order()));
    let oldest = *by_age.first()?;
    let mut judge = Judge {
        by_age: &by_age,
        conflicts: Vec::new(),
    };
    let ports = union_of_ports(&by_age);
    judge.compare("PortConflict", "ports", |c| {
        let mut ports = c.spec.ports.clone();
        ports.sort();
        ports
    });
    judge.compare("TypeConflict", "type", |c| c.spec.type_);
    judge.compare("SessionAffinityConflict", "sessionAffinity", |c| {
        c.spec.session_affinity
    });
    judge.compare("SessionAffinityConfigConflict", "sessionAffinityConfig", |c| {
        c.spec.client_ip.map(|t| t.timeout_seconds)
    });
    judge.compare("LabelsConflict", "exported labels", |c| &c.spec.exported_labels);
    judge.compare("AnnotationsConflict", "exported annotations", |c| {
        &c.spec.exported_annotations
    });
    judge.compare("InternalTrafficPolicyConflict", "internalTrafficPolicy", |c| {
        &c.spec.internal_traffic_policy
    });
    judge.compare("TrafficDistributionConflict", "trafficDistribution", |c| {
        &c.spec.traffic_distribution
    });
    judge.compare("IPFamilyConflict", "ipFamilies", |c| {
        let mut families = c.spec.ip_families.clone();
        families.sort();
        families
    });
    let mut ip_families: Vec<IpFamily> = Vec::new();
    for family in by_age.iter().flat_map(|c| &c.spec.ip_families) {
        if !ip_families.contains(family) {
            ip_families.push(*family);
        }
    }
    let conflicts = judge.conflicts;
    let spec = &oldest.spec;
    Some(Merged {
        type_: spec.type_,
        ports,
        ip_families,
        session_affinity: spec.session_affinity,
        client_ip: spec.client_ip,
        internal_traffic_policy: spec.internal_traffic_policy.clone(),
        traffic_distribution: spec.traffic_distribution.clone(),
        labels: spec.exported_labels.clone(),
        annotations: spec.exported_annotations.clone(),
        conflicts,
    })
}

struct Judge<'a> {
    by_age: &'a [&'a Constituent],
    conflicts: Vec<Conflict>,
}

impl<'a> Judge<'a> {
    fn compare<T: PartialEq>(
        &mut self,
        reason: &'static str,
        field: &str,
        of: impl Fn(&'a Constituent) -> T,
    ) {
        let Some((oldest, others)) = self.by_age.split_first() else {
            return;
        };
        let winner = of(oldest);
        let disagree = others.iter().filter(|c| of(c) != winner).count();
        if disagree > 0 {
            self.conflicts.push(Conflict {
                reason,
                message: format!(
                    "{field}: {disagree}/{} clusters disagree with cluster {}, whose export is the oldest and wins",
                    self.by_age.len(),
                    oldest.cluster()
                ),
            });
        }
    }
}

/// Merged first by name, then by protocol and port; the oldest wins.
fn union_of_ports(by_age: &[&Constituent]) -> Vec<ServicePort> {
    let mut ports: Vec<ServicePort> = Vec::new();
    for port in by_age.iter().flat_map(|c| &c.spec.ports) {
        let known =
            |p: &ServicePort| p.name == port.name || (p.protocol == port.protocol && p.port == port.port);
        if !ports.iter().any(known) {
            ports.push(port.clone());
        }
    }
    ports
}
