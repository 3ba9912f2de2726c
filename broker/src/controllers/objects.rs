//! Namespaces, accounts, roles and bindings: the wall between members.
//!
//! Four ClusterRoles say what a member, its renewal credential and a joiner may do; they come with the
//! manifests (deploy/broker) and are made here where they are missing (stand-alone). Bindings in the
//! member's own namespace, and one cluster-wide for reading, give them to its accounts.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use strait_api::ClusterId;
use strait_api::names::{AGENT_LEASE, BROKER_NAMESPACE, GROUP};
use strait_api::records::JoinRequest;

use crate::connection::{MEMBER_ACCOUNT, RENEW_ACCOUNT, within};
use crate::error::{BrokerError, code, found};

/// ClusterRole of a member in its own namespace.
pub const ROLE_MEMBER: &str = "strait-member";
/// ClusterRole of a member everywhere.
pub const ROLE_READER: &str = "strait-member-reader";
/// ClusterRole of the renewal credential in the member's namespace.
pub const ROLE_RENEWAL: &str = "strait-member-renewal";
/// ClusterRole of an accepted joiner in the member's namespace.
pub const ROLE_JOIN: &str = "strait-member-join";
/// Label on all that the broker's controllers make for a member: its cluster ID.
pub const LABEL_MEMBER: &str = "strait.dev/member";

fn rule(group: &str, resources: &[&str], names: &[&str], verbs: &[&str]) -> PolicyRule {
    let strings = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(strings(resources)),
        resource_names: (!names.is_empty()).then(|| strings(names)),
        verbs: strings(verbs),
        ..PolicyRule::default()
    }
}

/// The ClusterRoles; deploy/broker holds the same.
pub fn cluster_roles() -> Vec<ClusterRole> {
    let records = ["clusters", "gateways", "exportedservices"];
    let role = |name: &str, rules: Vec<PolicyRule>| ClusterRole {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        rules: Some(rules),
        ..ClusterRole::default()
    };
    vec![
        role(
            ROLE_MEMBER,
            vec![
                rule(
                    GROUP,
                    &records,
                    &[],
                    &["get", "list", "watch", "create", "update", "patch", "delete"],
                ),
                rule(
                    "coordination.k8s.io",
                    &["leases"],
                    &[AGENT_LEASE],
                    &["get", "update", "patch"],
                ),
            ],
        ),
        role(
            ROLE_READER,
            vec![rule(
                GROUP,
                &["clusters", "gateways", "exportedservices", "members"],
                &[],
                &["get", "list", "watch"],
            )],
        ),
        role(
            ROLE_RENEWAL,
            vec![rule(
                "",
                &["serviceaccounts/token"],
                &[MEMBER_ACCOUNT],
                &["create"],
            )],
        ),
        role(
            ROLE_JOIN,
            vec![rule(
                "",
                &["serviceaccounts/token"],
                &[RENEW_ACCOUNT],
                &["create"],
            )],
        ),
    ]
}

fn meta(name: &str, namespace: Option<&str>, labels: &[(&str, &str)]) -> ObjectMeta {
    let labels: BTreeMap<String, String> = labels
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: namespace.map(str::to_owned),
        labels: (!labels.is_empty()).then_some(labels),
        ..ObjectMeta::default()
    }
}

/// Creates an object, and is content if it is there.
pub(crate) async fn ensure<K>(api: &Api<K>, object: &K) -> Result<(), BrokerError>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Serialize + DeserializeOwned,
{
    let params = PostParams {
        field_manager: Some(super::FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    match api.create(&params, object).await {
        Ok(_) => Ok(()),
        Err(e) if code(&e) == Some(409) => Ok(()),
        Err(e) => {
            let what = format!(
                "creating {} {}",
                K::kind(&()),
                object.meta().name.as_deref().unwrap_or_default()
            );
            Err(BrokerError::api(what)(e))
        }
    }
}

/// Deletes an object, with a deadline, and is content if it is not there.
pub(crate) async fn remove<K>(api: &Api<K>, name: &str) -> Result<(), BrokerError>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let what = format!("deleting {} {name}", K::kind(&()));
    match within(&what, api.delete(name, &DeleteParams::background())).await {
        Ok(_) => Ok(()),
        Err(e) if e.code() == Some(404) => Ok(()),
        Err(e) => Err(e),
    }
}

/// Deletes a join request whose identity is gone. It may hold finalizers of its joiner, which nobody else lifts.
pub(crate) async fn remove_request(client: &Client, name: &str) -> Result<(), BrokerError> {
    let requests: Api<JoinRequest> = Api::namespaced(client.clone(), BROKER_NAMESPACE);
    let what = format!("deleting join request {name}");
    let request = found(requests.get_metadata(name).await).map_err(BrokerError::api(what.as_str()))?;
    let finalizers = request.and_then(|r| r.metadata.finalizers).unwrap_or_default();
    if !finalizers.is_empty() {
        lift_finalizers(&requests, name)
            .await
            .map_err(BrokerError::api(what.as_str()))?;
    }
    remove(&requests, name).await
}

/// Lifts an object's finalizers where nobody is left who would; it may be gone.
pub(crate) async fn lift_finalizers<K>(api: &Api<K>, name: &str) -> Result<(), kube::Error>
where
    K: Clone + std::fmt::Debug + DeserializeOwned,
{
    let free = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    let lifted = api.patch_metadata(name, &PatchParams::default(), &free).await;
    found(lifted).map(drop)
}

/// Whether this cluster is a broker, maybe among other things.
pub(crate) async fn is_broker(client: &Client) -> Result<bool, BrokerError> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let there = namespaces
        .get_opt(BROKER_NAMESPACE)
        .await
        .map_err(BrokerError::api(format!("reading namespace {BROKER_NAMESPACE}")))?;
    Ok(there.is_some())
}

/// Refuses a cluster that is no broker: what looks like a broker's record there is a member's copy.
///
/// # Errors
/// If it is none.
pub(crate) async fn must_be_broker(client: &Client, kubeconfig: Option<&Path>) -> Result<(), BrokerError> {
    match is_broker(client).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(BrokerError::NoBroker(kubeconfig.map_or_else(
            || "this cluster".to_owned(),
            |file| format!("the cluster of kubeconfig {}", file.display()),
        ))),
        // Who may not look is told by the calls that follow what they may.
        Err(e) if e.code() == Some(403) => Ok(()),
        Err(e) => Err(e),
    }
}

/// The broker's own namespace and roles.
pub(crate) async fn prepare(client: &Client) -> Result<(), BrokerError> {
    if !is_broker(client).await? {
        let namespace = Namespace {
            metadata: meta(BROKER_NAMESPACE, None, &[]),
            ..Namespace::default()
        };
        ensure(&Api::all(client.clone()), &namespace).await?;
    }
    let roles: Api<ClusterRole> = Api::all(client.clone());
    for role in cluster_roles() {
        let name = role.metadata.name.clone().unwrap_or_default();
        let there = roles
            .get_opt(&name)
            .await
            .map_err(BrokerError::api(format!("reading ClusterRole {name}")))?;
        match there {
            None => ensure(&roles, &role).await?,
            Some(have) if have.rules != role.rules => tracing::warn!(
                role = name,
                "this ClusterRole differs from what this version brings; apply deploy/broker of this version"
            ),
            Some(_) => {}
        }
    }
    Ok(())
}

fn binding(
    name: &str,
    namespace: &str,
    labels: &[(&str, &str)],
    role: (&str, &str),
    subject: Subject,
) -> RoleBinding {
    RoleBinding {
        metadata: meta(name, Some(namespace), labels),
        role_ref: role_ref(role.0, role.1),
        subjects: Some(vec![subject]),
    }
}

fn role_ref(kind: &str, name: &str) -> RoleRef {
    RoleRef {
        api_group: "rbac.authorization.k8s.io".to_owned(),
        kind: kind.to_owned(),
        name: name.to_owned(),
    }
}

fn account(name: &str, namespace: &str) -> Subject {
    Subject {
        kind: "ServiceAccount".to_owned(),
        name: name.to_owned(),
        namespace: Some(namespace.to_owned()),
        ..Subject::default()
    }
}

fn reader_binding(id: &ClusterId) -> String {
    format!("{ROLE_READER}:{id}")
}

/// All that a member needs on the broker.
pub(crate) async fn provide_member(client: &Client, id: &ClusterId) -> Result<(), BrokerError> {
    let namespace = id.member_namespace();
    let labels = [(LABEL_MEMBER, id.as_str())];
    let namespaces: Api<Namespace> = Api::all(client.clone());
    ensure(
        &namespaces,
        &Namespace {
            metadata: meta(&namespace, None, &labels),
            ..Namespace::default()
        },
    )
    .await?;

    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &namespace);
    for name in [MEMBER_ACCOUNT, RENEW_ACCOUNT] {
        let account = ServiceAccount {
            metadata: meta(name, Some(&namespace), &labels),
            automount_service_account_token: Some(false),
            ..ServiceAccount::default()
        };
        ensure(&accounts, &account).await?;
    }
    let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), &namespace);
    for (role, subject) in [(ROLE_MEMBER, MEMBER_ACCOUNT), (ROLE_RENEWAL, RENEW_ACCOUNT)] {
        let binding = binding(
            role,
            &namespace,
            &labels,
            ("ClusterRole", role),
            account(subject, &namespace),
        );
        ensure(&bindings, &binding).await?;
    }
    let readers: Api<ClusterRoleBinding> = Api::all(client.clone());
    let reader = ClusterRoleBinding {
        metadata: meta(&reader_binding(id), None, &labels),
        role_ref: role_ref("ClusterRole", ROLE_READER),
        subjects: Some(vec![account(MEMBER_ACCOUNT, &namespace)]),
    };
    ensure(&readers, &reader).await?;
    // RBAC cannot limit `create` by name, so the member finds its Lease made.
    let leases: Api<Lease> = Api::namespaced(client.clone(), &namespace);
    ensure(
        &leases,
        &Lease {
            metadata: meta(AGENT_LEASE, Some(&namespace), &labels),
            ..Lease::default()
        },
    )
    .await
}

/// Takes a member's credentials away: its accounts first, which ends every token made for them.
pub(crate) async fn revoke_member(client: &Client, id: &ClusterId) -> Result<(), BrokerError> {
    let namespace = id.member_namespace();
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &namespace);
    remove(&accounts, MEMBER_ACCOUNT).await?;
    remove(&accounts, RENEW_ACCOUNT).await?;
    let readers: Api<ClusterRoleBinding> = Api::all(client.clone());
    remove(&readers, &reader_binding(id)).await?;
    let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), &namespace);
    for name in [ROLE_MEMBER, ROLE_RENEWAL] {
        remove(&bindings, name).await?;
    }
    Ok(())
}

fn join_binding(request: &str) -> String {
    format!("{ROLE_JOIN}:{request}")
}

/// The identity of a join request: it may read and patch that one only.
pub(crate) async fn provide_joiner(client: &Client, request: &str) -> Result<(), BrokerError> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), BROKER_NAMESPACE);
    let joiner = ServiceAccount {
        metadata: meta(request, Some(BROKER_NAMESPACE), &[]),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    };
    ensure(&accounts, &joiner).await?;
    let roles: Api<Role> = Api::namespaced(client.clone(), BROKER_NAMESPACE);
    let role = Role {
        metadata: meta(request, Some(BROKER_NAMESPACE), &[]),
        rules: Some(vec![rule(
            GROUP,
            &["joinrequests"],
            &[request],
            &["get", "patch"],
        )]),
    };
    ensure(&roles, &role).await?;
    let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), BROKER_NAMESPACE);
    let binding = binding(
        request,
        BROKER_NAMESPACE,
        &[],
        ("Role", request),
        account(request, BROKER_NAMESPACE),
    );
    ensure(&bindings, &binding).await
}

/// Lets an accepted joiner make its renewal credential.
pub(crate) async fn let_joiner_in(client: &Client, request: &str, id: &ClusterId) -> Result<(), BrokerError> {
    let namespace = id.member_namespace();
    let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), &namespace);
    let binding = binding(
        &join_binding(request),
        &namespace,
        &[(LABEL_MEMBER, id.as_str())],
        ("ClusterRole", ROLE_JOIN),
        account(request, BROKER_NAMESPACE),
    );
    ensure(&bindings, &binding).await
}

/// Takes a joiner's identity away, and its way in if it had one.
pub(crate) async fn revoke_joiner(
    client: &Client,
    request: &str,
    member: Option<&ClusterId>,
) -> Result<(), BrokerError> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), BROKER_NAMESPACE);
    remove(&accounts, request).await?;
    let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), BROKER_NAMESPACE);
    remove(&bindings, request).await?;
    let roles: Api<Role> = Api::namespaced(client.clone(), BROKER_NAMESPACE);
    remove(&roles, request).await?;
    if let Some(id) = member {
        let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), &id.member_namespace());
        remove(&bindings, &join_binding(request)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::rbac::v1::ClusterRole;
    use serde::Deserialize as _;

    #[test]
    fn the_roles_made_here_are_those_of_the_manifests() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/broker/member-roles.yaml");
        let text = std::fs::read_to_string(path).unwrap();
        let there: Vec<ClusterRole> = text
            .split("\n---\n")
            .map(|d| {
                ClusterRole::deserialize(&serde_saphyr::from_str::<serde_json::Value>(d).unwrap()).unwrap()
            })
            .collect();
        let named = |roles: Vec<ClusterRole>| {
            let mut named: Vec<_> = roles.into_iter().map(|r| (r.metadata.name, r.rules)).collect();
            named.sort_by(|a, b| a.0.cmp(&b.0));
            named
        };
        assert_eq!(named(super::cluster_roles()), named(there));
    }
}
