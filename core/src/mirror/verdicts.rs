//! What this cluster says of the records that it holds: `Admitted` on each copy.

use std::collections::BTreeMap;

use strait_api::Condition;
use strait_api::records::ExportedServiceSpec;

use super::Kind;
use crate::clusterset::{Clusterset, Record, Refusal};

/// The conditions of all copies, by kind and name here, without their times. What is this cluster's own gets none.
pub fn verdicts(
    set: &Clusterset,
    copies: &BTreeMap<Kind, Vec<String>>,
    services: &[Record<ExportedServiceSpec>],
) -> BTreeMap<(Kind, String), Condition> {
    let mut refused: BTreeMap<(String, String), Vec<Refusal>> = BTreeMap::new();
    let of_services = services.iter().filter_map(|s| set.admit_service(s).refusal);
    for refusal in set.refusals.iter().cloned().chain(of_services) {
        refused
            .entry((refusal.kind.clone(), refusal.name.clone()))
            .or_default()
            .push(refusal);
    }
    let mut verdicts = BTreeMap::new();
    for (kind, names) in copies {
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

/// A condition's message holds 32 KiB; a hostile record can make a longer one.
fn short(mut message: String) -> String {
    const MOST: usize = 4096;
    if message.len() > MOST {
        let end = (0..=MOST)
            .rev()
            .find(|i| message.is_char_boundary(*i))
            .unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
    message
}
