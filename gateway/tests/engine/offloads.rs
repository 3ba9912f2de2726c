//! A kernel that refuses an offload, at the start or later: what it costs is speed, and one line of the log.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rustix::io::Errno;
use strait_gateway::datapath::{DropCause, EngineConfig, OffloadStatus, PrivateKey};
use strait_linux::link::Links;
use strait_linux::testing::{Call, refuse, until};

use crate::bed::{Node, Pair, config};
use crate::pairs::{only, transfer};

pub(crate) const SCENARIOS: &[(&str, fn())] = &[
    (
        "offloads_refused_at_the_start_are_done_without",
        refused_at_the_start,
    ),
    ("offloads_refused_later_are_done_without", refused_later),
    (
        "datagrams_that_come_one_by_one_are_written_together",
        datagrams_that_come_one_by_one_are_written_together,
    ),
    (
        "a_path_that_was_small_for_a_while_is_fast_again",
        a_path_that_was_small_for_a_while_is_fast_again,
    ),
];

/// `TUNSETOFFLOAD`, and those of its flags that came last.
const SET_OFFLOAD: u64 = 0x4004_54d0;
const UDP_OFFLOADS: u64 = 0x60;

const ALL: OffloadStatus = OffloadStatus {
    tun_tcp: true,
    tun_udp: true,
    tun_join: true,
    udp_segmentation: true,
};

/// A pair whose first engine's threads are refused what `decide` says.
fn pair(numbers: &'static [i64], decide: impl Fn(&Call) -> Option<Errno> + Send + 'static) -> Pair {
    let (a, b) = (Node::new(), Node::new());
    let (key_a, key_b) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    let engine_b = b.engine(config(&key_b), 2);
    let engine_a = std::thread::scope(|scope| {
        let config: EngineConfig = config(&key_a);
        // The refusals are this thread's, and those of the threads that the engine starts.
        let start = scope.spawn(|| {
            refuse(numbers, decide);
            a.engine(config, 1)
        });
        start.join().unwrap()
    });
    let pair = Pair {
        a,
        b,
        engine_a,
        engine_b,
    };
    pair.meet();
    pair
}

fn refused_at_the_start() {
    let of_tun = |call: &Call| call.number == libc::SYS_ioctl && call.argument(1) == SET_OFFLOAD;
    let of_socket = |call: &Call| {
        call.number == libc::SYS_setsockopt
            && (call.argument(1), call.argument(2)) == (17, libc::UDP_GRO as u64)
    };
    let log = Log::begin();
    for errno in [Errno::INVAL, Errno::IO, Errno::OPNOTSUPP] {
        let pair = pair(&[libc::SYS_ioctl, libc::SYS_setsockopt], move |call| {
            (of_tun(call) || of_socket(call)).then_some(errno)
        });
        transfer(&pair);
        let expected = OffloadStatus {
            tun_tcp: false,
            tun_udp: false,
            tun_join: false,
            ..ALL
        };
        assert_eq!(pair.engine_a.status().offload, expected, "{errno}");
        log.says_once("segmentation offload on the TUN device");
        log.says_once("does not join UDP datagrams");
    }
    // A kernel before 6.2 has TCP's alone.
    let pair = pair(&[libc::SYS_ioctl], move |call| {
        (of_tun(call) && call.argument(2) & UDP_OFFLOADS != 0).then_some(Errno::INVAL)
    });
    transfer(&pair);
    let expected = OffloadStatus {
        tun_udp: false,
        ..ALL
    };
    assert_eq!(pair.engine_a.status().offload, expected);
}

/// As from a network card that joins nothing, or a peer that sends single datagrams.
fn datagrams_that_come_one_by_one_are_written_together() {
    let joins = |call: &Call| {
        call.number == libc::SYS_setsockopt
            && (call.argument(1), call.argument(2)) == (17, libc::UDP_GRO as u64)
    };
    let parts = Arc::new(AtomicU64::new(0));
    let pair = pair(&[libc::SYS_setsockopt, libc::SYS_writev], {
        let parts = Arc::clone(&parts);
        move |call| {
            if call.number == libc::SYS_writev {
                parts.fetch_max(call.argument(2), Ordering::SeqCst);
            }
            joins(call).then_some(Errno::OPNOTSUPP)
        }
    });
    transfer(&pair);
    // A packet alone has two parts.
    let most = parts.load(Ordering::SeqCst);
    assert!(most > 10, "{most} parts are the most in one write");
}

fn refused_later() {
    let log = Log::begin();
    let joined = |call: &Call| call.number == libc::SYS_writev && call.argument(2) > 2;
    let segmented =
        |call: &Call| call.number == libc::SYS_sendmsg && call.brings(libc::SOL_UDP, libc::UDP_SEGMENT);
    for (what, errno, number, expected, said) in [
        (
            "a joined packet",
            Errno::INVAL,
            libc::SYS_writev,
            OffloadStatus {
                tun_join: false,
                ..ALL
            },
            "the kernel refuses joined packets",
        ),
        (
            "a joined packet",
            Errno::IO,
            libc::SYS_writev,
            OffloadStatus {
                tun_join: false,
                ..ALL
            },
            "the kernel refuses joined packets",
        ),
        (
            "segmentation",
            Errno::IO,
            libc::SYS_sendmsg,
            OffloadStatus {
                udp_segmentation: false,
                ..ALL
            },
            "the kernel refuses UDP segmentation",
        ),
        // By one path rather than by the kernel.
        (
            "segmentation",
            Errno::INVAL,
            libc::SYS_sendmsg,
            ALL,
            "does not fit this path",
        ),
    ] {
        let later = Arc::new(AtomicBool::new(false));
        let begun = Arc::clone(&later);
        let pair = pair(&[libc::SYS_writev, libc::SYS_sendmsg], move |call| {
            let refused = call.number == number && (joined(call) || segmented(call));
            (begun.load(Ordering::SeqCst) && refused).then_some(errno)
        });
        transfer(&pair);
        assert_eq!(pair.engine_a.status().offload, ALL);
        later.store(true, Ordering::SeqCst);
        transfer(&pair);
        transfer(&pair);
        assert_eq!(pair.engine_a.status().offload, expected, "{what}: {errno}");
        assert_eq!(pair.engine_a.fault(), None);
        log.says_once(said);
    }
}

fn a_path_that_was_small_for_a_while_is_fast_again() {
    let log = Log::begin();
    // Only the first engine has something to say of it.
    let pair = Pair::with_each(|number, config| EngineConfig {
        offload: number == 1,
        ..config
    });
    transfer(&pair);
    let links = Links::open().unwrap();
    // IPv6 needs 1280.
    links.set_mtu("lo", 1300).unwrap();
    transfer(&pair);
    transfer(&pair);
    assert!(!log.says("fits this path again"));
    links.set_mtu("lo", 65_536).unwrap();
    until("it sends several datagrams at once again", || {
        transfer(&pair);
        log.says("fits this path again")
    });
    log.says_once("does not fit this path");
    log.says_once("fits this path again");
    let status = only(&pair.engine_a);
    assert!(
        !status.drops.contains_key(&DropCause::OutSendFailed),
        "{status:?}"
    );
}

/// What the engines of this process have said since the last look.
struct Log;

static LINES: Mutex<String> = Mutex::new(String::new());

struct Lines;

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LINES.lock().unwrap().push_str(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn begin() -> Self {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| {
            tracing_subscriber::fmt()
                .with_ansi(false)
                .with_writer(|| Lines)
                .init();
        });
        LINES.lock().unwrap().clear();
        Self
    }

    fn says(&self, text: &str) -> bool {
        LINES.lock().unwrap().contains(text)
    }

    /// Also forgets what was said so far, but for what else is to be looked for.
    fn says_once(&self, text: &str) {
        let mut lines = LINES.lock().unwrap();
        let (said, rest): (Vec<&str>, Vec<&str>) = lines.lines().partition(|line| line.contains(text));
        assert_eq!(said.len(), 1, "{text:?} in:\n{lines}");
        let rest = rest.iter().map(|line| format!("{line}\n")).collect();
        drop(said);
        *lines = rest;
    }
}
