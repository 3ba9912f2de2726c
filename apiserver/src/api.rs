//! What all requests share.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::watch;

use crate::audit::Log;
use crate::auth::rbac::Rbac;
use crate::auth::token::{self, Signer};
use crate::auth::{StaticTokens, User};
use crate::builtin::service::Addresses;
use crate::catalog::Catalogs;
use crate::config::Version;
use crate::limits::Gate;
use crate::rest::shared::{Initials, Lines};
use crate::store::Store;

/// Settings that requests need.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Ranges for the addresses of services; the first one's family leads.
    pub(crate) service_cidrs: Vec<IpNet>,
    /// Whether pods on nodes get time to end, which something like a kubelet then has to confirm.
    pub(crate) pod_grace: bool,
    /// What `/version` says.
    pub(crate) version: Version,
    /// Largest body of a request.
    pub(crate) max_body: usize,
    /// Time for it.
    pub(crate) body_time: Duration,
    /// The data directory.
    pub(crate) dir: Option<PathBuf>,
}

/// What all requests share.
#[derive(Debug)]
pub(crate) struct Api {
    /// The objects.
    pub(crate) store: Store,
    /// What is served.
    pub(crate) catalogs: Catalogs,
    /// Who may do what.
    pub(crate) rbac: Rbac,
    /// Fixed tokens.
    pub(crate) tokens: StaticTokens,
    /// Service account tokens.
    pub(crate) signer: Signer,
    /// Cluster addresses in use.
    pub(crate) addresses: Arc<Addresses>,
    /// Settings.
    pub(crate) settings: Settings,
    /// Room for requests.
    pub(crate) gate: Gate,
    /// Where requests are written down.
    pub(crate) audit: Option<Log>,
    /// The states that watches begin with.
    pub(crate) initials: Initials,
    /// Events in the forms of watches.
    pub(crate) lines: Lines,
    /// Tells watches that rights have changed.
    pub(crate) rights: watch::Sender<u64>,
    /// Tells watches to end.
    pub(crate) shutdown: watch::Sender<bool>,
}

impl Api {
    /// Whose token this is.
    pub(crate) fn authenticate(&self, token: &str) -> Option<User> {
        self.authenticate_for(token, token::ISSUER)
    }

    /// The same, for another audience.
    pub(crate) fn authenticate_for(&self, token: &str, audience: &str) -> Option<User> {
        if let Some(user) = self.tokens.find(token) {
            return Some(user);
        }
        let claims = self.signer.check(token, jiff::Timestamp::now().as_second())?;
        token::user(&claims, &self.store, audience)
    }

    /// How long a token is still good; `None`: for ever.
    pub(crate) fn token_lifetime(&self, token: &str) -> Option<Duration> {
        let now = jiff::Timestamp::now().as_second();
        let claims = self.signer.check(token, now)?;
        Some(Duration::from_secs(u64::try_from(claims.exp - now).unwrap_or(0)))
    }

    /// To be called after every write that may take a right from somebody who watches.
    pub(crate) fn rights_changed(&self) {
        self.rights.send_modify(|n| *n += 1);
    }
}

/// Waits until the server is to end, which may have been said already.
pub(crate) async fn ended(shutdown: &mut watch::Receiver<bool>) {
    // An error means that the server is gone altogether.
    let _ = shutdown.wait_for(|end| *end).await;
}
