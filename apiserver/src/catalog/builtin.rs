//! The built-in resources.

use std::sync::{Arc, OnceLock};

use k8s_openapi::api::{
    apps::v1 as apps, authentication::v1 as authn, authorization::v1 as authz,
    autoscaling::v1 as autoscaling, batch::v1 as batch, coordination::v1 as coordination, core::v1 as core,
    discovery::v1 as discovery, events::v1 as events, networking::v1 as networking, policy::v1 as policy,
    rbac::v1 as rbac,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

use super::{BUILTIN_VERBS, Origin, Resource, SCALE, ScalePaths, Subresource};
use crate::schema::Schema;
use crate::schema::builtin::{Collector, Definitions, Library};

/// A built-in kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum Kind {
    ConfigMap,
    Endpoints,
    Event,
    Namespace,
    Node,
    PersistentVolumeClaim,
    PersistentVolume,
    Pod,
    ReplicationController,
    ResourceQuota,
    Secret,
    ServiceAccount,
    Service,
    ControllerRevision,
    DaemonSet,
    Deployment,
    ReplicaSet,
    StatefulSet,
    NewEvent,
    TokenReview,
    SelfSubjectReview,
    LocalSubjectAccessReview,
    SelfSubjectAccessReview,
    SelfSubjectRulesReview,
    SubjectAccessReview,
    CronJob,
    Job,
    Ingress,
    PodDisruptionBudget,
    ClusterRole,
    ClusterRoleBinding,
    Role,
    RoleBinding,
    Crd,
    Lease,
    EndpointSlice,
}

struct Spec {
    kind: Kind,
    group: &'static str,
    plural: &'static str,
    singular: &'static str,
    name: &'static str,
    namespaced: bool,
    short: &'static [&'static str],
    categories: &'static [&'static str],
    verbs: &'static [&'static str],
    subresources: &'static [Subresource],
    definition: &'static str,
}

const STATUS: Subresource = Subresource {
    name: "status",
    kind: None,
    verbs: &["get", "patch", "update"],
};
const FINALIZE: Subresource = Subresource {
    name: "finalize",
    kind: None,
    verbs: &["update"],
};
const TOKEN: Subresource = Subresource {
    name: "token",
    kind: Some(("authentication.k8s.io", "v1", "TokenRequest")),
    verbs: &["create"],
};
const NAMESPACE_VERBS: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
const CREATE: &[&str] = &["create"];

macro_rules! spec {
    ($kind:ident, $group:literal, $plural:literal, $singular:literal, $name:literal, $namespaced:literal,
     $short:expr, $categories:expr, $verbs:expr, $subs:expr, $definition:literal) => {
        Spec {
            kind: Kind::$kind,
            group: $group,
            plural: $plural,
            singular: $singular,
            name: $name,
            namespaced: $namespaced,
            short: &$short,
            categories: &$categories,
            verbs: $verbs,
            subresources: &$subs,
            definition: $definition,
        }
    };
}

/// In the order that discovery shows.
const SPECS: &[Spec] = &[
    spec!(
        ConfigMap,
        "",
        "configmaps",
        "configmap",
        "ConfigMap",
        true,
        ["cm"],
        [],
        BUILTIN_VERBS,
        [],
        "io.k8s.api.core.v1.ConfigMap"
    ),
    spec!(
        Endpoints,
        "",
        "endpoints",
        "endpoints",
        "Endpoints",
        true,
        ["ep"],
        [],
        BUILTIN_VERBS,
        [],
        "io.k8s.api.core.v1.Endpoints"
    ),
    spec!(
        Event,
        "",
        "events",
        "event",
        "Event",
        true,
        ["ev"],
        [],
        BUILTIN_VERBS,
        [],
        "io.k8s.api.core.v1.Event"
    ),
    spec!(
        Namespace,
        "",
        "namespaces",
        "namespace",
        "Namespace",
        false,
        ["ns"],
        [],
        NAMESPACE_VERBS,
        [FINALIZE, STATUS],
        "io.k8s.api.core.v1.Namespace"
    ),
    spec!(
        Node,
        "",
        "nodes",
        "node",
        "Node",
        false,
        ["no"],
        [],
        BUILTIN_VERBS,
        [STATUS],
        "io.k8s.api.core.v1.Node"
    ),
    spec!(
        PersistentVolumeClaim,
        "",
        "persistentvolumeclaims",
        "persistentvolumeclaim",
        "PersistentVolumeClaim",
        true,
        ["pvc"],
        [],
        BUILTIN_VERBS,
        [STATUS],
        "io.k8s.api.core.v1.PersistentVolumeClaim"
    ),
    spec!(
        PersistentVolume,
        "",
        "persistentvolumes",
        "persistentvolume",
        "PersistentVolume",
        false,
        ["pv"],
        [],
        BUILTIN_VERBS,
        [STATUS],
        "io.k8s.api.core.v1.PersistentVolume"
    ),
    spec!(
        Pod,
        "",
        "pods",
        "pod",
        "Pod",
        true,
        ["po"],
        ["all"],
        BUILTIN_VERBS,
        [STATUS],
        "io.k8s.api.core.v1.Pod"
    ),
    spec!(
        ReplicationController,
        "",
        "replicationcontrollers",
        "replicationcontroller",
        "ReplicationController",
        true,
        ["rc"],
        ["all"],
        BUILTIN_VERBS,
        [SCALE, STATUS],
        "io.k8s.api.core.v1.ReplicationController"
    ),
    spec!(
        ResourceQuota,
        "",
        "resourcequotas",
        "resourcequota",
        "ResourceQuota",
        true,
        ["quota"],
        [],
        BUILTIN_VERBS,
        [STATUS],
        "io.k8s.api.core.v1.ResourceQuota"
    ),
    spec!(
        Secret,
        "",
        "secrets",
        "secret",
        "Secret",
        true,
        [],
        [],
        BUILTIN_VERBS,
        [],
        "io.k8s.api.core.v1.Secret"
    ),
    spec!(
        ServiceAccount,
        "",
        "serviceaccounts",
        "serviceaccount",
        "ServiceAccount",
        true,
        ["sa"],
        [],
        BUILTIN_VERBS,
        [TOKEN],
        "io.k8s.api.core.v1.ServiceAccount"
    ),
    spec!(
        Service,
        "",
        "services",
        "service",
        "Service",
        true,
        ["svc"],
        ["all"],
        BUILTIN_VERBS,
        [STATUS],
        "io.k8s.api.core.v1.Service"
    ),
    spec!(
        ControllerRevision,
        "apps",
        "controllerrevisions",
        "controllerrevision",
        "ControllerRevision",
        true,
        [],
        [],
        BUILTIN_VERBS,
        [],
        "io.k8s.api.apps.v1.ControllerRevision"
    ),
    spec!(
        DaemonSet,
        "apps",
        "daemonsets",
        "daemonset",
        "DaemonSet",
        true,
        ["ds"],
        ["all"],
        BUILTIN_VERBS,
        [STATUS],
        "io.k8s.api.apps.v1.DaemonSet"
    ),
    spec!(
        Deployment,
        "apps",
        "deployments",
        "deployment",
        "Deployment",
        true,
        ["deploy"],
        ["all"],
        BUILTIN_VERBS,
        [SCALE, STATUS],
        "io.k8s.api.apps.v1.Deployment"
    ),
    spec!(
        ReplicaSet,
        "apps",
        "replicasets",
        "replicaset",
        "ReplicaSet",
        true,
        ["rs"],
        ["all"],
        BUILTIN_VERBS,
        [SCALE, STATUS],
        "io.k8s.api.apps.v1.ReplicaSet"
    ),
    spec!(
        StatefulSet,
        "apps",
        "statefulsets",
        "statefulset",
        "StatefulSet",
        true,
        ["sts"],
        ["all"],
        BUILTIN_VERBS,
        [SCALE, STATUS],
        "io.k8s.api.apps.v1.StatefulSet"
    ),
    spec!(
        NewEvent,
        "events.k8s.io",
        "events",
        "event",
        "Event",
        true,
        ["ev"],
        [],
        BUILTIN_VERBS,
        [],
        "io.k8s.api.events.v1.Event"
    ),
    spec!(
        SelfSubjectReview,
        "authentication.k8s.io",
        "selfsubjectreviews",
        "selfsubjectreview",
        "SelfSubjectReview",
        false,
        [],
        [],
        CREATE,
        [],
        "io.k8s.api.authentication.v1.SelfSubjectReview"
    ),
    spec!(
        TokenReview,
        "authentication.k8s.io",
        "tokenreviews",
        "tokenreview",
        "TokenReview",
        false,
        [],
        [],
        CREATE,
        [],
        "io.k8s.api.authentication.v1.TokenReview"
    ),
    spec!(
        LocalSubjectAccessReview,
        "authorization.k8s.io",
        "localsubjectaccessreviews",
        "localsubjectaccessreview",
        "LocalSubjectAccessReview",
        true,
        [],
        [],
        CREATE,
        [],
        "io.k8s.api.authorization.v1.LocalSubjectAccessReview"
    ),
    spec!(
        SelfSubjectAccessReview,
        "authorization.k8s.io",
        "selfsubjectaccessreviews",
        "selfsubjectaccessreview",
        "SelfSubjectAccessReview",
        false,
        [],
        [],
        CREATE,
        [],
        "io.k8s.api.authorization.v1.SelfSubjectAccessReview"
    ),
    spec!(
        SelfSubjectRulesReview,
        "authorization.k8s.io",
        "selfsubjectrulesreviews",
        "selfsubjectrulesreview",
        "SelfSubjectRulesReview",
        false,
        [],
        [],
        CREATE,
        [],
        "io.k8s.api.authorization.v1.SelfSubjectRulesReview"
    ),
    spec!(
        SubjectAccessReview,
        "authorization.k8s.io",
        "subjectaccessreviews",
        "subjectaccessreview",
        "SubjectAccessReview",
        false,
        [],
        [],
        CREATE,
        [],
        "io.k8s.api.authorization.v1.SubjectAccessReview"
    ),
    spec!(
        CronJob,
        "batch",
        "cronjobs",
        "cronjob",
        "CronJob",
        true,
        ["cj"],
        ["all"],
        BUILTIN_VERBS,
        [STATUS],
        "io.k8s.api.batch.v1.CronJob"
    ),
    spec!(
        Job,
        "batch",
        "jobs",
        "job",
        "Job",
        true,
        [],
        ["all"],
        BUILTIN_VERBS,
        [STATUS],
        "io.k8s.api.batch.v1.Job"
    ),
    spec!(
        Ingress,
        "networking.k8s.io",
        "ingresses",
        "ingress",
        "Ingress",
        true,
        ["ing"],
        [],
        BUILTIN_VERBS,
        [STATUS],
        "io.k8s.api.networking.v1.Ingress"
    ),
    spec!(
        PodDisruptionBudget,
        "policy",
        "poddisruptionbudgets",
        "poddisruptionbudget",
        "PodDisruptionBudget",
        true,
        ["pdb"],
        [],
        BUILTIN_VERBS,
        [STATUS],
        "io.k8s.api.policy.v1.PodDisruptionBudget"
    ),
    spec!(
        ClusterRoleBinding,
        "rbac.authorization.k8s.io",
        "clusterrolebindings",
        "clusterrolebinding",
        "ClusterRoleBinding",
        false,
        [],
        [],
        BUILTIN_VERBS,
        [],
        "io.k8s.api.rbac.v1.ClusterRoleBinding"
    ),
    spec!(
        ClusterRole,
        "rbac.authorization.k8s.io",
        "clusterroles",
        "clusterrole",
        "ClusterRole",
        false,
        [],
        [],
        BUILTIN_VERBS,
        [],
        "io.k8s.api.rbac.v1.ClusterRole"
    ),
    spec!(
        RoleBinding,
        "rbac.authorization.k8s.io",
        "rolebindings",
        "rolebinding",
        "RoleBinding",
        true,
        [],
        [],
        BUILTIN_VERBS,
        [],
        "io.k8s.api.rbac.v1.RoleBinding"
    ),
    spec!(
        Role,
        "rbac.authorization.k8s.io",
        "roles",
        "role",
        "Role",
        true,
        [],
        [],
        BUILTIN_VERBS,
        [],
        "io.k8s.api.rbac.v1.Role"
    ),
    spec!(
        Crd,
        "apiextensions.k8s.io",
        "customresourcedefinitions",
        "customresourcedefinition",
        "CustomResourceDefinition",
        false,
        ["crd", "crds"],
        ["api-extensions"],
        BUILTIN_VERBS,
        [STATUS],
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition"
    ),
    spec!(
        Lease,
        "coordination.k8s.io",
        "leases",
        "lease",
        "Lease",
        true,
        [],
        [],
        BUILTIN_VERBS,
        [],
        "io.k8s.api.coordination.v1.Lease"
    ),
    spec!(
        EndpointSlice,
        "discovery.k8s.io",
        "endpointslices",
        "endpointslice",
        "EndpointSlice",
        true,
        [],
        [],
        BUILTIN_VERBS,
        [],
        "io.k8s.api.discovery.v1.EndpointSlice"
    ),
];

/// The built-in resources, made once.
pub(crate) fn resources() -> &'static [Arc<Resource>] {
    static ALL: OnceLock<Vec<Arc<Resource>>> = OnceLock::new();
    ALL.get_or_init(|| SPECS.iter().map(|s| Arc::new(make(s))).collect())
}

fn make(s: &Spec) -> Resource {
    let owned = |list: &[&str]| list.iter().map(|v| (*v).to_owned()).collect();
    let schema: Arc<Schema> = Library::get().schema(s.definition);
    // Both groups of events share what is stored: the old form.
    let (storage, storage_version) = match s.kind {
        Kind::NewEvent => ("events".to_owned(), "v1".to_owned()),
        _ if s.group.is_empty() => (s.plural.to_owned(), "v1".to_owned()),
        _ => (format!("{}.{}", s.plural, s.group), format!("{}/v1", s.group)),
    };
    Resource {
        group: s.group.into(),
        version: "v1".into(),
        plural: s.plural.into(),
        singular: s.singular.into(),
        kind: s.name.into(),
        list_kind: format!("{}List", s.name),
        namespaced: s.namespaced,
        short_names: owned(s.short),
        categories: owned(s.categories),
        verbs: s.verbs,
        storage: Arc::from(storage),
        storage_version,
        schema,
        subresources: s.subresources.to_vec(),
        scale: s.subresources.contains(&SCALE).then(|| ScalePaths {
            spec: "/spec/replicas".into(),
            status: "/status/replicas".into(),
            selector: Some("/spec/selector".into()),
        }),
        origin: Origin::Builtin(s.kind),
    }
}

/// Name of the OpenAPI definition of a built-in kind.
pub(crate) fn definition(kind: Kind) -> &'static str {
    SPECS
        .iter()
        .find(|s| s.kind == kind)
        .map(|s| s.definition)
        .unwrap_or_default()
}

/// The OpenAPI definitions of the built-in kinds.
pub(crate) fn definitions() -> Definitions {
    let mut c = Collector::default();
    c.add::<core::ConfigMap>();
    c.add::<core::Endpoints>();
    c.add::<core::Event>();
    c.add::<core::Namespace>();
    c.add::<core::Node>();
    c.add::<core::PersistentVolumeClaim>();
    c.add::<core::PersistentVolume>();
    c.add::<core::Pod>();
    c.add::<core::ReplicationController>();
    c.add::<core::ResourceQuota>();
    c.add::<core::Secret>();
    c.add::<core::ServiceAccount>();
    c.add::<core::Service>();
    c.add::<apps::ControllerRevision>();
    c.add::<apps::DaemonSet>();
    c.add::<apps::Deployment>();
    c.add::<apps::ReplicaSet>();
    c.add::<apps::StatefulSet>();
    c.add::<events::Event>();
    c.add::<authn::SelfSubjectReview>();
    c.add::<authn::TokenReview>();
    c.add::<authn::TokenRequest>();
    c.add::<authz::LocalSubjectAccessReview>();
    c.add::<authz::SelfSubjectAccessReview>();
    c.add::<authz::SelfSubjectRulesReview>();
    c.add::<authz::SubjectAccessReview>();
    c.add::<autoscaling::Scale>();
    c.add::<batch::CronJob>();
    c.add::<batch::Job>();
    c.add::<networking::Ingress>();
    c.add::<policy::PodDisruptionBudget>();
    c.add::<rbac::ClusterRoleBinding>();
    c.add::<rbac::ClusterRole>();
    c.add::<rbac::RoleBinding>();
    c.add::<rbac::Role>();
    c.add::<apiextensions::CustomResourceDefinition>();
    c.add::<coordination::Lease>();
    c.add::<discovery::EndpointSlice>();
    c.add::<meta::DeleteOptions>();
    c.add::<meta::Status>();
    c.add::<meta::ListMeta>();
    c.add::<meta::ObjectMeta>();
    c.finish()
}
