//! What a network namespace holds, of anybody's, as text: for tests that something was left as it was.

use std::fmt::Write;
use std::path::Path;

use crate::error::Result;
use crate::link::Links;
use crate::netlink::{Attributes, Socket};
use crate::netns::Netns;
use crate::nft::{GET_CHAIN, GET_ELEMENT, GET_RULE, GET_SET, SUBSYSTEM, message};

/// Devices, addresses, neighbours, forwarding entries, routes, policy rules, the whole of nftables, and all
/// kernel parameters of the network.
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
        for bridge in [false, true] {
            // Others come and go with traffic.
            let held = links.all_neighbours(bridge)?.into_iter().filter(|n| n.permanent);
            let mut lines: Vec<String> = held.map(|n| format!("{n:?}")).collect();
            lines.sort();
            lines.iter().for_each(|line| _ = writeln!(text, "{line}"));
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
        nftables(&mut text)?;
        parameters(Path::new("/proc/sys/net"), &mut text);
        Ok(text)
    })?
}

/// The lines of two dumps that stand in one of them only, marked `-` and `+`; empty where they are the same.
#[must_use]
pub fn difference(before: &str, after: &str) -> String {
    let only = |mark: char, these: &str, those: &str| {
        let lines = these
            .lines()
            .filter(|line| !those.lines().any(|other| other == *line));
        lines.fold(String::new(), |text, line| format!("{text}{mark} {line}\n"))
    };
    only('-', before, after) + &only('+', after, before)
}

/// Every table, chain, rule and set with all that it says, and every element.
fn nftables(text: &mut String) -> Result<()> {
    const TABLE: u16 = 1;
    const SET_NAME: u16 = 2;
    let mut nft = Socket::netfilter()?;
    let mut sets = Vec::new();
    for (what, kind) in [
        ("table", TABLE),
        ("chain", GET_CHAIN),
        ("rule", GET_RULE),
        ("set", GET_SET),
    ] {
        let found = nft.dump(
            &message(kind, 0, 0),
            || format!("list nftables {what}s"),
            |type_, body| (type_ >> 8 == SUBSYSTEM).then(|| body.to_vec()),
        )?;
        for body in found {
            _ = writeln!(text, "{what} {}", shown(&body));
            let attributes = Attributes::after(&body, 4);
            if let (GET_SET, Some(table), Some(set)) =
                (kind, attributes.text(TABLE), attributes.text(SET_NAME))
            {
                sets.push((body.first().copied().unwrap_or_default(), table, set));
            }
        }
    }
    for (family, table, set) in sets {
        let mut request = message(GET_ELEMENT, 0, family);
        request.text(TABLE, &table).text(SET_NAME, &set);
        let doing = || format!("list the elements of {set}");
        let mut found = nft.dump(&request, doing, |_, body| Some(shown(body)))?;
        found.sort();
        found.iter().for_each(|line| _ = writeln!(text, "  {line}"));
    }
    Ok(())
}

/// The bytes of an object with what can be read in them; bytes 2 and 3 number the last change of all.
fn shown(body: &[u8]) -> String {
    let numbered = body.iter().enumerate();
    let own: Vec<u8> = numbered
        .filter(|(at, _)| ![2, 3].contains(at))
        .map(|(_, byte)| *byte)
        .collect();
    own.escape_ascii().to_string()
}

/// Kernel parameters below a folder, as far as they can be read.
fn parameters(folder: &Path, text: &mut String) {
    /// They change by themselves.
    const OF_THEMSELVES: [&str; 2] = ["nf_conntrack_count", "nf_conntrack_buckets"];
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            parameters(&path, text);
        } else if !path
            .file_name()
            .is_some_and(|name| OF_THEMSELVES.iter().any(|n| name == *n))
            && let Ok(value) = std::fs::read_to_string(&path)
        {
            _ = writeln!(text, "{} = {:?}", path.display(), value.trim());
        }
    }
}
