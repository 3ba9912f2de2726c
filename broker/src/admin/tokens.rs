//! Join tokens.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams, PostParams};
use kube::config::Kubeconfig;
use kube::{Api, Client};
use serde_json::json;
use strait_api::names::BROKER_NAMESPACE;
use strait_api::records::{JoinRequest, JoinRequestSpec};
use zeroize::Zeroizing;

use crate::args::TokenCreateArgs;
use crate::connection::{Place, address, mint};
use crate::controllers::{objects, rfc3339};
use crate::error::{BrokerError, found};
use crate::serve::ADDRESS_MAP;
use crate::token::JoinToken;

/// A join token, ready to be handed out.
#[derive(Debug)]
pub struct MadeToken {
    /// The line to pass on. Keep it secret.
    pub token: Zeroizing<String>,
    /// Name of the join request.
    pub request: String,
    /// When it ends (RFC 3339).
    pub expires: String,
}

/// Kubernetes makes no token that lasts less.
const SHORTEST: i64 = 600;

/// Makes a join request, an identity for it, and the token that holds both.
///
/// # Errors
/// If the broker's address is not known, or a call failed; then nothing is left behind.
pub async fn create_token(
    client: &Client,
    kubeconfig: Option<&Path>,
    args: &TokenCreateArgs,
) -> Result<MadeToken, BrokerError> {
    let place = place(client, kubeconfig, args.url.as_deref()).await?;
    address(&place.url).map_err(|cause| BrokerError::Address {
        url: place.url.clone(),
        cause: format!("{cause}; name another one with --url"),
    })?;
    objects::prepare(client).await?;
    let ttl = i64::try_from(args.ttl.as_secs()).unwrap_or(i64::MAX);
    let expires = Timestamp::now()
        .checked_add(SignedDuration::from_secs(ttl))
        .map_err(|e| BrokerError::State(format!("--ttl: {e}")))?;
    let expires = rfc3339(expires);

    let mut random = [0u8; 8];
    getrandom::fill(&mut random).map_err(|e| BrokerError::State(format!("no randomness: {e}")))?;
    let name = format!("join-{}", hex::encode(random));
    let requests: Api<JoinRequest> = Api::namespaced(client.clone(), BROKER_NAMESPACE);
    let spec = JoinRequestSpec {
        expires_at: expires.clone(),
        preapproved: args.preapprove.clone(),
        claim: None,
    };
    requests
        .create(&PostParams::default(), &JoinRequest::new(&name, spec))
        .await
        .map_err(BrokerError::api(format!("creating join request {name}")))?;
    let made = identity(client, &requests, &name, &expires, args, ttl).await;
    let bearer = match made {
        Ok(bearer) => bearer,
        Err(e) => {
            if let Err(left) = delete_token(client, &name).await {
                tracing::warn!(error = %left, request = name, "what was begun could not be removed");
            }
            return Err(e);
        }
    };
    let token = JoinToken {
        url: place.url,
        ca: place.ca,
        namespace: BROKER_NAMESPACE.to_owned(),
        request: name.clone(),
        bearer,
        expires: expires.clone(),
    };
    Ok(MadeToken {
        token: token.encode()?,
        request: name,
        expires,
    })
}

async fn identity(
    client: &Client,
    requests: &Api<JoinRequest>,
    name: &str,
    expires: &str,
    args: &TokenCreateArgs,
    ttl: i64,
) -> Result<String, BrokerError> {
    let status = json!({ "status": { "expiresAt": expires, "preapproved": args.preapprove } });
    requests
        .patch_status(name, &PatchParams::default(), &Patch::Merge(&status))
        .await
        .map_err(BrokerError::api(format!(
            "writing the status of join request {name}"
        )))?;
    objects::provide_joiner(client, name).await?;
    let lasting = std::time::Duration::from_secs(ttl.max(SHORTEST).unsigned_abs());
    Ok(mint(client, BROKER_NAMESPACE, name, lasting).await?.0)
}

/// Deletes a join request and its identity.
///
/// # Errors
/// If a call failed.
pub async fn delete_token(client: &Client, name: &str) -> Result<(), BrokerError> {
    let requests: Api<JoinRequest> = Api::namespaced(client.clone(), BROKER_NAMESPACE);
    let request =
        found(requests.get(name).await).map_err(BrokerError::api(format!("reading join request {name}")))?;
    let Some(request) = request else {
        return Err(BrokerError::State(format!(
            "there is no join request {name}; `strait broker token list` lists them"
        )));
    };
    let member = request
        .status
        .and_then(|s| s.acceptance)
        .map(|a| a.claim.cluster_id);
    objects::revoke_joiner(client, name, member.as_ref()).await?;
    objects::remove_request(client, name).await
}

/// Where members reach the broker: as told, as it advertises itself, or as the administrator does.
async fn place(client: &Client, kubeconfig: Option<&Path>, url: Option<&str>) -> Result<Place, BrokerError> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), BROKER_NAMESPACE);
    let map = found(maps.get(ADDRESS_MAP).await)
        .map_err(BrokerError::api("reading the broker's advertised address"))?;
    let data = map.and_then(|m| m.data).unwrap_or_default();
    let from_file = kubeconfig.map(from_kubeconfig).transpose()?.flatten();
    let advertised = data.get("url").filter(|u| !u.is_empty());
    let url = url
        .map(str::to_owned)
        .or_else(|| advertised.cloned())
        // An administrator on the broker's own machine reaches it where no member does.
        .or_else(|| {
            from_file
                .as_ref()
                .map(|p| p.url.clone())
                .filter(|u| !is_loopback(u))
        })
        .ok_or_else(|| {
            BrokerError::State(
                "the broker's address is not known here; name it with --url, as the members reach it"
                    .to_owned(),
            )
        })?;
    let ca = data
        .get("ca.crt")
        .cloned()
        .or_else(|| from_file.map(|p| p.ca))
        .unwrap_or_default();
    Ok(Place { url, ca })
}

fn is_loopback(url: &str) -> bool {
    let uri: Option<http::Uri> = url.parse().ok();
    let host = uri
        .as_ref()
        .and_then(http::Uri::host)
        .unwrap_or_default()
        .trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn from_kubeconfig(path: &Path) -> Result<Option<Place>, BrokerError> {
    let fail = |e: &dyn std::fmt::Display| BrokerError::State(format!("kubeconfig {}: {e}", path.display()));
    let config = Kubeconfig::read_from(path).map_err(|e| fail(&e))?;
    let context = config
        .current_context
        .as_deref()
        .and_then(|c| config.contexts.iter().find(|x| x.name == c));
    let cluster_name = context
        .and_then(|c| c.context.as_ref())
        .map(|c| c.cluster.as_str());
    let cluster = config
        .clusters
        .iter()
        .find(|c| Some(c.name.as_str()) == cluster_name)
        .or(config.clusters.first());
    let Some(cluster) = cluster.and_then(|c| c.cluster.as_ref()) else {
        return Ok(None);
    };
    let Some(url) = cluster.server.clone() else {
        return Ok(None);
    };
    let ca = match (
        &cluster.certificate_authority_data,
        &cluster.certificate_authority,
    ) {
        (Some(data), _) => {
            use base64::Engine as _;
            let pem = base64::engine::general_purpose::STANDARD
                .decode(data.trim())
                .map_err(|e| fail(&e))?;
            String::from_utf8(pem).map_err(|e| fail(&e))?
        }
        (None, Some(file)) => std::fs::read_to_string(file).map_err(|e| fail(&e))?,
        (None, None) => String::new(),
    };
    Ok(Some(Place { url, ca }))
}
