//! Who may do what.

use std::collections::BTreeSet;

use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::Value;

use super::{everything, name};

fn rules(object: &Value) -> Vec<PolicyRule> {
    serde_json::from_value(object["rules"].clone()).unwrap()
}

#[test]
fn roles_name_what_they_allow_and_are_bound() {
    let all = everything();
    let exists = |wanted: &str| all.iter().any(|(_, o)| name(o) == wanted);
    let ours: BTreeSet<(String, String)> = strait_api::crds()
        .into_iter()
        .map(|crd| (crd.spec.group, crd.spec.names.plural))
        .collect();
    let mut bound = BTreeSet::new();
    for (_, object) in &all {
        let kind = object["kind"].as_str().unwrap();
        if kind.ends_with("RoleBinding") {
            let (role, subject) = (&object["roleRef"], &object["subjects"][0]);
            let namespace = match role["kind"].as_str().unwrap() {
                "Role" => object["metadata"]["namespace"].as_str().unwrap(),
                _ => "",
            };
            let role = format!(
                "{} {namespace}/{}",
                role["kind"].as_str().unwrap(),
                role["name"].as_str().unwrap()
            );
            assert!(exists(&role), "{} binds {role}, which is not there", name(object));
            bound.insert(role);
            let account = format!(
                "ServiceAccount {}/{}",
                subject["namespace"].as_str().unwrap(),
                subject["name"].as_str().unwrap()
            );
            assert!(
                exists(&account),
                "{} binds to {account}, which is not there",
                name(object)
            );
        }
        if !matches!(kind, "Role" | "ClusterRole") {
            continue;
        }
        for rule in rules(object) {
            let at = format!("{}: {rule:?}", name(object));
            let resources = rule.resources.clone().unwrap_or_default();
            let words = rule
                .verbs
                .iter()
                .chain(&resources)
                .chain(rule.api_groups.iter().flatten());
            assert!(words.clone().all(|w| w != "*"), "{at}");
            assert!(
                rule.verbs.iter().all(|v| v != "escalate" && v != "impersonate"),
                "{at}"
            );
            let by_name = resources
                .iter()
                .any(|r| r == "secrets" || r == "serviceaccounts/token")
                || rule.verbs.iter().any(|v| v == "bind");
            assert!(
                !by_name || rule.resource_names.is_some(),
                "{at}: secrets, tokens and other roles by name only"
            );
            let [group] = rule.api_groups.as_deref().unwrap() else {
                panic!("{at}: one group a rule")
            };
            if ours.iter().any(|(g, _)| g == group) {
                for resource in &resources {
                    let plural = resource.split('/').next().unwrap().to_owned();
                    assert!(ours.contains(&(group.clone(), plural)), "{at}: no such kind");
                }
            }
        }
    }
    for (_, object) in all
        .iter()
        .filter(|(_, o)| matches!(o["kind"].as_str(), Some("Role" | "ClusterRole")))
    {
        // The controllers bind these, to every member.
        let given = name(object).starts_with("ClusterRole /strait-member");
        assert!(
            given || bound.contains(&name(object)),
            "{} is bound to nobody",
            name(object)
        );
    }
}
