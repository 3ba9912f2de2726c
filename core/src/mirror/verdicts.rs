//! What this cluster says of the records that it holds: `Admitted` on each copy.

use std::collections::BTreeMap;

use strait_api::Condition;
use strait_api::records::ExportedServiceSpec;

use super::{Kind, Problem};
use crate::clusterset::{Clusterset, Record, Refusal};
use crate::services::sane::{short, verdict};

/// The conditions of all copies, by kind and name here, without their times. What is this cluster's own gets none.
pub fn verdicts(
    set: &Clusterset,
    copies: &BTreeMap<Kind, Vec<String>>,
    services: &[Record<ExportedServiceSpec>],
) -> BTreeMap<(Kind, String), Condition> {
    let mut refused: BTreeMap<(String, String), Vec<Refusal>> = BTreeMap::new();
    for refusal in set.refusals.iter().cloned() {
        refused
            .entry((refusal.kind.clone(), refusal.name.clone()))
            .or_default()
            .push(refusal);
    }
    let mut verdicts: BTreeMap<(Kind, String), Condition> = services
        .iter()
        .filter(|s| s.owner.is_some())
        .map(|s| ((Kind::ExportedService, s.name.clone()), verdict(set, s).1))
        .collect();
    for (kind, names) in copies.iter().filter(|(kind, _)| **kind != Kind::ExportedService) {
        for name in names {
            let condition = match refused.get(&(kind.as_str().to_owned(), name.clone())) {
                None => Condition::new("Admitted", true, "Admitted", ""),
                Some(refusals) => {
                    let reason = refusals.first().map_or("Refused", |r| r.reason.as_str());
                    let message = refusals
                        .iter()
                        .map(|r| r.message.as_str())
                        .collect::<Vec<_>>()
                        .join("; ");
                    Condition::new("Admitted", false, reason, short(message))
                }
            };
            verdicts.insert((*kind, name.clone()), condition);
        }
    }
    verdicts
}

/// Whether all that a member publishes is copied here: the condition on the copy of its Cluster record.
pub fn copied(problems: &std::collections::BTreeSet<Problem>) -> Condition {
    /// Problems that the message names.
    const TOLD: usize = 5;
    if problems.is_empty() {
        return Condition::new("Copied", true, "AllCopied", "");
    }
    let mut sentences: Vec<String> = problems
        .iter()
        .take(TOLD)
        .map(|p| format!("{} {}: {}", p.kind, p.name, p.message))
        .collect();
    if problems.len() > TOLD {
        sentences.push(format!("and {} more", problems.len() - TOLD));
    }
    Condition::new("Copied", false, "RecordsLeftOut", short(sentences.join("; ")))
}
