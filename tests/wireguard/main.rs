//! `strait wireguard` as its users meet it: a process, its configuration socket, its interface, and others that
//! speak WireGuard at the far end.
//!
//! Without a test harness, as a user namespace can only be entered while there is one thread. `wireguard-go` and
//! `boringtun-cli` are tried where they are installed; what is not there is named.

#![allow(clippy::unwrap_used)]

mod bed;

use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use bed::{Bed, Driver, FarPeer, Side, exchange, key, public, shown};
use strait_linux::testing::{enter_namespaces, until};

/// Fails by panic; an error says why it was not tried.
type Scenario = fn() -> Result<(), String>;

fn main() {
    enter_namespaces();
    let filter = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'));
    let scenarios: &[(&str, Scenario)] = &[
        ("it_is_configured_and_read_by_its_socket", configured),
        ("what_changes_while_it_runs_takes_effect", changes),
        ("a_wrong_request_changes_nothing", wrong_requests),
        (
            "it_starts_in_the_background_and_ends_with_its_interface",
            background,
        ),
        ("its_log_is_kept_in_the_background", kept_log),
        ("what_it_cannot_have_is_named", refusals),
        (
            "one_that_was_killed_is_met_again_within_a_second",
            killed_and_started_again,
        ),
        ("why_a_tunnel_does_not_come_up_is_said_once", reasons),
        ("it_sleeps_while_nothing_is_due", idle),
        ("many_peers_take_little_memory", many_peers),
        ("wireguard_go_is_understood", || interoperates("wireguard-go")),
        ("boringtun_is_understood", || interoperates("boringtun-cli")),
    ];
    let (mut ran, mut skipped) = (0, 0);
    for (name, scenario) in scenarios {
        if filter.as_deref().is_none_or(|filter| name.contains(filter)) {
            let start = Instant::now();
            match scenario() {
                Ok(()) => {
                    println!("test {name} ... ok ({:.2?})", start.elapsed());
                    ran += 1;
                }
                Err(why) => {
                    println!("test {name} ... skipped: {why}");
                    skipped += 1;
                }
            }
        }
    }
    println!("\ntest result: ok. {ran} passed; {skipped} skipped");
}

/// Gives two sides each other's keys and addresses, and the first the second's endpoint.
fn join(first: &Side, second: &Side) {
    first.meet(second, true);
    second.meet(first, false);
}

fn pair() -> (Bed, Side, Side) {
    let bed = Bed::new();
    let (a, b) = (bed.side(1, Driver::Strait), bed.side(2, Driver::Strait));
    join(&a, &b);
    (bed, a, b)
}

fn configured() -> Result<(), String> {
    let (_bed, a, b) = pair();
    assert_eq!(a.value("last_handshake_time_sec"), "0", "nothing was sent yet");
    exchange(&a, &b, b"there");
    exchange(&b, &a, b"and back");
    for (side, key, far, port) in [(&a, key(1), public(2), "5001"), (&b, key(2), public(1), "5002")] {
        assert_eq!(side.value("private_key"), key);
        assert_eq!(side.value("public_key"), far);
        assert_eq!(side.value("listen_port"), port);
        assert_eq!(side.value("preshared_key"), "0".repeat(64));
        assert_eq!(side.value("protocol_version"), "1");
        for count in ["rx_bytes", "tx_bytes", "last_handshake_time_sec"] {
            assert!(side.value(count).parse::<u64>().unwrap() > 0, "{count}");
        }
    }
    assert_eq!(
        b.value("endpoint"),
        a.underlay(5001),
        "learned from the handshake"
    );
    assert_eq!(a.values("allowed_ip"), ["10.98.0.2/32", "fd98::2/128"]);
    Ok(())
}

fn changes() -> Result<(), String> {
    let (_bed, a, b) = pair();
    exchange(&a, &b, b"first");
    let (far, near) = (public(2), public(1));
    let sent = |side: &Side| side.value("tx_bytes").parse::<u64>().unwrap();

    b.set("listen_port=6002\n");
    exchange(&b, &a, b"from another port");
    assert_eq!(a.value("endpoint"), b.underlay(6002), "it has roamed");
    exchange(&a, &b, b"to another port");

    let before = sent(&a);
    let shared = "ab".repeat(32);
    a.set(&format!(
        "public_key={far}\nupdate_only=true\npreshared_key={shared}\n"
    ));
    b.set(&format!(
        "public_key={near}\nupdate_only=true\npreshared_key={shared}\n"
    ));
    exchange(&a, &b, b"with a preshared key");
    assert_eq!(a.value("preshared_key"), shared);
    assert!(sent(&a) > before, "a new key does not begin the counters anew");

    // Another identity: the old key's sessions end, and the far side knows nobody of the new one.
    a.set(&format!("private_key={}\n", key(3)));
    a.lost(&b, b"from a stranger");
    b.set(&format!(
        "replace_peers=true\npublic_key={}\npreshared_key={shared}\nallowed_ip=10.98.0.1/32\n",
        public(3)
    ));
    exchange(&a, &b, b"a friend again");

    // A prefix is one peer's: the last one named.
    a.set(&format!("public_key={}\nallowed_ip=10.98.0.2/32\n", public(4)));
    a.lost(&b, b"to somebody else");
    a.set(&format!(
        "public_key={}\nremove=true\npublic_key={far}\nallowed_ip=10.98.0.2/32\n",
        public(4)
    ));
    exchange(&a, &b, b"back again");

    // The interface's MTU is its owner's to choose.
    for side in [&a, &b] {
        side.set_mtu(4000);
    }
    exchange(&a, &b, &[7; 3900]);
    a.set(&format!("private_key={}\n", "0".repeat(64)));
    assert_eq!(a.values("private_key"), Vec::<String>::new());
    a.lost(&b, b"without a key");
    Ok(())
}

fn wrong_requests() -> Result<(), String> {
    let (bed, a, b) = pair();
    let before = a.get();
    let taken = bed.take_port(1, 7777);
    for (request, errno) in [
        ("set=1\nlisten_port=7777\nfwmark=9\n\n", "-98"),
        ("set=1\nreplace_peers=true\nnonsense=1\n\n", "-22"),
        ("set=1\nreplace_peers=true\npublic_key=aa\n\n", "-22"),
        ("set=2\n\n", "-22"),
        ("\u{0}\u{1}\n\n", "-22"),
    ] {
        assert_eq!(a.ask(request), format!("errno={errno}\n\n"), "{request:?}");
        assert_eq!(a.get(), before, "{request:?}");
    }
    drop(taken);
    // Clients that never finish a sentence are not in the way of others.
    let silent: Vec<_> = (0..20).map(|_| a.connect()).collect();
    exchange(&a, &b, b"still there");
    assert_eq!(a.value("listen_port"), "5001");
    drop(silent);
    // Without descriptors clients wait, and the tunnels go on.
    let before = a.limit_descriptors(a.descriptors());
    let waiting: Vec<_> = (0..4).map(|_| a.connect()).collect();
    exchange(&a, &b, b"without descriptors");
    drop(waiting);
    a.limit_descriptors(before);
    assert_eq!(a.value("listen_port"), "5001");
    Ok(())
}

fn background() -> Result<(), String> {
    let bed = Bed::new();
    let status = bed
        .command(1, Driver::Strait, "wg9", false)
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    let side = bed.adopt(1, "wg9");
    side.set(&format!("private_key={}\n", key(1)));
    assert_eq!(side.value("private_key"), key(1));
    side.delete_interface();
    until("the process is gone with its interface", || !side.alive());
    assert!(!side.socket().exists(), "the socket stays behind");

    // And with its socket, or a signal, the interface goes.
    let mut side = bed.side(2, Driver::Strait);
    std::fs::remove_file(side.socket()).unwrap();
    until("the process is gone with its socket", || !side.alive());
    assert!(!side.has_interface());
    assert!(side.exit().success());
    let mut side = bed.side(1, Driver::Strait);
    side.terminate();
    assert!(side.exit().success());
    assert!(!side.has_interface() && !side.socket().exists());
    // What a killed one left is no obstacle.
    let mut side = bed.side(1, Driver::Strait);
    side.kill();
    assert!(!side.exit().success());
    drop(bed.side(1, Driver::Strait));
    Ok(())
}

/// Where what starts it is gone, or waits for the end of what it writes.
fn kept_log() -> Result<(), String> {
    let bed = Bed::new();
    let folder = tempfile::tempdir().unwrap();
    let [named, inherited, pipe] = ["named", "inherited", "pipe"].map(|name| folder.path().join(name));
    for log in [&named, &inherited, &pipe] {
        let mut command = bed.bare(1);
        command
            .args(["--log", "info", "wireguard", "--mtu", "576", "wg9"])
            .stdin(Stdio::null());
        if *log == named {
            command.arg("--log-file").arg(log);
        } else if *log == inherited {
            command.stderr(File::create(log).unwrap());
        }
        // Comes back though the interface goes on: of a pipe it has let go.
        let output = command.output().unwrap();
        assert!(output.status.success());
        if *log == pipe {
            std::fs::write(log, &output.stderr).unwrap();
        }
        let side = bed.adopt(1, "wg9");
        side.delete_interface();
        until("the process is gone with its interface", || !side.alive());
        let text = std::fs::read_to_string(log).unwrap();
        assert!(text.contains("ready: configure it with wg"), "{text}");
        let told = text.contains("the interface was deleted: stopping");
        assert_eq!(told, *log != pipe, "{text}");
        assert!(!text.contains("ERROR") && !text.contains("WARN"), "{text}");
    }
    assert_eq!(named.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    Ok(())
}

fn refusals() -> Result<(), String> {
    let bed = Bed::new();
    let side = bed.side(1, Driver::Strait);
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let plain = format!("{folder}/wg9.sock");
    std::fs::write(&plain, "somebody's").unwrap();
    for (arguments, expected) in [
        (&[side.name()][..], "is taken by another process or device"),
        (&["a/b"], "cannot be an interface name"),
        (&["--", "-x"], "\"-x\" cannot be an interface name"),
        (
            &["--mtu", "575", "wg9"],
            "MTU 575 is out of range: use 576 to 65440",
        ),
        (
            &["--log-file", "/dev/null/x", "wg9"],
            "cannot open the log file /dev/null/x",
        ),
        (
            &["--socket-directory", folder, "wg9"],
            "wg9.sock is in the way of the configuration socket",
        ),
        (
            &["--socket-directory", "/dev/null/x", "wg9"],
            "cannot make the folder /dev/null/x",
        ),
    ] {
        for foreground in [true, false] {
            let mut command = bed.bare(1);
            command
                .arg("wireguard")
                .args(foreground.then_some("-f"))
                .args(arguments);
            let output = command.stdin(Stdio::null()).output().unwrap();
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
            assert!(text.contains(expected), "{arguments:?}: {text}");
        }
    }
    assert!(side.alive() && side.has_interface());
    assert_eq!(std::fs::read_to_string(plain).unwrap(), "somebody's");
    Ok(())
}

/// Another process with the same key, from one that was killed under way. Neither side has a keepalive, as plain
/// WireGuard has none.
fn killed_and_started_again() -> Result<(), String> {
    let (bed, a, mut b) = pair();
    exchange(&a, &b, b"first");
    exchange(&b, &a, b"and back");
    // The side that was not killed sends first, then the other: both know where the other is.
    for (killed_sends, what) in [(false, "a packet to it"), (true, "a packet from it")] {
        b.kill();
        b.exit();
        drop(b);
        // What is sent meanwhile is lost, and the sender's session stays what it was.
        b = bed.side(2, Driver::Strait);
        let begun = Instant::now();
        b.meet(&a, true);
        let (from, to) = if killed_sends { (&b, &a) } else { (&a, &b) };
        exchange(from, to, b"again");
        let took = begun.elapsed();
        // On a quiet machine it takes some hundredths; the retry of a lost message would take over a second.
        assert!(took < Duration::from_secs(4), "{what} arrived after {took:?}");
        println!("{what} arrived {took:.2?} after it was back");
    }
    Ok(())
}

fn reasons() -> Result<(), String> {
    let bed = Bed::new();
    let folder = tempfile::tempdir().unwrap();
    let logs = [folder.path().join("a"), folder.path().join("b")];
    let begun = Instant::now();
    let (a, b) = (bed.logged_side(1, &logs[0]), bed.logged_side(2, &logs[1]));
    let lines = |side: usize, text: &str, named: &str| {
        let log = std::fs::read_to_string(&logs[side]).unwrap();
        log.lines()
            .filter(|line| line.contains(text) && line.contains(named))
            .count()
    };
    let mut expected = Vec::new();
    let mut told = |side: usize, text: &'static str, named: String, more: &dyn Fn()| {
        until(&format!("the log has \"{text}\" for {named}"), || {
            more();
            lines(side, text, &named) > 0
        });
        expected.push((side, text, named));
    };

    // Only one end has the preshared key; of the others one is away, one cannot be reached, one has no address.
    join(&a, &b);
    let preshared = format!("update_only=true\npreshared_key={}\n", "ab".repeat(32));
    let keepalive = "persistent_keepalive_interval=25\n";
    a.set(&format!(
        "public_key={}\n{preshared}{keepalive}public_key={}\nendpoint=192.0.2.2:9\n{keepalive}public_key={}\n\
         endpoint=203.0.113.9:9\n{keepalive}public_key={}\n{keepalive}",
        public(2),
        public(5),
        public(6),
        public(7),
    ));
    let unreachable = "cannot send to the peer: Network is unreachable";
    told(0, unreachable, shown(6), &|| ());
    told(0, "has no endpoint here", shown(7), &|| ());
    told(
        0,
        "do not verify: give both ends the same preshared key",
        shown(2),
        &|| (),
    );
    told(1, "begins handshakes and never finishes them", shown(1), &|| ());
    told(0, "no answer to handshakes for 1", shown(5), &|| ());

    // They meet, and one sends what the other does not take.
    b.set(&format!("public_key={}\n{preshared}", public(1)));
    exchange(&a, &b, b"with the same key");
    told(0, "tunnel up", shown(2), &|| ());
    b.add_address("10.98.7.7/32");
    told(0, "is not in its allowed IPs", shown(2), &|| {
        b.try_from("10.98.7.7", &a)
    });
    assert_eq!(lines(0, "source=10.98.7.7", &shown(2)), 1);
    a.set(&format!("public_key={}\nendpoint=203.0.113.7:7\n", public(2)));
    told(0, unreachable, shown(2), &|| a.try_from("10.98.0.1", &b));

    // Somebody else's key, and a key that is nobody's.
    b.set(&format!("private_key={}\n", key(3)));
    told(0, "handshakes by a key that is no peer here", shown(3), &|| {
        b.try_from("10.98.0.2", &a)
    });
    b.set(&format!(
        "public_key={}\nendpoint={}\n{keepalive}",
        public(9),
        a.underlay(5001)
    ));
    told(0, "are not for this end's public key", b.underlay(5002), &|| ());

    // On a slow machine some may have been said again.
    let again = begun.elapsed().as_secs() as usize / 30;
    for (side, text, named) in expected {
        let count = lines(side, text, &named);
        assert!(count <= 1 + again, "{count} lines: {text} for {named}");
    }
    Ok(())
}

fn idle() -> Result<(), String> {
    let (_bed, a, b) = pair();
    exchange(&a, &b, b"there");
    a.delete_peers();
    b.delete_peers();
    // What the peers have left to do is done.
    std::thread::sleep(Duration::from_secs(1));
    let before = a.waits() + b.waits();
    std::thread::sleep(Duration::from_secs(2));
    let woke = a.waits() + b.waits() - before;
    assert!(woke <= 4, "two idle interfaces woke {woke} times in 2 s");
    Ok(())
}

/// Peers that are configured, unless `STRAIT_PEERS` says another number; a tenth of them send and receive.
const PEERS: u16 = 400;
/// KiB of a process: a hundred MiB.
const MEMORY: u64 = 100 << 10;

fn many_peers() -> Result<(), String> {
    let bed = Bed::new();
    let a = bed.side(1, Driver::Strait);
    a.add_address("10.99.255.254/16");
    let count = std::env::var("STRAIT_PEERS").map_or(PEERS, |count| count.parse().unwrap());
    let peers: Vec<FarPeer> = (1..=count).map(FarPeer::new).collect();
    let mut request = format!("private_key={}\nlisten_port=5001\n", key(1));
    for peer in &peers {
        request += &format!("public_key={}\nallowed_ip={}/32\n", peer.public(), peer.address);
    }
    let begun = Instant::now();
    a.set(&request);
    let set = begun.elapsed();
    let begun = Instant::now();
    assert_eq!(a.values("public_key").len(), usize::from(count));
    let got = begun.elapsed();
    let idle = a.memory("VmRSS");
    let busy: Vec<_> = peers
        .into_iter()
        .take(usize::from(count / 10).max(1))
        .map(|peer| peer.start(&bed, &a.underlay(5001)))
        .collect();
    a.echo(|target| {
        for _ in 0..20 {
            for peer in &busy {
                peer.send(target, &[7; 1200]);
            }
        }
        // Every one of them is answered.
        for peer in &busy {
            peer.exchange(target, b"well?");
        }
    });
    let met = a.values("last_handshake_time_sec");
    assert_eq!(
        met.iter().filter(|time| *time != "0").count(),
        busy.len(),
        "peers that were met"
    );
    let (now, most) = (a.memory("VmRSS"), a.memory("VmHWM"));
    println!(
        "set in {set:.2?}, read in {got:.2?}; KiB: {idle} configured, {now} with {} busy, {most} at most",
        busy.len()
    );
    assert!(most < MEMORY, "{most} KiB");
    Ok(())
}

/// Ours and another implementation, each as initiator.
fn interoperates(program: &'static str) -> Result<(), String> {
    if !bed::installed(program) {
        return Err(format!("{program} is not installed"));
    }
    for theirs_first in [false, true] {
        let bed = Bed::new();
        let (ours, theirs) = (bed.side(1, Driver::Strait), bed.side(2, Driver::Other(program)));
        let (ours, theirs) = (&ours, &theirs);
        // The one with the endpoint begins.
        let (first, second) = if theirs_first {
            (theirs, ours)
        } else {
            (ours, theirs)
        };
        join(first, second);
        exchange(first, second, b"there");
        exchange(second, first, b"and back");
        for len in [0, 1, 15, 16, 17, 1000, 1392] {
            exchange(ours, theirs, &vec![5; len]);
            exchange(theirs, ours, &vec![6; len]);
        }
        bed::stream(ours, theirs);
        bed::stream(theirs, ours);
    }
    Ok(())
}
