//! Reading the recording, and asking the same of our server.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use axum::body::Body;
use http_body_util::BodyExt;
use serde_json::{Map, Value, json};
use strait_apiserver::Server;
use tower::ServiceExt;

use super::normalise::Names;

/// One exchange of the recording.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// File.
    pub(crate) scenario: String,
    /// Step.
    pub(crate) step: String,
    /// What was asked.
    pub(crate) request: Value,
    /// What a second client asked meanwhile.
    pub(crate) meanwhile: Vec<Value>,
    /// What was answered.
    pub(crate) response: Option<Value>,
    /// How many exchanges of the same name came before.
    pub(crate) nth: usize,
}

impl Exchange {
    /// `scenario/step`, with a number where a step stands several times.
    pub(crate) fn id(&self) -> String {
        let plain = format!("{}/{}", self.scenario, self.step);
        if self.nth == 0 {
            plain
        } else {
            format!("{plain}#{}", self.nth + 1)
        }
    }
}

/// The recording.
#[derive(Debug)]
pub(crate) struct Files {
    /// In order.
    pub(crate) exchanges: Vec<Exchange>,
}

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

impl Files {
    /// Reads the files in this order.
    pub(crate) fn load(order: &[&str]) -> Self {
        let mut exchanges: Vec<Exchange> = Vec::new();
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for scenario in order {
            let text = std::fs::read_to_string(fixtures().join(format!("{scenario}.jsonl"))).unwrap();
            let mut meanwhile = Vec::new();
            for line in text.lines() {
                let mut e: Value = serde_json::from_str(line).unwrap();
                if let Some(requests) = e.get("requests").and_then(Value::as_array) {
                    meanwhile.extend(requests.clone());
                    continue;
                }
                if e.get("response").is_none() {
                    meanwhile.push(e["request"].clone());
                    continue;
                }
                let step = e["step"].as_str().unwrap().to_owned();
                let count = counts.entry(format!("{scenario}/{step}")).or_default();
                exchanges.push(Exchange {
                    scenario: (*scenario).to_owned(),
                    step,
                    request: e["request"].take(),
                    meanwhile: std::mem::take(&mut meanwhile),
                    response: Some(e["response"].take()),
                    nth: *count,
                });
                *count += 1;
            }
        }
        Files { exchanges }
    }
}

/// Exchanges that are left out, and why.
pub(crate) fn uncovered() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(fixtures().join("uncovered.txt")).unwrap();
    text.lines()
        .filter(|l| !l.trim().is_empty() && !l.starts_with('#'))
        .map(|l| {
            let (id, why) = l
                .split_once(": ")
                .unwrap_or_else(|| panic!("uncovered.txt: no reason in {l:?}"));
            (id.trim().to_owned(), why.trim().to_owned())
        })
        .collect()
}

/// What of the recording is not here, as `narrowed.txt` lists it.
pub(crate) fn narrowed() -> BTreeSet<String> {
    let text = std::fs::read_to_string(fixtures().join("narrowed.txt")).unwrap();
    text.lines()
        .filter(|l| !l.trim().is_empty() && !l.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

/// Before these, the controllers have come round in the recording.
pub(crate) const COLLECT_BEFORE: [&str; 1] = ["namespaces/gone"];

/// What our server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    /// HTTP status.
    pub(crate) status: u16,
    /// Content-Type.
    pub(crate) media_type: String,
    /// Warning header.
    pub(crate) warning: String,
    /// Body.
    pub(crate) body: Value,
}

fn request(source: &Value, names: &Names) -> http::Request<Body> {
    let path = names.in_path(source["path"].as_str().unwrap());
    // The recording let watches last longer than it takes here.
    let path = path
        .replace("timeoutSeconds=3", "timeoutSeconds=1")
        .replace("timeoutSeconds=2", "timeoutSeconds=1");
    let mut builder = http::Request::builder()
        .method(source["method"].as_str().unwrap())
        .uri(path);
    let empty = Map::new();
    let headers = source["headers"].as_object().unwrap_or(&empty);
    for (name, value) in headers {
        let value = names.in_text(value.as_str().unwrap());
        if !value.is_empty() {
            builder = builder.header(name, value);
        }
    }
    if !headers.contains_key("Authorization") {
        builder = builder.header("Authorization", "Bearer admintoken");
    }
    let body = match &source["body"] {
        Value::Null => Body::empty(),
        Value::String(text) => Body::from(text.clone()),
        value => Body::from(names.in_value(value).to_string()),
    };
    builder.body(body).unwrap()
}

/// Asks our server.
pub(crate) async fn perform(server: &Server, exchange: &Exchange, names: &mut Names) -> Answer {
    let response = server
        .service()
        .oneshot(request(&exchange.request, names))
        .await
        .unwrap();
    for r in &exchange.meanwhile {
        let done = server.service().oneshot(request(r, names)).await.unwrap();
        assert!(
            done.status().is_success(),
            "{}: {} of the second client was answered {}",
            exchange.id(),
            r["method"],
            done.status()
        );
    }
    let (parts, body) = response.into_parts();
    let header = |name: &str| {
        parts
            .headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
            .to_owned()
    };
    let bytes = body.collect().await.unwrap().to_bytes();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let streamed = exchange
        .response
        .as_ref()
        .is_some_and(|r| r["body"].get("stream").is_some());
    let body = if streamed {
        let events: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        json!({"stream": events})
    } else {
        serde_json::from_str(&text).unwrap_or(Value::String(text))
    };
    Answer {
        status: parts.status.as_u16(),
        media_type: header("content-type"),
        warning: header("warning"),
        body,
    }
}

/// Of the recorded list at `pointer`, keeps what we have too, in the recorded order; the rest is reported.
fn narrow(
    recorded: &mut Value,
    here: &Value,
    pointer: &str,
    key: impl Fn(&Value) -> String,
    report: &mut dyn FnMut(String),
) {
    let ours: Vec<String> = here
        .pointer(pointer)
        .and_then(Value::as_array)
        .map(|l| l.iter().map(&key).collect())
        .unwrap_or_default();
    if let Some(list) = recorded.pointer_mut(pointer).and_then(Value::as_array_mut) {
        list.retain(|v| {
            let name = key(v);
            let kept = ours.contains(&name);
            if !kept {
                report(name);
            }
            kept
        });
    }
}

/// Takes items out of all lists, however deep.
fn strip(value: &mut Value, doomed: &mut dyn FnMut(&Value) -> bool) {
    match value {
        Value::Array(list) => {
            list.retain(|v| !doomed(v));
            list.iter_mut().for_each(|v| strip(v, doomed));
        }
        Value::Object(map) => map.values_mut().for_each(|v| strip(v, doomed)),
        _ => {}
    }
}

fn text(value: &Value, pointer: &str) -> String {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

/// Some answers list what a whole cluster serves or holds; of these, what we have is compared, and what we
/// have not is reported: the test compares that with `narrowed.txt`.
pub(crate) fn adapt(
    id: &str,
    recorded: &Value,
    here: &Value,
    report: &mut dyn FnMut(String),
) -> (Value, Value) {
    let (mut recorded, mut here) = (recorded.clone(), here.clone());
    match id {
        "discovery/version" => {
            // Every server tells its own version, in the same form.
            for v in [&mut recorded, &mut here] {
                for (name, field) in v.as_object_mut().into_iter().flatten() {
                    let text = field.as_str().unwrap_or("not a text").to_owned();
                    let form = match name.as_str() {
                        "gitVersion" => text.starts_with('v'),
                        n if n.ends_with("ajor") || n.ends_with("inor") => text.parse::<u32>().is_ok(),
                        "buildDate" => text.ends_with('Z'),
                        "platform" => text.starts_with("linux/"),
                        _ => field.is_string(),
                    };
                    *field = form.into();
                }
            }
        }
        "discovery/apis" => narrow(&mut recorded, &here, "/groups", |g| text(g, "/name"), report),
        "discovery/core" => narrow(&mut recorded, &here, "/resources", |r| text(r, "/name"), report),
        "discovery/agg-api" | "discovery/agg-apis" => {
            narrow(
                &mut recorded,
                &here,
                "/items",
                |g| text(g, "/metadata/name"),
                report,
            );
            for (g, group) in list(&recorded, "/items").iter().enumerate() {
                for v in 0..list(group, "/versions").len() {
                    let at = format!("/items/{g}/versions/{v}/resources");
                    narrow(&mut recorded, &here, &at, |r| text(r, "/resource"), report);
                    for (r, resource) in list(&recorded, &at).iter().enumerate() {
                        let at = format!("{at}/{r}/subresources");
                        let name = |s: &Value| {
                            format!("{}/{}", text(resource, "/resource"), text(s, "/subresource"))
                        };
                        narrow(&mut recorded, &here, &at, name, report);
                        if list(&recorded, &at).is_empty() {
                            let own = recorded.pointer_mut(&format!("/items/{g}/versions/{v}/resources/{r}"));
                            own.and_then(Value::as_object_mut)
                                .map(|m| m.shift_remove("subresources"));
                        }
                    }
                }
            }
        }
        "discovery/openapi-v3-index" => {
            // Documents of the same names; hashes differ with their content.
            let ours: Vec<String> = here["paths"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(k, _)| k.clone())
                .collect();
            if let Some(map) = recorded["paths"].as_object_mut() {
                map.retain(|k, _| {
                    let kept = ours.contains(k);
                    if !kept {
                        report(k.clone());
                    }
                    kept
                });
            }
            for v in [&mut recorded, &mut here] {
                for (_, p) in v["paths"].as_object_mut().into_iter().flatten() {
                    let url = text(p, "/serverRelativeURL");
                    let (path, hash) = url.split_once("?hash=").unwrap_or((&url, ""));
                    *p = json!([path, hash.len()]);
                }
            }
        }
        // Rows of objects that controllers of the recorded cluster had made.
        "builtins/slices-table" | "builtins/events-table" => {
            let name = |r: &Value| text(r, "/object/metadata/name");
            narrow(&mut recorded, &here, "/rows", name, report);
        }
        "crd/openapi-v3" => {
            // Selecting shards and unsafe deletion are features of newer servers that are not served here.
            let newer = [
                "shardSelector",
                "ignoreStoreReadErrorWithClusterBreakingPotential",
            ];
            strip(&mut recorded, &mut |v| {
                let found = newer.iter().find(|n| v["name"] == **n);
                found.inspect(|n| report(format!("parameter {n}"))).is_some()
            });
            let Some(schemas) = recorded
                .pointer_mut("/components/schemas")
                .and_then(Value::as_object_mut)
            else {
                return (recorded, here);
            };
            schemas.retain(|k, _| {
                let shard = k.ends_with(".ShardInfo");
                if shard {
                    report(format!("schema {k}"));
                }
                !shard
            });
            for (name, schema) in schemas.iter_mut() {
                // The groups that share these kinds are those of the whole recorded cluster.
                if name.ends_with(".DeleteOptions") || name.ends_with(".Status") {
                    let map = schema.as_object_mut().unwrap();
                    map.remove("x-kubernetes-group-version-kind");
                    report(format!("groups of {name}"));
                }
                if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut)
                    && properties.remove("shardInfo").is_some()
                {
                    report(format!("shardInfo of {name}"));
                }
            }
        }
        // The recorded collector had not come round to the child of a deleted owner; ours has.
        "gone/continue-expired" => {
            if let Some(n) = recorded["metadata"]["remainingItemCount"].as_u64() {
                recorded["metadata"]["remainingItemCount"] = (n - 1).into();
                report("kid, counted".into());
            }
        }
        "gone/exact-compacted" => {
            let name = |i: &Value| match text(i, "/metadata/name") {
                generated if generated.starts_with("gen-") => "gen-".to_owned(),
                other => other,
            };
            narrow(&mut recorded, &here, "/items", name, report);
        }
        // Objects that controllers of the recorded cluster had made.
        "gone/watch-compacted-core" => {
            let name = |e: &Value| {
                format!(
                    "{} {}/{}",
                    text(e, "/type"),
                    text(e, "/object/metadata/namespace"),
                    text(e, "/object/metadata/name")
                )
            };
            narrow(&mut recorded, &here, "/stream", name, report);
        }
        _ => {}
    }
    (recorded, here)
}

fn list(value: &Value, pointer: &str) -> Vec<Value> {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default()
}
