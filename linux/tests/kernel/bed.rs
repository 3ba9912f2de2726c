//! A client, a node between, and a server: three namespaces.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use strait_core::kernel::{
    Action, Address, AddressFamily, Chain, ChainKind, Element, FdbEntry, Hook, KernelState, MAIN_TABLE,
    MacAddress, Match, NextHop, NftSet, NftTable, OVERLAY_DEVICE, OVERLAY_PORT, OVERLAY_VNI, OverlayLink,
    Plan, Route, RouteKind, Rule, SetKind, Sysctl, plan,
};
use strait_linux::link::{Links, PROTOCOL_STATIC, VethEnd};
use strait_linux::netns::Netns;
use strait_linux::{Kernel, Report};

pub(crate) struct Bed {
    pub(crate) client: Netns,
    pub(crate) node: Netns,
    pub(crate) server: Netns,
    pub(crate) client_links: Links,
    pub(crate) node_links: Links,
    pub(crate) kernel: Kernel,
    pub(crate) state_dir: tempfile::TempDir,
}

pub(crate) const CLIENTS: [&str; 2] = ["10.1.0.2", "fd01::2"];
pub(crate) const NODE_TO_SERVER: [&str; 2] = ["10.2.0.1", "fd02::1"];
pub(crate) const SERVERS: [&str; 2] = ["10.2.0.2", "fd02::2"];
pub(crate) const FAMILIES: [AddressFamily; 2] = [AddressFamily::V4, AddressFamily::V6];

fn route(links: &Links, destination: &str, device: &str, via: &str) {
    let route = Route {
        table: MAIN_TABLE,
        destination: destination.parse().unwrap(),
        metric: 100,
        kind: RouteKind::Unicast {
            next_hops: vec![NextHop {
                device: device.into(),
                via: Some(via.parse().unwrap()),
            }],
            source: None,
            mtu: None,
        },
    };
    links.set_route(&route, PROTOCOL_STATIC).unwrap();
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "{what} did not come within 20 s"
        );
        thread::sleep(Duration::from_millis(2));
    }
}

/// How long a connection may take: packets of a refused one are lost, so some tests wait for all of it.
const PATIENCE: Duration = Duration::from_secs(3);

impl Bed {
    pub(crate) fn new() -> Self {
        let [client, node, server] = [(); 3].map(|()| Netns::new().unwrap());
        let client_links = Links::open_in(&client).unwrap();
        let node_links = Links::open_in(&node).unwrap();
        let server_links = Links::open_in(&server).unwrap();
        for (far, inside) in [(&client, "client0"), (&server, "server0")] {
            let near = VethEnd {
                name: inside,
                ..VethEnd::default()
            };
            let far = VethEnd {
                name: "eth0",
                namespace: Some(far),
                ..VethEnd::default()
            };
            node_links.add_veth(&near, &far).unwrap();
            node_links.set_up(inside).unwrap();
        }
        for (links, device, addresses) in [
            (&client_links, "eth0", ["10.1.0.2/24", "fd01::2/64"]),
            (&node_links, "client0", ["10.1.0.1/24", "fd01::1/64"]),
            (&node_links, "server0", ["10.2.0.1/24", "fd02::1/64"]),
            (&server_links, "eth0", ["10.2.0.2/24", "fd02::2/64"]),
            (&server_links, "eth0", ["10.2.0.3/24", "fd02::3/64"]),
            (&server_links, "eth0", ["10.2.0.4/24", "fd02::4/64"]),
        ] {
            links.set_up(device).unwrap();
            for address in addresses {
                links.add_address(device, address.parse().unwrap()).unwrap();
            }
        }
        // The kernel gets a device ready for IPv6 after it has seen the carrier, which takes a moment.
        for (links, device) in [
            (&client_links, "eth0"),
            (&node_links, "client0"),
            (&node_links, "server0"),
            (&server_links, "eth0"),
        ] {
            wait_for("a link-local address", || {
                links
                    .addresses(device)
                    .unwrap()
                    .iter()
                    .any(|a| a.to_string().starts_with("fe80:"))
            });
        }
        route(&client_links, "0.0.0.0/0", "eth0", "10.1.0.1");
        route(&client_links, "::/0", "eth0", "fd01::1");
        route(&server_links, "0.0.0.0/0", "eth0", "10.2.0.1");
        route(&server_links, "::/0", "eth0", "fd02::1");
        let state_dir = tempfile::tempdir().unwrap();
        let kernel = Kernel::open_in(&node, state_dir.path()).unwrap();
        Self {
            client,
            node,
            server,
            client_links,
            node_links,
            kernel,
            state_dir,
        }
    }

    /// Makes the node's kernel be as wanted.
    pub(crate) fn reconcile(&self, wanted: &KernelState) -> Plan {
        reconcile(&self.kernel, wanted)
    }
}

/// Makes a kernel be as wanted: the plan must go through, and a second one be empty.
pub(crate) fn reconcile(kernel: &Kernel, wanted: &KernelState) -> Plan {
    let made = plan(wanted, &kernel.read_now().unwrap());
    let report = kernel.apply_now(&made).unwrap();
    assert_done(&report);
    let again = plan(wanted, &kernel.read_now().unwrap());
    assert!(
        again.is_empty(),
        "after carrying out\n{made}\nthere is still to do\n{again}"
    );
    made
}

pub(crate) fn assert_done(report: &Report) {
    let failed: Vec<String> = report.failed.iter().map(ToString::to_string).collect();
    assert!(report.is_ok(), "{}", failed.join("\n"));
}

/// Forwarding on, and these chains.
pub(crate) fn forwarding(chains: impl IntoIterator<Item = (&'static str, Chain)>) -> KernelState {
    let on = |name: &str| (name.to_owned(), Sysctl { value: "1".into() });
    KernelState {
        sysctls: BTreeMap::from([on("net/ipv4/ip_forward"), on("net/ipv6/conf/all/forwarding")]),
        nft: Some(NftTable {
            chains: chains
                .into_iter()
                .map(|(name, chain)| (name.to_owned(), chain))
                .collect(),
            sets: BTreeMap::new(),
        }),
        ..KernelState::default()
    }
}

pub(crate) fn base(kind: ChainKind, hook: Hook, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain {
        base: Some((kind, hook, priority)),
        rules,
    }
}

pub(crate) fn rule(matches: Vec<Match>, actions: Vec<Action>) -> Rule {
    Rule { matches, actions }
}

pub(crate) fn set(kind: SetKind, elements: impl IntoIterator<Item = Element>) -> NftSet {
    NftSet {
        kind,
        elements: elements.into_iter().collect(),
    }
}

pub(crate) fn overlay() -> OverlayLink {
    OverlayLink {
        name: OVERLAY_DEVICE.into(),
        vni: OVERLAY_VNI,
        port: OVERLAY_PORT,
        local: "10.2.0.1".parse().unwrap(),
        mac: MacAddress([2, 0, 240, 0, 16, 1]),
        mtu: 1450,
        rp_filter: 2,
    }
}

/// A node with an overlay to one gateway, a remote cluster behind it, and guards, in both families.
pub(crate) fn with_overlay(mut state: KernelState) -> KernelState {
    let gateway = MacAddress([2, 0, 240, 0, 16, 2]);
    let device = OVERLAY_DEVICE.to_owned();
    state.overlay = Some(overlay());
    state
        .addresses
        .extend(["240.0.16.1/32", "fd53::1/128"].map(|a| Address {
            device: device.clone(),
            address: a.parse().unwrap(),
        }));
    state.fdb = BTreeSet::from([FdbEntry {
        device: device.clone(),
        mac: gateway,
        node: "10.2.0.2".parse().unwrap(),
    }]);
    for (hop, source, remote) in [
        ("240.0.16.2", "240.0.16.1", "10.90.0.0/16"),
        ("fd53::2", "fd53::1", "fd90::/48"),
    ] {
        let (hop, source): (IpAddr, IpAddr) = (hop.parse().unwrap(), source.parse().unwrap());
        state.neighbours.insert(strait_core::kernel::Neighbour {
            device: device.clone(),
            address: hop,
            mac: gateway,
        });
        let destination = remote.parse().unwrap();
        let kind = RouteKind::Unicast {
            next_hops: vec![NextHop {
                device: device.clone(),
                via: Some(hop),
            }],
            source: Some(source),
            mtu: Some(1380),
        };
        state.routes.insert(Route {
            table: MAIN_TABLE,
            destination,
            metric: strait_core::kernel::ROUTE_METRIC,
            kind,
        });
        state.routes.insert(guard(remote));
    }
    state
}

pub(crate) fn guard(prefix: &str) -> Route {
    Route {
        table: MAIN_TABLE,
        destination: prefix.parse().unwrap(),
        metric: strait_core::kernel::GUARD_METRIC,
        kind: RouteKind::Unreachable,
    }
}

/// A TCP listener inside a namespace that accepts for as long as the test runs and says, for each
/// connection, which of its addresses it was and whom it saw.
pub(crate) fn listen(namespace: &Netns, address: &str, port: u16) {
    let at = SocketAddr::new(address.parse().unwrap(), port);
    let listener = namespace.run(move || TcpListener::bind(at)).unwrap().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            if let (Ok(local), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) {
                let answer = format!("{} {} {}", local.ip(), peer.ip(), max_segment(&stream));
                // A client that went away early fails its own assertion.
                _ = std::io::Write::write_all(&mut stream, answer.as_bytes());
            }
        }
    });
}

/// The endpoint that answered, whom it saw, and the segment size it may send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) endpoint: IpAddr,
    pub(crate) client: IpAddr,
    pub(crate) max_segment: u32,
}

/// One connection from a namespace; the error where there is none.
pub(crate) fn ask(namespace: &Netns, to: &str, port: u16) -> std::io::Result<Answer> {
    ask_from(namespace, None, None, to, port)
}

pub(crate) fn ask_from(
    namespace: &Netns,
    from: Option<IpAddr>,
    announce: Option<u32>,
    to: &str,
    port: u16,
) -> std::io::Result<Answer> {
    let to = SocketAddr::new(to.parse().unwrap(), port);
    let connect = move || -> std::io::Result<TcpStream> {
        let socket = socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None)?;
        if let Some(size) = announce {
            socket.set_tcp_mss(size)?;
        }
        if let Some(from) = from {
            socket.bind(&SocketAddr::new(from, 0).into())?;
        }
        socket.connect_timeout(&to.into(), PATIENCE)?;
        Ok(socket.into())
    };
    let mut stream = namespace.run(connect).unwrap()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    std::io::Read::read_to_string(&mut stream, &mut text)?;
    let mut words = text.split(' ');
    let mut next = || words.next().unwrap_or_default();
    Ok(Answer {
        endpoint: next().parse().unwrap(),
        client: next().parse().unwrap(),
        max_segment: next().parse().unwrap(),
    })
}

fn max_segment(stream: &TcpStream) -> u32 {
    socket2::SockRef::from(stream).tcp_mss().unwrap()
}
