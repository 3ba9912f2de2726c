//! From the kernel's dumps to a state.

use std::collections::{BTreeMap, BTreeSet};

use strait_core::kernel::{
    ActualState, Address, DEVICE_PREFIX, FdbEntry, Neighbour, OVERLAY_DEVICE, OverlayLink, ROUTE_PROTOCOL,
};

use super::Inner;
use crate::error::Result;
use crate::link::Link;
use crate::nft;

pub(super) fn read(kernel: &Inner) -> Result<ActualState> {
    let links = kernel.links.list()?;
    let names: BTreeMap<u32, String> = links.iter().map(|link| (link.index, link.name.clone())).collect();
    let ours: BTreeMap<u32, &str> = (links.iter())
        .filter(|link| link.name.starts_with(DEVICE_PREFIX))
        .map(|link| (link.index, link.name.as_str()))
        .collect();
    let overlay = links.iter().find_map(overlay);
    let overlay_index = links
        .iter()
        .find(|l| l.name == OVERLAY_DEVICE && l.vxlan.is_some())
        .map(|l| l.index);

    let addresses = kernel
        .links
        .all_addresses()?
        .into_iter()
        .filter(|held| !held.link_scope);
    let addresses = addresses
        .filter_map(|held| {
            Some(Address {
                device: (*ours.get(&held.index)?).to_owned(),
                address: held.address,
            })
        })
        .collect();
    let (mut neighbours, mut fdb) = (BTreeSet::new(), BTreeSet::new());
    if let Some(index) = overlay_index {
        for held in kernel.links.all_neighbours(false)? {
            if let (true, true, Some(address), Some(mac)) =
                (held.index == index, held.permanent, held.destination, held.mac)
            {
                neighbours.insert(Neighbour {
                    device: OVERLAY_DEVICE.to_owned(),
                    address,
                    mac,
                });
            }
        }
        for held in kernel.links.all_neighbours(true)? {
            if let (true, true, Some(node), Some(mac)) =
                (held.index == index, held.bridge, held.destination, held.mac)
            {
                fdb.insert(FdbEntry {
                    device: OVERLAY_DEVICE.to_owned(),
                    mac,
                    node,
                });
            }
        }
    }
    let routes = kernel
        .links
        .routes_named(ROUTE_PROTOCOL, &names)?
        .into_iter()
        .collect();
    let rules = kernel.links.rules(ROUTE_PROTOCOL)?.into_iter().collect();

    let (found, foreign_accepts, foreign_refusals) = kernel.with_nft(|socket| -> Result<_> {
        let found = nft::read(socket)?;
        let (mut accepts, mut refusals) = (BTreeSet::new(), BTreeSet::new());
        for place in found.forward.keys() {
            if nft::has_accepts(socket, place)? {
                accepts.insert(place.clone());
            }
            refusals.extend(nft::refusal(socket, place)?);
        }
        Ok((found, accepts, refusals))
    })?;
    Ok(ActualState {
        overlay,
        foreign_links: (ours.values())
            .filter(|name| **name != OVERLAY_DEVICE)
            .map(|name| (*name).to_owned())
            .collect(),
        down_links: (links.iter())
            .filter(|link| link.name.starts_with(DEVICE_PREFIX) && link.name != OVERLAY_DEVICE && !link.up)
            .map(|link| link.name.clone())
            .collect(),
        foreign_drops: found
            .forward
            .into_iter()
            .filter(|(_, drops)| *drops)
            .map(|(place, _)| place)
            .collect(),
        foreign_refusals,
        addresses,
        neighbours,
        fdb,
        routes,
        rules,
        nft: found.table,
        foreign_accepts,
        sysctls: kernel.sysctls.read(&kernel.namespace)?,
    })
}

/// The overlay device, where this is it. A device of that name but of another type reads as an overlay
/// that nobody wants, so that it is made anew.
fn overlay(link: &Link) -> Option<OverlayLink> {
    if link.name != OVERLAY_DEVICE {
        return None;
    }
    let unspecified = std::net::Ipv4Addr::UNSPECIFIED.into();
    let (vni, port, local) = link.vxlan.as_ref().map_or((0, 0, unspecified), |v| {
        (v.vni, v.port, v.local.unwrap_or(unspecified))
    });
    Some(OverlayLink {
        name: link.name.clone(),
        vni,
        port,
        local,
        mac: link.mac.unwrap_or(strait_core::kernel::MacAddress([0; 6])),
        // A device that is down does not serve: it reads as one without MTU, so that it is set up again.
        mtu: if link.up { link.mtu } else { 0 },
        rp_filter: link.rp_filter.and_then(|v| u8::try_from(v).ok()).unwrap_or(0),
    })
}
