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

#[cfg(test)]
mod tests {
    use ring::hmac;
    use serde_json::{Value, json};

    use super::*;

    const NOW: i64 = 1500;

    fn signer() -> Signer {
        Signer::new(&Signer::generate().unwrap()).unwrap()
    }

    fn claims() -> Value {
        json!({"aud": [ISSUER], "exp": 2000, "iat": 1000, "iss": ISSUER, "jti": "1", "nbf": 1000,
            "sub": "system:serviceaccount:demo:web",
            "kubernetes.io": {"namespace": "demo", "serviceaccount": {"name": "web", "uid": "1"}}})
    }

    fn unsigned(header: &Value, claims: &Value) -> String {
        let part = |v: &Value| URL_SAFE_NO_PAD.encode(v.to_string());
        format!("{}.{}", part(header), part(claims))
    }

    /// With a good signature, whatever the header and the claims say.
    fn signed(signer: &Signer, header: &Value, claims: &Value) -> String {
        let text = unsigned(header, claims);
        let signature = signer.key.sign(&signer.random, text.as_bytes()).unwrap();
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    #[test]
    fn tokens_are_good_in_their_time_and_from_their_issuer_only() {
        let signer = signer();
        let header = json!({"alg": "ES256", "kid": signer.kid});
        let at = |change: &dyn Fn(&mut Value), now: i64| {
            let mut claims = claims();
            change(&mut claims);
            signer.check(&signed(&signer, &header, &claims), now).is_some()
        };
        let same: &dyn Fn(&mut Value) = &|_| {};
        assert!(at(same, NOW) && at(same, 1000) && at(same, 1999));
        assert!(!at(same, 2000), "expired");
        assert!(!at(same, 999), "not yet");
        assert!(
            !at(&|c| c["nbf"] = 1501.into(), NOW),
            "not before the next second"
        );
        assert!(!at(&|c| c["iss"] = "https://elsewhere".into(), NOW));
        assert!(!at(&|c| c["iss"] = format!("{ISSUER}/").into(), NOW));
        for claim in ["exp", "nbf", "iss", "aud", "kubernetes.io"] {
            let without = |c: &mut Value| {
                c.as_object_mut().unwrap().shift_remove(claim);
            };
            assert!(!at(&without, NOW), "without {claim}");
        }
        for odd in [json!("2000"), json!(1e300), json!(null), json!(true)] {
            assert!(!at(&|c| c["exp"] = odd.clone(), NOW), "{odd}");
        }
    }

    #[test]
    fn no_header_makes_a_forged_token_good() {
        let ours = signer();
        let theirs = signer();
        let good = json!({"alg": "ES256", "kid": ours.kid});
        assert!(ours.check(&signed(&ours, &good, &claims()), NOW).is_some());
        // Another's key, under our key's name, under its own, and without one.
        for kid in [json!(ours.kid), json!(theirs.kid), json!(null)] {
            let header = json!({"alg": "ES256", "kid": kid});
            assert!(
                ours.check(&signed(&theirs, &header, &claims()), NOW).is_none(),
                "{header}"
            );
        }
        // A name that leads elsewhere, and a key that comes along, even over a signature of ours.
        for kid in ["", "../../dev/null", "/dev/null", "x\u{0}", "' OR 1=1 --"] {
            let header = json!({"alg": "ES256", "kid": kid});
            assert!(
                ours.check(&signed(&ours, &header, &claims()), NOW).is_none(),
                "{header}"
            );
        }
        for (name, value) in [
            ("jwk", theirs.jwks()["keys"][0].clone()),
            ("jku", json!("https://elsewhere/keys")),
            ("x5u", json!("https://elsewhere/cert")),
        ] {
            let mut header = good.clone();
            header[name] = value;
            assert!(
                ours.check(&signed(&theirs, &header, &claims()), NOW).is_none(),
                "{header}"
            );
        }
        // No signature, by whatever name.
        for alg in ["none", "None", "NONE", "", "ES256"] {
            for kid in [json!(ours.kid), json!(null)] {
                let text = unsigned(&json!({"alg": alg, "kid": kid}), &claims());
                for token in [text.clone(), format!("{text}."), format!("{text}.AAAA")] {
                    assert!(ours.check(&token, NOW).is_none(), "{alg:?}");
                }
            }
        }
        // The public key as a secret.
        for secret in [ours.public.clone(), ours.jwks().to_string().into_bytes()] {
            let text = unsigned(&json!({"alg": "HS256", "kid": ours.kid}), &claims());
            let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
            let tag = hmac::sign(&key, text.as_bytes());
            let token = format!("{text}.{}", URL_SAFE_NO_PAD.encode(tag));
            assert!(ours.check(&token, NOW).is_none());
        }
        // Other algorithms over a good signature of this one.
        for alg in ["ES384", "RS256", "HS256", "es256"] {
            let header = json!({"alg": alg, "kid": ours.kid});
            assert!(
                ours.check(&signed(&ours, &header, &claims()), NOW).is_none(),
                "{alg}"
            );
        }
        // Another's claims under our signature, and signatures of nothing.
        let token = signed(&ours, &good, &claims());
        let (_, signature) = token.rsplit_once('.').unwrap();
        let mut other = claims();
        other["kubernetes.io"]["serviceaccount"]["name"] = "admin".into();
        let zeroes = URL_SAFE_NO_PAD.encode([0; 64]);
        for token in [
            format!("{}.{signature}", unsigned(&good, &other)),
            format!("{}.{zeroes}", unsigned(&good, &claims())),
            format!("{token}."),
            format!(".{token}"),
            format!("{token}=="),
            "...".to_owned(),
            String::new(),
        ] {
            assert!(ours.check(&token, NOW).is_none(), "{token}");
        }
    }
}
