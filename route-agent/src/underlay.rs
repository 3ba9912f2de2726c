//! The link under overlay and tunnels.

use std::net::IpAddr;

use anyhow::Context as _;
use strait_linux::link::Links;

use crate::args::UnderlayMtu;

/// MTU of the link that holds the node's address, unless a flag says it.
///
/// # Errors
/// Where no link of this node holds the address, so that this may not be the node at all.
pub(crate) fn mtu(flag: UnderlayMtu, address: Option<IpAddr>) -> anyhow::Result<u32> {
    let address = match (flag, address) {
        (UnderlayMtu::Fixed(mtu), _) => return Ok(mtu),
        (UnderlayMtu::Auto, Some(address)) => address,
        // Without an address there is no overlay; what the firewall clamps to is set right with it.
        (UnderlayMtu::Auto, None) => return Ok(1500),
    };
    let links = Links::open().context("this node's links cannot be read")?;
    for link in links.list().context("this node's links cannot be read")? {
        // A link that cannot be asked has just vanished, so it holds nothing.
        let addresses = links.addresses(&link.name).unwrap_or_default();
        if addresses.iter().any(|a| a.addr() == address) {
            return Ok(link.mtu);
        }
    }
    anyhow::bail!(
        "no link of this node holds {address}, its InternalIP in Kubernetes; check --node-name, or give --underlay-mtu"
    )
}
