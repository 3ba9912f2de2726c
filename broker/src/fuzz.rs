//! What somebody may give as a join token. For the fuzzer, and for the replay of what it found.
#![allow(clippy::unwrap_used)]

#[path = "../../fuzz/input.rs"]
mod input;

use crate::token::JoinToken;

/// A line: read and written again it is the same token; refused, the error tells nothing of it.
pub fn join_token(data: &[u8]) {
    let line = String::from_utf8_lossy(data);
    match JoinToken::decode(&line) {
        Ok(token) => {
            let again = JoinToken::decode(&token.encode().unwrap()).unwrap();
            assert_eq!(
                (
                    &again.url,
                    &again.ca,
                    &again.namespace,
                    &again.request,
                    &again.bearer,
                    &again.expires
                ),
                (
                    &token.url,
                    &token.ca,
                    &token.namespace,
                    &token.request,
                    &token.bearer,
                    &token.expires
                ),
            );
            let open = format!(
                "{}{}{}JoinToken url request expires",
                token.url, token.request, token.expires
            );
            let hidden = token.bearer.len() > 3 && !open.contains(&token.bearer);
            assert!(
                !hidden || !format!("{token:?}").contains(&token.bearer),
                "the token shows its secret"
            );
        }
        Err(error) => {
            // One of the sentences that there are, whatever came.
            // {"url":"","namespace":"","request":"","bearer":"","expires":""}
            let empty =
                "eyJ1cmwiOiIiLCJuYW1lc3BhY2UiOiIiLCJyZXF1ZXN0IjoiIiwiYmVhcmVyIjoiIiwiZXhwaXJlcyI6IiJ9";
            let known =
                ["", "\u{a7}", "e30", empty].map(|bad| JoinToken::decode(bad).unwrap_err().to_string());
            assert!(known.contains(&error.to_string()), "{error}");
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn tokens_that_were_found_hold() {
        super::input::replay("join_token", super::join_token);
    }
}
