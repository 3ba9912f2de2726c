//! Records as objects, and back.

use std::collections::BTreeMap;

use kube::api::{ApiResource, DynamicObject, ObjectMeta, PostParams};
use kube::{Api, Client};
use serde_json::json;
use strait_api::names::GROUP;
use strait_core::mirror::{Kind, Spec};

use crate::connection::within;
use crate::error::{BrokerError, found};

/// How a kind is called on the wire.
pub(super) fn resource(kind: &str, plural: &str) -> ApiResource {
    ApiResource {
        group: GROUP.to_owned(),
        version: "v1alpha1".to_owned(),
        api_version: format!("{GROUP}/v1alpha1"),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

/// How a record's kind is called on the wire.
pub(super) fn of(kind: Kind) -> ApiResource {
    match kind {
        Kind::Gateway => resource("Gateway", "gateways"),
        Kind::ExportedService => resource("ExportedService", "exportedservices"),
        Kind::Cluster => resource("Cluster", "clusters"),
    }
}

/// How members are called on the wire.
pub(super) fn members() -> ApiResource {
    resource("Member", "members")
}

/// The kind of this name.
pub(super) fn api(client: &Client, kind: Kind, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &of(kind))
}

/// What an object says.
pub(super) fn read(kind: Kind, object: &DynamicObject) -> Result<Spec, String> {
    let spec = object.data.get("spec").ok_or("it has no spec")?;
    Spec::parse(kind, spec)
}

/// Creates an object, or replaces the one that was seen, or that is found to be there.
pub(super) async fn put(
    api: &Api<DynamicObject>,
    resource: &ApiResource,
    name: &str,
    labels: BTreeMap<String, String>,
    spec: &impl serde::Serialize,
    seen: Option<&DynamicObject>,
) -> Result<DynamicObject, BrokerError> {
    let spec = serde_json::to_value(spec)
        .map_err(|e| BrokerError::State(format!("{} {name}: {e}", resource.kind)))?;
    let what = format!("writing {} {name}", resource.kind);
    let params = PostParams::default();
    let object = |version: Option<String>| {
        let mut object = DynamicObject::new(name, resource).data(json!({ "spec": spec }));
        object.metadata = ObjectMeta {
            name: Some(name.to_owned()),
            labels: (!labels.is_empty()).then(|| labels.clone()),
            resource_version: version,
            ..ObjectMeta::default()
        };
        object
    };
    let version = match seen {
        Some(seen) => seen.metadata.resource_version.clone(),
        None => match within(&what, api.create(&params, &object(None))).await {
            Ok(made) => return Ok(made),
            Err(e) if e.code() == Some(409) => within(&what, api.get(name)).await?.metadata.resource_version,
            Err(e) => return Err(e),
        },
    };
    match within(&what, api.replace(name, &params, &object(version))).await {
        Ok(made) => Ok(made),
        // Deleted since it was seen.
        Err(e) if e.code() == Some(404) => within(&what, api.create(&params, &object(None))).await,
        // Changed since it was seen: this is the one writer, so the last word is ours.
        Err(e) if e.code() == Some(409) => {
            let version = within(&what, api.get(name)).await?.metadata.resource_version;
            within(&what, api.replace(name, &params, &object(version))).await
        }
        Err(e) => Err(e),
    }
}

/// Deletes an object; content if it is not there.
pub(super) async fn delete(api: &Api<DynamicObject>, what: &str, name: &str) -> Result<(), BrokerError> {
    let what = format!("deleting {what} {name}");
    let params = kube::api::DeleteParams::default();
    within(&what, async { found(api.delete(name, &params).await) })
        .await
        .map(|_| ())
}
