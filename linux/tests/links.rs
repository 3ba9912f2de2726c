//! Namespaces and devices, with packets across them.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use strait_core::kernel::{MacAddress, NextHop, Route, RouteKind};
use strait_linux::link::{Ipv4Conf, Links, VethEnd, Vxlan};
use strait_linux::netns::Netns;
use strait_linux::testing::as_root;

fn udp(namespace: &Netns, address: &str) -> UdpSocket {
    let address = address.to_owned();
    let socket = namespace
        .run(move || UdpSocket::bind((address.as_str(), 7000)))
        .unwrap()
        .unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

fn pair() -> (Netns, Netns, Links, Links) {
    let (a, b) = (Netns::new().unwrap(), Netns::new().unwrap());
    let (links_a, links_b) = (Links::open_in(&a).unwrap(), Links::open_in(&b).unwrap());
    links_a
        .add_veth(
            &VethEnd {
                name: "east",
                mac: Some(MacAddress([2, 0, 0, 0, 0, 1])),
                ..VethEnd::default()
            },
            &VethEnd {
                name: "west",
                namespace: Some(&b),
                mtu: Some(1400),
                ..VethEnd::default()
            },
        )
        .unwrap();
    links_a
        .add_address("east", "10.9.0.1/24".parse().unwrap())
        .unwrap();
    links_b
        .add_address("west", "10.9.0.2/24".parse().unwrap())
        .unwrap();
    links_a
        .add_address("east", "fd09::1/64".parse().unwrap())
        .unwrap();
    links_b
        .add_address("west", "fd09::2/64".parse().unwrap())
        .unwrap();
    links_a.set_up("east").unwrap();
    links_b.set_up("west").unwrap();
    // The kernel gets a device ready for IPv6 after it has seen the carrier, which takes a moment.
    let start = Instant::now();
    for (links, device) in [(&links_a, "east"), (&links_b, "west")] {
        let ready = || {
            links
                .addresses(device)
                .unwrap()
                .iter()
                .any(|a| a.to_string().starts_with("fe80:"))
        };
        while !ready() {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "{device} got no link-local address"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    (a, b, links_a, links_b)
}

#[test]
fn a_packet_crosses_a_veth_pair() {
    as_root("a_packet_crosses_a_veth_pair", || {
        let (a, b, links_a, links_b) = pair();
        for (from, to) in [("10.9.0.1", "10.9.0.2"), ("fd09::1", "fd09::2")] {
            let (sender, receiver) = (udp(&a, from), udp(&b, to));
            sender.send_to(b"hello", (to, 7000)).unwrap();
            let mut buffer = [0; 16];
            let (length, source) = receiver.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"hello");
            assert_eq!(source.ip(), from.parse::<IpAddr>().unwrap());
        }
        let east = links_a.find("east").unwrap().unwrap();
        assert_eq!(east.mac, Some(MacAddress([2, 0, 0, 0, 0, 1])));
        assert!(east.up);
        let west = links_b.find("west").unwrap().unwrap();
        assert_eq!((west.mtu, west.kind.as_deref()), (1400, Some("veth")));
        links_b.remove("west").unwrap();
        assert_eq!(links_a.find("east").unwrap(), None, "the other end goes with it");
    });
}

#[test]
fn bridge_vxlan_parameters_and_moves() {
    as_root("bridge_vxlan_parameters_and_moves", || {
        let (_a, b, links_a, links_b) = pair();
        links_a.add_bridge("lab0", None).unwrap();
        links_a.set_master("east", Some("lab0")).unwrap();
        let bridge = links_a.find("lab0").unwrap().unwrap();
        assert_eq!(links_a.find("east").unwrap().unwrap().master, Some(bridge.index));
        links_a.set_master("east", None).unwrap();
        assert_eq!(links_a.find("east").unwrap().unwrap().master, None);

        links_a
            .add_vxlan(&Vxlan {
                name: "vx0",
                vni: 7,
                port: 4511,
                local: "10.9.0.1".parse().unwrap(),
                mac: None,
                mtu: Some(1300),
            })
            .unwrap();
        links_a.set_ipv4_conf("vx0", &[(Ipv4Conf::RpFilter, 2)]).unwrap();
        let vxlan = links_a.find("vx0").unwrap().unwrap();
        assert_eq!(
            (vxlan.rp_filter, vxlan.mtu, vxlan.kind.as_deref()),
            (Some(2), 1300, Some("vxlan"))
        );
        let mac = MacAddress([2, 0, 0, 0, 0, 9]);
        links_a
            .add_neighbour("vx0", "240.0.0.9".parse().unwrap(), mac)
            .unwrap();
        links_a.add_fdb("vx0", mac, "10.9.0.2".parse().unwrap()).unwrap();

        links_a.set_down("east").unwrap();
        links_a.rename("east", "south").unwrap();
        links_a.move_to("south", &b).unwrap();
        assert_eq!(links_a.find("south").unwrap(), None);
        let moved = links_b.find("south").unwrap().unwrap();
        assert_eq!((moved.kind.as_deref(), moved.up), (Some("veth"), false));
        assert_eq!(links_b.addresses("south").unwrap(), []);
    });
}

#[test]
fn routes_are_read_back_as_they_were_set() {
    as_root("routes_are_read_back_as_they_were_set", || {
        let (_a, _b, links, _) = pair();
        let hop = |via: &str| NextHop {
            device: "east".into(),
            via: Some(via.parse().unwrap()),
        };
        let unicast = |next_hops, source: Option<&str>, mtu| RouteKind::Unicast {
            next_hops,
            source: source.map(|s| s.parse().unwrap()),
            mtu,
        };
        let route = |destination: &str, table, metric, kind| Route {
            destination: destination.parse().unwrap(),
            table,
            metric,
            kind,
        };
        let mut wanted = vec![
            route(
                "10.1.0.0/16",
                254,
                83,
                unicast(vec![hop("10.9.0.2")], Some("10.9.0.1"), Some(1350)),
            ),
            route("10.1.0.0/16", 254, 8383, RouteKind::Unreachable),
            route(
                "10.2.0.0/16",
                8300,
                83,
                unicast(vec![hop("240.0.0.1"), hop("240.0.0.2")], None, None),
            ),
            route(
                "10.3.0.0/16",
                254,
                83,
                unicast(
                    vec![NextHop {
                        device: "east".into(),
                        via: None,
                    }],
                    None,
                    None,
                ),
            ),
            route(
                "10.4.0.0/16",
                254,
                83,
                unicast(vec![hop("fd09::2")], None, Some(1350)),
            ),
            route("0.0.0.0/0", 8300, 84, RouteKind::Throw),
            route(
                "fd01::/48",
                254,
                83,
                unicast(vec![hop("fd09::2")], Some("fd09::1"), Some(1350)),
            ),
            route("fd01::/48", 254, 8383, RouteKind::Unreachable),
            route(
                "fd02::/48",
                8300,
                83,
                unicast(vec![hop("fd99::1"), hop("fd99::2")], None, None),
            ),
            route(
                "fd03::/48",
                254,
                83,
                unicast(
                    vec![NextHop {
                        device: "east".into(),
                        via: None,
                    }],
                    None,
                    None,
                ),
            ),
        ];
        for route in &wanted {
            links.set_route(route, 83).unwrap();
            links.set_route(route, 83).unwrap();
        }
        let mut found = links.routes(83).unwrap();
        wanted.sort();
        found.sort();
        assert_eq!(found, wanted);
        for route in &wanted {
            links.remove_route(route, 83).unwrap();
        }
        assert_eq!(links.routes(83).unwrap(), []);
        let missing = links.remove_route(&wanted[0], 83).unwrap_err().to_string();
        assert!(
            missing.starts_with("cannot remove the route to 10.1.0.0/16 in table 254: "),
            "{missing}"
        );
    });
}

#[test]
fn errors_name_the_object() {
    as_root("errors_name_the_object", || {
        let namespace = Netns::new().unwrap();
        let links = Links::open_in(&namespace).unwrap();
        let error = links
            .add_address("nothere", "10.0.0.1/32".parse().unwrap())
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot add the address 10.0.0.1/32 to nothere: there is no network device nothere"
        );
        let error = links.set_up("nothere").unwrap_err();
        assert_eq!(error.errno(), Some(libc::ENODEV));
    });
}
