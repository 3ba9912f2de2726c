//! `strait wireguard`: the data path alone, in place of other drivers in user space such as `wireguard-go`.
//!
//! One interface, configured and read over the socket that `wg` speaks (the cross-platform interface,
//! <https://www.wireguard.com/xplatform/>). [`uapi`] reads and writes its text, [`interface`] decides what a
//! request changes, [`serve`] applies it to the engine and lives the process's life. It knows no cluster.

mod args;
mod background;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
mod interface;
mod serve;
mod uapi;

pub use args::WireguardArgs;
pub use serve::run;
