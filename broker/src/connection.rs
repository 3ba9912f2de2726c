//! A member's way to the broker: the Secret that `strait join` wrote, and a client whose token renews itself.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::client::ClientBuilder;
use kube::{Client, Config};
use strait_api::{ClusterId, names};
use strait_daemon::client::install_crypto;
use tower::util::MapRequestLayer;
use zeroize::Zeroizing;

use crate::error::{BrokerError, code};

/// Service account of a member's agent, in the member's namespace.
pub const MEMBER_ACCOUNT: &str = "member";
/// Service account that may only make tokens for [`MEMBER_ACCOUNT`].
pub const RENEW_ACCOUNT: &str = "renew";
/// How long a member's token lasts.
pub const MEMBER_TOKEN: Duration = Duration::from_secs(24 * 3600);
/// How long the renewal credential is asked to last: ten years.
pub const RENEWAL_TOKEN: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long a call to the broker may take that is no watch.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads the URL of a broker.
///
/// # Errors
/// What is missing in it.
pub fn address(text: &str) -> Result<String, String> {
    const SUCH: &str = "it takes https:// and a host, such as https://192.0.2.1:6443";
    let url: http::Uri = text.parse().map_err(|_| SUCH.to_owned())?;
    let named = url.host().is_some_and(|h| !h.is_empty());
    if url.scheme_str() != Some("https") || !named {
        return Err(SUCH.to_owned());
    }
    // It is printed, and goes into tokens.
    if url.authority().is_some_and(|a| a.as_str().contains('@')) {
        return Err(format!("it may hold no user or password; {SUCH}"));
    }
    if url.query().is_some() || text.contains('#') {
        return Err(format!("it may hold neither ? nor #; {SUCH}"));
    }
    Ok(text.to_owned())
}

/// Where a broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its URL.
    pub url: String,
    /// Certificates that its own is checked against, in PEM; empty: those of the system.
    pub ca: String,
}

impl Place {
    fn config(&self) -> Result<Config, BrokerError> {
        install_crypto();
        let fail = |cause: String| BrokerError::Address {
            url: self.url.clone(),
            cause,
        };
        let url: http::Uri = address(&self.url)
            .and_then(|u| u.parse().map_err(|e: http::uri::InvalidUri| e.to_string()))
            .map_err(fail)?;
        let mut config = Config::new(url);
        if !self.ca.is_empty() {
            config.root_cert = Some(certificates(&self.ca).map_err(fail)?);
        }
        config
            .headers
            .push(strait_daemon::client::writes_as("strait-agent"));
        config.connect_timeout = Some(Duration::from_secs(5));
        config.write_timeout = Some(CALL_TIMEOUT);
        Ok(config)
    }

    /// A client that shows this bearer token, or whatever it is replaced by.
    ///
    /// # Errors
    /// [`BrokerError::Address`].
    pub fn client(&self, bearer: &Bearer) -> Result<Client, BrokerError> {
        let fail = |cause: kube::Error| BrokerError::Address {
            url: self.url.clone(),
            cause: cause.to_string(),
        };
        let builder = ClientBuilder::try_from(self.config()?).map_err(fail)?;
        let bearer = bearer.clone();
        let authorize = MapRequestLayer::new(move |mut request: http::Request<kube::client::Body>| {
            if let Some(value) = bearer.header() {
                request.headers_mut().insert(http::header::AUTHORIZATION, value);
            }
            request
        });
        Ok(builder.with_layer(&authorize).build())
    }
}

fn certificates(pem: &str) -> Result<Vec<Vec<u8>>, String> {
    use base64::Engine as _;
    let mut found = Vec::new();
    for part in pem.split("-----BEGIN CERTIFICATE-----").skip(1) {
        let body = part.split("-----END CERTIFICATE-----").next().unwrap_or_default();
        let text: String = body.chars().filter(|c| !c.is_whitespace()).collect();
        let der = base64::engine::general_purpose::STANDARD
            .decode(text)
            .map_err(|_| "its CA certificate is not PEM".to_owned())?;
        found.push(der);
    }
    if found.is_empty() {
        Err("its CA holds no certificate".to_owned())
    } else {
        Ok(found)
    }
}

/// A bearer token that can be replaced under a living client.
#[derive(Clone)]
pub struct Bearer(Arc<RwLock<Zeroizing<String>>>);

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bearer(…)")
    }
}

impl Bearer {
    /// This token.
    pub fn new(token: impl Into<String>) -> Self {
        Self(Arc::new(RwLock::new(Zeroizing::new(token.into()))))
    }

    /// From now on this token.
    pub fn replace(&self, token: String) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Zeroizing::new(token);
    }

    fn header(&self) -> Option<http::HeaderValue> {
        let token = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut value = http::HeaderValue::from_str(&format!("Bearer {}", token.as_str())).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// A membership, as the Secret [`names::BROKER_SECRET`] holds it.
#[derive(Clone)]
pub struct Membership {
    /// Which cluster this is.
    pub cluster: ClusterId,
    /// Where the broker is.
    pub place: Place,
    /// The renewal credential.
    pub renewal: Zeroizing<String>,
    /// The cluster's identity key: random bytes whose hash is the fingerprint shown at admission.
    pub identity: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership")
            .field("cluster", &self.cluster)
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

impl PartialEq for Membership {
    fn eq(&self, other: &Self) -> bool {
        self.cluster == other.cluster && self.place == other.place && *self.renewal == *other.renewal
    }
}

impl Membership {
    /// Reads a Secret; `None` if it lacks something.
    pub fn from_secret(secret: &Secret) -> Option<Self> {
        let data = secret.data.as_ref()?;
        let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
        Some(Self {
            cluster: text("cluster")?.trim().parse().ok()?,
            place: Place {
                url: text("url")?.trim().to_owned(),
                ca: text("ca.crt").unwrap_or_default(),
            },
            renewal: Zeroizing::new(text("token")?.trim().to_owned()),
            identity: Zeroizing::new(data.get("identity").map(|b| b.0.clone()).unwrap_or_default()),
        })
    }

    /// As a Secret for this namespace.
    pub fn to_secret(&self, namespace: &str) -> Secret {
        let mut secret = Secret {
            string_data: Some(BTreeMap::from([
                ("url".to_owned(), self.place.url.clone()),
                ("ca.crt".to_owned(), self.place.ca.clone()),
                ("cluster".to_owned(), self.cluster.to_string()),
                ("token".to_owned(), self.renewal.to_string()),
            ])),
            data: Some(BTreeMap::from([(
                "identity".to_owned(),
                k8s_openapi::ByteString(self.identity.to_vec()),
            )])),
            type_: Some("Opaque".to_owned()),
            ..Secret::default()
        };
        secret.metadata.name = Some(names::BROKER_SECRET.to_owned());
        secret.metadata.namespace = Some(namespace.to_owned());
        secret
    }

    /// The membership of this cluster.
    ///
    /// # Errors
    /// [`BrokerError::NotJoined`] if there is none; or the call failed.
    pub async fn load(local: &Client, namespace: &str) -> Result<Self, BrokerError> {
        let name = format!("{namespace}/{}", names::BROKER_SECRET);
        let secrets: Api<Secret> = Api::namespaced(local.clone(), namespace);
        let secret = secrets
            .get_opt(names::BROKER_SECRET)
            .await
            .map_err(BrokerError::api(format!("reading Secret {name}")))?;
        secret
            .as_ref()
            .and_then(Self::from_secret)
            .ok_or(BrokerError::NotJoined(name))
    }

    /// Opens a connection: makes a member's token with the renewal credential.
    ///
    /// # Errors
    /// [`BrokerError::Unreachable`], [`BrokerError::CredentialRefused`], or the call failed.
    pub async fn connect(&self) -> Result<Connection, BrokerError> {
        let renewer = self.place.client(&Bearer::new(self.renewal.to_string()))?;
        let (token, renew_at) = self.mint(&renewer).await?;
        let bearer = Bearer::new(token);
        let client = self.place.client(&bearer)?;
        Ok(Connection {
            membership: self.clone(),
            client,
            renewer,
            bearer,
            renew_at,
        })
    }

    async fn mint(&self, renewer: &Client) -> Result<(String, Timestamp), BrokerError> {
        let namespace = self.cluster.member_namespace();
        let minted = mint(renewer, &namespace, MEMBER_ACCOUNT, MEMBER_TOKEN).await;
        let (token, expires) = minted.map_err(|e| match e {
            BrokerError::Api { ref source, .. } if matches!(code(source), Some(401 | 403 | 404)) => {
                BrokerError::CredentialRefused
            }
            BrokerError::Api { source, .. } if code(&source).is_none() => BrokerError::Unreachable {
                url: self.place.url.clone(),
                cause: crate::error::cause(&source),
            },
            BrokerError::Timeout { seconds, .. } => BrokerError::Unreachable {
                url: self.place.url.clone(),
                cause: format!("no answer within {seconds} s"),
            },
            other => other,
        })?;
        let now = Timestamp::now();
        // Half of its time: a broker that is away for hours finds us with a token that still holds.
        let half = expires.as_second().saturating_sub(now.as_second()) / 2;
        let renew_at = Timestamp::from_second(now.as_second() + half.max(1)).unwrap_or(expires);
        Ok((token, renew_at))
    }
}

/// Makes a token for a service account.
///
/// # Errors
/// The call failed or took too long.
pub async fn mint(
    client: &Client,
    namespace: &str,
    account: &str,
    lasting: Duration,
) -> Result<(String, Timestamp), BrokerError> {
    let what = format!("making a token for service account {namespace}/{account}");
    let request = TokenRequest {
        spec: TokenRequestSpec {
            expiration_seconds: i64::try_from(lasting.as_secs()).ok(),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let made = within(
        &what,
        accounts.create_token_request(account, &PostParams::default(), &request),
    )
    .await?;
    let status = made
        .status
        .ok_or_else(|| BrokerError::State(format!("{what} gave no token")))?;
    Ok((status.token, status.expiration_timestamp.0))
}

/// A call with a deadline.
///
/// # Errors
/// [`BrokerError::Timeout`], or the call's own as [`BrokerError::Api`].
pub async fn within<T>(
    what: &str,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, BrokerError> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(result) => result.map_err(BrokerError::api(what)),
        Err(_) => Err(BrokerError::Timeout {
            what: what.to_owned(),
            seconds: CALL_TIMEOUT.as_secs(),
        }),
    }
}

/// A merge patch with a deadline.
///
/// # Errors
/// See [`within`].
pub(crate) async fn merge<K>(
    api: &Api<K>,
    what: &str,
    name: &str,
    patch: serde_json::Value,
) -> Result<K, BrokerError>
where
    K: Clone + serde::de::DeserializeOwned + fmt::Debug,
{
    within(
        what,
        api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)),
    )
    .await
}

/// A merge patch of the status, with a deadline.
///
/// # Errors
/// See [`within`].
pub(crate) async fn merge_status<K>(
    api: &Api<K>,
    what: &str,
    name: &str,
    patch: serde_json::Value,
) -> Result<K, BrokerError>
where
    K: serde::de::DeserializeOwned,
{
    within(
        what,
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)),
    )
    .await
}

/// A connection to the broker as a member.
pub struct Connection {
    /// Of whom.
    pub membership: Membership,
    /// Acts as the member.
    pub client: Client,
    renewer: Client,
    bearer: Bearer,
    renew_at: Timestamp,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("membership", &self.membership)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Renews the member's token each time that it is due. Returns only when the broker refuses to.
    pub async fn keep_token(&mut self) -> BrokerError {
        loop {
            let wait = self
                .renew_at
                .as_second()
                .saturating_sub(Timestamp::now().as_second())
                .max(1);
            tokio::time::sleep(Duration::from_secs(wait.unsigned_abs())).await;
            match self.membership.mint(&self.renewer).await {
                Ok((token, renew_at)) => {
                    tracing::debug!(next = %renew_at, "the token for the broker was renewed");
                    self.bearer.replace(token);
                    self.renew_at = renew_at;
                }
                Err(e @ BrokerError::CredentialRefused) => return e,
                Err(e) => {
                    tracing::warn!(error = %e, "the token for the broker cannot be renewed; trying again in 30 s");
                    tokio::time::sleep(Duration::from_secs(30)).await;
                }
            }
        }
    }
}
