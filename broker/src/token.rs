//! The join token: all that a joining cluster needs to reach its request on the broker.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::error::BrokerError;

/// What `strait broker token create` prints, as one line of base64.
#[derive(Clone, Serialize, Deserialize)]
pub struct JoinToken {
    /// The broker's URL.
    pub url: String,
    /// Certificates that the broker's own is checked against, in PEM; empty: those of the system.
    #[serde(default)]
    pub ca: String,
    /// Namespace of the request.
    pub namespace: String,
    /// Name of the join request.
    pub request: String,
    /// Bearer token of an identity that may read and patch that request only.
    pub bearer: String,
    /// When the token ends (RFC 3339).
    pub expires: String,
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("url", &self.url)
            .field("request", &self.request)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

impl JoinToken {
    /// As one line.
    ///
    /// # Errors
    /// Never for a token that was made here.
    pub fn encode(&self) -> Result<Zeroizing<String>, BrokerError> {
        let json = serde_json::to_vec(self).map_err(|e| BrokerError::BadToken(e.to_string()))?;
        Ok(Zeroizing::new(URL_SAFE_NO_PAD.encode(Zeroizing::new(json))))
    }

    /// From a line, with blanks around it.
    ///
    /// # Errors
    /// [`BrokerError::BadToken`]; the message does not hold the token.
    pub fn decode(line: &str) -> Result<Self, BrokerError> {
        let line = line.trim();
        if line.is_empty() {
            return Err(BrokerError::BadToken("it is empty".to_owned()));
        }
        let json = URL_SAFE_NO_PAD
            .decode(line.trim_end_matches('='))
            .map(Zeroizing::new)
            .map_err(|_| BrokerError::BadToken("it is not base64".to_owned()))?;
        // serde's message could quote a secret.
        serde_json::from_slice(&json).map_err(|_| {
            BrokerError::BadToken("it does not hold what a token holds (is it cut off?)".to_owned())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip_and_never_show_their_secret() {
        let token = JoinToken {
            url: "https://broker:6443".into(),
            ca: "PEM".into(),
            namespace: "strait-broker".into(),
            request: "join-1".into(),
            bearer: "s3cret".into(),
            expires: "2026-01-01T00:00:00Z".into(),
        };
        let line = token.encode().unwrap();
        let back = JoinToken::decode(&format!("\n{} \n", *line)).unwrap();
        assert_eq!(
            (back.bearer.as_str(), back.request.as_str()),
            ("s3cret", "join-1")
        );
        assert!(!format!("{token:?}").contains("s3cret"));
        for bad in ["", "§", "e30", &line[..line.len() / 2]] {
            let e = JoinToken::decode(bad).unwrap_err().to_string();
            assert!(
                e.starts_with("this is no join token") && !e.contains("s3cret"),
                "{e}"
            );
        }
    }
}
