//! Datagrams that mean nothing.

use std::net::{SocketAddr, UdpSocket};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::client::any_like;

/// What was sent.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Noise {
    pub(crate) datagrams: u32,
}

/// Largest datagram sent, in bytes: what fits an Ethernet frame over IPv6.
const LARGEST: usize = 1452;

/// Sends `count` datagrams of random length and content; every other one begins like a WireGuard message
/// (types 1 to 4), so that it gets past the first look.
pub(super) fn noise(target: SocketAddr, count: u32) -> Result<Noise> {
    let socket = UdpSocket::bind((any_like(target.ip()), 0)).context("cannot open a socket")?;
    let mut buffer = [0u8; LARGEST];
    for n in 0..count {
        getrandom::fill(&mut buffer).map_err(|e| anyhow::anyhow!("no randomness: {e}"))?;
        let length = usize::from(u16::from_le_bytes([buffer[8], buffer[9]])) % (LARGEST + 1);
        if n % 2 == 0 {
            buffer[..4].copy_from_slice(&(n / 2 % 4 + 1).to_le_bytes());
        }
        socket
            .send_to(&buffer[..length], target)
            .with_context(|| format!("cannot send to {target}"))?;
    }
    Ok(Noise { datagrams: count })
}
