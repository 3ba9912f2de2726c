//! Where something that listens is reached from its own machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Of one address: what listens on all of them listens on the loopback, too.
pub fn address(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// Of several addresses: one on the loopback, where there is one.
pub fn best(listen: &[SocketAddr]) -> Option<SocketAddr> {
    let lasting = |a: &&SocketAddr| a.ip().is_loopback() || a.ip().is_unspecified();
    let found = listen.iter().find(lasting).or(listen.first());
    found.copied().map(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_taken_where_it_is_listened_at() {
        let best = |all: &[&str]| {
            let all: Vec<SocketAddr> = all.iter().map(|a| a.parse().unwrap()).collect();
            best(&all).map(|a| a.to_string())
        };
        assert_eq!(best(&["192.0.2.1:1", "[::]:2"]).as_deref(), Some("[::1]:2"));
        assert_eq!(
            best(&["0.0.0.0:1", "127.0.0.5:2"]).as_deref(),
            Some("127.0.0.1:1")
        );
        assert_eq!(
            best(&["192.0.2.1:1", "192.0.2.2:2"]).as_deref(),
            Some("192.0.2.1:1")
        );
        assert_eq!(best(&[]), None);
    }
}
