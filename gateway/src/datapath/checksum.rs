//! The Internet checksum (RFC 1071), over native-endian words: the sum does not care.

#![allow(unsafe_code)]

use std::net::IpAddr;

/// A sum of words that has not been folded yet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum(u64);

impl Sum {
    /// Adds bytes; each call but the last must add an even number of them.
    pub(super) fn add(self, bytes: &[u8]) -> Self {
        let (blocks, rest) = bytes.as_chunks::<BLOCK>();
        let mut sum = self.0 + sum_blocks(blocks);
        let (words, odd) = rest.as_chunks::<2>();
        for word in words {
            sum += u64::from(u16::from_ne_bytes(*word));
        }
        if let [last] = odd {
            sum += u64::from(u16::from_ne_bytes([*last, 0]));
        }
        Self(sum)
    }

    /// Adds a number as it stands in a packet.
    pub(super) fn add_u16(self, value: u16) -> Self {
        Self(self.0 + u64::from(value.to_be()))
    }

    /// The folded sum, as bytes for a packet.
    pub(super) fn fold(self) -> [u8; 2] {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (sum as u16).to_ne_bytes()
    }

    /// The checksum: the complement of the folded sum.
    pub(super) fn finish(self) -> [u8; 2] {
        self.fold().map(|byte| !byte)
    }

    /// Whether bytes that hold their own checksum are whole.
    pub(super) fn holds(self) -> bool {
        self.fold() == [0xff, 0xff]
    }
}

/// Bytes that are added at a time: two of the widest registers used.
const BLOCK: usize = 64;

fn sum_blocks(blocks: &[[u8; BLOCK]]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has just been found to have AVX2.
        return unsafe { sum_wide(blocks) };
    }
    sum_lanes(blocks)
}

/// The same with wider registers, half the instructions.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_wide(blocks: &[[u8; BLOCK]]) -> u64 {
    sum_lanes(blocks)
}

/// Lanes of their own, so that the compiler adds many words with one instruction. None can overflow: a packet
/// has fewer than 2^32 words.
#[inline(always)]
fn sum_lanes(blocks: &[[u8; BLOCK]]) -> u64 {
    let mut lanes = [0u64; BLOCK / 4];
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<4>().0) {
            *lane = lane.wrapping_add(u64::from(u32::from_ne_bytes(*word)));
        }
    }
    lanes.iter().sum()
}

/// The sum of the pseudo header of TCP and UDP.
pub(super) fn pseudo(source: IpAddr, destination: IpAddr, protocol: u8, len: usize) -> Sum {
    let addresses = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            Sum::default().add(&source.octets()).add(&destination.octets())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            Sum::default().add(&source.octets()).add(&destination.octets())
        }
        _ => Sum::default(),
    };
    addresses.add_u16(u16::from(protocol)).add_u16(len as u16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::datapath::model::header_sum;

    #[test]
    fn the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::default().add(&bytes).fold(), [0xdd, 0xf2]);
    }

    proptest! {
        #[test]
        fn sums_what_a_word_by_word_loop_sums(mut bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let sum = Sum::default().add(&bytes);
            if bytes.len() % 2 == 1 {
                bytes.push(0);
            }
            prop_assert_eq!(sum.fold(), header_sum(&bytes).to_be_bytes());
            let (a, b) = bytes.split_at(bytes.len() / 4 * 2);
            prop_assert_eq!(Sum::default().add(a).add(b).fold(), sum.fold());
        }
    }
}
