//! How a rule is recognised when it is read back.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::nft::Rule;

/// Raise it when the `linux` crate encodes the same rule differently, so that rules of the old encoding
/// are replaced at an upgrade.
const ENCODING: u32 = 1;

/// A short digest of a rule's text; the rule carries it in the kernel as its comment.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RuleDigest(String);

impl RuleDigest {
    /// The digest of a rule.
    #[must_use]
    pub fn of(rule: &Rule) -> Self {
        let digest = Sha256::digest(format!("{ENCODING} {rule}"));
        Self(hex::encode(&digest[..8]))
    }

    /// What a rule in our table carries as its comment; empty where it carries none.
    #[must_use]
    pub fn from_comment(comment: &str) -> Self {
        Self(comment.to_owned())
    }

    /// The text to carry.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RuleDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RuleDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A rule, whole or by its digest.
pub trait Digested {
    /// Its digest.
    fn digest(&self) -> RuleDigest;
}

impl Digested for Rule {
    fn digest(&self) -> RuleDigest {
        RuleDigest::of(self)
    }
}

impl Digested for RuleDigest {
    fn digest(&self) -> RuleDigest {
        self.clone()
    }
}
