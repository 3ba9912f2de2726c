//! What a network namespace holds, of anybody's, as text: for tests that something was left as it was.

use std::fmt::Write;

use crate::error::Result;
use crate::link::Links;
use crate::netlink::{Attributes, Socket};
use crate::netns::Netns;
use crate::nft::{GET_CHAIN, GET_RULE, GET_SET, message};

/// Devices, addresses, routes, policy rules, nftables and the kernel parameters that matter to Strait.
///
/// # Errors
/// Where the kernel refuses.
pub fn dump(namespace: &Netns) -> Result<String> {
    namespace.run(|| {
        let links = Links::open()?;
        let mut text = String::new();
        for link in links.list()? {
            // Writing to a string cannot fail.
            _ = writeln!(text, "{link:?}");
            let mut addresses = links.addresses(&link.name)?;
            addresses.sort();
            _ = writeln!(text, "  {addresses:?}");
        }
        for protocol in 0..=u8::MAX {
            let mut routes = links.routes(protocol)?;
            routes.sort();
            for route in routes {
                _ = writeln!(text, "protocol {protocol}: {route}");
            }
            for rule in links.rules(protocol)? {
                _ = writeln!(text, "protocol {protocol}: {rule}");
            }
        }
        _ = writeln!(text, "{} routes", links.route_count()?);
        let mut nft = Socket::netfilter()?;
        for (what, kind) in [("chain", GET_CHAIN), ("rule", GET_RULE), ("set", GET_SET)] {
            let found = nft.dump(
                &message(kind, 0, 0),
                || format!("list nftables {what}s"),
                |_, body| {
                    let attributes = Attributes::after(body, 4);
                    let handle = attributes.get(if kind == GET_SET {
                        16
                    } else if kind == GET_CHAIN {
                        2
                    } else {
                        3
                    });
                    Some(format!(
                        "{what} of table {:?} handle {handle:?}",
                        attributes.text(1)
                    ))
                },
            )?;
            for line in found {
                _ = writeln!(text, "{line}");
            }
        }
        for name in [
            "ipv4/ip_forward",
            "ipv4/fib_multipath_hash_policy",
            "ipv4/conf/all/rp_filter",
            "ipv6/conf/all/forwarding",
            "ipv6/fib_multipath_hash_policy",
        ] {
            let value = std::fs::read_to_string(format!("/proc/sys/net/{name}"));
            _ = writeln!(text, "{name} = {:?}", value.map(|v| v.trim().to_owned()).ok());
        }
        Ok(text)
    })?
}
