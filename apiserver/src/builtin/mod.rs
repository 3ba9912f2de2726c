//! What built-in kinds have of their own: defaults, checks, and what happens beside a write.

pub(crate) mod config;
pub(crate) mod crd;
pub(crate) mod event;
pub(crate) mod namespace;
pub(crate) mod node;
pub(crate) mod pod;
pub(crate) mod rbac;
pub(crate) mod service;
pub(crate) mod slice;
pub(crate) mod small;
pub(crate) mod stored;

use std::sync::Arc;

use serde_json::Value;

use crate::api::Api;
use crate::catalog::Resource;
use crate::catalog::builtin::Kind;
use crate::status::{ApiResult, Cause};

pub(crate) use service::Claim;

/// Fields of a kind that field selectors may name, besides name and namespace.
pub(crate) fn selectable(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Pod => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        Kind::Event => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        Kind::NewEvent => &[
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reason",
            "reportingController",
            "type",
        ],
        Kind::Secret => &["type"],
        Kind::Service => &["spec.clusterIP", "spec.type"],
        Kind::Namespace => &["status.phase"],
        Kind::Node => &["spec.unschedulable"],
        _ => &[],
    }
}

/// Whether objects count the changes of their specification.
pub(crate) fn uses_generation(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Pod
            | Kind::EndpointSlice
            | Kind::Deployment
            | Kind::DaemonSet
            | Kind::ReplicaSet
            | Kind::StatefulSet
            | Kind::ReplicationController
            | Kind::Job
            | Kind::CronJob
            | Kind::Ingress
            | Kind::PodDisruptionBudget
            | Kind::Crd
    )
}

/// Whether a deletion that is done answers the object and no `Status`.
pub(crate) fn answers_deleted(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Pod
            | Kind::Service
            | Kind::ServiceAccount
            | Kind::ResourceQuota
            | Kind::PersistentVolume
            | Kind::PersistentVolumeClaim
    )
}

/// Whether an update may leave the version out.
pub(crate) fn unconditional_update(kind: Kind) -> bool {
    !matches!(kind, Kind::Lease | Kind::Crd)
}

/// Whether an update of an object that is not there makes it.
pub(crate) fn create_on_update(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Lease
            | Kind::Event
            | Kind::NewEvent
            | Kind::Role
            | Kind::RoleBinding
            | Kind::ClusterRole
            | Kind::ClusterRoleBinding
            | Kind::Service
            | Kind::Endpoints
    )
}

/// Fills in what a client leaves out. `old`: the object before, if there was one.
pub(crate) fn default(kind: Kind, object: &mut Value, old: Option<&Value>) {
    match kind {
        Kind::Service => service::default(object, old),
        Kind::Pod => pod::default(object),
        Kind::Namespace => namespace::default(object),
        Kind::Node => node::default(object),
        Kind::Secret => config::default_secret(object),
        Kind::ConfigMap => config::default_config_map(object),
        Kind::RoleBinding | Kind::ClusterRoleBinding => rbac::default_binding(object),
        Kind::Role | Kind::ClusterRole => rbac::default_role(object),
        Kind::Crd => crate::catalog::crd::complete(object),
        Kind::Event => event::default_core(object),
        Kind::NewEvent => event::default_new(object),
        Kind::EndpointSlice => slice::default(object),
        Kind::Deployment | Kind::DaemonSet | Kind::ReplicaSet | Kind::StatefulSet => {
            small::workload(kind, object)
        }
        Kind::ReplicationController | Kind::Job | Kind::CronJob => stored::default(kind, object),
        Kind::PodDisruptionBudget | Kind::ResourceQuota => stored::default(kind, object),
        Kind::PersistentVolume | Kind::PersistentVolumeClaim => stored::default(kind, object),
        _ => {}
    }
}

/// What admission adds to a new object, and what it refuses.
pub(crate) fn admit_create(api: &Api, kind: Kind, object: &mut Value) -> ApiResult<()> {
    match kind {
        Kind::Pod => pod::admit(api, object),
        Kind::Node => {
            node::admit(object);
            Ok(())
        }
        Kind::Namespace => {
            namespace::admit(object);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Adjusts a changed object to the one before.
pub(crate) fn prepare_update(kind: Kind, subresource: &str, old: &Value, new: &mut Value) {
    match kind {
        Kind::Service if subresource.is_empty() => service::prepare_update(old, new),
        Kind::Pod if subresource == "status" => pod::default_status(new),
        // A version that becomes the stored one is noted.
        Kind::Crd if subresource.is_empty() => crate::catalog::crd::complete(new),
        _ => {}
    }
}

/// Checks an object by itself.
fn validate(api: &Api, kind: Kind, object: &Value) -> Vec<Cause> {
    match kind {
        Kind::Service => service::validate(object),
        Kind::Pod => pod::validate(object),
        Kind::EndpointSlice => slice::validate(object),
        Kind::Crd => crate::catalog::crd::validate(object),
        Kind::RoleBinding | Kind::ClusterRoleBinding => rbac::validate_binding(kind, object),
        Kind::Role | Kind::ClusterRole => rbac::validate_role(kind, object),
        Kind::Event | Kind::NewEvent => event::validate(kind, object),
        Kind::Lease => small::validate_lease(object),
        Kind::ConfigMap => config::validate_config_map(object),
        Kind::Secret => config::validate_secret(object),
        Kind::Deployment | Kind::DaemonSet | Kind::ReplicaSet | Kind::StatefulSet => {
            small::validate_workload(object)
        }
        Kind::ReplicationController | Kind::Job | Kind::CronJob => stored::validate(kind, object),
        Kind::PodDisruptionBudget | Kind::ResourceQuota => stored::validate(kind, object),
        _ => {
            let _ = api;
            Vec::new()
        }
    }
}

/// Checks a new object.
pub(crate) fn validate_new(api: &Api, kind: Kind, object: &Value) -> Vec<Cause> {
    let mut causes = validate(api, kind, object);
    if kind == Kind::Crd {
        causes.extend(crate::catalog::reserved::check(&Value::Null, object));
    }
    causes
}

/// Checks a changed object: by itself, and against the one before.
pub(crate) fn validate_change(api: &Api, kind: Kind, old: &Value, new: &Value) -> Vec<Cause> {
    let frozen = matches!(kind, Kind::Secret | Kind::ConfigMap);
    let mut causes = if frozen {
        config::validate_frozen(kind, old, new)
    } else {
        Vec::new()
    };
    causes.extend(validate(api, kind, new));
    causes.extend(validate_update(kind, old, new));
    causes
}

/// Checks what may not change.
fn validate_update(kind: Kind, old: &Value, new: &Value) -> Vec<Cause> {
    match kind {
        Kind::Service => service::validate_update(old, new),
        Kind::Pod => pod::validate_update(old, new),
        Kind::EndpointSlice => small::immutable(old, new, "/addressType", "addressType"),
        Kind::RoleBinding | Kind::ClusterRoleBinding => rbac::validate_binding_update(old, new),
        Kind::Crd => crd::validate_update(old, new),
        Kind::Deployment | Kind::DaemonSet | Kind::ReplicaSet => {
            small::immutable(old, new, "/spec/selector", "spec.selector")
        }
        _ => Vec::new(),
    }
}

/// Takes what the object needs from what all share: cluster addresses.
pub(crate) async fn claim(api: &Api, resource: &Resource, old: &Value, new: &mut Value) -> ApiResult<Claim> {
    match resource.builtin() {
        Some(Kind::Service) => service::claim(api, old, new),
        _ => Ok(Claim::default()),
    }
}

/// What follows a creation.
pub(crate) async fn created(api: &Arc<Api>, resource: &Arc<Resource>, object: &Value) -> ApiResult<()> {
    match resource.builtin() {
        Some(Kind::Crd) => crd::settle(api, resource, object).await,
        Some(Kind::Namespace) => small::default_account(api, object).await,
        Some(
            Kind::ServiceAccount
            | Kind::Role
            | Kind::RoleBinding
            | Kind::ClusterRole
            | Kind::ClusterRoleBinding,
        ) => {
            api.rights_changed();
            Ok(())
        }
        _ => Ok(()),
    }
}

/// What follows a change.
pub(crate) async fn updated(
    api: &Arc<Api>,
    resource: &Arc<Resource>,
    old: &Value,
    object: &Value,
) -> ApiResult<()> {
    match resource.builtin() {
        Some(Kind::Crd)
            if old.get("spec") != object.get("spec") || crate::catalog::reserved::changed(old, object) =>
        {
            api.rights_changed();
            crd::settle(api, resource, object).await
        }
        Some(Kind::Crd) => crd::correct(api, resource, object).await.map(|_| ()),
        Some(Kind::Role | Kind::RoleBinding | Kind::ClusterRole | Kind::ClusterRoleBinding) => {
            api.rights_changed();
            Ok(())
        }
        Some(Kind::Service) => {
            service::release_changed(api, old, object);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// What follows the end of an object.
pub(crate) fn removed(api: &Api, resource: &Resource, old: &Value) {
    match resource.builtin() {
        Some(Kind::Service) => service::release_changed(api, old, &Value::Null),
        Some(
            Kind::ServiceAccount
            | Kind::Role
            | Kind::RoleBinding
            | Kind::ClusterRole
            | Kind::ClusterRoleBinding
            | Kind::Crd
            | Kind::Pod
            | Kind::Secret,
        ) => api.rights_changed(),
        _ => {}
    }
}
