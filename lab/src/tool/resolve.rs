//! A question to a DNS server.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use serde::{Deserialize, Serialize};

/// An answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Resolved {
    /// `No Error`, …
    pub(crate) code: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) seconds: f64,
}

/// What the machine's, or the pod's, own way of resolving says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LookedUp {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) seconds: f64,
}

/// Asks as any program does: by getaddrinfo.
pub(super) fn lookup(name: &str) -> Result<LookedUp> {
    let started = Instant::now();
    let found = (name, 0)
        .to_socket_addrs()
        .with_context(|| format!("{name} cannot be resolved"))?;
    let addresses: BTreeSet<IpAddr> = found.map(|a| a.ip()).collect();
    Ok(LookedUp {
        addresses: addresses.into_iter().collect(),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Asks; again every 500 ms, as a datagram may be lost.
pub(super) fn resolve(server: SocketAddr, name: &str, aaaa: bool, timeout: Duration) -> Result<Resolved> {
    let started = Instant::now();
    let kind = if aaaa { RecordType::AAAA } else { RecordType::A };
    let name = Name::from_ascii(name).with_context(|| format!("{name:?} is no DNS name"))?;
    let id = (std::process::id() & 0xffff) as u16;
    let mut question = Message::new(id, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(name, kind));
    let question = question.to_vec().context("the question cannot be written")?;

    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket
        .connect(server)
        .with_context(|| format!("no way to {server}"))?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut buffer = [0; 4096];
    loop {
        let asked = socket.send(&question).and_then(|_| socket.recv(&mut buffer));
        match asked {
            Ok(n) => {
                let answer = Message::from_vec(&buffer[..n])
                    .with_context(|| format!("{server} answered what is no DNS message"))?;
                if answer.metadata.id != id {
                    continue;
                }
                let addresses = answer.answers.iter().filter_map(|r| address(&r.data)).collect();
                return Ok(Resolved {
                    code: answer.metadata.response_code.to_string(),
                    addresses,
                    seconds: started.elapsed().as_secs_f64(),
                });
            }
            Err(e) if started.elapsed() > timeout => {
                bail!("the DNS server {server} did not answer within {timeout:?}: {e}")
            }
            // Refused by ICMP: not up yet. Not at once again.
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(_) => {}
        }
    }
}

fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(a) => Some(IpAddr::V6(a.0)),
        _ => None,
    }
}
