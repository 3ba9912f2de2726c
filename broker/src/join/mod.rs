//! `strait join`: a cluster becomes a member.
//!
//! It writes its claim into the join request that the token names, waits until the broker's administrator
//! has accepted it, makes its renewal credential, and leaves two things in its own cluster: the Secret that
//! says how to reach the broker, and the Cluster record from which every daemon learns where it is. Run
//! again, it goes on where it stopped.

mod differs;
mod discover;
pub(crate) mod identity;

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::PostParams;
use kube::{Api, Client};
use serde::Serialize;
use serde_json::json;
use strait_api::records::{Cluster, ClusterSpec, JoinClaim, JoinRequest, JoinState, Member};
use strait_api::{ClusterId, names};
use strait_daemon::stdout::print;
use zeroize::Zeroizing;

use crate::args::{JoinArgs, Output};
use crate::connection::{Bearer, Membership, Place, RENEW_ACCOUNT, RENEWAL_TOKEN, merge, mint, within};
use crate::error::{BrokerError, cause, code};
use crate::token::JoinToken;

pub use discover::{Ranges, discover};

/// A renewal credential that lasts less than this (in seconds: 90 days) is worth a word.
const SHORT_CREDENTIAL: i64 = 90 * 24 * 3600;

/// What a cluster says of itself when it joins.
#[derive(Debug, Clone)]
pub struct JoinOptions {
    /// The ID that it wants.
    pub cluster_id: ClusterId,
    /// Its pods' prefixes; empty: from the cluster itself.
    pub pod_cidrs: Vec<IpNet>,
    /// Its Services' prefixes; empty: from the cluster itself.
    pub service_cidrs: Vec<IpNet>,
    /// Prefixes of VIPs; empty: the default ones of the families that its pods have.
    pub vip_cidrs: Vec<IpNet>,
    /// Namespace of Strait.
    pub namespace: String,
    /// How long to wait for acceptance.
    pub timeout: Duration,
}

/// A step of joining, for people who wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The claim stands; an administrator may accept it.
    Waiting {
        /// The join request.
        request: String,
        /// To be compared.
        fingerprint: String,
    },
    /// Accepted.
    Accepted,
    /// Something to know.
    Note(String),
}

/// A membership, in the words of `--output json`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Joined {
    /// Always true.
    pub ok: bool,
    /// This cluster's ID.
    pub cluster_id: ClusterId,
    /// Fingerprint of its identity key.
    pub fingerprint: String,
    /// The broker's URL.
    pub broker: String,
    /// Its namespace there.
    pub member_namespace: String,
    /// Its pods' prefixes.
    pub pod_cidrs: Vec<IpNet>,
    /// Its Services' prefixes.
    pub service_cidrs: Vec<IpNet>,
    /// Prefixes of its VIPs.
    pub vip_cidrs: Vec<IpNet>,
    /// Prefixes of its nodes' overlay addresses.
    pub node_blocks: Vec<IpNet>,
    /// Until when the renewal credential is good (RFC 3339).
    pub credential_until: String,
}

/// `strait join`.
pub(crate) async fn run(args: JoinArgs) -> anyhow::Result<()> {
    let token = read_token(&args.token_file)?;
    let local = strait_daemon::client::connect(args.kubeconfig.as_deref(), "strait-join").await?;
    let options = JoinOptions {
        cluster_id: args.cluster_id,
        pod_cidrs: args.pod_cidrs,
        service_cidrs: args.service_cidrs,
        vip_cidrs: args.vip_cidrs,
        namespace: args.namespace,
        timeout: args.timeout,
    };
    let joined = join(&local, &token, &options, |progress| match progress {
        Progress::Waiting { request, fingerprint } => eprintln!(
            "Waiting for the broker's administrator, who runs: strait broker accept {request}\nThis cluster's fingerprint, to be compared there: {fingerprint}"
        ),
        Progress::Accepted => eprintln!("Accepted."),
        Progress::Note(note) => eprintln!("Note: {note}"),
    })
    .await?;
    match args.output {
        Output::Json => print(&serde_json::to_string_pretty(&joined)?)?,
        Output::Text => print(&format!(
            "{} is a member of the clusterset at {} (pods {}, node blocks {}).",
            joined.cluster_id,
            joined.broker,
            crate::output::list(&joined.pod_cidrs),
            crate::output::list(&joined.node_blocks)
        ))?,
    }
    Ok(())
}

fn read_token(file: &Path) -> anyhow::Result<JoinToken> {
    let mut line = Zeroizing::new(String::new());
    // Far more than any token; a wrong file is not read to its end.
    const MOST: u64 = 1 << 20;
    if file == Path::new("-") {
        std::io::stdin()
            .lock()
            .take(MOST)
            .read_to_string(&mut line)
            .context("the token cannot be read from standard input")?;
    } else {
        let opened = std::fs::File::open(file);
        opened
            .and_then(|f| f.take(MOST).read_to_string(&mut line))
            .with_context(|| format!("the token cannot be read from {}", file.display()))?;
    }
    Ok(JoinToken::decode(&line)?)
}

/// Joins.
///
/// # Errors
/// What stopped it; it may be tried again with the same token while that lasts.
pub async fn join(
    local: &Client,
    token: &JoinToken,
    options: &JoinOptions,
    mut progress: impl FnMut(Progress),
) -> Result<Joined, BrokerError> {
    let joined = become_member(local, token, options, &mut progress).await;
    if let Ok(_) | Err(BrokerError::Rejected(_)) = joined
        && let Err(why) = identity::forget(local, &options.namespace).await
    {
        progress(Progress::Note(format!(
            "{why}; Secret {}/{} keeps the key of this try, which nobody needs any more: delete it",
            options.namespace,
            names::JOIN_SECRET
        )));
    }
    joined
}

async fn become_member(
    local: &Client,
    token: &JoinToken,
    options: &JoinOptions,
    mut progress: impl FnMut(Progress),
) -> Result<Joined, BrokerError> {
    let id = &options.cluster_id;
    let before = own_cluster(local, &options.namespace).await?;
    if let Some(have) = before
        .as_ref()
        .map(|c| &c.spec.cluster_id)
        .filter(|have| *have != id)
    {
        return Err(BrokerError::JoinedOtherwise {
            have: have.clone(),
            wanted: id.clone(),
        });
    }
    let (claim, identity) = claim(local, options, &mut progress).await?;

    let place = Place {
        url: token.url.clone(),
        ca: token.ca.clone(),
    };
    let joiner = place.client(&Bearer::new(token.bearer.clone()))?;
    let requests: Api<JoinRequest> = Api::namespaced(joiner.clone(), &token.namespace);
    let request = Request { api: requests, token };
    let mut state = request.read().await?;
    if !request.accepted(&state, &claim)? {
        // Whoever goes on from here, also after this process was ended, is the one who asked.
        identity::keep(local, &options.namespace, &identity).await?;
        if state.spec.claim.as_ref() != Some(&claim) {
            state = request.claim(&claim).await?;
        }
    }
    if !request.accepted(&state, &claim)? {
        let told = Progress::Waiting {
            request: token.request.clone(),
            fingerprint: claim.key_fingerprint.clone(),
        };
        let preapproved = state.status.as_ref().and_then(|s| s.preapproved.as_ref());
        if let Some(other) = preapproved.filter(|other| *other != id) {
            progress(Progress::Note(format!(
                "the token admits cluster {other} at once, and this one is to be {id}: join with --cluster-id {other}, or let an administrator of the broker accept {id}"
            )));
        }
        if preapproved != Some(id) {
            progress(told);
        }
        request.wait(&claim, options.timeout).await?;
    }
    progress(Progress::Accepted);

    let (renewal, until) = renewal_credential(&joiner, id).await?;
    if until.as_second() - jiff::Timestamp::now().as_second() < SHORT_CREDENTIAL {
        progress(Progress::Note(format!(
            "the broker's API server limits the renewal credential to {until} (see its --service-account-max-token-expiration); join again before then"
        )));
    }
    let until = until.to_string();
    let membership = Membership {
        cluster: id.clone(),
        place,
        renewal: Zeroizing::new(renewal),
        identity,
    };
    // Before anything is written here: does it work?
    let member = own_member(&membership).await?;
    write_membership(local, &membership, &options.namespace).await?;
    write_cluster(local, &claim, before, &options.namespace).await?;
    Ok(Joined {
        ok: true,
        cluster_id: id.clone(),
        fingerprint: claim.key_fingerprint,
        broker: token.url.clone(),
        member_namespace: id.member_namespace(),
        pod_cidrs: claim.pod_cidrs,
        service_cidrs: claim.service_cidrs,
        vip_cidrs: claim.vip_cidrs,
        node_blocks: member.spec.node_blocks,
        credential_until: until,
    })
}

/// The own Cluster record, if there is one.
pub(crate) async fn own_cluster(local: &Client, namespace: &str) -> Result<Option<Cluster>, BrokerError> {
    let clusters: Api<Cluster> = Api::namespaced(local.clone(), namespace);
    let own = kube::api::ListParams::default().labels(&format!("!{}", names::LABEL_CLUSTER));
    let what = format!("reading this cluster's record in {namespace}");
    match within(&what, clusters.list(&own)).await {
        Ok(list) => Ok(list.items.into_iter().find(|c| c.spec.removed_at.is_none())),
        Err(e) if e.code() == Some(404) => Err(BrokerError::State(
            "this cluster does not know Strait's resources yet; apply deploy/base (or deploy/crds) first"
                .to_owned(),
        )),
        Err(e) => Err(e),
    }
}

async fn claim(
    local: &Client,
    options: &JoinOptions,
    progress: &mut impl FnMut(Progress),
) -> Result<(JoinClaim, Zeroizing<Vec<u8>>), BrokerError> {
    let namespaces: Api<Namespace> = Api::all(local.clone());
    let system = within("reading namespace kube-system", namespaces.get("kube-system")).await?;
    let uid = system
        .metadata
        .uid
        .ok_or_else(|| BrokerError::State("namespace kube-system has no UID".to_owned()))?;
    let mut ranges = Ranges {
        pods: options.pod_cidrs.clone(),
        services: options.service_cidrs.clone(),
        vips: options.vip_cidrs.clone(),
    };
    discover(local, &mut ranges, |note| progress(Progress::Note(note))).await?;

    // A cluster that joins again shows the same fingerprint.
    let identity = identity::identity(local, &options.namespace).await?;
    let key_fingerprint = identity::fingerprint(&identity);
    let claim = JoinClaim {
        cluster_id: options.cluster_id.clone(),
        uid,
        pod_cidrs: ranges.pods,
        service_cidrs: ranges.services,
        vip_cidrs: ranges.vips,
        key_fingerprint,
    };
    Ok((claim, identity))
}

/// The join request, as its joiner sees it.
struct Request<'a> {
    api: Api<JoinRequest>,
    token: &'a JoinToken,
}

impl Request<'_> {
    fn refused(&self, e: BrokerError) -> BrokerError {
        let url = self.token.url.clone();
        let expires: Option<jiff::Timestamp> = self.token.expires.parse().ok();
        let over = expires.is_some_and(|e| jiff::Timestamp::now() >= e);
        let why = if over {
            format!("it expired at {}", self.token.expires)
        } else {
            "it has expired or was taken back".to_owned()
        };
        match e {
            BrokerError::Api { ref source, .. } => match code(source) {
                Some(401 | 403 | 404) => BrokerError::TokenRefused { url, why },
                None => BrokerError::Unreachable {
                    url,
                    cause: cause(source),
                },
                Some(_) => e,
            },
            BrokerError::Timeout { seconds, .. } => BrokerError::Unreachable {
                url,
                cause: format!("no answer within {seconds} s"),
            },
            other => other,
        }
    }

    async fn read(&self) -> Result<JoinRequest, BrokerError> {
        let what = format!("reading join request {}", self.token.request);
        within(&what, self.api.get(&self.token.request))
            .await
            .map_err(|e| self.refused(e))
    }

    async fn claim(&self, claim: &JoinClaim) -> Result<JoinRequest, BrokerError> {
        let what = format!("writing the claim into join request {}", self.token.request);
        let patch = json!({ "spec": { "claim": claim } });
        merge(&self.api, &what, &self.token.request, patch)
            .await
            .map_err(|e| self.refused(e))
    }

    /// Whether this claim is accepted; an error if it never will be.
    fn accepted(&self, request: &JoinRequest, claim: &JoinClaim) -> Result<bool, BrokerError> {
        let Some(status) = &request.status else {
            return Ok(false);
        };
        let message = |type_: &str, status_: &str| {
            status
                .conditions
                .iter()
                .find(|c| c.type_ == type_ && c.status == status_)
        };
        match status.state {
            Some(JoinState::Accepted) => {
                let Some(acceptance) = &status.acceptance else {
                    return Ok(false);
                };
                if acceptance.claim == *claim {
                    return Ok(true);
                }
                Err(BrokerError::State(differs::sentence(
                    &self.token.request,
                    &acceptance.claim,
                    claim,
                )))
            }
            Some(JoinState::Rejected) => {
                let reason = message("Accepted", "False");
                if reason.is_some_and(|r| r.reason == "Expired") {
                    return Err(BrokerError::TokenRefused {
                        url: self.token.url.clone(),
                        why: format!("it expired at {}", self.token.expires),
                    });
                }
                Err(BrokerError::Rejected(
                    reason.map(|r| r.message.clone()).unwrap_or_default(),
                ))
            }
            _ => {
                let current = request.spec.claim.as_ref() == Some(claim);
                let unfit = message("Valid", "False")
                    .filter(|c| current && c.observed_generation == request.metadata.generation);
                match unfit {
                    Some(unfit) => Err(BrokerError::NotAdmitted(unfit.message.clone())),
                    None => Ok(false),
                }
            }
        }
    }

    async fn wait(&self, claim: &JoinClaim, timeout: Duration) -> Result<(), BrokerError> {
        let end = tokio::time::Instant::now() + timeout;
        let mut pause = Duration::from_millis(50);
        loop {
            match self.read().await {
                Ok(request) if self.accepted(&request, claim)? => return Ok(()),
                Ok(_) => {}
                Err(e @ BrokerError::Unreachable { .. }) => {
                    tracing::warn!(error = %e, "still waiting for acceptance");
                }
                Err(e) => return Err(e),
            }
            if tokio::time::Instant::now() + pause > end {
                return Err(BrokerError::NotAccepted {
                    name: self.token.request.clone(),
                    seconds: timeout.as_secs(),
                });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }
}

async fn renewal_credential(
    joiner: &Client,
    id: &ClusterId,
) -> Result<(String, jiff::Timestamp), BrokerError> {
    let namespace = id.member_namespace();
    let mut pause = Duration::from_millis(100);
    loop {
        match mint(joiner, &namespace, RENEW_ACCOUNT, RENEWAL_TOKEN).await {
            Ok(made) => return Ok(made),
            // An API server learns of new bindings a moment after they are written.
            Err(e) if e.code() == Some(403) && pause < Duration::from_secs(8) => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            Err(e) => return Err(e),
        }
    }
}

async fn own_member(membership: &Membership) -> Result<Member, BrokerError> {
    let id = &membership.cluster;
    let mut pause = Duration::from_millis(100);
    loop {
        let tried = async {
            let connection = membership.connect().await?;
            let members: Api<Member> = Api::all(connection.client.clone());
            within(&format!("reading member {id}"), members.get(id.as_str())).await
        };
        match tried.await {
            Ok(member) => return Ok(member),
            Err(e)
                if (e.code() == Some(403) || matches!(e, BrokerError::CredentialRefused))
                    && pause < Duration::from_secs(8) =>
            {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            Err(e) => return Err(e),
        }
    }
}

async fn write_membership(
    local: &Client,
    membership: &Membership,
    namespace: &str,
) -> Result<(), BrokerError> {
    identity::provide_namespace(local, namespace).await?;
    let secrets: Api<Secret> = Api::namespaced(local.clone(), namespace);
    let secret = membership.to_secret(namespace);
    let what = format!("writing Secret {namespace}/{}", names::BROKER_SECRET);
    let before = within(&what, secrets.get_opt(names::BROKER_SECRET)).await?;
    let params = PostParams::default();
    match before {
        None => within(&what, secrets.create(&params, &secret)).await?,
        Some(before) => {
            let mut secret = secret;
            secret.metadata.resource_version = before.metadata.resource_version;
            within(&what, secrets.replace(names::BROKER_SECRET, &params, &secret)).await?
        }
    };
    Ok(())
}

async fn write_cluster(
    local: &Client,
    claim: &JoinClaim,
    before: Option<Cluster>,
    namespace: &str,
) -> Result<(), BrokerError> {
    let clusters: Api<Cluster> = Api::namespaced(local.clone(), namespace);
    let id = claim.cluster_id.as_str();
    let spec = ClusterSpec {
        cluster_id: claim.cluster_id.clone(),
        pod_cidrs: claim.pod_cidrs.clone(),
        service_cidrs: claim.service_cidrs.clone(),
        global_cidrs: vec![],
        vip_cidrs: claim.vip_cidrs.clone(),
        location: before.as_ref().and_then(|c| c.spec.location.clone()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        full_sync: before.as_ref().and_then(|c| c.spec.full_sync.clone()),
        removed_at: None,
    };
    let what = format!("writing Cluster {namespace}/{id}");
    let params = PostParams::default();
    // Also over the tombstone of an earlier membership.
    match within(&what, clusters.get_opt(id)).await? {
        None => within(&what, clusters.create(&params, &Cluster::new(id, spec))).await?,
        Some(mut cluster) => {
            cluster.spec = spec;
            within(&what, clusters.replace(id, &params, &cluster)).await?
        }
    };
    Ok(())
}
