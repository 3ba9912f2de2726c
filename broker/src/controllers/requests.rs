//! Join requests: claims are examined, accepted ones become members.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use strait_api::names::BROKER_NAMESPACE;
use strait_api::records::{JoinClaim, JoinRequest, JoinRequestStatus, JoinState, Member};
use strait_api::{ClusterId, Condition};
use strait_core::admission::{self, Settings};

use super::{Fleet, epoch, objects, rfc3339};
use crate::error::BrokerError;

/// How long an ended request stays to be looked at.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// How long an accepted joiner may make its credential, at least; after that, until its cluster shows up.
const WAY_IN: Duration = Duration::from_secs(600);

/// Brings one request on. Says when it is due again by itself.
pub(super) async fn reconcile(
    client: &Client,
    settings: &Settings,
    fleet: &mut Fleet,
    closed: &mut BTreeSet<String>,
    request: &JoinRequest,
    now: Timestamp,
) -> Result<Option<Duration>, BrokerError> {
    let Some(name) = request.metadata.name.as_deref() else {
        return Ok(None);
    };
    let before = request.status.clone().unwrap_or_default();
    if request.metadata.deletion_timestamp.is_some() {
        // Somebody deleted it, and finalizers of its joiner hold it: it admits nobody any more.
        let member = before.acceptance.as_ref().map(|a| a.claim.cluster_id.clone());
        close(client, closed, name, member.as_ref()).await?;
        objects::remove_request(client, name).await?;
        return Ok(None);
    }
    // The status is what `token create` wrote; without its time the request is not finished yet.
    let Some(expires) = before
        .expires_at
        .as_deref()
        .and_then(|t| t.parse::<Timestamp>().ok())
    else {
        return Ok(None);
    };
    let left = Duration::try_from(expires.duration_since(now)).ok();
    let member = before
        .acceptance
        .as_ref()
        .map(|a| &a.claim.cluster_id)
        .filter(|_| before.state == Some(JoinState::Accepted));
    let Some(left) = left.filter(|l| !l.is_zero()) else {
        return expired(client, closed, request, name, before.clone(), expires, now).await;
    };
    let member_left =
        member.is_some_and(|id| fleet.members.get(id).is_none_or(|m| m.spec.removed_at.is_some()));
    if before.state == Some(JoinState::Rejected) || member_left {
        close(client, closed, name, member).await?;
        return Ok(Some(left));
    }
    if let Some(id) = member {
        // Once the member is there, its token is of no use but to a thief.
        let since = before.conditions.iter().find(|c| c.type_ == "Accepted");
        let since = since.and_then(|c| c.last_transition_time.parse::<Timestamp>().ok());
        let ends = since.unwrap_or(now) + SignedDuration::try_from(WAY_IN).unwrap_or_default();
        let open = Duration::try_from(ends.duration_since(now)).unwrap_or_default();
        if open.is_zero() && fleet.clusters.contains_key(id) {
            close(client, closed, name, Some(id)).await?;
            return Ok(Some(left));
        }
        return Ok(Some(left.min(open.max(Duration::from_secs(60)))));
    }
    let Some(claim) = &request.spec.claim else {
        return Ok(Some(left));
    };

    let mut after = before.clone();
    let found = admission::objections(&fleet.existing, claim, settings);
    let generation = request.metadata.generation;
    let valid = match found.first() {
        None => Condition::new("Valid", true, "Admissible", "the claim can be admitted"),
        Some(first) => {
            let all: Vec<&str> = found.iter().take(8).map(|o| o.message.as_str()).collect();
            Condition::new("Valid", false, first.reason.clone(), all.join("; "))
        }
    };
    set(&mut after, valid, generation, now);
    let accepted = before.acceptance.as_ref();
    let waved_through = before.preapproved.as_ref() == Some(&claim.cluster_id);
    let stands = accepted.is_some_and(|a| a.claim == *claim) || (accepted.is_none() && waved_through);
    after.state = Some(JoinState::Pending);
    if let Some(other) = accepted.filter(|a| a.claim != *claim) {
        let message = format!(
            "the claim was changed after it was accepted (fingerprint {}); look at it and accept it again",
            other.claim.key_fingerprint
        );
        set(
            &mut after,
            Condition::new("Accepted", false, "ClaimChanged", message),
            generation,
            now,
        );
    } else if let Some(id) = before.preapproved.as_ref().filter(|id| **id != claim.cluster_id) {
        let message =
            format!("the token is made out to cluster {id}; an administrator may still accept this one");
        set(
            &mut after,
            Condition::new("Accepted", false, "NotPreapproved", message),
            generation,
            now,
        );
    }
    if found.is_empty() && stands {
        let namespaces = accepted.map_or_else(|| vec!["*".to_owned()], |a| a.export_namespaces.clone());
        admit(client, settings, fleet, claim, &namespaces, now).await?;
        objects::provide_member(client, &claim.cluster_id).await?;
        objects::let_joiner_in(client, name, &claim.cluster_id).await?;
        after.state = Some(JoinState::Accepted);
        after.member_namespace = Some(claim.cluster_id.member_namespace());
        after.acceptance = Some(strait_api::records::JoinAcceptance {
            claim: claim.clone(),
            export_namespaces: namespaces,
        });
        let message = format!("{} is a member", claim.cluster_id);
        set(
            &mut after,
            Condition::new("Accepted", true, "Accepted", message),
            generation,
            now,
        );
        tracing::info!(request = name, member = %claim.cluster_id, "cluster joins");
    }
    write(client, name, &before, &after).await?;
    Ok(Some(left))
}

async fn expired(
    client: &Client,
    closed: &mut BTreeSet<String>,
    request: &JoinRequest,
    name: &str,
    before: JoinRequestStatus,
    expires: Timestamp,
    now: Timestamp,
) -> Result<Option<Duration>, BrokerError> {
    let member = before.acceptance.as_ref().map(|a| a.claim.cluster_id.clone());
    close(client, closed, name, member.as_ref()).await?;
    let kept = expires + SignedDuration::try_from(KEPT).unwrap_or_default();
    if now >= kept {
        objects::remove_request(client, name).await?;
        return Ok(None);
    }
    if before.state != Some(JoinState::Accepted) {
        let mut after = before.clone();
        after.state = Some(JoinState::Rejected);
        let message = format!("the token ended at {}", rfc3339(expires));
        set(
            &mut after,
            Condition::new("Accepted", false, "Expired", message),
            request.metadata.generation,
            now,
        );
        write(client, name, &before, &after).await?;
    }
    Ok(Some(Duration::try_from(kept.duration_since(now)).unwrap_or(KEPT)))
}

/// Takes the joiner's identity away, once.
async fn close(
    client: &Client,
    closed: &mut BTreeSet<String>,
    name: &str,
    member: Option<&ClusterId>,
) -> Result<(), BrokerError> {
    if !closed.contains(name) {
        objects::revoke_joiner(client, name, member).await?;
        closed.insert(name.to_owned());
    }
    Ok(())
}

async fn admit(
    client: &Client,
    settings: &Settings,
    fleet: &mut Fleet,
    claim: &JoinClaim,
    namespaces: &[String],
    now: Timestamp,
) -> Result<(), BrokerError> {
    let id = &claim.cluster_id;
    let spec = admission::admit(
        &fleet.existing,
        claim,
        namespaces,
        settings,
        &rfc3339(now),
        epoch(now),
    )
    .map_err(|e| BrokerError::State(e.to_string()))?;
    let members: Api<Member> = Api::all(client.clone());
    let written = match fleet.members.get(id) {
        Some(have) => {
            let mut member = have.clone();
            member.spec = spec;
            super::members::mark(&mut member, None);
            members
                .replace(id.as_str(), &PostParams::default(), &member)
                .await
        }
        None => {
            members
                .create(&PostParams::default(), &Member::new(id.as_str(), spec))
                .await
        }
    }
    .map_err(BrokerError::api(format!("writing member {id}")))?;
    // The next request of this round sees it.
    fleet.existing.members.retain(|m| m.cluster_id != *id);
    fleet.existing.members.push(written.spec.clone());
    let ranges = admission::MemberRanges {
        services: claim.service_cidrs.clone(),
        vips: claim.vip_cidrs.clone(),
    };
    fleet.existing.ranges.insert(id.clone(), ranges);
    fleet.members.insert(id.clone(), written);
    // A tombstone that the cluster wrote when it left before does not speak of this membership.
    fleet.clusters.remove(id);
    Ok(())
}

fn set(status: &mut JoinRequestStatus, mut condition: Condition, generation: Option<i64>, now: Timestamp) {
    condition.observed_generation = generation;
    condition.merge_into(&mut status.conditions, &rfc3339(now));
}

async fn write(
    client: &Client,
    name: &str,
    before: &JoinRequestStatus,
    after: &JoinRequestStatus,
) -> Result<(), BrokerError> {
    if before == after {
        return Ok(());
    }
    let requests: Api<JoinRequest> = Api::namespaced(client.clone(), BROKER_NAMESPACE);
    let patch = json!({ "status": after });
    requests
        .patch_status(name, &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .map_err(BrokerError::api(format!(
            "writing the status of join request {name}"
        )))?;
    Ok(())
}
