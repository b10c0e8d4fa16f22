//! Server-side apply: which manager owns which fields, and what an apply makes of an object.

use super::patch::{join, object};
use super::schema::{ListKind, Patching, key_value, list};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// One step from an object to a part of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Field(String),
    /// Item of a list that merges, by the values of its keys (all of them, of a set the value itself), as JSON.
    Item(String),
}

type Path = Vec<Step>;
type Fields = BTreeSet<Path>;

/// A writer: its name, whether it applies, and the subresource it writes through.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Manager {
    pub(super) name: String,
    pub(super) applies: bool,
    pub(super) subresource: String,
}

/// Fields by their owners. Fields that nobody wrote by name (set by the server) have none.
#[derive(Clone, Debug, Default)]
pub(super) struct Owners(BTreeMap<Manager, Fields>);

/// Fields that others own, with other values than those applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Conflict(pub(super) BTreeSet<String>);

impl Owners {
    /// What `manager`'s apply of `config` makes of `live`; a field that it no longer applies and nobody else owns is removed.
    pub(super) fn apply(&mut self, manager: &Manager, live: &Value, config: &Value, force: bool) -> Result<Value, Conflict> {
        let fields = fields(config);
        let differs = |path: &Path| get(live, path).is_some_and(|old| Some(old) != get(config, path));
        let mut conflicting = BTreeSet::new();
        for (other, owned) in self.0.iter_mut().filter(|(other, _)| *other != manager) {
            let lost: Vec<Path> = owned.intersection(&fields).filter(|path| !is_item(path) && differs(path)).cloned().collect();
            for path in lost {
                conflicting.insert(other.name.clone());
                if force {
                    owned.remove(&path);
                }
            }
        }
        if !force && !conflicting.is_empty() {
            return Err(Conflict(conflicting));
        }
        let mut result = live.clone();
        let before = self.0.insert(manager.clone(), fields.clone()).unwrap_or_default();
        let owned_by_others = |path: &Path| self.0.iter().any(|(_, owned)| owned.contains(path));
        // An item comes before the fields in it, and is removed with them: without its keys it could not be found.
        for path in before.difference(&fields).filter(|path| !owned_by_others(path)) {
            remove(&mut result, path);
        }
        merge(&mut result, config, "");
        Ok(result)
    }

    /// After a write that was no apply, `manager` owns what it changed.
    pub(super) fn update(&mut self, manager: &Manager, old: &Value, new: &Value) {
        let (before, after) = (fields(old), fields(new));
        let changed: Fields = after.iter().filter(|path| !before.contains(*path) || get(old, path) != get(new, path)).cloned().collect();
        for (other, owned) in &mut self.0 {
            owned.retain(|path| after.contains(path) && (other == manager || is_item(path) || !changed.contains(path)));
        }
        self.0.entry(manager.clone()).or_default().extend(changed);
    }
}

fn is_item(path: &Path) -> bool {
    matches!(path.last(), Some(Step::Item(_)))
}

/// The leaves of an object, and the items of its lists that merge; without what identifies it and what the server sets.
fn fields(object: &Value) -> Fields {
    const SERVER: [&str; 11] = [
        "name",
        "namespace",
        "generateName",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "managedFields",
        "selfLink",
    ];
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("apiVersion");
        fields.remove("kind");
        if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
            metadata.retain(|name, _| !SERVER.contains(&name.as_str()));
            if metadata.is_empty() {
                fields.remove("metadata");
            }
        }
    }
    let mut found = Fields::new();
    walk(&object, "", &mut Path::new(), &mut found);
    found
}

fn walk(value: &Value, path: &str, at: &mut Path, found: &mut Fields) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
                at.push(Step::Field(name.clone()));
                walk(value, &join(path, name), at, found);
                at.pop();
            }
        }
        Value::Array(items) if list(path, Patching::Apply) != ListKind::Atomic => {
            for item in items {
                at.push(step(item, path));
                found.insert(at.clone());
                if item.is_object() {
                    walk(item, path, at, found);
                }
                at.pop();
            }
        }
        _ if at.is_empty() => {}
        _ => drop(found.insert(at.clone())),
    }
}

fn step(item: &Value, path: &str) -> Step {
    let identity = match list(path, Patching::Apply) {
        ListKind::Map(keys) => keys.iter().map(|key| key_value(item, key)).collect(),
        ListKind::Set | ListKind::Atomic => item.clone(),
    };
    Step::Item(identity.to_string())
}

/// The place of the item `identity` in the list at `path`.
fn position(items: &[Value], path: &str, identity: &Step) -> Option<usize> {
    items.iter().position(|item| step(item, path) == *identity)
}

fn get<'a>(value: &'a Value, path: &[Step]) -> Option<&'a Value> {
    let (mut value, mut names) = (value, String::new());
    for part in path {
        value = match (part, value) {
            (Step::Field(name), Value::Object(fields)) => {
                names = join(&names, name);
                fields.get(name)?
            }
            (Step::Item(_), Value::Array(items)) => &items[position(items, &names, part)?],
            _ => return None,
        };
    }
    Some(value)
}

fn remove(value: &mut Value, path: &[Step]) {
    fn from(value: &mut Value, path: &[Step], names: &str) {
        let Some((part, rest)) = path.split_first() else { return };
        match (part, value) {
            (Step::Field(name), Value::Object(fields)) if rest.is_empty() => drop(fields.remove(name)),
            (Step::Field(name), Value::Object(fields)) => {
                let Some(child) = fields.get_mut(name) else { return };
                from(child, rest, &join(names, name));
                // What held nothing else goes with it.
                if matches!(child, Value::Object(left) if left.is_empty()) || matches!(child, Value::Array(left) if left.is_empty()) {
                    fields.remove(name);
                }
            }
            (Step::Item(_), Value::Array(items)) => {
                let Some(index) = position(items, names, part) else { return };
                if rest.is_empty() {
                    items.remove(index);
                } else {
                    from(&mut items[index], rest, names);
                }
            }
            _ => {}
        }
    }
    from(value, path, "");
}

fn merge(target: &mut Value, config: &Value, path: &str) {
    match (target, config) {
        (target, Value::Object(fields)) => {
            let target: &mut Map<String, Value> = object(target);
            for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
                merge(target.entry(name.clone()).or_insert(Value::Null), value, &join(path, name));
            }
        }
        (Value::Array(old), Value::Array(items)) if list(path, Patching::Apply) != ListKind::Atomic => {
            for item in items {
                match position(old, path, &step(item, path)) {
                    Some(index) => merge(&mut old[index], item, path),
                    None => old.push(item.clone()),
                }
            }
        }
        (target, value) => *target = value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn manager(name: &str, applies: bool) -> Manager {
        Manager { name: name.into(), applies, subresource: String::new() }
    }

    #[test]
    fn a_field_that_is_no_longer_applied_is_removed_unless_others_own_it() {
        let mut owners = Owners::default();
        let a = manager("a", true);
        let live = owners.apply(&a, &json!({}), &json!({"data": {"x": "1", "y": "2"}}), false).unwrap();
        let live = owners.apply(&manager("b", true), &live, &json!({"data": {"y": "2", "z": "3"}}), false).unwrap();
        let live = owners.apply(&a, &live, &json!({"data": {}}), false).unwrap();
        assert_eq!(live, json!({"data": {"y": "2", "z": "3"}}));
    }

    #[test]
    fn items_of_a_list_belong_to_whoever_applies_them() {
        let mut owners = Owners::default();
        let (a, b) = (manager("a", true), manager("b", true));
        let ready = json!({"type": "Ready", "status": "True"});
        let live = owners.apply(&a, &json!({}), &json!({"status": {"conditions": [ready, {"type": "Old", "status": "True"}]}}), false);
        let live = owners.apply(&b, &live.unwrap(), &json!({"status": {"conditions": [{"type": "Other", "status": "False"}]}}), false);
        let live = owners.apply(&a, &live.unwrap(), &json!({"status": {"conditions": [ready]}}), false).unwrap();
        assert_eq!(live["status"]["conditions"], json!([ready, {"type": "Other", "status": "False"}]));
    }

    #[test]
    fn another_value_than_the_owners_is_a_conflict_until_forced() {
        let mut owners = Owners::default();
        let (live, other) = (json!({"data": {"x": "1"}}), manager("other", false));
        owners.update(&other, &json!({}), &live);
        let me = manager("me", true);
        assert!(owners.apply(&me, &live, &json!({"data": {"x": "1"}}), false).is_ok(), "both may own the same value");
        let conflict = owners.apply(&me, &live, &json!({"data": {"x": "2"}}), false).unwrap_err();
        assert!(conflict.0.contains("other"));
        let live = owners.apply(&me, &live, &json!({"data": {"x": "2"}}), true).unwrap();
        assert_eq!(live["data"]["x"], "2");
        let live = owners.apply(&me, &live, &json!({}), false).unwrap();
        assert_eq!(live, json!({}), "the other no longer owns it");
    }

    #[test]
    fn ports_are_told_apart_with_their_default_protocol() {
        let mut owners = Owners::default();
        let (a, port) = (manager("a", true), |protocol: &str| json!({"port": 53, "protocol": protocol}));
        let live = owners.apply(&a, &json!({}), &json!({"spec": {"ports": [{"port": 53}, port("UDP")]}}), false).unwrap();
        let live = owners.apply(&a, &live, &json!({"spec": {"ports": [port("TCP")]}}), false).unwrap();
        assert_eq!(live["spec"]["ports"], json!([port("TCP")]));
    }
}
