//! The network: pod - worker = gateway - pod, and beyond the gateway's tunnel the far cluster.
//!
//! The underlay is one veth pair; each node's default route points into a namespace that counts what
//! arrives there, which is what leaks.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use strait_core::clusterset::{Clusterset, OwnCluster, RemoteCluster};
use strait_core::kernel::{self, MAIN_TABLE, NextHop, Protocol, Route, RouteKind, TUNNEL_DEVICE};
use strait_core::node::{Node, NodeInputs, Observed, VipPort, VipService, VipSlice, desired};
use strait_linux::Kernel;
use strait_linux::link::{Links, PROTOCOL_STATIC, VethEnd};
use strait_linux::netns::Netns;
use strait_linux::tun::{Tun, TunOptions};
use tempfile::TempDir;

use crate::talk::send_udp;

/// Balanced to the far pod.
pub(crate) const VIP_REMOTE: [&str; 2] = ["243.0.0.1", "fd53:7472:7600::1"];
/// Balanced to the worker's pod.
pub(crate) const VIP_OWN: [&str; 2] = ["243.0.0.2", "fd53:7472:7600::2"];
/// Of no service with endpoints.
pub(crate) const VIP_SILENT: [&str; 2] = ["243.0.0.3", "fd53:7472:7600::3"];

type Pair = [IpAddr; 2];

pub(crate) struct Net {
    pub(crate) worker: Netns,
    pub(crate) worker_ip: Pair,
    pub(crate) worker_overlay: Pair,
    pub(crate) worker_kernel: Kernel,
    pub(crate) worker_pod: Netns,
    pub(crate) worker_pod_ip: Pair,
    pub(crate) gateway: Netns,
    pub(crate) gateway_ip: Pair,
    pub(crate) gateway_overlay: Pair,
    pub(crate) gateway_kernel: Kernel,
    pub(crate) gateway_pod: Netns,
    pub(crate) gateway_pod_ip: Pair,
    pub(crate) far: Netns,
    pub(crate) far_pod: Pair,
    /// Held by the far side, but outside its prefixes.
    pub(crate) far_stranger: Pair,
    outside: Netns,
    leak_baseline: u64,
    inputs: NodeInputs,
    tunnel: Option<Tunnel>,
    _state: TempDir,
}

fn pair(v4: &str, v6: &str) -> Pair {
    [v4.parse().unwrap(), v6.parse().unwrap()]
}

fn nets(v4: &str, v6: &str) -> Vec<IpNet> {
    vec![v4.parse().unwrap(), v6.parse().unwrap()]
}

impl Net {
    pub(crate) fn new() -> Self {
        let [worker, gateway, worker_pod, gateway_pod, far, outside] =
            [(); 6].map(|()| Netns::new().unwrap());
        for namespace in [&worker, &gateway, &worker_pod, &gateway_pod, &outside] {
            // Link-local addresses, which neighbour discovery speaks from, would take seconds to come up.
            namespace
                .run(|| set("net/ipv6/conf/default/accept_dad", "0"))
                .unwrap();
        }
        for node in [&worker, &gateway] {
            node.run(|| {
                set("net/ipv4/ip_forward", "1");
                set("net/ipv6/conf/all/forwarding", "1");
                // As distributions set it: strict, unless a device says otherwise.
                set("net/ipv4/conf/all/rp_filter", "1");
                set("net/ipv4/conf/default/rp_filter", "1");
            })
            .unwrap();
        }
        let worker_ip = pair("192.0.2.2", "2001:db8::2");
        let gateway_ip = pair("192.0.2.1", "2001:db8::1");
        wire(&worker, "eth0", worker_ip, 24, &gateway, "eth0", gateway_ip);
        let worker_pod_ip = pair("10.1.2.5", "fd01:0:0:2::5");
        let gateway_pod_ip = pair("10.1.1.5", "fd01:0:0:1::5");
        let routers = [
            pair("10.1.2.1", "fd01:0:0:2::1"),
            pair("10.1.1.1", "fd01:0:0:1::1"),
        ];
        for (node, router, pod, address) in [
            (&worker, routers[0], &worker_pod, worker_pod_ip),
            (&gateway, routers[1], &gateway_pod, gateway_pod_ip),
        ] {
            wire(node, "pod0", router, 24, pod, "eth0", address);
            default_route(pod, router, "eth0");
        }
        // The network plug-in's ways between the nodes' pods.
        static_route(
            &worker,
            nets("10.1.1.0/24", "fd01:0:0:1::/64"),
            gateway_ip,
            "eth0",
        );
        static_route(
            &gateway,
            nets("10.1.2.0/24", "fd01:0:0:2::/64"),
            worker_ip,
            "eth0",
        );
        for (n, node) in [&worker, &gateway].into_iter().enumerate() {
            let inside = pair(&format!("198.18.{n}.1"), &format!("2001:db8:1:{n}::1"));
            let beyond = pair(&format!("198.18.{n}.2"), &format!("2001:db8:1:{n}::2"));
            wire(node, "up0", inside, 24, &outside, &format!("down{n}"), beyond);
            default_route(node, beyond, "up0");
        }

        let state = TempDir::new().unwrap();
        let mut net = Self {
            worker_kernel: Kernel::open_in(&worker, &state.path().join("worker")).unwrap(),
            gateway_kernel: Kernel::open_in(&gateway, &state.path().join("gateway")).unwrap(),
            worker_overlay: pair("240.0.1.2", "fd53:7472:6100:1::2"),
            gateway_overlay: pair("240.0.1.1", "fd53:7472:6100:1::1"),
            far_pod: pair("10.2.1.7", "fd02:0:0:1::7"),
            far_stranger: pair("198.51.100.7", "2001:db8:77::7"),
            inputs: inputs(worker_ip, gateway_ip),
            tunnel: Some(Tunnel::open(&gateway, &far)),
            worker,
            worker_ip,
            worker_pod,
            worker_pod_ip,
            gateway,
            gateway_ip,
            gateway_pod,
            gateway_pod_ip,
            far,
            outside,
            leak_baseline: 0,
            _state: state,
        };
        net.address_far_side();
        net.reconcile();
        net.leak_baseline = net.received_outside();
        net
    }

    fn address_far_side(&self) {
        let links = Links::open_in(&self.far).unwrap();
        for address in self.far_pod.into_iter().chain(self.far_stranger) {
            links.add_address(TUNNEL_DEVICE, IpNet::from(address)).unwrap();
        }
        let everything = nets("0.0.0.0/0", "::/0");
        for destination in everything {
            links
                .set_route(&route(destination, None, TUNNEL_DEVICE), PROTOCOL_STATIC)
                .unwrap();
        }
    }

    /// One round on each node; what was applied must be what is read back.
    pub(crate) fn reconcile(&mut self) {
        for (node, kernel) in [("worker", &self.worker_kernel), ("gateway", &self.gateway_kernel)] {
            self.inputs.node = node.to_owned();
            let decide = |inputs: &mut NodeInputs| {
                let actual = kernel.read_now().unwrap();
                inputs.observed = Observed {
                    tunnel_exists: actual.foreign_links.contains(TUNNEL_DEVICE),
                    underlay_mtu: 1500,
                    foreign_drops: actual.foreign_drops.clone(),
                };
                let desired = desired(inputs).unwrap();
                assert!(desired.skipped.is_empty(), "{:?}", desired.skipped);
                kernel::plan(&desired.state, &actual)
            };
            let report = kernel.apply_now(&decide(&mut self.inputs)).unwrap();
            let failed: Vec<String> = report.failed.iter().map(ToString::to_string).collect();
            assert!(failed.is_empty(), "{node}: {failed:#?}");
            let again = decide(&mut self.inputs);
            assert!(again.ops.is_empty(), "{node} would change again:\n{again}");
        }
    }

    /// The gateway process dies.
    pub(crate) fn close_tunnel(&mut self) {
        self.tunnel = None;
    }

    /// The gateway's record is taken away.
    pub(crate) fn forget_gateway(&mut self) {
        self.inputs.clusterset.own.as_mut().unwrap().gateways.clear();
    }

    /// Packets that left by a default route since the network stands, or since the counting was proved.
    pub(crate) fn leaked(&self) -> u64 {
        self.received_outside() - self.leak_baseline
    }

    /// A packet that does leave is counted, in either family.
    pub(crate) fn prove_counting(&mut self) {
        for stranger in pair("203.0.113.9", "2001:db8:99::9") {
            self.leak_baseline = self.received_outside();
            let any = if stranger.is_ipv4() { "0.0.0.0" } else { "::" }.parse().unwrap();
            send_udp(&self.worker, any, stranger, 9);
            let begun = Instant::now();
            while self.leaked() == 0 {
                assert!(
                    begun.elapsed() < Duration::from_secs(10),
                    "{stranger} was not seen outside"
                );
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        self.leak_baseline = self.received_outside();
    }

    /// Only IP packets for hosts beyond count, so neither ARP nor neighbour discovery does.
    fn received_outside(&self) -> u64 {
        self.outside
            .run(|| {
                let snmp = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
                let mut lines = snmp.lines().filter(|l| l.starts_with("Ip:"));
                let names = lines.next().unwrap().split_whitespace();
                let values = lines.next().unwrap().split_whitespace();
                let v4: BTreeMap<_, _> = names.zip(values).collect();
                let snmp6 = std::fs::read_to_string("/proc/thread-self/net/snmp6").unwrap();
                let v6: BTreeMap<_, _> = snmp6
                    .lines()
                    .filter_map(|l| l.split_once(char::is_whitespace))
                    .collect();
                let number = |text: &str| text.trim().parse::<u64>().unwrap();
                number(v4["InAddrErrors"])
                    + number(v4["ForwDatagrams"])
                    + number(v4["InReceives"])
                    + number(v6["Ip6InAddrErrors"])
                    + number(v6["Ip6InNoRoutes"])
            })
            .unwrap()
    }
}

/// Two TUN devices whose packets are handed from one to the other, as gateways do with encryption between.
struct Tunnel {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Tunnel {
    fn open(near: &Netns, far: &Netns) -> Self {
        let open = |namespace: &Netns| {
            let options = TunOptions {
                name: TUNNEL_DEVICE.to_owned(),
                mtu: 1420,
                offload: false,
                nonblocking: true,
            };
            let tun = namespace
                .run(|| Tun::open(&options))
                .unwrap()
                .unwrap_or_else(|e| panic!("{e}"));
            move || File::from(tun.as_fd().try_clone_to_owned().unwrap())
        };
        let (near, far) = (open(near), open(far));
        let stop = Arc::new(AtomicBool::new(false));
        let pump = |mut from: File, mut to: File| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let mut packet = [0; 65536];
                while !stop.load(Ordering::Relaxed) {
                    let mut fds = [rustix::event::PollFd::new(&from, rustix::event::PollFlags::IN)];
                    let tick = rustix::event::Timespec {
                        tv_sec: 0,
                        tv_nsec: 20_000_000,
                    };
                    if rustix::event::poll(&mut fds, Some(&tick)).unwrap() == 0 {
                        continue;
                    }
                    match from.read(&mut packet) {
                        // The far stack may refuse a packet; on a real wire it would be lost as well.
                        Ok(length) => drop(to.write(&packet[..length])),
                        Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                        Err(e) => panic!("tunnel: {e}"),
                    }
                }
            })
        };
        Self {
            threads: vec![pump(near(), far()), pump(far(), near())],
            stop,
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the tunnel panicked");
        }
    }
}

fn set(name: &str, value: &str) {
    std::fs::write(format!("/proc/sys/{name}"), value)
        .unwrap_or_else(|e| panic!("kernel parameter {name} of the test's namespace: {e}"));
}

/// A veth pair with addresses of both families; IPv6 prefixes are 64 long.
fn wire(near: &Netns, near_name: &str, near_ip: Pair, length: u8, far: &Netns, far_name: &str, far_ip: Pair) {
    let end = |name| VethEnd {
        name,
        ..VethEnd::default()
    };
    let links = Links::open_in(near).unwrap();
    let far_end = VethEnd {
        namespace: Some(far),
        ..end(far_name)
    };
    links.add_veth(&end(near_name), &far_end).unwrap();
    for (links, name, ip) in [
        (links, near_name, near_ip),
        (Links::open_in(far).unwrap(), far_name, far_ip),
    ] {
        links
            .add_address(name, IpNet::new(ip[0], length).unwrap())
            .unwrap();
        links.add_address(name, IpNet::new(ip[1], 64).unwrap()).unwrap();
        links.set_up(name).unwrap();
    }
}

fn route(destination: IpNet, via: Option<IpAddr>, device: &str) -> Route {
    Route {
        table: MAIN_TABLE,
        destination,
        metric: 100,
        kind: RouteKind::Unicast {
            next_hops: vec![NextHop {
                device: device.to_owned(),
                via,
            }],
            source: None,
            mtu: None,
        },
    }
}

fn static_route(namespace: &Netns, destinations: Vec<IpNet>, via: Pair, device: &str) {
    let links = Links::open_in(namespace).unwrap();
    for (destination, via) in destinations.into_iter().zip(via) {
        links
            .set_route(&route(destination, Some(via), device), PROTOCOL_STATIC)
            .unwrap();
    }
}

fn default_route(namespace: &Netns, via: Pair, device: &str) {
    static_route(namespace, nets("0.0.0.0/0", "::/0"), via, device);
}

fn inputs(worker_ip: Pair, gateway_ip: Pair) -> NodeInputs {
    let from = |value: serde_json::Value| serde_json::to_string(&value).unwrap();
    let cluster = serde_json::from_str(&from(serde_json::json!({
        "clusterId": "blue",
        "podCidrs": ["10.1.0.0/16", "fd01::/48"],
        "vipCidrs": ["243.0.0.0/16", "fd53:7472:7600::/112"],
    })))
    .unwrap();
    let member = serde_json::from_str(&from(serde_json::json!({
        "clusterId": "blue", "uid": "u", "prefixes": ["10.1.0.0/16", "fd01::/48"],
        "nodeBlocks": ["240.0.1.0/24", "fd53:7472:6100:1::/64"],
        "exportNamespaces": ["*"], "state": "Active", "admittedAt": "2026-01-01T00:00:00Z",
    })))
    .unwrap();
    let record = serde_json::from_str(&from(serde_json::json!({
        "clusterId": "blue", "node": "gateway", "udpPort": 4510, "addresses": {}, "keys": [],
    })))
    .unwrap();
    let green = RemoteCluster {
        id: "green".parse().unwrap(),
        pod_prefixes: nets("10.2.0.0/16", "fd02::/48"),
        node_blocks: nets("240.0.2.0/24", "fd53:7472:6100:2::/64"),
        export_namespaces: vec!["*".to_owned()],
        admitted_at: "2026-01-01T00:00:00Z".to_owned(),
        state: strait_api::records::MemberState::Active,
        gateways: BTreeMap::new(),
    };
    let node = |name: &str, n: u8, addresses: Pair| Node {
        name: name.to_owned(),
        addresses: addresses.to_vec(),
        pod_prefixes: nets(&format!("10.1.{n}.0/24"), &format!("fd01:0:0:{n}::/64")),
        overlay_addresses: pair(&format!("240.0.1.{n}"), &format!("fd53:7472:6100:1::{n}")).to_vec(),
        gateway: name == "gateway",
    };
    NodeInputs {
        node: String::new(),
        clusterset: Clusterset {
            own: Some(OwnCluster {
                cluster,
                member: Some(member),
                gateways: BTreeMap::from([("gateway".to_owned(), record)]),
            }),
            remotes: BTreeMap::from([(green.id.clone(), green)]),
            absent: vec![],
            refusals: Vec::new(),
        },
        nodes: vec![node("gateway", 1, gateway_ip), node("worker", 2, worker_ip)],
        services: vec![
            service(
                "remote",
                VIP_REMOTE,
                "green",
                Some(pair("10.2.1.7", "fd02:0:0:1::7")),
            ),
            service("own", VIP_OWN, "blue", Some(pair("10.1.2.5", "fd01:0:0:2::5"))),
            service("silent", VIP_SILENT, "green", None),
        ],
        observed: Observed::default(),
    }
}

fn service(name: &str, vips: [&str; 2], cluster: &str, endpoints: Option<Pair>) -> VipService {
    let ports = |port| {
        [Protocol::Tcp, Protocol::Udp]
            .map(|protocol| VipPort {
                name: format!("{protocol}"),
                protocol,
                port,
            })
            .to_vec()
    };
    VipService {
        namespace: "demo".to_owned(),
        name: name.to_owned(),
        vips: pair(vips[0], vips[1]).to_vec(),
        ports: ports(80),
        by_source: false,
        slices: vec![VipSlice {
            cluster: cluster.parse().unwrap(),
            endpoints: endpoints.into_iter().flatten().collect(),
            ports: ports(8080),
        }],
    }
}
