use proptest::collection::vec;
use proptest::prelude::*;

use super::{Attributes, Message};

#[test]
fn what_is_written_is_read() {
    let mut message = Message::new(24, 0, &[7; 12]);
    message.ne32(1, 5).text(2, "strait");
    message.nest(3, |inner| {
        inner.be32(1, 6).attribute(2, &[1, 2, 3]);
        inner.nest(3, |deep| _ = deep.ne32(9, 1));
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
    assert_eq!(attributes.ne32(1), Some(5));
    assert_eq!(attributes.text(2).as_deref(), Some("strait"));
    let inner = attributes.nest(3).expect("a nest");
    assert_eq!((inner.be32(1), inner.get(2)), (Some(6), Some(&[1, 2, 3][..])));
    assert_eq!(inner.nest(3).and_then(|deep| deep.ne32(9)), Some(1));
    assert_eq!(attributes.get(4), None);
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
        _ = crate::link::parse(&bytes);
        _ = crate::nft::is_base_chain(&bytes);
        _ = crate::nft::comment_of(attributes);
    }
}
