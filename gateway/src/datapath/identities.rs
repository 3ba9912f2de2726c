//! This gateway's keys: one for each lane that it can have with a peer.

use std::net::IpAddr;

use super::config::{DropCause, KeyLimits};
use super::key::{PrivateKey, PublicKey};
use super::noise::{Addressee, HANDSHAKES_PER_SECOND, Identity};

/// An identity for each lane; at least one.
pub(super) struct Identities(Vec<Identity>);

impl Identities {
    /// The first lane's key is this one, the others' are derived from it.
    pub(super) fn new(key: &PrivateKey, limits: KeyLimits, lanes: usize) -> Self {
        let lanes = lanes.max(1);
        let rate = HANDSHAKES_PER_SECOND / lanes as u64;
        let all = (0..lanes).map(|lane| Identity::limited(&key.lane(lane), limits, rate));
        Self(all.collect())
    }

    pub(super) fn lanes(&self) -> usize {
        self.0.len()
    }

    /// The identity of a lane; it must be one of [`lanes`](Self::lanes).
    pub(super) fn lane(&self, lane: usize) -> &Identity {
        &self.0[lane]
    }

    pub(super) fn public_keys(&self) -> impl Iterator<Item = PublicKey> {
        self.0.iter().map(Identity::public)
    }

    /// To be called once a second.
    pub(super) fn reset_rate(&self) {
        for identity in &self.0 {
            identity.reset_rate();
        }
    }

    /// Checks a handshake message's first seal, which tells the lane, and the rate; and finds out whom it is
    /// for.
    pub(super) fn inspect(
        &self,
        from: IpAddr,
        message: &[u8],
        reply: &mut [u8],
    ) -> Result<(usize, Addressee), DropCause> {
        let mut last = DropCause::InBadHandshake;
        for (lane, identity) in self.0.iter().enumerate() {
            match identity.inspect(from, message, reply) {
                Ok(addressee) => return Ok((lane, addressee)),
                Err(cause) => last = cause,
            }
        }
        Err(last)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::noise::SCRATCH_LEN;
    use super::*;

    #[test]
    fn a_message_tells_the_lane_that_it_is_for() {
        let (left, right) = (PrivateKey::from_bytes([1; 32]), PrivateKey::from_bytes([2; 32]));
        let identities = |key, lanes| Identities::new(key, KeyLimits::default(), lanes);
        let (left, right) = (identities(&left, 4), identities(&right, 3));
        let (mut message, mut reply) = (vec![0; SCRATCH_LEN], vec![0; SCRATCH_LEN]);
        for lane in 0..3 {
            let key = right.lane(lane).public();
            let mut tunnel = left.lane(lane).tunnel(&key, None, lane as u32);
            let len = tunnel.initiate(&mut message).unwrap();
            match right.inspect(Ipv4Addr::LOCALHOST.into(), &message[..len], &mut reply) {
                Ok((found, Addressee::Key(key))) => {
                    assert_eq!((found, key), (lane, left.lane(lane).public()));
                }
                _ => panic!("lane {lane} is not found"),
            }
        }
        let mut stranger = left.lane(3).tunnel(&left.lane(2).public(), None, 3);
        let len = stranger.initiate(&mut message).unwrap();
        let found = right.inspect(Ipv4Addr::LOCALHOST.into(), &message[..len], &mut reply);
        assert_eq!(found.err(), Some(DropCause::InBadHandshake));
    }
}
