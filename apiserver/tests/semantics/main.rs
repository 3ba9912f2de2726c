//! What the recording does not show of a real kube-apiserver: the same tests run on this server, and on a real one
//! where `KUBEBUILDER_ASSETS` names it. They use namespaces and definitions of their own.

#![allow(clippy::unwrap_used)]

mod apply;
mod bad_input;
mod bodies;
mod builtins;
mod changed;
mod configs;
mod definitions;
mod deletes;
mod lists;
mod patches;
mod planes;
mod reserved;
mod rights;
mod roles;
mod stand_in;
#[path = "../support/under.rs"]
mod under;
mod watches;
mod writes;

use strait_envtest::{On, again};

/// A definition's schema that takes anything.
fn open() -> serde_json::Value {
    serde_json::json!({"schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}})
}

/// Tests about the ways to control planes themselves, and of names that a real server keeps apart by where it
/// stores what they name.
const NOT_AGAIN: [&str; 6] = [
    "all_of_these_on_a_real_kube_apiserver",
    "planes::a_control_plane_starts_and_ends_with_its_processes",
    "planes::a_program_that_does_not_start_is_named_with_its_last_words",
    "planes::all_of_these_by_way_of_a_control_plane",
    "reserved::no_definition_is_a_way_round_the_checks_of_bindings",
    "reserved::what_is_built_in_is_no_definitions",
];

#[tokio::test(flavor = "multi_thread")]
async fn all_of_these_on_a_real_kube_apiserver() {
    again(On::One, &NOT_AGAIN).await.unwrap();
}
