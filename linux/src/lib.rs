//! Strait's effects on the Linux kernel: netlink, nftables, network namespaces, TUN devices.
//!
//! This crate carries out plans that `strait-core` made and reads the actual state back into the same
//! types; it decides nothing. It must not know Kubernetes, and nothing of netlink or nftables shows in its
//! interface. `unsafe` is allowed in the modules that say so, each use with its reason. Start reading at
//! [`Kernel`] (one node's kernel: read, apply, uninstall, subscribe), [`netns`] (where things happen) and
//! [`link`] (devices, for everybody who builds networks). Under them lie `nft` (rules as the kernel's
//! expressions) and `netlink` (datagrams of messages; those of the route family are netlink-packet-route's).

pub mod conntrack;
mod error;
pub mod inspect;
mod kernel;
pub mod link;
pub mod mounts;
mod netdevice;
mod netlink;
pub mod netns;
mod nft;
pub mod pipe;
pub mod sandbox;
pub mod table;
pub mod testing;
pub mod tun;
pub mod userns;
pub mod uts;

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub use kernel::fuzz;

pub use error::{Error, Refusal, Result};
pub use kernel::{Change, Changes, Failure, Kernel, Report};
