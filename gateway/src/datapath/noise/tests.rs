use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::datapath::model::{self, shake};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn pair() -> (Identity, Identity, Box<dyn Tunnel>, Box<dyn Tunnel>) {
    let identity = || Identity::new(&PrivateKey::generate().unwrap());
    let (a, b) = (identity(), identity());
    let (to_b, to_a) = (
        a.tunnel(&b.public(), None, 0x0105_0001),
        b.tunnel(&a.public(), None, 0x07),
    );
    (a, b, to_b, to_a)
}

#[test]
fn a_packet_crosses_once() {
    let (_, _, mut a, mut b) = pair();
    let source = Ipv4Addr::new(10, 0, 0, 1).into();
    let packet = model::udp(source, Ipv4Addr::new(10, 0, 0, 2).into(), b"hello");
    let (mut sealed, mut opened) = (vec![0; SCRATCH_LEN], vec![0; SCRATCH_LEN]);
    assert_eq!(a.seal(&packet, &mut sealed), None, "there is no session yet");
    shake(&mut *a, &mut *b);
    let mut padded = packet.clone();
    padded.resize(packet.len().next_multiple_of(16), 0);
    let len = a.seal(&padded, &mut sealed).unwrap();
    assert_eq!(
        kind(&sealed[..len]).map(|kind| matches!(kind, Kind::Data(index) if index >> 8 == 7)),
        Some(true)
    );
    assert_eq!(
        b.open(&sealed[..len], &mut opened),
        Ok(packet.len()),
        "padding is taken off"
    );
    assert_eq!(&opened[..packet.len()], packet);
    assert_eq!(b.open(&sealed[..len], &mut opened), Err(DropCause::InReplay));
    sealed[20] ^= 1;
    sealed[8] = 99;
    assert_eq!(b.open(&sealed[..len], &mut opened), Err(DropCause::InBadTag));
    assert_eq!(
        a.seal(&padded, &mut sealed[..padded.len() + 31]),
        None,
        "no room is no panic"
    );
    assert_eq!(
        b.open(&sealed[..len], &mut opened[..10]),
        Err(DropCause::InMalformed)
    );
}

#[test]
fn a_message_finds_its_peer_and_a_flood_must_prove_its_address() {
    let (a, b, mut to_b, _) = pair();
    let (mut message, mut reply) = (vec![0; SCRATCH_LEN], vec![0; SCRATCH_LEN]);
    let len = to_b.initiate(&mut message).unwrap();
    match b.inspect(HERE, &message[..len], &mut reply) {
        Ok(Addressee::Key(key)) => assert_eq!(key, a.public()),
        _ => panic!("the initiation does not lead to its sender"),
    }
    let mut cookies = 0;
    for _ in 0..2 * HANDSHAKES_PER_SECOND {
        if let Ok(Addressee::Cookie(len)) = b.inspect(HERE, &message[..len], &mut reply) {
            cookies += 1;
            // The sender takes the cookie, and gets through with it.
            assert_eq!(
                to_b.handshake(&reply[..len], &mut vec![0; SCRATCH_LEN])
                    .map(|a| a.authentic),
                Ok(false)
            );
        }
    }
    assert!(cookies >= HANDSHAKES_PER_SECOND, "{cookies} cookies");
    let len = to_b.initiate(&mut message).unwrap();
    assert!(matches!(
        b.inspect(HERE, &message[..len], &mut reply),
        Ok(Addressee::Key(_))
    ));
    let elsewhere = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    assert!(matches!(
        b.inspect(elsewhere, &message[..len], &mut reply),
        Ok(Addressee::Cookie(_))
    ));
}

#[test]
fn a_key_serves_for_so_many_messages_and_no_more() {
    let limits = KeyLimits {
        rekey_after_messages: 5,
        reject_after_messages: 10,
        ..KeyLimits::default()
    };
    let identity =
        |limits| Identity::limited(&PrivateKey::generate().unwrap(), limits, HANDSHAKES_PER_SECOND);
    let (a, b) = (identity(limits), identity(KeyLimits::default()));
    let (mut a, mut b) = (a.tunnel(&b.public(), None, 1), b.tunnel(&a.public(), None, 2));
    let packet = model::udp(
        Ipv4Addr::new(10, 0, 0, 1).into(),
        Ipv4Addr::new(10, 0, 0, 2).into(),
        b"hello",
    );
    let (mut sealed, mut opened) = (vec![0; SCRATCH_LEN], vec![0; SCRATCH_LEN]);
    // Each role in turn: the second handshake is the other side's.
    for began in [true, false] {
        if began {
            shake(&mut *a, &mut *b);
        } else {
            shake(&mut *b, &mut *a);
        }
        // The initiator's first message was spent on the handshake.
        let left = if began { 9 } else { 10 };
        for number in 0..left {
            assert!(a.established());
            assert_eq!(a.worn(), number + 10 - left >= 5, "after {number}");
            let len = a.seal(&packet, &mut sealed).unwrap();
            assert_eq!(b.open(&sealed[..len], &mut opened), Ok(packet.len()));
        }
        assert!(!a.established() && a.worn());
        assert_eq!(a.seal(&packet, &mut sealed), None);
        // What the other side still sends is taken, up to the same count.
        let mut taken = 0;
        while let Ok(len) = {
            let len = b.seal(&packet, &mut sealed).unwrap();
            a.open(&sealed[..len], &mut opened)
        } {
            assert_eq!(len, packet.len());
            taken += 1;
        }
        assert_eq!(taken, if began { 10 } else { 9 });
        assert!(!a.established(), "no message makes a spent key fresh");
        assert!(b.established() && !b.worn());
    }
}

#[test]
fn keys_of_low_order_are_not_accepted() {
    let (a, b, ..) = pair();
    assert!(a.accepts(&b.public()));
    let mut one = [0; 32];
    one[0] = 1;
    assert!(!a.accepts(&PublicKey([0; 32])) && !a.accepts(&PublicKey(one)));
}

#[test]
fn handshakes_that_are_never_finished_make_no_session() {
    let identity = || Identity::new(&PrivateKey::generate().unwrap());
    let (a, b) = (identity(), identity());
    let key = PresharedKey::from_bytes([5; 32]);
    let (mut to_b, mut to_a) = (
        a.tunnel(&b.public(), Some(&key), 1),
        b.tunnel(&a.public(), None, 2),
    );
    let (mut left, mut right) = (vec![0; SCRATCH_LEN], vec![0; SCRATCH_LEN]);
    // As many as boringtun has places for sessions, and more.
    for number in 0..20 {
        let len = to_b.initiate(&mut left).unwrap();
        assert!(to_a.handshake(&left[..len], &mut right).unwrap().authentic);
        to_a.tick(&mut right);
        assert!(!to_a.established(), "after {number}");
    }
    shake(&mut *to_a, &mut *a.tunnel(&b.public(), None, 3));
    assert!(to_a.established());
}

#[test]
fn handshakes_that_are_never_finished_end_no_session_in_use() {
    let identity = || Identity::new(&PrivateKey::generate().unwrap());
    let (a, b) = (identity(), identity());
    let key = PresharedKey::from_bytes([5; 32]);
    let (mut to_b, mut to_a) = (a.tunnel(&b.public(), None, 1), b.tunnel(&a.public(), None, 2));
    let mut other = a.tunnel(&b.public(), Some(&key), 3);
    shake(&mut *to_b, &mut *to_a);
    let made = to_a.completed();
    let (mut left, mut right) = (vec![0; SCRATCH_LEN], vec![0; SCRATCH_LEN]);
    let mut attempt = |to_a: &mut dyn Tunnel| {
        let len = other.initiate(&mut left).unwrap();
        to_a.handshake(&left[..len], &mut right).is_ok()
    };
    let mut refused = 0;
    for number in 0..60 {
        refused += u32::from(!attempt(&mut *to_a));
        // Handshakes are tried more often than keepalives come.
        if number % 3 != 0 {
            assert!(to_a.established(), "after {number}");
            continue;
        }
        let (mut sealed, mut opened) = ([0; 200], [0; 200]);
        let len = to_b.seal(&[], &mut sealed).unwrap();
        assert_eq!(to_a.open(&sealed[..len], &mut opened), Ok(0), "after {number}");
        assert!(to_a.established() && to_a.completed() == made && !to_a.initiator());
    }
    assert!(refused > 0, "else the loop was too short");
    // Of a peer that sends nothing more, it is not worth more than a new one.
    let ended = (0..2 * SESSIONS).position(|_| attempt(&mut *to_a) && !to_a.established());
    assert!(ended.is_some());
}

#[test]
fn a_preshared_key_must_be_shared() {
    let identity = || Identity::new(&PrivateKey::generate().unwrap());
    let (a, b) = (identity(), identity());
    let key = PresharedKey::from_bytes([5; 32]);
    let mut to_b = a.tunnel(&b.public(), Some(&key), 1);
    shake(&mut *to_b, &mut *b.tunnel(&a.public(), Some(&key), 2));
    let mut to_b = a.tunnel(&b.public(), Some(&key), 3);
    let (mut left, mut right) = (vec![0; SCRATCH_LEN], vec![0; SCRATCH_LEN]);
    let len = to_b.initiate(&mut left).unwrap();
    let answer = b
        .tunnel(&a.public(), None, 4)
        .handshake(&left[..len], &mut right)
        .unwrap();
    assert_eq!(
        to_b.handshake(&right[..answer.len], &mut left),
        Err(DropCause::InBadHandshake)
    );
}

proptest! {
    #[test]
    fn no_datagram_makes_it_panic(
        first in 0u8..6,
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        len in prop_oneof![Just(148), Just(92), Just(64), 0usize..200],
    ) {
        bytes.resize(len, 0);
        if let Some(head) = bytes.get_mut(..4) {
            head.copy_from_slice(&[first, 0, 0, 0]);
        }
        let (a, _, mut to_b, _) = pair();
        let mut scratch = vec![0; SCRATCH_LEN];
        let kind = kind(&bytes);
        prop_assert!(a.inspect(HERE, &bytes, &mut scratch).is_err() || first == 2 || first == 3);
        prop_assert!(to_b.open(&bytes, &mut scratch).is_err());
        if kind == Some(Kind::Handshake) {
            prop_assert!(to_b.handshake(&bytes, &mut scratch).is_err());
        }
    }
}
