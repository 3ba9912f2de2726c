//! What goes wrong, in sentences for operators.

use strait_api::ClusterId;

/// Why something of membership failed.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// A call to an API server failed.
    #[error("{what} failed: {}{}", cause(.source), advice(.source))]
    Api {
        /// What was tried.
        what: String,
        /// What the client says.
        source: Box<kube::Error>,
    },
    /// A call took too long.
    #[error("{what} got no answer within {seconds} s; check the network between here and there")]
    Timeout {
        /// What was tried.
        what: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The client for the broker cannot be set up.
    #[error("the broker's address {url} cannot be used: {cause}")]
    Address {
        /// The URL.
        url: String,
        /// Why not.
        cause: String,
    },
    /// No join token.
    #[error("this is no join token: {0}; make one with `strait broker token create` and pass it as it is")]
    BadToken(String),
    /// The broker does not take the join token.
    #[error(
        "the broker at {url} refused the join token: {why}; make a new one with `strait broker token create`"
    )]
    TokenRefused {
        /// The broker.
        url: String,
        /// Why, as far as can be told.
        why: String,
    },
    /// The broker cannot be reached.
    #[error(
        "the broker at {url} cannot be reached: {cause}; check its address, that it runs, and that its certificate is the one that the token names"
    )]
    Unreachable {
        /// The broker.
        url: String,
        /// What the client says.
        cause: String,
    },
    /// The broker does not admit the claim.
    #[error("the broker does not admit this cluster: {0}")]
    NotAdmitted(String),
    /// An administrator said no.
    #[error("the broker's administrator rejected the request{}", why(.0))]
    Rejected(String),
    /// Nobody answered in time.
    #[error(
        "nobody accepted the request {name} within {seconds} s; run `strait broker accept {name}` at the broker, then `strait join` again with the same token"
    )]
    NotAccepted {
        /// The join request.
        name: String,
        /// How long was waited.
        seconds: u64,
    },
    /// This cluster is a member under another ID.
    #[error("this cluster is a member already, as {have}; run `strait leave` before it joins as {wanted}")]
    JoinedOtherwise {
        /// Its ID.
        have: ClusterId,
        /// The ID asked for.
        wanted: ClusterId,
    },
    /// There is no membership.
    #[error("this cluster is no member of a clusterset: there is no usable Secret {0}; run `strait join`")]
    NotJoined(String),
    /// The broker does not take the member's credential any longer.
    #[error(
        "the broker refuses this cluster's credential: it was evicted, or the broker lost its state; ask its administrator, then run `strait join` with a new token"
    )]
    CredentialRefused,
    /// What only a broker has is to be changed elsewhere.
    #[error(
        "{0} is no broker: it has no namespace strait-broker; name the broker's kubeconfig with --kubeconfig (a stand-alone broker writes it to admin.kubeconfig in its --data-dir)"
    )]
    NoBroker(String),
    /// This cluster has left.
    #[error("this cluster has left the clusterset")]
    Left,
    /// Something on the broker is missing or not as expected.
    #[error("{0}")]
    State(String),
}

/// What to look at where no API server answered.
fn advice(error: &kube::Error) -> &'static str {
    match error {
        kube::Error::Service(_) | kube::Error::HyperError(_) => {
            "; check that the API server runs, and that its address in the kubeconfig is in reach"
        }
        _ => "",
    }
}

fn why(reason: &str) -> String {
    if reason.is_empty() {
        String::new()
    } else {
        format!(": {reason}")
    }
}

pub use strait_daemon::errors::cause;

impl BrokerError {
    /// Says of a failed call what was tried.
    pub fn api(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        |source| Self::Api {
            what,
            source: Box::new(source),
        }
    }

    /// The HTTP status, if an API server gave one.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Api { source, .. } => code(source),
            _ => None,
        }
    }
}

/// The HTTP status, if an API server gave one.
pub fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// The result, or `None` if there is no such object.
///
/// # Errors
/// Any other failure.
pub fn found<T>(result: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if code(&e) == Some(404) => Ok(None),
        Err(e) => Err(e),
    }
}
