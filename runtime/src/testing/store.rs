//! The objects of the API, and what each verb makes of them.

use super::ownership::{Conflict, Manager, Owners};
use super::patch;
use super::request::Request;
use super::selectors::Selectors;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A refusal, as the API's `Status`.
#[derive(Clone, Debug)]
pub(super) struct ApiError {
    pub(super) code: u16,
    pub(super) reason: &'static str,
    pub(super) message: String,
    /// The field that is refused.
    pub(super) field: Option<&'static str>,
}

impl ApiError {
    pub(super) fn new(code: u16, message: impl Into<String>) -> Self {
        let reason = match code {
            400 => "BadRequest",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "NotFound",
            405 => "MethodNotAllowed",
            409 => "Conflict",
            410 => "Expired",
            415 => "UnsupportedMediaType",
            422 => "Invalid",
            429 => "TooManyRequests",
            503 => "ServiceUnavailable",
            504 => "Timeout",
            _ => "InternalError",
        };
        Self { code, reason, message: message.into(), field: None }
    }

    fn immutable(field: &'static str, given: &Value) -> Self {
        Self { field: Some(field), ..Self::new(422, format!("{field}: Invalid value: {given}: field is immutable")) }
    }

    pub(super) fn body(&self) -> Value {
        let Self { code, reason, message, field } = self;
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "reason": reason, "message": message,
        });
        if let Some(field) = field {
            status["details"] = json!({"causes": [{"reason": "FieldValueInvalid", "field": field, "message": message}]});
        }
        status
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) group: String,
    /// Plural, without subresource.
    pub(super) resource: String,
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Key {
    fn of(request: &Request) -> Self {
        let resource = request.plural().to_owned();
        Self { group: request.group.clone(), resource, namespace: request.namespace.clone(), name: request.name.clone() }
    }
}

#[derive(Clone, Debug)]
struct Record {
    object: Value,
    owners: Owners,
}

/// A change of one object. `new` is `None` when the object has gone; `old` then has the version of the change.
#[derive(Debug)]
struct Change {
    version: u64,
    key: Key,
    old: Option<Value>,
    new: Option<Value>,
}

/// What a watch is about.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    key: Key,
    selectors: Selectors,
    metadata_only: bool,
}

impl Scope {
    pub(super) fn of(request: &Request) -> Self {
        Self { key: Key::of(request), selectors: request.selectors(), metadata_only: request.metadata_only }
    }

    fn covers(&self, key: &Key) -> bool {
        let own = &self.key;
        key.group == own.group && key.resource == own.resource && (own.namespace.is_empty() || key.namespace == own.namespace)
    }

    fn event(&self, kind: &str, object: &Value) -> Value {
        json!({"type": kind, "object": shown(object, self.metadata_only)})
    }
}

#[derive(Debug, Default)]
pub(super) struct Store {
    version: u64,
    created: u64,
    objects: BTreeMap<Key, Record>,
    history: Vec<Change>,
    /// Versions up to this one can no longer be watched from.
    compacted: u64,
}

impl Store {
    /// Serves `request` from the objects; the status code and the object, list or status.
    pub(super) fn serve(&mut self, request: &Request) -> Result<(u16, Value), ApiError> {
        let key = Key::of(request);
        let answer = match request.verb {
            "get" => (200, self.found(&key)?.object.clone()),
            "list" => return Ok((200, self.list(request))),
            "create" if key.name.is_empty() => (201, self.create(key, request)?),
            "update" => (200, self.write(&key, request, &manager(request, "Update"), |_| Ok(request.body.clone()))?),
            "patch" => (200, self.write(&key, request, &manager(request, "Update"), |live| patched(live, request))?),
            "apply" => self.apply(&key, request)?,
            "delete" => (200, self.delete(&key, &request.body)?),
            "deletecollection" => {
                let scope = Scope::of(request);
                let selected = self.objects.iter().filter(|(key, record)| scope.covers(key) && scope.selectors.matches(&record.object));
                for key in selected.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
                    drop(self.delete(&key, &request.body)?);
                }
                (200, json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}))
            }
            verb => return Err(ApiError::new(405, format!("no answer to {verb} {} has been set", request.resource))),
        };
        Ok((answer.0, shown(&answer.1, request.metadata_only)))
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Value> {
        self.objects.get(key).map(|record| &record.object)
    }

    pub(super) fn all(&self, group: &str, resource: &str) -> impl Iterator<Item = &Value> {
        let matches = move |key: &Key| key.group == group && key.resource == resource;
        self.objects.iter().filter(move |(key, _)| matches(key)).map(|(_, record)| &record.object)
    }

    /// Stores `object` as it is, with what an API gives every object.
    pub(super) fn put(&mut self, key: &Key, mut object: Value, manager: &Manager) -> Value {
        let live = self.objects.get(key).map(|record| record.object.clone());
        let metadata = patch::object(&mut object["metadata"]);
        for (field, value) in self.identity(key) {
            let kept = live.as_ref().map_or(&Value::Null, |live| &live["metadata"][field]);
            metadata.entry(field).or_insert(if kept.is_null() { value } else { kept.clone() });
        }
        self.commit(key, object, |owners, old, new| owners.update(manager, old, new))
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Value> {
        let Record { mut object, .. } = self.objects.remove(key)?;
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.history.push(Change { version: self.version, key: key.clone(), old: Some(object.clone()), new: None });
        Some(object)
    }

    pub(super) fn compact(&mut self) {
        self.compacted = self.version;
        self.history.clear();
    }

    /// What a watch that begins without a version is sent first.
    pub(super) fn existing(&self, scope: &Scope) -> Vec<Value> {
        let selected = self.objects.iter().filter(|(key, record)| scope.covers(key) && scope.selectors.matches(&record.object));
        selected.map(|(_, record)| scope.event("ADDED", &record.object)).collect()
    }

    /// The first change after `version` that a watch is sent, with its version; an error if it can no longer be known.
    pub(super) fn event_after(&self, version: u64, scope: &Scope) -> Result<Option<(u64, Value)>, ApiError> {
        if version < self.compacted {
            return Err(ApiError::new(410, format!("too old resource version: {version} ({})", self.compacted)));
        }
        let from = self.history.partition_point(|change| change.version <= version);
        let mut events = self.history[from..].iter().filter(|change| scope.covers(&change.key)).filter_map(|change| {
            let (old, new) = (change.old.as_ref(), change.new.as_ref());
            let was = old.is_some_and(|old| scope.selectors.matches(old));
            let is = new.is_some_and(|new| scope.selectors.matches(new));
            let (kind, object) = match (was, is) {
                (false, false) => return None,
                (false, true) => ("ADDED", new?),
                (true, true) => ("MODIFIED", new?),
                // An object that is no longer selected is sent as it now is.
                (true, false) => ("DELETED", new.or(old)?),
            };
            Some((change.version, scope.event(kind, object)))
        });
        Ok(events.next())
    }

    fn found(&self, key: &Key) -> Result<&Record, ApiError> {
        self.objects.get(key).ok_or_else(|| ApiError::new(404, format!("{} {:?} not found", key.resource, key.name)))
    }

    /// Pages are cut by position, so objects that come and go between two pages may be missed.
    fn list(&self, request: &Request) -> Value {
        let scope = Scope::of(request);
        let selected = self.objects.iter().filter(|(key, record)| scope.covers(key) && scope.selectors.matches(&record.object));
        let objects: Vec<Value> = selected.map(|(_, record)| shown(&record.object, request.metadata_only)).collect();
        let start = request.param("continue").parse::<usize>().unwrap_or(0);
        let limit = request.param("limit").parse::<usize>().ok().filter(|limit| *limit > 0);
        let end = limit.map_or(objects.len(), |limit| start + limit);
        let next = if end < objects.len() { end.to_string() } else { String::new() };
        let items: Vec<Value> = objects.into_iter().skip(start).take(end - start).collect();
        let metadata = json!({"resourceVersion": self.version.to_string(), "continue": next});
        json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items})
    }

    fn create(&mut self, mut key: Key, request: &Request) -> Result<Value, ApiError> {
        let mut object = request.body.clone();
        let metadata = patch::object(&mut object["metadata"]);
        let text = |field: &str| metadata.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        key.name = match (text("name"), text("generateName")) {
            (name, _) if !name.is_empty() => name,
            (_, prefix) if !prefix.is_empty() => format!("{prefix}{:05}", self.created),
            _ => return Err(ApiError::new(422, "metadata.name: Required value: name or generateName is required")),
        };
        if self.objects.contains_key(&key) {
            let message = format!("{} {:?} already exists", key.resource, key.name);
            return Err(ApiError { reason: "AlreadyExists", ..ApiError::new(409, message) });
        }
        let manager = manager(request, "Update");
        let object = self.born(&key, object);
        Ok(self.commit(&key, object, |owners, old, new| owners.update(&manager, old, new)))
    }

    /// A new object as the API stores it.
    fn born(&self, key: &Key, mut object: Value) -> Value {
        const WITHOUT_GENERATION: [&str; 5] = ["nodes", "namespaces", "services", "persistentvolumes", "leases"];
        let has_spec = object.get("spec").is_some();
        let metadata = patch::object(&mut object["metadata"]);
        for field in ["managedFields", "deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion"] {
            metadata.remove(field);
        }
        metadata.extend(self.identity(key).map(|(field, value)| (field.to_owned(), value)));
        if has_spec && !WITHOUT_GENERATION.contains(&key.resource.as_str()) {
            metadata.insert("generation".into(), 1.into());
        }
        match key.resource.as_str() {
            "nodes" => {}
            "pods" => object["status"] = json!({"phase": "Pending"}),
            "namespaces" => object["status"] = json!({"phase": "Active"}),
            "secrets" => object["type"] = secret_type(&object).into(),
            _ => drop(patch::object(&mut object).remove("status")),
        }
        object
    }

    /// Metadata that a new object gets.
    fn identity(&self, key: &Key) -> impl Iterator<Item = (&'static str, Value)> + use<> {
        let fields = [
            ("name", json!(key.name)),
            ("namespace", json!(key.namespace)),
            ("uid", json!(format!("00000000-0000-4000-8000-{:012x}", self.created + 1))),
            ("creationTimestamp", json!(seconds(Timestamp::now()))),
        ];
        fields.into_iter().filter(|(_, value)| value != "")
    }

    fn write(
        &mut self,
        key: &Key,
        request: &Request,
        manager: &Manager,
        change: impl FnOnce(&Value) -> Result<Value, ApiError>,
    ) -> Result<Value, ApiError> {
        let live = self.found(key)?.object.clone();
        let new = settled(&live, &change(&live)?, request)?;
        Ok(self.commit(key, new, |owners, old, new| owners.update(manager, old, new)))
    }

    fn apply(&mut self, key: &Key, request: &Request) -> Result<(u16, Value), ApiError> {
        let force = request.param("force") == "true";
        if request.param("fieldManager").is_empty() {
            return Err(ApiError::new(422, "fieldManager: Required value: is required for apply patch"));
        }
        if request.body["metadata"]["name"] != request.name.as_str() {
            return Err(ApiError::new(400, "name must be provided, and be that of the URL"));
        }
        let manager = manager(request, "Apply");
        let mut config = request.body.clone();
        if request.subresource() == "status" {
            patch::object(&mut config).retain(|name, _| name == "status" || name == "metadata");
            patch::object(&mut config["metadata"])
                .retain(|name, _| matches!(name.as_str(), "name" | "namespace" | "uid" | "resourceVersion"));
        } else {
            patch::object(&mut config).remove("status");
        }
        let existing = self.objects.get(key).cloned();
        if existing.is_none() && !config["metadata"]["uid"].is_null() {
            return Err(ApiError::new(409, format!("{} {:?} with this uid does not exist", key.resource, key.name)));
        }
        if existing.is_none() && !request.subresource().is_empty() {
            return Err(self.found(key).err().unwrap_or_else(|| ApiError::new(404, "not found")));
        }
        let (live, mut owners) = existing.map_or_else(|| (json!({}), Owners::default()), |record| (record.object, record.owners));
        let merged = owners.apply(&manager, &live, &config, force).map_err(|Conflict(others)| {
            let others: Vec<String> = others.into_iter().collect();
            ApiError::new(409, format!("Apply failed with conflicts: fields are managed by {}", others.join(", ")))
        })?;
        let (code, new) =
            if self.objects.contains_key(key) { (200, settled(&live, &merged, request)?) } else { (201, self.born(key, merged)) };
        Ok((code, self.commit(key, new, |stored, _, _| *stored = owners)))
    }

    fn delete(&mut self, key: &Key, options: &Value) -> Result<Value, ApiError> {
        let live = self.found(key)?.object.clone();
        for field in ["uid", "resourceVersion"] {
            let (expected, actual) = (&options["preconditions"][field], &live["metadata"][field]);
            if !expected.is_null() && expected != actual {
                return Err(ApiError::new(409, format!("precondition failed: {field} is {actual}, not {expected}")));
            }
        }
        let (asked, before) = (options["gracePeriodSeconds"].as_i64(), live["metadata"]["deletionGracePeriodSeconds"].as_i64());
        let grace = grace(key, &live, asked);
        let keeps = before.is_some_and(|before| asked.is_none() || grace >= before);
        let mut object = live;
        if !keeps {
            let at = Timestamp::now() + SignedDuration::from_secs(grace);
            object["metadata"]["deletionTimestamp"] = seconds(at).into();
            object["metadata"]["deletionGracePeriodSeconds"] = grace.into();
            if key.resource == "namespaces" {
                object["status"]["phase"] = "Terminating".into();
            }
            object = self.commit(key, object, |_, _, _| {});
        }
        if self.objects.contains_key(key) {
            return Ok(object);
        }
        Ok(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}))
    }

    /// Stores `object` unless nothing changes, and removes it if its deletion is complete; the object as it is now.
    fn commit(&mut self, key: &Key, mut object: Value, own: impl FnOnce(&mut Owners, &Value, &Value)) -> Value {
        let (old, mut owners) = match self.objects.get(key) {
            Some(record) => (Some(record.object.clone()), record.owners.clone()),
            None => (None, Owners::default()),
        };
        patch::object(&mut object["metadata"]).remove("managedFields");
        own(&mut owners, old.as_ref().unwrap_or(&Value::Null), &object);
        if let Some(old) = &old {
            object["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
        } else {
            self.created += 1;
        }
        if old.as_ref() != Some(&object) {
            self.version += 1;
            object["metadata"]["resourceVersion"] = self.version.to_string().into();
        }
        let metadata = &object["metadata"];
        let finalizing = metadata["finalizers"].as_array().is_some_and(|all| !all.is_empty());
        let graceful = metadata["deletionGracePeriodSeconds"].as_i64().is_some_and(|grace| grace > 0);
        let removed = !metadata["deletionTimestamp"].is_null() && !finalizing && !graceful;
        if old.as_ref() != Some(&object) && !removed {
            self.history.push(Change { version: self.version, key: key.clone(), old, new: Some(object.clone()) });
        }
        self.objects.insert(key.clone(), Record { object: object.clone(), owners });
        if !removed {
            return object;
        }
        if key.resource == "namespaces" && key.group.is_empty() {
            let inside: Vec<Key> = self.objects.keys().filter(|other| other.namespace == key.name).cloned().collect();
            for key in inside {
                drop(self.remove(&key));
            }
        }
        self.remove(key).unwrap_or(object)
    }
}

/// Seconds that a deletion leaves to the kubelet; only those of pods do (`podStrategy.CheckGracefulDelete`).
fn grace(key: &Key, object: &Value, asked: Option<i64>) -> i64 {
    let phase = object["status"]["phase"].as_str().unwrap_or_default();
    let scheduled = object["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty());
    if key.resource != "pods" || !scheduled || matches!(phase, "Succeeded" | "Failed") {
        return 0;
    }
    asked.or(object["spec"]["terminationGracePeriodSeconds"].as_i64()).unwrap_or(30).max(0)
}

fn patched(live: &Value, request: &Request) -> Result<Value, ApiError> {
    let mut object = live.clone();
    match request.content_type.as_str() {
        "application/merge-patch+json" => patch::merge(&mut object, &request.body),
        "application/strategic-merge-patch+json" if request.group.contains('.') && !request.group.ends_with(".k8s.io") => {
            return Err(ApiError::new(415, "custom resources have no strategic merge patch"));
        }
        "application/strategic-merge-patch+json" => patch::strategic(&mut object, &request.body, ""),
        "application/json-patch+json" => {
            let patch: json_patch::Patch =
                serde_json::from_value(request.body.clone()).map_err(|error| ApiError::new(400, error.to_string()))?;
            json_patch::patch(&mut object, &patch).map_err(|error| ApiError::new(422, error.to_string()))?;
        }
        other => return Err(ApiError::new(415, format!("unknown patch type {other:?}"))),
    }
    Ok(object)
}

/// `new` with what the request cannot change taken from `live`.
fn settled(live: &Value, new: &Value, request: &Request) -> Result<Value, ApiError> {
    let subresource = request.subresource();
    for field in ["uid", "resourceVersion"] {
        let (given, actual) = (&new["metadata"][field], &live["metadata"][field]);
        if given.is_null() || given == "" || given == actual {
            continue;
        }
        // The UID of an update is a precondition; that of a patch is a field like others, and immutable.
        if field == "uid" && request.verb != "update" {
            return Err(ApiError::immutable("metadata.uid", given));
        }
        let message = format!("the object has been modified; please apply your changes to the latest version: {field} is {actual}");
        return Err(ApiError::new(409, message));
    }
    if request.resource == "secrets" && secret_type(new) != secret_type(live) {
        return Err(ApiError::immutable("type", &new["type"]));
    }
    let mut result = if subresource == "status" { live.clone() } else { new.clone() };
    let status = if subresource == "status" { &new["status"] } else { &live["status"] };
    if status.is_null() {
        patch::object(&mut result).remove("status");
    } else {
        result["status"] = status.clone();
    }
    for field in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
        match &live["metadata"][field] {
            Value::Null => drop(patch::object(&mut result["metadata"]).remove(field)),
            value => result["metadata"][field] = value.clone(),
        }
    }
    let content = |object: &Value| {
        let fields = object.as_object().into_iter().flatten();
        fields.filter(|(name, _)| *name != "metadata" && *name != "status").map(|(name, value)| (name.clone(), value.clone())).collect()
    };
    let (before, after): (BTreeMap<String, Value>, BTreeMap<String, Value>) = (content(live), content(&result));
    if let (Some(generation), true) = (live["metadata"]["generation"].as_i64(), before != after) {
        result["metadata"]["generation"] = (generation + 1).into();
    }
    Ok(result)
}

/// Of a Secret, which has one by default.
fn secret_type(secret: &Value) -> &str {
    secret["type"].as_str().filter(|type_| !type_.is_empty()).unwrap_or("Opaque")
}

fn manager(request: &Request, operation: &str) -> Manager {
    let name = match request.param("fieldManager") {
        "" => "unknown",
        name => name,
    };
    Manager { name: name.into(), applies: operation == "Apply", subresource: request.subresource().into() }
}

fn shown(object: &Value, metadata_only: bool) -> Value {
    if metadata_only && object["kind"] != "Status" {
        json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
    } else {
        object.clone()
    }
}

fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
