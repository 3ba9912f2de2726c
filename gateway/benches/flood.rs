//! What a flood at the tunnel's port costs one TCP flow through the tunnel, against the same flood at another port of
//! the same host, where the kernel drops it.
//!
//!     cargo bench -p strait-gateway --bench flood [-- [--rounds N] [--rate PER_SECOND] [NAME]]
//!
//! Two engines, their devices in network namespaces, the network between them the loopback of a third. Rounds are
//! interleaved; medians. It needs root or user namespaces.

#![allow(clippy::unwrap_used)]

#[path = "../tests/engine/bed.rs"]
mod bed;
#[path = "../tests/engine/floods.rs"]
mod floods;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bed::{Pair, loopback, v4};
use floods::Flood;
use strait_linux::testing::enter_namespaces;

/// Of each measurement.
const SECONDS: f64 = 2.0;
/// Before it counts.
const WARM_UP: Duration = Duration::from_millis(300);

struct Options {
    rounds: usize,
    rate: u64,
    name: Option<String>,
}

fn options() -> Options {
    let mut options = Options {
        rounds: 3,
        rate: 100_000,
        name: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || {
            arguments
                .next()
                .and_then(|value| value.parse().ok())
                .expect("a number")
        };
        match &*argument {
            "--bench" => {}
            "--rounds" => options.rounds = number() as usize,
            "--rate" => options.rate = number(),
            _ => options.name = Some(argument),
        }
    }
    options
}

fn main() {
    enter_namespaces();
    let options = options();
    let (pair, captured) = floods::overheard();
    // Where nobody reads, and little room is.
    let sink = UdpSocket::bind(loopback(0)).unwrap();
    let targets = [sink.local_addr().unwrap(), loopback(pair.engine_b.port())];
    println!(
        "{:30} {:>10} {:>10} {:>7}   {:>9}   of {} a second",
        "Gbit/s of one TCP flow", "elsewhere", "at us", "ratio", "sent/s", options.rate
    );
    println!(
        "{:30} {:>10.2}",
        "no flood",
        median(&mut (0..options.rounds).map(|_| flow(&pair)).collect::<Vec<_>>())
    );
    for flood in floods::all(&pair, captured) {
        if options
            .name
            .as_ref()
            .is_some_and(|name| !flood.name.contains(name.as_str()))
        {
            continue;
        }
        let mut results = [Vec::new(), Vec::new()];
        let mut rates = Vec::new();
        let before = flood.counted(&pair);
        let mut sent_to_us = 0;
        for round in 0..options.rounds * 2 {
            let (rate, speed, sent) = beside(&pair, &flood, targets[round % 2], options.rate);
            results[round % 2].push(speed);
            if round % 2 == 1 {
                sent_to_us += sent;
            }
            rates.push(rate);
        }
        let [elsewhere, here] = results.map(|mut speeds| median(&mut speeds));
        println!(
            "{:30} {elsewhere:>10.2} {here:>10.2} {:>6.0} %   {:>9.0}   {} % counted",
            flood.name,
            here / elsewhere * 100.0,
            median(&mut rates),
            (flood.counted(&pair) - before) * 100 / sent_to_us.max(1),
        );
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The flow's speed beside a flood, and the flood's.
fn beside(pair: &Pair, flood: &Flood, target: std::net::SocketAddr, rate: u64) -> (f64, f64, u64) {
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let socket = UdpSocket::bind("127.0.0.2:0").unwrap();
            socket.connect(target).unwrap();
            let begun = Instant::now();
            let mut datagrams = flood.datagrams.iter().cycle();
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                let due = (begun.elapsed().as_secs_f64() * rate as f64) as u64;
                while number < due {
                    // A full buffer is the receiver's affair.
                    let _: Result<usize, _> = socket.send(datagrams.next().unwrap());
                    number += 1;
                }
                sent.store(number, Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(500));
            }
        });
        let begun = Instant::now();
        let speed = flow(pair);
        let seconds = begun.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        let sent = sent.load(Ordering::Relaxed);
        (sent as f64 / seconds, speed, sent)
    })
}

/// Gbit/s of one TCP flow from the first node to the second.
fn flow(pair: &Pair) -> f64 {
    let listener = pair.b.run(|| TcpListener::bind((v4(2), 0)).unwrap());
    let target = listener.local_addr().unwrap();
    let (stop, bytes) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = vec![0; 256 << 10];
            while let Ok(len) = stream.read(&mut buffer) {
                if len == 0 {
                    break;
                }
                bytes.fetch_add(len as u64, Ordering::Relaxed);
            }
        });
        scope.spawn(|| {
            let mut stream = pair.a.run(|| TcpStream::connect(target).unwrap());
            let buffer = vec![7; 256 << 10];
            while !stop.load(Ordering::Relaxed) {
                stream.write_all(&buffer).unwrap();
            }
            stream.shutdown(Shutdown::Both).unwrap();
        });
        std::thread::sleep(WARM_UP);
        let (begun, before) = (Instant::now(), bytes.load(Ordering::Relaxed));
        std::thread::sleep(Duration::from_secs_f64(SECONDS));
        let speed = (bytes.load(Ordering::Relaxed) - before) as f64 * 8e-9 / begun.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        speed
    })
}
