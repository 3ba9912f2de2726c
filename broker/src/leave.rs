//! `strait leave`: a cluster goes out of its clusterset.
//!
//! The tombstone on its Cluster record says so, here and on the broker, whose controllers then take the
//! membership away; after that nothing of the clusterset stays in this cluster but the daemons, idle.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use serde_json::json;
use strait_api::names;
use strait_api::records::{Cluster, ExportedService, Gateway, Member, MemberState};
use strait_daemon::stdout::print;

use crate::args::LeaveArgs;
use crate::connection::{Membership, merge, within};
use crate::controllers::{objects, rfc3339};
use crate::error::BrokerError;

/// `strait leave`.
pub(crate) async fn run(args: LeaveArgs) -> anyhow::Result<()> {
    let local = strait_daemon::client::connect(args.kubeconfig.as_deref(), "strait-leave").await?;
    let left = leave(&local, &args.namespace, args.force).await?;
    print(&format!("{left} has left the clusterset."))?;
    Ok(())
}

/// Leaves.
///
/// # Errors
/// If this cluster is no member, or the broker could not be told (then nothing was removed here, unless
/// `force` is set).
pub async fn leave(
    local: &Client,
    namespace: &str,
    force: bool,
) -> Result<strait_api::ClusterId, BrokerError> {
    let membership = Membership::load(local, namespace).await?;
    let id = membership.cluster.clone();
    // First at home: an agent whose own record says that its cluster has left publishes nothing more, and
    // cannot undo the tombstone on the broker.
    mark(local, namespace, &id, Some(rfc3339(Timestamp::now()))).await?;
    match tell_broker(&membership).await {
        // Already out.
        Ok(()) | Err(BrokerError::CredentialRefused) => {}
        Err(e) if force => tracing::warn!(error = %e, "leaving without the broker; evict this cluster there"),
        Err(e) => {
            mark(local, namespace, &id, None).await?;
            return Err(e);
        }
    }
    let secrets: Api<Secret> = Api::namespaced(local.clone(), namespace);
    objects::remove(&secrets, names::BROKER_SECRET).await?;
    crate::join::identity::forget(local, namespace).await?;
    clear(local, namespace).await?;
    Ok(id)
}

/// Sets or takes away the tombstone of the own Cluster record.
async fn mark(
    local: &Client,
    namespace: &str,
    id: &strait_api::ClusterId,
    removed_at: Option<String>,
) -> Result<(), BrokerError> {
    let clusters: Api<Cluster> = Api::namespaced(local.clone(), namespace);
    let what = format!("marking cluster {id} as removed");
    let patch = json!({ "spec": { "removedAt": removed_at } });
    match merge(&clusters, &what, id.as_str(), patch).await {
        Err(e) if e.code() != Some(404) => Err(e),
        _ => Ok(()),
    }
}

/// Puts the tombstone on the broker and waits until the membership is gone.
async fn tell_broker(membership: &Membership) -> Result<(), BrokerError> {
    let id = &membership.cluster;
    let connection = membership.connect().await?;
    let clusters: Api<Cluster> = Api::namespaced(connection.client.clone(), &id.member_namespace());
    let members: Api<Member> = Api::all(connection.client.clone());
    let what = format!("telling the broker that {id} leaves");
    let mut pause = Duration::from_millis(50);
    let end = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        // Again each time: an agent that runs may write the record once more as it was.
        let patch = json!({ "spec": { "removedAt": rfc3339(Timestamp::now()) } });
        match merge(&clusters, &what, id.as_str(), patch).await {
            Ok(_) => {}
            Err(e) if matches!(e.code(), Some(401 | 403)) => return Ok(()),
            // Never published: then a tombstone is all there is to publish.
            Err(e) if e.code() == Some(404) => {
                let mut gone: Cluster = Cluster::new(
                    id.as_str(),
                    serde_json::from_value(json!({ "clusterId": id }))
                        .map_err(|e| BrokerError::State(e.to_string()))?,
                );
                gone.spec.removed_at = Some(rfc3339(Timestamp::now()));
                match within(&what, clusters.create(&Default::default(), &gone)).await {
                    Ok(_) => {}
                    Err(e) if matches!(e.code(), Some(401 | 403)) => return Ok(()),
                    Err(e) if e.code() == Some(409) => {}
                    Err(e) => return Err(e),
                }
            }
            Err(e) => return Err(e),
        }
        match within(&what, members.get(id.as_str())).await {
            Ok(member) if member.spec.state == MemberState::Evicted => return Ok(()),
            Ok(_) => {}
            Err(e) if matches!(e.code(), Some(401 | 403 | 404)) => return Ok(()),
            Err(e) => return Err(e),
        }
        if tokio::time::Instant::now() > end {
            return Err(BrokerError::State(
                "the broker's controllers did not take the membership away within 30 s; see that `strait broker` runs, or use --force"
                    .to_owned(),
            ));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// Deletes the records here until a second look finds none: an agent may be in the middle of a write.
async fn clear(local: &Client, namespace: &str) -> Result<(), BrokerError> {
    let mut quiet = 0;
    for _ in 0..40 {
        let mut count = delete_all::<Gateway>(&Api::namespaced(local.clone(), namespace)).await?;
        count += delete_all::<ExportedService>(&Api::namespaced(local.clone(), namespace)).await?;
        count += delete_all::<Cluster>(&Api::namespaced(local.clone(), namespace)).await?;
        count += delete_members(local).await?;
        quiet = if count == 0 { quiet + 1 } else { 0 };
        if quiet == 2 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    Err(BrokerError::State(format!(
        "records in {namespace} keep coming back while they are deleted; is an agent of another version running?"
    )))
}

async fn delete_all<K>(api: &Api<K>) -> Result<usize, BrokerError>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let list = api
        .list_metadata(&Default::default())
        .await
        .map_err(BrokerError::api(format!("listing {}", K::plural(&()))))?;
    let mut count = 0;
    for name in list.items.into_iter().filter_map(|o| o.metadata.name) {
        objects::remove(api, &name).await?;
        count += 1;
    }
    Ok(count)
}

async fn delete_members(local: &Client) -> Result<usize, BrokerError> {
    // On a cluster that is the broker as well these are the broker's own, not copies.
    if objects::is_broker(local).await? {
        return Ok(0);
    }
    delete_all::<Member>(&Api::all(local.clone())).await
}
