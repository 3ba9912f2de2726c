//! The whole state for worker and gateway, per family. Reviewed by people: read a change of these files
//! as a change of the packets' way.

use super::*;

fn check(name: &str, inputs: &NodeInputs) {
    let desired = desired(inputs).unwrap();
    assert_eq!(desired.skipped, BTreeSet::new(), "everything here counts");
    insta::assert_snapshot!(name, render::state(&desired.state));
}

#[test]
fn a_worker_behind_one_gateway() {
    check("worker-v4", &blue(Stack::V4, 3, 1));
    check("worker-v6", &blue(Stack::V6, 3, 1));
}

#[test]
fn a_worker_behind_two_gateways_balances() {
    check("worker-dual-two-gateways", &blue(Stack::Dual, 3, 2));
}

#[test]
fn a_gateway() {
    check("gateway-v4", &blue(Stack::V4, 1, 1));
    check("gateway-v6", &blue(Stack::V6, 1, 1));
}

#[test]
fn a_gateway_with_a_sibling() {
    check("gateway-dual-two-gateways", &blue(Stack::Dual, 1, 2));
}

#[test]
fn a_gateway_without_its_tunnel_uses_its_sibling() {
    let mut inputs = blue(Stack::V4, 1, 2);
    inputs.observed.tunnel_exists = false;
    inputs.observed.foreign_drops = BTreeSet::from([ForeignAccept {
        family: "ip".to_owned(),
        table: "filter".to_owned(),
        chain: "FORWARD".to_owned(),
    }]);
    check("gateway-v4-without-tunnel", &inputs);
}
