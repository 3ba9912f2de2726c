//! The key that a cluster shows its fingerprint of, kept from the first try to join until it is a member:
//! what an administrator accepts is bound to it, and may be accepted when nobody waits any longer.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use sha2::{Digest as _, Sha256};
use strait_api::names;
use zeroize::Zeroizing;

use crate::connection::{Membership, within};
use crate::controllers::objects;
use crate::error::BrokerError;

/// Bytes of a key.
const LENGTH: usize = 32;
/// Where the Secret holds it, as in that of a membership.
const FIELD: &str = "identity";

/// The key of this cluster: a member's, one of an earlier try, or a new one.
pub(super) async fn identity(local: &Client, namespace: &str) -> Result<Zeroizing<Vec<u8>>, BrokerError> {
    let whole = |key: &Zeroizing<Vec<u8>>| key.len() == LENGTH;
    let member = match Membership::load(local, namespace).await {
        Ok(membership) => Some(membership.identity),
        Err(BrokerError::NotJoined(_)) => None,
        Err(e) => return Err(e),
    };
    if let Some(key) = member.filter(whole) {
        return Ok(key);
    }
    if let Some(key) = pending(local, namespace).await?.filter(whole) {
        return Ok(key);
    }
    let mut key = Zeroizing::new(vec![0u8; LENGTH]);
    getrandom::fill(&mut key).map_err(|e| BrokerError::State(format!("no randomness: {e}")))?;
    Ok(key)
}

/// What is shown of a key.
pub(super) fn fingerprint(key: &[u8]) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(key)))
}

/// Keeps the key before anybody hears of it; an error if somebody joins with another one meanwhile.
pub(super) async fn keep(local: &Client, namespace: &str, key: &[u8]) -> Result<(), BrokerError> {
    provide_namespace(local, namespace).await?;
    let secrets: Api<Secret> = Api::namespaced(local.clone(), namespace);
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(names::JOIN_SECRET.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(FIELD.to_owned(), ByteString(key.to_vec()))])),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    };
    let what = format!("writing Secret {namespace}/{}", names::JOIN_SECRET);
    match within(&what, secrets.create(&PostParams::default(), &secret)).await {
        Ok(_) => Ok(()),
        Err(e) if e.code() == Some(409) => match pending(local, namespace).await? {
            Some(kept) if *kept == key => Ok(()),
            _ => Err(BrokerError::State(format!(
                "another `strait join` is at work in this cluster, or Secret {namespace}/{} is damaged; delete that Secret if nobody joins, then try again",
                names::JOIN_SECRET
            ))),
        },
        Err(e) => Err(e),
    }
}

/// Forgets the key of a try; there need not be one.
pub(crate) async fn forget(local: &Client, namespace: &str) -> Result<(), BrokerError> {
    let secrets: Api<Secret> = Api::namespaced(local.clone(), namespace);
    objects::remove(&secrets, names::JOIN_SECRET).await
}

/// Makes Strait's namespace in this cluster, if there is none.
pub(super) async fn provide_namespace(local: &Client, namespace: &str) -> Result<(), BrokerError> {
    let namespaces: Api<Namespace> = Api::all(local.clone());
    let what = format!("reading namespace {namespace}");
    if within(&what, namespaces.get_opt(namespace)).await?.is_some() {
        return Ok(());
    }
    let new = Namespace {
        metadata: ObjectMeta {
            name: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    };
    let what = format!("creating namespace {namespace}");
    within(&what, namespaces.create(&PostParams::default(), &new)).await?;
    Ok(())
}

async fn pending(local: &Client, namespace: &str) -> Result<Option<Zeroizing<Vec<u8>>>, BrokerError> {
    let secrets: Api<Secret> = Api::namespaced(local.clone(), namespace);
    let what = format!("reading Secret {namespace}/{}", names::JOIN_SECRET);
    let secret = within(&what, secrets.get_opt(names::JOIN_SECRET)).await?;
    let key = secret.and_then(|s| s.data).and_then(|mut d| d.remove(FIELD));
    Ok(key.map(|bytes| Zeroizing::new(bytes.0)))
}
