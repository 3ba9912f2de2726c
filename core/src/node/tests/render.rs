//! A state as text that people can review: roughly what `ip` and `nft` would print.

use std::fmt::Write as _;

use crate::kernel::{
    Action, AddressFamily, Chain, Element, KernelState, Match, NftTable, RejectWith, RouteKind, Rule,
};

pub(super) fn state(state: &KernelState) -> String {
    let mut out = String::new();
    let o = &mut out;
    if let Some(l) = &state.overlay {
        writeln!(
            o,
            "link {} vxlan id {} port {} local {} mac {} mtu {} rp_filter {}",
            l.name, l.vni, l.port, l.local, l.mac, l.mtu, l.rp_filter
        )
        .unwrap();
    }
    for a in &state.addresses {
        writeln!(o, "address {} dev {}", a.address, a.device).unwrap();
    }
    for n in &state.neighbours {
        writeln!(o, "neighbour {} mac {} dev {}", n.address, n.mac, n.device).unwrap();
    }
    for f in &state.fdb {
        writeln!(o, "fdb {} node {} dev {}", f.mac, f.node, f.device).unwrap();
    }
    for r in &state.rules {
        let device = r.input_device.as_deref().unwrap_or("any");
        writeln!(
            o,
            "rule {:?} {} iif {device} table {}",
            r.family, r.priority, r.table
        )
        .unwrap();
    }
    for r in &state.routes {
        write!(
            o,
            "route table {} {} metric {} ",
            r.table, r.destination, r.metric
        )
        .unwrap();
        match &r.kind {
            RouteKind::Unreachable => write!(o, "unreachable").unwrap(),
            RouteKind::Throw => write!(o, "throw").unwrap(),
            RouteKind::Unicast {
                next_hops,
                source,
                mtu,
            } => {
                let hops: Vec<String> = next_hops
                    .iter()
                    .map(|h| match h.via {
                        Some(via) => format!("via {via} dev {}", h.device),
                        None => format!("dev {}", h.device),
                    })
                    .collect();
                write!(o, "{}", hops.join(" or ")).unwrap();
                if let Some(source) = source {
                    write!(o, " src {source}").unwrap();
                }
                if let Some(mtu) = mtu {
                    write!(o, " mtu {mtu}").unwrap();
                }
            }
        }
        writeln!(o).unwrap();
    }
    for (name, s) in &state.sysctls {
        writeln!(o, "sysctl {name} = {}", s.value).unwrap();
    }
    for f in &state.foreign_accepts {
        writeln!(o, "accept in {} {} {}", f.family, f.table, f.chain).unwrap();
    }
    if let Some(nft) = &state.nft {
        table(o, nft);
    }
    out
}

fn table(o: &mut String, nft: &NftTable) {
    for (name, set) in &nft.sets {
        let elements: Vec<String> = set.elements.iter().map(element).collect();
        writeln!(o, "set {name} {{ {} }}", elements.join(", ")).unwrap();
    }
    for (name, c) in &nft.chains {
        chain(o, name, c);
    }
}

fn chain(o: &mut String, name: &str, chain: &Chain) {
    match chain.base {
        Some((kind, hook, priority)) => writeln!(o, "chain {name} {kind:?} {hook:?} {priority}").unwrap(),
        None => writeln!(o, "chain {name}").unwrap(),
    }
    for r in &chain.rules {
        writeln!(o, "  {}", rule(r)).unwrap();
    }
}

fn rule(rule: &Rule) -> String {
    let matches = rule.matches.iter().map(condition);
    matches
        .chain(rule.actions.iter().map(action))
        .collect::<Vec<_>>()
        .join(" ")
}

fn element(e: &Element) -> String {
    match e {
        Element::Prefix(p) => p.to_string(),
        Element::Address(a) => a.to_string(),
        Element::Pair(a, b) => format!("{a} . {b}"),
        Element::Vip(vip, protocol, port, chain) => format!("{vip} . {protocol:?} . {port} : {chain}"),
    }
}

fn condition(m: &Match) -> String {
    match m {
        Match::InputDevice(d) => format!("iif {d}"),
        Match::OutputDevice(d) => format!("oif {d}"),
        Match::Family(AddressFamily::V4) => "ip".to_owned(),
        Match::Family(AddressFamily::V6) => "ip6".to_owned(),
        Match::In(k, p) => format!("{k:?} {p}"),
        Match::NotIn(k, p) => format!("{k:?} != {p}"),
        Match::InSet(k, s) => format!("{k:?} @{s}"),
        Match::NotInSet(k, s) => format!("{k:?} != @{s}"),
        Match::ConcatInSet(k, s) => format!("{k:?} @{s}"),
        other => format!("{other:?}"),
    }
}

fn action(a: &Action) -> String {
    match a {
        Action::Jump(chain) => format!("jump {chain}"),
        Action::Snat(to) => format!("snat {to}"),
        Action::Reject(RejectWith::PortUnreachable) => "reject".to_owned(),
        Action::VipLookup(f, set) => format!("lookup {f:?} @{set}"),
        other => format!("{other:?}"),
    }
}
