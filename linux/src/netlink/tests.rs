use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{AfSpecInet, AfSpecUnspec, LinkAttribute, LinkMessage};
use proptest::collection::vec;
use proptest::prelude::*;

use super::{Attributes, Message, decode};

#[test]
fn what_is_written_is_read() {
    let mut message = Message::new(24, 0, &[7; 12]);
    message.attribute(1, &5u32.to_ne_bytes()).text(2, "strait");
    message.nest(3, |inner| {
        inner.be32(1, 6).attribute(2, &[1, 2, 3]);
        inner.nest(3, |deep| _ = deep.be32(9, 1));
    });
    let mut datagram = Vec::new();
    message.finish(77, &mut datagram);
    assert_eq!(datagram.len(), message.len());
    assert_eq!(
        datagram[0..4],
        u32::try_from(datagram.len())
            .expect("a short message")
            .to_ne_bytes()
    );
    assert_eq!(datagram[8..12], 77u32.to_ne_bytes());
    let attributes = Attributes::after(&datagram, 16 + 12);
    assert_eq!(attributes.get(1), Some(&5u32.to_ne_bytes()[..]));
    assert_eq!(attributes.text(2).as_deref(), Some("strait"));
    let inner = attributes.nest(3).expect("a nest");
    assert_eq!((inner.be32(1), inner.get(2)), (Some(6), Some(&[1, 2, 3][..])));
    assert_eq!(inner.nest(3).and_then(|deep| deep.be32(9)), Some(1));
    assert_eq!(attributes.get(4), None);
}

/// The body of a message: behind netlink's own header of 16 bytes.
fn body(message: &Message) -> Vec<u8> {
    let mut datagram = Vec::new();
    message.finish(1, &mut datagram);
    datagram.split_off(16)
}

#[test]
fn what_cannot_be_read_of_a_device_does_not_hide_it() {
    const NAME: u16 = 3;
    const MTU: u16 = 4;
    const LINK_INFO: u16 = 18;
    let mut message = Message::new(libc::RTM_NEWLINK, 0, &[0; 16]);
    message
        .text(NAME, "strait-x")
        .attribute(MTU, &1400u32.to_ne_bytes());
    message.nest(LINK_INFO, |info| _ = info.attribute(2, b"data without a kind"));
    message.attribute(300, b"a later kernel's");
    let bytes = body(&message);
    let whole = <LinkMessage as netlink_packet_core::Parseable<[u8]>>::parse(&bytes);
    assert!(whole.is_err(), "netlink-packet-route refuses this message");
    let Some(RouteNetlinkMessage::NewLink(link)) = decode(libc::RTM_NEWLINK, &bytes) else {
        panic!("not read as a device");
    };
    let link = crate::link::read(&link).expect("a device");
    assert_eq!(
        (link.name.as_str(), link.mtu, link.kind),
        ("strait-x", 1400, None)
    );
}

#[test]
fn parameters_that_shall_be_zero_are_asked_for() {
    let attribute = crate::link::inet_conf(&[(crate::link::Ipv4Conf::RpFilter, 0)]);
    let LinkAttribute::AfSpecUnspec(families) = &attribute else {
        panic!("{attribute:?}");
    };
    let [AfSpecUnspec::Inet(parts)] = families.as_slice() else {
        panic!("{families:?}");
    };
    assert!(matches!(parts.as_slice(), [AfSpecInet::Other(_)]));
    let mut link = LinkMessage::default();
    link.attributes.push(attribute);
    let bytes = body(&Message::route(RouteNetlinkMessage::NewLink(link), 0));
    let conf = Attributes::after(&bytes, 16)
        .nest(26)
        .and_then(|families| families.nest(2))
        .and_then(|inet| inet.nest(1));
    let value = conf.and_then(|conf| conf.get(8));
    assert_eq!(value, Some(&[0; 4][..]), "rp_filter is attribute 8 of the nest");
}

/// Attributes as a kernel sends them, of any type and with any content, nested up to three deep.
fn attributes() -> impl Strategy<Value = Vec<u8>> {
    let list = |payload: BoxedStrategy<Vec<u8>>| {
        vec((0u16..72, payload), 0..5).prop_map(|list| {
            let mut message = Message::new(0, 0, &[]);
            for (kind, payload) in list {
                message.attribute(kind, &payload);
            }
            body(&message)
        })
    };
    let content = prop_oneof![
        vec(any::<u8>(), 0..40),
        device_kind().prop_map(|name| [name.as_bytes(), &[0]].concat())
    ];
    content.prop_recursive(3, 64, 5, list)
}

fn device_kind() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        Just("vxlan"),
        Just("veth"),
        Just("bridge"),
        Just("tun"),
        Just("bond"),
        Just("vlan"),
        Just("wireguard"),
        Just("newer"),
    ]
}

proptest! {
    /// Whatever comes in, reading ends, within bounds.
    #[test]
    fn any_bytes_can_be_read(bytes in vec(any::<u8>(), 0..200), header in 0usize..40) {
        let attributes = Attributes::after(&bytes, header);
        prop_assert!(attributes.count() <= bytes.len() / 4 + 1);
        for (_, payload) in attributes {
            prop_assert!(payload.len() <= bytes.len());
            prop_assert!(Attributes::new(payload).count() <= payload.len() / 4 + 1);
        }
        // The bodies of real messages go through these.
        for kind in 16..=33 {
            _ = decode(kind, &bytes);
        }
        _ = crate::nft::is_base_chain(&bytes);
        _ = crate::nft::comment_of(attributes);
    }

    /// Whatever well-formed attributes a message has, its object is read.
    #[test]
    fn any_attributes_can_be_read(
        attributes in attributes(),
        family in prop_oneof![Just(0u8), Just(2), Just(7), Just(10)],
        (kind, header) in prop_oneof![
            Just((libc::RTM_NEWLINK, 16)),
            Just((libc::RTM_NEWADDR, 8)),
            Just((libc::RTM_NEWNEIGH, 12)),
            Just((libc::RTM_NEWROUTE, 12)),
            Just((libc::RTM_NEWRULE, 12)),
        ],
    ) {
        let mut bytes = vec![0; header];
        bytes[0] = family;
        bytes.extend_from_slice(&attributes);
        prop_assert!(decode(kind, &bytes).is_some());
    }

    /// The same for what devices of each kind say about themselves.
    #[test]
    fn any_device_can_be_read(kind in device_kind(), data in attributes(), family in attributes()) {
        let mut message = Message::new(libc::RTM_NEWLINK, 0, &[0; 16]);
        message.text(3, "strait-x").attribute(4, &[0; 4]);
        message.nest(18, |info| _ = info.text(1, kind).attribute(2, &data).attribute(3, &data));
        message.nest(18, |info| _ = info.text(4, kind).attribute(5, &data));
        message.nest(26, |families| _ = families.attribute(2, &family).attribute(10, &family));
        let Some(RouteNetlinkMessage::NewLink(link)) = decode(libc::RTM_NEWLINK, &body(&message)) else {
            panic!("not read as a device");
        };
        prop_assert_eq!(crate::link::read(&link).map(|link| link.name), Some("strait-x".into()));
    }
}
