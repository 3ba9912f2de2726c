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
        let token: Self = serde_json::from_slice(&json).map_err(|_| {
            BrokerError::BadToken("it does not hold what a token holds (is it cut off?)".to_owned())
        })?;
        if !token.is_sound() {
            let why = "it holds an address, a name or a time that no broker writes";
            return Err(BrokerError::BadToken(why.to_owned()));
        }
        Ok(token)
    }

    /// Whether it can be one of a broker's: what it says is put into paths, headers and sentences.
    fn is_sound(&self) -> bool {
        let name = |text: &str| {
            let good = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'.';
            (1..=253).contains(&text.len())
                && text.bytes().all(good)
                && !text.starts_with(['.', '-'])
                && !text.contains("..")
        };
        let visible = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_graphic());
        name(&self.namespace)
            && name(&self.request)
            && visible(&self.url)
            && visible(&self.bearer)
            && self.expires.parse::<jiff::Timestamp>().is_ok()
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
        for spoil in [
            |t: &mut JoinToken| t.request = "join-1; rm -rf ~".into(),
            |t: &mut JoinToken| t.request = "../../secrets/x".into(),
            |t: &mut JoinToken| t.namespace = "a/b".into(),
            |t: &mut JoinToken| t.url = "https://broker\n\u{1b}[2J".into(),
            |t: &mut JoinToken| t.bearer = "s3cret\nX-Other: 1".into(),
            |t: &mut JoinToken| t.expires = "never".into(),
        ] {
            let mut spoilt = token.clone();
            spoil(&mut spoilt);
            let e = JoinToken::decode(&spoilt.encode().unwrap())
                .unwrap_err()
                .to_string();
            assert!(e.contains("no broker writes") && !e.contains("s3cret"), "{e}");
        }
        for bad in ["", "§", "e30", &line[..line.len() / 2]] {
            let e = JoinToken::decode(bad).unwrap_err().to_string();
            assert!(
                e.starts_with("this is no join token") && !e.contains("s3cret"),
                "{e}"
            );
        }
    }
}
