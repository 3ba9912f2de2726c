//! What the broker's administrator does: tokens, acceptance, eviction.

mod tokens;

use std::collections::BTreeMap;
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use strait_api::names::BROKER_NAMESPACE;
use strait_api::records::{JoinAcceptance, JoinRequest, JoinState, Member, MemberState};
use strait_api::{ClusterId, Condition};
use strait_core::admission;

use crate::args::{AcceptArgs, BrokerCommand, ListArgs, RejectArgs, TokenCommand};
use crate::controllers::members::{Why, has_left};
use crate::controllers::{self, rfc3339};
use crate::error::{BrokerError, found};
use crate::output;

pub use tokens::{MadeToken, create_token, delete_token};

/// Carries a command out.
pub(crate) async fn run(command: BrokerCommand, kubeconfig: Option<&Path>) -> anyhow::Result<()> {
    let client = strait_daemon::client::connect(kubeconfig, controllers::FIELD_MANAGER).await?;
    controllers::objects::must_be_broker(&client, kubeconfig).await?;
    match command {
        BrokerCommand::Token(TokenCommand::Create(args)) => {
            let made = create_token(&client, kubeconfig, &args).await?;
            eprintln!(
                "Join request {}, good until {}. Pass the token in a file; whoever holds it can ask to join.",
                made.request, made.expires
            );
            strait_daemon::stdout::print(&made.token)?;
            Ok(())
        }
        BrokerCommand::Token(TokenCommand::List(args)) | BrokerCommand::Requests(args) => {
            print_requests(&client, args).await
        }
        BrokerCommand::Token(TokenCommand::Delete { name }) => Ok(delete_token(&client, &name).await?),
        BrokerCommand::Accept(args) => {
            let request = get(&client, &args.name).await?;
            print_claim(&request)?;
            if !args.yes && args.fingerprint.is_none() && !confirmed(&args.name)? {
                bail!("{} was not accepted", args.name);
            }
            let id = accept(&client, &request, &args).await?;
            admitted(&client, &args.name).await?;
            eprintln!("Accepted: {id} is a member.");
            Ok(())
        }
        BrokerCommand::Reject(args) => Ok(reject(&client, &args).await?),
        BrokerCommand::Members(args) => print_members(&client, args).await,
        BrokerCommand::Evict(args) => {
            evict(&client, &args.cluster_id).await?;
            eprintln!(
                "{} is out; its ID and node block stay reserved for 30 days.",
                args.cluster_id
            );
            Ok(())
        }
    }
}

fn requests(client: &Client) -> Api<JoinRequest> {
    Api::namespaced(client.clone(), BROKER_NAMESPACE)
}

async fn get(client: &Client, name: &str) -> Result<JoinRequest, BrokerError> {
    found(requests(client).get(name).await)
        .map_err(BrokerError::api(format!("reading join request {name}")))?
        .ok_or_else(|| {
            BrokerError::State(format!(
                "there is no join request {name}; `strait broker requests` lists them"
            ))
        })
}

fn state(request: &JoinRequest) -> &'static str {
    if request.metadata.deletion_timestamp.is_some() {
        return "Deleting";
    }
    let status = request.status.as_ref();
    let unfit = status.is_some_and(|s| {
        s.conditions
            .iter()
            .any(|c| c.type_ == "Valid" && c.status == "False")
    });
    match status.and_then(|s| s.state) {
        Some(JoinState::Accepted) => "Accepted",
        Some(JoinState::Rejected) => "Rejected",
        Some(JoinState::Pending) if unfit => "Unfit",
        Some(JoinState::Pending) => "Pending",
        None if request.spec.claim.is_some() => "New",
        None => "Unused",
    }
}

/// The cluster that the token admits without anybody's looking; what the status says counts.
fn preapproved(request: &JoinRequest) -> Option<&ClusterId> {
    match &request.status {
        Some(status) => status.preapproved.as_ref(),
        None => request.spec.preapproved.as_ref(),
    }
}

async fn print_requests(client: &Client, args: ListArgs) -> anyhow::Result<()> {
    let list = requests(client)
        .list(&Default::default())
        .await
        .map_err(BrokerError::api("listing join requests"))?;
    let rows: Vec<Vec<String>> = list
        .items
        .iter()
        .map(|r| {
            let claim = r.spec.claim.as_ref();
            let text = |t: Option<String>| t.unwrap_or_else(|| "-".to_owned());
            vec![
                text(r.metadata.name.clone()),
                state(r).to_owned(),
                text(claim.map(|c| c.cluster_id.to_string())),
                text(preapproved(r).map(ToString::to_string)),
                text(claim.map(|c| c.key_fingerprint.clone())),
                text(claim.map(|c| output::list(&c.pod_cidrs))),
                text(r.status.as_ref().and_then(|s| s.expires_at.clone())),
            ]
        })
        .collect();
    output::print(
        args.output,
        &list.items,
        &[
            "NAME",
            "STATE",
            "CLUSTER",
            "PREAPPROVED",
            "FINGERPRINT",
            "PODS",
            "EXPIRES",
        ],
        &rows,
    )
}

async fn print_members(client: &Client, args: ListArgs) -> anyhow::Result<()> {
    let members: Api<Member> = Api::all(client.clone());
    let list = members
        .list(&Default::default())
        .await
        .map_err(BrokerError::api("listing members"))?;
    let heard = heard(client).await?;
    let rows: Vec<Vec<String>> = list
        .items
        .iter()
        .map(|m| {
            let last = heard.get(&m.spec.cluster_id.member_namespace());
            vec![
                m.spec.cluster_id.to_string(),
                match m.spec.state {
                    MemberState::Evicted if has_left(m) => "Left".to_owned(),
                    state => format!("{state:?}"),
                },
                output::list(&m.spec.prefixes),
                output::list(&m.spec.node_blocks),
                output::list(&m.spec.export_namespaces),
                m.spec.admitted_at.clone(),
                last.cloned().unwrap_or_else(|| "-".to_owned()),
            ]
        })
        .collect();
    output::print(
        args.output,
        &list.items,
        &[
            "ID",
            "STATE",
            "PREFIXES",
            "NODE BLOCKS",
            "EXPORTS FROM",
            "ADMITTED",
            "LAST SEEN",
        ],
        &rows,
    )
}

fn print_claim(request: &JoinRequest) -> anyhow::Result<()> {
    let Some(claim) = &request.spec.claim else {
        return Ok(());
    };
    let mut err = std::io::stderr().lock();
    writeln!(err, "Cluster ID   {}", claim.cluster_id)?;
    writeln!(err, "Fingerprint  {}", claim.key_fingerprint)?;
    writeln!(err, "UID          {}", claim.uid)?;
    writeln!(err, "Pods         {}", output::list(&claim.pod_cidrs))?;
    writeln!(err, "Services     {}", output::list(&claim.service_cidrs))?;
    writeln!(err, "VIPs         {}", output::list(&claim.vip_cidrs))?;
    for condition in request
        .status
        .iter()
        .flat_map(|s| &s.conditions)
        .filter(|c| c.status == "False")
    {
        writeln!(err, "{:<12} {}", condition.reason, condition.message)?;
    }
    Ok(())
}

fn confirmed(name: &str) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("nobody is there to compare the fingerprint: name it with --fingerprint, or pass --yes");
    }
    eprint!("Does the joining side show the same fingerprint? Type yes to accept {name}: ");
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim() == "yes")
}

/// Accepts a request as it was read: the acceptance is bound to its claim.
///
/// # Errors
/// If there is nothing to accept, the fingerprint is another one, or the write failed.
pub async fn accept(
    client: &Client,
    request: &JoinRequest,
    args: &AcceptArgs,
) -> Result<ClusterId, BrokerError> {
    let name = request.metadata.name.clone().unwrap_or_default();
    let Some(claim) = &request.spec.claim else {
        return Err(BrokerError::State(format!(
            "nobody has used the token of {name} yet; there is nothing to accept"
        )));
    };
    match state(request) {
        "Accepted" => return Ok(claim.cluster_id.clone()),
        "Deleting" => {
            let message = format!("join request {name} is being deleted; make a new token");
            return Err(BrokerError::State(message));
        }
        "Rejected" => {
            let message =
                format!("join request {name} was rejected or its token has ended; make a new token");
            return Err(BrokerError::State(message));
        }
        _ => {}
    }
    if let Some(other) = args.fingerprint.as_ref().filter(|f| **f != claim.key_fingerprint) {
        return Err(BrokerError::State(format!(
            "{name} shows fingerprint {}, not {other}: somebody else may be using the token; reject it",
            claim.key_fingerprint
        )));
    }
    let namespaces = if args.export_namespaces.is_empty() {
        vec!["*".to_owned()]
    } else {
        args.export_namespaces.clone()
    };
    if let Some(refused) = admission::refused_namespaces(&namespaces).first() {
        return Err(BrokerError::State(refused.message.clone()));
    }
    let acceptance = JoinAcceptance {
        claim: claim.clone(),
        export_namespaces: namespaces,
    };
    let patch = json!({ "status": { "acceptance": acceptance } });
    requests(client)
        .patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .map_err(BrokerError::api(format!("accepting {name}")))?;
    Ok(claim.cluster_id.clone())
}

/// Waits until the controllers have made the accepted cluster a member.
async fn admitted(client: &Client, name: &str) -> Result<(), BrokerError> {
    let end = tokio::time::Instant::now() + Duration::from_secs(15);
    loop {
        let request = get(client, name).await?;
        let conditions = request.status.iter().flat_map(|s| &s.conditions);
        let current = conditions.filter(|c| c.observed_generation == request.metadata.generation);
        let unfit = current
            .filter(|c| c.type_ == "Valid")
            .find(|c| c.status == "False");
        match state(&request) {
            "Accepted" => return Ok(()),
            "Deleting" => {
                return Err(BrokerError::State(format!(
                    "{name} was deleted while it was accepted; make a new token"
                )));
            }
            _ if unfit.is_some() => {
                let why = unfit.map(|c| c.message.clone()).unwrap_or_default();
                let message = format!("{name} is accepted, but cannot become a member yet: {why}");
                return Err(BrokerError::State(message));
            }
            _ if tokio::time::Instant::now() > end => {
                let message = format!(
                    "{name} is accepted, but the broker's controllers have not answered for 15 s; see that `strait broker` runs"
                );
                return Err(BrokerError::State(message));
            }
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// When each member's agent was heard of last, by namespace.
async fn heard(client: &Client) -> Result<BTreeMap<String, String>, BrokerError> {
    let leases: Api<Lease> = Api::all(client.clone());
    let params = ListParams::default().labels(controllers::objects::LABEL_MEMBER);
    let list = leases
        .list(&params)
        .await
        .map_err(BrokerError::api("listing the members' leases"))?;
    let last = |lease: Lease| {
        let at = lease.spec?.renew_time?.0;
        Some((lease.metadata.namespace?, rfc3339(at)))
    };
    Ok(list.items.into_iter().filter_map(last).collect())
}

/// Refuses a request.
///
/// # Errors
/// If there is no such request, it was accepted, or the write failed.
pub async fn reject(client: &Client, args: &RejectArgs) -> Result<(), BrokerError> {
    let mut request = get(client, &args.name).await?;
    if state(&request) == "Accepted" {
        let message = format!(
            "join request {} was accepted already; evict the member instead",
            args.name
        );
        return Err(BrokerError::State(message));
    }
    let mut status = request.status.take().unwrap_or_default();
    status.state = Some(JoinState::Rejected);
    let mut condition = Condition::new("Accepted", false, "Rejected", args.reason.as_str());
    condition.observed_generation = request.metadata.generation;
    condition.merge_into(&mut status.conditions, &rfc3339(Timestamp::now()));
    request.status = Some(status);
    // With the version that was read: an acceptance in between wins or loses, but is not overwritten.
    requests(client)
        .replace_status(&args.name, &PostParams::default(), &request)
        .await
        .map_err(BrokerError::api(format!("rejecting {}", args.name)))?;
    Ok(())
}

/// Puts a member out: marks it and takes its credentials away.
///
/// # Errors
/// If there is no such member, or a write failed.
pub async fn evict(client: &Client, id: &ClusterId) -> Result<(), BrokerError> {
    let members: Api<Member> = Api::all(client.clone());
    let member = found(members.get(id.as_str()).await)
        .map_err(BrokerError::api(format!("reading member {id}")))?
        .ok_or_else(|| {
            BrokerError::State(format!(
                "there is no member {id}; `strait broker members` lists them"
            ))
        })?;
    controllers::members::put_out(client, &member, Why::Evicted, Timestamp::now()).await
}
