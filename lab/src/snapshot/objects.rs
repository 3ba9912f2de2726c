//! Every object of an API server, without what is secret.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kube::Api;
use kube::api::{DynamicObject, ListParams};
use kube::discovery::{Discovery, verbs};
use serde_json::{Value, json};
use strait_daemon::errors::{cause, sentence};

use crate::objects::client;

/// How long an API server may take for a list.
const PATIENCE: Duration = Duration::from_secs(15);
/// What an object was before, as kubectl notes it.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// What stands for what was left out.
const LEFT_OUT: &str = "left out";

/// Lists by `KIND.GROUP`, and what could not be listed.
type Found = (BTreeMap<String, Value>, Vec<String>);

/// Everything.
pub(super) fn all(kubeconfig: &Path) -> Result<Found> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        tokio::time::timeout(4 * PATIENCE, list_all(kubeconfig))
            .await
            .context("its API server is too slow")?
    })
}

async fn list_all(kubeconfig: &Path) -> Result<Found> {
    let client = client(kubeconfig).await?;
    let discovery = tokio::time::timeout(PATIENCE, Discovery::new(client.clone()).run())
        .await
        .context("its API server does not answer")?
        .context("its API server does not say what it serves")?;
    let (mut kinds, mut problems) = (BTreeMap::new(), Vec::new());
    for group in discovery.groups() {
        for (resource, capabilities) in group.recommended_resources() {
            if !capabilities.supports_operation(verbs::LIST) {
                continue;
            }
            let name = match resource.group.as_str() {
                "" => resource.plural.clone(),
                group => format!("{}.{group}", resource.plural),
            };
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
            let listed = tokio::time::timeout(PATIENCE, api.list(&ListParams::default())).await;
            let items = match listed {
                Ok(Ok(list)) => list.items,
                Ok(Err(error)) => {
                    problems.push(format!("{name}: {}", cause(&error)));
                    continue;
                }
                Err(late) => {
                    problems.push(format!("{name}: {}", sentence(&late)));
                    continue;
                }
            };
            let mut objects = Vec::new();
            for item in items {
                let mut object = serde_json::to_value(&item)?;
                object["apiVersion"] = json!(resource.api_version);
                object["kind"] = json!(resource.kind);
                if resource.kind == "Secret" {
                    without_secrets(&mut object);
                }
                objects.push(object);
            }
            let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
            kinds.insert(name, list);
        }
    }
    Ok((kinds, problems))
}

/// Leaves of a Secret its names only.
fn without_secrets(object: &mut Value) {
    for field in ["data", "stringData"] {
        if let Some(values) = object.get_mut(field).and_then(Value::as_object_mut) {
            values.values_mut().for_each(|v| *v = json!(LEFT_OUT));
        }
    }
    if let Some(before) = object.pointer_mut(&format!(
        "/metadata/annotations/{}",
        LAST_APPLIED.replace('/', "~1")
    )) {
        *before = json!(LEFT_OUT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_secret_only_names_are_left() {
        let mut secret = json!({
            "metadata": { "name": "s", "annotations": { LAST_APPLIED: "{\"data\": \"c2VjcmV0\"}", "a": "b" } },
            "data": { "token": "c2VjcmV0" },
            "stringData": { "key": "secret" },
            "type": "Opaque",
        });
        without_secrets(&mut secret);
        let text = secret.to_string();
        assert!(!text.contains("c2VjcmV0") && !text.contains("secret"), "{text}");
        assert_eq!(secret["data"]["token"], LEFT_OUT);
        assert_eq!(secret["metadata"]["annotations"]["a"], "b");
    }
}
