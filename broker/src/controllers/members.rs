//! A member's objects follow its state.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, PostParams};
use kube::{Api, Client};
use strait_api::records::{Cluster, Member, MemberState};
use strait_api::{ClusterId, names};
use strait_core::admission;
use strait_core::mirror::tombstone_is_old;

use super::{epoch, objects, rfc3339};
use crate::error::{BrokerError, found};

pub(super) async fn reconcile(
    client: &Client,
    provided: &mut BTreeMap<ClusterId, u64>,
    member: &Member,
    cluster: Option<&Cluster>,
    now: Timestamp,
) -> Result<(), BrokerError> {
    let id = &member.spec.cluster_id;
    // A member leaves by a tombstone on its own cluster record.
    let leaves = cluster.is_some_and(|c| c.spec.removed_at.is_some());
    if leaves && member.spec.state != MemberState::Evicted {
        tracing::info!(member = %id, "member leaves");
        return put_out(client, member, Why::Left, now).await;
    }
    if provided.get(id) == Some(&member.spec.epoch) && member.spec.removed_at.is_none() {
        return Ok(());
    }
    match member.spec.state {
        MemberState::Active | MemberState::Draining => {
            objects::provide_member(client, id).await?;
        }
        MemberState::Evicted => {
            let old = member
                .spec
                .removed_at
                .as_deref()
                .is_some_and(|at| tombstone_is_old(at, &rfc3339(now)));
            if !old && provided.get(id) == Some(&member.spec.epoch) {
                return Ok(());
            }
            objects::revoke_member(client, id).await?;
            clear(client, id).await?;
            if old {
                let namespaces: Api<Namespace> = Api::all(client.clone());
                objects::remove(&namespaces, &id.member_namespace()).await?;
                let members: Api<Member> = Api::all(client.clone());
                objects::remove(&members, id.as_str()).await?;
                tracing::info!(member = %id, "the tombstone of a member was kept for 30 days and is gone");
            } else {
                tracing::info!(member = %id, "the member's credentials are taken away");
            }
        }
    }
    provided.insert(id.clone(), member.spec.epoch);
    Ok(())
}

/// Deletes what a member had published: were it to come back, its old tombstone would put it out again. The
/// others drop their copies because of the Member's tombstone.
async fn clear(client: &Client, id: &ClusterId) -> Result<(), BrokerError> {
    let namespace = id.member_namespace();
    for (kind, plural) in [
        ("Gateway", "gateways"),
        ("ExportedService", "exportedservices"),
        ("Cluster", "clusters"),
    ] {
        let resource = ApiResource {
            group: names::GROUP.to_owned(),
            version: "v1alpha1".to_owned(),
            api_version: format!("{}/v1alpha1", names::GROUP),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
        };
        let records: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &resource);
        let what = format!("deleting the {plural} of {id}");
        for record in records
            .list(&ListParams::default())
            .await
            .map_err(BrokerError::api(what.as_str()))?
        {
            let held = !record.metadata.finalizers.unwrap_or_default().is_empty();
            let name = record.metadata.name.unwrap_or_default();
            if held {
                objects::lift_finalizers(&records, &name)
                    .await
                    .map_err(BrokerError::api(what.as_str()))?;
            }
            found(records.delete(&name, &DeleteParams::default()).await)
                .map_err(BrokerError::api(what.as_str()))?;
        }
    }
    Ok(())
}

/// Why a member is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// It said so itself.
    Left,
    /// An administrator said so.
    Evicted,
}

/// Whether a member that is out has left by itself.
pub(crate) fn has_left(member: &Member) -> bool {
    let annotations = member.metadata.annotations.as_ref();
    annotations.is_some_and(|a| a.contains_key(names::ANNOTATION_LEFT))
}

/// Says on a member's object why it is out; of one that is in, nothing.
pub(super) fn mark(member: &mut Member, why: Option<Why>) {
    let annotations = member.metadata.annotations.get_or_insert_default();
    if why == Some(Why::Left) {
        annotations.insert(names::ANNOTATION_LEFT.to_owned(), "true".to_owned());
    } else {
        annotations.remove(names::ANNOTATION_LEFT);
    }
}

/// Puts a member out.
pub(crate) async fn put_out(
    client: &Client,
    member: &Member,
    why: Why,
    now: Timestamp,
) -> Result<(), BrokerError> {
    let members: Api<Member> = Api::all(client.clone());
    let mut out = member.clone();
    mark(&mut out, Some(why));
    out.spec = admission::evict(&member.spec, &rfc3339(now), epoch(now));
    let id = out.spec.cluster_id.clone();
    members
        .replace(id.as_str(), &PostParams::default(), &out)
        .await
        .map_err(BrokerError::api(format!("marking member {id} as out")))?;
    // At once, not only when the watch tells: new calls are to be refused within seconds.
    objects::revoke_member(client, &id).await
}
