//! Who asks, and what they may do.

pub(crate) mod bootstrap;
pub(crate) mod escalation;
pub(crate) mod rbac;
pub(crate) mod token;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The group that may do everything.
pub(crate) const MASTERS: &str = "system:masters";
/// The group of all who showed who they are.
pub(crate) const AUTHENTICATED: &str = "system:authenticated";
/// The group of all others.
pub(crate) const UNAUTHENTICATED: &str = "system:unauthenticated";

/// Somebody who asks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    /// Name.
    pub name: String,
    /// UID, or empty.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// More about them.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A user in these groups, and in the group of the authenticated.
    pub fn new(name: &str, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        groups.push(AUTHENTICATED.into());
        User {
            name: name.into(),
            groups,
            ..User::default()
        }
    }

    /// The administrator.
    pub fn admin() -> Self {
        User::new("admin", &[MASTERS])
    }

    /// Who brings no token.
    pub fn anonymous() -> Self {
        User {
            name: "system:anonymous".into(),
            groups: vec![UNAUTHENTICATED.into()],
            ..User::default()
        }
    }

    /// As reviews show them.
    pub(crate) fn to_value(&self) -> Value {
        let mut out = json!({"username": self.name});
        if !self.uid.is_empty() {
            out["uid"] = self.uid.clone().into();
        }
        out["groups"] = json!(self.groups);
        if !self.extra.is_empty() {
            out["extra"] = json!(self.extra);
        }
        out
    }
}

/// Fixed tokens and the users that they stand for. Only hashes are kept.
#[derive(Debug, Default)]
pub(crate) struct StaticTokens {
    entries: Vec<([u8; 32], User)>,
}

impl StaticTokens {
    /// Adds a token.
    pub(crate) fn add(&mut self, token: &str, user: User) {
        self.entries.push((Sha256::digest(token.as_bytes()).into(), user));
    }

    /// Whose token this is.
    pub(crate) fn find(&self, token: &str) -> Option<User> {
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let mut found = None;
        for (known, user) in &self.entries {
            // Every entry is compared, so that time tells nothing.
            if bool::from(known.ct_eq(&hash)) {
                found = Some(user.clone());
            }
        }
        found
    }
}

/// A random hexadecimal token of 256 bits.
pub(crate) fn random_token() -> Result<String, getrandom::Error> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes)?;
    Ok(hex::encode(bytes))
}

/// A random UUID.
pub(crate) fn uuid() -> String {
    let mut b = [0u8; 16];
    // The kernel's generator does not fail once it has started; a process without it cannot go on.
    if let Err(e) = getrandom::fill(&mut b) {
        tracing::error!(error = %e, "the system's random generator fails");
        std::process::abort();
    }
    b[6] = (b[6] & 0x0f) | 0x40;
    b[8] = (b[8] & 0x3f) | 0x80;
    let h = hex::encode(b);
    format!(
        "{}-{}-{}-{}-{}",
        &h[..8],
        &h[8..12],
        &h[12..16],
        &h[16..20],
        &h[20..]
    )
}
