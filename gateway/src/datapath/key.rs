//! Key types. A private key is wiped when dropped and never printed.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ring::hkdf::{HKDF_SHA256, Salt};
use zeroize::{Zeroize, Zeroizing};

use super::noise;

pub use strait_api::PublicKey;

/// Text that is not a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a WireGuard key: expected 32 bytes in base64 (44 characters)")]
pub struct BadKey;

/// This gateway's private key.
#[derive(Clone)]
pub struct PrivateKey([u8; 32]);

impl PrivateKey {
    /// A new key from the kernel's random numbers.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *bytes)?;
        Ok(Self(*bytes))
    }

    /// The key that these bytes are.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads the base64 form, as `wg genkey` writes it; white space around it is ignored.
    pub fn from_base64(text: &str) -> Result<Self, BadKey> {
        decode(text).map(|bytes| Self(*bytes))
    }

    /// The base64 form, wiped when dropped.
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE64_STANDARD.encode(self.0))
    }

    /// The key of a gateway's lane: this one, or one that only its owner can derive from it.
    pub(crate) fn lane(&self, lane: usize) -> Self {
        if lane == 0 {
            return self.clone();
        }
        let mut bytes = Zeroizing::new([0; 32]);
        let label = [&b"strait tunnel lane "[..], &(lane as u64).to_be_bytes()];
        let derived = Salt::new(HKDF_SHA256, &[]).extract(&self.0);
        derived
            .expand(&label, HKDF_SHA256)
            .and_then(|output| output.fill(&mut *bytes))
            .expect("HKDF gives as many bytes as its hash has");
        Self(*bytes)
    }

    /// The public key that belongs to this one.
    pub fn public(&self) -> PublicKey {
        noise::public_of(self)
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(redacted)")
    }
}

impl Drop for PrivateKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// A key shared with one peer, mixed into the handshake.
#[derive(Clone, PartialEq, Eq)]
pub struct PresharedKey([u8; 32]);

impl PresharedKey {
    /// The key that these bytes are.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Drop for PresharedKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(redacted)")
    }
}

fn decode(text: &str) -> Result<Zeroizing<[u8; 32]>, BadKey> {
    let bytes = Zeroizing::new(BASE64_STANDARD.decode(text.trim()).map_err(|_| BadKey)?);
    Ok(Zeroizing::new(bytes.as_slice().try_into().map_err(|_| BadKey)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_their_text_form() {
        let private = PrivateKey::generate().unwrap();
        let again = PrivateKey::from_base64(&format!(" {}\n", *private.to_base64())).unwrap();
        assert_eq!(private.bytes(), again.bytes());
        let public = private.public();
        assert_eq!(public.to_string().parse::<PublicKey>(), Ok(public));
        assert_ne!(&public.0, private.bytes());
    }

    #[test]
    fn a_known_private_key_gives_its_public_key() {
        // RFC 7748, section 6.1: Alice's keys.
        let hex = |text: &str| -> [u8; 32] {
            let bytes: Vec<u8> = (0..32)
                .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
                .collect();
            bytes.try_into().unwrap()
        };
        let private = PrivateKey::from_bytes(hex(
            "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
        ));
        let public = PublicKey(hex(
            "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
        ));
        assert_eq!(private.public(), public);
    }

    #[test]
    fn lanes_have_keys_of_their_own_that_stay_the_same() {
        let private = PrivateKey::from_bytes([5; 32]);
        let publics: Vec<String> = (0..3)
            .map(|lane| private.lane(lane).public().to_string())
            .collect();
        // By another implementation of RFC 5869 and of X25519. A change here would cut every tunnel at an update.
        let expected = [
            "UKYUCbHd0DJemxa3AOcZ6XcsBwALG9d4bpB8ZT0gSV0=",
            "7svfjQbwzhLtMz0fcDS9WoTXPeRhDstUG1TTpjyzkkw=",
            "KJf5IrLJouYt+rn8W4rTh1w8Oj5aIZLOrAzEGCA45nU=",
        ];
        assert_eq!(publics, expected);
        assert_ne!(
            PrivateKey::from_bytes([6; 32]).lane(1).public(),
            private.lane(1).public()
        );
    }

    #[test]
    fn what_is_not_a_key_is_refused() {
        for text in ["", "AAAA", "not base64 at all", &"A".repeat(44), &"A".repeat(60)] {
            assert_eq!(PrivateKey::from_base64(text).err(), Some(BadKey), "{text:?}");
        }
    }
}
