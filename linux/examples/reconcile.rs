//! How long a large node takes to reconcile: `cargo run --release -p strait-linux --example reconcile`.
//! Needs root or user namespaces; touches only a network namespace that it makes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use ipnet::IpNet;
use strait_core::kernel::{
    Action, AddressFamily, Chain, ChainKind, Element, GUARD_METRIC, Hook, KernelState, MAIN_TABLE, NextHop,
    NftSet, NftTable, Protocol, ROUTE_METRIC, Route, RouteKind, Rule, SetKind, plan,
};
use strait_linux::link::{Links, VethEnd};
use strait_linux::netns::Netns;
use strait_linux::{Kernel, userns};

const PREFIXES: u32 = 10_000;
const SERVICES: u32 = 5_000;
const ENDPOINTS: u32 = 3;

fn address(base: u32, n: u32) -> IpAddr {
    Ipv4Addr::from(base + n).into()
}

fn large(changed: u32) -> KernelState {
    let prefix = |n: u32| IpNet::new(address(0x1400_0000, n << 9), 24);
    let hop = NextHop {
        device: "near".into(),
        via: Some(address(0x0a00_0000, 2)),
    };
    let mut state = KernelState::default();
    let mut prefixes = Vec::new();
    for prefix in (0..PREFIXES).filter_map(|n| prefix(n).ok()) {
        prefixes.push(Element::Prefix(prefix));
        let unicast = RouteKind::Unicast {
            next_hops: vec![hop.clone()],
            source: None,
            mtu: None,
        };
        for (metric, kind) in [(ROUTE_METRIC, unicast), (GUARD_METRIC, RouteKind::Unreachable)] {
            state.routes.insert(Route {
                table: MAIN_TABLE,
                destination: prefix,
                metric,
                kind,
            });
        }
    }
    let mut table = NftTable::default();
    let remote = NftSet {
        kind: SetKind::Prefixes(AddressFamily::V4),
        elements: prefixes.into_iter().collect(),
    };
    table.sets.insert("remote".into(), remote);
    let vip = |n| Element::Vip(address(0x0a63_0000, n), Protocol::Tcp, 80, "balance".into());
    let kind = SetKind::Vips(AddressFamily::V4);
    table.sets.insert(
        "vips".into(),
        NftSet {
            kind,
            elements: (0..SERVICES).map(vip).collect(),
        },
    );
    let mut endpoints = BTreeSet::new();
    for n in 0..SERVICES {
        let shift = if n < changed { 1 } else { 0 };
        let vip = address(0x0a63_0000, n);
        let target = |i| SocketAddr::new(address(0x0b00_0000, ENDPOINTS * n + i + shift), 8080);
        endpoints.extend((0..ENDPOINTS).map(|i| Element::Endpoint(vip, Protocol::Tcp, 80, i, target(i))));
    }
    let balance = Action::Balance {
        map: "endpoints".into(),
        family: AddressFamily::V4,
        count: ENDPOINTS,
        by_source: false,
    };
    let rules = vec![Rule {
        matches: vec![],
        actions: vec![balance],
    }];
    table.chains.insert("balance".into(), Chain { base: None, rules });
    table.sets.insert(
        "endpoints".into(),
        NftSet {
            kind: SetKind::Endpoints(AddressFamily::V4),
            elements: endpoints,
        },
    );
    let lookup = Action::VipLookup(AddressFamily::V4, "vips".into());
    let rules = vec![Rule {
        matches: vec![],
        actions: vec![lookup],
    }];
    table.chains.insert(
        "dnat".into(),
        Chain {
            base: Some((ChainKind::Nat, Hook::Prerouting, -101)),
            rules,
        },
    );
    KernelState {
        nft: Some(table),
        sysctls: BTreeMap::new(),
        ..state
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if !userns::is_root() {
        userns::become_root()?;
    }
    let (namespace, far) = (Netns::new()?, Netns::new()?);
    let links = Links::open_in(&namespace)?;
    links.add_veth(
        &VethEnd {
            name: "near",
            ..VethEnd::default()
        },
        &VethEnd {
            name: "far",
            namespace: Some(&far),
            ..VethEnd::default()
        },
    )?;
    links.set_up("near")?;
    links.add_address("near", "10.0.0.1/24".parse()?)?;
    let state_dir = std::env::temp_dir().join(format!("strait-reconcile-{}", std::process::id()));
    let kernel = Kernel::open_in(&namespace, &state_dir)?;
    println!("{PREFIXES} prefixes (each a route and a guard), {SERVICES} services of {ENDPOINTS} endpoints");
    for (what, wanted) in [
        ("from nothing", large(0)),
        ("nothing to do", large(0)),
        ("one service", large(1)),
        ("everything away", KernelState::default()),
    ] {
        let start = Instant::now();
        let actual = kernel.read_now()?;
        let read = start.elapsed();
        let made = plan(&wanted, &actual);
        let planned = start.elapsed();
        let report = kernel.apply_now(&made)?;
        let applied = start.elapsed();
        println!(
            "{what}: {} changes, {} failed; read {read:.1?}, plan {:.1?}, apply {:.1?}, in all {applied:.1?}",
            made.ops.len(),
            report.failed.len(),
            planned - read,
            applied - planned,
        );
        for failure in report.failed.iter().take(3) {
            println!("  {failure}");
        }
    }
    std::fs::remove_dir_all(&state_dir)?;
    Ok(())
}
