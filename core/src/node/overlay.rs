//! The overlay between the cluster's nodes: one VXLAN device whose neighbours and forwarding entries are
//! all known beforehand, so that nothing is learned and nothing is flooded.

use std::net::IpAddr;

use ipnet::IpNet;

use super::topology::{Peer, Port, Topology, first_of};
use super::{Observed, family_of};
use crate::kernel::{
    Address, AddressFamily, FdbEntry, KernelState, MacAddress, Neighbour, OVERLAY_DEVICE, OVERLAY_PORT,
    OVERLAY_VNI, OverlayLink,
};

/// What a tunnel takes from the underlay's MTU: outer IPv6 and UDP headers, and WireGuard's.
const TUNNEL_OVERHEAD: u32 = 80;
/// What every IPv6 link must carry.
pub(super) const IPV6_MINIMUM: u32 = 1280;

/// The tunnel's inner MTU over an underlay. IPv6 is given its minimum, whatever it costs in fragments.
pub fn tunnel_mtu(underlay: u32, family: AddressFamily) -> u32 {
    let mtu = underlay.saturating_sub(TUNNEL_OVERHEAD);
    match family {
        AddressFamily::V4 => mtu,
        AddressFamily::V6 => mtu.max(IPV6_MINIMUM),
    }
}

/// The overlay's inner MTU over an underlay of this outer family.
pub fn overlay_mtu(underlay: u32, outer: AddressFamily) -> u32 {
    underlay.saturating_sub(match outer {
        AddressFamily::V4 => 50,
        AddressFamily::V6 => 70,
    })
}

/// The device's own MTU. Below IPv6's minimum the kernel takes IPv6 off it altogether; what does not fit
/// the underlay is then fragmented outside. IPv4 is kept smaller by its routes.
fn device_mtu(underlay: u32, outer: AddressFamily, inner_v6: bool) -> u32 {
    let least = if inner_v6 { IPV6_MINIMUM } else { 0 };
    overlay_mtu(underlay, outer).max(least)
}

/// The hardware address of a node with these overlay addresses: locally administered, of the IPv4 address
/// where there is one. The second byte keeps the families apart.
pub(super) fn mac(overlay: &[IpAddr]) -> Option<MacAddress> {
    let address = first_of(AddressFamily::V4, overlay).or_else(|| first_of(AddressFamily::V6, overlay))?;
    Some(MacAddress(match address {
        IpAddr::V4(a) => {
            let [b, c, d, e] = a.octets();
            [0x0a, 0x53, b, c, d, e]
        }
        IpAddr::V6(a) => {
            let [.., b, c, d, e] = a.octets();
            [0x0a, 0x56, b, c, d, e]
        }
    }))
}

/// The device, its addresses, and where the other nodes are.
pub(super) fn build(topology: &Topology, observed: &Observed, state: &mut KernelState) {
    let Some(Port { outer, mac }) = topology.own.port else {
        return;
    };
    state.overlay = Some(OverlayLink {
        name: OVERLAY_DEVICE.to_owned(),
        vni: OVERLAY_VNI,
        port: OVERLAY_PORT,
        local: outer,
        mac,
        mtu: device_mtu(
            observed.underlay_mtu,
            family_of(outer),
            topology.own.overlay(AddressFamily::V6).is_some(),
        ),
        rp_filter: 2,
    });
    for address in topology.own.overlays() {
        state.addresses.insert(Address {
            device: OVERLAY_DEVICE.to_owned(),
            address: IpNet::from(address),
        });
    }
    for peer in &topology.others {
        neighbour(peer, state);
    }
}

fn neighbour(peer: &Peer, state: &mut KernelState) {
    let Some(Port { outer, mac }) = peer.port else {
        return;
    };
    state.fdb.insert(FdbEntry {
        device: OVERLAY_DEVICE.to_owned(),
        mac,
        node: outer,
    });
    for address in peer.overlays() {
        state.neighbours.insert(Neighbour {
            device: OVERLAY_DEVICE.to_owned(),
            address,
            mac,
        });
    }
}
