use std::net::{Ipv4Addr, UdpSocket};

use super::super::config::KeyLimits;
use super::super::identities::Identities;
use super::super::key::PrivateKey;
use super::*;

#[test]
fn a_peer_that_answers_no_more_is_not_up_until_it_is_heard_again() {
    let own = Identities::new(&PrivateKey::from_bytes([1; 32]), KeyLimits::default(), 1);
    let other = Identities::new(&PrivateKey::from_bytes([2; 32]), KeyLimits::default(), 1);
    let nobody = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let config = PeerConfig {
        candidates: vec![nobody.local_addr().unwrap()],
        ..PeerConfig::new("green/gw", other.lane(0).public())
    };
    let tunnel = own.lane(0).tunnel(&config.public_key, None, 1);
    let peer = Peer::new(&config, Place::only(&config, 1), tunnel);
    let mut far = other.lane(0).tunnel(&own.lane(0).public(), None, 1);
    let udp = Udp::bind(Some(Ipv4Addr::LOCALHOST.into()), 0, 0, false).unwrap();
    let (mut left, mut right) = (vec![0; SCRATCH_LEN], vec![0; SCRATCH_LEN]);
    let len = peer.lock().tunnel.initiate(&mut left).unwrap();
    let answer = far.handshake(&left[..len], &mut right).unwrap();
    let from = nobody.local_addr().unwrap();
    peer.handshake(from, &right[..answer.len], &udp, &mut left, Instant::now());
    assert!(peer.is_up());
    assert_eq!(peer.bundle.load(Ordering::Relaxed), 1);

    let mut state = peer.lock();
    for attempt in 1..=DEAF_ATTEMPTS {
        peer.send_initiation(&mut state, &udp, &mut left, Instant::now());
        peer.settle(&mut state, &udp, &mut left);
        assert_eq!(peer.is_up(), attempt < DEAF_ATTEMPTS, "after {attempt}");
    }
    assert_eq!(peer.bundle.load(Ordering::Relaxed), 0);
    assert!(state.tunnel.established(), "data would still be opened");
    peer.revive(&mut state, &udp, &mut left);
    assert!(peer.is_up());
    // It may have another preshared key for a while, and nothing to say but that it is there.
    for _ in 0..2 * DEAF_ATTEMPTS {
        peer.send_initiation(&mut state, &udp, &mut left, Instant::now());
        drop(state);
        peer.lives();
        peer.tick(&udp, &mut left, Instant::now());
        assert!(peer.is_up());
        state = peer.lock();
    }
    drop(state);
    let bundle = Arc::clone(&peer.bundle);
    drop(peer);
    assert_eq!(bundle.load(Ordering::Relaxed), 0, "a lane that is gone is not up");
}

#[test]
fn a_replayed_initiation_moves_no_session_when_the_preshared_key_changes() {
    let own = Identities::new(&PrivateKey::from_bytes([1; 32]), KeyLimits::default(), 1);
    let other = Identities::new(&PrivateKey::from_bytes([2; 32]), KeyLimits::default(), 1);
    let socket = || {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let address = socket.local_addr().unwrap();
        (socket, address)
    };
    let ((_peers, at), (elsewhere, hostile)) = (socket(), socket());
    let config = PeerConfig::new("green/gw", other.lane(0).public());
    let tunnel = |key: Option<&PresharedKey>| own.lane(0).tunnel(&config.public_key, key, 1);
    let peer = Peer::new(&config, Place::only(&config, 1), tunnel(None));
    let mut far = other.lane(0).tunnel(&own.lane(0).public(), None, 1);
    let udp = Udp::bind(Some(Ipv4Addr::LOCALHOST.into()), 0, 0, false).unwrap();
    let (mut left, mut right, mut recorded) =
        (vec![0; SCRATCH_LEN], vec![0; SCRATCH_LEN], vec![0; SCRATCH_LEN]);
    let len = far.initiate(&mut recorded).unwrap();
    recorded.truncate(len);
    peer.handshake(at, &recorded, &udp, &mut left, Instant::now());
    let len = peer.lock().tunnel.initiate(&mut left).unwrap();
    let answer = far.handshake(&left[..len], &mut right).unwrap();
    peer.handshake(at, &right[..answer.len], &udp, &mut left, Instant::now());
    assert!(peer.is_up());

    let key = PresharedKey::from_bytes([5; 32]);
    let changed = PeerConfig {
        preshared: Some(key.clone()),
        ..config.clone()
    };
    peer.reconfigure(&changed, || tunnel(Some(&key)));
    peer.handshake(hostile, &recorded, &udp, &mut left, Instant::now());
    let (len, _) = elsewhere.recv_from(&mut right).unwrap();
    assert!(
        is_response(&right[..len]),
        "nobody can tell whether it is an old one"
    );
    assert!(peer.is_up());
    assert_eq!(peer.status().endpoint, Some(at));
}

#[test]
fn what_waits_for_a_session_asks_for_one_under_another_preshared_key_too() {
    let own = Identities::new(&PrivateKey::from_bytes([1; 32]), KeyLimits::default(), 1);
    let nobody = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    nobody.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let config = PeerConfig {
        candidates: vec![nobody.local_addr().unwrap()],
        keepalive: None,
        ..PeerConfig::new("green/gw", PrivateKey::from_bytes([2; 32]).public())
    };
    let key = PresharedKey::from_bytes([5; 32]);
    let tunnel = |key: Option<&PresharedKey>| own.lane(0).tunnel(&config.public_key, key, 1);
    let peer = Peer::new(&config, Place::only(&config, 1), tunnel(None));
    let udp = Udp::bind(Some(Ipv4Addr::LOCALHOST.into()), 0, 0, false).unwrap();
    let mut scratch = vec![0; SCRATCH_LEN];
    assert!(peer.enqueue(&mut peer.lock(), &[0; 32]));
    peer.initiate(&udp, &mut scratch, Instant::now());
    assert_eq!(nobody.recv(&mut scratch).unwrap(), 148);
    let changed = PeerConfig {
        preshared: Some(key.clone()),
        ..config.clone()
    };
    peer.reconfigure(&changed, || tunnel(Some(&key)));
    peer.tick(&udp, &mut scratch, Instant::now());
    assert_eq!(
        nobody.recv(&mut scratch).unwrap(),
        148,
        "a packet waits, and nobody begins"
    );
}
