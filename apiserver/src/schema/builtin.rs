//! Schemas of the built-in kinds, from the published types, with the merge rules added.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::{ListType, Schema, Type};

/// Where definitions are found in a schema document.
const PREFIX: &str = "#/components/schemas/";

/// List fields that merge: type, field, keys for apply (`*`: a set), key for strategic merge patches
/// (`-`: none).
const LISTS: &[(&str, &str, &str, &str)] = &[
    ("ObjectMeta", "ownerReferences", "uid", "uid"),
    ("ObjectMeta", "finalizers", "*", ""),
    ("ServiceSpec", "ports", "port,protocol", "port"),
    ("ServiceStatus", "conditions", "type", "type"),
    ("PodSpec", "containers", "name", "name"),
    ("PodSpec", "initContainers", "name", "name"),
    ("PodSpec", "ephemeralContainers", "name", "name"),
    ("PodSpec", "volumes", "name", "name"),
    ("PodSpec", "imagePullSecrets", "name", "name"),
    ("PodSpec", "hostAliases", "ip", "ip"),
    (
        "PodSpec",
        "topologySpreadConstraints",
        "topologyKey,whenUnsatisfiable",
        "topologyKey",
    ),
    ("PodSpec", "schedulingGates", "name", "name"),
    ("PodSpec", "resourceClaims", "name", "name"),
    ("Container", "ports", "containerPort,protocol", "containerPort"),
    ("Container", "env", "name", "name"),
    ("Container", "volumeMounts", "mountPath", "mountPath"),
    ("Container", "volumeDevices", "devicePath", "devicePath"),
    ("PodStatus", "conditions", "type", "type"),
    ("PodStatus", "podIPs", "ip", "ip"),
    ("PodStatus", "hostIPs", "", "ip"),
    ("PodStatus", "resourceClaimStatuses", "name", "name"),
    ("NodeSpec", "podCIDRs", "*", ""),
    ("NodeStatus", "conditions", "type", "type"),
    ("NodeStatus", "addresses", "type", "type"),
    ("NamespaceStatus", "conditions", "type", "type"),
    ("ServiceAccount", "secrets", "name", "name"),
    ("Endpoint", "addresses", "*", "-"),
    ("DeploymentStatus", "conditions", "type", "type"),
    ("DaemonSetStatus", "conditions", "type", "type"),
    ("ReplicaSetStatus", "conditions", "type", "type"),
    ("CustomResourceDefinitionStatus", "conditions", "type", "-"),
];

/// Types whose values are one: apply never looks inside.
const ATOMIC: &[&str] = &[
    "LabelSelector",
    "NodeSelector",
    "ObjectReference",
    "LocalObjectReference",
    "SecretKeySelector",
    "ConfigMapKeySelector",
    "ObjectFieldSelector",
    "ResourceFieldSelector",
    "RoleRef",
    "Subject",
    "TypedLocalObjectReference",
    "NodeSelectorTerm",
    "OwnerReference",
];

/// Map fields that are one value.
const ATOMIC_FIELDS: &[(&str, &str)] = &[("ServiceSpec", "selector"), ("PodSpec", "nodeSelector")];

/// Objects below the root that are always there, so that apply gives them no owner of their own. At the
/// root, metadata, spec and status are.
const ALWAYS: &[(&str, &str)] = &[
    ("CustomResourceDefinitionSpec", "names"),
    ("CustomResourceDefinitionStatus", "acceptedNames"),
    ("CustomResourceDefinitionStatus", "conditions"),
    ("CustomResourceDefinitionStatus", "storedVersions"),
    ("PodSpec", "containers"),
    ("DeploymentSpec", "template"),
    ("DeploymentSpec", "strategy"),
    ("DaemonSetSpec", "template"),
    ("DaemonSetSpec", "updateStrategy"),
    ("PodTemplateSpec", "metadata"),
    ("PodTemplateSpec", "spec"),
    ("NodeStatus", "daemonEndpoints"),
    ("NodeStatus", "nodeInfo"),
    ("ServiceStatus", "loadBalancer"),
    ("Event", "deprecatedFirstTimestamp"),
    ("Event", "deprecatedLastTimestamp"),
    ("Event", "deprecatedSource"),
    ("Event", "eventTime"),
    ("Event", "firstTimestamp"),
    ("Event", "lastTimestamp"),
    ("Event", "reportingComponent"),
    ("Event", "reportingInstance"),
    ("Event", "source"),
    ("EndpointSlice", "endpoints"),
    ("EndpointSlice", "ports"),
    ("Role", "rules"),
    ("ClusterRole", "rules"),
];

/// Types that hold other schemas or anything: kept as they come.
const OPAQUE: &[&str] = &["JSONSchemaProps", "JSON", "RawExtension", "FieldsV1", "Patch"];

/// All definitions that the built-in kinds need, by full name, as OpenAPI has them.
pub(crate) type Definitions = Map<String, Value>;

/// Collects the definitions of kinds.
#[derive(Debug)]
pub(crate) struct Collector {
    generator: SchemaGenerator,
}

impl Default for Collector {
    fn default() -> Self {
        let settings = SchemaSettings::default().with(|s| {
            s.definitions_path = "/components/schemas".into();
            s.meta_schema = None;
        });
        Collector {
            generator: settings.into_generator(),
        }
    }
}

impl Collector {
    /// Adds a kind and what it refers to.
    pub(crate) fn add<T: JsonSchema>(&mut self) {
        self.generator.subschema_for::<T>();
    }

    /// The definitions, in the form that Kubernetes publishes.
    pub(crate) fn finish(mut self) -> Definitions {
        let mut definitions = self.generator.take_definitions(true);
        definitions.insert(
            "io.k8s.apimachinery.pkg.apis.meta.v1.Patch".into(),
            json!({"description": "Patch is provided to give a concrete name and type to the Kubernetes PATCH request body.",
                "type": "object"}),
        );
        for (name, definition) in &mut definitions {
            let short = name.rsplit('.').next().unwrap_or(name).to_owned();
            annotate(&short, definition);
        }
        definitions
    }
}

/// Adds the merge rules, which the published types lack.
fn annotate(owner: &str, definition: &mut Value) {
    if ATOMIC.contains(&owner) {
        definition["x-kubernetes-map-type"] = "atomic".into();
    }
    if owner == "Status" {
        definition.as_object_mut().map(|m| m.shift_remove("required"));
        definition["properties"]["metadata"]["default"] = json!({});
    }
    let required = definition
        .get("required")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let Some(properties) = definition.get_mut("properties").and_then(Value::as_object_mut) else {
        return;
    };
    for (field, property) in properties {
        if required.contains(&Value::from(field.as_str())) {
            match property.get("type").and_then(Value::as_str) {
                Some("string") => property["default"] = "".into(),
                Some("integer") => property["default"] = 0.into(),
                Some("boolean") => property["default"] = false.into(),
                _ => {}
            }
        }
        // Nothing may stand beside a reference.
        if let Some(map) = property.as_object_mut().filter(|m| m.len() > 1)
            && let Some(target) = map.shift_remove("$ref")
        {
            map.insert("allOf".into(), json!([{"$ref": target}]));
        }
        if property.get("type") != Some(&Value::from("array")) {
            continue;
        }
        let rule = LISTS.iter().find(|(t, f, ..)| *t == owner && f == field);
        let (keys, patch) = rule
            .map(|(_, _, keys, patch)| (*keys, *patch))
            .unwrap_or(("", "-"));
        match keys {
            "" => property["x-kubernetes-list-type"] = "atomic".into(),
            "*" => property["x-kubernetes-list-type"] = "set".into(),
            keys => {
                property["x-kubernetes-list-map-keys"] = keys.split(',').collect();
                property["x-kubernetes-list-type"] = "map".into();
            }
        }
        if patch != "-" {
            if !patch.is_empty() {
                property["x-kubernetes-patch-merge-key"] = patch.into();
            }
            property["x-kubernetes-patch-strategy"] = "merge".into();
        }
    }
}

/// Compiles definitions on demand.
#[derive(Debug)]
pub(crate) struct Library {
    definitions: Definitions,
    done: Mutex<BTreeMap<String, Arc<Schema>>>,
}

impl Library {
    /// The one library of this process: definitions never change.
    pub(crate) fn get() -> &'static Library {
        static LIBRARY: OnceLock<Library> = OnceLock::new();
        LIBRARY.get_or_init(|| Library {
            definitions: crate::catalog::builtin::definitions(),
            done: Mutex::new(BTreeMap::new()),
        })
    }

    /// All definitions.
    pub(crate) fn definitions(&self) -> &Definitions {
        &self.definitions
    }

    /// The compiled schema of a definition, `io.k8s.api.core.v1.Pod` for example.
    pub(crate) fn schema(&self, name: &str) -> Arc<Schema> {
        if let Some(found) = self.done.lock().unwrap_or_else(|e| e.into_inner()).get(name) {
            return found.clone();
        }
        let mut open = Vec::new();
        let schema = self.definition(name, &mut open);
        let mut root = (*schema).clone();
        for field in ["metadata", "spec", "status"] {
            if let Some(sub) = root.properties.get(field) {
                let sub = Schema {
                    always: true,
                    ..(**sub).clone()
                };
                root.properties.insert(field.into(), Arc::new(sub));
            }
        }
        let schema = Arc::new(root);
        self.done
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .insert(name.into(), schema.clone());
        schema
    }

    fn definition(&self, name: &str, open: &mut Vec<String>) -> Arc<Schema> {
        let short = name.rsplit('.').next().unwrap_or(name);
        let json = self.definitions.get(name);
        let cyclic = open.iter().any(|o| o == name);
        let Some(json) = json.filter(|_| !cyclic && !OPAQUE.contains(&short)) else {
            return Arc::new(Schema {
                preserve_unknown: true,
                nullable: true,
                ..Schema::default()
            });
        };
        open.push(name.to_owned());
        let mut schema = self.node(json, short, open);
        open.pop();
        schema.go_type = short.to_owned();
        schema.atomic_map = schema.atomic_map || ATOMIC.contains(&short);
        Arc::new(schema)
    }

    fn refer(&self, json: &Value, open: &mut Vec<String>) -> Arc<Schema> {
        let target = json.get("$ref").or_else(|| json.pointer("/allOf/0/$ref"));
        match target
            .and_then(Value::as_str)
            .and_then(|r| r.strip_prefix(PREFIX))
        {
            Some(name) => self.definition(name, open),
            None => Arc::new(self.node(json, "", open)),
        }
    }

    fn node(&self, json: &Value, owner: &str, open: &mut Vec<String>) -> Schema {
        let mut s = Schema {
            nullable: true,
            ..Schema::default()
        };
        s.kind = match json.get("type").and_then(Value::as_str) {
            Some("object") => Type::Object,
            Some("array") => Type::Array,
            Some("string") => Type::String,
            Some("integer") => Type::Integer,
            Some("number") => Type::Number,
            Some("boolean") => Type::Boolean,
            _ => Type::Any,
        };
        s.int_or_string = json.get("x-kubernetes-int-or-string").is_some();
        s.format = json.get("format").and_then(Value::as_str).map(str::to_owned);
        s.go_type = owner.to_owned();
        if let Some(sub) = json.get("items") {
            s.items = Some(self.refer(sub, open));
        }
        if let Some(sub) = json.get("additionalProperties").filter(|v| v.is_object()) {
            s.additional = Some(self.refer(sub, open));
        }
        for (name, sub) in json
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            let mut field = self.refer(sub, open);
            let rule = LISTS.iter().find(|(t, f, ..)| *t == owner && f == name);
            let atomic = ATOMIC_FIELDS.contains(&(owner, name.as_str()));
            let always = ALWAYS.contains(&(owner, name.as_str()));
            if rule.is_some() || atomic || always {
                let mut own = (*field).clone();
                own.atomic_map |= atomic;
                own.always |= always;
                if let Some((_, _, keys, patch)) = rule {
                    own.list = match *keys {
                        "" => ListType::Atomic,
                        "*" => ListType::Set,
                        keys => ListType::Map(keys.split(',').map(str::to_owned).collect()),
                    };
                    own.patch_key = (*patch != "-").then_some(*patch);
                }
                field = Arc::new(own);
            }
            s.properties.insert(name.clone(), field);
        }
        s
    }
}
