//! The connection to an API server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::http::header::USER_AGENT;
use axum::http::{HeaderName, HeaderValue};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The kubeconfig cannot be used.
    #[error("kubeconfig {path}: {cause}; name a readable one with --kubeconfig or KUBECONFIG")]
    Kubeconfig {
        /// The file named.
        path: PathBuf,
        /// What is wrong with it.
        cause: kube::config::KubeconfigError,
    },
    /// Neither a kubeconfig nor a pod's service account.
    #[error(
        "no way to the API server: not in a pod ({cause}), and no kubeconfig named; use --kubeconfig or KUBECONFIG"
    )]
    NotInCluster {
        /// What is missing of the pod's environment.
        cause: kube::config::InClusterError,
    },
    /// The client cannot be built (certificates, mostly).
    #[error("the API server's client cannot be set up: {0}")]
    Setup(#[from] kube::Error),
}

/// How long a call may take that is no watch.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// The header by which an API server knows who writes: what stands before the slash is the manager in
/// `managedFields` of whatever is written without another.
pub fn writes_as(manager: &'static str) -> (HeaderName, HeaderValue) {
    let text = format!("{manager}/{}", env!("CARGO_PKG_VERSION"));
    let value = HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(manager));
    (USER_AGENT, value)
}

/// Makes a client from the kubeconfig named, or from the pod's service account; it writes in the name of
/// `manager`. Nothing is sent yet.
///
/// # Errors
/// See [`ClientError`].
pub async fn connect(kubeconfig: Option<&Path>, manager: &'static str) -> Result<Client, ClientError> {
    install_crypto();
    let mut config = match kubeconfig {
        Some(path) => from_file(path).await?,
        None => Config::incluster().map_err(|cause| ClientError::NotInCluster { cause })?,
    };
    config.headers.push(writes_as(manager));
    config.connect_timeout = Some(Duration::from_secs(5));
    config.write_timeout = Some(CALL_TIMEOUT);
    Ok(Client::try_from(config)?)
}

async fn from_file(path: &Path) -> Result<Config, ClientError> {
    let fail = |cause| ClientError::Kubeconfig {
        path: path.to_owned(),
        cause,
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(fail)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(fail)
}

/// Makes ring the process's TLS provider; later calls change nothing.
pub fn install_crypto() {
    // An error only says that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
