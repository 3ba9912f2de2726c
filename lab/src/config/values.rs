//! What single values mean.

use std::str::FromStr;

use ipnet::IpNet;

use crate::topology;

/// Longest delay, in microseconds: above it, handshakes give up.
const MAX_DELAY: u64 = 2_000_000;
/// Slowest and fastest rate in bits a second.
const RATES: std::ops::RangeInclusive<u64> = 64_000..=100_000_000_000;

pub(super) fn prefix(text: &str) -> Result<IpNet, String> {
    let net = IpNet::from_str(text).map_err(|_| format!("{text:?} is no prefix such as 10.1.0.0/16"))?;
    if net.addr() != net.network() {
        return Err(format!(
            "{text} has bits set behind its length; {} would do",
            net.trunc()
        ));
    }
    Ok(net)
}

pub(super) fn fits_pods(net: IpNet, nodes: u8) -> Result<(), String> {
    if topology::node_cidr(&net, nodes).is_some() {
        return Ok(());
    }
    let each = if net.addr().is_ipv4() { 24 } else { 64 };
    Err(format!(
        "{net} is too small: each of {nodes} nodes takes a /{each}, and the first one is left free"
    ))
}

pub(super) fn fits_services(net: IpNet, _: u8) -> Result<(), String> {
    let lengths = if net.addr().is_ipv4() { 12..=24 } else { 108..=120 };
    if lengths.contains(&net.prefix_len()) {
        return Ok(());
    }
    Err(format!(
        "{net} is no range for Services: its length is to be /{} to /{}",
        lengths.start(),
        lengths.end()
    ))
}

/// A number and its unit.
fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim()))
}

/// Microseconds.
pub(super) fn duration(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!(
            "{text:?} is no time such as 20ms, at most {} s",
            MAX_DELAY / 1_000_000
        )
    };
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let factor = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        _ => return Err(wrong()),
    };
    let us = (number * factor).round() as u64;
    if us > MAX_DELAY { Err(wrong()) } else { Ok(us) }
}

/// Parts in a million.
pub(super) fn share(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no share such as 1%, less than 100%");
    match split(text).ok_or_else(wrong)? {
        (number, "%") if number < 100.0 => Ok((number * 1e4).round() as u64),
        _ => Err(wrong()),
    }
}

/// Bits a second.
pub(super) fn rate(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no rate such as 10Mbit, from 64kbit to 100Gbit");
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let factor = match unit {
        "kbit" => 1e3,
        "Mbit" => 1e6,
        "Gbit" => 1e9,
        _ => return Err(wrong()),
    };
    let bits = (number * factor).round() as u64;
    if RATES.contains(&bits) {
        Ok(bits)
    } else {
        Err(wrong())
    }
}
