//! nftables tables beside ours: what somebody else's firewall would hold. For the lab, which plays the
//! CNI and kube-proxy, and for tests.

use strait_core::kernel::{ActualState, KernelState, NftOp, NftTable, Op, plan};

use crate::error::Result;
use crate::netlink::Socket;
use crate::netns::Netns;
use crate::nft;

/// Makes the table `name` (of family `inet`) hold exactly this, at once. It must not be Strait's own.
///
/// # Errors
/// Where the namespace cannot be entered, or the kernel refuses.
pub fn replace_table(namespace: &Netns, name: &str, table: &NftTable) -> Result<()> {
    let desired = KernelState {
        nft: Some(table.clone()),
        ..KernelState::default()
    };
    let plan = plan(&desired, &ActualState::default());
    let ops: Vec<&NftOp> = plan
        .ops
        .iter()
        .filter_map(|op| match op {
            Op::Nft(NftOp::AddTable) => None,
            Op::Nft(op) => Some(op),
            _ => None,
        })
        .collect();
    let mut socket = namespace.run(Socket::netfilter)??;
    nft::replace_table(&mut socket, name, &ops)
}
