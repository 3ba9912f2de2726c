//! What a device leaves to others or does for them: segmentation, joining, checksums (`ethtool -k` and `-K`).
#![allow(unsafe_code)]

use rustix::net::AddressFamily;

use crate::error::{Error, Result};
use crate::netdevice;

const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_SFEATURES: u32 = 0x3b;
const ETH_SS_FEATURES: u32 = 4;
/// Words of a name.
const NAME: usize = 32 / 4;
/// More features than any kernel has.
const FEATURES_MAX: u32 = 1024;

/// A feature of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// The kernel's name of it, as `ethtool -k` prints it where it has no shorter one: `tx-tcp-segmentation`.
    pub name: String,
    /// Whether it is on.
    pub on: bool,
}

/// The features of a device in the calling thread's network namespace.
///
/// # Errors
/// Where there is no such device, or the kernel refuses.
pub fn features(device: &str) -> Result<Vec<Feature>> {
    let doing = || format!("read the features of {device}");
    let names = names(device, &doing)?;
    // available, requested, active, never_changed
    let mut request = vec![0; 2 + names.len().div_ceil(32) * 4];
    request[0] = ETHTOOL_GFEATURES;
    request[1] = names.len().div_ceil(32) as u32;
    control(device, &mut request, &doing)?;
    let active = |at: usize| request[2 + at / 32 * 4 + 2] >> (at % 32) & 1 == 1;
    Ok(names
        .into_iter()
        .enumerate()
        .map(|(at, name)| Feature { name, on: active(at) })
        .collect())
}

/// Switches features of a device in the calling thread's network namespace. The kernel keeps on or off what the
/// device cannot do otherwise, and what hangs together: see [`features`] afterwards.
///
/// # Errors
/// Where there is no such device or feature, or the kernel refuses.
pub fn set_features(device: &str, wanted: &[(&str, bool)]) -> Result<()> {
    let doing = || format!("change features of {device}");
    let names = names(device, &doing)?;
    // valid, requested
    let mut request = vec![0; 2 + names.len().div_ceil(32) * 2];
    request[0] = ETHTOOL_SFEATURES;
    request[1] = names.len().div_ceil(32) as u32;
    for (name, on) in wanted {
        let Some(at) = names.iter().position(|known| known == name) else {
            return Err(Error::Missing {
                doing: doing(),
                what: format!("feature {name}"),
            });
        };
        let block = 2 + at / 32 * 2;
        request[block] |= 1 << (at % 32);
        request[block + 1] |= u32::from(*on) << (at % 32);
    }
    control(device, &mut request, &doing)
}

/// The names of all features, by their numbers.
fn names(device: &str, doing: &impl Fn() -> String) -> Result<Vec<String>> {
    // Command, reserved, a mask of 64 bits, and the one answer to it.
    let mut request = vec![ETHTOOL_GSSET_INFO, 0, 0, 0, 0];
    let mask = (1u64 << ETH_SS_FEATURES).to_ne_bytes();
    for (word, bytes) in request[2..4].iter_mut().zip(mask.chunks(4)) {
        *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    control(device, &mut request, doing)?;
    let count = request[4].min(FEATURES_MAX);
    let mut request = vec![0; 3 + count as usize * NAME];
    request[..3].copy_from_slice(&[ETHTOOL_GSTRINGS, ETH_SS_FEATURES, count]);
    control(device, &mut request, doing)?;
    let name = |words: &[u32]| {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    };
    Ok(request[3..].chunks(NAME).map(name).collect())
}

/// One request of `ethtool`: what the kernel answers stands in `data` afterwards. Its length is as the request
/// in it says.
fn control(device: &str, data: &mut [u32], doing: &impl Fn() -> String) -> Result<()> {
    let mut request = netdevice::request(device).ok_or_else(|| Error::Missing {
        doing: doing(),
        what: format!("network device {device:?}"),
    })?;
    request.ifr_ifru.ifru_data = data.as_mut_ptr().cast::<libc::c_char>();
    // SAFETY: SIOCETHTOOL takes an ifreq; ifru_data points to `data`, which lives until the call returns and is as
    // long as its command and count make the kernel read and write.
    unsafe { netdevice::control(AddressFamily::INET, libc::SIOCETHTOOL as _, &mut request) }.map_err(
        |source| Error::System {
            doing: doing(),
            source,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{Links, VethEnd};
    use crate::netns::Netns;
    use crate::testing::as_root;

    #[test]
    fn features_are_read_and_switched() {
        as_root("link::features::tests::features_are_read_and_switched", || {
            let namespace = Netns::new().unwrap();
            let end = |name| VethEnd {
                name,
                ..VethEnd::default()
            };
            Links::open_in(&namespace)
                .unwrap()
                .add_veth(&end("near"), &end("far"))
                .unwrap();
            let on = |device: &'static str, name: &str| {
                let all = namespace.run(|| features(device)).unwrap().unwrap();
                let found = all.iter().find(|feature| feature.name == name);
                found.unwrap_or_else(|| panic!("{name} is not among {all:?}")).on
            };
            let wanted = [("tx-tcp-segmentation", false), ("rx-gro", true)];
            assert!(on("near", "tx-tcp-segmentation"), "veth devices have it");
            namespace.run(|| set_features("near", &wanted)).unwrap().unwrap();
            assert!(!on("near", "tx-tcp-segmentation") && on("near", "rx-gro"));
            assert!(
                on("far", "tx-tcp-segmentation"),
                "the other end is another device"
            );

            let refused = |device: &'static str, name: &'static str| {
                let set = namespace.run(|| set_features(device, &[(name, true)])).unwrap();
                set.unwrap_err().to_string()
            };
            assert!(refused("near", "tx-tea").contains("tx-tea"));
            assert!(refused("none", "rx-gro").contains("none"));
            assert!(refused("a name that no device can have", "rx-gro").contains("no device"));
        });
    }
}
