//! Errors as sentences for operators.

use std::error::Error;

/// What an API server's client complains of: the server's own words, or the innermost cause.
pub fn cause(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return if status.message.is_empty() {
            format!("{} ({})", status.reason, status.code)
        } else {
            status.message.clone()
        };
    }
    let mut deepest: &dyn Error = error;
    while let Some(next) = deepest.source() {
        deepest = next;
    }
    deepest.to_string()
}

/// An error with its causes, outermost first, each said once; what the client of an API server says is cut
/// down to its [`cause`].
pub fn sentence(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let client = error
            .downcast_ref::<kube::Error>()
            .or_else(|| error.downcast_ref::<Box<kube::Error>>().map(|e| &**e));
        let said = client.map_or_else(|| error.to_string(), cause);
        if text.is_empty() {
            text = said;
        } else if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = error.source().filter(|_| client.is_none());
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;
    use kube::core::Status;

    use super::*;

    fn refused() -> kube::Error {
        kube::Error::Api(Box::new(
            Status::failure("pods \"A_b\" is invalid", "Invalid").with_code(422),
        ))
    }

    #[test]
    fn what_an_api_server_says_is_said_once() {
        let error = Err::<(), _>(refused())
            .context("cannot apply the Pod A_b")
            .unwrap_err();
        assert_eq!(
            sentence(error.as_ref()),
            "cannot apply the Pod A_b: pods \"A_b\" is invalid"
        );
        assert!(
            format!("{error:#}").contains("Status"),
            "else this is for nothing"
        );
    }

    #[test]
    fn a_cause_that_was_told_is_not_told_again() {
        #[derive(Debug, thiserror::Error)]
        #[error("reading failed: {source}")]
        struct Failed {
            source: std::io::Error,
        }
        let source = std::io::Error::other("the disk is gone");
        let error = anyhow::Error::new(Failed { source }).context("cannot start");
        assert_eq!(
            sentence(error.as_ref()),
            "cannot start: reading failed: the disk is gone"
        );
    }
}
