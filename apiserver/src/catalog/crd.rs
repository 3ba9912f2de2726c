//! CustomResourceDefinitions: from the object to the resources that it makes.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::reserved::{self, Names};
use super::{CUSTOM_VERBS, Column, Origin, Resource, SCALE, ScalePaths, Subresource, api_version};
use crate::schema::{self, Schema};
use crate::status::Cause;

const STATUS: Subresource = Subresource {
    name: "status",
    kind: None,
    verbs: &["get", "patch", "update"],
};

/// Descriptions of the columns that every table has.
pub(crate) const NAME_COLUMN: &str = "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";
/// The same for the age.
pub(crate) const AGE_COLUMN: &str = "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

fn text(value: &Value, pointer: &str) -> String {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

fn texts(value: &Value, pointer: &str) -> Vec<String> {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .map(|a| a.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect())
        .unwrap_or_default()
}

fn versions(crd: &Value) -> &[Value] {
    crd.pointer("/spec/versions")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

fn flag(value: &Value, key: &str) -> bool {
    value.get(key).and_then(Value::as_bool).unwrap_or(false)
}

/// Whether a definition is served.
pub(crate) fn established(crd: &Value) -> bool {
    holds(crd, "Established")
}

/// Whether a definition's condition is true.
pub(crate) fn holds(crd: &Value, condition: &str) -> bool {
    crd.pointer("/status/conditions")
        .and_then(Value::as_array)
        .is_some_and(|list| {
            list.iter()
                .any(|c| c["type"] == condition && c["status"] == "True")
        })
}

/// The resource in the version that is stored, whether it is served or not.
pub(crate) fn stored(crd: &Value, since: u64) -> Option<Resource> {
    let mut crd = crd.clone();
    let versions = crd.pointer_mut("/spec/versions").and_then(Value::as_array_mut)?;
    versions.retain(|v| flag(v, "storage"));
    versions.first_mut()?["served"] = true.into();
    made(&crd, since).pop()
}

/// The resources that an established definition makes, one per served version. `since`: its own version.
pub(crate) fn resources(crd: &Value, since: u64) -> Vec<Resource> {
    // Whatever its status says: a store from an older version of this program may hold such definitions.
    if !established(crd) || takes_builtin(crd) {
        return Vec::new();
    }
    made(crd, since)
}

/// The names by which a definition is served: what is asked for and not accepted is not.
fn served_names(crd: &Value) -> &Value {
    let names = crd.pointer("/spec/names").unwrap_or(&Value::Null);
    let accepted = crd.pointer("/status/acceptedNames");
    accepted
        .filter(|a| a["plural"] == names["plural"])
        .unwrap_or(names)
}

/// Whether a definition has names of a built-in resource of its group.
pub(crate) fn takes_builtin(crd: &Value) -> bool {
    Names::of(&text(crd, "/spec/group")).clash(served_names(crd))
}

fn made(crd: &Value, since: u64) -> Vec<Resource> {
    let group = text(crd, "/spec/group");
    let plural = text(crd, "/spec/names/plural");
    let names = served_names(crd);
    let storage: Arc<str> = Arc::from(format!("{plural}.{group}"));
    if reserved::stores(&storage) {
        return Vec::new();
    }
    let taken = Names::of(&group).resources;
    let mut short_names = texts(names, "/shortNames");
    short_names.retain(|n| !taken.contains(n));
    let stored = versions(crd).iter().find(|v| flag(v, "storage"));
    let storage_version = api_version(&group, &stored.map(|v| text(v, "/name")).unwrap_or_default());
    let schema_of = |version: &Value| {
        version
            .pointer("/schema/openAPIV3Schema")
            .cloned()
            .unwrap_or_else(|| json!({}))
    };
    let path = "spec.validation.openAPIV3Schema";
    let stored = stored.and_then(|v| schema::compile(&schema_of(v), path).ok());
    let stored = Arc::new(with_metadata(stored.unwrap_or_default()));
    let mut out = Vec::new();
    for version in versions(crd).iter().filter(|v| flag(v, "served")) {
        let json = schema_of(version);
        let compiled = match schema::compile(&json, path) {
            Ok(s) => s,
            Err(causes) => {
                // The write was validated; a store from an older version of this program may differ.
                tracing::error!(crd = %text(crd, "/metadata/name"), ?causes, "the definition's schema does not compile; the version is not served");
                continue;
            }
        };
        let mut subresources = Vec::new();
        if version.pointer("/subresources/status").is_some() {
            subresources.push(STATUS);
        }
        let scale = version.pointer("/subresources/scale").map(scale_paths);
        if scale.is_some() {
            subresources.push(SCALE);
        }
        out.push(Resource {
            group: group.clone(),
            version: text(version, "/name"),
            plural: plural.clone(),
            singular: text(names, "/singular"),
            kind: text(names, "/kind"),
            list_kind: text(names, "/listKind"),
            namespaced: text(crd, "/spec/scope") == "Namespaced",
            short_names: short_names.clone(),
            categories: texts(names, "/categories"),
            verbs: CUSTOM_VERBS,
            storage: storage.clone(),
            storage_version: storage_version.clone(),
            schema: Arc::new(with_metadata(compiled)),
            subresources,
            scale,
            origin: Origin::Custom {
                stored: stored.clone(),
                since,
                columns: Arc::new(columns(version)),
                schema_json: Arc::new(json),
            },
        });
    }
    out
}

/// From paths like `.spec.replicas`.
fn scale_paths(scale: &Value) -> ScalePaths {
    let pointer = |key: &str| text(scale, key).replace('.', "/");
    let selector = pointer("/labelSelectorPath");
    ScalePaths {
        spec: pointer("/specReplicasPath"),
        status: pointer("/statusReplicasPath"),
        selector: (!selector.is_empty()).then_some(selector),
    }
}

/// A definition's schema says little about metadata; ownership needs its shape.
fn with_metadata(mut schema: Schema) -> Schema {
    let library = schema::builtin::Library::get();
    let meta = library.schema("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
    schema.properties.insert(
        "metadata".into(),
        Arc::new(Schema {
            always: true,
            ..(*meta).clone()
        }),
    );
    schema
}

fn columns(version: &Value) -> Vec<Column> {
    let mut out = vec![Column {
        name: "Name".into(),
        kind: "string".into(),
        format: "name".into(),
        description: NAME_COLUMN.into(),
        priority: 0,
        path: ".metadata.name".into(),
    }];
    let own = version.get("additionalPrinterColumns").and_then(Value::as_array);
    for c in own.into_iter().flatten() {
        let path = text(c, "/jsonPath");
        let mut description = text(c, "/description");
        if description.is_empty() {
            description = format!("Custom resource definition column (in JSONPath format): {path}");
        }
        out.push(Column {
            name: text(c, "/name"),
            kind: text(c, "/type"),
            format: text(c, "/format"),
            description,
            priority: c.get("priority").and_then(Value::as_i64).unwrap_or(0),
            path,
        });
    }
    if own.is_none_or(Vec::is_empty) {
        out.push(Column {
            name: "Age".into(),
            kind: "date".into(),
            format: String::new(),
            description: AGE_COLUMN.into(),
            priority: 0,
            path: ".metadata.creationTimestamp".into(),
        });
    }
    out
}

/// Order of versions: the most stable and newest first.
pub(crate) fn version_order(a: &str, b: &str) -> Ordering {
    fn parse(v: &str) -> Option<(u8, u64, u64)> {
        let rest = v.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major: u64 = rest[..digits].parse().ok()?;
        let rest = &rest[digits..];
        if rest.is_empty() {
            return Some((3, major, 0));
        }
        for (level, name) in [(2, "beta"), (1, "alpha")] {
            if let Some(minor) = rest.strip_prefix(name) {
                return Some((level, major, minor.parse().ok()?));
            }
        }
        None
    }
    match (parse(a), parse(b)) {
        (Some(x), Some(y)) => y.cmp(&x),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

/// Fills in what a definition leaves out.
pub(crate) fn complete(crd: &mut Value) {
    let kind = text(crd, "/spec/names/kind");
    let stored: Vec<String> = versions(crd)
        .iter()
        .filter(|v| flag(v, "storage"))
        .map(|v| text(v, "/name"))
        .collect();
    if let Some(names) = crd.pointer_mut("/spec/names").and_then(Value::as_object_mut) {
        let missing = |v: Option<&Value>| v.and_then(Value::as_str).is_none_or(str::is_empty);
        if missing(names.get("singular")) {
            names.insert("singular".into(), kind.to_lowercase().into());
        }
        if missing(names.get("listKind")) {
            names.insert("listKind".into(), format!("{kind}List").into());
        }
    }
    if let Some(spec) = crd.get_mut("spec").and_then(Value::as_object_mut)
        && spec.get("conversion").is_none_or(Value::is_null)
    {
        spec.insert("conversion".into(), json!({"strategy": "None"}));
    }
    if let Some(map) = crd.as_object_mut() {
        let status = map.entry("status").or_insert_with(
            || json!({"conditions": null, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": []}),
        );
        if let Some(status) = status.as_object_mut() {
            let list = status.entry("storedVersions").or_insert_with(|| json!([]));
            if let Some(list) = list.as_array_mut() {
                for version in stored {
                    if !list.iter().any(|v| v.as_str() == Some(&version)) {
                        list.push(version.into());
                    }
                }
            }
        }
    }
}

/// Checks a definition.
pub(crate) fn validate(crd: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let name = text(crd, "/metadata/name");
    let group = text(crd, "/spec/group");
    let plural = text(crd, "/spec/names/plural");
    if name != format!("{plural}.{group}") {
        causes.push(Cause::invalid(
            "metadata.name",
            &name.into(),
            "must be spec.names.plural+\".\"+spec.group",
        ));
    }
    if group.is_empty() {
        causes.push(Cause::required("spec.group", ""));
    } else if group.split('.').count() < 2 {
        causes.push(Cause::invalid(
            "spec.group",
            &group.clone().into(),
            "should be a domain with at least one dot",
        ));
    } else if let Err(e) = crate::rest::names::subdomain(&group) {
        causes.push(Cause::invalid("spec.group", &group.clone().into(), e));
    }
    let scope = text(crd, "/spec/scope");
    if scope.is_empty() {
        causes.push(Cause::required("spec.scope", ""));
    } else if scope != "Namespaced" && scope != "Cluster" {
        causes.push(Cause::not_supported(
            "spec.scope",
            &scope.into(),
            &["Cluster", "Namespaced"].map(Value::from),
        ));
    }
    for (field, pointer) in [
        ("spec.names.plural", "/spec/names/plural"),
        ("spec.names.singular", "/spec/names/singular"),
        ("spec.names.kind", "/spec/names/kind"),
        ("spec.names.listKind", "/spec/names/listKind"),
    ] {
        let value = text(crd, pointer);
        if value.is_empty() {
            causes.push(Cause::required(field, ""));
        } else if let Err(e) = crate::rest::names::label(&value.to_lowercase()) {
            causes.push(Cause::invalid(field, &value.into(), e));
        }
    }
    let versions = versions(crd);
    if versions.is_empty() {
        causes.push(Cause::required("spec.versions", ""));
    }
    let storage = versions.iter().filter(|v| flag(v, "storage")).count();
    if storage != 1 && !versions.is_empty() {
        causes.push(Cause::invalid(
            "spec.versions",
            &Value::Null,
            "must have exactly one version marked as storage version",
        ));
    }
    let mut seen = Vec::new();
    // What all versions have in common is looked at once, and called by the place that it had before there were
    // several of them.
    let common = |part: &str| {
        let first = versions.first().and_then(|v| v.get(part));
        first.is_some_and(|f| !f.is_null()) && versions.iter().all(|v| v.get(part) == first)
    };
    let schemas = common("schema").then_some("spec.validation");
    let subresources = common("subresources").then_some("spec.subresources");
    let columns = common("additionalPrinterColumns").then_some("spec.additionalPrinterColumns");
    let place = |i: usize, part: &str, common: Option<&str>| match common {
        Some(_) if i > 0 => None,
        Some(place) => Some(place.to_owned()),
        None => Some(format!("spec.versions[{i}].{part}")),
    };
    for (i, version) in versions.iter().enumerate() {
        let at = format!("spec.versions[{i}]");
        let name = text(version, "/name");
        if let Err(e) = crate::rest::names::label(&name) {
            causes.push(Cause::invalid(format!("{at}.name"), &name.clone().into(), e));
        }
        if seen.contains(&name) {
            causes.push(Cause::invalid(
                "spec.versions",
                &Value::Null,
                "must contain unique version names",
            ));
        }
        seen.push(name);
        let schema = version
            .pointer("/schema/openAPIV3Schema")
            .filter(|s| s.is_object());
        let Some(schema) = schema else {
            causes.push(Cause::required(
                format!("{at}.schema.openAPIV3Schema"),
                "schemas are required",
            ));
            continue;
        };
        if let Some(at) = place(i, "schema", schemas) {
            let at = format!("{at}.openAPIV3Schema");
            if schema.get("type").and_then(Value::as_str) != Some("object") {
                let have = schema.get("type").cloned().unwrap_or_else(|| "".into());
                causes.push(Cause::invalid(
                    format!("{at}.type"),
                    &have,
                    "must be object at the root",
                ));
            }
            match schema::compile(schema, &at) {
                Err(found) => causes.extend(found),
                Ok(compiled) => check_defaults(&compiled, &at, &mut causes),
            }
        }
        let scale = version.pointer("/subresources/scale");
        if let (Some(scale), Some(at)) = (scale, place(i, "subresources", subresources)) {
            check_scale(scale, &format!("{at}.scale"), &mut causes);
        }
        let Some(columns_at) = place(i, "additionalPrinterColumns", columns) else {
            continue;
        };
        for (n, c) in version
            .get("additionalPrinterColumns")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .enumerate()
        {
            let at = format!("{columns_at}[{n}]");
            let path = text(c, "/jsonPath");
            if let Err(e) = crate::table::Path::parse(&path) {
                causes.push(Cause::invalid(format!("{at}.jsonPath"), &path.into(), e));
            }
            let kind = text(c, "/type");
            let known = ["boolean", "date", "integer", "number", "string"];
            if !known.contains(&kind.as_str()) {
                causes.push(Cause::not_supported(
                    format!("{at}.type"),
                    &kind.into(),
                    &known.map(Value::from),
                ));
            }
        }
    }
    let strategy = text(crd, "/spec/conversion/strategy");
    if !strategy.is_empty() && strategy != "None" {
        causes.push(Cause::not_supported(
            "spec.conversion.strategy",
            &strategy.into(),
            &[Value::from("None")],
        ));
    }
    causes
}

/// The paths of a scale subresource lie below spec and status.
fn check_scale(scale: &Value, at: &str, causes: &mut Vec<Cause>) {
    for (field, places, needed) in [
        ("specReplicasPath", &[".spec."][..], true),
        ("statusReplicasPath", &[".status."], true),
        ("labelSelectorPath", &[".spec.", ".status."], false),
    ] {
        let path = text(scale, &format!("/{field}"));
        if path.is_empty() {
            if needed {
                causes.push(Cause::required(format!("{at}.{field}"), ""));
            }
        } else if !places.iter().any(|p| path.starts_with(p)) || path.contains(['[', '/', '~']) {
            let list: Vec<&str> = places.iter().map(|p| p.trim_end_matches('.')).collect();
            let why = format!("should be a json path under {}", list.join(" or "));
            causes.push(Cause::invalid(format!("{at}.{field}"), &path.into(), why));
        }
    }
}

/// A default has to be a right value itself.
fn check_defaults(schema: &Schema, path: &str, causes: &mut Vec<Cause>) {
    if let Some(d) = &schema.default {
        let mut bare = schema.clone();
        bare.default = None;
        causes.extend(schema::validate(d, &bare, &format!("{path}.default")));
    }
    for (name, sub) in &schema.properties {
        check_defaults(sub, &format!("{path}.properties[{name}]"), causes);
    }
    if let Some(sub) = &schema.items {
        check_defaults(sub, &format!("{path}.items"), causes);
    }
    if let Some(sub) = &schema.additional {
        check_defaults(sub, &format!("{path}.additionalProperties"), causes);
    }
}

/// A condition of a definition, without its time.
pub(crate) fn condition(kind: &str, holds: bool, reason: &str, message: &str) -> Value {
    json!({"type": kind, "status": if holds { "True" } else { "False" }, "lastTransitionTime": null,
        "reason": reason, "message": message})
}

/// Puts a condition into a status. Its time is that of the change of its truth.
pub(crate) fn note(status: &mut Value, mut condition: Value, now: &str) {
    let mut list = status
        .get("conditions")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let old = list.iter_mut().find(|c| c["type"] == condition["type"]);
    condition["lastTransitionTime"] = match &old {
        Some(old) if old["status"] == condition["status"] => old["lastTransitionTime"].clone(),
        _ => now.into(),
    };
    match old {
        Some(old) => *old = condition,
        None => list.push(condition),
    }
    status["conditions"] = Value::Array(list);
}

/// The status of a definition with the names that it may have. Names that others of its group have, and
/// those that are accepted already, are taken; what is served once is served on, unless it is built in.
pub(crate) fn settle(crd: &Value, all: &[Value], now: &str) -> Value {
    let group = text(crd, "/spec/group");
    let own = Names::of(&group);
    let (mut resources, mut kinds) = (BTreeSet::new(), BTreeSet::new());
    for other in all.iter().filter(|o| text(o, "/spec/group") == group) {
        for name in ["plural", "singular"] {
            resources.insert(text(other, &format!("/status/acceptedNames/{name}")));
        }
        resources.extend(texts(other, "/status/acceptedNames/shortNames"));
        for name in ["kind", "listKind"] {
            kinds.insert(text(other, &format!("/status/acceptedNames/{name}")));
        }
    }
    let mut status = crd.get("status").cloned().unwrap_or_else(|| json!({}));
    if let Some(approval) = reserved::conformant(crd) {
        note(&mut status, approval, now);
    }
    let before = status.get("acceptedNames").cloned().unwrap_or_default();
    let mut accepted = if before.is_object() {
        before.clone()
    } else {
        json!({})
    };
    let mut conflict = None;
    let in_use = |name: &str| format!("{name:?} is already in use");
    let single = [
        ("plural", "PluralConflict", &resources, &own.resources),
        ("singular", "SingularConflict", &resources, &own.resources),
        ("shortNames", "ShortNamesConflict", &resources, &own.resources),
        ("kind", "KindConflict", &kinds, &own.kinds),
        ("listKind", "ListKindConflict", &kinds, &own.kinds),
    ];
    // Nor does a definition keep what it was given by a server that did not look.
    let mut lost = false;
    for (field, reason, taken, builtin) in single {
        let wanted = crd.pointer(&format!("/spec/names/{field}"));
        let have = before.get(field);
        let refused: Vec<String> = if field == "shortNames" {
            let mut mine = texts(&before, "/shortNames");
            if mine.iter().any(|n| builtin.contains(n)) {
                mine.retain(|n| !builtin.contains(n));
                accepted[field] = json!(mine);
            }
            let mut names = texts(crd, "/spec/names/shortNames");
            names.retain(|n| builtin.contains(n) || !mine.contains(n) && taken.contains(n));
            names.iter().map(|n| in_use(n)).collect()
        } else {
            let name = wanted.and_then(Value::as_str).unwrap_or_default();
            if have.and_then(Value::as_str).is_some_and(|n| builtin.contains(n)) {
                accepted[field] = "".into();
                lost = true;
            }
            let clash =
                !name.is_empty() && (builtin.contains(name) || wanted != have && taken.contains(name));
            clash.then(|| in_use(name)).into_iter().collect()
        };
        match (refused.as_slice(), wanted) {
            ([], Some(wanted)) => accepted[field] = wanted.clone(),
            ([], None) => {
                accepted.as_object_mut().map(|m| m.shift_remove(field));
            }
            ([one], _) => conflict = Some((reason, one.clone())),
            (many, _) => conflict = Some((reason, format!("[{}]", many.join(", ")))),
        }
    }
    match crd.pointer("/spec/names/categories") {
        Some(categories) => accepted["categories"] = categories.clone(),
        None => {
            accepted.as_object_mut().map(|m| m.shift_remove("categories"));
        }
    }
    status["acceptedNames"] = accepted;
    let served = established(crd) && !lost;
    match conflict {
        None => {
            let fine = condition("NamesAccepted", true, "NoConflicts", "no conflicts found");
            note(&mut status, fine, now);
            if !served {
                let why = "the initial names have been accepted";
                note(
                    &mut status,
                    condition("Established", true, "InitialNamesAccepted", why),
                    now,
                );
            }
        }
        Some((reason, why)) => {
            note(&mut status, condition("NamesAccepted", false, reason, &why), now);
            if !served {
                let why = "not all names are accepted";
                note(
                    &mut status,
                    condition("Established", false, "NotAccepted", why),
                    now,
                );
            }
        }
    }
    status
}
