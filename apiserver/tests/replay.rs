//! Replays what a real kube-apiserver answered (tests/fixtures) and compares.
//!
//! Values that differ in every run (UIDs, versions, times, tokens, addresses) stand for each other, one for
//! one, and versions in their order; everything else has to be equal: status, Content-Type, warnings, and the
//! whole body, key by key and event by event. Only `managedFields` may come in another order, which depends on
//! the second that a write falls in. `tests/fixtures/uncovered.txt` lists the exchanges that are left out, and
//! why; `narrowed.txt` what the recorded cluster listed and this server has not.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;

use serde_json::{Value, json};
use strait_apiserver::{Config, Server, User};
use support::normalise::{Names, compare};
use support::replay::{Answer, Exchange, Files};

const ORDER: [&str; 14] = [
    "discovery",
    "crd",
    "create",
    "update",
    "patch",
    "apply",
    "list",
    "watch",
    "delete",
    "owners",
    "namespaces",
    "builtins",
    "access",
    "gone",
];

#[tokio::test(flavor = "multi_thread")]
async fn recorded_exchanges_replay() {
    let mut config = Config::in_memory();
    config.admin_token = Some("admintoken".into());
    config.tokens.push(("devtoken".into(), User::new("dev", &[])));
    config.service_cidrs.push("10.96.0.0/16".parse().unwrap());
    // The recording saw the state before the controllers came round; they are run between scenarios.
    config.controllers = false;
    let server = Server::start(config).await.unwrap();
    let files = Files::load(&ORDER);
    let uncovered = support::replay::uncovered();
    let mut names = Names::default();
    let mut covered = 0;
    let mut total = 0;
    let mut failures: Vec<String> = Vec::new();
    let mut unlisted: BTreeMap<String, String> = BTreeMap::new();
    let mut narrowed = BTreeSet::new();
    for exchange in files.exchanges {
        let id = exchange.id();
        if support::replay::COLLECT_BEFORE.contains(&id.as_str()) {
            server.collect().await.unwrap();
        }
        let answer = support::replay::perform(&server, &exchange, &mut names).await;
        let Exchange {
            response: Some(expected),
            ..
        } = &exchange
        else {
            continue;
        };
        total += 1;
        let problems = judge(&id, expected, &answer, &mut names, &mut narrowed);
        match (problems.is_empty(), uncovered.get(&id)) {
            (_, Some(_)) if problems.is_empty() => {
                unlisted.insert(id, "is listed as not covered, and replays".into());
            }
            (true, _) => covered += 1,
            (false, Some(_)) => {}
            (false, None) => failures.push(format!("{id}:\n    {}", problems.join("\n    "))),
        }
    }
    // Past the harness, which keeps what passing tests print.
    writeln!(std::io::stdout(), "exchanges covered: {covered} of {total}").unwrap();
    assert!(
        failures.is_empty(),
        "{} exchanges deviate:\n{}",
        failures.len(),
        failures.join("\n")
    );
    assert!(
        unlisted.is_empty(),
        "tests/fixtures/uncovered.txt lists exchanges that replay: {unlisted:?}"
    );
    let listed = support::replay::narrowed();
    let missing: Vec<_> = narrowed.difference(&listed).collect();
    assert!(
        missing.is_empty(),
        "not here, and not in narrowed.txt: {missing:#?}"
    );
    let served: Vec<_> = listed.difference(&narrowed).collect();
    assert!(served.is_empty(), "here, though in narrowed.txt: {served:#?}");
    assert_eq!(total, 179, "the recording has 179 exchanges");
    server.shutdown().await;
}

fn judge(
    id: &str,
    expected: &Value,
    answer: &Answer,
    names: &mut Names,
    narrowed: &mut BTreeSet<String>,
) -> Vec<String> {
    let mut problems = Vec::new();
    if expected["status"] != json!(answer.status) {
        problems.push(format!(
            "status: recorded {}, here {} {}",
            expected["status"], answer.status, answer.body
        ));
        return problems;
    }
    if expected["type"] != json!(answer.media_type) {
        problems.push(format!(
            "type: recorded {}, here {:?}",
            expected["type"], answer.media_type
        ));
    }
    let warning = expected
        .get("warning")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if warning != answer.warning {
        problems.push(format!(
            "warning: recorded {warning:?}, here {:?}",
            answer.warning
        ));
    }
    compare(
        id,
        &expected["body"],
        &answer.body,
        names,
        &mut problems,
        narrowed,
    );
    problems
}
