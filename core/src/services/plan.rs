//! What is missing between what should be and what is.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use strait_api::mcs::ServiceImportStatus;
use strait_api::records::{ExportedServiceSpec, IpFamily, MemberState};
use strait_api::{Condition, names};

use super::export::{self, Decision, Publication};
use super::import::{Import, import};
use super::merge::{Constituent, merge};
use super::slices::slices;
use super::{ExportRecord, Index, LABEL_MANAGED_BY, ServiceKey, Slice, sane};
use crate::clusterset::{OwnCluster, Record};

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Write this cluster's record of an exported service.
    PutRecord(Box<ExportedServiceSpec>),
    /// Delete a record of this cluster, by its name.
    DeleteRecord(String),
    /// Write an import's labels, annotations and spec.
    PutImport(Box<Import>),
    /// Write an import's status.
    PutImportStatus(Box<ServiceImportStatus>),
    /// Delete the import.
    DeleteImport,
    /// Write a slice.
    PutSlice(Box<Slice>),
    /// Delete a slice, by its name.
    DeleteSlice(String),
    /// Write the export's conditions.
    PutExportStatus(Vec<Condition>),
    /// Write the conditions of the copy of this name.
    PutRecordStatus(String, Vec<Condition>),
}

/// The writes by service; those of a service go in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Services that need writes.
    pub services: Vec<(ServiceKey, Vec<Step>)>,
}

impl Plan {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, steps) in &self.services {
            for step in steps {
                writeln!(f, "{key}: {step}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PutRecord(s) => {
                let endpoints: usize = s.endpoints.iter().map(|e| e.endpoints.len()).sum();
                write!(f, "write ExportedService ({endpoints} endpoints)")
            }
            Self::DeleteRecord(name) => write!(f, "delete ExportedService {name}"),
            Self::PutImport(i) => write!(f, "write ServiceImport ({:?} {:?})", i.spec.type_, i.spec.ips),
            Self::PutImportStatus(s) => {
                write!(f, "write status of ServiceImport ({} clusters)", s.clusters.len())
            }
            Self::DeleteImport => f.write_str("delete ServiceImport"),
            Self::PutSlice(s) => write!(
                f,
                "write EndpointSlice {} ({} endpoints)",
                s.name,
                s.endpoints.len()
            ),
            Self::DeleteSlice(name) => write!(f, "delete EndpointSlice {name}"),
            Self::PutExportStatus(c) => {
                let states: Vec<String> = c
                    .iter()
                    .map(|c| format!("{}={}/{}", c.type_, c.status, c.reason))
                    .collect();
                write!(f, "write status of ServiceExport ({})", states.join(" "))
            }
            Self::PutRecordStatus(name, _) => write!(f, "write status of ExportedService {name}"),
        }
    }
}

impl Index {
    /// The writes that are missing for these services. `failures` holds what the last write of a service's
    /// record failed with; `now` (RFC 3339) goes into conditions that change. Before this cluster has
    /// joined, nothing is known and nothing is planned.
    pub fn plan(
        &self,
        services: &BTreeSet<ServiceKey>,
        failures: &BTreeMap<ServiceKey, String>,
        now: &str,
    ) -> Plan {
        let mut plan = Plan::default();
        let Some(own) = &self.set.own else {
            return plan;
        };
        let mut reserved: BTreeMap<IpAddr, ServiceKey> = BTreeMap::new();
        for key in services {
            let mut work = Work {
                index: self,
                own,
                key,
                now,
                steps: Vec::new(),
            };
            work.all(failures.get(key), &mut reserved);
            if !work.steps.is_empty() {
                plan.services.push((key.clone(), work.steps));
            }
        }
        plan
    }
}

/// One service's turn.
struct Work<'a> {
    index: &'a Index,
    own: &'a OwnCluster,
    key: &'a ServiceKey,
    now: &'a str,
    steps: Vec<Step>,
}

impl Work<'_> {
    fn all(&mut self, failure: Option<&String>, reserved: &mut BTreeMap<IpAddr, ServiceKey>) {
        let decision = self.decision();
        let mut constituents = Vec::new();
        let mut note = None;
        let mut refused = None;
        let mut published = false;
        let name = names::exported_service_name(&self.key.name, &self.key.namespace);
        let mut statuses = Vec::new();

        let mut desired = None;
        if let Some(Decision::Publish(spec)) = &decision {
            let record = Record {
                owner: None,
                name: name.clone(),
                spec: (**spec).clone(),
            };
            refused = sane::problem(&record).or_else(|| self.own_namespace_problem());
            if refused.is_none() {
                let admitted = self.index.set.admit_service(&record);
                match (admitted.service, admitted.refusal) {
                    (Some(spec), refusal) => {
                        constituents.push(self.own_constituent(spec));
                        note = refusal.map(|r| r.message);
                        desired = Some(record.spec);
                    }
                    (None, refusal) => refused = refusal.map(|r| r.message),
                }
            }
        }
        let mut surplus = Vec::new();
        for (object, record) in self.index.records.of(self.key) {
            if record.record.owner.is_some() {
                let (constituent, status) = self.judge(record);
                constituents.extend(constituent);
                statuses.extend(status.map(|s| Step::PutRecordStatus(object.clone(), s)));
            } else if *object == name && desired.is_some() {
                published = true;
                if desired.as_ref() == Some(&record.record.spec) {
                    desired = None;
                }
            } else {
                surplus.push(Step::DeleteRecord(object.clone()));
            }
        }
        let first_time = desired.is_some() && !published;
        self.steps.extend(desired.map(|s| Step::PutRecord(Box::new(s))));

        let merged = merge(&constituents);
        let conflicts = merged.as_ref().map(|m| m.conflicts.clone()).unwrap_or_default();
        let here = self.index.namespaces.get(&self.key.namespace) == Some(&false);
        match merged {
            Some(merged) if here => {
                let ranges = ranges(self.own);
                let existing = self.index.imports.get(self.key);
                let wanted = import(self.key, &merged, &constituents, &ranges, existing, |a| {
                    self.taken(a) || reserved.get(&a).is_some_and(|k| k != self.key)
                });
                reserved.extend(wanted.spec.ips.iter().flatten().map(|a| (*a, self.key.clone())));
                self.put_import(wanted);
                let wanted: BTreeMap<String, Slice> = constituents
                    .iter()
                    .flat_map(|c| slices(self.key, &merged, self.own.id(), c))
                    .map(|s| (s.name.clone(), s))
                    .collect();
                self.put_slices(wanted);
            }
            _ if here => {
                self.put_slices(BTreeMap::new());
                let ours = |i: &super::ImportObject| {
                    i.labels.get(LABEL_MANAGED_BY).map(String::as_str) == Some(names::MANAGED_BY)
                };
                if self.index.imports.get(self.key).is_some_and(ours) {
                    self.steps.push(Step::DeleteImport);
                }
            }
            // What stands in a namespace that ends goes with it.
            _ => {}
        }
        self.steps.extend(surplus);
        self.steps.extend(statuses);

        if let (Some(decision), Some(export)) = (&decision, self.index.exports.get(self.key)) {
            let publication = match (refused.as_ref().or(failure), published) {
                (Some(why), _) => Publication::Failed(why.clone()),
                (None, true) => Publication::Published,
                (None, false) => Publication::Pending,
            };
            // The outcome of the first write follows at once.
            if !(first_time && publication == Publication::Pending) {
                let wanted = export::conditions(export, decision, &publication, note.as_deref(), &conflicts);
                if let Some(changed) = merge_conditions(&export.conditions, wanted, self.now) {
                    self.steps.push(Step::PutExportStatus(changed));
                }
            }
        }
    }

    fn decision(&self) -> Option<Decision> {
        let export = self.index.exports.get(self.key)?;
        let slices = self.index.local_slices.of(self.key).map(|(_, s)| s);
        Some(export::decide(
            self.own.id(),
            export,
            self.index.services.get(self.key),
            slices,
        ))
    }

    fn own_namespace_problem(&self) -> Option<String> {
        let admitted = &self.own.member.as_ref()?.export_namespaces;
        let allowed = admitted.iter().any(|n| n == "*" || *n == self.key.namespace);
        (!allowed).then(|| {
            format!(
                "the broker does not let this cluster export services of namespace {} (admitted: {})",
                self.key.namespace,
                admitted.join(", ")
            )
        })
    }

    fn own_constituent(&self, spec: ExportedServiceSpec) -> Constituent {
        Constituent {
            spec,
            admitted_at: self.own.member.as_ref().map(|m| m.admitted_at.clone()),
            draining: self
                .own
                .member
                .as_ref()
                .is_some_and(|m| m.state == MemberState::Draining),
        }
    }

    /// What of a copy counts, and its new conditions if they change.
    fn judge(&self, copy: &ExportRecord) -> (Option<Constituent>, Option<Vec<Condition>>) {
        let (counts, condition) = sane::verdict(&self.index.set, &copy.record);
        let status = merge_conditions(&copy.conditions, vec![condition], self.now);
        let constituent = counts.map(|spec| {
            let remote = self.index.set.remotes.get(&spec.cluster_id);
            Constituent {
                admitted_at: remote.map(|r| r.admitted_at.clone()),
                draining: remote.is_some_and(|r| r.state == MemberState::Draining),
                spec,
            }
        });
        (constituent, status)
    }

    /// Whether another service has the better right to an address: it holds it and this one does not, or
    /// it held it first.
    fn taken(&self, address: IpAddr) -> bool {
        let Some(holders) = self.index.vips.get(&address) else {
            return false;
        };
        let mine = holders.iter().find(|(_, k)| k == self.key);
        holders
            .iter()
            .any(|h| h.1 != *self.key && mine.is_none_or(|m| h < m))
    }

    fn put_import(&mut self, wanted: Import) {
        let existing = self.index.imports.get(self.key);
        let mut status = wanted.status.clone();
        status.conditions = existing.map(|e| e.status.conditions.clone()).unwrap_or_default();
        for condition in wanted.status.conditions.clone() {
            condition.merge_into(&mut status.conditions, self.now);
        }
        let same = existing.is_some_and(|e| {
            e.spec == wanted.spec && e.labels == wanted.labels && e.annotations == wanted.annotations
        });
        if !same {
            self.steps.push(Step::PutImport(Box::new(wanted)));
        }
        if existing.is_none_or(|e| e.status != status) {
            self.steps.push(Step::PutImportStatus(Box::new(status)));
        }
    }

    /// New and changed slices first, then the old ones out.
    fn put_slices(&mut self, wanted: BTreeMap<String, Slice>) {
        let existing: BTreeMap<&String, &Slice> = self.index.slices.of(self.key).collect();
        let gone: Vec<Step> = existing
            .keys()
            .filter(|name| !wanted.contains_key(**name))
            .map(|name| Step::DeleteSlice((*name).clone()))
            .collect();
        for (name, slice) in wanted {
            if existing.get(&name) != Some(&&slice) {
                self.steps.push(Step::PutSlice(Box::new(slice)));
            }
        }
        self.steps.extend(gone);
    }
}

/// The VIP ranges whose family the cluster's pods have.
fn ranges(own: &OwnCluster) -> Vec<IpNet> {
    let pods = &own.cluster.pod_cidrs;
    own.cluster
        .vip_cidrs
        .iter()
        .filter(|r| {
            pods.is_empty()
                || pods
                    .iter()
                    .any(|p| IpFamily::of(p.network()) == IpFamily::of(r.network()))
        })
        .map(IpNet::trunc)
        .collect()
}

/// The list with these conditions in it, if that changes it.
fn merge_conditions(existing: &[Condition], wanted: Vec<Condition>, now: &str) -> Option<Vec<Condition>> {
    let mut list = existing.to_vec();
    let mut changed = false;
    for condition in wanted {
        changed |= condition.merge_into(&mut list, now);
    }
    changed.then_some(list)
}
