//! A peer's tunnel through changes of its preshared key: sessions of the former ones serve on until the first handshake
//! under the new key is through.
//!
//! All have the same receiver indices, and only the keys tell whose a message is. So a message that the present one
//! does not open is tried on the former ones, as long as they can have a session. A former one may yet become the one
//! that serves: when it had answered, and the peer's first data comes only now.

use std::time::Instant;

use super::config::{DropCause, KeyLimits};
use super::noise::{Answer, SESSION_ENDS, Tick, Tunnel};

/// Former tunnels that are kept. More there are only where keys change faster than sessions are made.
const FORMER: usize = 4;

/// What [`Tunnel`] offers, by the tunnel under the present key and those before it.
pub(super) struct Succession {
    present: Box<dyn Tunnel>,
    /// The newest first.
    former: Vec<Former>,
    /// When the present one last began a handshake.
    begun: Option<Instant>,
}

struct Former {
    tunnel: Box<dyn Tunnel>,
    /// Since then it makes no sessions.
    since: Instant,
}

impl Succession {
    pub(super) fn new(first: Box<dyn Tunnel>) -> Self {
        Self {
            present: first,
            former: Vec::new(),
            begun: None,
        }
    }

    /// Goes on under another key with the next handshake.
    pub(super) fn succeed(&mut self, next: Box<dyn Tunnel>) {
        let tunnel = std::mem::replace(&mut self.present, next);
        if tunnel.spent() {
            return;
        }
        self.former.insert(
            0,
            Former {
                tunnel,
                since: Instant::now(),
            },
        );
        if self.former.len() > FORMER {
            // What serves is worth more than what came after it and only might have served.
            let idle = self
                .former
                .iter()
                .rposition(|former| !former.tunnel.established());
            self.former.remove(idle.unwrap_or(FORMER));
        }
    }

    /// The one whose session serves.
    fn serving(&self) -> &dyn Tunnel {
        if !self.present.established()
            && let Some(former) = self.former.iter().find(|former| former.tunnel.established())
        {
            return &*former.tunnel;
        }
        &*self.present
    }

    fn serving_mut(&mut self) -> &mut dyn Tunnel {
        if !self.present.established()
            && let Some(former) = self.former.iter_mut().find(|former| former.tunnel.established())
        {
            return &mut *former.tunnel;
        }
        &mut *self.present
    }

    pub(super) fn established(&self) -> bool {
        self.serving().established()
    }

    pub(super) fn seal(&mut self, packet: &[u8], out: &mut [u8]) -> Option<usize> {
        self.serving_mut().seal(packet, out)
    }

    pub(super) fn open(&mut self, datagram: &[u8], out: &mut [u8]) -> Result<usize, DropCause> {
        let Self { present, former, .. } = self;
        if former.is_empty() {
            return present.open(datagram, out);
        }
        // Most is of the session that serves, and what is tried in vain takes as long as what is opened.
        let (first, last) = if present.established() {
            (Some(present), None)
        } else {
            (None, Some(present))
        };
        let former = former.iter_mut().map(|former| &mut former.tunnel);
        let mut refused = DropCause::InUnknownSession;
        for tunnel in first.into_iter().chain(former).chain(last) {
            match tunnel.open(datagram, out) {
                Err(cause @ (DropCause::InUnknownSession | DropCause::InBadTag | DropCause::InReplay)) => {
                    refused = closest(refused, cause);
                }
                opened => return opened,
            }
        }
        Err(refused)
    }

    pub(super) fn handshake(&mut self, message: &[u8], out: &mut [u8]) -> Result<Answer, DropCause> {
        self.present.handshake(message, out)
    }

    pub(super) fn initiate(&mut self, out: &mut [u8]) -> Option<usize> {
        let len = self.present.initiate(out);
        if len.is_some() {
            self.begun = Some(Instant::now());
        }
        len
    }

    pub(super) fn tick(&mut self, out: &mut [u8]) -> Tick {
        self.former.retain(|former| former.since.elapsed() < SESSION_ENDS);
        let tick = self.present.tick(out);
        if matches!(tick, Tick::Initiation(_)) {
            self.begun = Some(Instant::now());
        }
        if self.former.is_empty() || matches!(tick, Tick::Initiation(_) | Tick::Data(_)) {
            return tick;
        }
        let served = self.present.established();
        let retry = self.limits().retry;
        for former in &mut self.former {
            match former.tunnel.tick(out) {
                // Only the present one makes new keys, and tries again by itself.
                Tick::Initiation(_) if !served && self.begun.is_none_or(|begun| begun.elapsed() >= retry) => {
                    return self.initiate(out).map_or(Tick::Idle, Tick::Initiation);
                }
                Tick::Data(len) if !served => return Tick::Data(len),
                _ => {}
            }
        }
        if self.established() { Tick::Idle } else { tick }
    }

    /// When the last of the former ones is of no use any more.
    pub(super) fn succeeded(&self) -> Option<Instant> {
        self.former.first().map(|former| former.since + SESSION_ENDS)
    }

    pub(super) fn worn(&self) -> bool {
        self.serving().worn()
    }

    pub(super) fn limits(&self) -> KeyLimits {
        self.present.limits()
    }

    pub(super) fn completed(&self) -> Option<Instant> {
        self.serving().completed()
    }

    pub(super) fn initiator(&self) -> bool {
        self.serving().initiator()
    }
}

/// Of two tunnels' refusals of a message, the one of that which was more likely meant.
fn closest(one: DropCause, other: DropCause) -> DropCause {
    [DropCause::InReplay, DropCause::InBadTag]
        .into_iter()
        .find(|cause| [one, other].contains(cause))
        .unwrap_or(one)
}

#[cfg(test)]
mod tests {
    use super::super::key::{PresharedKey, PrivateKey};
    use super::super::noise::{Identity, SCRATCH_LEN};
    use super::*;

    #[test]
    fn what_was_answered_before_a_change_still_becomes_a_session() {
        let identity = || Identity::new(&PrivateKey::generate().unwrap());
        let (a, b) = (identity(), identity());
        let other = PresharedKey::from_bytes([5; 32]);
        let mut to_b = a.tunnel(&b.public(), None, 1);
        let mut to_a = Succession::new(b.tunnel(&a.public(), None, 2));
        let (mut left, mut right) = (vec![0; SCRATCH_LEN], vec![0; SCRATCH_LEN]);
        let len = to_b.initiate(&mut left).unwrap();
        let answer = to_a.handshake(&left[..len], &mut right).unwrap();
        to_a.succeed(b.tunnel(&a.public(), Some(&other), 2));
        to_a.succeed(b.tunnel(&a.public(), None, 2));
        assert!(!to_a.established() && to_a.succeeded().is_some());
        let answer = to_b.handshake(&right[..answer.len], &mut left).unwrap();
        assert_eq!(to_a.open(&left[..answer.len], &mut right), Ok(0));
        let len = to_a.seal(&[], &mut right).unwrap();
        assert_eq!(to_b.open(&right[..len], &mut left), Ok(0));

        // And the session of the former one lasts until there is one of the present.
        meet(&mut *to_b, &mut to_a);
        let before = to_a.completed();
        to_a.succeed(b.tunnel(&a.public(), Some(&other), 2));
        assert_eq!(to_a.completed(), before);
        let mut to_b = a.tunnel(&b.public(), Some(&other), 1);
        let len = to_b.initiate(&mut left).unwrap();
        let answer = to_a.handshake(&left[..len], &mut right).unwrap();
        let answer = to_b.handshake(&right[..answer.len], &mut left).unwrap();
        assert_eq!(to_a.completed(), before);
        assert_eq!(to_a.open(&left[..answer.len], &mut right), Ok(0));
        assert!(to_a.completed() > before);
    }

    /// Two peers of each other that have met, the second one as a succession.
    fn met() -> ((Identity, Identity), Box<dyn Tunnel>, Succession) {
        let identity = || Identity::new(&PrivateKey::generate().unwrap());
        let (a, b) = (identity(), identity());
        let mut to_b = a.tunnel(&b.public(), None, 1);
        let mut to_a = Succession::new(b.tunnel(&a.public(), None, 2));
        meet(&mut *to_b, &mut to_a);
        ((a, b), to_b, to_a)
    }

    fn meet(to_b: &mut dyn Tunnel, to_a: &mut Succession) {
        let (mut left, mut right) = (vec![0; SCRATCH_LEN], vec![0; SCRATCH_LEN]);
        let len = to_b.initiate(&mut left).unwrap();
        let answer = to_a.handshake(&left[..len], &mut right).unwrap();
        let answer = to_b.handshake(&right[..answer.len], &mut left).unwrap();
        assert_eq!(to_a.open(&left[..answer.len], &mut right), Ok(0));
    }

    #[test]
    fn any_number_of_changes_leaves_the_session_that_serves() {
        let ((a, b), mut to_b, mut to_a) = met();
        let before = to_a.completed();
        for number in 1..50 {
            let key = PresharedKey::from_bytes([number; 32]);
            to_a.succeed(b.tunnel(&a.public(), Some(&key), 2));
            assert_eq!(to_a.completed(), before, "after {number}");
            let (mut left, mut right) = (vec![0; SCRATCH_LEN], vec![0; SCRATCH_LEN]);
            let len = to_b.seal(&[], &mut left).unwrap();
            assert_eq!(to_a.open(&left[..len], &mut right), Ok(0), "after {number}");
            if number < 10 {
                assert_eq!(to_a.former.len(), 1, "what was never used is not kept");
            } else {
                let len = a.tunnel(&b.public(), Some(&key), 1).initiate(&mut left).unwrap();
                assert!(to_a.handshake(&left[..len], &mut right).unwrap().authentic);
            }
        }
        assert_eq!(to_a.former.len(), FORMER);
    }

    #[test]
    fn what_comes_late_is_opened_beside_its_successor_once() {
        let ((a, b), mut to_b, mut to_a) = met();
        let key = PresharedKey::from_bytes([5; 32]);
        let (mut late, mut opened) = ([0; 200], [0; 200]);
        let len = to_b.seal(&[], &mut late).unwrap();
        let late = &late[..len];
        to_a.succeed(b.tunnel(&a.public(), Some(&key), 2));
        let mut to_b = a.tunnel(&b.public(), Some(&key), 1);
        meet(&mut *to_b, &mut to_a);
        // The successor's session has the same index, and has got further.
        for _ in 0..5 {
            let mut left = [0; 200];
            let len = to_b.seal(&[], &mut left).unwrap();
            assert_eq!(to_a.open(&left[..len], &mut opened), Ok(0));
            assert_eq!(to_a.open(&left[..len], &mut opened), Err(DropCause::InReplay));
        }
        assert_eq!(to_a.open(late, &mut opened), Ok(0));
        assert_eq!(to_a.open(late, &mut opened), Err(DropCause::InReplay));
        let mut forged = late.to_vec();
        (forged[8], forged[20]) = (200, !forged[20]);
        assert_eq!(to_a.open(&forged, &mut opened), Err(DropCause::InBadTag));
    }

    /// Wants a handshake at each look, and has a session or none.
    struct Eager(bool);

    impl Tunnel for Eager {
        fn established(&self) -> bool {
            self.0
        }
        fn seal(&mut self, _: &[u8], _: &mut [u8]) -> Option<usize> {
            None
        }
        fn open(&mut self, _: &[u8], _: &mut [u8]) -> Result<usize, DropCause> {
            Err(DropCause::InUnknownSession)
        }
        fn handshake(&mut self, _: &[u8], _: &mut [u8]) -> Result<Answer, DropCause> {
            Err(DropCause::InBadHandshake)
        }
        fn initiate(&mut self, _: &mut [u8]) -> Option<usize> {
            Some(148)
        }
        fn tick(&mut self, _: &mut [u8]) -> Tick {
            if self.0 { Tick::Initiation(148) } else { Tick::Idle }
        }
        fn worn(&self) -> bool {
            false
        }
        fn limits(&self) -> KeyLimits {
            KeyLimits::default()
        }
        fn completed(&self) -> Option<Instant> {
            None
        }
        fn initiator(&self) -> bool {
            self.0
        }
        fn spent(&self) -> bool {
            false
        }
    }

    #[test]
    fn a_former_one_does_not_double_the_handshakes() {
        let mut tunnel = Succession::new(Box::new(Eager(true)));
        tunnel.succeed(Box::new(Eager(false)));
        let ticks: Vec<Tick> = (0..4).map(|_| tunnel.tick(&mut [])).collect();
        assert_eq!(ticks, [Tick::Initiation(148), Tick::Idle, Tick::Idle, Tick::Idle]);
    }
}
