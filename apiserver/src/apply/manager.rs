//! `metadata.managedFields`: who owns which field.

use serde_json::{Map, Value, json};

use super::compare::{compare, fields_of, flaw};
use super::handover;
use super::merge::{merge, remove};
use super::set::{FieldSet, shown};
use crate::schema::Schema;
use crate::status::{ApiError, ApiResult};

/// More managers than this with `Update` are merged into one.
const MAX_UPDATE_MANAGERS: usize = 10;

/// Who writes, and through what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manager {
    /// Name.
    pub(crate) name: String,
    /// `status`, or empty.
    pub(crate) subresource: String,
    /// Group and version of the request.
    pub(crate) api_version: String,
    /// When, RFC 3339.
    pub(crate) time: String,
}

#[derive(Debug, Clone)]
struct Entry {
    name: String,
    operation: &'static str,
    api_version: String,
    subresource: String,
    time: String,
    fields: FieldSet,
}

impl Entry {
    fn same(&self, m: &Manager, operation: &str) -> bool {
        self.name == m.name
            && self.operation == operation
            && self.subresource == m.subresource
            && self.api_version == m.api_version
    }

    /// The manager as conflicts name it.
    fn shown(&self) -> String {
        let mut out = format!("{:?}", self.name);
        if !self.subresource.is_empty() {
            out.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation != "Apply" {
            out.push_str(&format!(" using {}", self.api_version));
        }
        out
    }
}

fn read(object: &Value) -> Vec<Entry> {
    let list = object
        .pointer("/metadata/managedFields")
        .and_then(Value::as_array);
    let text = |v: &Value, k: &str| v.get(k).and_then(Value::as_str).unwrap_or_default().to_owned();
    list.map(|l| {
        l.iter()
            .map(|m| Entry {
                name: text(m, "manager"),
                operation: if text(m, "operation") == "Apply" {
                    "Apply"
                } else {
                    "Update"
                },
                api_version: text(m, "apiVersion"),
                subresource: text(m, "subresource"),
                time: text(m, "time"),
                fields: FieldSet::from_json(m.get("fieldsV1").unwrap_or(&Value::Null)),
            })
            .collect()
    })
    .unwrap_or_default()
}

fn write(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|e| !e.fields.is_empty());
    entries.sort_by(|a, b| {
        (a.operation, &a.time, &a.name, &a.api_version, &a.subresource).cmp(&(
            b.operation,
            &b.time,
            &b.name,
            &b.api_version,
            &b.subresource,
        ))
    });
    let list: Vec<Value> = entries
        .into_iter()
        .map(|e| {
            let mut m = Map::new();
            m.insert("manager".into(), e.name.into());
            m.insert("operation".into(), e.operation.into());
            m.insert("apiVersion".into(), e.api_version.into());
            m.insert("time".into(), e.time.into());
            m.insert("fieldsType".into(), "FieldsV1".into());
            m.insert("fieldsV1".into(), e.fields.to_json());
            if !e.subresource.is_empty() {
                m.insert("subresource".into(), e.subresource.into());
            }
            Value::Object(m)
        })
        .collect();
    if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.shift_remove("managedFields");
        if !list.is_empty() {
            meta.insert("managedFields".into(), Value::Array(list));
        }
    }
}

/// The object without the fields that nobody owns. `status`: whether this write may touch status, and
/// then nothing else.
fn ownable(object: &Value, subresource: &str, has_status: bool) -> Value {
    let mut out = object.clone();
    if let Some(map) = out.as_object_mut() {
        map.shift_remove("apiVersion");
        map.shift_remove("kind");
        if subresource.is_empty() && has_status {
            map.shift_remove("status");
        }
        if subresource == "status" {
            map.shift_remove("spec");
        }
        if let Some(meta) = map.get_mut("metadata").and_then(Value::as_object_mut) {
            for field in [
                "name",
                "namespace",
                "creationTimestamp",
                "selfLink",
                "uid",
                "clusterName",
                "generation",
                "managedFields",
                "resourceVersion",
                "deletionTimestamp",
                "deletionGracePeriodSeconds",
            ] {
                meta.shift_remove(field);
            }
            if meta.is_empty() {
                map.shift_remove("metadata");
            }
        }
    }
    out
}

/// Settles ownership after a write that is not apply: what it added or changed is the writer's.
pub(crate) fn record_update(
    old: &Value,
    new: &mut Value,
    schema: &Schema,
    manager: &Manager,
    has_status: bool,
) {
    if manager.subresource.is_empty() && handover::given_up(new) {
        write(new, Vec::new());
        return;
    }
    let mut entries = read(if handover::asked(new, manager) { new } else { old });
    let diff = compare(
        &ownable(old, &manager.subresource, has_status),
        &ownable(new, &manager.subresource, has_status),
        schema,
    );
    let changed = diff.added.union(&diff.modified);
    for entry in &mut entries {
        if !entry.same(manager, "Update") {
            entry.fields = entry.fields.difference(&diff.modified).difference(&diff.removed);
            if entry.operation == "Update" {
                entry.fields = entry.fields.difference(&diff.added);
            }
        }
    }
    match entries.iter_mut().find(|e| e.same(manager, "Update")) {
        Some(mine) => {
            let fields = mine.fields.difference(&diff.removed).union(&changed);
            if !changed.is_empty() || fields != mine.fields {
                mine.time = manager.time.clone();
            }
            mine.fields = fields;
        }
        None if !changed.is_empty() => entries.push(Entry {
            name: manager.name.clone(),
            operation: "Update",
            api_version: manager.api_version.clone(),
            subresource: manager.subresource.clone(),
            time: manager.time.clone(),
            fields: changed,
        }),
        None => {}
    }
    cap(&mut entries);
    write(new, entries);
}

/// Old `Update` managers are merged when there are too many of them.
fn cap(entries: &mut Vec<Entry>) {
    let updates = |entries: &[Entry]| entries.iter().filter(|e| e.operation == "Update").count();
    while updates(entries) > MAX_UPDATE_MANAGERS {
        let mut order: Vec<usize> = (0..entries.len())
            .filter(|i| entries[*i].operation == "Update")
            .collect();
        order.sort_by(|a, b| entries[*a].time.cmp(&entries[*b].time));
        let pair = order.iter().enumerate().find_map(|(n, i)| {
            let j = order[n + 1..].iter().find(|j| {
                entries[**j].api_version == entries[*i].api_version
                    && entries[**j].subresource == entries[*i].subresource
            })?;
            Some((*i, *j))
        });
        let Some((first, second)) = pair else { return };
        let merged = entries[first].fields.union(&entries[second].fields);
        entries[first].fields = merged;
        entries[first].name = "ancient-changes".into();
        entries.remove(second);
    }
}

/// What an apply makes of the live object.
#[derive(Debug)]
pub(crate) struct Applied {
    /// The object as it would be.
    pub(crate) object: Value,
}

/// Carries out a server-side apply. `live` is null for a new object.
pub(crate) fn apply(
    live: &Value,
    config: &Value,
    schema: &Schema,
    manager: &Manager,
    force: bool,
    has_status: bool,
) -> ApiResult<Applied> {
    if let Some(why) = flaw(config, schema, "") {
        let text = |pointer: &str| {
            config
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
        let place = if namespace.is_empty() {
            name.to_owned()
        } else {
            format!("{namespace}/{name}")
        };
        let (group, kind) = (text("/apiVersion"), text("/kind"));
        let group = if group.contains('/') {
            group.to_owned()
        } else {
            format!("/{group}")
        };
        return Err(ApiError::untyped(format!(
            "failed to create typed patch object ({place}; {group}, Kind={kind}): {why}"
        )));
    }
    let entries = read(live);
    let config_fields = fields_of(&ownable(config, &manager.subresource, has_status), schema);
    let mut config = config.clone();
    if let Some(map) = config.as_object_mut() {
        if manager.subresource.is_empty() && has_status {
            map.shift_remove("status");
        }
        if manager.subresource == "status" {
            map.shift_remove("spec");
        }
    }
    let base = if live.is_null() { json!({}) } else { live.clone() };
    let mut object = merge(&base, &config, schema);

    // What this manager applied before and does not any more goes, unless someone else owns it too.
    let before = entries
        .iter()
        .find(|e| e.same(manager, "Apply") || e.applied_by(manager));
    if let Some(before) = before {
        let mut gone = before.fields.difference(&config_fields);
        for other in entries.iter().filter(|e| !e.applied_by(manager)) {
            gone = gone.difference(&other.fields);
        }
        // A list item stays while anything of it is still applied or owned.
        let mut kept = config_fields.clone();
        for other in entries.iter().filter(|e| !e.applied_by(manager)) {
            kept = kept.union(&other.fields);
        }
        let gone = spare(&gone, &kept);
        object = remove(&object, &gone, schema);
    }

    let diff = compare(
        &ownable(&base, &manager.subresource, has_status),
        &ownable(&object, &manager.subresource, has_status),
        schema,
    );
    let changed = diff.added.union(&diff.modified);
    let mut conflicts = Vec::new();
    let mut entries: Vec<Entry> = entries;
    let free = handover::applied_by_client(live, schema, manager, |o| ownable(o, "", has_status));
    for entry in entries.iter_mut().filter(|e| !e.applied_by(manager)) {
        let taken = entry.fields.intersection(&config_fields).intersection(&changed);
        if !force {
            let who = entry.shown();
            let refused = taken.difference(&free);
            conflicts.extend(refused.paths().iter().map(|p| (who.clone(), shown(p))));
        }
        entry.fields = entry.fields.difference(&taken).difference(&diff.removed);
    }
    if !conflicts.is_empty() {
        return Err(ApiError::apply_conflict(&conflicts));
    }
    handover::note(&mut object, &config, live, manager);
    match entries.iter_mut().find(|e| e.applied_by(manager)) {
        Some(mine) => {
            if mine.fields != config_fields || mine.api_version != manager.api_version {
                mine.time = manager.time.clone();
            }
            mine.api_version = manager.api_version.clone();
            mine.fields = config_fields;
        }
        None => entries.push(Entry {
            name: manager.name.clone(),
            operation: "Apply",
            api_version: manager.api_version.clone(),
            subresource: manager.subresource.clone(),
            time: manager.time.clone(),
            fields: config_fields,
        }),
    }
    write(&mut object, entries);
    Ok(Applied { object })
}

impl Entry {
    fn applied_by(&self, m: &Manager) -> bool {
        self.operation == "Apply" && self.name == m.name && self.subresource == m.subresource
    }
}

/// Members of `gone` that are themselves containers of something kept are not removed.
fn spare(gone: &FieldSet, kept: &FieldSet) -> FieldSet {
    let mut out = FieldSet {
        member: gone.member && kept.children.is_empty(),
        ..FieldSet::default()
    };
    let nothing = FieldSet::default();
    for (key, child) in &gone.children {
        let theirs = kept.children.get(key).unwrap_or(&nothing);
        out.children.insert(key.clone(), spare(child, theirs));
    }
    out
}
