//! The verbs: create, get, list, watch, update, patch, apply, delete, scale.

pub(crate) mod create;
pub(crate) mod decode;
pub(crate) mod delete;
pub(crate) mod list;
pub(crate) mod meta;
pub(crate) mod names;
pub(crate) mod patch;
pub(crate) mod scale;
pub(crate) mod send;
pub(crate) mod shared;
pub(crate) mod update;
pub(crate) mod watch;

use std::sync::Arc;

use serde_json::Value;

use crate::api::Api;
use crate::apply::Manager;
use crate::auth::User;
use crate::auth::rbac::Attributes;
use crate::catalog::Resource;
use crate::status::{ApiError, ApiResult};
use crate::store::{Key, Op, Stored, Write, WriteError};

/// What to do with fields that a schema does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum FieldValidation {
    /// Drop them.
    Ignore,
    /// Drop them and say so.
    #[default]
    Warn,
    /// Refuse the object.
    Strict,
}

/// Who writes, and how.
#[derive(Debug, Clone, Default)]
pub(crate) struct Context {
    /// Who asks.
    pub(crate) user: User,
    /// Name for field ownership.
    pub(crate) manager: String,
    /// Whether the write is only tried.
    pub(crate) dry_run: bool,
    /// What to do with unknown fields.
    pub(crate) validation: FieldValidation,
    /// Server-side apply: take fields from others.
    pub(crate) force: bool,
}

impl Context {
    /// The server itself.
    pub(crate) fn system() -> Self {
        Context {
            user: User::new("system:apiserver", &[crate::auth::MASTERS]),
            manager: "kube-apiserver".into(),
            ..Context::default()
        }
    }

    pub(crate) fn manager_of(&self, resource: &Resource, subresource: &str) -> Manager {
        Manager {
            name: self.manager.clone(),
            subresource: subresource.to_owned(),
            api_version: resource.api_version(),
            time: now(),
        }
    }
}

/// An object after a write, in the version asked for, and what to warn of.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The object.
    pub(crate) object: Value,
    /// Warnings for the client.
    pub(crate) warnings: Vec<String>,
    /// Whether it is new.
    pub(crate) created: bool,
}

/// Now, as objects write it.
pub(crate) fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The largest object that is stored, in bytes, as etcd has it. Patches could make one grow without end.
const MAX_OBJECT: usize = 3 << 19;

/// Tries of a write whose object changes under it.
pub(crate) const ATTEMPTS: usize = 32;

/// The key of an object.
pub(crate) fn key(resource: &Resource, namespace: &str, name: &str) -> Key {
    Key {
        resource: resource.storage.clone(),
        namespace: namespace.into(),
        name: name.into(),
    }
}

/// Reads one object.
pub(crate) fn read(api: &Api, resource: &Resource, namespace: &str, name: &str) -> ApiResult<Arc<Stored>> {
    api.store
        .get(&resource.storage, namespace, name)
        .ok_or_else(|| ApiError::not_found(&resource.group, &resource.plural, name))
}

/// Refuses an update or apply that would make its object to whoever may not create it.
pub(crate) fn may_create(
    api: &Api,
    cx: &Context,
    resource: &Resource,
    namespace: &str,
    name: &str,
) -> ApiResult<()> {
    let wanted = Attributes {
        verb: "create".into(),
        group: resource.group.clone(),
        resource: resource.plural.clone(),
        namespace: namespace.into(),
        name: name.into(),
        ..Attributes::default()
    };
    if api.rbac.allows(&cx.user, &wanted) {
        return Ok(());
    }
    Err(crate::http::refusal(&cx.user, &wanted))
}

/// What became of a write.
pub(crate) enum Written {
    /// It is done.
    Done(Arc<Stored>),
    /// The object changed meanwhile.
    Raced,
}

/// Carries out a write.
pub(crate) async fn commit(
    api: &Api,
    resource: &Resource,
    key: Key,
    expect: Option<u64>,
    op: Op,
) -> ApiResult<Written> {
    let name = key.name.clone();
    if let Op::Put(object) = &op
        && crate::json::size(object) > MAX_OBJECT
    {
        return Err(ApiError::too_large(MAX_OBJECT));
    }
    match api.store.write(Write { key, expect, op }).await {
        Ok(stored) => Ok(Written::Done(stored)),
        Err(WriteError::Exists) => Err(ApiError::already_exists(&resource.group, &resource.plural, &name)),
        Err(WriteError::Missing | WriteError::Version(_)) => Ok(Written::Raced),
        Err(WriteError::Storage(e)) => Err(ApiError::internal(e)),
    }
}
