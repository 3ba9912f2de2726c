//! What a packet is when it arrives: whole, of its class, and told of where it cannot pass.

use std::io::Read;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Instant;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use strait_gateway::datapath::{DropCause, EngineConfig};
use strait_linux::testing::until;

use crate::bed::{PATIENCE, Pair, dropped, exchange, loopback, peer, relay, v4};
use crate::pairs::{transfer, v6};

pub(crate) const SCENARIOS: &[(&str, fn())] = &[
    (
        "the_sender_of_a_packet_too_large_is_told_and_adapts",
        the_sender_of_a_packet_too_large_is_told_and_adapts,
    ),
    ("streams_find_the_size_that_fits", streams_find_the_size_that_fits),
    (
        "without_dont_fragment_large_packets_go_on_in_pieces",
        without_dont_fragment_large_packets_go_on_in_pieces,
    ),
    (
        "fragments_of_inner_packets_arrive_whole",
        fragments_of_inner_packets_arrive_whole,
    ),
    ("jumbo_frames_cross", jumbo_frames_cross),
    (
        "congestion_bits_go_out_and_the_class_stays_inside",
        congestion_bits_go_out_and_the_class_stays_inside,
    ),
    (
        "congestion_met_outside_reaches_the_receiver",
        congestion_met_outside_reaches_the_receiver,
    ),
    (
        "padding_hides_the_length_and_never_exceeds_the_mtu",
        padding_hides_the_length_and_never_exceeds_the_mtu,
    ),
];

const FAMILIES: [(IpAddr, IpAddr); 2] = [(v4(1), v4(2)), (v6(1), v6(2))];

/// Larger than the tunnels' MTU, and smaller than the devices' in these tests.
const LARGE: usize = 5000;

/// Somebody raises the device's MTU behind the engine's back.
fn raise_mtu(pair: &Pair) {
    pair.a.run(|| pair.engine_a.tun().set_mtu(9000).unwrap());
    pair.b.run(|| pair.engine_b.tun().set_mtu(9000).unwrap());
}

fn the_sender_of_a_packet_too_large_is_told_and_adapts() {
    let pair = Pair::new();
    raise_mtu(&pair);
    for (done, (from, to)) in (1..).zip(FAMILIES) {
        let (from, to) = (pair.a.udp(from), pair.b.udp(to));
        from.send_to(&[1; LARGE], to.local_addr().unwrap()).unwrap();
        until("the drop is counted", || {
            dropped(&pair.engine_a, DropCause::OutTooBig) == done
        });
        // The sender's kernel has been told, and sends fragments that fit.
        exchange(&from, &to, &[2; LARGE]);
        exchange(&from, &to, &[3; 1300]);
        assert_eq!(dropped(&pair.engine_a, DropCause::OutTooBig), done);
    }
}

fn streams_find_the_size_that_fits() {
    for offload in [true, false] {
        let pair = Pair::with(|config| EngineConfig { offload, ..config });
        raise_mtu(&pair);
        transfer(&pair);
        for engine in [&pair.engine_a, &pair.engine_b] {
            let told = dropped(engine, DropCause::OutTooBig);
            assert!(told > 0, "nothing was too large, so nothing was tried");
        }
    }
}

fn without_dont_fragment_large_packets_go_on_in_pieces() {
    let pair = Pair::new();
    raise_mtu(&pair);
    pair.a.run(|| {
        // From now on sockets of this namespace leave fragmenting to the way.
        std::fs::write("/proc/sys/net/ipv4/ip_no_pmtu_disc", "1").unwrap();
    });
    let (from, to) = (pair.a.udp(v4(1)), pair.b.udp(v4(2)));
    for len in [1393, 1500, LARGE, 8972] {
        let payload: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
        exchange(&from, &to, &payload);
    }
    assert_eq!(dropped(&pair.engine_a, DropCause::OutTooBig), 0);
}

fn fragments_of_inner_packets_arrive_whole() {
    for offload in [true, false] {
        let pair = Pair::with(|config| EngineConfig { offload, ..config });
        for (from, to) in FAMILIES {
            let (from, to) = (pair.a.udp(from), pair.b.udp(to));
            for len in [1500, LARGE, 60_000] {
                let payload: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
                exchange(&from, &to, &payload);
                exchange(&to, &from, &payload);
            }
        }
    }
}

fn jumbo_frames_cross() {
    for (mtu, offload) in [(9000, true), (9000, false), (65_440, true), (65_440, false)] {
        let pair = Pair::with(|config| EngineConfig {
            mtu,
            offload,
            ..config
        });
        for (from, to) in FAMILIES {
            let headers = if from.is_ipv4() { 28 } else { 48 };
            let (from, to) = (pair.a.udp(from), pair.b.udp(to));
            for len in [mtu as usize - headers, mtu as usize - headers - 1] {
                exchange(&from, &to, &vec![7; len]);
                exchange(&to, &from, &vec![8; len]);
            }
        }
        transfer(&pair);
        assert_eq!(dropped(&pair.engine_a, DropCause::OutTooBig), 0);
    }
}

/// Sees every packet of a network namespace, from its IP header on.
struct Tap(Socket);

impl Tap {
    /// To be called in the namespace.
    fn new() -> Self {
        const EVERYTHING: u16 = 3;
        let protocol = Protocol::from(i32::from(EVERYTHING.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    /// The next UDP packet to this port with so many bytes of payload: its traffic class.
    fn class(&mut self, port: u16, payload: usize) -> u8 {
        let (mut buffer, start) = (vec![0; 65_536], Instant::now());
        loop {
            assert!(
                start.elapsed() < PATIENCE,
                "no {payload} bytes to port {port} were seen"
            );
            let len = self.0.read(&mut buffer).unwrap();
            let packet = &buffer[..len];
            let (class, protocol, transport) = match packet.first().map(|first| first >> 4) {
                Some(4) if len >= 20 => (packet[1], packet[9], 20),
                Some(6) if len >= 40 => (packet[0] << 4 | packet[1] >> 4, packet[6], 40),
                _ => continue,
            };
            let Some(header) = packet.get(transport..transport + 8) else {
                continue;
            };
            let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
            if protocol == 17 && (word(2), usize::from(word(4))) == (port, payload + 8) {
                return class;
            }
        }
    }
}

fn set_class(socket: &UdpSocket, class: u8) {
    let ipv4 = socket.local_addr().unwrap().is_ipv4();
    let socket = SockRef::from(socket);
    if ipv4 {
        socket.set_tos_v4(class.into()).unwrap();
    } else {
        socket.set_tclass_v6(class.into()).unwrap();
    }
}

/// Expedited forwarding.
const CLASS: u8 = 46 << 2;

fn congestion_bits_go_out_and_the_class_stays_inside() {
    for underlay in [IpAddr::from([127, 0, 0, 1]), "::1".parse().unwrap()] {
        let pair = Pair::over(|port| SocketAddr::new(underlay, port));
        let mut inside = pair.b.run(Tap::new);
        let mut outside = Tap::new();
        // Each packet has a length of its own, so that it is known outside, too.
        let mut blocks = 10;
        for (from, to) in FAMILIES {
            let headers = if from.is_ipv4() { 28 } else { 48 };
            let (from, to) = (pair.a.udp(from), pair.b.udp(to));
            for congestion in 0..4 {
                blocks += 1;
                set_class(&from, CLASS | congestion);
                let payload = vec![5; blocks * 16 - headers];
                exchange(&from, &to, &payload);
                let port = to.local_addr().unwrap().port();
                assert_eq!(inside.class(port, payload.len()), CLASS | congestion, "inside");
                assert_eq!(
                    outside.class(pair.engine_b.port(), 32 + blocks * 16),
                    congestion,
                    "outside: the congestion bits, and nothing of the class"
                );
            }
        }
    }
}

fn congestion_met_outside_reaches_the_receiver() {
    let pair = Pair::apart();
    let (a, b) = (pair.engine_a.public_key(), pair.engine_b.public_key());
    // A network that marks everything.
    let relay = relay(loopback(pair.engine_b.port()), |socket, datagram, to| {
        set_class(socket, 3);
        socket.send_to(datagram, to).unwrap();
    });
    assert_eq!(pair.engine_b.set_peers(&[peer(1, a, &[])]), []);
    assert_eq!(pair.engine_a.set_peers(&[peer(2, b, &[relay])]), []);
    let mut inside = pair.b.run(Tap::new);
    for (done, (from, to)) in (1..).zip(FAMILIES) {
        let (from, to) = (pair.a.udp(from), pair.b.udp(to));
        let port = to.local_addr().unwrap().port();
        for capable in [1, 2, 3] {
            set_class(&from, CLASS | capable);
            exchange(&from, &to, &[capable; 40]);
            assert_eq!(inside.class(port, 40), CLASS | 3);
        }
        // Who does not take part can only be told by a loss.
        set_class(&from, CLASS);
        from.send_to(&[0; 50], to.local_addr().unwrap()).unwrap();
        until("the drop is counted", || {
            dropped(&pair.engine_b, DropCause::InCongestion) == done
        });
        set_class(&from, 2);
        exchange(&from, &to, &[9; 60]);
    }
}

fn padding_hides_the_length_and_never_exceeds_the_mtu() {
    // No multiple of 16.
    let pair = Pair::with(|config| EngineConfig { mtu: 1415, ..config });
    let mut outside = Tap::new();
    let port = pair.engine_b.port();
    let (from, to) = (pair.a.udp(v4(1)), pair.b.udp(v4(2)));
    for (inner, padded) in [
        (28, 32),
        (32, 32),
        (33, 48),
        (100, 112),
        (1399, 1408),
        (1409, 1415),
        (1415, 1415),
    ] {
        exchange(&from, &to, &vec![4; inner - 28]);
        outside.class(port, padded + 32);
    }
    // In pieces, too: the last may be padded.
    exchange(&from, &to, &[4; 3000]);
}
