//! Tokens of service accounts: signed, bound to an audience and to objects, and short-lived.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{AUTHENTICATED, User};
use crate::store::Store;

/// Issuer and default audience.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc";

/// An object that a token names.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Named {
    /// Name.
    pub(crate) name: String,
    /// UID.
    pub(crate) uid: String,
}

/// Kubernetes' own claims.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Private {
    /// Namespace of the account.
    pub(crate) namespace: String,
    /// The account.
    pub(crate) serviceaccount: Named,
    /// The pod that the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<Named>,
    /// The secret that the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<Named>,
    /// The node that the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<Named>,
}

/// What a token says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Claims {
    /// For whom it is.
    pub(crate) aud: Vec<String>,
    /// Until when, in seconds since 1970.
    pub(crate) exp: i64,
    /// Since when.
    pub(crate) iat: i64,
    /// By whom.
    pub(crate) iss: String,
    /// Its own ID.
    pub(crate) jti: String,
    /// Kubernetes' own claims.
    #[serde(rename = "kubernetes.io")]
    pub(crate) private: Private,
    /// Not before.
    pub(crate) nbf: i64,
    /// The user.
    pub(crate) sub: String,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
}

/// Signs tokens and checks them.
pub(crate) struct Signer {
    key: EcdsaKeyPair,
    public: Vec<u8>,
    kid: String,
    random: SystemRandom,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer")
            .field("kid", &self.kid)
            .finish_non_exhaustive()
    }
}

impl Signer {
    /// Makes a new key, as PKCS#8.
    pub(crate) fn generate() -> Result<Vec<u8>, String> {
        let doc = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .map_err(|e| format!("a key for service account tokens cannot be made: {e}"))?;
        Ok(doc.as_ref().to_vec())
    }

    /// Takes a key.
    pub(crate) fn new(pkcs8: &[u8]) -> Result<Self, String> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &random)
            .map_err(|e| format!("the key for service account tokens cannot be read: {e}"))?;
        let public = key.public_key().as_ref().to_vec();
        let kid = URL_SAFE_NO_PAD.encode(Sha256::digest(&public));
        Ok(Signer {
            key,
            public,
            kid,
            random,
        })
    }

    /// Signs.
    pub(crate) fn sign(&self, claims: &Claims) -> Result<String, String> {
        let header = serde_json::json!({"alg": "ES256", "kid": self.kid});
        let body = serde_json::to_vec(claims).map_err(|e| e.to_string())?;
        let text = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(body)
        );
        let signature = self
            .key
            .sign(&self.random, text.as_bytes())
            .map_err(|e| format!("signing failed: {e}"))?;
        Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// What a token says, if it is ours and its time is now.
    pub(crate) fn check(&self, token: &str, now: i64) -> Option<Claims> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, body) = signed.split_once('.')?;
        let header: Header = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        if header.alg != "ES256" || header.kid.as_deref().is_some_and(|k| k != self.kid) {
            return None;
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.public)
            .verify(signed.as_bytes(), &signature)
            .ok()?;
        let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body).ok()?).ok()?;
        (claims.iss == ISSUER && claims.nbf <= now && now < claims.exp).then_some(claims)
    }

    /// The public key, for others who check our tokens (JSON Web Key Set).
    pub(crate) fn jwks(&self) -> serde_json::Value {
        // Uncompressed point: 0x04, x, y.
        let (x, y) = self.public[1..].split_at(32);
        serde_json::json!({"keys": [{"use": "sig", "kty": "EC", "kid": self.kid, "crv": "P-256", "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)}]})
    }
}

/// The user of a checked token, as long as what it is bound to exists.
pub(crate) fn user(claims: &Claims, store: &Store, audience: &str) -> Option<User> {
    if !claims.aud.iter().any(|a| a == audience) {
        return None;
    }
    let p = &claims.private;
    let live = |resource: &str, namespace: &str, named: &Named| {
        store
            .get(resource, namespace, &named.name)
            .is_some_and(|o| o.uid == named.uid && !(o.deleting && resource != "nodes"))
    };
    if !live("serviceaccounts", &p.namespace, &p.serviceaccount) {
        return None;
    }
    for (resource, bound) in [("pods", &p.pod), ("secrets", &p.secret)] {
        if let Some(named) = bound
            && !live(resource, &p.namespace, named)
        {
            return None;
        }
    }
    let mut extra = std::collections::BTreeMap::new();
    extra.insert(
        "authentication.kubernetes.io/credential-id".to_owned(),
        vec![format!("JTI={}", claims.jti)],
    );
    for (what, bound) in [("pod", &p.pod), ("node", &p.node)] {
        if let Some(named) = bound {
            extra.insert(
                format!("authentication.kubernetes.io/{what}-name"),
                vec![named.name.clone()],
            );
            extra.insert(
                format!("authentication.kubernetes.io/{what}-uid"),
                vec![named.uid.clone()],
            );
        }
    }
    Some(User {
        name: format!("system:serviceaccount:{}:{}", p.namespace, p.serviceaccount.name),
        uid: p.serviceaccount.uid.clone(),
        groups: vec![
            "system:serviceaccounts".into(),
            format!("system:serviceaccounts:{}", p.namespace),
            AUTHENTICATED.into(),
        ],
        extra,
    })
}
