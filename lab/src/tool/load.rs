//! Loads on a path, measured where they arrive: streams and datagrams, as much as goes or at a rate.
//!
//! The server takes any number of them, one connection each. Its first line says what is wanted ([`Ask`]).

use std::io::{BufReader, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::time::{ClockId, clock_gettime};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::client::connect;
use super::serve::{accept, listen};

/// What is written and read at a time.
const BLOCK: usize = 128 * 1024;
/// How long anybody may be silent, unless told.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Room for datagrams that wait for the reader; the kernel may give less.
const DATAGRAM_BUFFER: usize = 4 << 20;
/// Nothing is on its way any more that has not come after this.
const STRAGGLER: Duration = Duration::from_millis(100);
/// How often a load at a rate looks at the clock.
const PACE: Duration = Duration::from_millis(1);

/// What a server is asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Ask {
    /// To read until the end, and to say how much that was.
    Take,
    /// To send as much as goes for so many seconds.
    Give(f64),
    /// To count the datagrams at a port that it names, until the client writes no more.
    Count,
}

/// What a server took.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Taken {
    bytes: u64,
    datagrams: u64,
    /// From the first to the last.
    seconds: f64,
    cpu_seconds: f64,
}

/// A port to send datagrams to.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Port {
    port: u16,
}

/// Streams, as they arrived.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Streamed {
    pub(crate) flows: u16,
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    /// Of payload; of both directions together, where there were two.
    pub(crate) bits_per_second: f64,
    /// Of the client, and of the server.
    pub(crate) cpu_seconds: [f64; 2],
}

/// One stream, as it arrived.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sent {
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    pub(crate) mbps: f64,
}

/// Datagrams, as they were sent and as they arrived.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Datagrams {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) seconds: f64,
    pub(crate) sent_per_second: f64,
    pub(crate) received_per_second: f64,
    /// Of the client, and of the server.
    pub(crate) cpu_seconds: [f64; 2],
}

/// How much is to be sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Amount {
    pub(super) duration: Duration,
    /// Bits, or datagrams, each second; as much as goes without it.
    pub(super) rate: Option<f64>,
}

impl Amount {
    /// Waits while more was sent than the rate allows; whether there is time left.
    fn go_on(&self, started: Instant, sent: f64) -> bool {
        loop {
            let elapsed = started.elapsed();
            if elapsed >= self.duration {
                return false;
            }
            match self.rate {
                Some(rate) if sent > rate * elapsed.as_secs_f64() => thread::sleep(PACE),
                _ => return true,
            }
        }
    }
}

/// Serves until the process ends, or, where it is held, until standard input does.
pub(super) fn serve(port: u16, held: bool) -> Result<()> {
    let listener = listen(port)?;
    if held {
        thread::Builder::new().name("holder".to_owned()).spawn(|| {
            // Any end of it is one.
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            std::process::exit(0);
        })?;
    }
    eprintln!("takes loads on port {port}");
    accept(&listener, |socket, _| answer(socket));
    Ok(())
}

/// Does what a client asks for.
pub(super) fn answer(mut socket: TcpStream) -> Result<()> {
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let mut line = Vec::new();
    // Byte by byte: what follows is not for a buffer.
    let mut byte = [0];
    while socket.read(&mut byte)? == 1 && byte != *b"\n" {
        line.extend(byte);
        ensure!(line.len() < 1024, "somebody asks for something else");
    }
    if line.is_empty() {
        // Somebody only looked whether this port answers.
        return Ok(());
    }
    match serde_json::from_slice(&line).context("somebody asks for something else")? {
        Ask::Take => {
            let taken = take(&mut socket)?;
            say(&mut socket, &taken)
        }
        Ask::Give(seconds) => {
            let amount = Amount {
                duration: Duration::try_from_secs_f64(seconds)?,
                rate: None,
            };
            give(&mut socket, amount)
        }
        Ask::Count => count(socket),
    }
}

fn say<T: Serialize>(socket: &mut TcpStream, what: &T) -> Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    Ok(socket.write_all(&line)?)
}

fn hear<T: DeserializeOwned>(socket: &mut impl std::io::BufRead) -> Result<T> {
    let mut line = String::new();
    socket
        .read_line(&mut line)
        .context("the server does not answer")?;
    serde_json::from_str(&line).with_context(|| format!("the server answered {line:?}"))
}

/// CPU time of this thread so far.
fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Reads until the end.
fn take(socket: &mut TcpStream) -> Result<Taken> {
    let before = cpu();
    let mut buffer = vec![0; BLOCK];
    let mut taken = Taken::default();
    let mut first = None;
    loop {
        let n = socket.read(&mut buffer).context("nothing more arrives")?;
        let now = Instant::now();
        taken.seconds = now.duration_since(*first.get_or_insert(now)).as_secs_f64();
        if n == 0 {
            taken.cpu_seconds = cpu() - before;
            return Ok(taken);
        }
        taken.bytes += n as u64;
    }
}

/// Sends, and says that this was all.
fn give(socket: &mut TcpStream, amount: Amount) -> Result<()> {
    let buffer = vec![0u8; BLOCK];
    let started = Instant::now();
    let mut bits = 0.0;
    while amount.go_on(started, bits) {
        socket
            .write_all(&buffer)
            .context("the other end takes nothing any more")?;
        bits += (BLOCK * 8) as f64;
    }
    Ok(socket.shutdown(Shutdown::Write)?)
}

fn count(mut socket: TcpStream) -> Result<()> {
    // A load may be shorter or longer than anybody's patience.
    socket.set_read_timeout(None)?;
    let local = socket.local_addr()?.ip();
    let datagrams = UdpSocket::bind((local, 0)).context("cannot open a socket")?;
    socket2::SockRef::from(&datagrams).set_recv_buffer_size(DATAGRAM_BUFFER)?;
    datagrams.set_read_timeout(Some(STRAGGLER))?;
    let port = datagrams.local_addr()?.port();
    say(&mut socket, &Port { port })?;
    let ended = Arc::new(AtomicBool::new(false));
    let mut client = socket.try_clone()?;
    let end = Arc::clone(&ended);
    thread::Builder::new().name("end".to_owned()).spawn(move || {
        // It says nothing; any end is one.
        let _ = client.read(&mut [0]);
        end.store(true, Ordering::Relaxed);
    })?;
    let before = cpu();
    let mut buffer = [0; 2048];
    let mut taken = Taken::default();
    let mut first = None;
    loop {
        match datagrams.recv(&mut buffer) {
            Ok(len) => {
                let now = Instant::now();
                taken.seconds = now.duration_since(*first.get_or_insert(now)).as_secs_f64();
                taken.datagrams += 1;
                taken.bytes += len as u64;
            }
            Err(_) if ended.load(Ordering::Relaxed) => break,
            Err(_) => {}
        }
    }
    taken.cpu_seconds = cpu() - before;
    say(&mut socket, &taken)
}

/// One flow's end at the client: what it took, or what the server took of it, and this end's CPU time.
type Flow = Result<(Taken, f64)>;

fn flow(mut socket: TcpStream, ask: &Ask, amount: Amount, patience: Duration, start: &Barrier) -> Flow {
    let asked = say(&mut socket, ask);
    // Also after a failure, as the others wait.
    start.wait();
    asked?;
    match ask {
        Ask::Give(_) => {
            let taken = take(&mut socket)?;
            Ok((taken, taken.cpu_seconds))
        }
        _ => {
            let before = cpu();
            give(&mut socket, amount)?;
            let spent = cpu() - before;
            // What is under way still has to arrive.
            socket.set_read_timeout(Some(patience + amount.duration))?;
            Ok((hear(&mut BufReader::new(socket))?, spent))
        }
    }
}

/// Sends over so many connections at once; and as many the other way, if asked.
pub(super) fn streams(
    server: SocketAddr,
    source: Option<IpAddr>,
    flows: u16,
    both: bool,
    amount: Amount,
    patience: Duration,
) -> Result<Streamed> {
    let mut asks = vec![Ask::Take; usize::from(flows)];
    if both {
        let give = Ask::Give(amount.duration.as_secs_f64());
        asks.extend(vec![give; usize::from(flows)]);
    }
    let sockets = asks
        .iter()
        .map(|_| connect(server, source, patience))
        .collect::<Result<Vec<_>>>()?;
    let each = Amount {
        rate: amount.rate.map(|rate| rate / f64::from(flows)),
        ..amount
    };
    let start = Barrier::new(asks.len());
    let done: Result<Vec<(Taken, f64)>> = thread::scope(|scope| {
        let flows: Vec<_> = sockets
            .into_iter()
            .zip(&asks)
            .map(|(socket, ask)| scope.spawn(|| flow(socket, ask, each, patience, &start)))
            .collect();
        let ended = flows.into_iter().map(|flow| {
            let outcome = flow.join();
            outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        ended.collect()
    });
    let done = done?;
    let bytes = done.iter().map(|(taken, _)| taken.bytes).sum();
    let seconds = done.iter().map(|(taken, _)| taken.seconds).fold(0.0, f64::max);
    let far = |(ask, (taken, _)): (&Ask, &(Taken, f64))| match ask {
        Ask::Take => taken.cpu_seconds,
        _ => 0.0,
    };
    Ok(Streamed {
        flows,
        bytes,
        seconds,
        bits_per_second: per_second(bytes as f64 * 8.0, seconds),
        cpu_seconds: [
            done.iter().map(|(_, own)| own).sum(),
            asks.iter().zip(&done).map(far).sum(),
        ],
    })
}

/// One stream, as much as goes.
pub(super) fn send(
    server: SocketAddr,
    source: Option<IpAddr>,
    duration: Duration,
    patience: Duration,
) -> Result<Sent> {
    let amount = Amount { duration, rate: None };
    let all = streams(server, source, 1, false, amount, patience)?;
    Ok(Sent {
        bytes: all.bytes,
        seconds: all.seconds,
        mbps: all.bits_per_second / 1e6,
    })
}

fn per_second(amount: f64, seconds: f64) -> f64 {
    if seconds > 0.0 { amount / seconds } else { 0.0 }
}

/// Sends datagrams of this size.
pub(super) fn datagrams(
    server: SocketAddr,
    source: Option<IpAddr>,
    size: u16,
    amount: Amount,
) -> Result<Datagrams> {
    let mut control = connect(server, source, PATIENCE)?;
    say(&mut control, &Ask::Count)?;
    let mut answers = BufReader::new(control.try_clone()?);
    let Port { port } = hear(&mut answers)?;
    let local = control.local_addr()?.ip();
    let socket = UdpSocket::bind((local, 0)).with_context(|| format!("cannot speak from {local}"))?;
    socket.connect((server.ip(), port))?;
    let payload = vec![0; usize::from(size)];
    let started = Instant::now();
    let before = cpu();
    let mut sent = 0u64;
    // The clock is read once for several.
    const BURST: u64 = 16;
    while amount.go_on(started, sent as f64) {
        for _ in 0..BURST {
            // A full queue on the way is no end.
            sent += u64::from(socket.send(&payload).is_ok());
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let spent = cpu() - before;
    control.shutdown(Shutdown::Write)?;
    let taken: Taken = hear(&mut answers)?;
    Ok(Datagrams {
        sent,
        received: taken.datagrams,
        seconds,
        sent_per_second: per_second(sent as f64, seconds),
        // Over the time of sending: what waited in queues arrives a little later.
        received_per_second: per_second(taken.datagrams as f64, seconds.max(taken.seconds)),
        cpu_seconds: [spent, taken.cpu_seconds],
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::serve::listen;
    use super::*;

    fn server() -> SocketAddr {
        let listener = listen(0).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || accept(&listener, |socket, _| answer(socket)));
        (Ipv4Addr::LOCALHOST, port).into()
    }

    fn amount(rate: Option<f64>) -> Amount {
        Amount {
            duration: Duration::from_millis(200),
            rate,
        }
    }

    #[test]
    fn streams_are_counted_where_they_arrive() {
        let server = server();
        let all = streams(server, None, 3, false, amount(None), PATIENCE).unwrap();
        assert_eq!(all.flows, 3);
        assert!(all.bytes > 3 * BLOCK as u64, "{all:?}");
        assert_eq!(all.bytes % BLOCK as u64, 0, "whole blocks, {all:?}");
        assert!(all.cpu_seconds.iter().all(|cpu| *cpu > 0.0), "{all:?}");

        // 80 Mbit/s for a fifth of a second: sixteen megabits, and a block at most too many.
        let some = streams(server, None, 1, false, amount(Some(8e7)), PATIENCE).unwrap();
        assert!(
            some.bytes > BLOCK as u64 && some.bytes <= 2_000_000 + 2 * BLOCK as u64,
            "{some:?}"
        );

        let both = streams(server, None, 1, true, amount(Some(8e6)), PATIENCE).unwrap();
        assert!(both.bytes > some.bytes, "what comes back has no rate: {both:?}");
    }

    #[test]
    fn datagrams_are_counted_where_they_arrive() {
        let sent = datagrams(server(), None, 64, amount(Some(5000.0))).unwrap();
        assert!((16..=1100).contains(&sent.sent), "{sent:?}");
        assert!(sent.received > 0 && sent.received <= sent.sent, "{sent:?}");
        let again = datagrams(server(), None, 64, amount(None)).unwrap();
        assert!(again.received > 0 && again.received <= again.sent, "{again:?}");
    }

    #[test]
    fn whoever_asks_for_something_else_is_left() {
        let mut socket = TcpStream::connect(server()).unwrap();
        socket.write_all(b"GET / HTTP/1.1\n").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(socket.read(&mut [0; 8]).unwrap_or(0), 0);
    }
}
