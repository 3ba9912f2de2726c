//! Keys that are renewed while packets flow, and threads that sleep while none do.

use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use strait_gateway::datapath::{EngineConfig, KeyLimits, PeerConfig, PresharedKey};
use strait_linux::testing::{until, waits};

use crate::bed::{PATIENCE, Pair, exchange, loopback, peer, v4};
use crate::pairs::last_handshake;

pub(crate) const SCENARIOS: &[(&str, fn())] = &[
    (
        "keys_renewed_under_load_lose_no_packet",
        keys_renewed_under_load_lose_no_packet,
    ),
    (
        "another_preshared_key_loses_no_packet",
        another_preshared_key_loses_no_packet,
    ),
    ("an_idle_tunnel_sleeps", an_idle_tunnel_sleeps),
];

/// Packets under way at most: all buffers hold as many, so that a loss is the tunnel's.
const WINDOW: u64 = 48;
/// Renewals to be seen in each case.
const RENEWALS: u32 = 2;
/// Longer than the time in which two sessions count as one.
const RETRY: Duration = Duration::from_millis(1100);

/// One direction's packets, numbered.
#[derive(Default)]
struct Stream {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Stream {
    fn send(&self, from: &UdpSocket, to: &UdpSocket, stop: &AtomicBool) {
        let to = to.local_addr().unwrap();
        let mut payload = [0; 1000];
        let mut number = 0u64;
        while !stop.load(Ordering::SeqCst) {
            if number - self.received.load(Ordering::SeqCst) >= WINDOW {
                std::thread::yield_now();
                continue;
            }
            payload[..8].copy_from_slice(&number.to_be_bytes());
            from.send_to(&payload, to).unwrap();
            number += 1;
            self.sent.store(number, Ordering::SeqCst);
        }
    }

    /// Until all has come, in its order.
    fn receive(&self, at: &UdpSocket, stop: &AtomicBool) {
        at.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let (mut buffer, mut next, mut latest) = ([0; 2000], 0u64, Instant::now());
        loop {
            match at.recv(&mut buffer) {
                Ok(len) => {
                    let number = u64::from_be_bytes(*buffer.first_chunk().unwrap());
                    assert_eq!(
                        (len, number),
                        (1000, next),
                        "a packet was lost, doubled or overtaken"
                    );
                    next += 1;
                    self.received.store(next, Ordering::SeqCst);
                    latest = Instant::now();
                }
                Err(_) if stop.load(Ordering::SeqCst) && next == self.sent.load(Ordering::SeqCst) => return,
                Err(_) => assert!(latest.elapsed() < PATIENCE, "packet {next} was lost"),
            }
        }
    }
}

/// Ends the streams, also where what runs beside them fails: their threads are waited for.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Packets each way, in a closed loop, while something is done that may ask whether one was lost already; then that
/// is the failure. How many were sent each way at least.
fn under_load(pair: &Pair, failure: &str, work: impl FnOnce(&dyn Fn() -> bool)) -> u64 {
    let (a, b) = (pair.a.udp(v4(1)), pair.b.udp(v4(2)));
    let (there, back, stop) = (Stream::default(), Stream::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let ends = Stop(&stop);
        scope.spawn(|| there.send(&a, &b, &stop));
        scope.spawn(|| back.send(&b, &a, &stop));
        let received = [
            scope.spawn(|| there.receive(&b, &stop)),
            scope.spawn(|| back.receive(&a, &stop)),
        ];
        work(&|| received.iter().any(|thread| thread.is_finished()));
        drop(ends);
        for thread in received {
            thread.join().unwrap_or_else(|_| panic!("{failure}"));
        }
    });
    let sent = |stream: &Stream| stream.sent.load(Ordering::SeqCst);
    sent(&there).min(sent(&back))
}

fn keys_renewed_under_load_lose_no_packet() {
    let never = KeyLimits::default();
    let by_count = KeyLimits {
        rekey_after_messages: 1000,
        retry: RETRY,
        ..never
    };
    let by_age = KeyLimits {
        rekey_after: RETRY,
        retry: RETRY,
        ..never
    };
    for (what, limits_a, limits_b) in [
        ("by one side's count", by_count, never),
        ("by the other's", never, by_count),
        ("by both at once", by_count, by_count),
        ("by age", by_age, by_age),
    ] {
        let pair = Pair::with_each(|number, config| EngineConfig {
            key_limits: if number == 1 { limits_a } else { limits_b },
            ..config
        });
        let mut renewals = 0;
        let sent = under_load(&pair, &format!("renewed {what}"), |lost| {
            let age = || last_handshake(&pair.engine_a).age;
            let (mut before, start) = (age(), Instant::now());
            while renewals < RENEWALS && start.elapsed() < PATIENCE && !lost() {
                std::thread::sleep(Duration::from_millis(20));
                let now = age();
                renewals += u32::from(now < before);
                before = now;
            }
        });
        assert_eq!(renewals, RENEWALS, "renewed {what}");
        assert!(sent > 2000, "{sent} packets are no load ({what})");
    }
}

/// On one side, and a while later on the other: until then the session goes on that stands, and none is made.
fn another_preshared_key_loses_no_packet() {
    let pair = Pair::apart_with(|_, config| EngineConfig {
        key_limits: KeyLimits {
            rekey_after: RETRY,
            retry: RETRY,
            ..KeyLimits::default()
        },
        ..config
    });
    let set = |number: u8, preshared: Option<[u8; 32]>| {
        let (engine, far, at) = match number {
            1 => (&pair.engine_a, &pair.engine_b, 2),
            _ => (&pair.engine_b, &pair.engine_a, 1),
        };
        let config = PeerConfig {
            preshared: preshared.map(PresharedKey::from_bytes),
            ..peer(at, far.public_key(), &[loopback(far.port())])
        };
        assert_eq!(engine.set_peers(&[config]), []);
    };
    let last = || last_handshake(&pair.engine_a);
    set(1, None);
    set(2, None);
    pair.works();
    under_load(&pair, "a packet was lost", |lost| {
        let renewed =
            |before: SystemTime| until("there is a new handshake", || lost() || last().at != before);
        renewed(last().at);
        for (first, preshared) in [(1, Some([5; 32])), (2, None)] {
            set(first, preshared);
            // Two attempts at least, which fail as the keys differ.
            until("no handshake is made", || lost() || last().age > 3 * RETRY);
            let before = last().at;
            set(3 - first, preshared);
            renewed(before);
        }
    });
}

/// How often the control threads of this process have waited.
fn control_waits() -> u64 {
    waits(std::process::id(), Some("strait-ctl"))
}

fn an_idle_tunnel_sleeps() {
    let pair = Pair::with(|config| config);
    // What the handshake has left to do is done.
    std::thread::sleep(Duration::from_secs(1));
    let before = control_waits();
    std::thread::sleep(Duration::from_secs(2));
    let woke = control_waits() - before;
    assert!(
        woke <= 2,
        "two idle tunnels' control threads woke {woke} times in 2 s"
    );
    // Its timers run again once there is something to time.
    let (a, b): (IpAddr, IpAddr) = (v4(1), v4(2));
    exchange(&pair.a.udp(a), &pair.b.udp(b), b"awake");
    let before = control_waits();
    until("the timers are looked at", || control_waits() >= before + 6);
}
