//! Every object by itself.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Namespace, ResourceQuota, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{BASES, deploy, everything, name, objects};

/// Reads an object as its type and writes it again: a field that the type does not know would be lost.
fn survives<T: DeserializeOwned + Serialize>(object: &Value) {
    let typed: T = serde_json::from_value(object.clone()).unwrap_or_else(|e| panic!("{}: {e}", name(object)));
    let again = serde_json::to_value(&typed).unwrap();
    assert_eq!(&again, object, "{} is not what its type says", name(object));
}

#[test]
fn every_object_is_what_its_type_says() {
    for (_, object) in everything() {
        match (
            object["apiVersion"].as_str().unwrap(),
            object["kind"].as_str().unwrap(),
        ) {
            ("v1", "Namespace") => survives::<Namespace>(&object),
            ("v1", "ResourceQuota") => survives::<ResourceQuota>(&object),
            ("v1", "Service") => survives::<Service>(&object),
            ("v1", "ServiceAccount") => survives::<ServiceAccount>(&object),
            ("apps/v1", "DaemonSet") => survives::<DaemonSet>(&object),
            ("apps/v1", "Deployment") => survives::<Deployment>(&object),
            ("policy/v1", "PodDisruptionBudget") => survives::<PodDisruptionBudget>(&object),
            ("rbac.authorization.k8s.io/v1", "ClusterRole") => survives::<ClusterRole>(&object),
            ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => survives::<ClusterRoleBinding>(&object),
            ("rbac.authorization.k8s.io/v1", "Role") => survives::<Role>(&object),
            ("rbac.authorization.k8s.io/v1", "RoleBinding") => survives::<RoleBinding>(&object),
            ("apiextensions.k8s.io/v1", "CustomResourceDefinition") => {
                // Bounds are floating point in the type and whole numbers in the file.
                let typed: CustomResourceDefinition = serde_json::from_value(object.clone()).unwrap();
                assert!(strait_api::crds().contains(&typed), "{}", name(&object));
            }
            (version, kind) => panic!("{version} {kind}: add its type to this test"),
        }
    }
}

#[test]
fn objects_have_one_name_each_and_their_namespace() {
    for base in BASES {
        let all = objects(&deploy().join(base));
        let namespaces: Vec<&str> = all
            .iter()
            .filter(|o| o["kind"] == "Namespace")
            .map(|o| o["metadata"]["name"].as_str().unwrap())
            .collect();
        let [namespace] = namespaces.as_slice() else {
            panic!("{base}: {namespaces:?}")
        };
        let mut seen = BTreeSet::new();
        for object in &all {
            assert!(
                seen.insert(name(object)),
                "{} stands twice in {base}",
                name(object)
            );
            let cluster_scoped = matches!(
                object["kind"].as_str().unwrap(),
                "Namespace" | "CustomResourceDefinition" | "ClusterRole" | "ClusterRoleBinding"
            );
            let expected = if cluster_scoped {
                Value::Null
            } else {
                Value::from(*namespace)
            };
            assert_eq!(object["metadata"]["namespace"], expected, "{}", name(object));
        }
    }
    let kube = |ns: &str| {
        everything()
            .iter()
            .any(|(_, o)| name(o) == format!("Namespace /{ns}"))
    };
    assert!(kube(strait_api::names::NAMESPACE) && kube(strait_api::names::BROKER_NAMESPACE));
}
