//! Identities: of a cluster, and of a tunnel.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// The name of a cluster in its clusterset: one DNS label (RFC 1123) of at most 54 characters, so that
/// `strait-m-<id>` is a namespace name and `<host>.<id>.<service>…` a host name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterId(String);

/// Longest cluster ID, in characters.
pub const CLUSTER_ID_MAX: usize = 54;

/// Why a text is no cluster ID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no cluster ID: it takes one DNS label, a-z, 0-9 and '-', beginning and ending with a letter or digit, at most {CLUSTER_ID_MAX} characters"
)]
pub struct InvalidClusterId(pub String);

impl ClusterId {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The member's namespace on the broker: `strait-m-<id>`.
    pub fn member_namespace(&self) -> String {
        format!("{}{}", crate::names::MEMBER_NAMESPACE_PREFIX, self.0)
    }
}

impl FromStr for ClusterId {
    type Err = InvalidClusterId;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let b = s.as_bytes();
        let fits = (1..=CLUSTER_ID_MAX).contains(&b.len())
            && b.iter().all(|c| inner(*c))
            && b.first() != Some(&b'-')
            && b.last() != Some(&b'-');
        if fits {
            Ok(Self(s.to_owned()))
        } else {
            Err(InvalidClusterId(s.to_owned()))
        }
    }
}

impl TryFrom<String> for ClusterId {
    type Error = InvalidClusterId;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<ClusterId> for String {
    fn from(id: ClusterId) -> Self {
        id.0
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A tunnel's public key (X25519), in text as 44 characters of base64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(pub [u8; 32]);

/// Why a text is no public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no public key: it takes 32 bytes in base64 (44 characters)")]
pub struct InvalidKey(pub String);

impl FromStr for PublicKey {
    type Err = InvalidKey;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bytes = STANDARD.decode(s).map_err(|_| InvalidKey(s.to_owned()))?;
        Ok(Self(bytes.try_into().map_err(|_| InvalidKey(s.to_owned()))?))
    }
}

impl TryFrom<String> for PublicKey {
    type Error = InvalidKey;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(feature = "kube")]
mod schemas {
    use std::borrow::Cow;

    use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

    use super::{CLUSTER_ID_MAX, ClusterId, PublicKey};

    impl JsonSchema for ClusterId {
        fn inline_schema() -> bool {
            true
        }

        fn schema_name() -> Cow<'static, str> {
            "ClusterId".into()
        }

        fn json_schema(_: &mut SchemaGenerator) -> Schema {
            json_schema!({
                "type": "string",
                "maxLength": CLUSTER_ID_MAX,
                "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
            })
        }
    }

    impl JsonSchema for PublicKey {
        fn inline_schema() -> bool {
            true
        }

        fn schema_name() -> Cow<'static, str> {
            "PublicKey".into()
        }

        fn json_schema(_: &mut SchemaGenerator) -> Schema {
            json_schema!({ "type": "string", "minLength": 44, "maxLength": 44 })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_ids_are_single_dns_labels() {
        for good in ["a", "blue", "eu-west-1", "0", &"x".repeat(54)] {
            assert_eq!(good.parse::<ClusterId>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "ä", &"x".repeat(55)] {
            assert_eq!(bad.parse::<ClusterId>(), Err(InvalidClusterId(bad.to_owned())));
        }
    }

    #[test]
    fn keys_round_trip_as_base64() {
        let key = PublicKey([7; 32]);
        assert_eq!(key.to_string().parse::<PublicKey>(), Ok(key));
        assert!("AAAA".parse::<PublicKey>().is_err());
        assert!("not base64!".parse::<PublicKey>().is_err());
    }
}
