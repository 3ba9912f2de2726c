//! Kernels without something that Strait uses: each error names what is missing and what to do about it, and
//! what does not need it is done all the same.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use strait_core::kernel::{
    Action, ActualState, AddressFamily, Chain, ChainKind, GUARD_METRIC, Hook, KernelState, MAIN_TABLE,
    MacAddress, Match, NftTable, OVERLAY_DEVICE, OVERLAY_PORT, OVERLAY_VNI, OverlayLink, PolicyRule,
    RULE_PRIORITY, Route, RouteKind, Rule, plan,
};

use super::sysctl::Sysctls;
use super::{Inner, Kernel};
use crate::link::Links;
use crate::netlink::Socket;
use crate::netlink::other::{Answers, refusals};
use crate::netns::Netns;
use crate::nft::{GET_CHAIN, NEW_CHAIN, NEW_RULE, SUBSYSTEM};
use crate::testing::as_root;

/// A real kernel, in a namespace of its own, that refuses all requests of this type whose bytes hold `word`.
fn lacking(kind: u16, word: &'static str, errno: i32) -> Kernel {
    let answers = || -> Answers {
        Box::new(move |datagram| {
            let refused = refusals(datagram, errno, |message| {
                let named = || {
                    message
                        .payload()
                        .windows(word.len())
                        .any(|w| w == word.as_bytes())
                };
                message.message_type() == kind && (word.is_empty() || named())
            });
            (!refused.is_empty()).then_some(refused)
        })
    };
    let namespace = Netns::new().unwrap();
    let (links, nft) = namespace
        .run(|| (Socket::route().unwrap(), Socket::netfilter().unwrap()))
        .unwrap();
    Kernel {
        inner: Arc::new(Inner {
            namespace,
            links: Links::over(links.with(answers())),
            nft: Mutex::new(nft.with(answers())),
            sysctls: Sysctls::none(),
            turn: Mutex::default(),
        }),
    }
}

/// An overlay, a guard, a policy rule, and a table that jumps, translates and asks for the address type.
fn wanted() -> KernelState {
    let overlay = OverlayLink {
        name: OVERLAY_DEVICE.into(),
        vni: OVERLAY_VNI,
        port: OVERLAY_PORT,
        local: Ipv4Addr::LOCALHOST.into(),
        mac: MacAddress([2, 0, 0, 0, 0, 1]),
        mtu: 1450,
        rp_filter: 2,
    };
    let guard = Route {
        table: MAIN_TABLE,
        destination: "10.2.0.0/16".parse().unwrap(),
        metric: GUARD_METRIC,
        kind: RouteKind::Unreachable,
    };
    let rule = PolicyRule {
        family: AddressFamily::V4,
        priority: RULE_PRIORITY,
        input_device: Some(OVERLAY_DEVICE.into()),
        table: 8300,
    };
    let chain = |kind, hook, matches, actions| Chain {
        base: Some((kind, hook, 0)),
        rules: vec![Rule { matches, actions }],
    };
    let mut table = NftTable::default();
    let local = chain(
        ChainKind::Filter,
        Hook::Prerouting,
        vec![Match::DestinationIsLocal],
        vec![Action::Accept],
    );
    let masquerade = chain(
        ChainKind::Nat,
        Hook::Postrouting,
        vec![],
        vec![Action::Masquerade],
    );
    table.chains.insert("local".into(), local);
    table.chains.insert("postrouting".into(), masquerade);
    KernelState {
        overlay: Some(overlay),
        routes: [guard].into(),
        rules: [rule].into(),
        nft: Some(table),
        ..KernelState::default()
    }
}

/// What the kernel holds after the plan, and what failed.
fn applied(kernel: &Kernel) -> (ActualState, Vec<String>) {
    let made = plan(&wanted(), &kernel.read_now().unwrap());
    let report = kernel.apply_now(&made).unwrap();
    let failed = report.failed.iter().map(ToString::to_string).collect();
    (kernel.read_now().unwrap(), failed)
}

fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[test]
fn without_nftables_nothing_is_half_done() {
    as_root("kernel::lacking::without_nftables_nothing_is_half_done", || {
        for errno in [libc::EINVAL, libc::EOPNOTSUPP] {
            let kernel = lacking(SUBSYSTEM << 8 | GET_CHAIN, "", errno);
            let error = kernel.read_now().unwrap_err().to_string();
            says(&error, &["no nftables", "list nftables chains", "nf_tables"]);
            // Without its filter a node must not be opened to other clusters.
            assert!(
                kernel
                    .inner
                    .links
                    .routes(strait_core::kernel::ROUTE_PROTOCOL)
                    .unwrap()
                    .is_empty()
            );
        }
    });
}

#[test]
fn without_vxlan_the_rest_is_applied() {
    as_root("kernel::lacking::without_vxlan_the_rest_is_applied", || {
        let kernel = lacking(libc::RTM_NEWLINK, "vxlan", libc::EOPNOTSUPP);
        let (state, failed) = applied(&kernel);
        assert_eq!(failed.len(), 1, "{failed:?}");
        says(&failed[0], &[OVERLAY_DEVICE, "no VXLAN devices", "module vxlan"]);
        assert_eq!((state.routes.len(), state.rules.len()), (1, 1));
        assert_eq!(state.nft.map(|t| t.chains.len()), Some(2));
    });
}

#[test]
fn without_policy_routing_the_error_says_so() {
    as_root(
        "kernel::lacking::without_policy_routing_the_error_says_so",
        || {
            let kernel = lacking(libc::RTM_GETRULE, "", libc::EOPNOTSUPP);
            let error = kernel.read_now().unwrap_err().to_string();
            says(&error, &["no policy routing", "CONFIG_IP_MULTIPLE_TABLES"]);
        },
    );
}

#[test]
fn without_an_expression_the_chain_and_the_module_are_named() {
    as_root(
        "kernel::lacking::without_an_expression_the_chain_and_the_module_are_named",
        || {
            let kernel = lacking(SUBSYSTEM << 8 | NEW_RULE, "masq", libc::ENOENT);
            let (state, failed) = applied(&kernel);
            says(
                &failed.join("\n"),
                &["nft_masq", "chain postrouting", "load the modules"],
            );
            // nftables changes as a whole or not at all; guards, devices and rules do not wait for it.
            assert_eq!(state.nft, None);
            assert_eq!((state.routes.len(), state.rules.len()), (1, 1));
            assert!(state.overlay.is_some());
        },
    );
}

#[test]
fn without_nat_the_chain_type_is_named() {
    as_root("kernel::lacking::without_nat_the_chain_type_is_named", || {
        let kernel = lacking(SUBSYSTEM << 8 | NEW_CHAIN, "nat", libc::ENOENT);
        let (state, failed) = applied(&kernel);
        says(&failed.join("\n"), &["type nat", "postrouting", "nft_chain_nat"]);
        assert_eq!((state.nft, state.routes.len()), (None, 1));
    });
}
