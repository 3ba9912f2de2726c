//! A state as text that people can review: one line for each object.

use std::fmt::Write as _;

use crate::kernel::KernelState;

pub(super) fn state(state: &KernelState) -> String {
    let mut lines: Vec<String> = Vec::new();
    lines.extend(state.overlay.iter().map(ToString::to_string));
    lines.extend(state.addresses.iter().map(ToString::to_string));
    lines.extend(state.neighbours.iter().map(ToString::to_string));
    lines.extend(state.fdb.iter().map(ToString::to_string));
    lines.extend(state.rules.iter().map(ToString::to_string));
    lines.extend(state.routes.iter().map(ToString::to_string));
    lines.extend(
        state
            .sysctls
            .iter()
            .map(|(name, s)| format!("sysctl {name} = {}", s.value)),
    );
    lines.extend(state.foreign_accepts.iter().map(ToString::to_string));
    let Some(nft) = &state.nft else {
        return lines.join("\n");
    };
    for (name, set) in &nft.sets {
        let elements: Vec<String> = set.elements.iter().map(ToString::to_string).collect();
        lines.push(format!("set {name} ({}) {{ {} }}", set.kind, elements.join(", ")));
    }
    for (name, chain) in &nft.chains {
        let mut text = format!("chain {name}");
        if let Some((kind, hook, priority)) = chain.base {
            write!(text, " ({kind} {hook} {priority})").unwrap();
        }
        lines.push(text);
        lines.extend(chain.rules.iter().map(|r| format!("  {r}")));
    }
    lines.join("\n")
}
